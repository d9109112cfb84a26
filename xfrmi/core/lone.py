"""One packet at a time, in a hurry: esp.seal and esp.open without what is the same for every packet of a state.

esp.py says what is right; nothing is decided here. A state gets a sealer and an opener, functions in which its cipher,
its salt and the headers made so far are at hand. Whatever is out of the ordinary they hand to esp.py untouched: states
that are not valid or have limits, the end of the sequence numbers, odd headers. States for whose packets nothing can be
prepared (TFC padding, all but combined modes that make a whole ICV) have esp.seal and esp.open themselves.

A sealer learns: the first packet of a kind is sealed by esp.seal, and the next begins like it. The kind is what the
outer header and the trailer depend on: the length, and the bytes of the inner header that a tunnel reads.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.exceptions import InvalidTag

from xfrmi.core import esp
from xfrmi.core.algo_aead import CombinedMode
from xfrmi.core.mode import framing
from xfrmi.core.state import KM_VALID
from xfrmi.wire.esp import ESP_HEADER_LEN, TRAILER_LEN, pad_length, trailer
from xfrmi.wire.ip import IPV4_HEADER_LEN, IPV6_HEADER_LEN, Buffer
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_IPIP, IPPROTO_IPV6, IPPROTO_NONE, Mode, SaDir

if TYPE_CHECKING:
    from xfrmi.core.state import State

Sealer: TypeAlias = "Callable[[State, Buffer, float], Buffer]"
Opener: TypeAlias = "Callable[[State, Buffer, Buffer, float], Buffer]"

_KINDS: Final = 1024
"""Headers a state keeps; past it they are all forgotten and made again."""
_SPI_LEN: Final = 4
_IV_END: Final = ESP_HEADER_LEN + 8

_wrap_reads = Struct(">IxxB").unpack_from
"""mode_tunnel.WRAP_READS."""
_seq_of = Struct(">4xI").unpack_from
_join = b"".join
_join_writable = bytearray().join


def sealer(state: State) -> Sealer:
    """esp.seal for this state. Kept by the state until its outer header changes, and asked for once per burst."""
    made: Sealer | None = state.sealer
    if made is None:
        made = state.sealer = _make_sealer(state)
    return made


def opener(state: State) -> Opener:
    """esp.open for this state, likewise."""
    made: Opener | None = state.opener
    if made is None:
        made = state.opener = _make_opener(state)
    return made


def _make_sealer(state: State) -> Sealer:
    transform = state.transform
    if not isinstance(transform, CombinedMode) or not transform.in_rows or state.tfcpad or state.mode != Mode.TUNNEL:
        return esp.seal
    if state.encap is not None and state.family == AF_INET6:  # a checksum over all of the packet
        return esp.seal
    encrypt, salt, align = transform.cipher.encrypt, transform.salt, transform.align
    esn = state.esn
    last_number = 0xFFFF_FFFF_FFFF_FFFF if esn else 0xFFFF_FFFF
    spi = state.spi_bytes
    prefix_len = state.header_len - _IV_END + _SPI_LEN
    kinds: dict[tuple[int, int, int], tuple[bytes, bytes]] = {}

    def learn(state: State, packet: Buffer, now: float) -> Buffer:
        outer = esp.seal(state, packet, now)
        if len(kinds) >= _KINDS:
            kinds.clear()
        tail = trailer(pad_length(len(packet), align), IPPROTO_IPIP if packet[0] >> 4 == 4 else IPPROTO_IPV6)
        kinds[*_wrap_reads(packet), len(packet)] = bytes(outer[:prefix_len]), tail
        return outer

    def seal(state: State, packet: Buffer, now: float) -> Buffer:
        length = len(packet)
        if length < IPV4_HEADER_LEN:
            return esp.seal(state, packet, now)
        first, flags = _wrap_reads(packet)
        kind = kinds.get((first, flags, length))
        if kind is None:
            return learn(state, packet, now)
        sequence = state.sequence
        number = sequence.last + 1
        if number > last_number or state.km != KM_VALID or state.info.limits is not state.unlimited:
            if state.limited or number > last_number or state.km != KM_VALID:
                return esp.seal(state, packet, now)
            state.unlimited = state.info.limits
        prefix, tail = kind
        sequence.last = number
        state.bytes += length
        state.packets += 1
        state.lastused = seconds = int(now)
        if not state.use_time:
            state.use_time = seconds
        if esn:
            seq = (number & 0xFFFF_FFFF).to_bytes(4, "big")
            aad = spi + number.to_bytes(8, "big")
        else:
            seq = number.to_bytes(4, "big")
            aad = spi + seq
        counter = state.iv_counter
        state.iv_counter = counter + 1
        iv = (counter ^ state.iv_salt).to_bytes(8, "big")
        return _join_writable((prefix, seq, iv, encrypt(salt + iv, _join((packet, tail)), aad)))

    return seal


def _make_opener(state: State) -> Opener:
    transform = state.transform
    if not isinstance(transform, CombinedMode) or not transform.in_rows or state.dir == SaDir.OUT:
        return esp.open
    decrypt, salt = transform.cipher.decrypt, transform.salt
    esn = state.esn
    shortest = _IV_END + TRAILER_LEN + transform.icv_len
    encapsulated = state.encap is not None
    bare_len = IPV4_HEADER_LEN if state.family == AF_INET else IPV6_HEADER_LEN
    home = b""

    def open(state: State, header: Buffer, packet: Buffer, now: float) -> Buffer:
        nonlocal home
        # 1 state, 3 lifetime
        if state.info.limits is not state.unlimited:
            if state.limited:
                return esp.open(state, header, packet, now)
            state.unlimited = state.info.limits
        if state.km != KM_VALID or len(packet) < shortest:
            return esp.open(state, header, packet, now)
        moved = False
        if not encapsulated:
            if len(header) != bare_len:
                return esp.open(state, header, packet, now)
        elif header != home:
            if esp.encap_type(header) != state.encap_type:
                return esp.open(state, header, packet, now)
            moved = esp.has_moved(state, header)
            if not moved:
                home = bytes(header)
        # 2 replay
        (seq,) = _seq_of(packet)
        window = state.window
        ahead = not esn and seq > window.top
        hi = 0 if ahead else window.check(seq)
        if not state.use_time:
            state.use_time = int(now)
        # 4 decrypt
        aad = transform.aad(packet[:ESP_HEADER_LEN], hi.to_bytes(4, "big")) if esn else packet[:ESP_HEADER_LEN]
        try:
            plaintext = decrypt(salt + packet[ESP_HEADER_LEN:_IV_END], packet[_IV_END:], aad)
        except InvalidTag:
            raise esp.wrong_icv(state) from None
        # 5 trailer, 6 mapping
        next_header = plaintext[-1]
        payload_len = len(plaintext) - TRAILER_LEN - plaintext[-2]
        if payload_len <= 0 or next_header == IPPROTO_NONE or moved:
            return esp.accept(state, header, plaintext, seq, hi, now)
        # 7 commit
        if not ahead:
            window.commit(seq, hi)
        elif window.size:
            window.remember(seq)
        # 8 count
        state.bytes += payload_len
        state.packets += 1
        state.lastused = int(now)
        # 9 unwrap
        return (state.wrap_cache or framing(state)).unwrap(header, plaintext[:payload_len], next_header)

    return open
