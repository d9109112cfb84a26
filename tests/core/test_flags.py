"""Flags of a state, one by one, and what there is without each (kernel-behaviour 3.5)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Pair, receive, tunnel_state
from xfrmi.core import Selector, StateInfo
from xfrmi.core.sysctl import Sysctls
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import (
    SA_XFLAG_DONT_ENCAP_DSCP,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_AF_UNSPEC,
    STATE_ALIGN4,
    STATE_DECAP_DSCP,
    STATE_ICMP,
    STATE_NOECN,
    STATE_NOPMTUDISC,
    STATE_WILDRECV,
    SaDir,
)
from xfrmi.wire.xfrm_types import Replay, StateId

PACKET = udp(*INNER[4])
AF11, EF = 10 << 2, 46 << 2
ECT_0, ECT_1, CE = 2, 1, 3
OUT_STATE = StateId(OUTER[4][1], 0x1000)


def flagged(flags: int = 0, extra_flags: int = 0, **fields: Any) -> Pair:
    return Pair(flags=STATE_AF_UNSPEC | flags, extra_flags=extra_flags, **fields)


def tos_outside(pair: Pair, tos: int) -> int:
    (outer,) = pair.emit(udp(*INNER[4], tos=tos))
    return outer[1]


def tos_inside(pair: Pair, outer_tos: int, inner_tos: int) -> int:
    """Of a packet whose outer header has been changed on the way."""
    (outer,) = pair.emit(udp(*INNER[4], tos=inner_tos))
    (inner,) = receive(pair.right.engine, [outer[:1] + bytes([outer_tos]) + outer[2:]])
    return inner[1]


@pytest.mark.parametrize(("flag", "out", "inside"), [(0, ECT_1, CE), (STATE_NOECN, 0, ECT_0)], ids=["without", "with"])
def test_3_5_noecn(flag: int, out: int, inside: int) -> None:
    """Nothing of ECN goes out, and no congestion mark comes in."""
    assert tos_outside(flagged(flag), AF11 | ECT_1) == AF11 | out
    assert tos_inside(flagged(flag), CE, ECT_0) == inside


@pytest.mark.parametrize(("flag", "inside"), [(0, AF11), (STATE_DECAP_DSCP, EF)], ids=["without", "with"])
def test_3_5_decap_dscp(flag: int, inside: int) -> None:
    """The DSCP of the outer header comes in, the ECN field inside stays."""
    assert tos_inside(flagged(flag), EF | ECT_1, AF11 | ECT_0) == inside | ECT_0


@pytest.mark.parametrize(("flag", "df"), [(0, 0x40), (STATE_NOPMTUDISC, 0)], ids=["without", "with"])
def test_3_5_nopmtudisc(flag: int, df: int) -> None:
    pair = flagged(flag)
    assert [outer[6] for outer in pair.emit(PACKET, udp(*INNER[6]), udp(*INNER[4], df=False))] == [df, df, 0]


class NoPmtuDisc(Sysctls):
    def no_pmtu_disc(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("outer", "dir", "gets_it"),
    [(4, SaDir.NONE, True), (4, SaDir.OUT, True), (4, SaDir.IN, False), (6, SaDir.NONE, False)],
    ids=["IPv4", "out", "in", "IPv6"],
)
def test_3_5_the_machine_may_say_nopmtudisc(outer: int, dir: SaDir, gets_it: bool) -> None:
    """sysctl ip_no_pmtu_disc, when the state comes: of IPv4, unless it only receives."""
    pair = Pair()
    engine = pair.left.engine
    engine.flush_states(0, NOW)
    engine.sysctls = NoPmtuDisc()
    info = tunnel_state(*OUTER[outer], 0x1000, dir=dir, replay_window=0)
    assert bool(engine.add_state(info, NOW).snapshot().flags & STATE_NOPMTUDISC) == gets_it
    engine.sysctls = Sysctls()
    if outer == 4 and dir != SaDir.IN:
        assert [packet[6] for packet in pair.emit(PACKET)] == [0]


def test_3_5_the_machine_says_nopmtudisc_of_what_completes_a_larval_state() -> None:
    engine = Pair().left.engine
    engine.sysctls = NoPmtuDisc()
    larval = engine.alloc_spi(tunnel_state(*OUTER[4], 0), 0x2000, 0x2000, NOW)
    assert not larval.snapshot().flags & STATE_NOPMTUDISC
    assert engine.update_state(tunnel_state(*OUTER[4], 0x2000), NOW).snapshot().flags & STATE_NOPMTUDISC


def test_3_5_wildrecv() -> None:
    """Never chosen for output; it receives like any other."""
    pair = Pair()
    (outer,) = pair.emit(PACKET)
    for host in (pair.left, pair.right):
        host.engine.delete_state(OUT_STATE, NOW)
        host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, flags=STATE_AF_UNSPEC | STATE_WILDRECV), NOW)
    assert pair.emit(PACKET) == [] and pair.left.moved() == {"XfrmOutNoStates": 1}
    assert receive(pair.right.engine, [outer]) == [PACKET]


@pytest.mark.parametrize(("flag", "comes"), [(0, False), (STATE_ICMP, True)], ids=["without", "with"])
def test_3_5_icmp(flag: int, comes: bool) -> None:
    """An error from a router behind the peer, which the selector does not cover, about a flow that it does."""
    quoted = udp(INNER[4][1], INNER[4][0])
    error = udp("203.0.113.5", INNER[4][1])[:20]
    body = bytes([3, 1, 0, 0, 0, 0, 0, 0]) + quoted
    error = error[:2] + (20 + len(body)).to_bytes(2, "big") + error[4:9] + b"\x01" + error[10:] + body
    sender = Pair()
    outer = sender.emit(error)
    pair = Pair()
    pair.right.engine.delete_state(OUT_STATE, NOW)
    covered = Selector.parse(f"{INNER[4][0]}/32", f"{INNER[4][1]}/32")
    pair.right.engine.add_state(tunnel_state(*OUTER[4], 0x1000, flags=flag, selector=covered), NOW)
    assert receive(pair.right.engine, outer) == ([error] if comes else [])


@pytest.mark.parametrize(("flag", "sent"), [(0, 1), (STATE_AF_UNSPEC, 2)], ids=["without", "with"])
@pytest.mark.parametrize("outer", [4, 6])
def test_3_5_af_unspec(outer: int, flag: int, sent: int) -> None:
    """Without it, a state without selector is for the family of its own addresses."""
    pair = Pair(outer, flags=flag)
    assert len(pair.emit(PACKET, udp(*INNER[6]))) == sent
    (state,) = (state for state in pair.left.engine.states() if state.spi == 0x1000)
    assert state.selector.family == (0 if flag else state.family)


def test_3_5_align4_is_of_no_meaning_to_esp() -> None:
    plain, aligned = flagged(), flagged(STATE_ALIGN4)
    assert list(map(len, plain.emit(PACKET, PACKET[:-1]))) == list(map(len, aligned.emit(PACKET, PACKET[:-1])))


@pytest.mark.parametrize(("flag", "dscp"), [(0, EF), (SA_XFLAG_DONT_ENCAP_DSCP, 0)], ids=["without", "with"])
def test_3_5_dont_encap_dscp(flag: int, dscp: int) -> None:
    """The rule for ECN applies still."""
    assert tos_outside(flagged(extra_flags=flag), EF | ECT_0) == dscp | ECT_0
    assert tos_outside(flagged(extra_flags=flag), EF | CE) == dscp | ECT_0


@pytest.mark.parametrize(
    ("flag", "numbers"), [(0, [0xFFFFFFFF]), (SA_XFLAG_OSEQ_MAY_WRAP, [0xFFFFFFFF, 0, 1])], ids=["without", "with"]
)
def test_3_5_oseq_may_wrap(flag: int, numbers: list[int]) -> None:
    """No IV comes twice for that."""
    pair = flagged(extra_flags=flag, replay=Replay(oseq=0xFFFFFFFE))
    sent = [split_outer(outer)[1] for outer in pair.emit(PACKET, PACKET, PACKET)]
    assert [int.from_bytes(esp[4:8], "big") for esp in sent] == numbers
    assert len({bytes(esp[8:16]) for esp in sent}) == len(numbers)
    assert pair.left.moved() == ({} if flag else {"XfrmOutStateSeqError": 2})


def test_3_5_every_flag_is_in_a_dump() -> None:
    """Also what means nothing here."""
    every = STATE_NOECN | STATE_DECAP_DSCP | STATE_NOPMTUDISC | STATE_WILDRECV | STATE_ICMP | STATE_AF_UNSPEC
    every |= STATE_ALIGN4
    pair = Pair()
    info: StateInfo = tunnel_state(*OUTER[4], 0x3000, flags=every, extra_flags=3)
    shown = pair.left.engine.add_state(info, NOW).snapshot()
    assert (shown.flags, shown.extra_flags) == (every, 3)
