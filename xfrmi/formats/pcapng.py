"""Capture files: pcapng written, pcapng and classic pcap read (draft-ietf-opsawg-pcapng, draft-ietf-opsawg-pcap).

Written here rather than with a library: scapy's writer knows no secrets block, loads for a second and is under the GPL;
python-pcapng, last released in 2022, has no secrets block either. What is needed is five kinds of blocks.

A block:  type 4 | length 4 | body, padded to 32 bits | length 4
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from xfrmi.wire.ip import IPV4_HEADER_LEN

LINKTYPE_ETHERNET: Final = 1
LINKTYPE_RAW: Final = 101
LINKTYPE_SLL: Final = 113
LINKTYPE_IPV4: Final = 228
LINKTYPE_IPV6: Final = 229
LINKTYPE_SLL2: Final = 276

SECRETS_ESP: Final = 0x45535053
"""`ESPS`: lines of Wireshark's esp_sa table, all ten columns. Wireshark's wiretap/secrets-types.h; versions that do
not know it (4.5 and older) skip the block, and want the file instead."""

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_SIMPLE: Final = 3
_PACKET: Final = 6
_SECRETS: Final = 10

_MAGIC: Final = 0x1A2B3C4D
_SNAPLEN: Final = 1 << 18
_NANOSECONDS: Final = 9

_OPT_COMMENT: Final = 1
_OPT_IF_NAME: Final = 2
_OPT_IF_DESCRIPTION: Final = 3
_OPT_USERAPPL: Final = 4
_OPT_EPB_FLAGS: Final = 2
_OPT_TSRESOL: Final = 9

INBOUND, OUTBOUND = 1, 2
"""Directions in a packet's flags."""

MAX_PACKET: Final = 1 << 18
"""What claims to be longer is no packet."""

_PCAP_MAGICS: Final = {0xA1B2C3D4, 0xA1B23C4D}
_LINK_HEADERS: Final = {LINKTYPE_ETHERNET: 14, LINKTYPE_SLL: 16, LINKTYPE_SLL2: 20}
_RAW: Final = {LINKTYPE_RAW, 12, 14, LINKTYPE_IPV4, LINKTYPE_IPV6}
_VLANS: Final = (b"\x81\x00", b"\x88\xa8")


# Writing ----------------------------------------------------------------------------------------------------------


def section(application: str, comment: str = "") -> bytes:
    """What a file begins with."""
    options = _option(_OPT_USERAPPL, application.encode())
    if comment:
        options += _option(_OPT_COMMENT, comment.encode())
    return _block(_SECTION, struct.pack("<IHHq", _MAGIC, 1, 0, -1) + _options(options))


def interface(name: str, description: str = "", linktype: int = LINKTYPE_RAW) -> bytes:
    """The next interface; they are counted from 0. Times are nanoseconds."""
    options = _option(_OPT_IF_NAME, name.encode()) + _option(_OPT_IF_DESCRIPTION, description.encode())
    options += _option(_OPT_TSRESOL, bytes((_NANOSECONDS,)))
    return _block(_INTERFACE, struct.pack("<HHI", linktype, 0, _SNAPLEN) + _options(options))


def packet(number: int, time_ns: int, data: bytes, direction: int, comments: Sequence[str] = ()) -> bytes:
    """One packet of interface `number`, seen `time_ns` nanoseconds after 1970."""
    options = b"".join(_option(_OPT_COMMENT, comment.encode()) for comment in comments)
    options += _option(_OPT_EPB_FLAGS, struct.pack("<I", direction))
    head = struct.pack("<IIIII", number, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), len(data))
    return _block(_PACKET, head + _padded(data) + _options(options))


def secrets(kind: int, data: bytes) -> bytes:
    """Keys for packets that follow."""
    return _block(_SECRETS, struct.pack("<II", kind, len(data)) + _padded(data))


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _options(options: bytes) -> bytes:
    return options + bytes(4)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


# Reading ----------------------------------------------------------------------------------------------------------


class Captured(NamedTuple):
    """An IP packet out of a capture file."""

    number: int
    """As Wireshark counts, from 1."""
    interface: str
    """Empty where the file names none."""
    data: bytes


def read_packets(data: bytes) -> Iterator[Captured]:
    """All IP packets of a file; frames of other protocols are left out, but counted. ValueError for what is no capture
    file, or ends within a packet."""
    magic = data[:4]
    if len(magic) == 4 and int.from_bytes(magic, "big") == _SECTION:
        frames = _pcapng_frames(data)
    elif len(magic) == 4 and (int.from_bytes(magic, "little") in _PCAP_MAGICS or int.from_bytes(magic) in _PCAP_MAGICS):
        frames = _pcap_frames(data)
    else:
        raise ValueError("neither pcap nor pcapng")
    for number, (linktype, name, frame) in enumerate(frames, 1):
        if (inside := ip_of(linktype, frame)) is not None:
            yield Captured(number, name, inside)


def ip_of(linktype: int, frame: bytes) -> bytes | None:
    """The IP packet in a frame, None if there is none."""
    if linktype in _RAW:
        inside = frame
    elif linktype in _LINK_HEADERS:
        at = _LINK_HEADERS[linktype]
        kind = frame[:2] if linktype == LINKTYPE_SLL2 else frame[at - 2 : at]
        while kind in _VLANS:
            kind, at = frame[at + 2 : at + 4], at + 4
        if kind not in (b"\x08\x00", b"\x86\xdd"):
            return None
        inside = frame[at:]
    else:
        return None
    return inside if len(inside) >= IPV4_HEADER_LEN and inside[0] >> 4 in (4, 6) else None


Frame = tuple[int, str, bytes]


def _pcap_frames(data: bytes) -> Iterator[Frame]:
    order = "<" if int.from_bytes(data[:4], "little") in _PCAP_MAGICS else ">"
    if len(data) < 24:
        raise ValueError("the file header is not complete")
    linktype = struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF
    at = 24
    while at < len(data):
        if at + 16 > len(data):
            raise ValueError("the file ends within a packet's header")
        length = struct.unpack_from(f"{order}I", data, at + 8)[0]
        at += 16
        yield linktype, "", _slice(data, at, length)
        at += length


def _pcapng_frames(data: bytes) -> Iterator[Frame]:
    order, at = "<", 0
    interfaces: list[tuple[int, str]] = []
    while at < len(data):
        if at + 12 > len(data):
            raise ValueError("the file ends within a block")
        if data[at : at + 4] == b"\n\r\r\n":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        kind, length = struct.unpack_from(f"{order}II", data, at)
        if length < 12 or length % 4 or at + length > len(data):
            raise ValueError(f"a block at byte {at} has an impossible length, {length}")
        body = data[at + 8 : at + length - 4]
        if kind == _INTERFACE and len(body) >= 8:
            interfaces.append((struct.unpack_from(f"{order}H", body)[0], _name(body[8:], order)))
        elif kind == _PACKET and len(body) >= 20:
            number = struct.unpack_from(f"{order}I", body)[0]
            if number >= len(interfaces):
                raise ValueError(f"a packet at byte {at} is of interface {number}, which the file has not described")
            captured = struct.unpack_from(f"{order}I", body, 12)[0]
            yield *interfaces[number], _slice(body, 20, captured)
        elif kind == _SIMPLE and len(body) >= 4 and interfaces:
            original = struct.unpack_from(f"{order}I", body)[0]
            yield *interfaces[0], body[4 : 4 + min(original, len(body) - 4)]
        at += length


def _name(options: bytes, order: str) -> str:
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from(f"{order}HH", options, at)
        if code == _OPT_IF_NAME:
            return options[at + 4 : at + 4 + length].decode("utf-8", "replace")
        if not code:
            break
        at += 4 + length + -length % 4
    return ""


def _slice(data: bytes, at: int, length: int) -> bytes:
    if length > MAX_PACKET or at + length > len(data):
        raise ValueError(f"a packet claims to have {length} bytes, and the file ends before that")
    return data[at : at + length]
