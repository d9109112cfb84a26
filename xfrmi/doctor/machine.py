"""The machine as the checks see it: files, network devices, and what the host's own xfrm answers.

A test that cannot have a machine of some kind gives the checks a Machine that reads other files.
"""

from __future__ import annotations

import gzip
import os
import socket
from functools import cached_property

from xfrmi.client.channel import Channel
from xfrmi.dev.rtnl import Link, Rtnl

NETLINK_XFRM = 6


class Machine:
    """Of the network namespace the process is in."""

    def read(self, path: str) -> str | None:
        """The text of a file, None if it is not there or not for us."""
        try:
            with open(path, "rb") as file:
                data = file.read()
            return (gzip.decompress(data) if path.endswith(".gz") else data).decode("utf-8", "replace")
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def sysctl(self, name: str) -> int | None:
        """net/ipv4/ip_forward as a number; None where there is no such knob."""
        text = self.read(f"/proc/sys/{name}")
        return int(text) if text is not None and text.strip().lstrip("-").isdigit() else None

    @cached_property
    def links(self) -> list[Link]:
        rtnl = Rtnl()
        try:
            return rtnl.links()
        finally:
            rtnl.close()

    @cached_property
    def container(self) -> str:
        """What kind of container this is, as far as it gives itself away; empty for none."""
        for path, kind in (("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")):
            if self.exists(path):
                return kind
        named = self.read("/run/systemd/container") or ""
        for entry in (self.read("/proc/1/environ") or "").split("\0"):
            if entry.startswith("container="):
                named = named or entry.removeprefix("container=")
        return named.strip()

    @cached_property
    def host_xfrm(self) -> Channel | None:
        """The kernel's own NETLINK_XFRM, None where it has none. Only root is answered (EPERM)."""
        try:
            return Channel(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_XFRM))
        except OSError:
            return None

    def close(self) -> None:
        channel = self.__dict__.get("host_xfrm")
        if channel is not None:
            channel.close()


