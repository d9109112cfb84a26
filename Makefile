# xfrmi: `make demo` and `make test` need Python >= 3.11, make and a shell; they set up the rest in .venv.

PYTHON ?= $(shell sh .ci/python.sh)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test bench lint clean

help:
	@echo "make demo    watch IPv4 and IPv6 cross two namespaces as ESP (about 20 seconds)"
	@echo "make test    run the tests"
	@echo "make bench   measure: cost per packet, cost against table size"
	@echo "make lint    ruff and mypy --strict"
	@echo "make clean   remove the virtual environment and caches"

# Two stamps: the demo needs four packages, the tests a dozen.
$(VENV)/demo.stamp: pyproject.toml .ci/venv.sh
	@sh .ci/venv.sh "$(PYTHON)" "$(VENV)" lab
	@touch "$@"

$(VENV)/dev.stamp: pyproject.toml .ci/venv.sh
	@sh .ci/venv.sh "$(PYTHON)" "$(VENV)" dev
	@touch "$@" "$(VENV)/demo.stamp"

demo: $(VENV)/demo.stamp
	@$(BIN)/xfrmi lab demo

test: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest -q $(TESTARGS)

bench: $(VENV)/dev.stamp
	@$(BIN)/python -m pytest bench -q --benchmark-columns=median,iqr,ops --benchmark-sort=name $(BENCHARGS)

lint: $(VENV)/dev.stamp
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
