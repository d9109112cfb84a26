"""No byte string brings an xfrm decoder down: it gives a value or an XfrmError."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.wire import xfrm_values as values
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.xfrm_attr import SIZES
from xfrmi.wire.xfrm_msg import XfrmMsg
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

REQUEST = netlink.NLM_F_REQUEST


def survive(datagram: bytes) -> None:
    """Every decoder gives a value or an XfrmError."""
    try:
        messages = list(netlink.split(datagram))
    except XfrmError:
        return
    for message in messages:
        for decode in (xfrm_msg.decode_request, xfrm_msg.decode_notice):
            try:
                value = decode(message)
            except XfrmError as error:
                assert 0 < error.errno < 4096
            else:
                assert value is None or repr(value)


any_kind = st.integers(0x10, 0x29)
any_flags = st.sampled_from([REQUEST, REQUEST | netlink.NLM_F_DUMP])


@settings(max_examples=examples(200))
@given(st.binary(max_size=400))
def test_any_datagram(datagram: bytes) -> None:
    survive(datagram)


@settings(max_examples=examples(400))
@given(any_kind, any_flags, st.binary(max_size=400))
def test_any_body(kind: int, flags: int, body: bytes) -> None:
    survive(netlink.message(kind, flags, 1, 1, body))


@settings(max_examples=examples(400))
@given(
    any_kind, any_flags, st.binary(max_size=8),
    st.lists(st.tuples(st.integers(0, 45), st.integers(0, 300), st.binary(min_size=1, max_size=12)), max_size=6),
)  # fmt: skip
def test_any_attributes(kind: int, flags: int, seed: bytes, items: list[tuple[int, int, bytes]]) -> None:
    size = SIZES.get(kind, 0)
    body = (seed * size)[:size].ljust((size + 3) & ~3, b"\x02")
    attrs = b"".join(netlink.attr(number, (pattern * size)[:size]) for number, size, pattern in items)
    survive(netlink.message(kind, flags, 1, 1, body + attrs))
    survive(netlink.message(kind, REQUEST | netlink.NLM_F_DUMP, 1, 1, attrs))


@settings(max_examples=examples(60))
@given(values.states, st.integers(0, 2000), st.binary(min_size=1, max_size=8), st.integers(0, 2000))
def test_damaged_states(info: StateInfo, at: int, damage: bytes, length: int) -> None:
    body = bytearray(xfrm_msg.encode_state(info))
    at %= len(body)
    body[at : at + len(damage)] = damage
    survive(netlink.message(XfrmMsg.NEWSA, 1, 1, 1, bytes(body)))
    survive(netlink.message(XfrmMsg.NEWSA, 1, 1, 1, bytes(body[:length])))


@example(b"\xff" * 40)
@given(st.binary(min_size=20, max_size=64))
def test_a_name_of_any_bytes_is_told_the_same_again(name: bytes) -> None:
    """Bytes that are no UTF-8 are told by longer ones (found by make fuzz): a name stays within its room."""
    body = xfrm_msg.encode_state(StateInfo(b"\1" * 4, b"\2" * 4, 1, aead=Algorithm("x" * 60, b"", 128)))
    told = body.replace(b"x" * 60 + bytes(4), name.ljust(64, b"\0"))
    for _ in range(2):
        before, told = told, xfrm_msg.encode_state(read(told))
    assert told == before


def read(body: bytes) -> StateInfo:
    return xfrm_msg.decode_state(netlink.Message(XfrmMsg.NEWSA, REQUEST, 1, 1, body))
