"""xfrmi.wire.fragment: outer packets in pieces, as the kernel cuts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfrmi.wire.fragment import fragment_ipv4, fragment_ipv6
from xfrmi.wire.ip import checksum, ipv4_header_checksum

CAPTURES = json.loads((Path(__file__).parents[1] / "vectors" / "fragments.json").read_text())["vectors"]


def v4_packet(payload_len: int, *, options: bytes = b"", frag_off: int = 0) -> bytes:
    length = 20 + len(options) + payload_len
    header = bytearray(b"\x45\0" + length.to_bytes(2, "big") + b"\0\0" + frag_off.to_bytes(2, "big"))
    header += b"\x40\x32\0\0" + bytes((192, 0, 2, 1, 192, 0, 2, 2)) + options
    header[0] += len(options) // 4
    header[10:12] = ipv4_header_checksum(header).to_bytes(2, "big")
    return bytes(header) + bytes(index % 251 for index in range(payload_len))


def v6_packet(payload_len: int, headers: bytes = b"", first: int = 50) -> bytes:
    header = b"\x60\x0b\0\1" + (len(headers) + payload_len).to_bytes(2, "big") + bytes((first, 64))
    return header + bytes(15) + b"\1" + bytes(15) + b"\2" + headers + bytes(index % 251 for index in range(payload_len))


def reassemble(fragments: list[bytes]) -> bytes:
    """The unfragmented packet of in-order captured fragments, identification 0 and checksum done."""
    if fragments[0][0] >> 4 == 4:
        header_len = (fragments[0][0] & 15) * 4
        header = bytearray(fragments[0][:header_len])
        payload = b"".join(fragment[header_len:] for fragment in fragments)
        header[2:4] = (header_len + len(payload)).to_bytes(2, "big")
        header[4:8] = bytes(4)
        header[10:12] = ipv4_header_checksum(header).to_bytes(2, "big")
        return bytes(header) + payload
    payload = b"".join(fragment[48:] for fragment in fragments)
    return fragments[0][:4] + len(payload).to_bytes(2, "big") + fragments[0][40:41] + fragments[0][7:40] + payload


@pytest.mark.parametrize("capture", CAPTURES, ids=[capture["label"] for capture in CAPTURES])
def test_same_bytes_as_a_kernel(capture: dict[str, object]) -> None:
    """TX-12b, 5.4: the outer packet is fragmented after ESP."""
    fragments = [bytes.fromhex(text) for text in capture["fragments"]]
    whole = reassemble(fragments)
    if whole[0] >> 4 == 4:
        made = fragment_ipv4(whole, capture["mtu"], int.from_bytes(fragments[0][4:6], "big"))
    else:
        made = fragment_ipv6(whole, capture["mtu"], int.from_bytes(fragments[0][44:48], "big"))
    assert made == fragments


@given(st.integers(1, 4000), st.integers(28, 1500), st.sampled_from((0, 0x4000, 0x2000, 0x20B9, 0x00B9)))
def test_ipv4_fragments_make_up_the_packet(payload_len: int, mtu: int, frag_off: int) -> None:
    packet = v4_packet(payload_len, frag_off=frag_off)
    fragments = fragment_ipv4(memoryview(packet), mtu, 0x1234)
    if len(packet) <= mtu:
        assert fragments == [packet]
        return
    offset = frag_off & 0x1FFF
    payload = b""
    for fragment in fragments:
        last = fragment is fragments[-1]
        assert len(fragment) <= mtu and int.from_bytes(fragment[2:4], "big") == len(fragment)
        assert fragment[4:6] == b"\x12\x34" and checksum(fragment[:20]) == 0
        field = int.from_bytes(fragment[6:8], "big")
        assert field & 0x1FFF == offset and bool(field & 0x2000) == (not last or bool(frag_off & 0x2000))
        assert not field & 0x4000
        assert last or len(fragment) % 8 == 4
        offset += len(fragment[20:]) // 8
        payload += fragment[20:]
    assert payload == packet[20:]


@given(st.integers(1, 4000), st.integers(64, 1500))
def test_ipv6_fragments_make_up_the_packet(payload_len: int, mtu: int) -> None:
    packet = v6_packet(payload_len, b"\x32\0" + bytes(6), first=0)
    fragments = fragment_ipv6(memoryview(packet), mtu, 0x12345678)
    if len(packet) <= mtu:
        assert fragments == [packet]
        return
    offset, payload = 0, b""
    for fragment in fragments:
        last = fragment is fragments[-1]
        assert len(fragment) <= mtu and int.from_bytes(fragment[4:6], "big") == len(fragment) - 40
        assert fragment[6] == 0 and fragment[40] == 44, "hop-by-hop options stay in front, in each fragment"
        assert fragment[48:50] == b"\x32\0" and fragment[52:56] == b"\x12\x34\x56\x78"
        assert int.from_bytes(fragment[50:52], "big") == offset | (not last)
        offset += len(fragment) - 56
        payload += fragment[56:]
    assert payload == packet[48:]


def test_scapy_puts_them_together_again() -> None:
    from scapy.layers.inet import IP, defragment
    from scapy.layers.inet6 import IPv6, defragment6

    packet = v4_packet(3000)
    (whole,) = defragment([IP(fragment) for fragment in fragment_ipv4(packet, 1500, 9)])
    assert bytes(whole)[20:] == packet[20:]
    packet = v6_packet(3000)
    whole = defragment6([IPv6(bytes(fragment)) for fragment in fragment_ipv6(packet, 1400, 9)])
    assert bytes(whole)[40:] == packet[40:]


def test_the_last_fragment_may_fill_the_mtu() -> None:
    """1479 bytes are 184 units and 7 bytes: the kernel does not cut the rest down to whole units."""
    packet = v4_packet(1472 + 1479)
    assert [len(fragment) for fragment in fragment_ipv4(packet, 1499, 1)] == [1492, 1499]


def test_options_not_to_be_copied_become_nops() -> None:
    """RFC 791 3.1; record route (7) stays in the first fragment, router alert (148) goes into all."""
    options = bytes((7, 7, 4, 1, 2, 3, 4)) + bytes((1,)) + bytes((148, 4, 0, 0))
    first, second, third = fragment_ipv4(v4_packet(100, options=options), 72, 5)
    assert first[20:32] == options
    assert second[20:32] == third[20:32] == bytes((1,)) * 8 + bytes((148, 4, 0, 0))
    assert checksum(second[:32]) == 0


@pytest.mark.parametrize("options", [b"\x07\x00\0\0", b"\x07\x09\0\0", b"\1\1\1\x07", b"\0\x07\x03\0"])
def test_malformed_options_are_copied_as_they_are(options: bytes) -> None:
    fragments = fragment_ipv4(v4_packet(100, options=options), 72, 5)
    assert [fragment[20:24] for fragment in fragments] == [options] * 3


@pytest.mark.parametrize("mtu", [0, 20, 27])
def test_no_room_for_eight_bytes(mtu: int) -> None:
    with pytest.raises(ValueError):
        fragment_ipv4(v4_packet(100), mtu, 1)
    with pytest.raises(ValueError):
        fragment_ipv6(v6_packet(100), mtu + 28, 1)


def test_each_family_is_itself() -> None:
    with pytest.raises(ValueError):
        fragment_ipv4(v6_packet(2000), 1500, 1)
    with pytest.raises(ValueError):
        fragment_ipv6(v4_packet(2000), 1500, 1)


@given(st.binary(max_size=150), st.sampled_from((0x45, 0x4F, 0x60)), st.integers(0, 100))
def test_hostile_bytes_raise_nothing_but_value_error(tail: bytes, first: int, mtu: int) -> None:
    packet = bytes((first,)) + tail
    for cut in (fragment_ipv4, fragment_ipv6):
        try:
            fragments = cut(packet, mtu, 1)
        except ValueError:
            continue
        assert all(len(fragment) <= mtu for fragment in fragments)
