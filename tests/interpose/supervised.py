"""Programs under `xfrmi exec`, with a daemon of their own, in the namespace of the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import xfrmi.daemon.main  # noqa: F401 - for the daemons that are forked
from tests import forked
from tests.daemon.server import runtime_directory
from tests.forked import Forked, begin
from tests.netns import need_tun
from xfrmi.client import Client
from xfrmi.errors import XfrmError
from xfrmi.interpose import seccomp
from xfrmi.interpose.starter import KEEP

EXEC = [sys.executable, "-m", "xfrmi", "exec"]
AEAD = "aead 'rfc4106(gcm(aes))' 0x0123456789abcdef0123456789abcdef01234567 128"
STATE = f"src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 reqid 1 mode tunnel if_id 42 {AEAD}"
POLICY = (
    "src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel"
)
SECONDS = 30


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"NO {program} HERE, NOT TESTED UNDER exec")


def need_exec() -> None:
    try:
        seccomp.supported_machine()
    except XfrmError as error:
        pytest.skip(f"NO exec ON THIS MACHINE, NOT TESTED: {error.detail}")
    need("ip")


@contextmanager
def daemon() -> Iterator[Forked]:
    """A daemon for the namespace we are in."""
    need_exec()
    need_tun()
    with runtime_directory() as base:
        process = start_daemon(base)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()
        faults = f"{base}/exec.log"
        assert not os.path.exists(faults), Path(faults).read_text()


def start_daemon(base: str) -> Forked:
    with open(f"{base}/daemon.log", "ab") as log:
        process = begin(["daemon", "--remove-on-exit", *KEEP], 0, 1, log.fileno())
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with Client() as client:
                client.status()
            return process
        except XfrmError:
            assert process.poll() is None and time.monotonic() < deadline, Path(f"{base}/daemon.log").read_text()
            time.sleep(0.02)


def run(command: str, *options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A line of shell under exec."""
    words = ["exec", *options, "--", "sh", "-c", command]
    return forked.run(words, os.environ | {"TZ": "UTC", "LC_ALL": "C"}, stdin, SECONDS)


def output(command: str, *options: str) -> str:
    """What it prints; it must succeed and have nothing to complain about."""
    done = run(command, *options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout
