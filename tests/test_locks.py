"""requirements/*.txt: what `make demo` and `make test` install, every file of it named by its hash (`make lock`)."""

from __future__ import annotations

import re
import sys
import tomllib
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.each import each

ROOT = Path(__file__).parents[1]
EXTRAS = "lab", "dev", "docs", "fuzz"
PIN = re.compile(r"(?P<requirement>[^ ]+==[^ ]+(?: ; [^\\]+)?) \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+")


@cache
def lock(extra: str) -> list[Requirement]:
    """One package may be there in several versions, for several Pythons."""
    text = (ROOT / "requirements" / f"{extra}.txt").read_text()
    assert PIN.sub("", text) == "", "a lock is pins with hashes and nothing else, no address of an index"
    return [Requirement(match["requirement"]) for match in PIN.finditer(text)]


def wanted(extra: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = project["project"]["dependencies"] + project["project"]["optional-dependencies"][extra]
    return [Requirement(line) for line in lines + project["build-system"]["requires"]]


def version(pinned: Requirement) -> str:
    (one,) = pinned.specifier
    assert one.operator == "=="
    return one.version


def applies(pinned: Requirement) -> bool:
    return pinned.marker is None or pinned.marker.evaluate()


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_lock_has_what_the_project_asks_for(extra: str) -> None:
    """For each Python there is one version, and it is one that pyproject.toml allows."""
    for requirement in wanted(extra):
        pins = [pin for pin in lock(extra) if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
        assert pins, f"{requirement.name} is not in requirements/{extra}.txt: make lock"
        for pin in pins:
            assert version(pin) in requirement.specifier, f"{pin} in requirements/{extra}.txt: make lock"


@each("minor", range(11, 16))
@each("extra", EXTRAS)
def test_one_version_for_each_python(extra: str, minor: int) -> None:
    python = {"python_full_version": f"3.{minor}.0", "python_version": f"3.{minor}"}
    names = [canonicalize_name(pin.name) for pin in lock(extra) if not pin.marker or pin.marker.evaluate(python)]
    assert len(names) == len(set(names))


def test_locks_agree() -> None:
    """Whoever has made the demo need not install it anew for the tests."""
    versions: dict[str, set[frozenset[str]]] = {}
    for extra in EXTRAS:
        for name in {canonicalize_name(pin.name) for pin in lock(extra)}:
            pins = frozenset(version(pin) for pin in lock(extra) if canonicalize_name(pin.name) == name)
            versions.setdefault(name, set()).add(pins)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_this_environment_is_the_locked_one() -> None:
    """And nothing that was installed came without being locked: a dependency of a dependency has its pin, too."""
    venv = Path(sys.prefix)
    if not (venv / "dev.stamp").exists() or (venv / "unlocked").exists():
        pytest.skip("NOT AN ENVIRONMENT THAT `make dev` HAS MADE OF THE LOCK, NOT TESTED")
    pins = {canonicalize_name(pin.name): version(pin) for pin in lock("dev") if applies(pin)}
    others = {canonicalize_name(pin.name) for extra in EXTRAS for pin in lock(extra)}
    installed = {canonicalize_name(found.name): found.version for found in distributions(path=[
        str(path) for path in venv.glob("lib/python3*/site-packages")])}  # fmt: skip
    assert {name: installed.get(name) for name in pins} == pins
    assert installed.keys() - pins.keys() - others - {"pip", "xfrmi", "uv"} == set()
