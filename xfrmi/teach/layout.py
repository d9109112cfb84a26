"""Which byte of an outer packet is what: fields that follow each other without a gap, as in RFC 4303 section 2.

    outer IP | UDP | SPI | sequence | IV | payload | TFC | padding | pad length | next header | ICV

The offsets of what is encrypted are those of the plaintext behind it: every cipher here leaves lengths as they are.
"""

from __future__ import annotations

from typing import NamedTuple

from xfrmi.core.algo_aead import AesGmac, CombinedMode
from xfrmi.core.algo_authenc import AuthEnc
from xfrmi.core.algo_cipher import Null
from xfrmi.core.state import State
from xfrmi.core.transform import Transform
from xfrmi.teach.watch import Work, unwatched
from xfrmi.teach.wording import address, protocol
from xfrmi.wire.esp import ESP_HEADER_LEN
from xfrmi.wire.ip import (
    IPV4_HEADER_LEN,
    IPV6_HEADER_LEN,
    UDP_HEADER_LEN,
    Buffer,
    addresses_of,
    trim,
    upper_layer,
)
from xfrmi.wire.xfrm_const import IPPROTO_BEETPH


class Field(NamedTuple):
    start: int
    end: int
    name: str
    kind: str
    """Its colour: ip, udp, spi, seq, iv, payload, tfc, pad, trailer, icv, opaque."""
    text: str = ""
    """What it says, in words."""
    authenticated: bool = False
    encrypted: bool = False


class Layout(NamedTuple):
    title: str
    data: bytes
    fields: tuple[Field, ...]
    plain: bytes = b""
    """What the encrypted part was, or became: it lies at `plain_at` of `data`. Empty where nobody knows."""
    plain_at: int = 0

    def field_at(self, offset: int) -> Field:
        return next(field for field in self.fields if field.start <= offset < field.end)


def layout_of(work: Work, title: str, outer: bytes) -> Layout:
    """The packet that `work` made, or opened."""
    esp_at = len(work.header)
    transform = work.state.transform
    fields = header_fields(outer[:esp_at])
    fields += esp_fields(outer, esp_at, work.state, work)
    covered = authenticates(transform)
    secret = encrypts(transform)
    plain_at = esp_at + ESP_HEADER_LEN + transform.iv_len if work.plaintext else 0
    marked = [
        field._replace(
            authenticated=covered and field.start >= esp_at and field.kind != "icv",
            encrypted=secret and field.start >= esp_at and field.kind not in ("spi", "seq", "iv", "icv"),
        )
        for field in fields
    ]
    return Layout(title, outer, tuple(field for field in marked if field.end > field.start), work.plaintext, plain_at)


def unopened(title: str, outer: bytes, esp_at: int) -> Layout:
    """An ESP packet without a state: SPI and number are all one can tell."""
    fields = header_fields(outer[:esp_at])
    head = outer[esp_at : esp_at + ESP_HEADER_LEN]
    fields += [
        Field(esp_at, min(esp_at + 4, len(outer)), "SPI", "spi", f"0x{head[:4].hex()}"),
        Field(esp_at + 4, min(esp_at + 8, len(outer)), "sequence number", "seq", str(int.from_bytes(head[4:], "big"))),
        Field(esp_at + 8, len(outer), "IV, ciphertext, ICV", "opaque", "without a state nobody knows where they end"),
    ]
    return Layout(title, outer, tuple(field for field in fields if field.end > field.start))


def plain_packet(title: str, packet: bytes) -> Layout:
    """An inner packet."""
    try:
        header_len = upper_layer(packet)[1]
    except ValueError:
        return Layout(title, packet, (Field(0, len(packet), "no IP packet", "opaque"),) if packet else ())
    header_len = min(header_len, len(packet))
    fields = header_fields(packet[:header_len])
    if len(packet) > header_len:
        name = protocol(fields_protocol(packet))
        fields.append(Field(header_len, len(packet), f"{name} and what it carries", "payload"))
    return Layout(title, packet, tuple(fields))


def fields_protocol(packet: Buffer) -> int:
    return upper_layer(packet)[0]


def authenticates(transform: Transform) -> bool:
    """Does anybody notice a turned bit?"""
    return bool(transform.icv_len)


def encrypts(transform: Transform) -> bool:
    """Is the payload hidden?"""
    real = unwatched(transform)
    return not isinstance(real, AesGmac) and not (isinstance(real, AuthEnc) and isinstance(real.cipher, Null))


def nonce(state: State, iv: bytes) -> bytes:
    """What a combined mode encrypts with: salt and IV. Empty for other algorithms. The salt is a part of the key."""
    real = unwatched(state.transform)
    return bytes(real.salt) + iv if isinstance(real, CombinedMode) else b""


# Headers ----------------------------------------------------------------------------------------------------------


def header_fields(header: bytes) -> list[Field]:
    """IP header with options or extension headers, and the UDP header behind it if there is one."""
    version = header[0] >> 4 if header else 0
    if version == 4 and len(header) >= IPV4_HEADER_LEN:
        fields, header_len = _ipv4_fields(header), (header[0] & 15) * 4
    elif version == 6 and len(header) >= IPV6_HEADER_LEN:
        fields, header_len = _ipv6_fields(header), IPV6_HEADER_LEN
    else:
        return [Field(0, len(header), "no IP header", "opaque")]
    rest = len(header)
    udp = rest - UDP_HEADER_LEN
    if _ends_in_udp(header, udp, header_len):
        rest = udp
    fixed_end = fields[-1].end
    if rest > fixed_end:
        fields.append(Field(fixed_end, rest, "options" if version == 4 else "extension headers", "ip"))
    if udp == rest:
        fields += _udp_fields(header, udp)
    return fields


def _ends_in_udp(header: bytes, udp: int, header_len: int) -> bool:
    if udp < header_len:
        return False
    try:
        return upper_layer(header)[0] == 17
    except ValueError:
        return False


def _ipv4_fields(header: bytes) -> list[Field]:
    tos, flags = header[1], header[6] >> 5
    offset = (int.from_bytes(header[6:8], "big") & 0x1FFF) * 8
    fragment = "DF" if flags & 2 else "may be fragmented"
    fragment += ", more fragments" if flags & 1 else ""
    fragment += f", offset {offset}" if offset else ""
    return [
        Field(0, 1, "version, IHL", "ip", f"4, {header[0] & 15}"),
        Field(1, 2, "DSCP, ECN", "ip", f"{tos >> 2}, {tos & 3}"),
        Field(2, 4, "total length", "ip", str(int.from_bytes(header[2:4], "big"))),
        Field(4, 6, "identification", "ip", str(int.from_bytes(header[4:6], "big"))),
        Field(6, 8, "flags, offset", "ip", fragment),
        Field(8, 9, "TTL", "ip", str(header[8])),
        Field(9, 10, "protocol", "ip", f"{header[9]} {protocol(header[9])}"),
        Field(10, 12, "checksum", "ip", f"0x{header[10:12].hex()}"),
        Field(12, 16, "source address", "ip", address(header[12:16])),
        Field(16, 20, "destination address", "ip", address(header[16:20])),
    ]


def _ipv6_fields(header: bytes) -> list[Field]:
    tos = int.from_bytes(header[:2], "big") >> 4 & 0xFF
    label = int.from_bytes(header[1:4], "big") & 0xFFFFF
    words = f"6, DSCP {tos >> 2}, ECN {tos & 3}, label {label:#x}"
    return [
        Field(0, 4, "version, class, flow label", "ip", words),
        Field(4, 6, "payload length", "ip", str(int.from_bytes(header[4:6], "big"))),
        Field(6, 7, "next header", "ip", f"{header[6]} {protocol(header[6])}"),
        Field(7, 8, "hop limit", "ip", str(header[7])),
        Field(8, 24, "source address", "ip", address(header[8:24])),
        Field(24, 40, "destination address", "ip", address(header[24:40])),
    ]


def _udp_fields(header: bytes, at: int) -> list[Field]:
    sport, dport, length, check = (int.from_bytes(header[at + n : at + n + 2], "big") for n in (0, 2, 4, 6))
    return [
        Field(at, at + 2, "source port", "udp", str(sport)),
        Field(at + 2, at + 4, "destination port", "udp", str(dport)),
        Field(at + 4, at + 6, "UDP length", "udp", str(length)),
        Field(at + 6, at + 8, "UDP checksum", "udp", f"0x{check:04x}" if check else "0: none (RFC 3948)"),
    ]


# ESP --------------------------------------------------------------------------------------------------------------


def esp_fields(outer: bytes, at: int, state: State, work: Work) -> list[Field]:
    """From the SPI on."""
    transform = state.transform
    end = len(outer)
    iv_at = min(at + ESP_HEADER_LEN, end)
    text_at = min(iv_at + transform.iv_len, end)
    icv_at = max(end - transform.icv_len, text_at)
    number = int.from_bytes(outer[at + 4 : iv_at], "big")
    upper = ""
    if state.esn:
        upper = f", lower half of {work.number}" if work.number is not None else ", the lower half"
    fields = [
        Field(at, min(at + 4, end), "SPI", "spi", f"0x{outer[at : at + 4].hex()}"),
        Field(min(at + 4, end), iv_at, "sequence number", "seq", f"{number}{upper}"),
        Field(iv_at, text_at, "IV", "iv", outer[iv_at:text_at].hex()),
    ]
    if work.plaintext:
        fields += _plain_fields(work, text_at)
    else:
        fields.append(Field(text_at, icv_at, "ciphertext", "opaque", "not opened"))
    return [*fields, Field(icv_at, end, "ICV", "icv", outer[icv_at:].hex())]


def _plain_fields(work: Work, at: int) -> list[Field]:
    plaintext = work.plaintext
    end = at + len(plaintext)
    pad_len, next_header = plaintext[-2], plaintext[-1]
    pad_at = end - 2 - pad_len
    if pad_at < at:
        return [Field(at, end, "payload", "payload", "the pad length is more than there is")]
    payload_end = _payload_end(work, at, pad_at)
    fields = _payload_fields(work, at, payload_end)
    if payload_end < pad_at:
        fields.append(Field(payload_end, pad_at, "TFC padding", "tfc", f"{pad_at - payload_end} bytes hide the length"))
    return [
        *fields,
        Field(pad_at, end - 2, "padding", "pad", plaintext[len(plaintext) - 2 - pad_len : -2].hex(" ")),
        Field(end - 2, end - 1, "pad length", "trailer", str(pad_len)),
        Field(end - 1, end, "next header", "trailer", f"{next_header} {_next_header(next_header)}"),
    ]


def _payload_end(work: Work, at: int, pad_at: int) -> int:
    """What follows the packet that is inside is TFC padding; who seals knows, who opens asks the inner IP header."""
    if work.outer:
        return at + len(work.payload)
    try:
        inside = trim(work.payload)
    except ValueError:
        return pad_at
    return at + len(inside) if work.next_header in (4, 41) else pad_at


def _payload_fields(work: Work, at: int, end: int) -> list[Field]:
    payload = work.plaintext[: end - at]
    if work.next_header in (4, 41):
        try:
            header_len = min(upper_layer(payload)[1], len(payload))
        except ValueError:
            header_len = 0
        if header_len:
            inner = " > ".join(map(address, addresses_of(payload)))
            rest = protocol(upper_layer(payload)[0])
            return [
                Field(at, at + header_len, "inner IP header", "inner", inner),
                Field(at + header_len, end, f"inner payload ({rest})", "payload"),
            ]
    if work.next_header == IPPROTO_BEETPH and len(payload) >= 4:
        size = min(8 + payload[1] * 8, len(payload))
        text = f"options of the inner header; then {protocol(payload[0])}"
        return [
            Field(at, at + size, "BEET pseudo header", "inner", text),
            Field(at + size, end, f"payload ({protocol(payload[0])})", "payload"),
        ]
    return [Field(at, end, f"payload ({_next_header(work.next_header)})", "payload")]


def _next_header(number: int) -> str:
    return "BEET pseudo header" if number == IPPROTO_BEETPH else protocol(number)
