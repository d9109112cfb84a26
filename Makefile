# xfrmi: `make demo` and `make test` need Python >= 3.11, make and a shell; they set up the rest in .venv.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin

EXTRAS := lab dev docs fuzz

# Container images like to set it. Without bytecode each daemon that a test starts would compile all of xfrmi: 0.4 seconds
# of processor time, some hundred times. It goes into __pycache__, which git ignores and `make clean` removes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help lock test-python release demo test properties noleak lessons kernel libreswan interop coverage bench docs man lint clean lab dev docs-tools fuzz fuzz-tools soak
.NOTPARALLEL: # lab, dev and the tools are made in the same folder

help:
	@echo "make demo    watch IPv4 and IPv6 cross two namespaces as ESP (about 20 seconds)"
	@echo "make test    run the tests"
	@echo "make properties  those that try examples and long lists, with all of them (XFRMI_EXAMPLES=2)"
	@echo "make noleak  whatever can happen to a daemon, at random, and a look for plaintext (XFRMI_NOLEAK=300 seconds)"
	@echo "make lessons run every lesson in examples/, also without root (some minutes)"
	@echo "make interop speak with a real kernel in qemu, libipsec and libreswan, in every combination; live under systemd (about 35 minutes)"
	@echo "make bench   measure: cost per packet, throughput, rates and latency beside other tunnels (about ten minutes)"
	@echo "make fuzz    hostile bytes for every parser, TIME=60 seconds or RUNS=10000000 for each, or TARGETS=\"esp xfrm\""
	@echo "make soak    two daemons for TIME=600 seconds, new keys every second: do the books balance at the end?"
	@echo "make docs    build the documentation site: build/site/index.html"
	@echo "make lint    ruff and mypy --strict"
	@echo "make lock    renew the locked dependencies (requirements/)"
	@echo "make test-python PYTHON=python3.14   the tests with another Python, in a virtual environment of its own"
	@echo "make release  wheel and sdist, built, looked through, and installed in a clean environment (a minute)"
	@echo "make clean   remove the virtual environment and caches"

# The demo needs four packages, the page of a lab two more, the tests a dozen. When they are there this takes a few milliseconds.
lab dev:
	@sh .ci/venv.sh "$(VENV)" $@ "$(PYTHON)"

demo: lab
	@"$(BIN)/xfrmi" lab demo

# A process for each processor and one more, as many as four; the tests of a file stay together, and long files come first
# (tests/conftest.py). TESTARGS="-n0": in one process.
SPREAD := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: dev
	@"$(BIN)/python" -m pytest -q $(SPREAD) $(TESTARGS)

# What hypothesis tries: make test has two fifths of the examples, this twice of them all; and all of what else make test
# has two fifths of (tests/examples.py).
properties: dev
	@XFRMI_EXAMPLES=$${XFRMI_EXAMPLES:-2} "$(BIN)/python" -m pytest -q $(SPREAD) -m "hypothesis or thinned" $(TESTARGS)

# For so many seconds; the seed it prints, given as XFRMI_SEED, makes it the same again.
noleak: dev
	@XFRMI_NOLEAK=$${XFRMI_NOLEAK:-300} "$(BIN)/python" -m pytest -q -s -n0 tests/noleak -k random $(TESTARGS)

# make test runs the first.
lessons: dev
	@XFRMI_LESSONS=1 "$(BIN)/python" -m pytest -q tests/test_lessons.py $(TESTARGS)

# The kernel that `make interop` speaks with: Debian's package, kept in ~/.cache, not installed.
kernel: dev
	@"$(BIN)/python" -m tests.oracle.kernelpeer.kernel

# Likewise libreswan, which Debian does not install beside strongSwan.
libreswan: dev
	@"$(BIN)/python" -m tests.oracle.pluto

interop: kernel
	-@"$(BIN)/python" -m tests.oracle.pluto
	@XFRMI_INTEROP=1 "$(BIN)/python" -m pytest -q -k "kernel_peer or libipsec or libreswan or route_based or strongswan or pid1 or demo or test_replace or test_fail_closed" tests/oracle tests/interpose tests/pid1 tests/lab/test_demo.py tests/system $(TESTARGS)

# Which other implementation has judged which combination, from the parameters of the tests.
coverage: dev
	@"$(BIN)/python" -m tests.coverage > docs/coverage.md

# Needs atheris, which has wheels for x86-64.
fuzz-tools: dev
	@sh .ci/venv.sh "$(VENV)" fuzz "$(PYTHON)"

fuzz: fuzz-tools
	@"$(BIN)/python" -m tests.fuzz $(if $(TIME),--time $(TIME)) $(if $(RUNS),--runs $(RUNS)) $(FUZZARGS) $(TARGETS)

soak: dev
	@"$(BIN)/python" -m bench.soak --seconds $(or $(TIME),600)

bench: dev
	@"$(BIN)/python" -m bench $(BENCHARGS)

# The manual page, out of the command line itself.
man: dev
	@"$(BIN)/python" -m docs.manpage > docs/xfrmi.8

docs-tools:
	@sh .ci/venv.sh "$(VENV)" docs "$(PYTHON)"

docs: docs-tools
	@"$(BIN)/python" -m sphinx --quiet --fail-on-warning --keep-going -c docs/site . build/site
	@echo "build/site/index.html"

lint: dev
	@"$(BIN)/ruff" check .
	@"$(BIN)/mypy"

# What demo, test and docs install, with the hash of every file that an index may answer with.
lock: dev
	@"$(BIN)/python" -m pip --disable-pip-version-check install --quiet uv
	@for extra in $(EXTRAS); do \
	    "$(BIN)/uv" pip compile --quiet --no-config --upgrade --universal --python-version 3.11 --generate-hashes \
	        --no-annotate --no-header pyproject.toml requirements/build.in --extra $$(echo $$extra | sed "s/^lab$$/lab --extra web/") \
	        --output-file requirements/$$extra.txt || exit; done

test-python:
	@[ -n "$(PYTHON)" ] || { echo "which one? For example: make test-python PYTHON=python3.14" >&2; exit 1; }
	@$(MAKE) --no-print-directory test VENV=.venv-$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])') PYTHON="$(PYTHON)"

# Built from what git has, in an environment of their own; `make test` looks into the wheel, too, without a network.
release: dev
	@XFRMI_RELEASE=1 "$(BIN)/python" -m pytest -q -n0 tests/test_release.py $(TESTARGS)

clean:
	rm -rf "$(VENV)" .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis bench-report.html bench-report.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
