"""Where packets end, the explanation says at which step, why, and which counter rises: those that an engine raises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.core.algorithms import UNAUTHENTICATED
from tests.core.packets import udp
from tests.core.pair import INNER, KEY, NOW, Pair, forge, receive, wire
from tests.each import each
from tests.teach.tables import sent_by, tables_of
from xfrmi.client.packets import Record
from xfrmi.core.dropped import Dropped
from xfrmi.errors import XfrmError
from xfrmi.teach import Tables, explain
from xfrmi.teach.one_packet import explain_record
from xfrmi.wire.ip import ipv4_header_checksum, split_outer
from xfrmi.wire.link_types import LinkInfo
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, STATE_ESN, XFRM_INF, Action, Dir, SaDir
from xfrmi.wire.xfrm_types import Encap, Limits, PolicyInfo, ReplayEsn, Selector

INSIDE = udp(*INNER[4], b"hello")
Change = Callable[[Tables], Tables]


def states(**fields: Any) -> Change:
    return lambda tables: replace(tables, states=tuple(replace(state, **fields) for state in tables.states))


def policies(*dirs: int, **fields: Any) -> Change:
    return lambda tables: replace(
        tables,
        policies=tuple(
            replace(policy, **fields) if policy.dir in dirs else policy for policy in tables.policies
        ),
    )  # fmt: skip


def without(what: str) -> Change:
    return lambda tables: replace(tables, **{what: ()})


def other_reqid(tables: Tables) -> Tables:
    def changed(policy: PolicyInfo) -> PolicyInfo:
        return replace(policy, templates=tuple(replace(one, reqid=9) for one in policy.templates))

    return replace(tables, policies=tuple(map(changed, tables.policies)))


def tampered(packet: bytes, at: int) -> bytes:
    changed = bytearray(packet)
    changed[at] ^= 1
    return bytes(changed)


def same(packet: bytes) -> bytes:
    return packet


def elsewhere(tables: Tables) -> Tables:
    return replace(tables, links=(LinkInfo("xfrm1", if_id=43),))


def short(packet: bytes) -> bytes:
    cut = bytearray(packet[:40])
    cut[2:4] = (40).to_bytes(2, "big")
    return bytes(cut)


def lying() -> bytes:
    """Authentic, and it has 200 bytes of padding, it says."""
    right = forge(bytes(16), 4)
    head, iv = right[20:28], right[28:36]
    return right[:36] + AESGCM(KEY[:16]).encrypt(KEY[16:] + iv, bytes(18) + bytes((200, 4)), head)


def checked(packet: bytes) -> bytes:
    whole = bytearray(packet)
    whole[10:12] = ipv4_header_checksum(whole[:20]).to_bytes(2, "big")
    return bytes(whole)


NO_PACKETS = Limits(XFRM_INF, XFRM_INF, XFRM_INF, 0)

INBOUND: dict[str, tuple[Change, Callable[[bytes], bytes], str, str, str]] = {
    # what is changed; what arrives; counter; reason; the step where it ends
    "bad ICV": (states(), lambda p: tampered(p, 50), "XfrmInStateProtoError", "wrong ICV", "Check the ICV and decrypt"),
    "no state": (states(), lambda p: tampered(p, 22), "XfrmInNoStates", "no state with this", "State"),
    "truncated": (states(), short, "XfrmInStateProtoError", "shorter than", "Dropped"),
    "nothing inside": (states(), lambda p: forge(b"", 4), "XfrmInStateProtoError", "nothing but padding", "Dropped"),
    "padding too long": (
        states(), lambda p: lying(), "XfrmInStateProtoError", "padding longer", "Trailer",
    ),
    "mode mismatch": (states(), lambda p: forge(INSIDE, 17), "XfrmInStateModeError", "neither IPv4 nor", "Header"),
    "encapsulated otherwise": (states(encap=Encap()), same, "XfrmInStateMismatch", "encapsulation", "Fit"),
    "outbound state": (states(dir=SaDir.OUT, replay_window=0), same, "XfrmInStateDirError", "an outbound", "Fit"),
    "expired": (states(limits=NO_PACKETS), same, "XfrmInStateExpired", "hard limit", "Dropped"),
    "selector of the state": (
        states(selector=Selector.parse("10.0.0.0/8"), flags=0), same, "XfrmInStateMismatch", "not a flow", "Dropped",
    ),
    "no policy": (without("policies"), same, "XfrmInNoPols", "no policy", "Dropped"),
    "blocked": (policies(Dir.IN, action=Action.BLOCK), same, "XfrmInPolBlock", "blocked", "Dropped"),
    "another template": (other_reqid, same, "XfrmInTmplMismatch", "not met", "Dropped"),
    "no device": (elsewhere, same, "XfrmInNoPols", "no policy", "Device"),
}  # fmt: skip


@each("name", INBOUND)
def test_inbound(name: str) -> None:
    change, damage, counter, reason, step = INBOUND[name]
    pair = Pair()
    tables = tables_of(pair.right.engine)
    packet = checked(damage(sent_by(pair, INSIDE).outer))
    found = explain(packet, change(tables), direction="in", now=NOW)
    assert (found.counter, found.delivered) == (counter, ())
    assert reason in found.reason
    failed = [one.title for one in found.steps if one.failed]
    assert step in failed
    assert counter in found.text(flips=False)


@pytest.mark.parametrize("family", [4, 6])
def test_a_header_that_was_made_up(family: int) -> None:
    """A UDP socket gives none, so a daemon's has checksums of 0 (dev/udp.py). It has passed all the same."""
    pair = Pair(family, encap=Encap())
    outer = bytearray(sent_by(pair, INSIDE).outer)
    at = {4: 10, 6: 46}[family]
    outer[at : at + 2] = bytes(2)
    receive(pair.right.engine, [bytes(outer)])
    record = Record(NOW, pair.xfrm_right.name, "in", INSIDE, bytes(outer))
    found = explain_record(record, tables_of(pair.right.engine))
    assert (found.reason, found.delivered) == ("", (INSIDE,))
    assert "otherwise" not in found.origin
    # Over IPv6 the checksum of UDP notices first.
    assert found.flip(len(outer) - 1).outcome.by == {4: "ESP", 6: "UDP"}[family]


def test_replayed_with_upper_halves() -> None:
    """Of a number that the window refuses nobody says the upper half; the place in the window tells."""
    esn = ReplayEsn((0, 0), 3, 0, 7, 7, 64)
    pair = Pair(flags=STATE_ESN | STATE_AF_UNSPEC, replay_window=0, replay_esn=esn)
    first, *later = (sent_by(pair, INSIDE).outer for _ in range(3))
    receive(pair.right.engine, [first, *later])
    found = explain(first, tables_of(pair.right.engine), direction="in", now=NOW)
    assert (found.counter, found.reason) == ("XfrmInStateSeqError", "replayed")
    (step,) = (one for one in found.steps if one.title == "Replay window")
    assert step.failed
    assert f"Number {7 << 32 | 4} has been seen already" in step.text
    assert dict(step.facts)["seen"].endswith("[#]##")


def test_replayed() -> None:
    pair = Pair()
    packet = sent_by(pair, INSIDE).outer
    receive(pair.right.engine, [packet])
    tables = tables_of(pair.right.engine)
    receive(pair.right.engine, [packet])
    assert pair.right.moved() == {"XfrmInStateSeqError": 1}
    found = explain_record(Record(NOW, "xfrm0", "in", b"", packet, "XfrmInStateSeqError", "replayed"), tables)
    assert (found.counter, found.reason) == ("XfrmInStateSeqError", "replayed")
    assert "has been seen already" in found.text()
    assert "[#]" in found.text(), "its place in the window"
    first = explain_record(Record(NOW, "xfrm0", "in", INSIDE, packet), tables)
    assert first.delivered == (INSIDE,), "the first one was let in, and is explained as it was then"
    assert first.receiver is not None
    assert first.receiver.receive(packet).delivered == (INSIDE,)


OUTBOUND: dict[str, tuple[Change, bytes, str, str, str]] = {
    "no policy": (without("policies"), INSIDE, "", "no policy", "Policy"),
    "blocked": (policies(Dir.OUT, action=Action.BLOCK), INSIDE, "XfrmOutPolBlock", "blocked", "Policy"),
    "no state": (without("states"), INSIDE, "XfrmOutNoStates", "no state", "State"),
    "another reqid": (other_reqid, INSIDE, "XfrmOutNoStates", "no state", "State"),
    "no template": (policies(Dir.OUT, templates=()), INSIDE, "", "demands no transform", "Dropped"),
    "expired": (states(limits=NO_PACKETS), INSIDE, "XfrmOutStateExpired", "hard limit", "Dropped"),
    "too long": (states(), udp(*INNER[4], bytes(1450)), "", "longer than the 1446 bytes", "Dropped"),
    "no packet": (states(), b"\x10hello", "", "no IP header", "Flow"),
}


@pytest.mark.parametrize("name", OUTBOUND)
def test_outbound(name: str) -> None:
    change, packet, counter, reason, step = OUTBOUND[name]
    tables = change(tables_of(Pair().left.engine))
    found = explain(packet, tables, direction="out", interface="xfrm0", now=NOW)
    assert (found.counter, found.sent) == (counter, ())
    assert reason in found.reason
    assert step in [one.title for one in found.steps if one.failed]
    assert found.flips() == []
    with pytest.raises(ValueError, match="no packet went out"):
        found.flip(0)


def test_why_not_the_others() -> None:
    pair = Pair()
    pair.add_tunnel(4, 43, 0x2000)
    found = explain(INSIDE, tables_of(pair.left.engine), direction="out", interface="xfrm0", now=NOW)
    (policy,) = (one for one in found.steps if one.title == "Policy")
    (state,) = (one for one in found.steps if one.title == "State")
    assert [one.taken for one in policy.candidates].count(True) == 1
    assert {one.why for one in policy.candidates if not one.taken} == {
        "is for direction in, not out", "is for direction fwd, not out", "has if_id 0x2b, the interface has 0x2a",
        "is for IPv6 packets",
    }  # fmt: skip
    assert {one.why for one in state.candidates if not one.taken} == {
        "has if_id 0x2b, the policy 0x2a", "goes to 192.0.2.1, the template to 192.0.2.2",
    }  # fmt: skip


def test_flips() -> None:
    """Whatever is authenticated cannot be changed unnoticed; what is not, can."""
    pair = Pair(6)
    found = explain_record(sent_by(pair, INSIDE), tables_of(pair.left.engine))
    assert found.on_wire is not None
    for field in found.on_wire.fields:
        for offset in range(field.start, field.end):
            flip = found.flip(offset, 0x80)
            assert not field.authenticated or not flip.outcome.delivered
            assert flip.same or not flip.outcome.delivered
    assert found.flip(7).outcome.delivered == (INSIDE,), "nobody looks at the hop limit of the outer header"
    assert found.flip(70).outcome.counters == {"XfrmInStateProtoError": 1}
    assert found.flip(70).outcome.device == {"rx_errors": 1, "rx_dropped": 1}
    with pytest.raises(ValueError, match="no byte 1000"):
        found.flip(1000)


def test_flips_without_authentication() -> None:
    """A cipher alone hides, and protects nothing."""
    pair = Pair(**{"aead": None, **UNAUTHENTICATED["ctr-alone"]})
    found = explain_record(sent_by(pair, INSIDE), tables_of(pair.left.engine))
    assert found.on_wire is not None
    (payload,) = (field for field in found.on_wire.fields if field.kind == "payload")
    flip = found.flip(payload.end - 1)
    assert flip.outcome.delivered == (tampered(INSIDE, len(INSIDE) - 1),)
    assert "CHANGED, and nobody noticed" in str(flip)


def test_who_listens_is_told_of_all_that_is_counted() -> None:
    pair = Pair()
    told: list[Dropped] = []
    pair.right.engine.on_drop = pair.left.engine.on_drop = told.append
    good = wire(pair.left.engine.output(pair.xfrm_left, [INSIDE] * 40, NOW)[0])
    burst = [good[0], *good, *(tampered(packet, 60) for packet in good), tampered(good[0], 22), good[0][:25]]
    pair.right.engine.input([split_outer(packet) for packet in burst[:-1]], NOW)
    pair.right.engine.input([(good[0][:20], good[0][20:25])], NOW)
    pair.left.engine.output(pair.xfrm_left, [b"\x10", udp(*INNER[4], bytes(2000))], NOW)
    pair.left.engine.flush_states(0, NOW)
    pair.left.engine.output(pair.xfrm_left, [INSIDE] * 3, NOW)
    counted = pair.left.moved() | pair.right.moved()
    assert counted == {
        "XfrmInNoStates": 1, "XfrmInStateSeqError": 41, "XfrmInHdrError": 1, "XfrmOutNoStates": 3,
    }  # fmt: skip
    labels = [drop.stat.label for drop in told if drop.stat is not None]
    assert {label: labels.count(label) for label in labels} == counted
    assert [drop.reason for drop in told if drop.stat is None] == [
        "no IP header", "longer than the 1446 bytes that fit",
    ]  # fmt: skip


def test_what_cannot_be_explained() -> None:
    tables = tables_of(Pair().left.engine)
    with pytest.raises(XfrmError, match="0 bytes"):
        explain(b"", tables)
    with pytest.raises(XfrmError, match='no xfrm interface "xfrm9"'):
        explain(INSIDE, tables, interface="xfrm9")
    with pytest.raises(XfrmError, match="no policy for one"):
        explain(INSIDE, Tables())
