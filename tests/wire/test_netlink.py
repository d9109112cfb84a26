"""netlink framing: what goes in comes out, and what a stranger sends is refused or ignored as the kernel does."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.each import each
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.netlink import AttrRule, Message


def only(datagram: bytes) -> Message:
    (message,) = netlink.split(datagram)
    return message


def a_request(body: bytes = b"body", flags: int = netlink.NLM_F_REQUEST) -> Message:
    return only(netlink.message(0x10, flags, 7, 99, body))


def test_message_layout() -> None:
    assert netlink.message(0x1C, 5, 0x01020304, 9, b"\x32") == struct.pack("=IHHII", 17, 0x1C, 5, 0x01020304, 9) + (
        b"\x32\0\0\0"
    )


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=5))
def test_what_is_framed_is_split(items: list[tuple[int, int, bytes]]) -> None:
    datagram = b"".join(netlink.message(kind, flags, 3, 4, body) for kind, flags, body in items)
    assert [(m.type, m.flags, bytes(m.body)) for m in netlink.split(datagram)] == items
    assert all((m.seq, m.pid) == (3, 4) for m in netlink.split(datagram))


def test_less_than_a_header_at_the_end_is_ignored() -> None:
    assert len(list(netlink.split(netlink.message(0x10, 1, 1, 1) + bytes(15)))) == 1


@pytest.mark.parametrize("length", [0, 15, 21, 0xFFFFFFFF])
def test_an_impossible_length_ends_the_datagram(length: int) -> None:
    good = netlink.message(0x10, 1, 1, 1)
    bad = struct.pack("=IHHII", length, 0x10, 1, 1, 1) + bytes(4)
    messages = netlink.split(good + bad)
    assert next(messages).type == 0x10
    with pytest.raises(XfrmError) as caught:
        next(messages)
    assert caught.value.errno == errno.EINVAL


def test_header_of_a_truncated_datagram() -> None:
    message = netlink.header_of(netlink.message(0x13, 5, 11, 22, bytes(500))[:100])
    assert (message.type, message.flags, message.seq, message.pid, bytes(message.body)) == (0x13, 5, 11, 22, b"")
    with pytest.raises(XfrmError):
        netlink.header_of(bytes(15))


def test_datagrams_fill_up_to_the_limit() -> None:
    messages = [netlink.message(0x10, 2, 1, 1, bytes(size)) for size in (84, 84, 984, 84)]
    assert [len(datagram) for datagram in netlink.datagrams(messages, 200)] == [200, 1000, 100]
    assert b"".join(netlink.datagrams(messages, 200)) == b"".join(messages)
    assert list(netlink.datagrams([])) == []


@pytest.mark.parametrize("flags, dump", [(0x1, False), (0x301, True), (0x101, True), (0x201, True)])
def test_either_dump_bit_asks_for_a_dump(flags: int, dump: bool) -> None:
    assert a_request(flags=flags).is_dump is dump


# Answers

FAILURES = [
    XfrmError(errno.EINVAL),
    XfrmError(errno.EINVAL, "Invalid policy type"),
    XfrmError(errno.EEXIST, "", "spi 0x1000 belongs to another state"),
    XfrmError(errno.ERANGE, "integer out of range", "XFRMA_SA_DIR 3"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
@pytest.mark.parametrize("answer_of", [netlink.refusal, netlink.done])
def test_a_failure_reaches_the_client_whole(answer_of: object, failure: XfrmError) -> None:
    answer = only(answer_of(a_request(), failure))  # type: ignore[operator]
    assert (answer.seq, answer.pid) == (7, 99)
    with pytest.raises(XfrmError) as caught:
        netlink.raise_error(answer)
    assert (caught.value.errno, caught.value.extack, caught.value.detail) == (
        failure.errno, failure.extack, failure.detail,
    )  # fmt: skip


def test_error_layout_is_the_kernels() -> None:
    answer = only(netlink.error(a_request(b"12345"), errno.EINVAL, "phrase"))
    assert answer.type == netlink.NLMSG_ERROR
    assert answer.flags == netlink.NLM_F_CAPPED | netlink.NLM_F_ACK_TLVS
    assert bytes(answer.body) == (
        struct.pack("=i", -errno.EINVAL) + struct.pack("=IHHII", 21, 0x10, 1, 7, 99)
        + struct.pack("=HH", 4 + 7, 1) + b"phrase\0\0"
    )  # fmt: skip


def test_ack_and_done_are_success() -> None:
    ack, done = only(netlink.ack(a_request())), only(netlink.done(a_request()))
    assert (ack.type, ack.flags, len(ack.body)) == (netlink.NLMSG_ERROR, netlink.NLM_F_CAPPED, 20)
    assert (done.type, done.flags, bytes(done.body)) == (netlink.NLMSG_DONE, netlink.NLM_F_MULTI, bytes(4))
    netlink.raise_error(ack)
    netlink.raise_error(done)
    netlink.raise_error(only(netlink.message(netlink.NLMSG_DONE, 2, 1, 1)))


def test_texts_behind_a_quoted_request_are_found() -> None:
    """The kernel quotes the whole request unless asked not to."""
    request = netlink.message(0x10, 1, 7, 99, b"12345")
    body = struct.pack("=i", -errno.ESRCH) + request + netlink.attr_string(netlink.NLMSGERR_ATTR_MSG, "gone")
    with pytest.raises(XfrmError, match="gone"):
        netlink.raise_error(only(netlink.message(netlink.NLMSG_ERROR, netlink.NLM_F_ACK_TLVS, 7, 99, body)))


def test_our_sentence_does_not_hide_the_phrase_from_libmnl() -> None:
    """libmnl programs give up on attribute types beyond the kernel's (7 in Linux 6.x): ours must stay below."""
    answer = only(netlink.refusal(a_request(), XfrmError(1, "phrase", "x" * 5000)))
    attrs = netlink.parse_attrs(answer.body, 20)
    assert sorted(attrs) == [0, netlink.NLMSGERR_ATTR_MSG]
    assert bytes(attrs[netlink.NLMSGERR_ATTR_MSG]) == b"phrase\0"


@given(st.binary(max_size=80), st.integers(0, 0xFFFF), st.sampled_from([netlink.NLMSG_ERROR, netlink.NLMSG_DONE]))
def test_any_answer_is_success_or_an_error(body: bytes, flags: int, kind: int) -> None:
    try:
        netlink.raise_error(Message(kind, flags, 1, 1, memoryview(body)))
    except XfrmError as error:
        assert 0 < error.errno <= 4096 and str(error)


# Attributes

POLICY = {
    1: AttrRule("LOOSE", 4),
    2: AttrRule("STRICT", 4, strict=True),
    3: AttrRule("DIR", 1, strict=True, span=(1, 2)),
    4: AttrRule("FLAG", 0, maximum=0),
    5: AttrRule("NAME", 1, maximum=15, text=True),
}
SHORT = (errno.ERANGE, "Attribute failed policy validation")
STRICT = (errno.EINVAL, "invalid attribute length")
REFUSED = [
    (1, b"", SHORT), (1, b"123", SHORT), (2, b"123", STRICT), (2, b"12345", STRICT), (3, b"", STRICT),
    (3, b"\1\0\0\0", STRICT), (3, b"\0", (errno.ERANGE, "integer out of range")),
    (3, b"\3", (errno.ERANGE, "integer out of range")), (4, b"\0", SHORT), (5, b"", SHORT), (5, b"x" * 16, SHORT),
    (5, b"x" * 16 + b"\0", SHORT),
]  # fmt: skip
ACCEPTED = [(1, b"1234"), (1, b"12345"), (2, b"1234"), (3, b"\1"), (3, b"\2"), (4, b""), (5, b"x" * 15 + b"\0"),
            (5, b"\0"), (6, b""), (200, b"unknown")]  # fmt: skip


@each("kind, value, refusal", REFUSED)
def test_policy_refuses(kind: int, value: bytes, refusal: tuple[int, str]) -> None:
    """NL-04, phrases as Linux 6.18 gives them."""
    for attrs in (netlink.attr(kind, value), netlink.attr(kind, value) + netlink.attr(1, b"1234")):
        with pytest.raises(XfrmError) as caught:
            netlink.parse_attrs(memoryview(attrs), 0, POLICY)
        assert (caught.value.errno, caught.value.extack) == refusal


@pytest.mark.parametrize("kind, value", ACCEPTED)
def test_policy_accepts(kind: int, value: bytes) -> None:
    """NL-04: longer than needed is fine, unknown types are kept unchecked."""
    assert bytes(netlink.parse_attrs(memoryview(netlink.attr(kind, value)), 0, POLICY)[kind]) == value


@pytest.mark.parametrize("rest", [b"\xff", b"\xff\xff\x01\0", b"\3\0\1\0\1\2\3\4", b"\0\0\0\0"])
def test_a_row_that_stops_making_sense_ends_there(rest: bytes) -> None:
    """NL-04: "bytes leftover after parsing attributes" is a warning only."""
    attrs = netlink.parse_attrs(memoryview(netlink.attr_u32(1, 42) + rest + netlink.attr_u32(2, 1)))
    assert {kind: netlink.get_u32(value) for kind, value in attrs.items()} == {1: 42}


def test_the_last_of_a_type_counts_and_flag_bits_do_not() -> None:
    row = netlink.attr_u32(1, 1) + netlink.attr_u32(1 | netlink.NLA_F_NESTED, 2)
    assert netlink.get_u32(netlink.parse_attrs(memoryview(row))[1]) == 2


def test_integers_and_strings() -> None:
    row = (
        netlink.attr_u8(1, 0xFE) + netlink.attr_u16(2, 0xFEDC) + netlink.attr_u32(3, 0xFEDCBA98)
        + netlink.attr_u64(4, 0xFEDCBA9876543210) + netlink.attr_string(5, "näme")
    )  # fmt: skip
    attrs = netlink.parse_attrs(memoryview(row))
    assert len(row) % 4 == 0
    assert [len(attrs[kind]) for kind in range(1, 6)] == [1, 2, 4, 8, 6]
    assert netlink.get_u8(attrs[1]) == 0xFE
    assert netlink.get_u16(attrs[2]) == 0xFEDC
    assert netlink.get_u32(attrs[3]) == 0xFEDCBA98
    assert netlink.get_u64(attrs[4]) == 0xFEDCBA9876543210
    assert netlink.get_string(attrs[5]) == "näme"


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_round_trip(items: dict[int, bytes]) -> None:
    row = b"".join(netlink.attr(kind, value) for kind, value in items.items())
    assert {kind: bytes(value) for kind, value in netlink.parse_attrs(memoryview(row)).items()} == items


def test_hostile_rows_take_one_pass() -> None:
    """65536 empty attributes: as many slices, no more (the answer is one entry)."""
    row = netlink.attr(9, b"") * 65536
    assert list(netlink.parse_attrs(memoryview(row))) == [9]
    assert list(netlink.parse_attrs(memoryview(bytes(262144)))) == []
