"""What comes out of a TUN: any packet, through a state of every kind. Each is counted once, and what is sealed in
tunnel mode is opened by the other end to the very same packet.

    state | narrowness of the way | packet
"""

from __future__ import annotations

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, wire
from tests.fuzz.hosts import KINDS, Books, Hosts, OnHosts
from tests.fuzz.registry import One
from tests.fuzz.targets.esp import accounted
from xfrmi.core.outgoing import Outgoing
from xfrmi.wire.ip import split_outer, trim
from xfrmi.wire.xfrm_const import Mode

MAX_LEN = 1700
NARROW = 1500, 1280, 576, 100
OUT_STATS = {"XfrmOutStateModeError", "XfrmOutStateProtoError", "XfrmOutNoStates", "XfrmOutPolBlock", "XfrmOutPolError"}


def seeds() -> list[bytes]:
    found = []
    for index, kind in enumerate(KINDS):
        for version in (4, 6):
            ends = OUTER[version] if kind.mode == Mode.TRANSPORT else INNER[version]
            found.append(bytes((index, 0)) + udp(*ends, bytes(30)))
            found.append(bytes((index, 3)) + udp(*ends, bytes(1400), df=False))
    return found


def make() -> One:
    return Output().one


class Output(OnHosts):
    SHORTEST = 2

    def renew(self) -> None:
        self.hosts = [Hosts(mtu) for mtu in NARROW]
        self.sent = [Books(hosts.left.engine, hosts.out) for hosts in self.hosts]
        self.came = [Books(hosts.right.engine, hosts.into) for hosts in self.hosts]

    def take(self, data: bytes) -> None:
        index = data[0] % len(KINDS)
        narrow = data[1] % len(NARROW)
        hosts = self.hosts[narrow]
        packet = data[2:]
        outgoing, replies = hosts.left.engine.output(hosts.out[index], [packet], NOW)
        moved = self.sent[narrow].rose()
        size = moved.pop("tx_bytes", 0)
        device = {name for name in moved if name.startswith("tx_")}
        stats = set(moved) - device
        assert set(moved.values()) == {1} and stats <= OUT_STATS and len(stats) <= 1, moved
        assert len(replies) <= 1 and all(trim(reply) == reply for reply in replies)
        if not outgoing:
            assert "tx_errors" in device
            return
        assert device == {"tx_packets"} and size == len(packet) and not stats and not replies, moved
        self.received(self.came[narrow], index, packet, outgoing)

    def received(self, books: Books, index: int, packet: bytes, outgoing: list[Outgoing]) -> None:
        (outer,) = wire(outgoing)
        try:
            datagram = split_outer(outer)
        except ValueError:  # a fragment in transport mode: the other end's IP puts it together first
            assert KINDS[index].mode == Mode.TRANSPORT
            return
        came = books.engine.input([datagram], NOW)
        delivered = [bytes(one) for _, packets in came for one in packets]
        accounted(books.rose(), len(delivered))
        if delivered and KINDS[index].mode == Mode.TUNNEL and _is_whole(packet):
            assert [_plain(one) for one in delivered] == [_plain(packet)]


def _plain(packet: bytes) -> bytes:
    """Without padding, and without the IPv4 checksum: of its two zeros the other end, as a kernel, takes the one."""
    whole = bytes(trim(packet))
    return whole[:10] + bytes(2) + whole[12:] if whole[0] >> 4 == 4 else whole


def _is_whole(packet: bytes) -> bool:
    """What says it is longer than it is comes out of no TUN; the other end could take padding for the rest of it."""
    try:
        trim(packet)
    except ValueError:
        return False
    return True
