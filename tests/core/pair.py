"""Two engines joined in memory: what one emits, the other receives."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from xfrmi.core import Algorithm, Engine, Interface, PolicyInfo, Selector, StateInfo, Template
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.router import StaticRouter
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import IPPROTO_ESP, STATE_AF_UNSPEC, Dir, Mode, XfrmStat

NOW = 1_700_000_000.0
KEY = bytes(range(20))
GCM = Algorithm("rfc4106(gcm(aes))", KEY, 128)
OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
INNER = {4: ("198.51.100.1", "198.51.100.2"), 6: ("2001:db8:1::1", "2001:db8:1::2")}


def tunnel_state(src: str, dst: str, spi: int, if_id: int = 42, **fields: Any) -> StateInfo:
    """A tunnel state for both inner families; fields override."""
    fields = {"mode": Mode.TUNNEL, "reqid": 1, "flags": STATE_AF_UNSPEC, "aead": GCM, "replay_window": 32, **fields}
    return StateInfo(src=src, dst=dst, spi=spi, if_id=if_id, **fields)


def policies(
    src: str, dst: str, if_id: int = 42, *, out: bool, mode: int = Mode.TUNNEL, reqid: int = 1
) -> list[PolicyInfo]:
    """Any-selectors of both families, from `src` to `dst`: `out` ones, or the `in` and `fwd` ones."""
    template = Template(src, dst, mode=mode, reqid=reqid)
    return [
        PolicyInfo(Selector.parse(any_prefix), direction, if_id, (template,))
        for any_prefix in ("0.0.0.0/0", "::/0")
        for direction in ((Dir.OUT,) if out else (Dir.IN, Dir.FWD))
    ]


class Host:
    """An engine with the interfaces of one end; `local` are its own inner addresses."""

    def __init__(self, *local: str, mtu: int = 1500) -> None:
        self.router = StaticRouter(mtu, {pack_address(a) for a in local})
        self.engine = Engine(self.router)

    def interface(self, name: str = "xfrm0", if_id: int = 42, **options: Any) -> Interface:
        return self.engine.add_interface(name, if_id, **options)

    def moved(self) -> dict[str, int]:
        """The MIB counters that are not 0."""
        return {stat.label: self.engine.stats[stat] for stat in XfrmStat if self.engine.stats[stat]}


class Pair:
    """left and right, tunnelled to each other through if_id 42 over the given outer family."""

    def __init__(self, outer: int = 4, mtu: int = 1500, **fields: Any) -> None:
        self.left = Host(*(INNER[v][0] for v in INNER), mtu=mtu)
        self.right = Host(*(INNER[v][1] for v in INNER), mtu=mtu)
        self.xfrm_left = self.left.interface()
        self.xfrm_right = self.right.interface()
        self.add_tunnel(outer, 42, 0x1000, **fields)

    def add_tunnel(self, outer: int, if_id: int, spi: int, **fields: Any) -> None:
        a, b = OUTER[outer]
        for host, here, there in ((self.left, a, b), (self.right, b, a)):
            for src, dst, number in ((a, b, spi), (b, a, spi + 1)):
                host.engine.add_state(tunnel_state(src, dst, number, if_id, **fields), NOW)
            for info in policies(here, there, if_id, out=True) + policies(there, here, if_id, out=False):
                host.engine.add_policy(info, NOW)

    def send(self, *packets: bytes, now: float = NOW) -> list[bytes]:
        """Out of left's xfrm0, over the wire, into right: what right delivers."""
        return receive(self.right.engine, self.emit(*packets, now=now), now)

    def emit(self, *packets: bytes, now: float = NOW) -> list[bytes]:
        """What left puts on the wire for these inner packets."""
        return wire(self.left.engine.output(self.xfrm_left, packets, now)[0])


def raised(interface: Interface) -> dict[str, int]:
    """The device counters that are not 0."""
    return {name: value for name, value in asdict(interface.stats()).items() if value}


def wire(outgoing: Sequence[Outgoing]) -> list[bytes]:
    return [bytes(packet) for group in outgoing for packet in group.packets]


def receive(engine: Engine, outer: Sequence[bytes], now: float = NOW) -> list[bytes]:
    delivered = engine.input([split_outer(packet) for packet in outer], now)
    return [bytes(packet) for _, packets in delivered for packet in packets]


def forge(payload: bytes, next_header: int, seq: int = 1, spi: int = 0x1000, pad_len: int | None = None) -> bytes:
    """An ESP packet from OUTER[4][0] to OUTER[4][1] that a state with GCM finds authentic, whatever is inside."""
    if pad_len is None:
        pad_len = -(len(payload) + 2) % 4
    head, iv = struct.pack(">II", spi, seq), struct.pack(">Q", seq)
    plaintext = payload + bytes(range(1, pad_len + 1)) + bytes((pad_len, next_header))
    esp = head + iv + AESGCM(KEY[:16]).encrypt(KEY[16:] + iv, plaintext, head)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(esp), 0, 0x4000, 64, IPPROTO_ESP, 0)
    return header + pack_address(OUTER[4][0]) + pack_address(OUTER[4][1]) + esp
