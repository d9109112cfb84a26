"""core.input: what the conformance tests (test_engine.py) leave open of the way in."""

from __future__ import annotations

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Host, Pair, forge, policies, raised, receive, tunnel_state
from xfrmi.core import Interface, PolicyInfo, Selector, Template
from xfrmi.core.esp import seal
from xfrmi.wire.address import pack_address
from xfrmi.wire.icmp import host_unreachable
from xfrmi.wire.ip import checksum, pseudo_header_sum, split_outer
from xfrmi.wire.xfrm_const import (
    IPPROTO_IPIP,
    IPPROTO_UDP,
    STATE_ICMP,
    Action,
    Default,
    Dir,
    Mode,
    PolicyType,
)
from xfrmi.wire.xfrm_types import Encap, Limits, Mark, PolicyId, StateId

ANY = Selector.parse("0.0.0.0/0")
PACKET = udp(*INNER[4])
LENGTH = len(PACKET)
ELSEWHERE = udp(INNER[4][0], "203.0.113.5")
IN_TEMPLATE = Template(*OUTER[4], reqid=1)
RECEIVED = {"rx_packets": 1, "rx_bytes": LENGTH}


def only(pair: Pair, *infos: PolicyInfo) -> None:
    """Let right have these policies and no others."""
    pair.right.engine.flush_policies(PolicyType.MAIN, NOW)
    for info in infos:
        pair.right.engine.add_policy(info, NOW)


@pytest.mark.parametrize(
    ("direction", "local", "forwarded"), [(Dir.IN, [PACKET], []), (Dir.FWD, [], [ELSEWHERE])], ids=["in", "fwd"]
)
def test_IN_15_what_is_forwarded_needs_a_fwd_policy(direction: Dir, local: list[bytes], forwarded: list[bytes]) -> None:
    pair = Pair()
    only(pair, PolicyInfo(ANY, direction, 42, (IN_TEMPLATE,)))
    assert pair.send(PACKET) == local
    assert pair.send(ELSEWHERE) == forwarded
    assert pair.right.moved() == {"XfrmInNoPols": 1}
    assert raised(pair.xfrm_right) == {"rx_packets": 2, "rx_bytes": 2 * LENGTH}


def test_IN_07_block() -> None:
    pair = Pair()
    only(pair, PolicyInfo(ANY, Dir.IN, 42, action=Action.BLOCK))
    assert pair.send(PACKET) == []
    assert pair.right.moved() == {"XfrmInPolBlock": 1} and raised(pair.xfrm_right) == RECEIVED


def test_IN_10_a_policy_without_template_does_not_want_a_tunnel() -> None:
    pair = Pair()
    only(pair, PolicyInfo(ANY, Dir.IN, 42))
    assert pair.send(PACKET) == []
    assert pair.right.moved() == {"XfrmInTmplMismatch": 1}


@pytest.mark.parametrize(("ifindex", "delivered"), [(1, 1), (4, 0)])
def test_Q1_dev_of_an_in_policy_is_lo(ifindex: int, delivered: int) -> None:
    """The device of the route, not the one it came by (2.1)."""
    pair = Pair()
    pair.xfrm_right.ifindex = 4
    only(pair, PolicyInfo(Selector.parse("0.0.0.0/0", ifindex=ifindex), Dir.IN, 42, (IN_TEMPLATE,)))
    assert len(pair.send(PACKET)) == delivered


@pytest.mark.parametrize(("ifindex", "forwarded"), [(0, 1), (1, 0), (4, 0), (5, 0)])
def test_2_1_dev_of_a_fwd_policy_matches_nothing(ifindex: int, forwarded: int) -> None:
    """The way on is the host's to find, after the check (docs/deviations.md)."""
    pair = Pair()
    pair.xfrm_right.ifindex = 4
    only(pair, PolicyInfo(Selector.parse("0.0.0.0/0", ifindex=ifindex), Dir.FWD, 42, (IN_TEMPLATE,)))
    assert len(pair.send(ELSEWHERE)) == forwarded


@pytest.mark.parametrize(
    ("joins", "block", "delivered"), [(Dir.IN, True, 0), (Dir.FWD, True, 1), (Dir.IN, False, 1)], ids=str
)
def test_SPD_23_the_main_policy_that_joins_a_fwd_one_is_of_direction_in(
    joins: Dir, block: bool, delivered: int
) -> None:
    """So it is in the kernel, and one `fwd` main policy that blocks is not asked beside a sub policy."""
    pair = Pair()
    main = PolicyInfo(ANY, joins, 42, action=Action.BLOCK if block else Action.ALLOW)
    only(pair, PolicyInfo(ANY, Dir.FWD, 42, (IN_TEMPLATE,), type=PolicyType.SUB), main)
    assert len(pair.send(ELSEWHERE)) == delivered
    assert pair.right.moved() == ({} if delivered else {"XfrmInPolBlock": 1})
    assert bool(pair.right.engine.spd.dump()[0].use_time) == (joins == Dir.IN)


@pytest.mark.parametrize(("default", "delivered"), [(Default.ACCEPT, 1), (Default.BLOCK, 0)])
def test_IN_05_transport_needs_no_policy_unless_the_default_blocks(default: Default, delivered: int) -> None:
    """Quirk Q5. And the device counts only what follows the IP header (1.4)."""
    left, right = Host(INNER[4][0]), Host(INNER[4][1])
    xfrm_left, xfrm_right = left.interface(), right.interface()
    info = tunnel_state(*INNER[4], 0x1000, mode=Mode.TRANSPORT, flags=0)
    left.engine.add_state(info, NOW)
    right.engine.add_state(info, NOW)
    left.engine.add_policy(PolicyInfo(ANY, Dir.OUT, 42, (Template(*INNER[4], mode=Mode.TRANSPORT, reqid=1),)), NOW)
    right.engine.spd.set_default(default, default, Default.ACCEPT)
    outgoing, _ = left.engine.output(xfrm_left, [PACKET], NOW)
    assert len(receive(right.engine, [bytes(p) for p in outgoing[0].packets])) == delivered
    assert raised(xfrm_right) == {"rx_packets": 1, "rx_bytes": LENGTH - 20}
    assert right.moved() == ({} if delivered else {"XfrmInNoPols": 1})


# Verdicts are kept, but not for too long --------------------------------------------------------------------------


def test_a_change_of_the_tables_counts_from_the_next_packet_on() -> None:
    pair = Pair()
    engine = pair.right.engine
    assert pair.send(PACKET, PACKET) == [PACKET] * 2
    engine.delete_policy(PolicyId(ANY, Dir.IN, 42), NOW)
    assert pair.send(PACKET) == []
    engine.add_policy(PolicyInfo(ANY, Dir.IN, 42, (IN_TEMPLATE,)), NOW)
    assert pair.send(PACKET) == [PACKET]
    selector = Selector.parse("0.0.0.0/0", proto=IPPROTO_UDP, dport=2222)
    engine.update_policy(PolicyInfo(ANY, Dir.IN, 42, (IN_TEMPLATE,), priority=7), NOW)
    engine.add_policy(PolicyInfo(selector, Dir.IN, 42, action=Action.BLOCK), NOW)
    assert pair.send(PACKET) == []
    assert pair.right.moved() == {"XfrmInNoPols": 1, "XfrmInPolBlock": 1}


def test_a_verdict_is_for_one_state() -> None:
    """The same flow through another state is another question."""
    pair = Pair()
    pair.right.engine.add_state(tunnel_state(*OUTER[4], 0x5000, reqid=5), NOW)
    assert receive(pair.right.engine, [forge(PACKET, IPPROTO_IPIP)]) == [PACKET]
    assert receive(pair.right.engine, [forge(PACKET, IPPROTO_IPIP, spi=0x5000)]) == []
    assert receive(pair.right.engine, [forge(PACKET, IPPROTO_IPIP, seq=2)]) == [PACKET]
    assert pair.right.moved() == {"XfrmInTmplMismatch": 1}


def test_a_verdict_is_for_one_destination() -> None:
    """Our own addresses may change: the router says so."""
    pair = Pair()
    only(pair, PolicyInfo(ANY, Dir.IN, 42, (IN_TEMPLATE,)))
    assert pair.send(PACKET) == [PACKET]
    router = pair.right.router
    router.local = frozenset()
    router.generation += 1
    assert pair.send(PACKET) == [] and pair.right.moved() == {"XfrmInNoPols": 1}


def test_policies_are_used_by_every_packet() -> None:
    """2.7: use_time, also where the verdict was known already."""
    pair = Pair()
    policy = pair.right.engine.get_policy(PolicyId(ANY, Dir.IN, 42))
    assert policy.use_time == 0
    for now in (NOW, NOW + 5, NOW + 60):
        assert pair.send(PACKET, now=now) == [PACKET]
        assert policy.use_time == int(now)


def test_the_cache_of_verdicts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xfrmi.core.verdict.MAX_VERDICTS", 8)
    pair = Pair()
    for port in range(50):
        packet = udp(*INNER[4], sport=1 + port)
        assert pair.send(packet) == [packet]
    assert len(pair.xfrm_right.verdicts) <= 9


# ICMP errors ------------------------------------------------------------------------------------------------------


def icmp_error(about: bytes, router: str) -> bytes:
    """Host unreachable from `router` to the sender of `about`."""
    made = host_unreachable(about, pack_address(router))
    assert made is not None
    return made


def with_icmp_flag(flags: int) -> Pair:
    """Right's state is for the flows of INNER only; a router on the way may be anybody."""
    pair = Pair()
    engine = pair.right.engine
    engine.delete_state(StateId(OUTER[4][1], 0x1000), NOW)
    selector = Selector.parse(f"{INNER[4][0]}/32", f"{INNER[4][1]}/32")
    engine.add_state(tunnel_state(*OUTER[4], 0x1000, selector=selector, flags=flags), NOW)
    return pair


@pytest.mark.parametrize("flags", [STATE_ICMP, 0])
def test_IN_01_flag_icmp_looks_at_what_an_error_quotes(flags: int) -> None:
    """Our packet to INNER[4][0] was refused by a router behind the peer, which is not in the selector. As with a
    kernel, what gets in for the sake of its quote has been refused for itself first, and is counted so."""
    pair = with_icmp_flag(flags)
    error = icmp_error(udp(*reversed(INNER[4])), "203.0.113.9")
    assert receive(pair.right.engine, [forge(error, IPPROTO_IPIP)]) == ([error] if flags else [])
    assert pair.right.moved() == {"XfrmInStateMismatch": 1}


@pytest.mark.parametrize("flags", [STATE_ICMP, 0])
def test_IN_01_flag_icmp_of_a_forwarded_error_counts_nothing(flags: int) -> None:
    pair = with_icmp_flag(flags)
    quoted = udp(*reversed(INNER[4]))
    error = bytearray(icmp_error(quoted, "203.0.113.9"))
    error[16:20] = pack_address("203.0.113.77")
    assert receive(pair.right.engine, [forge(bytes(error), IPPROTO_IPIP)]) == ([bytes(error)] if flags else [])
    assert pair.right.moved() == ({} if flags else {"XfrmInStateMismatch": 1})


@pytest.mark.parametrize(("flags", "delivered"), [(STATE_ICMP, 1), (0, 0)])
def test_flag_icmp_also_finds_the_policy_by_the_quote(flags: int, delivered: int) -> None:
    """3.5. Here the only policy is for the answers of the quoted packet; any ICMP that quotes is taken so."""
    pair = Pair(flags=flags)
    only(pair, PolicyInfo(Selector.parse(f"{INNER[4][0]}/32", f"{INNER[4][1]}/32"), Dir.IN, 42, (IN_TEMPLATE,)))
    error = bytearray(icmp_error(udp(*reversed(INNER[4])), "203.0.113.9"))
    error[20] = 12  # parameter problem
    other = icmp_error(udp(INNER[4][1], "10.9.9.9"), "203.0.113.9")
    outer = [forge(packet, IPPROTO_IPIP, seq=seq) for seq, packet in enumerate((bytes(error), other), 1)]
    assert receive(pair.right.engine, outer) == [bytes(error)] * delivered
    assert pair.right.moved() == {"XfrmInNoPols": 2 + delivered}, "once for each question"


def test_an_error_let_in_for_what_it_quotes_vouches_for_no_other() -> None:
    pair = with_icmp_flag(STATE_ICMP)
    good = icmp_error(udp(*reversed(INNER[4])), "203.0.113.9")
    bad = icmp_error(udp(INNER[4][1], "10.9.9.9"), "203.0.113.9")
    assert bad[12:22] == good[12:22], "one flow: same hosts, same type and code"
    assert receive(pair.right.engine, [forge(good, IPPROTO_IPIP), forge(bad, IPPROTO_IPIP, seq=2)]) == [good]
    assert pair.right.moved() == {"XfrmInStateMismatch": 3}, "once for the good one itself, twice for the bad one"


def test_IN_06_a_forwarded_error_goes_with_the_policy_of_what_it_quotes() -> None:
    pair = Pair()
    answers = Selector.parse("203.0.113.0/24", "203.0.114.0/24")
    only(pair, PolicyInfo(answers, Dir.FWD, 42, (IN_TEMPLATE,)))
    error = icmp_error(udp("203.0.114.1", "203.0.113.1"), "10.0.0.1")
    other = icmp_error(udp("203.0.114.1", "10.9.9.9"), "10.0.0.1")
    assert receive(pair.right.engine, [forge(error, IPPROTO_IPIP), forge(other, IPPROTO_IPIP, seq=2)]) == [error]
    assert pair.right.moved() == {"XfrmInNoPols": 1}


# Which device, and how it is --------------------------------------------------------------------------------------


def test_RX_07_a_device_that_is_down_is_not_there() -> None:
    pair = Pair()
    pair.xfrm_right.up = False
    assert pair.send(PACKET) == []
    assert pair.right.moved() == {"XfrmInNoPols": 1}, "policy IPsec with if_id 0 (RX-05)"
    assert raised(pair.xfrm_right) == {}
    outer = bytearray(pair.emit(PACKET)[0])
    outer[-1] ^= 1
    assert receive(pair.right.engine, [bytes(outer)]) == []
    assert pair.right.moved() == {"XfrmInNoPols": 1, "XfrmInStateProtoError": 1} and raised(pair.xfrm_right) == {}
    pair.xfrm_right.up = True
    assert pair.send(PACKET) == [PACKET]


def test_RX_05_what_a_policy_lets_in_without_a_device_is_counted() -> None:
    """There is nowhere to deliver it to."""
    pair = Pair()
    for info in policies(*OUTER[4], if_id=0, out=False):
        pair.right.engine.add_policy(info, NOW)
    pair.right.engine.delete_interface("xfrm0")
    assert pair.send(PACKET) == [] and pair.right.moved() == {"XfrmInError": 1}


def test_DEV_12_a_change_of_if_id_takes_the_device_away() -> None:
    pair = Pair()
    pair.right.engine.change_interface("xfrm0", 43)
    assert pair.send(PACKET) == [] and raised(pair.xfrm_right) == {}
    pair.right.engine.change_interface("xfrm0", 42)
    assert pair.send(PACKET) == [PACKET]


@pytest.mark.parametrize("if_id", [0, 42, 99])
def test_RX_04_an_external_device_takes_every_state_without_one(if_id: int) -> None:
    """And the policy is that of the state's if_id (RX-09)."""
    right = Host(INNER[4][1])
    external = right.interface("any0", 0, external=True)
    own = right.interface("xfrm0", 42)
    right.engine.add_state(tunnel_state(*OUTER[4], 0x1000, if_id=if_id), NOW)
    right.engine.add_policy(PolicyInfo(ANY, Dir.IN, if_id, (IN_TEMPLATE,)), NOW)
    right.engine.add_policy(PolicyInfo(ANY, Dir.IN, 7, action=Action.BLOCK), NOW)
    datagram = split_outer(forge(PACKET, IPPROTO_IPIP))
    ((interface, packets),) = right.engine.input([datagram], NOW)
    assert interface is (own if if_id == 42 else external) and list(map(bytes, packets)) == [PACKET]
    assert raised(interface) == RECEIVED and right.moved() == {}


def test_an_external_device_refuses_by_the_policy_of_the_states_if_id() -> None:
    right = Host(INNER[4][1])
    external = right.interface("any0", 0, external=True)
    for if_id, spi in ((5, 0x1000), (6, 0x1001)):
        right.engine.add_state(tunnel_state(*OUTER[4], spi, if_id=if_id), NOW)
    right.engine.add_policy(PolicyInfo(ANY, Dir.IN, 5, (IN_TEMPLATE,)), NOW)
    outer = [forge(PACKET, IPPROTO_IPIP, spi=spi, seq=seq) for seq in (1, 2) for spi in (0x1000, 0x1001)]
    assert receive(right.engine, outer) == [PACKET] * 2
    assert right.moved() == {"XfrmInNoPols": 2} and external.rx_packets == 4


def test_RX_10_a_device_elsewhere_asks_before_it_counts() -> None:
    """In another namespace everything is `in`, whatever is local here, and what is refused has not been received."""
    pair = Pair()
    pair.xfrm_right.away = True
    only(pair, PolicyInfo(ANY, Dir.IN, 42, (IN_TEMPLATE,)))
    assert pair.send(PACKET, ELSEWHERE) == [PACKET, ELSEWHERE]
    only(pair, PolicyInfo(ANY, Dir.FWD, 42, (IN_TEMPLATE,)))
    assert pair.send(PACKET, ELSEWHERE) == []
    assert pair.right.moved() == {"XfrmInNoPols": 2}
    counted = {"rx_packets": 2, "rx_bytes": 2 * LENGTH}
    assert raised(pair.xfrm_right) == counted | {"rx_errors": 2, "rx_dropped": 2}


def test_several_devices_in_one_burst() -> None:
    pair = Pair()
    pair.add_tunnel(4, 43, 0x2000)
    other = pair.right.interface("xfrm1", 43)
    outer = [forge(PACKET, IPPROTO_IPIP, spi=spi, seq=seq) for seq in (1, 2) for spi in (0x1000, 0x2000, 0x2000)]
    delivered = pair.right.engine.input([split_outer(p) for p in outer], NOW)
    assert [(interface.name, len(packets)) for interface, packets in delivered] == [
        ("xfrm0", 1), ("xfrm1", 1), ("xfrm0", 1), ("xfrm1", 1),
    ]  # fmt: skip
    assert pair.right.moved() == {"XfrmInStateSeqError": 2} and other.rx_dropped == 2


# What is inside ---------------------------------------------------------------------------------------------------


def test_set_mark_is_what_the_policy_sees() -> None:
    """3.8: applied on input right after the lookup of the state."""
    pair = Pair()
    only(pair, PolicyInfo(ANY, Dir.IN, 42, (IN_TEMPLATE,), mark=Mark(5, 0xFF)))
    assert pair.send(PACKET) == [] and pair.right.moved() == {"XfrmInNoPols": 1}
    pair.right.engine.delete_state(StateId(OUTER[4][1], 0x1000), NOW)
    pair.right.engine.add_state(tunnel_state(*OUTER[4], 0x1000, set_mark=Mark(0xF05, 0x0FF)), NOW)
    assert pair.send(PACKET) == [PACKET]


def test_tfc_padding_is_no_part_of_the_packet() -> None:
    """5.1, 5.5: the receiving IP cuts it off; the device has counted it, and policies do not look at it."""
    pair = Pair()
    padded = PACKET + bytes(100)
    assert receive(pair.right.engine, [forge(padded, IPPROTO_IPIP)]) == [padded]
    assert raised(pair.xfrm_right) == {"rx_packets": 1, "rx_bytes": len(padded)}
    assert pair.right.moved() == {}


@pytest.mark.parametrize(
    ("inner", "delivered"),
    [
        (b"\x4f" + PACKET[1:], False),  # options that are not there
        (PACKET[:2] + b"\xff\xff" + PACKET[4:], False),  # longer than it is
        (PACKET[:2] + b"\x00\x13" + PACKET[4:], False),  # shorter than its header
        (b"\x55" + PACKET[1:], False),  # no version of IP
        (PACKET[:10] + b"\x00\x00" + PACKET[12:], True),  # wrong checksum: the receiving IP's to refuse
    ],
)
def test_an_inner_packet_that_is_not_whole(inner: bytes, delivered: bool) -> None:
    """Received by the device, refused by IP: no counter of xfrm moves."""
    pair = Pair()
    assert receive(pair.right.engine, [forge(inner, IPPROTO_IPIP)]) == [inner] * delivered
    assert raised(pair.xfrm_right) == RECEIVED and pair.right.moved() == {}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("encap", [Encap(), None])
def test_transport_mode_through_a_nat(version: int, encap: Encap | None) -> None:
    """RFC 3948 3.1.2: the NAT has changed the source, which the checksum inside covers. Without UDP there was none."""
    pair = Pair()
    packet = udp(*OUTER[version])
    fields = {"mode": Mode.TRANSPORT, "flags": 0, "encap": encap, "reqid": 2}
    for host in (pair.left, pair.right):
        host.engine.add_state(tunnel_state(*OUTER[version], 0x77, **fields), NOW)
    sealed = bytes(seal(pair.left.engine.get_state(StateId(OUTER[version][1], 0x77)), packet, NOW))
    any_of_it = Selector.parse("::/0" if version == 6 else "0.0.0.0/0")
    only(pair, PolicyInfo(any_of_it, Dir.FWD, 42, (Template(*OUTER[version], reqid=2, mode=Mode.TRANSPORT),)))
    source = slice(12, 16) if version == 4 else slice(8, 24)
    changed = bytearray(sealed)
    changed[source.stop - 1] ^= 0x55
    (inner,) = receive(pair.right.engine, [bytes(changed)])
    assert inner[source] == changed[source] != packet[source]
    start = 20 if version == 4 else 40
    pseudo = pseudo_header_sum(inner[12:20] if version == 4 else inner[8:40], IPPROTO_UDP, len(inner) - start)
    assert (checksum(inner[start:], pseudo) == 0) == (encap is not None)
    assert inner[start : start + 6] + inner[start + 8 :] == packet[start : start + 6] + packet[start + 8 :]


def test_a_packet_of_another_version_than_announced() -> None:
    """As captured ("next header 4 with IPv6 inside"): received, and refused by the IP it is announced for."""
    pair = Pair()
    inner = udp(*INNER[6])
    assert receive(pair.right.engine, [forge(inner, IPPROTO_IPIP)]) == []
    assert raised(pair.xfrm_right) == {"rx_packets": 1, "rx_bytes": len(inner)}
    assert pair.right.moved() == {}


def test_LT_01_a_state_that_ends_within_a_burst() -> None:
    pair = Pair(limits=Limits(hard_packets=3))
    outer = [forge(PACKET, IPPROTO_IPIP, seq=seq) for seq in range(1, 7)]
    assert receive(pair.right.engine, outer) == [PACKET] * 3
    assert pair.right.moved() == {"XfrmInStateExpired": 1, "XfrmInNoStates": 2}
    assert raised(pair.xfrm_right) == {"rx_packets": 3, "rx_bytes": 3 * LENGTH, "rx_errors": 1, "rx_dropped": 1}


# Nested -----------------------------------------------------------------------------------------------------------


def wrapped(levels: int, seq: int = 1, packet: bytes = PACKET) -> bytes:
    """`packet` in so many tunnels, the innermost with SPI 1; all of them end at right."""
    for spi in range(1, levels + 1):
        packet = forge(packet, IPPROTO_IPIP, spi=spi, seq=seq)
    return packet


def nested(levels: int) -> tuple[Host, dict[int, Interface]]:
    """Right with states SPI 1 (innermost) to `levels`, each with an interface of that if_id, and policies to let it
    all through: what comes out of SPI n has come through all of n, n + 1, ... `levels`."""
    right = Host(INNER[4][1], OUTER[4][1])
    devices = {n: right.interface(f"x{n}", n) for n in range(1, levels + 1)}
    for n in devices:
        right.engine.add_state(tunnel_state(*OUTER[4], n, if_id=n, reqid=n), NOW)
        templates = (Template(*OUTER[4], reqid=n),)
        right.engine.add_policy(PolicyInfo(ANY, Dir.IN, n, templates, priority=10), NOW)
    return right, devices


def test_RX_02_tunnels_in_tunnels() -> None:
    """Every device on the way receives, and each policy sees what has not answered before (IN-12)."""
    right, devices = nested(3)
    outer = [wrapped(3, seq) for seq in (1, 2)]
    assert receive(right.engine, outer) == [PACKET] * 2
    assert right.moved() == {}
    sizes = {1: LENGTH, 2: len(wrapped(1)), 3: len(wrapped(2))}
    for n, device in devices.items():
        assert raised(device) == {"rx_packets": 2, "rx_bytes": 2 * sizes[n]}
    assert receive(right.engine, outer) == [] and right.moved() == {"XfrmInStateSeqError": 2}


@pytest.mark.parametrize(
    ("reqids", "stat"),
    [
        ((1, 2), {}),
        ((1, 0), {}),
        ((2, 1), {"XfrmInTmplMismatch": 1}),
        ((1, 9), {"XfrmInTmplMismatch": 1}),
        ((9, 2), {"XfrmInTmplMismatch": 1}),
    ],
)
def test_IN_12_one_policy_for_two_transforms(reqids: tuple[int, int], stat: dict[str, int]) -> None:
    """Templates in the order of output: the last one is the outermost."""
    templates = tuple(Template(*OUTER[4], reqid=reqid) for reqid in reqids)
    right, devices = nested(2)
    # A template asks for the if_id of its policy, too, so both states have to be of one interface.
    for n in (1, 2):
        right.engine.delete_state(StateId(OUTER[4][1], n), NOW)
        right.engine.add_state(tunnel_state(*OUTER[4], n, if_id=2, reqid=n), NOW)
    right.engine.add_policy(PolicyInfo(Selector.parse(*INNER[4]), Dir.IN, 2, templates), NOW)
    assert receive(right.engine, [wrapped(2)]) == ([] if stat else [PACKET])
    assert right.moved() == stat and devices[2].rx_packets == 2


def test_RX_02_the_outer_tunnel_is_checked_before_the_inner_one_is_opened() -> None:
    right, devices = nested(2)
    right.engine.delete_policy(PolicyId(ANY, Dir.IN, 2), NOW)
    assert receive(right.engine, [wrapped(2)]) == []
    assert right.moved() == {"XfrmInNoPols": 1} and raised(devices[1]) == {}
    assert right.engine.get_state(StateId(OUTER[4][1], 1)).packets == 0


@pytest.mark.parametrize(("levels", "stat"), [(6, {}), (7, {"XfrmInBufferError": 1})])
def test_six_transforms_and_no_more(levels: int, stat: dict[str, int]) -> None:
    right, devices = nested(levels)
    assert receive(right.engine, [wrapped(levels)]) == ([] if stat else [PACKET])
    assert right.moved() == stat and devices[1].rx_packets == (0 if stat else 1)


def test_esp_that_is_not_ours_to_open_is_delivered_like_any_other() -> None:
    """For another host, of an unknown state, or in fragments: the host's to deal with."""
    right, devices = nested(2)
    for_another = bytearray(wrapped(1))
    for_another[16:20] = pack_address("203.0.113.99")
    right.engine.add_policy(PolicyInfo(ANY, Dir.FWD, 2, (Template(*OUTER[4], reqid=2),)), NOW)
    unknown = forge(PACKET, IPPROTO_IPIP, spi=99)
    fragment = bytearray(wrapped(1))
    fragment[6] = 0x20
    inner = [bytes(for_another), unknown, bytes(fragment)]
    outer = [forge(packet, IPPROTO_IPIP, spi=2, seq=seq) for seq, packet in enumerate(inner, 1)]
    assert receive(right.engine, outer) == inner
    assert right.moved() == {} and devices[1].rx_packets == 0


def test_RX_02_several_inner_tunnels_in_one_burst() -> None:
    right, devices = nested(3)
    inner = [forge(PACKET, IPPROTO_IPIP, spi=spi, seq=seq) for seq in (1, 2) for spi in (1, 2)]
    outer = [forge(packet, IPPROTO_IPIP, spi=3, seq=seq) for seq, packet in enumerate(inner, 1)]
    assert receive(right.engine, outer) == [PACKET] * 4 and right.moved() == {}
    assert [devices[n].rx_packets for n in (1, 2, 3)] == [2, 2, 4]


def test_IN_12_several_inner_tunnels_in_one_burst() -> None:
    """Each of their packets answers for the outer one as well."""
    right, devices = nested(3)
    for n in (1, 2):
        right.engine.delete_state(StateId(OUTER[4][1], n), NOW)
        right.engine.add_state(tunnel_state(*OUTER[4], n, if_id=3, reqid=n), NOW)
    both = (Template(*OUTER[4], reqid=0), Template(*OUTER[4], reqid=3))
    right.engine.add_policy(PolicyInfo(Selector.parse(*INNER[4]), Dir.IN, 3, both), NOW)
    inner = [forge(PACKET, IPPROTO_IPIP, spi=spi, seq=seq) for seq in (1, 2) for spi in (1, 2)]
    outer = [forge(packet, IPPROTO_IPIP, spi=3, seq=seq) for seq, packet in enumerate(inner, 1)]
    assert receive(right.engine, outer) == [PACKET] * 4 and right.moved() == {}
    assert devices[3].rx_packets == 8


def test_a_verdict_is_for_one_way_in() -> None:
    """What was let in through two tunnels is not let in through the inner one alone."""
    right, _ = nested(2)
    for n in (1, 2):
        right.engine.delete_state(StateId(OUTER[4][1], n), NOW)
        right.engine.add_state(tunnel_state(*OUTER[4], n, if_id=2, reqid=n), NOW)
    both = tuple(Template(*OUTER[4], reqid=reqid) for reqid in (1, 2))
    right.engine.add_policy(PolicyInfo(Selector.parse(*INNER[4]), Dir.IN, 2, both), NOW)
    assert receive(right.engine, [wrapped(2, 1), wrapped(1, 2), wrapped(2, 3)]) == [PACKET] * 2
    assert right.moved() == {"XfrmInTmplMismatch": 1}


def test_esp_on_its_way_to_another_host_is_not_opened() -> None:
    """Not even if it looks like what we send there ourselves: what is not local is forwarded."""
    right, devices = nested(2)
    right.engine.add_state(tunnel_state(OUTER[4][0], "203.0.113.99", 1, if_id=1, reqid=1), NOW)
    right.engine.add_policy(PolicyInfo(ANY, Dir.FWD, 2, (Template(*OUTER[4], reqid=2),)), NOW)
    own = bytearray(wrapped(1))
    own[16:20] = pack_address("203.0.113.99")
    assert receive(right.engine, [forge(bytes(own), IPPROTO_IPIP, spi=2)]) == [bytes(own)]
    assert devices[1].rx_packets == 0 and right.moved() == {}


def test_esp_that_goes_to_another_namespace_is_not_ours() -> None:
    right, devices = nested(2)
    devices[2].away = True
    assert receive(right.engine, [wrapped(2)]) == [wrapped(1)] and devices[1].rx_packets == 0


def test_marks_add_up_on_the_way() -> None:
    right, _ = nested(2)
    for n, mark in ((1, Mark(0x01, 0x0F)), (2, Mark(0xFF, 0xF0))):
        right.engine.delete_state(StateId(OUTER[4][1], n), NOW)
        right.engine.add_state(tunnel_state(*OUTER[4], n, if_id=n, reqid=n, set_mark=mark), NOW)
    right.engine.add_policy(PolicyInfo(ANY, Dir.IN, 1, action=Action.BLOCK, mark=Mark(0xF1, 0xFF)), NOW)
    assert receive(right.engine, [wrapped(2)]) == [] and right.moved() == {"XfrmInPolBlock": 1}


# ESP inside transport mode ------------------------------------------------------------------------------------------


TRANSPORT_10 = {"spi": 0x10, "reqid": 0x10, "mode": Mode.TRANSPORT, "flags": 0}
OUTER_PACKET = udp(*OUTER[4])


def in_transport(inside: bytes, seq: int = 1) -> bytes:
    """An ESP packet (from the outer IP header on) in transport mode of SPI 0x10."""
    return forge(inside[20:], inside[9], spi=0x10, seq=seq)


def right_with(*states: dict[str, object], templates: tuple[Template, ...] = ()) -> tuple[Host, Interface]:
    """Right with these states of if_id 42 and one policy for everything."""
    right = Host(INNER[4][1], OUTER[4][1])
    xfrm = right.interface()
    for fields in states:
        right.engine.add_state(tunnel_state(*OUTER[4], **fields), NOW)  # type: ignore[arg-type]
    right.engine.add_policy(PolicyInfo(ANY, Dir.IN, 42, templates), NOW)
    return right, xfrm


TUNNEL_TEMPLATE = Template(*OUTER[4], reqid=0x11)
TRANSPORT_TEMPLATE = Template(*OUTER[4], reqid=0x10, mode=Mode.TRANSPORT)


@pytest.mark.parametrize(
    ("templates", "stat"),
    [
        ((TUNNEL_TEMPLATE, TRANSPORT_TEMPLATE), {}),
        ((TUNNEL_TEMPLATE,), {}),
        ((TRANSPORT_TEMPLATE, TUNNEL_TEMPLATE), {"XfrmInTmplMismatch": 1}),
        ((TRANSPORT_TEMPLATE,), {"XfrmInTmplMismatch": 1}),
    ],
    ids=["both", "tunnel", "wrong order", "transport"],
)
def test_IN_12_a_tunnel_in_transport_mode(templates: tuple[Template, ...], stat: dict[str, int]) -> None:
    """Opened in one go: the device receives once, what is innermost, and the policy is asked once, about both."""
    right, xfrm = right_with(TRANSPORT_10, {"spi": 0x11, "reqid": 0x11}, templates=templates)
    outer = [in_transport(forge(PACKET, IPPROTO_IPIP, spi=0x11, seq=seq), seq) for seq in (1, 2)]
    assert receive(right.engine, outer[:1]) == ([] if stat else [PACKET])
    assert right.moved() == stat and raised(xfrm) == RECEIVED
    assert receive(right.engine, outer[1:]) == ([] if stat else [PACKET])


def test_IN_12_transport_in_transport_mode() -> None:
    inner = TRANSPORT_10 | {"spi": 0x11, "reqid": 0x11}
    templates = (Template(*OUTER[4], reqid=0x11, mode=Mode.TRANSPORT), TRANSPORT_TEMPLATE)
    right, xfrm = right_with(TRANSPORT_10, inner, templates=templates)
    twice = in_transport(forge(OUTER_PACKET[20:], IPPROTO_UDP, spi=0x11))
    (delivered,) = receive(right.engine, [twice])
    assert delivered[20:] == OUTER_PACKET[20:] and right.moved() == {}
    assert raised(xfrm) == {"rx_packets": 1, "rx_bytes": len(OUTER_PACKET) - 20}


def test_what_is_wrong_inside_transport_mode() -> None:
    """Nothing has been received; the errors are the device's whose state was the last."""
    right, xfrm = right_with(TRANSPORT_10, TRANSPORT_10 | {"spi": 0x11})
    good = forge(OUTER_PACKET[20:], IPPROTO_UDP, spi=0x11)
    for seq, (inside, stat, errors) in enumerate(
        [
            (good[:-1] + bytes([good[-1] ^ 1]), "XfrmInStateProtoError", 1),
            (forge(OUTER_PACKET[20:], IPPROTO_UDP, spi=0x12), "XfrmInNoStates", 0),
            (good[:25], "XfrmInHdrError", 1),
        ],
        1,
    ):
        before, was = raised(xfrm).get("rx_errors", 0), right.moved()
        assert receive(right.engine, [in_transport(inside, seq)]) == []
        assert right.moved() == was | {stat: 1}
        assert raised(xfrm) == ({"rx_errors": before + errors, "rx_dropped": before + errors})


def test_six_transforms_within_transport_mode() -> None:
    right, _ = right_with(*(TRANSPORT_10 | {"spi": spi} for spi in range(1, 8)))
    for levels, stat in ((6, {}), (7, {"XfrmInBufferError": 1})):
        packet = OUTER_PACKET
        for spi in range(1, levels + 1):
            packet = forge(packet[20:], packet[9], spi=spi, seq=levels)
        assert len(receive(right.engine, [packet])) == (0 if stat else 1)
        assert right.moved() == stat


@pytest.mark.parametrize("nested_in", ["tunnel", "transport"])
def test_a_mark_that_a_state_has_set_chooses_the_next_one(nested_in: str) -> None:
    """3.8: but not inside transport mode, where the mark is that of the packet as it came."""
    outer = {"spi": 0x10, "reqid": 0x10, "set_mark": Mark(5, 0xFF), "mode": Mode[nested_in.upper()], "flags": 0}
    inner = {"spi": 0x11, "reqid": 0x11, "mark": Mark(5, 0xFF)}
    right, xfrm = right_with(outer, inner, templates=(Template(*OUTER[4], reqid=0),))
    packet = forge(PACKET, IPPROTO_IPIP, spi=0x11)
    if nested_in == "tunnel":
        assert receive(right.engine, [forge(packet, IPPROTO_IPIP, spi=0x10)]) == [] and xfrm.rx_packets == 2
        assert right.moved() == {"XfrmInTmplMismatch": 1}, "two tunnels, one template"
    else:
        assert receive(right.engine, [in_transport(packet)]) == []
        assert right.moved() == {"XfrmInNoStates": 1}
