"""UDP 4500, where ESP in UDP arrives: free, the daemon's, or in other hands."""

from __future__ import annotations

import glob
import os

from xfrmi.doctor.finding import Finding, ok, warning
from xfrmi.doctor.machine import Machine
from xfrmi.doctor.service import daemon_pid

NAT_T = 4500


def udp_4500(machine: Machine) -> Finding:
    inodes = [inode for table in ("udp", "udp6") for inode in _bound(machine.read(f"/proc/net/{table}") or "")]
    if not inodes:
        return ok("udp 4500", "free")
    holder = _holder(machine, inodes)
    if holder is None:
        text = "UDP port 4500 is taken, and only root sees by whom"
        return warning("udp 4500", text, "sudo ss -ulpn sport = :4500")
    pid, name = holder
    if pid == daemon_pid(machine):
        return ok("udp 4500", "open for ESP by the daemon")
    text = f"UDP port 4500 is taken by {name} (pid {pid}): ESP in UDP does not reach xfrmi there"
    return warning("udp 4500", text, f"sudo kill {pid}")


def _bound(table: str) -> list[str]:
    """Inodes of the sockets bound to the port."""
    rows = (line.split() for line in table.splitlines()[1:])
    return [row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == NAT_T]


def _holder(machine: Machine, inodes: list[str]) -> tuple[int, str] | None:
    """(pid, name) of a process that has one of the sockets, as far as we may look."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for path in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(path) not in wanted:
                continue
        except OSError:  # gone, or not ours to see
            continue
        pid = path.split("/")[2]
        return int(pid), (machine.read(f"/proc/{pid}/comm") or "?").strip()
    return None
