"""What `pip install .` installs: every module, the marker for type checkers, and a command that starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from email import message_from_bytes
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xfrmi"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
SETUPTOOLS = 77
"""As pyproject.toml demands."""


def setuptools_version() -> int:
    try:
        return int(version("setuptools").partition(".")[0])
    except PackageNotFoundError:
        return 0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as pip would, but with the setuptools at hand: no network, and no traces in the tree."""
    if setuptools_version() < SETUPTOOLS:
        pytest.skip(f"NO SETUPTOOLS >= {SETUPTOOLS} HERE TO BUILD A WHEEL WITH, NOT TESTED")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("docs/xfrmi.8", "examples/xfrmi.service"):
        (copy / name).parent.mkdir()
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(PACKAGE, copy / "xfrmi", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tests").mkdir()
    (copy / "tests" / "__init__.py").touch()  # not to be packed
    done = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("xfrmi-*-py3-none-any.whl")
    return built


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")}
    page = {str(path.relative_to(ROOT)) for path in (PACKAGE / "web" / "static").iterdir()}
    data = {name for name in packed if ".data/data/" in name}
    assert {name.partition(".data/data/")[2] for name in data} == {
        "share/man/man8/xfrmi.8", "lib/systemd/system/xfrmi.service"
    }  # fmt: skip
    assert packed == modules | page | {"xfrmi/py.typed"} | data


def test_every_package_has_an_init() -> None:
    """Else setuptools' find leaves it out of the wheel, while an editable install still has it."""
    assert all((path.parent / "__init__.py").exists() for path in PACKAGE.rglob("*.py"))


def test_metadata(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
        licence = [name for name in archive.namelist() if name.endswith("LICENSE")]
    assert metadata["Name"] == "xfrmi"
    assert metadata["Requires-Python"] == ">=3.11"
    assert licence
    required = metadata.get_all("Requires-Dist", [])
    always = {line.split(">=")[0].strip() for line in required if "extra" not in line}
    assert always == {"cryptography", "numpy", "python-pytun"}


def test_entry_point_resolves(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        text = archive.read(name).decode().split()
    assert text == ["[console_scripts]", "xfrmi", "=", "xfrmi.cli.main:main"]
    assert callable(EntryPoint("xfrmi", text[-1], "console_scripts").load())


def test_the_command_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """Nothing of the clone is needed, and no file beside the modules."""
    env = {**os.environ, "PYTHONPATH": str(wheel)}
    code = "import xfrmi; print(xfrmi.__file__); from xfrmi.cli.main import main; main(['help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(wheel))
    assert "Usage: xfrmi" in done.stdout + done.stderr
