"""ESP: one packet in, one packet out (RFC 4303). Start reading here.

A State (state.py) is one direction of one tunnel: two addresses, an SPI, a key, a counter. `seal` makes an inner packet
into an outer one with it, `open` makes an outer packet into an inner one. On the wire, in tunnel mode:

    outer IP | UDP | SPI | sequence | IV | inner IP | TCP ... | TFC zeros | 1 2 3 .. | pad length | next header | ICV
      20/40    (8)    4       4       8  |<---------------------- encrypted ---------------------------------->|  16
                   |<------------------------------- authenticated ------------------------------------------->|

The sender must never use a sequence number twice, nor an IV with the same key. The receiver trusts nothing before the
ICV has been found right, and remembers nothing of a packet that has not passed it: not its number, not its address.
That, and the kernel's order of checks (LT-08, LT-09), is why the stages below come in the order they do.

    seal                                             open
    1  wrap      outer header, as far as known       1  state     this state, this way, valid, encapsulated alike
    2  state     is it valid                         2  replay    is the number new (RFC 4303 3.4.3)
    3  lifetime  is any of it left (RFC 4301 4.4.2)  3  lifetime  is any of it left
    4  number    the next one (RFC 4303 3.3.3)       4  decrypt   is the ICV right (RFC 4303 3.4.4)
    5  count     bytes and packets                   5  trailer   strip it (RFC 4303 2.4 to 2.7)
    6  pad       TFC, alignment, trailer (3.3.2)     6  mapping   has the peer moved behind its NAT
    7  encrypt   (RFC 4303 3.3.2, 3.3.4)             7  commit    remember the number
    8  finish    lengths and checksums               8  count     bytes and packets
                                                     9  unwrap    the inner packet

Whatever goes wrong raises Drop with the counter of /proc/net/xfrm_stat that rises (section 6). This is the scalar path:
it defines what is right. burst.py does the same to many packets at once and must give the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.core.mode import framing
from xfrmi.core.state import KM_ACQ, KM_VALID
from xfrmi.core.transform import BadIcv
from xfrmi.errors import Drop
from xfrmi.wire.esp import ESP_HEADER_LEN, SEQ, pad_length, parse_trailer, trailer
from xfrmi.wire.ip import IPV4_HEADER_LEN, IPV6_HEADER_LEN, Buffer, upper_layer
from xfrmi.wire.xfrm_const import IPPROTO_NONE, IPPROTO_UDP, UDP_ENCAP_ESPINUDP, SaDir, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.state import State

_32_BITS = 0xFFFFFFFF


def seal(state: State, packet: Buffer, now: float) -> bytearray:
    """The complete outer packet around `packet`, an IP packet that the state's selector covers.

    `now` is Unix seconds. Raises Drop; whatever goes wrong after stage 4 has used up a sequence number.
    """
    # 1 wrap
    way = framing(state)
    outer, payload, next_header = way.wrap(packet)
    # 2 state
    if state.km != KM_VALID:
        raise Drop(XfrmStat.OUT_STATE_INVALID, "the state is not valid")
    # 3 lifetime
    state.check_limits(now, XfrmStat.OUT_STATE_EXPIRED)
    # 4 number
    number = state.sequence.next()
    # 5 count: what the state protects, before padding (LT-04)
    length = len(payload)
    state.count(1, length, now)
    # 6 pad
    transform = state.transform
    tfc = bytes(_tfc_length(state, length)) if state.tfcpad else b""
    tail = trailer(pad_length(length + len(tfc), transform.align), next_header)
    plaintext = b"".join((payload, tfc, tail))
    # 7 encrypt: with ESN the upper half of the number is authenticated but does not travel (RFC 4303 2.2.1)
    head = state.spi_bytes + (number & _32_BITS).to_bytes(4, "big")
    hi = (number >> 32).to_bytes(4, "big") if state.esn else b""
    iv = state.next_iv()
    sealed = transform.seal(head, hi, iv, plaintext)
    # 8 finish
    header_len = len(outer)
    outer += b"".join((head, iv, sealed))
    way.finish(outer, header_len)
    return outer


def open(state: State, header: Buffer, esp: Buffer, now: float) -> Buffer:
    """The inner packet inside `esp`, which is a packet from the SPI on; `header` is everything in front of it.

    `state` was found by destination, SPI and protocol (3.1). The result may be longer than its IP header says: TFC
    padding is the receiving IP's to cut off (5.1). Raises Drop.
    """
    # 1 state
    if state.dir == SaDir.OUT:
        raise Drop(XfrmStat.IN_STATE_DIR_ERROR, "an outbound state")
    if state.km != KM_VALID:
        larval = state.km == KM_ACQ
        raise Drop(XfrmStat.ACQUIRE_ERROR if larval else XfrmStat.IN_STATE_INVALID, "the state is not valid")
    if encap_type(header) != state.encap_type:
        raise Drop(XfrmStat.IN_STATE_MISMATCH, "encapsulation of state and packet differ")
    # 2 replay
    if len(esp) < ESP_HEADER_LEN:
        raise Drop(XfrmStat.IN_HDR_ERROR, "truncated ESP header")
    seq = int.from_bytes(esp[SEQ], "big")
    hi = state.window.check(seq)
    # 3 lifetime
    state.check_limits(now, XfrmStat.IN_STATE_EXPIRED)
    # 4 decrypt
    transform = state.transform
    start = ESP_HEADER_LEN + transform.iv_len
    if len(esp) < start + transform.icv_len:
        raise Drop(XfrmStat.IN_STATE_PROTO_ERROR, "shorter than IV and ICV")
    upper = hi.to_bytes(4, "big") if state.esn else b""
    try:
        plaintext = transform.open(esp[:ESP_HEADER_LEN], upper, esp[ESP_HEADER_LEN:start], esp[start:])
    except BadIcv:
        raise wrong_icv(state) from None
    return accept(state, header, plaintext, seq, hi, now)


def wrong_icv(state: State) -> Drop:
    """Count it; the Drop to raise."""
    state.stats_integrity_failed += 1
    return Drop(XfrmStat.IN_STATE_PROTO_ERROR, "wrong ICV")


def accept(state: State, header: Buffer, plaintext: Buffer, seq: int, hi: int, now: float) -> Buffer:
    """Stages 5 to 9 of `open`: what is left once the ICV is known to be right. The inner packet; raises Drop.

    `seq` is the number as received, `hi` what the window's check said its upper half is.
    """
    # 5 trailer: what the padding contains is not looked at, its length is
    try:
        payload_len, next_header = parse_trailer(plaintext)
    except ValueError as error:
        raise Drop(XfrmStat.IN_STATE_PROTO_ERROR, str(error)) from None
    if not payload_len:
        raise Drop(XfrmStat.IN_STATE_PROTO_ERROR, "nothing but padding")
    # 6 mapping
    if state.encap is not None:
        _note_source(state, header, now)
    # 7 commit: not for dummy packets (RFC 4303 2.6), which count as errors (RP-10)
    if next_header == IPPROTO_NONE:
        raise Drop(XfrmStat.IN_STATE_PROTO_ERROR, "dummy packet")
    state.window.commit(seq, hi)
    # 8 count (LT-04)
    state.count(1, payload_len, now)
    # 9 unwrap
    return framing(state).unwrap(header, plaintext[:payload_len], next_header)


def _tfc_length(state: State, length: int) -> int:
    """Zeros that hide how long the payload is (RFC 4303 2.7): up to tfcpad, but not beyond what fits (5.8)."""
    return max(min(state.tfcpad, state.mtu(state.path_mtu)) - length, 0)


def encap_type(header: Buffer) -> int:
    """How a packet came: UDP_ENCAP_ESPINUDP, or 0 for protocol 50."""
    if len(header) == (IPV4_HEADER_LEN if header[0] >> 4 == 4 else IPV6_HEADER_LEN):  # no room for UDP
        return 0
    return UDP_ENCAP_ESPINUDP if upper_layer(header)[0] == IPPROTO_UDP else 0


def has_moved(state: State, header: Buffer) -> bool:
    """Does an encapsulated packet come from another address or port than configured?"""
    source = header[12:16] if header[0] >> 4 == 4 else header[8:24]
    return state.encap is not None and (
        source != state.src or int.from_bytes(header[-8:-6], "big") != state.encap.sport
    )


def _note_source(state: State, header: Buffer, now: float) -> None:
    """Tell the key manager when the peer's address or port is no longer the configured one (RFC 3948 5.1; 3.8).

    Every time, unless mtimer_thresh is set: then at once for a new port, otherwise after that many seconds.
    """
    if state.on_mapping is None or not has_moved(state, header):
        return
    port = int.from_bytes(header[-8:-6], "big")
    threshold = state.info.mtimer_thresh
    if threshold and port == state.mapping_sport and now - state.mapping_time <= threshold:
        return
    state.mapping_sport = port
    state.mapping_time = now
    state.on_mapping(state, bytes(header[12:16] if header[0] >> 4 == 4 else header[8:24]), port)
