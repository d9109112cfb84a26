"""What `xfrmi exec` needs besides: notifications of seccomp, and the right to look into programs."""

from __future__ import annotations

import errno
import os

from xfrmi.dev.sockets import under_exec
from xfrmi.doctor.finding import Finding, ok, warning
from xfrmi.doctor.machine import Machine
from xfrmi.errors import XfrmError
from xfrmi.interpose import bpf, seccomp

YAMA = "/proc/sys/kernel/yama/ptrace_scope"


def supervision(machine: Machine) -> Finding:
    """Only programs of others need it, so that it is no lack of xfrmi's."""
    if under_exec():
        return ok("exec", "we are run by it")
    try:
        _try_filter()
    except XfrmError as error:
        return warning("exec", f"xfrmi exec will not work: {error.detail}")
    scope = (machine.read(YAMA) or "").strip()
    if scope in ("2", "3"):
        text = "xfrmi exec will not work: a supervisor may not look into programs (Yama)"
        if scope == "2" and os.geteuid() == 0:
            return ok("exec", "seccomp user notification; Yama lets root look into programs")
        mend = "sudo sysctl -w kernel.yama.ptrace_scope=1" if scope == "2" else "say 1 in sysctl.conf and boot again"
        return warning("exec", text, mend)
    return ok("exec", "seccomp user notification")


def _try_filter() -> None:
    """Install it, in a child. XfrmError with the reason why not."""
    known = seccomp.supported_machine()
    child = os.fork()
    if not child:
        number = errno.EIO
        try:
            seccomp.install(known, bpf.assemble(known, 1 << 20, (1 << 20) + 1))
            number = 0
        except XfrmError as error:
            number = error.errno
        finally:
            os._exit(number)
    _, status = os.waitpid(child, 0)
    if number := os.waitstatus_to_exitcode(status):
        raise seccomp.refused(abs(number))
