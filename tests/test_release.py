"""`make release`: an sdist from what git has, a wheel from the sdist, both installed in clean environments and used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
from pathlib import Path

import pytest

import xfrmi

ROOT = Path(__file__).parents[1]
SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
ASKED = "XFRMI_RELEASE" in os.environ
pytestmark = pytest.mark.skipif(not ASKED, reason="takes a network and a minute: make release")


def run(*command: str | Path, cwd: Path = Path("/")) -> str:
    """Its output; nothing of this clone is on its way."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XFRMI"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without what lies about in the clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("NO GIT REPOSITORY, NOT TESTED")
    folder = tmp_path_factory.mktemp("tree")
    archive = tmp_path_factory.mktemp("archive") / "tree.tar"
    commit = run("git", "stash", "create", cwd=ROOT).strip() or "HEAD"
    run("git", "archive", "-o", archive, commit, cwd=ROOT)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", SDIST, out, cwd=tree)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the locked packages, and without ours."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    pip(folder, "--require-hashes", "-r", ROOT / "requirements" / "lab.txt")
    return folder


def pip(environment: Path, *words: str | Path) -> None:
    run(environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *words)


def test_the_sdist_is_what_git_has(tree: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as files:
        packed = {file.name.partition("/")[2] for file in files if file.isfile()}
    here = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file() and "egg-info" not in str(path)}
    assert here - packed == {".gitignore"}
    assert {name for name in packed - here if not name.startswith("xfrmi.egg-info/")} == {"PKG-INFO", "setup.cfg"}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_and_used(kind: str, sdist: Path, clean: Path, tmp_path: Path) -> None:
    """The command, the library, the manual page and the unit; no word of this clone in any of them."""
    built = sdist
    if kind == "wheel":
        run(clean / "bin" / "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w",
            tmp_path, sdist)  # fmt: skip
        (built,) = tmp_path.glob("*.whl")
        assert built.name == f"xfrmi-{xfrmi.__version__}-py3-none-any.whl"
    pip(clean, "--no-deps", "--no-build-isolation", "--force-reinstall", built)
    command = clean / "bin" / "xfrmi"
    assert xfrmi.__version__ in run(command, "-V")
    assert run(command, "help").startswith("Usage: xfrmi")
    assert "xfrmi" in run(command, "completion", "bash")
    states = ROOT / "examples" / "states.txt"
    packet = "4500001c000100004001664c0a0100010a0201010800f7ff00000000"
    assert "SPI 0x00001001" in run(command, "explain", "--config", states, "out", packet)
    where = run(clean / "bin" / "python", "-c", "import xfrmi.core; print(xfrmi.core.__file__)")
    assert where.startswith(str(clean))
    assert (clean / "share/man/man8/xfrmi.8").is_file()
    assert (clean / "lib/systemd/system/xfrmi.service").is_file()
    pip_says = run(clean / "bin" / "python", "-m", "pip", "check")
    assert "No broken requirements" in pip_says


def test_the_changelog_tells_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+|Unreleased)\]", text, re.MULTILINE)
    assert xfrmi.__version__ in versions[:2]
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]
