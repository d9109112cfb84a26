"""What is shown is what was sent: for every algorithm, mode, family and encapsulation the bytes of the explanation are
those the engine gave out, every byte has one field, and the plaintext in the figure is what a receiver decrypts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.algorithms import ALL, AUTHENTICATED
from tests.core.packets import udp
from tests.core.pair import GCM, INNER, NOW, OUTER, Host, Pair, policies, receive, tunnel_state
from tests.each import each
from tests.teach.tables import sent, sent_by, tables_of
from xfrmi.client.packets import Record
from xfrmi.core import PolicyInfo, Selector, Template
from xfrmi.teach import Explanation, explain
from xfrmi.teach.one_packet import explain_record
from xfrmi.teach.scratch import Everywhere
from xfrmi.wire.xfrm_const import IPPROTO_ESP, STATE_ESN, Dir, Mode, SaDir
from xfrmi.wire.xfrm_types import Encap, Replay, ReplayEsn

FAMILIES = [(inner, outer) for inner in (4, 6) for outer in (4, 6)]
ESN = {"flags": STATE_ESN | 32, "replay_window": 0, "replay_esn": ReplayEsn((0, 0), 0xFFFF_FFFE, 0, 6, 7, 64)}


def packet(family: int, payload: bytes = b"hello", **fields: Any) -> bytes:
    return udp(*INNER[family], payload, **fields)


def check(found: Explanation, record: Record) -> None:
    assert found.sent == (record.outer,)
    assert found.on_wire is not None
    assert found.on_wire.data == record.outer
    for layout in found.packets:
        ends = [0, *(field.end for field in layout.fields)]
        assert [field.start for field in layout.fields] == ends[:-1], layout.title
        assert ends[-1] == len(layout.data)
    assert not found.reason
    assert "OTHER BYTES" not in found.origin


def explained(pair: Pair, inner: bytes) -> tuple[Explanation, Record]:
    record = sent_by(pair, inner)
    return explain_record(record, tables_of(pair.left.engine)), record


@each("name", ALL)
def test_every_algorithm(name: str) -> None:
    pair = Pair(**{"aead": None, **ALL[name]})
    for payload in (b"", b"hello", bytes(1000)):
        found, record = explained(pair, packet(4, payload))
        check(found, record)
        assert found.on_wire is not None
        assert found.on_wire.plain.startswith(record.inner)


@pytest.mark.parametrize("encap", [None, Encap()], ids=["esp", "udp"])
@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
def test_tunnel(inner: int, outer: int, encap: Encap | None) -> None:
    check(*explained(Pair(outer, encap=encap), packet(inner, tos=0xB8)))


@pytest.mark.parametrize("encap", [None, Encap()], ids=["esp", "udp"])
@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
def test_beet(inner: int, outer: int, encap: Encap | None) -> None:
    host = Host()
    xfrm0 = host.interface()
    ends = OUTER[outer]
    selector = Selector.parse(*INNER[inner])
    info = tunnel_state(*ends, 0x1000, mode=Mode.BEET, encap=encap, selector=selector, flags=0)
    host.engine.add_state(info, NOW)
    host.engine.add_policy(PolicyInfo(selector, Dir.OUT, 42, (Template(*ends, mode=Mode.BEET, reqid=1),)), NOW)
    record = sent(host, xfrm0, packet(inner))
    check(explain_record(record, tables_of(host.engine)), record)


def test_a_sender_that_keeps_a_nat_awake() -> None:
    host = Host()
    xfrm0 = host.interface()
    info = tunnel_state(*OUTER[4], 0x1000, encap=Encap(), dir=SaDir.OUT, nat_keepalive_interval=20, replay_window=0)
    host.engine.add_state(info, NOW)
    for policy in policies(*OUTER[4], out=True):
        host.engine.add_policy(policy, NOW)
    record = sent(host, xfrm0, packet(4))
    found = explain_record(record, tables_of(host.engine))
    check(found, record)
    assert found.flip(60).outcome.counters == {"XfrmInStateProtoError": 1}


@pytest.mark.parametrize("encap", [None, Encap()], ids=["esp", "udp"])
@pytest.mark.parametrize("family", [4, 6])
def test_transport(family: int, encap: Encap | None) -> None:
    host = Host()
    xfrm0 = host.interface()
    ends = INNER[family]
    host.engine.add_state(tunnel_state(*ends, 0x1000, mode=Mode.TRANSPORT, encap=encap, flags=0), NOW)
    host.engine.add_policy(policies(*ends, out=True, mode=Mode.TRANSPORT)[family == 6], NOW)
    record = sent(host, xfrm0, packet(family))
    check(explain_record(record, tables_of(host.engine)), record)


@pytest.mark.parametrize("name", ["gcm128-icv128", "cbc128", "ctr128", "null"])
def test_upper_halves_of_sequence_numbers(name: str) -> None:
    """Across the point where the upper half, which does not travel, becomes another one."""
    pair = Pair(**{"aead": None, **AUTHENTICATED[name], **ESN})
    for expected in (0x6_FFFF_FFFF, 0x7_0000_0000, 0x7_0000_0001):
        found, record = explained(pair, packet(4))
        check(found, record)
        assert str(expected) in found.text(flips=False)


def test_numbers_and_padding_that_hides_lengths() -> None:
    pair = Pair(tfcpad=300, replay=Replay(oseq=41))
    found, record = explained(pair, packet(4))
    check(found, record)
    assert found.on_wire is not None
    (tfc,) = (field for field in found.on_wire.fields if field.kind == "tfc")
    assert tfc.end - tfc.start == 300 - len(record.inner)
    assert "42" in [value for step in found.steps for name, value in step.facts if name == "number"]


@pytest.mark.parametrize("outer", [4, 6])
def test_what_has_to_be_fragmented(outer: int) -> None:
    pair = Pair(outer, mtu=600)
    record = sent_by(pair, packet(4, bytes(1000), df=False))
    found = explain_record(record, tables_of(pair.left.engine), Everywhere(600))
    check(found, record)
    assert len(found.fragments) == 2
    assert all(len(piece) <= 600 for piece in found.fragments)


def test_an_inner_fragment() -> None:
    fragment = bytearray(packet(4, bytes(64), df=False))
    fragment[6] = 0x20
    fragment[10:12] = bytes(2)
    check(*explained(Pair(), bytes(fragment)))


def nested() -> tuple[Host, Host, Any]:
    """A tunnel inside transport mode inside another tunnel, between two hosts."""
    left, right = Host(), Host(*OUTER[4][1:], INNER[4][1])
    ends, far = OUTER[4], ("203.0.113.1", "203.0.113.2")
    right.router.local |= {bytes((203, 0, 113, 2))}
    states = (
        tunnel_state(*ends, 0x1000, reqid=1),
        tunnel_state(*ends, 0x1001, reqid=2, mode=Mode.TRANSPORT, flags=0),
        tunnel_state(*far, 0x1002, reqid=3),
    )
    templates = (
        Template(*ends, reqid=1), Template(reqid=2, mode=Mode.TRANSPORT), Template(*far, reqid=3),
    )  # fmt: skip
    for host in (left, right):
        host.interface()
        for state in states:
            host.engine.add_state(state, NOW)
        for direction in (Dir.OUT, Dir.IN):
            everything = Selector.parse("0.0.0.0/0")
            host.engine.add_policy(PolicyInfo(everything, direction, 42, templates, priority=1), NOW)
        between = Selector.parse(*ends, proto=IPPROTO_ESP)  # what comes out of the outer tunnel
        host.engine.add_policy(PolicyInfo(between, Dir.IN, 42, templates[2:]), NOW)
    return left, right, left.engine.interfaces["xfrm0"]


def test_nested_templates() -> None:
    left, right, xfrm0 = nested()
    record = sent(left, xfrm0, packet(4))
    tables = tables_of(right.engine)
    assert receive(right.engine, [record.outer]) == [record.inner], "or the test is about nothing"
    found = explain_record(record, tables_of(left.engine))
    check(found, record)
    assert [layout.title for layout in found.packets[1:]] == [
        f"the packet after state {number} of 3" for number in (1, 2, 3)
    ]
    came = explain(record.outer, tables, direction="in", now=NOW)
    assert came.delivered == (record.inner,)
    assert sum(step.title == "Nested" for step in came.steps) == 2
    assert found.receiver is not None
    assert found.receiver.receive(record.outer).delivered == (record.inner,), "the peer that is made up has it, too"


@each("name", ALL)
def test_what_comes_in(name: str) -> None:
    pair = Pair(**{"aead": None, **ALL[name]})
    record = sent_by(pair, packet(4))
    before = tables_of(pair.right.engine)
    expected = receive(pair.right.engine, [record.outer])
    for found in (
        explain(record.outer, before, now=NOW),
        explain_record(Record(NOW, "xfrm0", "in", record.inner, record.outer), tables_of(pair.right.engine)),
    ):
        assert found.direction == "in"
        assert found.delivered == tuple(expected) == (record.inner,)
        assert found.on_wire is not None
        assert found.on_wire.data == record.outer
        assert found.on_wire.plain.startswith(record.inner)


def test_nothing_of_a_running_daemon_is_sealed_again() -> None:
    """A packet that was not sent is sealed under a key that nobody has."""
    pair = Pair()
    tables = tables_of(pair.left.engine, live=True)
    found = explain(packet(4), tables, direction="out", now=NOW)
    assert len(found.sent) == 1
    assert "keys drawn for this explanation" in found.origin
    assert pair.left.engine.sad.dump()[0].sequence.last == 0
    assert receive(pair.right.engine, found.sent) == [], "the peer does not find it authentic"
    assert pair.right.moved() == {"XfrmInStateProtoError": 1}


def test_other_states_than_then() -> None:
    """If the keys have changed since, nothing is sealed, and the explanation says so."""
    pair, other = Pair(), Pair(aead=GCM._replace(key=bytes(20)))
    found = explain_record(sent_by(pair, packet(4)), tables_of(other.left.engine))
    assert found.sent == ()
    assert "not those that sealed it" in found.text()
