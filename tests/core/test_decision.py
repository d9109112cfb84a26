"""core.decision: kernel-behaviour 2.3 (SPD-23) and 2.4 by their ids. Compared with what Linux 6.12 counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Host, Pair, raised, tunnel_state, wire
from tests.each import each
from xfrmi.core import PolicyInfo, Selector, Template
from xfrmi.core.decision import decide
from xfrmi.core.router import LOOPBACK_IFINDEX, Route, StaticRouter
from xfrmi.wire.address import format_address, pack_address
from xfrmi.wire.flow import flow_of
from xfrmi.wire.xfrm_const import (
    IPPROTO_ESP,
    STATE_AF_UNSPEC,
    Action,
    Default,
    Dir,
    Mode,
    PolicyType,
    SaDir,
)
from xfrmi.wire.xfrm_types import PolicyId

ANY, ANY6 = Selector.parse("0.0.0.0/0"), Selector.parse("::/0")
PACKET = udp(*INNER[4])
REFUSED = {"tx_errors": 1, "tx_dropped": 1, "tx_carrier_errors": 1}
SENT = {"tx_packets": 1, "tx_bytes": len(PACKET)}
FAR = ("203.0.113.1", "203.0.113.2")


def tunnel(reqid: int = 1, ends: tuple[str, str] = OUTER[4], **fields: Any) -> Template:
    return Template(*ends, reqid=reqid, **fields)


def transport(reqid: int, ends: tuple[str, str] = INNER[4], **fields: Any) -> Template:
    return Template(*ends, reqid=reqid, mode=Mode.TRANSPORT, **fields)


class Sender:
    """A host with one interface, these templates in a main and perhaps a sub policy, and states of SPI = reqid."""

    def __init__(self, main: Any = None, sub: Any = None, states: tuple[Template, ...] = (tunnel(),)) -> None:
        self.host = Host()
        self.engine = self.host.engine
        self.xfrm = self.host.interface()
        for template in states:
            ends = format_address(template.src), format_address(template.dst)
            flags = STATE_AF_UNSPEC if template.mode == Mode.TUNNEL else 0
            self.engine.add_state(
                tunnel_state(*ends, template.reqid, reqid=template.reqid, mode=template.mode, flags=flags), NOW
            )
        for content, kind in ((main, PolicyType.MAIN), (sub, PolicyType.SUB)):
            if content is not None:
                templates, action = ((), content) if isinstance(content, Action) else (content, Action.ALLOW)
                self.engine.add_policy(PolicyInfo(ANY, Dir.OUT, 42, templates, type=kind, action=action), NOW)

    def send(self) -> list[bytes]:
        outgoing, replies = self.engine.output(self.xfrm, [PACKET], NOW)
        assert len(outgoing) + len(replies) == 1, "who is refused is told (TX-09)"
        return wire(outgoing)

    def used(self) -> tuple[bool, ...]:
        """Which policies have been used, the main one first."""
        return tuple(bool(policy.use_time) for policy in reversed(list(self.engine.policies())))


def spi(packet: bytes) -> int:
    return int.from_bytes(packet[20:24], "big")


@pytest.mark.parametrize("default", [Default.ACCEPT, Default.BLOCK])
def test_OUT_01_without_a_policy_nothing_leaves_whatever_the_default(default: Default) -> None:
    """No counter of /proc/net/xfrm_stat moves, as little as for a default that blocks."""
    sender = Sender()
    sender.engine.spd.set_default(default, default, default)
    assert sender.send() == []
    assert sender.host.moved() == {} and raised(sender.xfrm) == REFUSED


def test_OUT_02_a_policy_that_blocks() -> None:
    sender = Sender(Action.BLOCK)
    assert sender.send() == []
    assert sender.host.moved() == {"XfrmOutPolBlock": 1} and raised(sender.xfrm) == REFUSED
    assert sender.used() == (True,)


def test_OUT_03_a_policy_without_templates_lets_nothing_through_an_xfrm_device() -> None:
    """Elsewhere it means plaintext (TX-07)."""
    sender = Sender(())
    assert sender.send() == []
    assert sender.host.moved() == {} and raised(sender.xfrm) == REFUSED
    assert sender.used() == (True,)


def test_OUT_04_templates_that_resolve() -> None:
    sender = Sender((tunnel(),))
    assert [spi(packet) for packet in sender.send()] == [1]
    assert sender.host.moved() == {} and raised(sender.xfrm) == SENT
    assert sender.used() == (True,)


def _no_state(sender: Sender) -> None:
    sender.engine.flush_states(0, NOW)


def _no_route(sender: Sender) -> None:
    sender.engine.router = Unrouted(pack_address(OUTER[4][1]))


class Unrouted(StaticRouter):
    """Has routes, but for one destination."""

    def __init__(self, lost: bytes) -> None:
        super().__init__(1500, set())
        self.lost = lost

    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        return None if dst == self.lost else super().route(dst, src, ifindex, mark)


@pytest.mark.parametrize(
    ("template", "spoil", "stat"),
    [
        (tunnel(), _no_state, "XfrmOutNoStates"),
        (tunnel(7, spi=1), lambda _: None, "XfrmOutPolError"),
        (tunnel(), _no_route, "XfrmOutBundleGenError"),
    ],
    ids=["no state", "fixed spi of another", "no route"],
)
def test_OUT_04_what_does_not_resolve_is_no_use_of_the_policy(
    template: Template, spoil: Callable[[Sender], None], stat: str
) -> None:
    """Seen of kernels: `ip -s xfrm policy` goes on saying `use -`."""
    sender = Sender((template,))
    spoil(sender)
    assert sender.send() == []
    assert sender.host.moved() == {stat: 1} and raised(sender.xfrm) == REFUSED
    assert sender.used() == (False,)


def test_OUT_05_each_lookup_without_a_state_counts() -> None:
    sender = Sender((tunnel(),), states=())
    for count in (1, 2, 3):
        assert sender.send() == []
        assert sender.host.moved() == {"XfrmOutNoStates": count}


def test_OUT_06_nothing_is_queued_until_a_state_comes() -> None:
    """TX-16: with or without somebody who listens for acquires."""
    sender = Sender((tunnel(),), states=())
    sender.engine.acquire_listeners = 1
    assert sender.send() == sender.send() == []
    sender.engine.add_state(tunnel_state(*OUTER[4], 1), NOW)
    (packet,) = sender.send()
    assert int.from_bytes(packet[24:28], "big") == 1, "the first there is"
    assert sender.engine.tick(NOW + 60) == [] and raised(sender.xfrm)["tx_packets"] == 1


@pytest.mark.parametrize("inside", [True, False])
def test_OUT_11_every_tunnel_needs_a_route_to_its_end(inside: bool) -> None:
    """Also the inner one, whose packets take another way."""
    sender = Sender((tunnel(1, FAR), tunnel(2)), states=(tunnel(1, FAR), tunnel(2)))
    assert [spi(packet) for packet in sender.send()] == [2]
    sender.engine.router = Unrouted(pack_address((FAR if inside else OUTER[4])[1]))
    sender.host.router.generation += 1
    assert sender.send() == []
    assert sender.host.moved() == {"XfrmOutBundleGenError": 1}


@pytest.mark.parametrize("if_id", [0, 43])
def test_TX_05_exactly_that_if_id_for_policies_and_states(if_id: int) -> None:
    """0 is no wildcard either. What another if_id has is as good as not there."""
    sender = Sender()
    sender.engine.add_policy(PolicyInfo(ANY, Dir.OUT, if_id, (tunnel(),)), NOW)
    assert sender.send() == [] and sender.host.moved() == {} and sender.used() == (False,)
    sender.engine.flush_states(0, NOW)
    sender.engine.add_state(tunnel_state(*OUTER[4], 1, if_id=if_id), NOW)
    sender.engine.add_policy(PolicyInfo(ANY, Dir.OUT, 42, (tunnel(),)), NOW)
    assert sender.send() == [] and sender.host.moved() == {"XfrmOutNoStates": 1}
    assert raised(sender.xfrm) == {name: 2 for name in REFUSED}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda engine: engine.flush_policies(PolicyType.MAIN, NOW),
        lambda engine: engine.flush_states(0, NOW),
        lambda engine: engine.update_policy(PolicyInfo(ANY, Dir.OUT, 42, action=Action.BLOCK), NOW)
        and engine.update_policy(PolicyInfo(ANY6, Dir.OUT, 42, action=Action.BLOCK), NOW),
        lambda engine: setattr(engine, "router", Unrouted(pack_address(OUTER[4][1]))),
    ],
    ids=["no policy", "no state", "block", "no route"],
)
def test_TX_06_whatever_the_lookup_answers_is_a_link_failure(version: int, spoil: Callable[[Any], Any]) -> None:
    """TX-09: the sender hears that the host, or the address, cannot be reached; the error quotes its packet."""
    pair = Pair()
    spoil(pair.left.engine)
    packet = udp(*INNER[version])
    outgoing, (reply,) = pair.left.engine.output(pair.xfrm_left, [packet], NOW)
    header = 20 if version == 4 else 40
    assert outgoing == [] and tuple(reply[header : header + 2]) == ((3, 1) if version == 4 else (1, 3))
    assert bytes(reply[header + 8 :]) == packet
    assert raised(pair.xfrm_left) == REFUSED


def test_TX_11_the_route_to_the_end_of_an_inner_tunnel_limits_too() -> None:
    class Narrow(StaticRouter):
        def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
            found = super().route(dst, src, ifindex, mark)
            return found._replace(mtu=1000) if found is not None and dst == pack_address(FAR[1]) else found

    sender = Sender((tunnel(1, FAR), tunnel(2)), states=(tunnel(1, FAR), tunnel(2)))
    sender.engine.router = Narrow(1500, set())
    outgoing, (reply,) = sender.engine.output(sender.xfrm, [udp(*INNER[4], payload=bytes(1200))], NOW)
    assert outgoing == [] and int.from_bytes(reply[26:28], "big") == (1000 - 52) // 4 * 4 - 2


def test_OUT_12_the_policy_is_asked_whatever_the_device_because_there_is_an_if_id() -> None:
    """Neither a link that is lo nor disable_xfrm, which skip the SPD for if_id 0, let anything pass."""
    host = Host()
    xfrm = host.interface(link=LOOPBACK_IFINDEX)
    host.engine.add_policy(PolicyInfo(ANY, Dir.OUT, 42, action=Action.BLOCK), NOW)
    outgoing, _ = host.engine.output(xfrm, [PACKET], NOW)
    assert outgoing == [] and host.moved() == {"XfrmOutPolBlock": 1}


ONE, TWO = tunnel(1), tunnel(2)
INSIDE, BETWEEN = transport(3), transport(4, OUTER[4])


@each(
    ("main", "sub", "left", "stat", "used"),
    [
        ((ONE,), (), [1], {}, (True, True)),
        (None, (), [], {}, (True,)),
        (None, (ONE,), [1], {}, (True,)),
        ((), (ONE,), [1], {}, (True, True)),
        ((TWO,), (ONE,), [2], {}, (True, True)),
        ((ONE,), Action.BLOCK, [], {"XfrmOutPolBlock": 1}, (False, True)),
        (Action.BLOCK, (ONE,), [], {"XfrmOutPolBlock": 1}, (True, True)),
        (Action.BLOCK, (tunnel(9),), [], {"XfrmOutPolBlock": 1}, (True, True)),
        ((tunnel(9),), (ONE,), [], {"XfrmOutNoStates": 1}, (False, False)),
        ((TWO,), (INSIDE,), [2], {}, (True, True)),
        ((INSIDE,), (ONE,), [3], {}, (True, True)),
        ((transport(4),), (ONE,), [], {"XfrmOutNoStates": 1}, (False, False)),
        ((ONE,) * 3, (ONE,) * 3, [], {"XfrmOutPolError": 1}, (False, False)),
        ((tunnel(9),) * 3, (tunnel(9),) * 3, [], {"XfrmOutNoStates": 1}, (False, False)),
        ((ONE,) * 2, (ONE,) * 3, [1], {}, (True, True)),
    ],
    ids=[
        "sub without templates", "sub alone without templates", "sub alone", "main without templates", "both",
        "sub blocks", "main blocks", "blocked before anything is resolved", "main unresolved", "transport in tunnel",
        "main begins with the packet's addresses", "not with the tunnel's", "six", "six unresolved", "five",
    ],
)  # fmt: skip
def test_SPD_23_sub_and_main_policy(main: Any, sub: Any, left: list[int], stat: dict[str, int], used: Any) -> None:
    """The sub policy first; if it allows, the main one's templates are appended, and it has to allow, too."""
    sender = Sender(main, sub, (ONE, TWO, INSIDE, BETWEEN))
    assert [spi(packet) for packet in sender.send()] == left
    assert sender.host.moved() == stat and raised(sender.xfrm) == (SENT if left else REFUSED)
    assert sender.used() == used


def test_SPD_23_the_sub_policy_may_go() -> None:
    sender = Sender((ONE,), Action.BLOCK)
    assert sender.send() == []
    sender.engine.delete_policy(PolicyId(ANY, Dir.OUT, 42, type=PolicyType.SUB), NOW)
    assert len(sender.send()) == 1


@pytest.mark.parametrize(
    ("version", "main", "sub", "inside_out"),
    [
        (4, (transport(3),), (tunnel(1),), ["tunnel", "transport"]),
        (6, (transport(3, INNER[6]),), (tunnel(1),), ["transport", "tunnel"]),
        (6, (tunnel(1, OUTER[6]), transport(3, OUTER[6])), None, ["tunnel", "transport"]),
    ],
    ids=["IPv4", "IPv6", "IPv6, one policy"],
)
def test_SPD_23_with_two_policies_ipv6_has_transport_mode_inside(
    version: int, main: Any, sub: Any, inside_out: list[str]
) -> None:
    """Whichever policy says so: an order made for Mobile IPv6."""
    host = Host()
    xfrm = host.interface()
    for ends in OUTER.values():
        host.engine.add_state(tunnel_state(*ends, 1), NOW)
    for ends in (INNER[4], INNER[6], OUTER[6]):
        host.engine.add_state(tunnel_state(*ends, 3, mode=Mode.TRANSPORT, flags=0, reqid=3), NOW)
    everything = Selector.parse("0.0.0.0/0" if version == 4 else "::/0")
    for templates, kind in ((main, PolicyType.MAIN), (sub, PolicyType.SUB)):
        if templates is not None:
            host.engine.add_policy(PolicyInfo(everything, Dir.OUT, 42, templates, type=kind), NOW)
    packet = udp(*INNER[version])
    decision = decide(host.engine, xfrm, flow_of(packet), NOW)
    assert [Mode(state.mode).name.lower() for state in decision.states] == inside_out


def test_3_6_an_inbound_state_counts_twice_and_is_no_use_of_the_policy() -> None:
    """XfrmOutStateDirError and XfrmOutPolError, for an optional template as well."""
    for optional in (0, 1):
        sender = Sender((transport(3, optional=optional), ONE), states=(ONE,))
        info = tunnel_state(*INNER[4], 3, mode=Mode.TRANSPORT, flags=0, reqid=3, dir=SaDir.IN)
        sender.engine.add_state(info, NOW)
        assert sender.send() == []
        assert sender.host.moved() == {"XfrmOutStateDirError": 1, "XfrmOutPolError": 1}
        assert sender.used() == (False,)


def test_OUT_08_transport_in_tunnel_arrives() -> None:
    """Through two engines: ESP comes out of the device and goes in again (RX-02), then both states are asked for."""
    pair = Pair()
    both = (transport(3), tunnel())
    for host in (pair.left, pair.right):
        host.engine.add_state(tunnel_state(*INNER[4], 3, mode=Mode.TRANSPORT, flags=0, reqid=3), NOW)
    pair.left.engine.update_policy(PolicyInfo(ANY, Dir.OUT, 42, both), NOW)
    pair.right.engine.update_policy(PolicyInfo(ANY, Dir.IN, 42, both, priority=1), NOW)
    assert pair.send(PACKET) == [] and pair.right.moved() == {"XfrmInTmplMismatch": 1}, "the tunnel has not both"
    esp_alone = Selector.parse("0.0.0.0/0", proto=IPPROTO_ESP)
    pair.right.engine.add_policy(PolicyInfo(esp_alone, Dir.IN, 42, both[1:]), NOW)
    assert pair.send(PACKET) == [PACKET]
    assert pair.right.moved() == {"XfrmInTmplMismatch": 1}
