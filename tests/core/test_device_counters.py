"""1.4: which counters of the device rise, event by event, and no others. Each row begins with a tunnel that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Pair, forge, raised, receive, tunnel_state
from tests.core.test_output import tcp_super
from tests.each import each
from xfrmi.core import Interface, PolicyInfo, Selector, Template
from xfrmi.core.router import Route, StaticRouter
from xfrmi.core.sysctl import Sysctls
from xfrmi.core.verdict import NOPOLICY_AGE
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_IPIP, IPPROTO_NONE, Action, Dir, Mode, PolicyType, SaDir
from xfrmi.wire.xfrm_types import Encap, Limits, PolicyId, Replay, StateId

ANY = Selector.parse("0.0.0.0/0")
PACKET = udp(*INNER[4])
PACKET6 = udp(*INNER[6])
LENGTH = len(PACKET)
BIG = udp(*INNER[4], payload=bytes(1472))
BIG6 = udp(*INNER[6], payload=bytes(1452))
OUT_STATE = StateId(OUTER[4][1], 0x1000)

RECEIVED = {"rx_packets": 1, "rx_bytes": LENGTH}
REFUSED_IN = {"rx_errors": 1, "rx_dropped": 1}
SENT = {"tx_packets": 1, "tx_bytes": LENGTH}
NO_WAY = {"tx_errors": 1, "tx_dropped": 1, "tx_carrier_errors": 1}
DROPPED = {"tx_errors": 1, "tx_dropped": 1}
LOOPED = DROPPED | {"collisions": 1}
ABORTED = {"tx_errors": 1, "tx_aborted_errors": 1}

Counts = dict[str, int]


class Row(NamedTuple):
    """Given a pair whose states have `fields`: `event` moves these counters of the device, and of xfrm_stat."""

    name: str
    event: Callable[[Pair], Any]
    device: Counts
    stat: Counts
    fields: dict[str, Any] = {}  # noqa: RUF012  nobody writes to it


# In ----------------------------------------------------------------------------------------------------------------


def arrives(pair: Pair, packet: bytes = PACKET) -> None:
    receive(pair.right.engine, pair.emit(packet))


def arrives_twice(pair: Pair) -> None:
    outer = pair.emit(PACKET)
    receive(pair.right.engine, outer * 2)


def tampered(pair: Pair) -> None:
    (outer,) = pair.emit(PACKET)
    receive(pair.right.engine, [outer[:-1] + bytes([outer[-1] ^ 1])])


def otherwise_encapsulated(pair: Pair) -> None:
    receive(pair.right.engine, Pair(encap=Encap()).emit(PACKET))


def inner_of_another_mode(pair: Pair) -> None:
    receive(pair.right.engine, [forge(PACKET, IPPROTO_NONE)])


def unknown_spi(pair: Pair) -> None:
    receive(pair.right.engine, [forge(PACKET, IPPROTO_IPIP, spi=0x9999)])


def cut_short(pair: Pair) -> None:
    header, esp = split_outer(pair.emit(PACKET)[0])
    pair.right.engine.input([(header, esp[:7])], NOW)


def for_no_policy(pair: Pair) -> None:
    pair.right.engine.flush_policies(PolicyType.MAIN, NOW)
    arrives(pair)


def for_no_policy_elsewhere(pair: Pair) -> None:
    pair.xfrm_right.away = True
    for_no_policy(pair)


def device_down(pair: Pair) -> None:
    pair.xfrm_right.up = False
    arrives(pair)


def no_device(pair: Pair) -> None:
    pair.right.engine.delete_interface("xfrm0")
    arrives(pair)


IN = [
    Row("decapsulated", arrives, RECEIVED, {}),
    Row("decapsulated, IPv6", lambda pair: arrives(pair, PACKET6),
        {"rx_packets": 1, "rx_bytes": len(PACKET6)}, {}),
    Row("a replay", arrives_twice, RECEIVED | REFUSED_IN, {"XfrmInStateSeqError": 1}),
    Row("ICV", tampered, REFUSED_IN, {"XfrmInStateProtoError": 1}),
    Row("an expired state", arrives_twice, RECEIVED | REFUSED_IN, {"XfrmInStateExpired": 1},
        {"limits": Limits(hard_packets=1), "replay_window": 0}),
    Row("encapsulation", otherwise_encapsulated, REFUSED_IN, {"XfrmInStateMismatch": 1}),
    Row("a dummy", inner_of_another_mode, REFUSED_IN, {"XfrmInStateProtoError": 1}),
    Row("no state", unknown_spi, {}, {"XfrmInNoStates": 1}),
    Row("header error", cut_short, {}, {"XfrmInHdrError": 1}),
    Row("policy: after the device has counted it", for_no_policy, RECEIVED, {"XfrmInNoPols": 1}),
    Row("policy, device elsewhere (RX-10)", for_no_policy_elsewhere, REFUSED_IN, {"XfrmInNoPols": 1}),
    Row("the device is down (RX-07)", device_down, {}, {"XfrmInNoPols": 1}),
    Row("there is none (RX-05)", no_device, {}, {"XfrmInNoPols": 1}),
]  # fmt: skip


def test_1_4_rx_bytes_of_transport_mode() -> None:
    """Only what follows the IP header counts there; in the other modes all of the inner packet does."""
    pair = Pair(mode=Mode.TRANSPORT, flags=0)
    for host, direction in ((pair.left, Dir.OUT), (pair.right, Dir.IN)):
        host.engine.flush_policies(PolicyType.MAIN, NOW)
        template = Template(*OUTER[4], mode=Mode.TRANSPORT, reqid=1)
        host.engine.add_policy(PolicyInfo(ANY, direction, 42, (template,)), NOW)
    packet = udp(*OUTER[4])
    pair.right.router.local = {pack_address(OUTER[4][1])}
    arrives(pair, packet)
    assert raised(pair.xfrm_right) == {"rx_packets": 1, "rx_bytes": len(packet) - 20}
    assert pair.right.moved() == {}


# Out -----------------------------------------------------------------------------------------------------------------


def sends(*packets: Any) -> Callable[[Pair], None]:
    def event(pair: Pair) -> None:
        pair.left.engine.output(pair.xfrm_left, packets, NOW)

    return event


def after(change: Callable[[Pair], Any], *packets: Any) -> Callable[[Pair], None]:
    def event(pair: Pair) -> None:
        change(pair)
        sends(*packets or (PACKET,))(pair)

    return event


def no_policy(pair: Pair) -> None:
    pair.left.engine.delete_policy(PolicyId(ANY, Dir.OUT, 42), NOW)


def policy_of(**fields: Any) -> Callable[[Pair], None]:
    return lambda pair: pair.left.engine.update_policy(PolicyInfo(ANY, Dir.OUT, 42, **fields), NOW)


def no_state(pair: Pair) -> None:
    pair.left.engine.delete_state(OUT_STATE, NOW)


def state_of_another_if_id(pair: Pair) -> None:
    pair.left.engine.update_state(tunnel_state(*OUTER[4], 0x1000, if_id=43), NOW)


def state_for_input(pair: Pair) -> None:
    no_state(pair)
    pair.left.engine.add_state(tunnel_state(*OUTER[4], 0x1000, dir=SaDir.IN), NOW)


def two_transforms_one_missing(pair: Pair) -> None:
    templates = (Template(*OUTER[4], mode=Mode.TUNNEL, reqid=1), Template(*OUTER[4], mode=Mode.TUNNEL, reqid=2))
    policy_of(templates=templates)(pair)


class Unreachable(StaticRouter):
    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        return None


def no_route(pair: Pair) -> None:
    pair.left.engine.router = Unreachable()


def behind_itself(pair: Pair) -> None:
    pair.left.engine.router = StaticRouter(ifindex=9)
    pair.xfrm_left.ifindex = 9


def refused_by_the_way_out(pair: Pair) -> None:
    (outgoing,), _ = pair.left.engine.output(pair.xfrm_left, [PACKET], NOW)
    pair.left.engine.send_failed(outgoing, [0])


def external(pair: Pair) -> None:
    pair.xfrm_left.external = True


OUT = [
    Row("sent", sends(PACKET), SENT, {}),
    Row("sent, IPv6", sends(PACKET6), {"tx_packets": 1, "tx_bytes": len(PACKET6)}, {}),
    Row("a super-packet is one", sends(tcp_super()), {"tx_packets": 1, "tx_bytes": len(tcp_super().data)}, {}),
    Row("no policy", after(no_policy), NO_WAY, {}),
    Row("no template (TX-07)", after(policy_of()), NO_WAY, {}),
    Row("policy block", after(policy_of(action=Action.BLOCK)), NO_WAY, {"XfrmOutPolBlock": 1}),
    Row("no state", after(no_state), NO_WAY, {"XfrmOutNoStates": 1}),
    Row("a state of another if_id (TX-08)", after(state_of_another_if_id), NO_WAY, {"XfrmOutNoStates": 1}),
    Row("a state for input", after(state_for_input), NO_WAY, {"XfrmOutStateDirError": 1, "XfrmOutPolError": 1}),
    Row("one state of two", after(two_transforms_one_missing), NO_WAY, {"XfrmOutNoStates": 1}),
    Row("no route", after(no_route), NO_WAY, {"XfrmOutBundleGenError": 1}),
    Row("a loop (TX-10)", after(behind_itself), LOOPED, {}),
    Row("too big (TX-12b)", sends(BIG), DROPPED, {}),
    Row("too big, IPv6 (TX-12a)", sends(BIG6), DROPPED, {}),
    Row("not IP (TX-01)", sends(b"\x00" * 40), DROPPED, {}),
    Row("expired", sends(PACKET), ABORTED, {"XfrmOutStateExpired": 1}, {"limits": Limits(hard_packets=0)}),
    Row("the last number is used up", sends(PACKET), ABORTED, {"XfrmOutStateSeqError": 1},
        {"replay": Replay(oseq=0xFFFFFFFF)}),
    Row("IP output failed", refused_by_the_way_out, ABORTED, {}),
    Row("external (TX-04)", after(external), DROPPED, {}),
]  # fmt: skip


@each("row", IN, ids=lambda row: row.name)
def test_1_4_in(row: Row) -> None:
    pair = Pair(**row.fields)
    row.event(pair)
    assert raised(pair.xfrm_right) == row.device
    assert pair.right.moved() == row.stat


@each("row", OUT, ids=lambda row: row.name)
def test_1_4_out(row: Row) -> None:
    pair = Pair(**row.fields)
    row.event(pair)
    assert raised(pair.xfrm_left) == row.device
    assert pair.left.moved() == row.stat


def test_1_4_a_state_for_output_opens_nothing() -> None:
    """A state of the wrong direction is as good as none: nothing on the device."""
    pair = Pair(replay_window=0)
    pair.right.engine.delete_state(OUT_STATE, NOW)
    pair.right.engine.add_state(tunnel_state(*OUTER[4], 0x1000, dir=SaDir.OUT, replay_window=0), NOW)
    arrives(pair)
    assert raised(pair.xfrm_right) == {}
    assert pair.right.moved() == {"XfrmInStateDirError": 1}


# disable_policy ------------------------------------------------------------------------------------------------------


class Switches(Sysctls):
    """Of a machine with disable_policy for these families."""

    def __init__(self, *families: int) -> None:
        self.families = frozenset(families)
        self.asked = 0

    def disable_policy(self, interface: Interface) -> frozenset[int]:
        self.asked += 1
        return self.families


def test_RX_12_disable_policy_of_the_device() -> None:
    """What it receives in that family is asked nothing more; the states still count."""
    pair = Pair()
    pair.right.engine.flush_policies(PolicyType.MAIN, NOW)
    switches = pair.right.engine.sysctls = Switches()
    assert pair.send(PACKET, PACKET6) == []
    assert pair.right.moved() == {"XfrmInNoPols": 2}
    switches.families = frozenset({AF_INET})
    assert pair.send(PACKET, PACKET6, now=NOW + NOPOLICY_AGE) == [PACKET], "the other family has a switch of its own"
    switches.families = frozenset({AF_INET, AF_INET6})
    assert pair.send(PACKET, PACKET, PACKET6, now=NOW + 2 * NOPOLICY_AGE) == [PACKET, PACKET, PACKET6]
    assert pair.right.moved() == {"XfrmInNoPols": 3}
    switches.families = frozenset()
    assert pair.send(PACKET, now=NOW + 3 * NOPOLICY_AGE) == [], "no verdict outlives the switch"
    assert raised(pair.xfrm_right)["rx_packets"] == 8


def test_RX_12_the_device_is_not_asked_for_each_packet() -> None:
    pair = Pair()
    switches = pair.right.engine.sysctls = Switches()
    for half in range(25):
        assert pair.send(PACKET, PACKET, now=NOW + half / 2) == [PACKET, PACKET]
    assert switches.asked == 3


@pytest.mark.parametrize(("version", "let_in"), [(4, True), (6, False)])
def test_RX_12_of_what_is_forwarded(version: int, let_in: bool) -> None:
    """IPv6 marks the routes to the addresses of the device, and nothing that leads elsewhere."""
    pair = Pair()
    pair.right.engine.flush_policies(PolicyType.MAIN, NOW)
    pair.right.engine.sysctls = Switches(AF_INET, AF_INET6)
    packet = udp(INNER[version][0], {4: "203.0.113.77", 6: "2001:db8:77::1"}[version])
    assert pair.send(packet) == ([packet] if let_in else [])


def test_RX_12_a_blocking_policy_and_a_selector_are_not_asked_either() -> None:
    pair = Pair(selector=Selector.parse("10.0.0.0/8"), flags=0)
    pair.right.engine.update_policy(PolicyInfo(ANY, Dir.IN, 42, action=Action.BLOCK), NOW)
    outer = [forge(PACKET, IPPROTO_IPIP, seq=1), forge(PACKET, IPPROTO_IPIP, seq=2)]
    assert receive(pair.right.engine, outer[:1]) == []
    pair.right.engine.sysctls = Switches(AF_INET)
    assert receive(pair.right.engine, outer[1:], NOW + NOPOLICY_AGE) == [PACKET]


def test_RX_12_does_not_reach_into_another_namespace() -> None:
    """RX-10: the question at home is not asked by the device but before it."""
    pair = Pair()
    pair.right.engine.flush_policies(PolicyType.MAIN, NOW)
    pair.xfrm_right.away = True
    pair.right.engine.sysctls = Switches(AF_INET)
    assert pair.send(PACKET) == []
    assert pair.right.moved() == {"XfrmInNoPols": 1}
