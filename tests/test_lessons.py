"""The lessons in examples/, run as they stand there: as whoever runs the tests and, if that is root, also as nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.test_demo import unusable
from tests.lessons import LESSONS, differs, environment, needed, run, steps
from xfrmi.lab.labfile import read_lab

ALL = LESSONS if "XFRMI_LESSONS" in os.environ else LESSONS[:1]
"""`make test` takes the first for all of them; `make lessons` takes the time."""
NOBODY = 65534
USERS = {"as it is": None, "rootless": NOBODY}


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> Iterator[tuple[dict[str, str], int | None]]:
    """An environment with a runtime directory of its own, and the user for it. What is left in it goes down."""
    user = USERS[request.param]
    if why := unusable():
        pytest.skip(f"NO LABS ON THIS MACHINE, NOT TESTED: {why}")
    if user is not None:
        if os.geteuid() != 0:
            pytest.skip("the other run is rootless already")
        if not _may_run_python(user):
            pytest.skip("NOBODY MAY NOT RUN PYTHON FROM HERE, ROOTLESS LABS NOT TESTED")
    with tempfile.TemporaryDirectory(prefix="xfrmi-", dir="/tmp") as folder:
        if user is not None:
            os.chown(folder, user, user)
        env = {**environment(Path(folder)), **({"HOME": "/tmp"} if user else {})}
        yield env, user
        down = ["xfrmi", "lab", "down", "--all"]
        subprocess.run(down, env=env, user=user, group=user, capture_output=True, check=False)


def _may_run_python(user: int) -> bool:
    """Not if the clone, or its Python, is in a folder of root's alone."""
    try:
        probe = subprocess.run([sys.executable, "-c", "import xfrmi"], user=user, group=user, extra_groups=[],
                               cwd="/", capture_output=True, check=False)  # fmt: skip
    except PermissionError:
        return False
    return probe.returncode == 0


@pytest.mark.parametrize("runtime", USERS, indirect=True)
@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)
def test_lesson(folder: Path, runtime: tuple[dict[str, str], int | None]) -> None:
    env, user = runtime
    lesson = steps(folder / "README.md")
    missing = [name for name in ("ip", "ping", *needed(folder / "README.md")) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"NO {' AND NO '.join(missing)} HERE, LESSON {folder.name} NOT TESTED")
    assert [step for step in lesson if step.shown], "a lesson shows something"
    for step in lesson:
        done = run(step, env, user)
        wrong = differs(step, done.returncode, done.stdout)
        assert not wrong, f"{folder.name}/README.md:{step.line}: $ {step.command}\n{wrong}"
    assert not list(Path(env["XFRMI_RUNTIME_DIR"], "labs").iterdir()), "the lesson takes its lab down"


@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_the_lab_file_says_what_it_shows(folder: Path) -> None:
    plan = read_lab(folder)
    assert plan.name == folder.name
    assert 20 < len(plan.about) < 110
