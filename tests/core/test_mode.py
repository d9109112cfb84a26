"""core.mode: what the captures of a kernel (tests/captures) do not say (5.2 to 5.7, flags of 3.5)."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.each import each
from xfrmi.core import mode
from xfrmi.core.outer import finish_for, tos_table
from xfrmi.core.state import State
from xfrmi.errors import Drop, XfrmError
from xfrmi.wire.ip import checksum, ipv4_header_checksum, pseudo_header_sum
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_UDP, STATE_DECAP_DSCP, Mode, XfrmStat
from xfrmi.wire.xfrm_types import Algorithm, Encap, Selector

GCM_16 = Algorithm("rfc4106(gcm(aes))", bytes(range(20)), 128)
V4, V6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
INNER4 = bytes.fromhex("45000024123440004011d42bc6336401c6336402045708ae0010dd7e00000000c0de0001")
INNER6 = bytes.fromhex(
    "60012345001011402001" + "0db8000100000000000000000001" + "20010db8000100000000000000000002"
    "045708ae0010d66f00000000c0de0004"
)


def make(mode_: Mode, addresses: tuple[str, str] = V4, **fields: Any) -> State:
    return State(src=addresses[0], dst=addresses[1], spi=0x100, mode=mode_, aead=GCM_16, **fields)


# Outwards --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_goes_in(kind: type) -> None:
    for mode_ in (Mode.TUNNEL, Mode.TRANSPORT, Mode.BEET):
        state = make(mode_, selector=Selector.parse("198.51.100.1/32", "198.51.100.2/32"))
        plain = mode.framing(state).wrap(INNER4)
        header, payload, next_header = mode.framing(state).wrap(kind(INNER4))
        assert (header, bytes(payload), next_header) == plain
        mode.framing(state).finish(header, len(header))
        outer, received = bytes(header), kind(bytes(payload))
        inner = mode.framing(state).unwrap(outer, received, next_header)
        assert bytes(inner) == bytes(mode.framing(state).unwrap(outer, bytes(payload), next_header))
        assert received == payload, "what was received is never written to"


def test_headers_are_fresh_for_each_packet() -> None:
    state = make(Mode.TUNNEL)
    first, _, _ = mode.framing(state).wrap(INNER4)
    first[:] = bytes(len(first))
    second, _, _ = mode.framing(state).wrap(INNER4)
    assert second[0] == 0x45


@each("mode_", [Mode.TUNNEL, Mode.TRANSPORT, Mode.BEET])
@each("addresses", [V4, V6], ids=["ipv4", "ipv6"])
@each(
    "packet", [b"", b"\x45", INNER4[:19], INNER6[:39], b"\x05" + INNER4[1:], b"\xf5" + INNER4[1:]], ids=range(6)
)
def test_what_is_no_ip_packet_is_refused(mode_: Mode, addresses: tuple[str, str], packet: bytes) -> None:
    with pytest.raises(Drop) as caught:
        mode.framing(make(mode_, addresses)).wrap(packet)
    assert caught.value.stat == XfrmStat.OUT_STATE_MODE_ERROR


@pytest.mark.parametrize("mode_", [Mode.TRANSPORT, Mode.BEET])
@pytest.mark.parametrize("first", [0x40, 0x44, 0x4F])
def test_malformed_ipv4_header_length_is_refused(mode_: Mode, first: int) -> None:
    with pytest.raises(Drop) as caught:
        mode.framing(make(mode_)).wrap(bytes([first]) + INNER4[1:])
    assert caught.value.stat == XfrmStat.OUT_STATE_MODE_ERROR


@pytest.mark.parametrize(("addresses", "packet"), [(V4, INNER6), (V6, INNER4)])
def test_transport_mode_keeps_the_family(addresses: tuple[str, str], packet: bytes) -> None:
    """5.2: only tunnel modes can accommodate a change of family."""
    with pytest.raises(Drop) as caught:
        mode.framing(make(Mode.TRANSPORT, addresses)).wrap(packet)
    assert caught.value.stat == XfrmStat.OUT_STATE_MODE_ERROR


def test_transport_mode_refuses_extension_headers_cut_short() -> None:
    cut = INNER6[:6] + b"\x00" + INNER6[7:40] + b"\x11\x05" + bytes(10)
    with pytest.raises(Drop) as caught:
        mode.framing(make(Mode.TRANSPORT, V6)).wrap(cut)
    assert caught.value.stat == XfrmStat.OUT_STATE_MODE_ERROR


def test_transport_mode_goes_behind_routing_and_before_later_destination_options() -> None:
    """5.2: HBH, DestOpts, Routing | ESP | DestOpts, upper layer; and back."""
    chain = bytes([60, 0, 1, 4, 0, 0, 0, 0]) + bytes([43, 0, 1, 4, 0, 0, 0, 0]) + bytes([60, 0, 2, 0, 0, 0, 0, 0])
    rest = bytes([17, 0, 1, 4, 0, 0, 0, 0]) + INNER6[40:]
    packet = INNER6[:4] + (len(chain) + len(rest)).to_bytes(2, "big") + b"\x00" + INNER6[7:40] + chain + rest
    state = make(Mode.TRANSPORT, V6)
    header, payload, next_header = mode.framing(state).wrap(packet)
    assert (len(header), bytes(payload), next_header) == (64, rest, 60)
    assert [header[6], header[40], header[48], header[56]] == [0, 60, 43, 50]
    assert bytes(mode.framing(state).unwrap(header, payload, next_header)) == packet


@pytest.mark.parametrize("family", [AF_INET, AF_INET6])
@pytest.mark.parametrize("udp", [False, True])
def test_lengths_that_overflow_are_refused(family: int, udp: bool) -> None:
    """5.10: EMSGSIZE, XfrmOutStateProtoError. The largest packet of each family still goes."""
    fixed = 20 if family == AF_INET else 40
    largest = 65535 if family == AF_INET else 65575
    packet = bytearray(b"\x45" if family == AF_INET else b"\x60") + bytes(largest - 1)
    finish_for(family, udp)(packet, fixed + 8 * udp)
    packet.append(0)
    with pytest.raises(Drop) as caught:
        finish_for(family, udp)(packet, fixed + 8 * udp)
    assert caught.value.stat == XfrmStat.OUT_STATE_PROTO_ERROR


@pytest.mark.parametrize("row", [bytearray, lambda data: memoryview(bytearray(data))], ids=["bytearray", "memoryview"])
def test_udp_checksum_over_ipv6_is_real_and_never_zero(row: Any) -> None:
    """5.10: the receiver's sum over pseudo-header and datagram is zero; a checksum of 0 is sent as 0xffff."""
    state = make(Mode.TUNNEL, V6, encap=Encap(sport=4500, dport=4501))
    zeros = 0
    for filler in range(0x10000):
        header, _, _ = mode.framing(state).wrap(INNER4)
        outer = row(header + filler.to_bytes(2, "big") + bytes(30))
        mode.framing(state).finish(outer, len(header))
        udp = outer[40:]
        if udp[6:8] == b"\xff\xff":
            zeros += 1
            assert checksum(udp, pseudo_header_sum(outer[8:40], IPPROTO_UDP, len(udp))) == 0
        assert udp[6:8] != b"\0\0"
        if filler > 0x100 and zeros:
            break
    assert zeros


def test_tos_tables() -> None:
    """5.3: three of the four combinations of noecn and dont-encap-dscp, by hand; CE always becomes ECT(0)."""
    for tos in range(256):
        inner_ecn = tos & 3
        outer_ecn = 2 if inner_ecn == 3 else inner_ecn
        assert tos_table(True, True)[tos] == tos & 0xFC | outer_ecn
        assert tos_table(False, True)[tos] == tos & 0xFC
        assert tos_table(True, False)[tos] == outer_ecn
        assert tos_table(False, False)[tos] == 0


@pytest.mark.parametrize("mode_", [Mode.ROUTEOPTIMIZATION, Mode.IN_TRIGGER, Mode.IPTFS])
def test_other_modes_are_refused(mode_: Mode) -> None:
    state = make(Mode.TUNNEL)
    state.mode = mode_
    with pytest.raises(XfrmError) as caught:
        mode.framing_for(state)
    assert (caught.value.errno, caught.value.extack) == (errno.EPROTONOSUPPORT, "Requested mode not found")


def test_an_update_of_the_ports_reaches_the_header() -> None:
    state = make(Mode.TUNNEL, encap=Encap(sport=4500, dport=4501))
    assert mode.framing(state).wrap(INNER4)[0][20:24] == bytes.fromhex("11941195")
    state.update(state.snapshot().__class__(src=V4[0], dst=V4[1], encap=Encap(sport=4500, dport=4502)))
    assert mode.framing(state).wrap(INNER4)[0][20:24] == bytes.fromhex("11941196")


# Inwards ---------------------------------------------------------------------------------------------------------


@each("next_header", [n for n in range(256) if n not in (4, 41)])
def test_a_tunnel_carries_ip_only(next_header: int) -> None:
    """5.1: XfrmInStateModeError."""
    with pytest.raises(Drop) as caught:
        mode.framing(make(Mode.TUNNEL)).unwrap(INNER4[:20], INNER4, next_header)
    assert caught.value.stat == XfrmStat.IN_STATE_MODE_ERROR


@pytest.mark.parametrize(("next_header", "payload"), [(4, INNER4[:19]), (41, INNER6[:39]), (4, b""), (41, b"")])
def test_a_tunnel_wants_a_whole_inner_header(next_header: int, payload: bytes) -> None:
    with pytest.raises(Drop) as caught:
        mode.framing(make(Mode.TUNNEL)).unwrap(INNER4[:20], payload, next_header)
    assert caught.value.stat == XfrmStat.IN_STATE_MODE_ERROR


@given(outer=st.integers(0, 255), inner=st.integers(0, 255))
def test_decap_dscp_over_ipv4(outer: int, inner: int) -> None:
    """3.5: the outer DSCP comes in, the inner ECN stays, the CE mark joins it; the inner checksum stays right."""
    state = make(Mode.TUNNEL, flags=STATE_DECAP_DSCP)
    packet = bytearray(INNER4)
    packet[1] = inner
    packet[10:12] = ipv4_header_checksum(packet[:20]).to_bytes(2, "big")
    result = mode.framing(state).unwrap(bytes([0x45, outer]) + INNER4[2:20], bytes(packet), 4)
    ecn = 3 if outer & 3 == 3 and inner & 3 else inner & 3
    assert result[1] == outer & 0xFC | ecn
    assert checksum(result[:20]) == 0
    assert bytes(result[2:10] + result[12:]) == bytes(packet[2:10] + packet[12:])


def test_tfc_padding_stays_on_the_packet() -> None:
    """5.1: what follows the inner packet is for IP to trim."""
    assert bytes(mode.framing(make(Mode.TUNNEL)).unwrap(INNER4[:20], INNER4 + bytes(100), 4)) == INNER4 + bytes(100)


def test_beet_without_a_selector_family_opens_nothing() -> None:
    """5.7: af-unspec makes BEET input fail."""
    state = make(Mode.BEET)
    state.selector = Selector()
    with pytest.raises(Drop) as caught:
        mode.framing(state).unwrap(INNER4[:20], INNER4[20:], 17)
    assert caught.value.stat == XfrmStat.IN_STATE_MODE_ERROR


@pytest.mark.parametrize(
    "pseudo",
    ["", "110000", "11000900", "1100ff00", "11000300", "11000200", "11ff0000", "11200000", "11010800"],
    ids=["empty", "short", "negative", "far negative", "odd", "not whole words", "255", "260 bytes", "beyond the end"],
)
def test_beet_pseudo_headers_that_lie(pseudo: str) -> None:
    """5.7: option length negative, no multiple of 4, above 250, or padding longer than the packet."""
    state = make(Mode.BEET, selector=Selector.parse("198.51.100.1/32", "198.51.100.2/32"))
    with pytest.raises(Drop) as caught:
        mode.framing(state).unwrap(INNER4[:20], bytes.fromhex(pseudo), 94)
    assert caught.value.stat == XfrmStat.IN_STATE_MODE_ERROR


OPTIONS = st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))


@given(options=OPTIONS, body=st.binary(max_size=64), tos=st.integers(0, 255), ttl=st.integers(0, 255))
@pytest.mark.parametrize("addresses", [V4, V6], ids=["over ipv4", "over ipv6"])
def test_beet_options_come_back(addresses: tuple[str, str], options: bytes, body: bytes, tos: int, ttl: int) -> None:
    """T-17, and the same for every length. Over IPv6 the ID is lost and DF is set."""
    state = make(Mode.BEET, addresses, selector=Selector.parse("198.51.100.1/32", "198.51.100.2/32"))
    packet = bytearray(INNER4[:20]) + options + body
    packet[0] = 0x45 + len(options) // 4
    packet[1], packet[8] = tos, ttl
    packet[2:4] = len(packet).to_bytes(2, "big")
    if addresses is V6:
        packet[4:8] = bytes.fromhex("00004000")
    header_len = 20 + len(options)
    packet[10:12] = ipv4_header_checksum(packet[:header_len]).to_bytes(2, "big")
    header, payload, next_header = mode.framing(state).wrap(packet)
    assert (next_header == 94) == bool(options)
    if options:
        assert payload[1:3] == bytes([len(options) // 8, 0 if len(options) % 8 else 4])
        assert len(payload) - len(body) == (payload[1] + 1) * 8
    mode.framing(state).finish(header, len(header))
    assert bytes(mode.framing(state).unwrap(header, payload, next_header)) == bytes(packet)


@given(payload=st.binary(max_size=120), next_header=st.integers(0, 255), data=st.data())
def test_hostile_payloads_end_in_a_packet_or_a_drop(payload: bytes, next_header: int, data: st.DataObject) -> None:
    mode_ = data.draw(st.sampled_from([Mode.TUNNEL, Mode.TRANSPORT, Mode.BEET]))
    addresses = data.draw(st.sampled_from([V4, V6]))
    inner = data.draw(st.sampled_from([V4, V6])) if mode_ != Mode.TRANSPORT else addresses
    state = make(mode_, addresses, selector=Selector.parse(*inner))
    header = INNER4[:20] if addresses is V4 else INNER6[:40]
    try:
        mode.framing(state).unwrap(header, payload, next_header)
    except Drop as drop:
        assert drop.stat == XfrmStat.IN_STATE_MODE_ERROR
