"""The conformance tests of kernel-behaviour section 9 that concern the engine, by their numbers."""

from __future__ import annotations

import pytest

from tests.core.packets import udp
from tests.core.pair import (
    INNER,
    NOW,
    OUTER,
    Host,
    Pair,
    forge,
    policies,
    raised,
    receive,
    tunnel_state,
    wire,
)
from tests.core.samples import Log
from xfrmi.core import Interface, PolicyInfo, Selector
from xfrmi.core import events as ev
from xfrmi.core.router import Route
from xfrmi.wire.address import format_address, pack_address
from xfrmi.wire.fragment import fragment_ipv4
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import (
    IPPROTO_IPIP,
    IPPROTO_NONE,
    IPPROTO_UDP,
    Action,
    Dir,
    PolicyType,
    SaDir,
)
from xfrmi.wire.xfrm_types import Encap, Limits, PolicyId, Replay, StateId

REFUSED = {"tx_errors": 1, "tx_dropped": 1, "tx_carrier_errors": 1}
ANY = Selector.parse("0.0.0.0/0")
PACKET = udp(*INNER[4])
LENGTH = len(PACKET)


def host_with_policy(**fields: object) -> tuple[Host, Interface]:
    host = Host()
    for info in policies(*OUTER[4], out=True):
        host.engine.add_policy(info, NOW)
    return host, host.interface(**fields)


def send(host: Host, xfrm: Interface, *packets: bytes, now: float = NOW) -> tuple[list[bytes], list[bytes]]:
    outgoing, replies = host.engine.output(xfrm, packets, now)
    return wire(outgoing), [bytes(reply) for reply in replies]


def spi_of(outer: bytes) -> int:
    return int.from_bytes(outer[20:24], "big")


@pytest.mark.parametrize(("version", "kind", "code", "quote_at"), [(4, 3, 1, 28), (6, 1, 3, 48)])
def test_T_02_no_policy(version: int, kind: int, code: int, quote_at: int) -> None:
    host = Host()
    xfrm = host.interface()
    packet = udp(*INNER[version])
    left, (reply,) = send(host, xfrm, packet)
    assert left == [] and host.moved() == {} and raised(xfrm) == REFUSED
    start = quote_at - 8
    assert (reply[start], reply[start + 1]) == (kind, code)
    assert reply[quote_at:] == packet
    source, destination = pack_address(INNER[version][1]), pack_address(INNER[version][0])
    assert reply[:quote_at].count(source + destination) == 1, "from where it was going, to its sender"


def test_T_03_a_policy_without_state_and_without_listener() -> None:
    host, xfrm = host_with_policy()
    log = Log()
    host.engine.subscribe(log)
    for count in (1, 2, 3):
        left, replies = send(host, xfrm, PACKET)
        assert left == [] and len(replies) == 1
        assert host.moved() == {"XfrmOutNoStates": count}, "once for every packet"
    assert raised(xfrm) == {name: 3 for name in REFUSED}
    assert log == [] and not list(host.engine.states()), "no larval state that nobody would complete (7.6)"


def test_T_03_acquire_once_in_thirty_seconds() -> None:
    host, xfrm = host_with_policy(link=2)
    engine, log = host.engine, Log()
    engine.subscribe(log)
    engine.acquire_listeners = 1
    for now in (NOW, NOW, NOW + 29):
        assert send(host, xfrm, PACKET, udp(*INNER[4], dport=53), now=now)[0] == []
        engine.tick(now)
    (acquire,) = log.take()
    assert isinstance(acquire, ev.Acquire)
    state = acquire.state
    assert (state.src, state.dst, state.spi) == (*map(pack_address, OUTER[4]), 0)
    assert (state.if_id, state.reqid, state.dir, state.seq) == (42, 1, SaDir.OUT, 1)
    flow = Selector.parse(*INNER[4], proto=IPPROTO_UDP, sport=1111, dport=2222, ifindex=2)
    assert state.selector == flow, "exactly the flow of the first packet, and its device"
    assert acquire.template.reqid == 1 and acquire.policy.if_id == 42
    assert host.moved() == {"XfrmOutNoStates": 6}
    assert engine.next_deadline() == NOW + 30
    engine.tick(NOW + 30)
    assert [(type(event), event.hard) for event in log.take()] == [(ev.StateExpired, True)]
    send(host, xfrm, PACKET, now=NOW + 31)
    (acquire,) = log.take()
    assert isinstance(acquire, ev.Acquire) and acquire.state.seq == 2


def test_T_03_the_state_that_answers_an_acquire_carries_traffic() -> None:
    host, xfrm = host_with_policy()
    host.engine.acquire_listeners = 1
    send(host, xfrm, PACKET)
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, seq=1), NOW)
    left, replies = send(host, xfrm, PACKET)
    assert [spi_of(p) for p in left] == [0x1000] and replies == []
    assert len(list(host.engine.states())) == 1, "the larval state is gone"


def test_T_04_a_blocking_policy() -> None:
    host = Host()
    xfrm = host.interface()
    host.engine.add_policy(PolicyInfo(ANY, Dir.OUT, 42, action=Action.BLOCK), NOW)
    left, replies = send(host, xfrm, PACKET)
    assert left == [] and len(replies) == 1
    assert host.moved() == {"XfrmOutPolBlock": 1} and raised(xfrm) == REFUSED
    (policy,) = host.engine.policies()
    assert policy.use_time == int(NOW), "it decided (2.7)"


def test_T_05_a_state_with_another_if_id() -> None:
    host, xfrm = host_with_policy()
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, if_id=43), NOW)
    assert send(host, xfrm, PACKET)[0] == []
    assert host.moved() == {"XfrmOutNoStates": 1} and raised(xfrm) == REFUSED


def test_T_06_rekeying_takes_the_youngest_that_is_not_dying() -> None:
    host, xfrm = host_with_policy()
    engine = host.engine
    engine.add_state(tunnel_state(*OUTER[4], 0x1000), NOW)
    assert [spi_of(p) for p in send(host, xfrm, PACKET)[0]] == [0x1000]
    engine.add_state(tunnel_state(*OUTER[4], 0x2000, limits=Limits(soft_packets=2)), NOW + 1)
    for _ in range(3):  # the third reaches the soft limit and still goes out by it
        assert [spi_of(p) for p in send(host, xfrm, PACKET, now=NOW + 1)[0]] == [0x2000]
    assert [spi_of(p) for p in send(host, xfrm, PACKET, now=NOW + 1)[0]] == [0x1000], "younger, but dying"
    engine.add_state(tunnel_state(*OUTER[4], 0x3000), NOW + 2)
    assert [spi_of(p) for p in send(host, xfrm, PACKET, now=NOW + 2)[0]] == [0x3000]
    assert host.moved() == {}


@pytest.mark.parametrize("at", [28, 36, 60, -1], ids=["iv", "ciphertext", "its end", "icv"])
def test_T_07_tampered_icv(at: int) -> None:
    pair = Pair()
    outer = bytearray(pair.emit(PACKET)[0])
    outer[at] ^= 1
    assert receive(pair.right.engine, [bytes(outer)]) == []
    assert pair.right.moved() == {"XfrmInStateProtoError": 1}
    assert raised(pair.xfrm_right) == {"rx_errors": 1, "rx_dropped": 1}
    state = pair.right.engine.get_state(StateId(OUTER[4][1], 0x1000))
    assert state.snapshot().stats.integrity_failed == 1
    assert state.packets == 0 and state.window.top == 0


def test_T_08_replayed_and_too_old() -> None:
    pair = Pair()
    outer = [packet for _ in range(40) for packet in pair.emit(PACKET)]
    late = outer.pop(0)
    assert len(receive(pair.right.engine, outer)) == 39
    assert receive(pair.right.engine, [outer[-1], late]) == []
    assert pair.right.moved() == {"XfrmInStateSeqError": 2}
    assert raised(pair.xfrm_right) == {"rx_packets": 39, "rx_bytes": 39 * LENGTH, "rx_errors": 2, "rx_dropped": 2}
    stats = pair.right.engine.get_state(StateId(OUTER[4][1], 0x1000)).snapshot().stats
    assert (stats.replay, stats.replay_window) == (1, 1)


@pytest.mark.parametrize("at", [19, 23], ids=["destination", "spi"])
def test_T_09_unknown_spi(at: int) -> None:
    """Or unknown destination: nothing is seen on any device."""
    pair = Pair()
    outer = bytearray(pair.emit(PACKET)[0])
    outer[at] ^= 8
    assert receive(pair.right.engine, [bytes(outer)]) == []
    assert pair.right.moved() == {"XfrmInNoStates": 1} and raised(pair.xfrm_right) == {}


@pytest.mark.parametrize("burst", [1, 4])
def test_T_10_packet_hard_3(burst: int) -> None:
    """Three pass, the fourth ends the state; a fifth finds none. Whether they come one by one or together."""
    host, xfrm = host_with_policy()
    log = Log()
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, limits=Limits(hard_packets=3)), NOW)
    host.engine.subscribe(log)
    left: list[bytes] = []
    replies: list[bytes] = []
    for _ in range(4 // burst):
        out, errors = send(host, xfrm, *[PACKET] * burst)
        left += out
        replies += errors
    assert len(left) == 3 and replies == [] and host.moved() == {"XfrmOutStateExpired": 1}
    sent = {"tx_packets": 3, "tx_bytes": 3 * LENGTH}
    assert raised(xfrm) == sent | {"tx_errors": 1, "tx_aborted_errors": 1}
    assert [(type(event), event.hard, event.info.current.packets) for event in log] == [(ev.StateExpired, True, 3)]
    assert not list(host.engine.states())
    assert len(send(host, xfrm, PACKET)[1]) == 1
    assert host.moved() == {"XfrmOutStateExpired": 1, "XfrmOutNoStates": 1}
    assert raised(xfrm) == sent | {"tx_errors": 2, "tx_aborted_errors": 1, "tx_dropped": 1, "tx_carrier_errors": 1}


def test_T_11_too_big_with_df() -> None:
    pair = Pair()
    packet = udp(*INNER[4], payload=bytes(1472))
    left, (reply,) = send(pair.left, pair.xfrm_left, packet)
    assert len(packet) == 1500 and left == []
    assert (reply[20], reply[21], int.from_bytes(reply[26:28], "big")) == (3, 4, 1446)
    assert raised(pair.xfrm_left) == {"tx_errors": 1, "tx_dropped": 1} and pair.left.moved() == {}
    assert pair.send(udp(*INNER[4], payload=bytes(1446 - 28))) != []


def test_T_11_too_big_without_df() -> None:
    """Two outer fragments, which the other host puts together again before ESP."""
    pair = Pair()
    packet = udp(*INNER[4], payload=bytes(1472), df=False)
    (outer,), replies = send(pair.left, pair.xfrm_left, packet)
    assert replies == [] and raised(pair.xfrm_left) == {"tx_packets": 1, "tx_bytes": 1500}
    assert not outer[6] & 0x40
    assert [len(fragment) for fragment in fragment_ipv4(outer, 1500, 7)] == [1500, 76]
    assert receive(pair.right.engine, [outer]) == [packet]


def test_T_12_ipv6_never_hears_of_less_than_1280() -> None:
    pair = Pair(mtu=1254)  # leaves 1198 inside
    left, (reply,) = send(pair.left, pair.xfrm_left, udp(*INNER[6], payload=bytes(1400 - 48)))
    assert left == [] and (reply[40], int.from_bytes(reply[44:48], "big")) == (2, 1280)
    smallest = udp(*INNER[6], payload=bytes(1280 - 48))
    left, replies = send(pair.left, pair.xfrm_left, smallest)
    assert len(left) == 1 and replies == []
    left, (reply,) = send(pair.left, pair.xfrm_left, udp(*INNER[4], payload=bytes(1199 - 28)))
    assert left == [] and int.from_bytes(reply[26:28], "big") == 1198


@pytest.mark.parametrize("encap", [None, Encap()])
def test_T_13_encapsulation_differs(encap: Encap | None) -> None:
    """Plain ESP for a state in UDP, and ESP in UDP for a plain one."""
    pair = Pair(encap=encap)
    other = Pair(encap=None if encap else Encap())
    assert receive(pair.right.engine, other.emit(PACKET)) == []
    assert pair.right.moved() == {"XfrmInStateMismatch": 1}
    assert raised(pair.xfrm_right) == {"rx_errors": 1, "rx_dropped": 1}
    assert pair.send(PACKET) == [PACKET]


@pytest.mark.parametrize("if_id", [None, 43, 0])
def test_T_14_no_policy_in_or_one_of_another_if_id(if_id: int | None) -> None:
    pair = Pair()
    pair.right.engine.flush_policies(PolicyType.MAIN, NOW)
    if if_id is not None:
        for info in policies(*OUTER[4], if_id, out=False):
            pair.right.engine.add_policy(info, NOW)
    assert pair.send(PACKET) == []
    assert pair.right.moved() == {"XfrmInNoPols": 1}
    assert raised(pair.xfrm_right) == {"rx_packets": 1, "rx_bytes": LENGTH}


@pytest.mark.parametrize(("reqid", "stat"), [(1, {}), (0, {}), (2, {"XfrmInTmplMismatch": 1})])
def test_T_15_reqid_of_the_inbound_template(reqid: int, stat: dict[str, int]) -> None:
    """0 is any."""
    pair = Pair()
    pair.right.engine.flush_policies(PolicyType.MAIN, NOW)
    for info in policies(*OUTER[4], out=False, reqid=reqid):
        pair.right.engine.add_policy(info, NOW)
    assert pair.send(PACKET) == ([] if stat else [PACKET])
    assert pair.right.moved() == stat
    assert raised(pair.xfrm_right) == {"rx_packets": 1, "rx_bytes": LENGTH}


def test_T_19_sequence_numbers_exhausted() -> None:
    host, xfrm = host_with_policy()
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, replay=Replay(oseq=0xFFFFFFFE)), NOW)
    left, replies = send(host, xfrm, *[PACKET] * 3)
    assert [p[24:28].hex() for p in left] == ["ffffffff"] and replies == []
    assert host.moved() == {"XfrmOutStateSeqError": 2}
    assert raised(xfrm) == {"tx_packets": 1, "tx_bytes": LENGTH, "tx_errors": 2, "tx_aborted_errors": 2}
    (state,) = host.engine.states()
    assert state.oseq == 0xFFFFFFFF


def test_T_20_dummy_packets() -> None:
    """Dropped, an error of the device, and not remembered: the same number may come once more (RP-10)."""
    pair = Pair()
    dummy = forge(bytes(40), IPPROTO_NONE, seq=7)
    assert receive(pair.right.engine, [dummy, dummy]) == []
    assert pair.right.moved() == {"XfrmInStateProtoError": 2}
    assert raised(pair.xfrm_right) == {"rx_errors": 2, "rx_dropped": 2}
    assert receive(pair.right.engine, [forge(PACKET, IPPROTO_IPIP, seq=7)]) == [PACKET]


@pytest.mark.parametrize("announce", [True, False])
def test_a_smaller_mtu_of_the_route_is_noticed(announce: bool) -> None:
    """At once if the router says so, otherwise within a second."""
    pair = Pair()
    router = pair.left.router
    packet = udp(*INNER[4], payload=bytes(1400 - 28))
    assert len(pair.emit(packet)) == 1
    router.mtu = 1400
    router.generation += announce
    later = NOW + (0 if announce else 0.9)
    assert len(pair.emit(packet, now=later)) == (0 if announce else 1)
    left, (reply,) = send(pair.left, pair.xfrm_left, packet, now=NOW + 1)
    assert left == [] and int.from_bytes(reply[26:28], "big") == 1346


def test_T_21_a_lost_route_is_a_link_failure() -> None:
    """OUT-11."""
    pair = Pair()
    router = pair.left.engine.router

    def route(dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        return None

    router.route = route  # type: ignore[method-assign]
    left, replies = send(pair.left, pair.xfrm_left, PACKET)
    assert left == [] and len(replies) == 1
    assert pair.left.moved() == {"XfrmOutBundleGenError": 1} and raised(pair.xfrm_left) == REFUSED


def test_T_22_a_peer_behind_nat_moves() -> None:
    """Accepted, and the key manager is told; the state stays as it is (3.8)."""
    pair = Pair(encap=Encap(sport=4500, dport=4500))
    log = Log()
    pair.right.engine.subscribe(log)
    assert pair.send(PACKET) == [PACKET] and log == []
    outer = bytearray(pair.emit(PACKET)[0])
    outer[12:16] = pack_address("203.0.113.77")
    outer[20:22] = (61000).to_bytes(2, "big")
    assert receive(pair.right.engine, [bytes(outer)]) == [PACKET]
    (mapping,) = log
    assert isinstance(mapping, ev.Mapping)
    assert (mapping.new_src, mapping.new_sport) == (pack_address("203.0.113.77"), 61000)
    assert mapping.state.src == pack_address(OUTER[4][0]) and mapping.state.encap == Encap(sport=4500, dport=4500)
    assert pair.right.moved() == {}


def test_T_22_whoever_cannot_seal_moves_nothing() -> None:
    pair = Pair(encap=Encap())
    log = Log()
    pair.right.engine.subscribe(log)
    outer = bytearray(pair.emit(PACKET)[0])
    outer[12:16] = pack_address("203.0.113.77")
    outer[-1] ^= 1
    assert receive(pair.right.engine, [bytes(outer)]) == [] and log == []


def test_larval_states_open_nothing() -> None:
    """XfrmAcquireError: somebody has allocated the SPI, nobody has filled it in."""
    pair = Pair()
    engine = pair.right.engine
    engine.delete_state(StateId(OUTER[4][1], 0x1000), NOW)
    larval = engine.alloc_spi(tunnel_state(*OUTER[4], 0), 0x1000, 0x1000, NOW)
    assert larval.spi == 0x1000
    assert pair.send(PACKET) == []
    assert pair.right.moved() == {"XfrmAcquireError": 1}
    assert raised(pair.xfrm_right) == {"rx_errors": 1, "rx_dropped": 1}


def test_states_of_the_wrong_direction() -> None:
    """3.6: an inbound state is no way out, and that is also an unresolved template; an outbound one opens nothing, and
    no device sees it."""
    host, xfrm = host_with_policy()
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, dir=SaDir.IN), NOW)
    assert send(host, xfrm, PACKET)[0] == []
    assert host.moved() == {"XfrmOutStateDirError": 1, "XfrmOutPolError": 1} and raised(xfrm) == REFUSED
    host = Host(INNER[4][1])
    xfrm = host.interface()
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, dir=SaDir.OUT, replay_window=0), NOW)
    assert receive(host.engine, [forge(PACKET, IPPROTO_IPIP)]) == []
    assert host.moved() == {"XfrmInStateDirError": 1} and raised(xfrm) == {}


def test_truncated_esp_has_no_state() -> None:
    pair = Pair()
    header, esp = split_outer(pair.emit(PACKET)[0])
    assert pair.right.engine.input([(header, esp[:7])], NOW) == []
    assert pair.right.moved() == {"XfrmInHdrError": 1} and raised(pair.xfrm_right) == {}


def test_a_policy_id_is_what_deletes_it() -> None:
    """The tables are reached through the engine; what they hold decides the next packet."""
    pair = Pair()
    assert len(pair.emit(PACKET)) == 1
    deleted = pair.left.engine.delete_policy(PolicyId(ANY, Dir.OUT, 42), NOW)
    assert deleted.if_id == 42
    assert pair.emit(PACKET) == [] and pair.left.moved() == {}


def test_TX_10_a_loop_through_several_devices() -> None:
    """Caught where it begins; a peer that is reached through another device is none, nor is one whose packets end
    there (docs/deviations.md)."""
    ways = {OUTER[4][1]: 11, "192.0.2.9": 12, "192.0.2.10": 10}  # peer -> the device towards it
    host = Host()

    def route(dst: bytes, src: bytes, ifindex: int, mark: int) -> Route:
        return Route(1500, ifindex or ways.get(format_address(dst), 2), src or bytes(len(dst)))

    host.router.route = route  # type: ignore[method-assign]
    devices = []
    for number, peer in enumerate((OUTER[4][1], "192.0.2.9", "192.0.2.10")):
        device = host.interface(f"xfrm{number}", 42 + number)
        device.ifindex = 10 + number
        devices.append(device)
        host.engine.add_state(tunnel_state(OUTER[4][0], peer, 0x1000 + number, 42 + number), NOW)
        for info in policies(OUTER[4][0], peer, 42 + number, out=True):
            host.engine.add_policy(info, NOW)

    def sent() -> int:
        host.router.generation += 1
        return len(send(host, devices[0], PACKET)[0])

    assert sent() == 0
    assert raised(devices[0]) == {"tx_errors": 1, "tx_dropped": 1, "collisions": 1}
    assert raised(devices[1]) == raised(devices[2]) == {} and host.moved() == {}
    ways["192.0.2.10"] = 2
    assert sent() == 1, "a tunnel in a tunnel in a tunnel"
    ways["192.0.2.10"] = 12
    assert sent() == 1, "the last one's own loop, which is counted there"
    ways["192.0.2.10"] = 11
    assert sent() == 0, "the others circle"
    host.engine.delete_state(StateId(pack_address("192.0.2.9"), 0x1001), NOW)
    assert sent() == 1, "which ends in the second"
    assert host.moved() == {}
