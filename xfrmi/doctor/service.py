"""The daemon of this network namespace: is there one, is it well, and is its place for sockets a safe one?"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

from xfrmi import __version__
from xfrmi.client import Client
from xfrmi.daemon import runtime
from xfrmi.dev.netns import netns_inode
from xfrmi.doctor.finding import Finding, lack, ok, some, warning
from xfrmi.doctor.machine import Machine
from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import IFF_LOWER_UP

PATIENCE = 0.5
"""Seconds for a daemon to answer."""
START = "sudo xfrmi daemon &"


def place(machine: Machine) -> Finding:
    """The runtime directory: nobody but this user and root may put anything there."""
    base = runtime.base_directory()
    for path in (base, f"{base}/{netns_inode()}"):
        if os.path.lexists(path) and not runtime.trusted(path, runtime.OTHERS_MAY if path == base else 0):
            cure = f"sudo chown {os.geteuid()} {path}; sudo chmod 0700 {path}"
            return lack("place", f"{path} is not a directory of this user alone, and requests carry keys", cure)
    if not os.path.isdir(base) and not os.access(os.path.dirname(base) or ".", os.W_OK | os.X_OK):
        return lack("place", f"{base} cannot be made", f"sudo install -d -m 0700 -o {os.geteuid()} {base}")
    return ok("place", f"{base} for the sockets of daemons")


def daemon(machine: Machine) -> Finding:
    try:
        status = _status()
    except XfrmError as error:
        if error.errno == errno.ECONNREFUSED:
            return _nobody(machine)
        return warning("daemon", f"a daemon serves here, but it does not answer ({error.strerror})", _restart(machine))
    who = f"pid {status['pid']}, xfrmi {status['version']}, network namespace {status['netns']}"
    if status["version"] != __version__:
        return warning("daemon", f"{who}: not the version of this command, {__version__}", _restart(machine))
    if status["faults"]:
        text = f"{who}: {status['faults']} requests or packets have found a mistake in it; its log says more"
        return warning("daemon", text, "journalctl -u xfrmi")
    numbers = f"{len(status['interfaces'])} interfaces, {status['states']} states, {status['policies']} policies"
    return ok("daemon", f"{who}; {numbers}")


def daemon_pid(machine: Machine) -> int | None:
    """Of the daemon that holds the lock of this namespace, as far as we may read it."""
    for base in runtime.base_directories():
        with contextlib.suppress(ValueError):
            return int(machine.read(f"{base}/{netns_inode()}/{runtime.LOCK_FILE}") or "")
    return None


def _status() -> dict[str, Any]:
    with Client(timeout=PATIENCE) as client:
        return client.status()


def _nobody(machine: Machine) -> Finding:
    foreign = [f"{base}/{netns_inode()}" for base in runtime.base_directories()]
    for path in foreign:
        if os.path.isdir(path) and os.stat(path).st_uid != os.geteuid():
            return warning("daemon", f"{path} is another user's; that daemon answers only him", "sudo xfrmi doctor")
    waiting = [link.name for link in machine.links if _waits(link.kind, link.alias, link.flags)]
    if waiting:
        text = f"none runs in this network namespace, and {some(waiting)} without carrier: they wait for one"
        return warning("daemon", text.replace("they wait", "it waits") if len(waiting) == 1 else text, START)
    return warning("daemon", "none runs in this network namespace", START)


def _waits(kind: str, alias: str, flags: int) -> bool:
    """An interface that an earlier daemon of this namespace has left behind."""
    return kind == "tun" and not flags & IFF_LOWER_UP and alias.startswith("xfrmi ") and alias.endswith(
        f" home {netns_inode()}"
    )


def _restart(machine: Machine) -> str:
    pid = daemon_pid(machine)
    return f"sudo kill {pid}; {START}" if pid is not None else START
