"""The ICMP error path (1.7, T-21): who may lower a path MTU, to what, for how long, and what inner senders are told."""

from __future__ import annotations

import struct

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Pair, wire
from xfrmi.core import path_mtu
from xfrmi.core.path import Path
from xfrmi.core.path_mtu import EXPIRES, PathMtus
from xfrmi.core.router import Route, StaticRouter
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import checksum
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6
from xfrmi.wire.xfrm_types import Encap

HEADERS = {4: 28, 6: 48}
pairs = pytest.mark.parametrize("inner, outer", [(4, 4), (6, 4), (4, 6), (6, 6)])


def complaint(packet: bytes, mtu: int, quoted: int = 1000) -> tuple[int, bytes]:
    """(family, message) of the ICMP error about an outer packet that quotes that many bytes of it."""
    if packet[0] >> 4 == 6:
        return AF_INET6, struct.pack(">BBHI", 2, 0, 0, mtu) + packet[:quoted]
    message = bytearray(struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + packet[:quoted])
    message[2:4] = checksum(message).to_bytes(2, "big")
    return AF_INET, bytes(message)


def told(pair: Pair, inner: int, length: int, now: float = NOW) -> int | None:
    """What the sender of an inner packet of that length (DF set) is told; None if the packet went."""
    packet = udp(*INNER[inner], payload=bytes(length - HEADERS[inner]))
    sent, replies = pair.left.engine.output(pair.xfrm_left, [packet], now)
    assert len(wire(sent)) + len(replies) == 1
    if not replies:
        return None
    return int.from_bytes(replies[0][26:28] if inner == 4 else replies[0][44:48], "big")


@pairs
@pytest.mark.parametrize("encapsulated", [False, True])
def test_T_21_an_error_with_a_valid_spi_lowers_the_path_mtu(inner: int, outer: int, encapsulated: bool) -> None:
    """1.7, TX-12: nothing is said then; the next inner packet that is too big is answered with the MTU of 5.8."""
    pair = Pair(outer, **({"encap": Encap(sport=4500, dport=4500)} if encapsulated else {}))
    expected = 1400 - (54 if outer == 4 else 74) - (8 if encapsulated else 0)
    (sealed,) = pair.emit(udp(*INNER[inner], payload=bytes(1400 - HEADERS[inner])))
    errors = pair.xfrm_left.tx_errors
    pair.left.engine.icmp_error(*complaint(sealed, 1400), NOW)
    assert pair.xfrm_left.tx_errors == errors
    assert told(pair, inner, expected + 1) == expected
    assert told(pair, inner, expected) is None
    assert pair.xfrm_left.tx_errors == errors + 1
    assert pair.left.moved() == {}, "no MIB counter knows of it"


@pytest.mark.parametrize("outer", [4, 6])
def test_T_21_a_forged_error_changes_nothing(outer: int) -> None:
    """1.7: nobody who does not know an SPI of ours has a say."""
    pair = Pair(outer)
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    at = 20 if outer == 4 else 40
    forgeries = {
        "another SPI": sealed[:at] + b"\x77" + sealed[at + 1 :],
        "another destination": sealed[: at - 1] + b"\x77" + sealed[at:],
        "another protocol": _protocol(sealed, 51),
        "ESP in UDP, which this state does not use": _protocol(sealed, 17)[:at]
        + struct.pack(">HHHH", 4500, 4500, 200, 0) + sealed[at:],
        "the ports only": _protocol(sealed, 17)[:at] + struct.pack(">HHHH", 4500, 4500, 200, 0),
    }  # fmt: skip
    for what, quoted in forgeries.items():
        pair.left.engine.icmp_error(*complaint(quoted, 1300), NOW)
        assert told(pair, 4, 1400) is None, what
    assert pair.left.moved() == {}


def _protocol(packet: bytes, number: int) -> bytes:
    at = 9 if packet[0] >> 4 == 4 else 6
    return packet[:at] + bytes((number,)) + packet[at + 1 :]


@pytest.mark.parametrize("outer", [4, 6])
def test_T_21_a_short_quote_of_esp_in_udp_goes_by_the_ports(outer: int) -> None:
    """1.7: RFC 792 routers quote no SPI then; a kernel never asks for it there."""
    pair = Pair(outer, encap=Encap(sport=4500, dport=4501))
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    at = 20 if outer == 4 else 40
    for swapped in (sealed[: at + 2] + b"\1\1", b""):
        pair.left.engine.icmp_error(*complaint(swapped + sealed[len(swapped) :], 1400, at + 8), NOW)
        assert told(pair, 4, 1400) == (None if swapped else 1400 - (62 if outer == 4 else 82))


def test_T_21_with_the_spi_in_sight_the_ports_alone_do_not_do() -> None:
    pair = Pair(encap=Encap(sport=4500, dport=4500))
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    for forged in (sealed[:28] + b"\x77" + sealed[29:], sealed[:22] + b"\x77" + sealed[23:]):
        pair.left.engine.icmp_error(*complaint(forged, 1400, 32), NOW)
        assert told(pair, 4, 1400) is None
    pair.left.engine.icmp_error(*complaint(sealed, 1400, 32), NOW)
    assert told(pair, 4, 1400) == 1338


def test_1_7_ports_are_forgotten_with_their_state() -> None:
    pair = Pair(encap=Encap(sport=4500, dport=4500))
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    pair.left.engine.flush_states(0, NOW)
    pair.left.engine.icmp_error(*complaint(sealed, 1400, 28), NOW)
    pair.add_tunnel(4, 43, 0x2000)
    route = pair.left.engine.router.route(pack_address(OUTER[4][1]), b"", 0, 0)
    assert route is not None and route.mtu == 1500


def test_1_7_what_is_learned_expires_after_ten_minutes() -> None:
    pair = Pair()
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    engine = pair.left.engine
    engine.icmp_error(*complaint(sealed, 1400), NOW)
    assert engine.next_deadline() == NOW + EXPIRES
    engine.tick(NOW + EXPIRES - 1)
    assert told(pair, 4, 1400, NOW + EXPIRES - 1) == 1346
    engine.tick(NOW + EXPIRES)
    assert told(pair, 4, 1400, NOW + EXPIRES) is None
    assert engine.next_deadline() is None


def test_1_7_the_same_again_is_believed_for_longer_and_more_is_not_believed() -> None:
    """RFC 1191 6.3: an error never raises the estimate."""
    pair = Pair()
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    engine = pair.left.engine
    engine.icmp_error(*complaint(sealed, 1400), NOW)
    engine.icmp_error(*complaint(sealed, 1450), NOW + 1)
    assert told(pair, 4, 1400, NOW + 1) == 1346
    engine.icmp_error(*complaint(sealed, 1400), NOW + 100)
    engine.tick(NOW + EXPIRES)
    assert told(pair, 4, 1400, NOW + EXPIRES) == 1346
    assert engine.next_deadline() == NOW + 100 + EXPIRES


@pytest.mark.parametrize("mtu, expected", [(1280, 1206), (1279, None), (68, None), (0, None), (1500, None)])
def test_1_7_ipv6_paths_carry_1280(mtu: int, expected: int | None) -> None:
    """PMTU-05: whoever says less is not believed at all."""
    pair = Pair(6)
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    pair.left.engine.icmp_error(*complaint(sealed, mtu), NOW)
    assert told(pair, 4, 1426) == expected


@pytest.mark.parametrize("mtu, expected", [(552, 498), (551, 498), (0, 498), (1499, 1442), (1500, None)])
def test_1_7_ipv4_paths_carry_552(mtu: int, expected: int | None) -> None:
    """PMTU-03, and old routers that tell no MTU: 0."""
    pair = Pair()
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    pair.left.engine.icmp_error(*complaint(sealed, mtu), NOW)
    assert told(pair, 4, 1446) == expected


def test_1_7_an_ipv4_link_narrower_than_552_stays_what_it_is() -> None:
    pair = Pair(mtu=500)
    (sealed,) = pair.emit(udp(*INNER[4], payload=b"x"))
    pair.left.engine.icmp_error(*complaint(sealed, 300), NOW)
    assert told(pair, 4, 1400) == 446


class Locked(StaticRouter):
    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        return Route(self.mtu, ifindex, src, locked=True)


PEER = Path(AF_INET, bytes(4), bytes((192, 0, 2, 7)))


def mtu_of(mtus: PathMtus, path: Path) -> int:
    route = mtus.route(path.dst, path.src, path.ifindex, path.mark)
    assert route is not None
    return route.mtu


def test_1_7_a_locked_mtu_stays() -> None:
    """`ip route add ... mtu lock 1500`; also if it is locked later."""
    mtus = PathMtus(Locked())
    mtus.learn(PEER, 1300, NOW)
    assert mtu_of(mtus, PEER) == 1500
    router = StaticRouter()
    mtus = PathMtus(router)
    mtus.learn(PEER, 1300, NOW)
    router.route = Locked().route  # type: ignore[method-assign]
    assert mtu_of(mtus, PEER) == 1500


def test_1_7_what_is_learned_belongs_to_a_destination_and_a_device() -> None:
    """As the kernel's exceptions of a next hop; a smaller MTU of the route itself counts as ever."""
    router = StaticRouter()
    mtus = PathMtus(router)
    mtus.learn(PEER, 1300, NOW)
    assert mtu_of(mtus, Path(AF_INET, bytes((192, 0, 2, 9)), PEER.dst, mark=7)) == 1300
    assert mtu_of(mtus, Path(AF_INET, PEER.src, PEER.dst, ifindex=5)) == 1500
    assert mtu_of(mtus, Path(AF_INET, PEER.src, bytes((192, 0, 2, 8)))) == 1500
    router.mtu = 1290
    assert mtu_of(mtus, PEER) == 1290


def test_1_7_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_mtu, "MAX_LEARNED", 8)
    mtus = PathMtus(StaticRouter())
    paths = [Path(AF_INET, bytes(4), bytes((192, 0, 2, last))) for last in range(20)]
    for number, path in enumerate(paths):
        mtus.learn(path, 1300, NOW + number)
    assert [mtu_of(mtus, path) for path in paths] == [1500] * 12 + [1300] * 8
    assert mtus.next_deadline() == NOW + 12 + EXPIRES


def test_1_7_without_a_route_there_is_nothing_to_learn() -> None:
    class Nowhere(StaticRouter):
        def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
            return None

    mtus = PathMtus(Nowhere())
    mtus.learn(PEER, 1300, NOW)
    assert mtus.next_deadline() is None
