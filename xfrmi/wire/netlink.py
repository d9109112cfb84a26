"""netlink framing: messages in datagrams, attributes in messages, and how a request is answered.

A datagram is a row of messages, a message a 16-byte header (nlmsghdr) and a body, a body a fixed struct and a row of
attributes (nlattr: length, type, value), everything on multiples of four and in host byte order. Every length in
there is the sender's word: nothing here trusts one, nothing here takes more than one pass over the bytes, and what
is wrong is an `XfrmError` (NL-03, NL-04). Constants: linux/netlink.h.

Reading:  for message in split(datagram): attrs = parse_attrs(message.body, 16, policy); get_u32(attrs[31])
Writing:  message(type, flags, seq, pid, struct + attr_u32(31, if_id) + attr(5, templates))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from errno import EINVAL, EPROTO, ERANGE
from struct import Struct
from typing import Final, NamedTuple

from xfrmi.errors import XfrmError

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_MIN_TYPE: Final = 0x10
"""Types below are control messages; one the receiver does not know is acknowledged and does nothing (NL-02)."""
NLMSG_SUBSCRIBE: Final = 0x0F
"""Ours: the body is a u32, bit (group - 1) for each multicast group wanted from now on; answered with an ack."""

NLMSG_ATTACH: Final = 0x0E
"""Ours: this session speaks for programs with netlink sockets of their own. The body is a u32 as in NLMSG_SUBSCRIBE:
the groups that these listen to; the answer has the port, a u32, from which the daemon multicasts to them."""
NLMSG_ENVELOPE: Final = 0x0D
"""Ours: the body is a whole datagram of requests. Before the last datagram of its answers stands an NLMSG_ENVELOPE, or
alone if there are none, so that one who passes on what he did not write knows the end of what it brings."""

NLM_F_REQUEST: Final = 0x001
NLM_F_MULTI: Final = 0x002
NLM_F_ACK: Final = 0x004
NLM_F_ROOT: Final = 0x100
NLM_F_MATCH: Final = 0x200
NLM_F_DUMP: Final = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_CAPPED: Final = 0x100
"""In an NLMSG_ERROR: only the header of the request is quoted."""
NLM_F_ACK_TLVS: Final = 0x200
"""In an NLMSG_ERROR or NLMSG_DONE: attributes follow."""

NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF

NLMSGERR_ATTR_MSG: Final = 1
NLMSGERR_ATTR_DETAIL: Final = 0
"""Our own sentence next to the kernel's phrase. The number is NLMSGERR_ATTR_UNUSED because libmnl programs (iproute2)
give up on the whole extended ack when a type is larger than the largest they know, and skip type 0."""

_MAX_DETAIL: Final = 1024

NLMSG_HDRLEN: Final = 16
NLA_HDRLEN: Final = 4

_HEADER: Final = Struct("=IHHII")
_ERROR: Final = Struct("=i")
_ATTR: Final = Struct("=HH")
_ATTR_U8: Final = Struct("=HHB3x")
_ATTR_U16: Final = Struct("=HHH2x")
_ATTR_U32: Final = Struct("=HHI")
_ATTR_U64: Final = Struct("=HHQ")
_U16: Final = Struct("=H")
_U32: Final = Struct("=I")
_U64: Final = Struct("=Q")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")

Attrs = dict[int, memoryview]


class Message(NamedTuple):
    """One message of a datagram; `body` is a view into it."""

    type: int
    flags: int
    seq: int
    pid: int
    body: memoryview

    @property
    def is_dump(self) -> bool:
        """For a GET request; either bit of NLM_F_DUMP is enough, as in the kernel."""
        return bool(self.flags & NLM_F_DUMP)


NO_REQUEST: Final = Message(0, 0, 0, 0, memoryview(b""))
"""For an error that answers nobody's request (ENOBUFS to a listener that does not read)."""


# Messages


def split(datagram: bytes | bytearray | memoryview) -> Iterator[Message]:
    """The messages of a datagram in order. Fewer than 16 bytes at the end are ignored, as by the kernel.

    A length that is impossible raises XfrmError(EINVAL) after the messages before it. (The kernel stops there without
    a word; a server may do the same, there is no message to answer.)
    """
    view = memoryview(datagram)
    offset, end = 0, len(view)
    while end - offset >= NLMSG_HDRLEN:
        length, kind, flags, seq, pid = _HEADER.unpack_from(view, offset)
        if not NLMSG_HDRLEN <= length <= end - offset:
            detail = f"a netlink message of {length} bytes where the datagram has {end - offset} left"
            raise XfrmError(EINVAL, "", detail)
        yield Message(kind, flags, seq, pid, view[offset + NLMSG_HDRLEN : offset + length])
        offset += (length + 3) & ~3


def header_of(datagram: bytes) -> Message:
    """The first header alone, with an empty body: enough to answer a datagram that came truncated."""
    if len(datagram) < NLMSG_HDRLEN:
        raise XfrmError(EINVAL, "", f"{len(datagram)} bytes are no netlink message")
    _, kind, flags, seq, pid = _HEADER.unpack_from(datagram)
    return Message(kind, flags, seq, pid, memoryview(b""))


def message(kind: int, flags: int, seq: int, pid: int, body: bytes = b"") -> bytes:
    """One framed message, padded to a multiple of four (the padding is not in its length)."""
    length = NLMSG_HDRLEN + len(body)
    return _HEADER.pack(length, kind, flags, seq, pid) + body + _PADDING[length & 3]


def datagrams(messages: Iterable[bytes], limit: int = 3584) -> Iterator[bytes]:
    """Join the messages of a dump into datagrams of at most `limit` bytes (one that is longer goes alone).

    The default suits clients with a 4096-byte buffer (strongSwan).
    """
    batch: list[bytes] = []
    size = 0
    for item in messages:
        if batch and size + len(item) > limit:
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(item)
        size += len(item)
    if batch:
        yield b"".join(batch)


# Answers


def error(request: Message, errno: int, extack: str = "", detail: str = "") -> bytes:
    """NLMSG_ERROR for a request: `errno` positive (0 acknowledges), header quoted, texts as attributes."""
    flags = NLM_F_CAPPED
    body = _ERROR.pack(-errno)
    body += _HEADER.pack(NLMSG_HDRLEN + len(request.body), request.type, request.flags, request.seq, request.pid)
    if texts := _texts(extack, detail):
        flags |= NLM_F_ACK_TLVS
    return message(NLMSG_ERROR, flags, request.seq, request.pid, body + texts)


def refusal(request: Message, failure: XfrmError) -> bytes:
    """NLMSG_ERROR that says why a request failed."""
    return error(request, failure.errno, failure.extack, failure.detail)


def ack(request: Message) -> bytes:
    return error(request, 0)


def done(request: Message, failure: XfrmError | None = None) -> bytes:
    """NLMSG_DONE: the end of a dump; a dump that fails half-way says so here."""
    if failure is None:
        return message(NLMSG_DONE, NLM_F_MULTI, request.seq, request.pid, _ERROR.pack(0))
    texts = _texts(failure.extack, failure.detail)
    flags = NLM_F_MULTI | (NLM_F_ACK_TLVS if texts else 0)
    return message(NLMSG_DONE, flags, request.seq, request.pid, _ERROR.pack(-failure.errno) + texts)


def raise_error(answer: Message) -> None:
    """For a client: raise the XfrmError that an NLMSG_ERROR or NLMSG_DONE carries; return if it means success."""
    if len(answer.body) < _ERROR.size:
        if answer.type == NLMSG_DONE:
            return
        raise XfrmError(EPROTO, "", f"an NLMSG_ERROR of {len(answer.body)} bytes")
    (code,) = _ERROR.unpack_from(answer.body)
    if code == 0:
        return
    start = _ERROR.size
    if answer.type == NLMSG_ERROR:
        start += NLMSG_HDRLEN
        if not answer.flags & NLM_F_CAPPED and len(answer.body) >= start:
            (quoted,) = _U32.unpack_from(answer.body, _ERROR.size)
            start = _ERROR.size + ((max(quoted, NLMSG_HDRLEN) + 3) & ~3)
    texts = parse_attrs(answer.body, start) if answer.flags & NLM_F_ACK_TLVS else {}
    raise XfrmError(
        -code if -4096 < code < 0 else EPROTO,
        get_string(texts.get(NLMSGERR_ATTR_MSG, memoryview(b""))),
        get_string(texts.get(NLMSGERR_ATTR_DETAIL, memoryview(b""))),
    )


def _texts(extack: str, detail: str) -> bytes:
    texts = attr_string(NLMSGERR_ATTR_MSG, extack) if extack else b""
    return texts + attr_string(NLMSGERR_ATTR_DETAIL, detail[:_MAX_DETAIL]) if detail else texts


# Attributes


class AttrRule(NamedTuple):
    """What an attribute policy says about one type; lengths in bytes.

    Too short (or above `maximum`) is ERANGE. `strict` types must have the length exactly (EINVAL): those the kernel
    added after it learned to be strict. `span` bounds an integer of a strict u8 type. A NUL that ends a `text` does
    not count.
    """

    name: str
    minimum: int = 0
    maximum: int = 0xFFFF
    strict: bool = False
    span: tuple[int, int] | None = None
    text: bool = False


Policy = Mapping[int, AttrRule]
_NO_POLICY: Final[Policy] = {}


def parse_attrs(body: memoryview, offset: int = 0, policy: Policy = _NO_POLICY) -> Attrs:
    """The attributes from `offset` on, by type; of two with the same type the last counts.

    As the kernel does it (NL-04): types without a rule are kept unchecked, and where the row stops making sense the
    rest is ignored. XfrmError as AttrRule says, in the kernel's words.
    """
    attrs: Attrs = {}
    end = len(body)
    while end - offset >= NLA_HDRLEN:
        length, kind = _ATTR.unpack_from(body, offset)
        if not NLA_HDRLEN <= length <= end - offset:
            break
        value = body[offset + NLA_HDRLEN : offset + length]
        if (rule := policy.get(kind & _NLA_TYPE_MASK)) is not None:
            if rule.strict and kind & NLA_F_NESTED:
                raise XfrmError(EINVAL, "NLA_F_NESTED not expected", f"{rule.name} holds no attributes")
            _check(rule, value)
        attrs[kind & _NLA_TYPE_MASK] = value
        offset += (length + 3) & ~3
    return attrs


def all_attrs(body: memoryview, offset: int, kind: int) -> Iterator[memoryview]:
    """Every attribute of type `kind`, where a message has several of them."""
    end = len(body)
    while end - offset >= NLA_HDRLEN:
        length, found = _ATTR.unpack_from(body, offset)
        if not NLA_HDRLEN <= length <= end - offset:
            break
        if found & _NLA_TYPE_MASK == kind:
            yield body[offset + NLA_HDRLEN : offset + length]
        offset += (length + 3) & ~3


def _check(rule: AttrRule, value: memoryview) -> None:
    size = len(value)
    if rule.strict and size != rule.minimum:
        raise XfrmError(EINVAL, "invalid attribute length", f"{rule.name} has {size} bytes, not {rule.minimum}")
    if rule.text and size > 1 and value[-1] == 0:
        size -= 1
    if not rule.minimum <= size <= rule.maximum:
        bound = f"at least {rule.minimum}" if size < rule.minimum else f"at most {rule.maximum}"
        raise XfrmError(ERANGE, "Attribute failed policy validation", f"{rule.name} has {size} bytes, not {bound}")
    if rule.span is not None and not rule.span[0] <= value[0] <= rule.span[1]:
        raise XfrmError(ERANGE, "integer out of range", f"{rule.name} {value[0]} is not in {rule.span}")


def attr(kind: int, value: bytes) -> bytes:
    length = NLA_HDRLEN + len(value)
    return _ATTR.pack(length, kind) + value + _PADDING[length & 3]


def attr_u8(kind: int, value: int) -> bytes:
    return _ATTR_U8.pack(5, kind, value)


def attr_u16(kind: int, value: int) -> bytes:
    return _ATTR_U16.pack(6, kind, value)


def attr_u32(kind: int, value: int) -> bytes:
    return _ATTR_U32.pack(8, kind, value)


def attr_u64(kind: int, value: int) -> bytes:
    return _ATTR_U64.pack(12, kind, value)


def attr_string(kind: int, text: str) -> bytes:
    """With the terminating NUL."""
    return attr(kind, text.encode("utf-8", "replace") + b"\0")


def get_u8(value: memoryview) -> int:
    """The first byte; here and below the policy has seen to the length."""
    return value[0]


def get_u16(value: memoryview) -> int:
    return int(_U16.unpack_from(value)[0])


def get_u32(value: memoryview) -> int:
    return int(_U32.unpack_from(value)[0])


def get_u64(value: memoryview) -> int:
    return int(_U64.unpack_from(value)[0])


def get_string(value: memoryview) -> str:
    """Up to the first NUL or the end; bytes that are not UTF-8 are replaced."""
    return bytes(value).partition(b"\0")[0].decode("utf-8", "replace")
