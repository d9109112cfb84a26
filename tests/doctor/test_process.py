"""What a process may lack: packages, the TUN driver, capabilities, a writable /proc/sys. Each is really taken away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import xfrmi.cli.doctor
import xfrmi.daemon.main  # noqa: F401  before the child gives up the right to read them
from tests.doctor.doctor import by_check
from tests.lacks import (
    NOBODY,
    call,
    closed_proc_sys,
    closed_tun,
    empty_dev_net,
    needs_root,
    no_capabilities,
    no_more_user_namespaces,
    run_after,
    tun_without_driver,
)
from xfrmi.doctor.machine import Machine
from xfrmi.doctor.process import container, rights
from xfrmi.lab.namespace import CLONE_NEWUSER

ROOT = Path(__file__).parents[2]
PR_SET_DUMPABLE = 4


def foreign_network() -> None:
    """Root of a user namespace, but the network belongs to the one around it."""
    uid = os.geteuid()
    call("unshare", CLONE_NEWUSER)
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")


def ordinary_user() -> None:
    """As one who logged in: /proc/self is his, too."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)


LACKS = [
    pytest.param(empty_dev_net, "tun", "/dev/net/tun is missing", "mknod -m 0666 /dev/net/tun c 10 200", id="no tun"),
    pytest.param(
        closed_tun, "tun", "/dev/net/tun may not be opened by this user", "chmod 0666 /dev/net/tun", id="tun 0600",
        marks=needs_root,
    ),
    pytest.param(
        tun_without_driver, "tun", "/dev/net/tun does not work", "modprobe tun", id="no driver", marks=needs_root
    ),
    pytest.param(no_capabilities, "rights", "no CAP_NET_ADMIN and CAP_NET_RAW here", "", id="no capabilities"),
    pytest.param(ordinary_user, "rights", "no CAP_NET_ADMIN and CAP_NET_RAW here", "", id="ordinary user"),
    pytest.param(foreign_network, "rights", "this network namespace belongs to another user namespace", "",
                 id="not our network"),
]  # fmt: skip


@pytest.mark.parametrize(("lose", "check", "text", "cure"), LACKS)
def test_what_keeps_xfrmi_from_working(
    lose: Callable[[], None], check: str, text: str, cure: str, tmp_path: Path
) -> None:
    status, out, err = run_after(lose, tmp_path, "-j", "doctor")
    assert (status, err) == (1, "")
    entry = by_check(out)[check]
    assert entry["status"] == "lack"
    assert entry["text"].startswith(text)
    assert cure in entry["cure"]
    assert entry["cure"], "there is always a way"
    assert json.loads(out)[0]["status"] == "lack", "what is lacking comes first"


def test_proc_sys_read_only(tmp_path: Path) -> None:
    _, out, _ = run_after(closed_proc_sys, tmp_path, "-j", "doctor")
    entry = by_check(out)["container"]
    assert (entry["status"], entry["cure"]) == ("warning", "sudo mount -o remount,rw /proc/sys")


class Elsewhere(Machine):
    """This machine with other files."""

    def __init__(self, **files: str) -> None:
        self.files = {"/" + name.replace("__", "/"): text for name, text in files.items()}

    def exists(self, path: str) -> bool:
        return path in self.files

    def read(self, path: str) -> str | None:
        return self.files.get(path)


@pytest.mark.parametrize(
    ("machine", "kind"),
    [
        (Elsewhere(), "none"),
        (Elsewhere(**{".dockerenv": ""}), "in a container (Docker)"),
        (Elsewhere(**{"run__.containerenv": ""}), "in a container (Podman)"),
        (Elsewhere(run__systemd__container="systemd-nspawn\n"), "in a container (systemd-nspawn)"),
        (Elsewhere(proc__1__environ="A=b\0container=lxc\0"), "in a container (lxc)"),
    ],
)
def test_kinds_of_containers(machine: Machine, kind: str) -> None:
    assert container(machine).text == kind


def rights_after(lose: Callable[[], None], machine: Machine) -> tuple[str, str]:
    """(text, cure) of the check on rights, in a child."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            lose()
            finding = rights(machine)
            os.write(write, json.dumps([finding.text, finding.cure]).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    if not told:
        pytest.skip("CANNOT GIVE UP CAPABILITIES HERE, NOT TESTED")
    text, cure = json.loads(told)
    return text, cure


def test_where_rights_come_from() -> None:
    """A container is given them from outside; else root has them, and a user namespace does for labs."""
    assert rights_after(no_capabilities, Elsewhere(**{".dockerenv": ""})) == (
        "no CAP_NET_ADMIN and CAP_NET_RAW here", "start the container with --cap-add NET_ADMIN --cap-add NET_RAW"
    )  # fmt: skip

    text, cure = rights_after(ordinary_user, Elsewhere())
    assert "a user namespace does: unshare -Urn" in text
    assert cure == "sudo xfrmi daemon"
    text, cure = rights_after(no_more_user_namespaces, Elsewhere())
    assert "for labs a user namespace would do, and this machine makes none" in text
    assert cure == "sudo xfrmi daemon"


# Python and its packages ---------------------------------------------------------------------------------------------


def python_with(folder: Path, *flags: str) -> dict[str, str]:
    """What is said of Python where `folder` stands before its own packages."""
    done = subprocess.run(
        [sys.executable, *flags, "-m", "xfrmi", "-j", "doctor"],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    entry = by_check(done.stdout)["python"]
    assert done.returncode == 1 or entry["status"] == "ok"
    return entry


def test_packages_are_there(tmp_path: Path) -> None:
    entry = python_with(tmp_path)
    assert entry["status"] == "ok"
    assert "cryptography " in entry["text"] and "python-pytun " in entry["text"]


def test_no_packages(tmp_path: Path) -> None:
    """Python without its site-packages has none of them."""
    entry = python_with(tmp_path, "-S")
    assert entry["status"] == "lack"
    assert entry["text"].startswith("the package cryptography is missing in Python 3.")
    assert entry["cure"].startswith(sys.executable)
    # With the version wanted, where the clone has been built in; what is not installed cannot be asked.
    assert " -m pip install --upgrade cryptography" in entry["cure"].replace("'", "")


def test_a_package_of_another_python(tmp_path: Path) -> None:
    (tmp_path / "pytun.py").write_text("raise ImportError('undefined symbol: _Py_Of_Another_Version')")
    entry = python_with(tmp_path)
    assert entry["text"].startswith("the package python-pytun does not load into Python 3.")
    assert "_Py_Of_Another_Version" in entry["text"]
    assert "--force-reinstall" in entry["cure"]


def test_an_old_package(tmp_path: Path) -> None:
    for name, text in (("xfrmi", "Requires-Dist: numpy>=1.26\n"), ("numpy", "")):
        info = tmp_path / f"{name}-0.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.9\n{text}")
    entry = python_with(tmp_path)
    assert entry["text"] == "numpy is 0.9, and 1.26 is needed"
    assert entry["cure"].endswith("-m pip install --upgrade 'numpy>=1.26'")
