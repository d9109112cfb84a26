"""examples/xfrmi.service by systemd's own judgement, and whether the daemon can live behind its filter."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.daemon.server import runtime_directory
from tests.daemon.test_main import UNIT
from tests.daemon.test_privileges import ENCAPSULATED, POLICY, STATE, say
from tests.netns import in_netns, need_tun
from xfrmi.client import Client
from xfrmi.errors import XfrmError

EXPOSURE = 2.2
"""Of 10, 2 and below being hard for anything that needs the network, as root's user, and a device."""
HARMLESS = "mbind"
"""numpy's OpenBLAS wishes for memory near its processor. It goes on when that is refused, as it is in this test."""
ANALYZE = shutil.which("systemd-analyze")
STRACE = shutil.which("strace")
need_systemd = pytest.mark.skipif(ANALYZE is None, reason="NO systemd-analyze HERE, NOT TESTED: apt install systemd")
need_strace = pytest.mark.skipif(STRACE is None, reason="NO strace HERE, NOT TESTED: apt install strace")


def analyze(*words: str) -> str:
    done = subprocess.run([str(ANALYZE), *words, "--no-pager"], capture_output=True, text=True)
    if "--offline" in done.stderr:
        pytest.skip(f"systemd-analyze IS TOO OLD TO LOOK AT A FILE, NOT TESTED: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@cache
def group(name: str) -> set[str]:
    """The system calls of a group such as @system-service, also those that it takes from other groups."""
    if not name.startswith("@"):
        return {name}
    words = [line.strip() for line in analyze("syscall-filter", name).splitlines()[1:]]
    return {call for word in words if word and not word.startswith("#") for call in group(word)}


def allowed() -> set[str]:
    """What the lines of SystemCallFilter leave, in their order. @default is always there."""
    calls = group("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        for word in line.removeprefix("~").split():
            calls = calls - group(word) if line.startswith("~") else calls | group(word)
    return calls


@need_systemd
def test_exposure() -> None:
    said = analyze("security", "--offline=true", str(UNIT))
    found = re.search(r"Overall exposure level for xfrmi.service: ([0-9.]+)", said)
    assert found
    assert float(found[1]) <= EXPOSURE, "\n".join(line for line in said.splitlines() if line.startswith("✗"))


@need_systemd
@need_strace
@in_netns
def test_it_calls_nothing_that_the_unit_forbids(tmp_path: Path) -> None:
    """Each system call of a daemon, from the first to the last, while it does what there is to do."""
    need_tun()
    trace = tmp_path / "trace"
    with runtime_directory():
        command = [str(STRACE), "-f", "-qq", "-o", str(trace), f"-einject={HARMLESS}:error=EPERM"]
        command += [sys.executable, "-m", "xfrmi", "daemon", "--remove-on-exit"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr
            said = strace.stderr.readline()
            if "serves" not in said:
                pytest.skip(f"strace CANNOT TRACE HERE, NOT TESTED: {said}")
            daemon = _pid()
            assert say("link add ipsec0 type xfrm if_id 42") == say("link set ipsec0 up mtu 1400") == 0
            assert say(STATE) == say(ENCAPSULATED) == say(POLICY) == say("state list") == say("stat") == 0
            assert say("policy flush") == say("state flush") == 0
            os.kill(daemon, signal.SIGTERM)
            assert strace.wait(20) == 0
    calls = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))
    assert {"capset", "prctl", "ioctl", "sendto", "recvmsg"} <= calls
    assert calls - allowed() <= {HARMLESS}


def _pid() -> int:
    while True:  # the sockets are there before the line that says so
        try:
            with Client() as client:
                return int(client.status()["pid"])  # type: ignore[call-overload]
        except XfrmError:
            continue
