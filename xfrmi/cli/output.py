"""What a command prints, and in which form: the options of the command line and the names of devices here."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from xfrmi.cli.options import Options
from xfrmi.formats.show import Show

IFF_UP = 0x1
_SIOCGIFFLAGS = 0x8913
_IFREQ = struct.Struct("=16sH22x")

Value = TypeVar("Value")


def ifindex_of(name: str) -> int:
    """0 if there is no such device."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def ifname(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"if{ifindex}" if ifindex else "*"


def is_up(ifindex: int) -> bool:
    """IFF_UP of a device here; what cannot be found is taken to be up."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(ifname(ifindex).encode(), 0))
    except OSError:
        return True
    return bool(_IFREQ.unpack(answer)[1] & IFF_UP)


class Output:
    """Text to standard output, or JSON where --json asks for it."""

    def __init__(self, options: Options) -> None:
        self.json = options.json
        self._options = options

    def show(self, nokeys: bool = False) -> Show:
        options = self._options
        return Show(
            stats=options.stats, details=options.details, oneline=options.oneline, nokeys=nokeys, ifname=ifname,
            is_up=is_up,
        )  # fmt: skip

    def texts(self, values: Iterable[Value], text_of: Callable[[Value, Show], str], nokeys: bool = False) -> None:
        show, write = self.show(nokeys), sys.stdout.write
        for value in values:
            write(text_of(value, show))

    def list_json(self, values: Iterable[Value], json_of: Callable[[Value, Show], Any], nokeys: bool = False) -> None:
        show = self.show(nokeys)
        self.print_json([json_of(value, show) for value in values])

    def print_json(self, value: Any) -> None:
        import json

        print(json.dumps(value, indent=4 if self._options.pretty else None))
