"""systemd.netdev files: interfaces that can be made, or NetdevError that names a line.

    text
"""

from __future__ import annotations

from tests.fuzz.registry import One
from xfrmi.formats.netdev import NetdevError, parse_netdevs
from xfrmi.wire.link_types import is_device_name

MAX_LEN = 400


def seeds() -> list[bytes]:
    one = b"[NetDev]\nName=ipsec0\nKind=xfrm\nMTUBytes=1400\nDescription=to moon\n\n"
    one += b"[Xfrm]\nInterfaceId=0x2a\nIndependent=yes\n"
    return [one, one + b"# and\n; another\n" + one, b"[NetDev]\nName=a b\nKind=vti\n"]


def make() -> One:
    return one


def one(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = parse_netdevs(text)
    except NetdevError as error:
        assert 1 <= error.line <= len(text.splitlines()) and str(error)
        return
    for netdev in found:
        assert is_device_name(netdev.name) and 0 < netdev.if_id < 1 << 32
        assert netdev.mtu is None or 0 < netdev.mtu < 1 << 16
