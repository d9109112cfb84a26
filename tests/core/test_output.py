"""core.output and core.decision: what the conformance tests (test_engine.py) leave open of the way out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Host, Pair, policies, raised, receive, tunnel_state, wire
from tests.core.test_gso import payload, scapy_tcp, super_packet
from tests.each import each
from xfrmi.core import Engine, Interface, PolicyInfo, Selector, StateInfo, Template, esp
from xfrmi.core.gso import segment
from xfrmi.core.router import Route, StaticRouter
from xfrmi.core.state import State
from xfrmi.wire.address import any_address, family_of, pack_address
from xfrmi.wire.fragment import fragment_ipv4
from xfrmi.wire.ip import checksum, split_outer
from xfrmi.wire.vnet import GSO_TCPV4, SuperPacket
from xfrmi.wire.xfrm_const import IPPROTO_ESP, IPPROTO_UDP, XFRM_INF, Action, Dir, Mode
from xfrmi.wire.xfrm_types import Encap, Limits, Mark, PolicyId, Replay, StateId

REFUSED = {"tx_errors": 1, "tx_dropped": 1, "tx_carrier_errors": 1}
ANY = Selector.parse("0.0.0.0/0")
PACKET = udp(*INNER[4])
LENGTH = len(PACKET)
FAR = ("203.0.113.1", "203.0.113.2")


def outer_spi(packet: bytes) -> int:
    return int.from_bytes(packet[20:24], "big")


# Several transforms -----------------------------------------------------------------------------------------------


def nested(*modes: int, mtu: int = 1500, **of_last: Any) -> tuple[Host, Interface]:
    """One policy with a template for each mode; the first tunnel ends at FAR, later ones at OUTER. SPI 1, 2, ..."""
    host = Host(mtu=mtu)
    xfrm = host.interface()
    ends, templates = [INNER[4]], []
    tunnels = iter([FAR, OUTER[4]])
    for number, mode in enumerate(modes, 1):
        if mode == Mode.TUNNEL:
            ends.append(next(tunnels))
        fields = of_last if number == len(modes) else {}
        if mode == Mode.TRANSPORT:
            fields = {"flags": 0, **fields}
        host.engine.add_state(tunnel_state(*ends[-1], number, mode=mode, reqid=number, **fields), NOW)
        templates.append(Template(*ends[-1], mode=mode, reqid=number))
    host.engine.add_policy(PolicyInfo(ANY, Dir.OUT, 42, tuple(templates)), NOW)
    return host, xfrm


def opened(host: Host, outer: bytes) -> tuple[list[int], bytes]:
    """(SPIs from the outside in, what is innermost)."""
    spis = []
    states = {state.spi: State(state.info) for state in host.engine.states()}
    while outer[9] == IPPROTO_ESP:
        header, packet = split_outer(outer)
        spis.append(int.from_bytes(packet[:4], "big"))
        outer = bytes(esp.open(states[spis[-1]], header, packet, NOW))
    return spis, outer


@pytest.mark.parametrize(
    "modes",
    [
        (Mode.TUNNEL, Mode.TUNNEL),
        (Mode.TRANSPORT, Mode.TUNNEL),
        (Mode.TUNNEL, Mode.TRANSPORT),
        (Mode.TRANSPORT, Mode.TUNNEL, Mode.TUNNEL),
    ],
    ids=lambda modes: " in ".join(mode.name.lower() for mode in modes),
)
def test_OUT_08_templates_are_applied_from_the_first_on(modes: tuple[Mode, ...]) -> None:
    """Each between the ends the one before has given the packet."""
    host, xfrm = nested(*modes)
    outgoing, replies = host.engine.output(xfrm, [PACKET, PACKET], NOW)
    assert replies == [] and host.moved() == {}
    for packet in wire(outgoing):
        assert opened(host, packet) == (list(range(len(modes), 0, -1)), PACKET)
    tunnels = modes.count(Mode.TUNNEL)
    assert outgoing[0].path.dst == pack_address((INNER[4], FAR, OUTER[4])[tunnels][1])
    assert raised(xfrm) == {"tx_packets": 2, "tx_bytes": 2 * LENGTH}


def test_OUT_08_every_selector_is_compared_with_the_innermost_flow() -> None:
    inner_only = Selector.parse(f"{INNER[4][0]}/32", f"{INNER[4][1]}/32")
    host, xfrm = nested(Mode.TUNNEL, Mode.TUNNEL, flags=0, selector=inner_only)
    assert len(wire(host.engine.output(xfrm, [PACKET], NOW)[0])) == 1
    ends_only = Selector.parse(f"{FAR[0]}/32", f"{FAR[1]}/32")
    host, xfrm = nested(Mode.TUNNEL, Mode.TUNNEL, flags=0, selector=ends_only)
    assert wire(host.engine.output(xfrm, [PACKET], NOW)[0]) == []
    assert host.moved() == {"XfrmOutNoStates": 1}


def test_TX_11_the_mtu_is_counted_from_the_outside_in() -> None:
    host, xfrm = nested(Mode.TUNNEL, Mode.TUNNEL)
    fits = udp(*INNER[4], payload=bytes(1390 - 28))  # 1500 -> 1446 -> ((1446 - 52) & ~3) - 2
    outgoing, replies = host.engine.output(xfrm, [fits], NOW)
    assert [len(packet) for packet in wire(outgoing)] == [1500] and replies == []
    outgoing, (reply,) = host.engine.output(xfrm, [udp(*INNER[4], payload=bytes(1391 - 28))], NOW)
    assert outgoing == [] and int.from_bytes(reply[26:28], "big") == 1390


@pytest.mark.parametrize("mtu", [1000, 1446, 1500])
def test_TX_11_nor_does_more_fit_than_the_device_takes(mtu: int) -> None:
    """It may have been made smaller while packets were on their way out of the TUN."""
    pair = Pair()
    pair.xfrm_left.mtu = mtu
    outgoing, (reply,) = pair.left.engine.output(pair.xfrm_left, [udp(*INNER[4], payload=bytes(1472))], NOW)
    assert outgoing == [] and int.from_bytes(reply[26:28], "big") == min(mtu, 1446)


def test_no_mtu_is_told_below_what_every_link_carries() -> None:
    host, xfrm = nested(*[Mode.TUNNEL] * 2, mtu=100)
    outgoing, (reply,) = host.engine.output(xfrm, [udp(*INNER[4], payload=bytes(68))], NOW)
    assert outgoing == [] and int.from_bytes(reply[26:28], "big") == 68
    assert len(wire(host.engine.output(xfrm, [udp(*INNER[4], payload=bytes(40))], NOW)[0])) == 1


@pytest.mark.parametrize(("count", "stat"), [(5, {}), (6, {"XfrmOutPolError": 1})])
def test_OUT_07_five_transforms_of_six_templates(count: int, stat: dict[str, int]) -> None:
    host, xfrm = nested(*[Mode.TRANSPORT] * count)
    outgoing, _ = host.engine.output(xfrm, [PACKET], NOW)
    assert [opened(host, packet)[0] for packet in wire(outgoing)] == ([] if stat else [[5, 4, 3, 2, 1]])
    assert host.moved() == stat


def test_an_outer_state_that_ends_spends_nothing_of_the_inner_one() -> None:
    """Each packet of a burst is decided as if it came alone (XfrmOutNoStates for those after the end)."""
    host, xfrm = nested(Mode.TUNNEL, Mode.TUNNEL, limits=Limits(hard_packets=2))
    outgoing, replies = host.engine.output(xfrm, [PACKET] * 5, NOW)
    assert len(wire(outgoing)) == 2 and len(replies) == 2
    assert host.moved() == {"XfrmOutStateExpired": 1, "XfrmOutNoStates": 2}
    inner = host.engine.get_state(StateId(FAR[1], 1))
    assert (inner.packets, inner.oseq) == (3, 3), "two that went out, and the one that hit the limit (LT-09)"


def test_OUT_10_level_use() -> None:
    """An optional transport template is skipped without a state; with nothing else the packet may not leave (TX-07)."""
    host, xfrm = nested(Mode.TRANSPORT, Mode.TUNNEL)
    engine = host.engine
    (policy,) = engine.policies()
    inner, outer = policy.templates
    optional = dataclasses.replace(inner, optional=1)
    engine.update_policy(dataclasses.replace(policy.info, templates=(optional, outer)), NOW)
    assert [opened(host, p)[0] for p in wire(engine.output(xfrm, [PACKET], NOW)[0])] == [[2, 1]]
    engine.delete_state(StateId(INNER[4][1], 1), NOW)
    assert [opened(host, p)[0] for p in wire(engine.output(xfrm, [PACKET], NOW)[0])] == [[2]]
    engine.update_policy(dataclasses.replace(policy.info, templates=(optional,)), NOW)
    before = raised(xfrm)
    outgoing, replies = engine.output(xfrm, [PACKET], NOW)
    assert outgoing == [] and len(replies) == 1 and host.moved() == {}
    assert raised(xfrm) == before | REFUSED


def test_TX_08_a_state_that_is_not_of_this_if_id() -> None:
    """An if_id may be changed under a policy that still names the old one: the lookup no longer finds it."""
    pair = Pair()
    assert len(pair.emit(PACKET)) == 1
    pair.left.engine.update_state(tunnel_state(*OUTER[4], 0x1000, if_id=43), NOW)
    assert pair.emit(PACKET) == [] and pair.left.moved() == {"XfrmOutNoStates": 1}


class MyRoutes(StaticRouter):
    """Chooses OUTER[4][0] as a source, and knows no way to `cut`."""

    def __init__(self, cut: str = "0.0.0.0") -> None:
        super().__init__()
        self.cut = pack_address(cut)

    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        return None if dst == self.cut else Route(1500, 1, src if any(src) else pack_address(OUTER[4][0]))


def without_source(router: StaticRouter) -> tuple[Host, Interface]:
    host = Host()
    host.engine.router = router
    host.engine.add_policy(PolicyInfo(ANY, Dir.OUT, 42, (Template("0.0.0.0", OUTER[4][1], reqid=1),)), NOW)
    return host, host.interface()


def test_OUT_09_a_template_without_source_takes_the_hosts() -> None:
    host, xfrm = without_source(MyRoutes())
    host.engine.add_state(tunnel_state("192.0.2.99", OUTER[4][1], 0x1001), NOW)
    assert host.engine.output(xfrm, [PACKET], NOW)[0] == [], "the other source's state is not ours"
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000), NOW)
    assert [outer_spi(p) for p in wire(host.engine.output(xfrm, [PACKET], NOW)[0])] == [0x1000]


def test_OUT_09_without_a_route_there_is_no_source() -> None:
    host, xfrm = without_source(MyRoutes(cut=OUTER[4][1]))
    outgoing, replies = host.engine.output(xfrm, [PACKET], NOW)
    assert outgoing == [] and len(replies) == 1 and raised(xfrm) == REFUSED
    assert host.moved() == {"XfrmOutPolError": 1}


def test_TX_03_dev_of_a_policy_is_the_link_and_binds_the_outer_packet() -> None:
    asked: list[int] = []

    class Asked(StaticRouter):
        def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
            asked.append(ifindex)
            return super().route(dst, src, ifindex, mark)

    engine = Engine(Asked())
    on_2, on_3 = engine.add_interface("a", 42, link=2), engine.add_interface("b", 43, link=3)
    for if_id in (42, 43):
        engine.add_state(tunnel_state(*OUTER[4], if_id, if_id=if_id), NOW)
        selector = Selector.parse("0.0.0.0/0", ifindex=2)
        engine.add_policy(PolicyInfo(selector, Dir.OUT, if_id, (Template(*OUTER[4], reqid=1),)), NOW)
    (outgoing,), _ = engine.output(on_2, [PACKET], NOW)
    assert outgoing.path.ifindex == 2 and asked == [0, 2]
    assert engine.output(on_3, [PACKET], NOW)[0] == []


@pytest.mark.parametrize(("link", "routes", "way_out"), [(0, (0,), 0), (1, (0,), 0), (9, (0,), 0), (2, (0, 2), 2)])
def test_dev_binds_unless_it_is_lo_or_gone(link: int, routes: tuple[int, ...], way_out: int) -> None:
    class Some(StaticRouter):
        def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
            return super().route(dst, src, ifindex, mark) if ifindex in routes else None

    pair = Pair()
    pair.left.engine.router = Some(ifindex=3)
    pair.xfrm_left.link = link
    (outgoing,), _ = pair.left.engine.output(pair.xfrm_left, [PACKET], NOW)
    assert outgoing.path.ifindex == way_out


@pytest.mark.parametrize(("marked_routes_to", "way_out"), [(3, (7, 0)), (9, (7, 2)), (None, (7, 2))])
def test_an_output_mark_chooses_the_way_rather_than_dev(marked_routes_to: int | None, way_out: tuple[int, int]) -> None:
    """Where the rules for the mark lead out. A tunnel is moved to another network by another mark."""

    class Ruled(StaticRouter):
        def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
            assert mark == 7
            to = ifindex or marked_routes_to
            return Route(1500, to, src) if to else None

    pair = Pair(mode=Mode.TRANSPORT, flags=0, set_mark=Mark(7, 0xFFFFFFFF))
    template = Template(*OUTER[4], mode=Mode.TRANSPORT, reqid=1)
    pair.left.engine.update_policy(PolicyInfo(ANY, Dir.OUT, 42, (template,)), NOW)
    pair.left.engine.router = Ruled()
    pair.xfrm_left.ifindex, pair.xfrm_left.link = 9, 2
    (outgoing,), _ = pair.left.engine.output(pair.xfrm_left, [udp(*OUTER[4])], NOW)
    assert (outgoing.path.mark, outgoing.path.ifindex) == way_out


@pytest.mark.parametrize("quirks", [False, True])
def test_TX_03_a_kernel_asks_the_routing_tables_only(quirks: bool) -> None:
    pair = Pair()
    pair.left.engine.kernel_quirks = quirks
    pair.xfrm_left.link = 2
    (outgoing,), _ = pair.left.engine.output(pair.xfrm_left, [PACKET], NOW)
    assert outgoing.path.ifindex == (0 if quirks else 2)


@pytest.mark.parametrize("quirks", [False, True])
def test_TX_10_transport_mode_by_dev(quirks: bool) -> None:
    """Its packets are always routed into the device. A kernel takes that for a loop."""
    pair = Pair(mode=Mode.TRANSPORT, flags=0)
    template = Template(*OUTER[4], mode=Mode.TRANSPORT, reqid=1)
    pair.left.engine.update_policy(PolicyInfo(ANY, Dir.OUT, 42, (template,)), NOW)
    pair.left.engine.kernel_quirks = quirks
    pair.left.engine.router = StaticRouter(ifindex=9)
    pair.xfrm_left.ifindex, pair.xfrm_left.link = 9, 2
    assert len(pair.emit(udp(*OUTER[4]))) == (not quirks)
    assert pair.xfrm_left.collisions == quirks


@pytest.mark.parametrize("quirks", [False, True])
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("outer", [4, 6])
def test_TX_12a_a_small_ipv6_packet_on_a_narrow_path(outer: int, local: bool, quirks: bool) -> None:
    """Sent in fragments. A kernel means to, and drops it; and tells who is not on this host what nobody believes."""
    pair = Pair(outer, mtu=1280)
    pair.left.engine.kernel_quirks = quirks
    packet = udp(INNER[6][0] if local else "2001:db8:9::9", INNER[6][1], bytes(1230))
    outgoing, replies = pair.left.engine.output(pair.xfrm_left, [packet], NOW)
    if quirks:
        assert outgoing == [] and raised(pair.xfrm_left) == {"tx_errors": 1, "tx_aborted_errors": 1}
        assert [int.from_bytes(reply[44:48], "big") for reply in replies] == [{4: 1226, 6: 1206}[outer]] * (not local)
        return
    (sealed,) = wire(outgoing)
    assert len(sealed) > 1280 and replies == []
    assert raised(pair.xfrm_left) == {"tx_packets": 1, "tx_bytes": len(packet)}
    assert outer == 6 or (not sealed[6] & 0x40 and checksum(sealed[:20]) == 0)
    assert receive(pair.right.engine, [sealed]) == [packet]


@pytest.mark.parametrize("outer", [4, 6])
def test_5_3_the_ttl_is_that_of_the_route(outer: int) -> None:
    """5.4, too, and whatever the inner one is. A route that changes counts from the next decision on."""

    class Hops(StaticRouter):
        hop_limit = 9

        def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
            return Route(1500, 0, src or any_address(family_of(dst)), hop_limit=self.hop_limit)

    pair = Pair(outer)
    router = Hops()
    pair.left.engine.router = router
    at = 8 if outer == 4 else 7
    assert [packet[at] for packet in pair.emit(udp(*INNER[4], ttl=3), udp(*INNER[6], ttl=4))] == [9, 9]
    router.hop_limit = 200
    (packet,) = pair.emit(udp(*INNER[4], ttl=3), now=NOW + 1)
    assert packet[at] == 200
    assert outer == 6 or checksum(packet[:20]) == 0


def test_5_3_each_of_two_tunnels_has_the_ttl_of_its_own_route() -> None:
    """As if each began at this host, which it does."""

    class Hops(StaticRouter):
        def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
            return Route(1500, 0, src or any_address(family_of(dst)), hop_limit=77 if dst == far_end else 88)

    far_end = pack_address(FAR[1])
    host, xfrm = nested(Mode.TUNNEL, Mode.TUNNEL)
    host.engine.router = Hops()
    (packet,) = wire(host.engine.output(xfrm, [udp(*INNER[4], ttl=3)], NOW)[0])
    assert packet[8] == 88
    assert [state.ttl for state in reversed(list(host.engine.states()))] == [77, 88]


def test_TX_12a_in_a_burst() -> None:
    """What may be fragmented now says nothing of the packets that come in its place (core/rows.py)."""
    pair = Pair(mtu=1280)
    small, large = (udp(*INNER[6], bytes(length)) for length in (1000, 1230))
    for packet, df in ((large, 0), (small, 0x40), (large, 0), (small, 0x40)):
        for sealed in pair.emit(*[packet] * 20):
            assert sealed[6] == df and checksum(sealed[:20]) == 0
    pair.left.router.mtu = 1500
    pair.left.router.generation += 1
    assert {sealed[6] for sealed in pair.emit(*[large] * 20)} == {0x40}


def test_TX_10_a_tunnel_whose_peer_is_behind_itself_loops_whatever_dev_says() -> None:
    pair = Pair()
    pair.left.engine.router = StaticRouter(ifindex=9)
    pair.xfrm_left.ifindex, pair.xfrm_left.link = 9, 2
    assert pair.left.engine.output(pair.xfrm_left, [PACKET], NOW)[0] == []
    assert raised(pair.xfrm_left) == {"tx_errors": 1, "tx_dropped": 1, "collisions": 1}


@pytest.mark.parametrize("away", [False, True])
def test_TX_10_loops(away: bool) -> None:
    """In another namespace the number is another device's."""
    pair = Pair()
    pair.left.engine.router = StaticRouter(ifindex=9)
    pair.xfrm_left.ifindex, pair.xfrm_left.away = 9, away
    outgoing, replies = pair.left.engine.output(pair.xfrm_left, [PACKET] * 2, NOW)
    assert replies == [] and pair.left.moved() == {}
    if away:
        assert len(wire(outgoing)) == 2
    else:
        assert outgoing == [] and raised(pair.xfrm_left) == {"tx_errors": 2, "tx_dropped": 2, "collisions": 2}


# The cache --------------------------------------------------------------------------------------------------------


def newer_state(engine: Engine) -> None:
    engine.add_state(tunnel_state(*OUTER[4], 0x7000), NOW + 1)


def no_state(engine: Engine) -> None:
    engine.delete_state(StateId(OUTER[4][1], 0x1000), NOW)


def flushed_states(engine: Engine) -> None:
    engine.flush_states(0, NOW)


def no_policy(engine: Engine) -> None:
    engine.delete_policy(PolicyId(ANY, Dir.OUT, 42), NOW)


def block(engine: Engine) -> None:
    engine.update_policy(PolicyInfo(ANY, Dir.OUT, 42, action=Action.BLOCK), NOW)


def better_policy(engine: Engine) -> None:
    engine.update_policy(PolicyInfo(ANY, Dir.OUT, 42, (Template(*OUTER[4], reqid=1),), priority=10), NOW)
    selector = Selector.parse(f"{INNER[4][0]}/32", f"{INNER[4][1]}/32")
    engine.add_policy(PolicyInfo(selector, Dir.OUT, 42, action=Action.BLOCK), NOW)


def moved_if_id(engine: Engine) -> None:
    engine.change_interface("xfrm0", 43)


def expired(engine: Engine) -> None:
    engine.sad.expire(StateId(OUTER[4][1], 0x1000), True, NOW)


@pytest.mark.parametrize(
    ("change", "spis", "stat"),
    [
        (newer_state, [0x7000], {}),
        (no_state, [], {"XfrmOutNoStates": 1}),
        (flushed_states, [], {"XfrmOutNoStates": 1}),
        (expired, [], {"XfrmOutNoStates": 1}),
        (no_policy, [], {}),
        (block, [], {"XfrmOutPolBlock": 1}),
        (better_policy, [], {"XfrmOutPolBlock": 1}),
        (moved_if_id, [], {}),
    ],
)
def test_a_change_of_the_tables_counts_from_the_next_packet_on(
    change: Callable[[Engine], None], spis: list[int], stat: dict[str, int]
) -> None:
    pair = Pair()
    engine = pair.left.engine
    assert [outer_spi(p) for p in pair.emit(PACKET, PACKET)] == [0x1000] * 2
    generation = engine.generation
    change(engine)
    assert engine.generation != generation or change is moved_if_id
    assert [outer_spi(p) for p in pair.emit(PACKET)] == spis
    assert pair.left.moved() == stat


def test_an_update_of_the_encapsulation_counts_from_the_next_packet_on() -> None:
    pair = Pair(encap=Encap())
    ports = [p[20:24].hex() for p in pair.emit(PACKET)]
    pair.left.engine.update_state(tunnel_state(*OUTER[4], 0x1000, encap=Encap(dport=61000)), NOW)
    outgoing, _ = pair.left.engine.output(pair.xfrm_left, [PACKET], NOW)
    assert [*ports, wire(outgoing)[0][20:24].hex()] == ["11941194", "1194ee48"]
    assert outgoing[0].path.dport == 61000


def test_flows_are_decided_once_a_second() -> None:
    """A decision is neither made for each packet nor kept for ever; a refusal is made for each packet (OUT-05)."""
    pair = Pair()
    lookups = []
    resolve = pair.left.engine.sad.resolve
    pair.left.engine.sad.resolve = lambda *args, **kwargs: lookups.append(args) or resolve(*args, **kwargs)  # type: ignore[method-assign,func-returns-value]
    for after in (0, 0.3, 0.99, 1, 1.5, 2):
        pair.emit(PACKET, PACKET, now=NOW + after)
    assert len(lookups) == 3
    pair.left.engine.flush_states(0, NOW)
    lookups.clear()
    pair.emit(PACKET, PACKET, now=NOW + 2)
    assert len(lookups) == 2


def test_the_cache_of_flows_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xfrmi.core.output.MAX_FLOWS", 8)
    pair = Pair()
    packets = [udp(*INNER[4], sport=1 + n) for n in range(50)]
    assert pair.send(*packets) == packets
    assert len(pair.xfrm_left.flows) <= 9


def test_packets_of_several_flows_keep_their_order_within_a_flow() -> None:
    pair = Pair()
    packets = [udp(*INNER[v], sport=port) for port in (1, 2, 1, 1, 3) for v in (4, 6)] * 3
    assert pair.send(*packets) == packets
    assert pair.xfrm_left.tx_bytes == sum(map(len, packets))


def test_each_flow_goes_through_its_own_states() -> None:
    """However they are mixed in a burst: by destination here, over either family."""
    host = Host()
    xfrm = host.interface()
    for version, spi in ((4, 0x1000), (6, 0x2000)):
        host.engine.add_state(tunnel_state(*OUTER[version], spi), NOW)
        selector = Selector.parse("", f"10.0.0.{version}/32")
        host.engine.add_policy(PolicyInfo(selector, Dir.OUT, 42, (Template(*OUTER[version], reqid=1),)), NOW)
    mixed = [4, 6, 6, 4, 4, 6]
    outgoing, _ = host.engine.output(xfrm, [udp(INNER[4][0], f"10.0.0.{v}") for v in mixed], NOW)
    assert [packet[0] >> 4 for packet in wire(outgoing)] == mixed
    assert [len(group.path.dst) for group in outgoing] == [4, 16, 4, 16]
    assert [state.packets for state in host.engine.states()] == [3, 3]


# Super-packets ----------------------------------------------------------------------------------------------------


def tcp_super(size: int = 1000, length: int = 10_500) -> SuperPacket:
    from scapy.layers.inet import IP

    def layer(number: int) -> Any:
        return IP(src=INNER[4][0], dst=INNER[4][1], id=number + 1, flags="DF")

    whole, _ = scapy_tcp(layer, payload(length), size, options=[], flags=0x18)
    return super_packet(whole, GSO_TCPV4, size)


def test_a_super_packet_is_one_packet_to_the_device_and_many_to_the_state() -> None:
    pair = Pair()
    packet = tcp_super()
    segments = [bytes(cut) for cut in segment(packet)]
    (before,) = (after,) = [bytes(cut) for cut in segment(tcp_super(length=500))]
    outgoing, replies = pair.left.engine.output(pair.xfrm_left, [before, packet, after], NOW)
    assert replies == [] and len(outgoing) == 1
    assert receive(pair.right.engine, wire(outgoing)) == [before, *segments, after]
    sizes = len(before) + len(packet.data) + len(after)
    assert raised(pair.xfrm_left) == {"tx_packets": 3, "tx_bytes": sizes}
    state = pair.left.engine.get_state(StateId(OUTER[4][1], 0x1000))
    assert state.packets == state.oseq == 13 and state.bytes == len(before) + sum(map(len, segments)) + len(after)
    assert pair.xfrm_right.rx_packets == 13


def test_TX_12_a_super_packet_is_measured_by_its_segments() -> None:
    pair = Pair()
    fits = tcp_super(1446 - 40, 4 * 1406)
    assert fits.segment_len == 1446
    outgoing, replies = pair.left.engine.output(pair.xfrm_left, [fits], NOW)
    assert len(wire(outgoing)) == 4 and replies == []
    outgoing, (reply,) = pair.left.engine.output(pair.xfrm_left, [tcp_super(1447 - 40, 3000)], NOW)
    assert outgoing == [] and int.from_bytes(reply[26:28], "big") == 1446
    stats = pair.xfrm_left.stats()
    assert (stats.tx_packets, stats.tx_errors, stats.tx_dropped) == (1, 1, 1)


def test_a_refused_super_packet_is_one_refusal() -> None:
    pair = Pair()
    pair.left.engine.flush_states(0, NOW)
    outgoing, replies = pair.left.engine.output(pair.xfrm_left, [tcp_super()], NOW)
    assert outgoing == [] and len(replies) == 1 and len(replies[0]) == 576
    assert pair.left.moved() == {"XfrmOutNoStates": 1} and raised(pair.xfrm_left) == REFUSED


@pytest.mark.parametrize(
    ("fields", "left", "stat"),
    [
        ({"limits": Limits(hard_packets=4)}, 4, {"XfrmOutStateExpired": 1}),
        ({"replay": Replay(oseq=0xFFFFFFFF - 4)}, 4, {"XfrmOutStateSeqError": 1}),
        ({"limits": Limits(hard_packets=0)}, 0, {"XfrmOutStateExpired": 1}),
    ],
)
def test_a_super_packet_fails_with_its_first_segment_that_fails(
    fields: dict[str, Any], left: int, stat: dict[str, int]
) -> None:
    pair = Pair(**fields)
    outgoing, replies = pair.left.engine.output(pair.xfrm_left, [tcp_super()], NOW)
    assert len(wire(outgoing)) == left and replies == []
    assert pair.left.moved() == stat
    assert raised(pair.xfrm_left) == {"tx_errors": 1, "tx_aborted_errors": 1}


def test_a_state_that_ends_before_a_super_packet_is_not_used_for_it() -> None:
    pair = Pair(limits=Limits(hard_packets=1))
    outgoing, replies = pair.left.engine.output(pair.xfrm_left, [PACKET, PACKET, tcp_super(), PACKET], NOW)
    assert len(wire(outgoing)) == 1 and len(replies) == 2
    assert pair.left.moved() == {"XfrmOutStateExpired": 1, "XfrmOutNoStates": 2}
    sent = {"tx_packets": 1, "tx_bytes": LENGTH}
    dropped = {"tx_dropped": 2, "tx_carrier_errors": 2}
    assert raised(pair.xfrm_left) == sent | dropped | {"tx_errors": 3, "tx_aborted_errors": 1}


def test_a_younger_state_takes_over_within_a_burst() -> None:
    pair = Pair(limits=Limits(soft_packets=20, hard_packets=30))
    pair.left.engine.add_state(tunnel_state(*OUTER[4], 0x9000), NOW - 100)
    outer = pair.emit(*[PACKET] * 64)
    assert len(outer) == 63 and pair.left.moved() == {"XfrmOutStateExpired": 1}
    assert [outer_spi(p) for p in outer].count(0x1000) == 30
    assert [outer_spi(p) for p in outer] == sorted(map(outer_spi, outer)), "first the one, then the other"


# Fragments, failures, and devices that cannot send ----------------------------------------------------------------


def test_fragments_travel_as_they_are() -> None:
    """5.3. Without ports: a policy that asks for any does not see them, neither the first nor the others (2.1)."""
    pair = Pair()
    fragments = [bytes(f) for f in fragment_ipv4(udp(*INNER[4], payload=bytes(3000), df=False), 1300, 9)]
    assert len(fragments) == 3 and pair.send(*fragments) == fragments
    engine = pair.left.engine
    engine.delete_policy(PolicyId(ANY, Dir.OUT, 42), NOW)
    by_port = Selector.parse("0.0.0.0/0", proto=IPPROTO_UDP, dport=2222)
    engine.add_policy(PolicyInfo(by_port, Dir.OUT, 42, (Template(*OUTER[4], reqid=1),)), NOW)
    assert len(pair.emit(PACKET)) == 1
    outgoing, replies = engine.output(pair.xfrm_left, fragments, NOW)
    assert outgoing == []
    assert [reply[28:34] for reply in replies] == [fragments[0][:6]], "no ICMP about later fragments (RFC 1812)"
    assert pair.xfrm_left.tx_carrier == 3


def test_send_failures_take_back_what_was_counted() -> None:
    """1.4: each with its own length, and none twice."""
    pair = Pair()
    packets = [udp(*INNER[4], payload=bytes(size)) for size in (10, 20, 20, 40)]
    (outgoing,), _ = pair.left.engine.output(pair.xfrm_left, packets, NOW)
    pair.left.engine.send_failed(outgoing, [3])
    pair.left.engine.send_failed(outgoing, [1, 3])
    failed = {"tx_errors": 2, "tx_aborted_errors": 2}
    assert raised(pair.xfrm_left) == {"tx_packets": 2, "tx_bytes": 2 * 28 + 10 + 20} | failed
    pair.left.engine.send_failed(outgoing, range(4))
    assert raised(pair.xfrm_left) == {"tx_errors": 4, "tx_aborted_errors": 4}


@pytest.mark.parametrize("positions", [[range(11)], [[0]], [[number] for number in range(11)], [[5], [4, 6]]])
def test_a_super_packet_fails_once_however_many_segments_do(positions: list[list[int]]) -> None:
    pair = Pair()
    (outgoing,), _ = pair.left.engine.output(pair.xfrm_left, [PACKET, tcp_super(), PACKET], NOW)
    assert len(outgoing.packets) == 13
    for failed in positions:
        pair.left.engine.send_failed(outgoing, [1 + position for position in failed])
    assert raised(pair.xfrm_left) == {
        "tx_packets": 2, "tx_bytes": 2 * LENGTH, "tx_errors": 1, "tx_aborted_errors": 1
    }  # fmt: skip


def test_what_has_been_aborted_is_not_charged_again() -> None:
    """The sequence number ends within a super-packet: its first segments are on their way, all of it has failed."""
    pair = Pair(replay=Replay(oseq=0xFFFFFFFF - 4))
    (outgoing,), _ = pair.left.engine.output(pair.xfrm_left, [PACKET, tcp_super()], NOW)
    assert len(outgoing.packets) == 4
    before = {"tx_packets": 1, "tx_bytes": LENGTH, "tx_errors": 1, "tx_aborted_errors": 1}
    assert raised(pair.xfrm_left) == before
    pair.left.engine.send_failed(outgoing, [1, 2, 3])
    assert raised(pair.xfrm_left) == before
    pair.left.engine.send_failed(outgoing, [0])
    assert raised(pair.xfrm_left) == {"tx_errors": 2, "tx_aborted_errors": 2}


def test_TX_04_an_external_device_has_no_if_id_to_send_with() -> None:
    host = Host()
    external = host.interface("any0", 0, external=True)
    for info in policies(*OUTER[4], if_id=0, out=True):
        host.engine.add_policy(info, NOW)
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, if_id=0), NOW)
    assert host.engine.output(external, [PACKET] * 3, NOW) == ([], [])
    assert raised(external) == {"tx_errors": 3, "tx_dropped": 3} and host.moved() == {}


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(40), b"\x60" + bytes(20), b"\x4f" + bytes(30)])
def test_TX_01_what_is_neither_ipv4_nor_ipv6(packet: bytes) -> None:
    pair = Pair()
    assert pair.left.engine.output(pair.xfrm_left, [packet], NOW) == ([], [])
    assert raised(pair.xfrm_left) == {"tx_errors": 1, "tx_dropped": 1} and pair.left.moved() == {}


def test_set_mark_is_the_mark_of_the_way_out() -> None:
    """3.8."""
    marks: list[int] = []

    class Marks(StaticRouter):
        def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
            marks.append(mark)
            return Route(1500, 1, src or any_address(family_of(dst)))

    engine = Engine(Marks())
    xfrm = engine.add_interface("xfrm0", 42)
    info: StateInfo = tunnel_state(*OUTER[4], 0x1000, set_mark=Mark(0xFF, 0x0F))
    engine.add_state(info, NOW)
    for policy in policies(*OUTER[4], out=True):
        engine.add_policy(policy, NOW)
    (outgoing,), _ = engine.output(xfrm, [PACKET], NOW)
    assert outgoing.path.mark == 0x0F and marks == [0x0F]


@each("limit", [*range(12), XFRM_INF])
def test_short_super_packets_share_a_run_and_are_counted_as_if_they_did_not(limit: int) -> None:
    """A state may end before, between or within them."""
    together, apart = Pair(limits=Limits(hard_packets=limit)), Pair(limits=Limits(hard_packets=limit))
    burst = [PACKET, tcp_super(100, 200), tcp_super(100, 250), PACKET, tcp_super(100, 300), PACKET]
    outgoing, replies = together.left.engine.output(together.xfrm_left, burst, NOW)
    one_by_one = [apart.left.engine.output(apart.xfrm_left, [packet], NOW) for packet in burst]
    assert [len(packet) for packet in wire(outgoing)] == [
        len(packet) for groups, _ in one_by_one for packet in wire(groups)
    ]
    assert replies == [reply for _, back in one_by_one for reply in back]
    assert raised(together.xfrm_left) == raised(apart.xfrm_left)
    assert together.left.moved() == apart.left.moved()
    for group in outgoing:
        group.fail(range(len(group.packets)))
    for groups, _ in one_by_one:
        for group in groups:
            group.fail(range(len(group.packets)))
    assert raised(together.xfrm_left) == raised(apart.xfrm_left)
