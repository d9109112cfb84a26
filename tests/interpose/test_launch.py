"""What `xfrmi exec` says where it cannot work: one sentence for each reason, and what mends it."""

from __future__ import annotations

import errno
import os
import platform

import pytest

from xfrmi.errors import XfrmError
from xfrmi.interpose import launch, seccomp
from xfrmi.interpose.task import Task

YAMA = "/proc/sys/kernel/yama/ptrace_scope"
PROGRAM = 4711


def machine(monkeypatch: pytest.MonkeyPatch, release: str, name: str = "x86_64") -> None:
    made = os.uname_result(("Linux", "here", release, "#1", name))
    monkeypatch.setattr(os, "uname", lambda: made)
    monkeypatch.setattr(platform, "machine", lambda: name)


@pytest.mark.parametrize("release", ["5.15.0-91-generic", "4.19.0", "5.18.19", "5"])
def test_an_old_kernel(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    machine(monkeypatch, release)
    with pytest.raises(XfrmError) as refused:
        seccomp.supported_machine()
    assert refused.value.errno == errno.ENOSYS
    assert refused.value.detail == f"exec needs Linux 5.19 or newer, and this is {release}"


@pytest.mark.parametrize("release", ["5.19.0", "6.1.0-18-amd64", "6.18.44-fc-v657", "6.0+"])
@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_new_enough(monkeypatch: pytest.MonkeyPatch, release: str, name: str) -> None:
    machine(monkeypatch, release, name)
    assert seccomp.supported_machine().calls["seccomp"] == {"x86_64": 317, "aarch64": 277}[name]


def test_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "6.12.0", "riscv64")
    with pytest.raises(XfrmError) as refused:
        seccomp.supported_machine()
    wanted = "exec knows the system calls of x86_64 and aarch64 only, and this is riscv64"
    assert (refused.value.errno, refused.value.detail) == (errno.ENOSYS, wanted)


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.EBUSY, "another program supervises this one by seccomp already"),
        (errno.ENOSYS, "this kernel, or the container, refuses seccomp user notification: Function not implemented"),
        (errno.EINVAL, "this kernel, or the container, refuses seccomp user notification: Invalid argument"),
        (errno.EPERM, "this kernel, or the container, refuses seccomp user notification: Operation not permitted"),
    ],
)
def test_no_filter(number: int, said: str) -> None:
    assert seccomp.refused(number).detail == said


@pytest.mark.parametrize(
    "files, said",
    [
        ({YAMA: "2"}, "kernel.yama.ptrace_scope is 2: sudo sysctl -w kernel.yama.ptrace_scope=1"),
        ({YAMA: "3"}, "kernel.yama.ptrace_scope is 3, which stays so until the next boot; then sysctl.conf must say 1"),
        (
            {YAMA: "1", f"/proc/{PROGRAM}/attr/apparmor/current": "/usr/bin/some (enforce)"},
            'the AppArmor profile "/usr/bin/some" lacks "ptrace (read, readby, trace, tracedby)": '
            "aa-complain /usr/bin/some",
        ),
        (
            {YAMA: "1", f"/proc/{PROGRAM}/attr/apparmor/current": "/usr/bin/some (complain)"},
            "it takes CAP_SYS_PTRACE here (container: --cap-add SYS_PTRACE), or a security module forbids it",
        ),
        ({}, "it takes CAP_SYS_PTRACE here (container: --cap-add SYS_PTRACE), or a security module forbids it"),
    ],
)
def test_no_look_into_programs(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], said: str) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EPERM, "")

    monkeypatch.setattr(Task, "copy_fd", forbidden)
    monkeypatch.setattr(launch, "_read", lambda path: files.get(path, ""))
    with pytest.raises(XfrmError) as refused:
        launch._look_into(PROGRAM)
    assert refused.value.errno == errno.EPERM
    assert refused.value.detail == f"the supervisor may not look into the programs that it is to supervise; {said}"


def test_a_low_limit_of_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.resource, "getrlimit", lambda _: (100, 100))
    with pytest.raises(XfrmError, match="EMFILE"):
        launch.carrier_numbers()
    monkeypatch.setattr(launch.resource, "getrlimit", lambda _: (256, 4096))
    assert launch.carrier_numbers() == range(128, 256)
