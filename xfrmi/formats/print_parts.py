"""Pieces that state, policy and event listings share, byte for byte as ip(8) 6.1 prints them.

Every function returns whole lines, newline included, or the beginning of one where its name says so. `prefix` is what
ip puts in front of a line: a tab, and four blanks before it inside an acquire.
"""

from __future__ import annotations

from socket import inet_ntop

from xfrmi.formats import words
from xfrmi.formats.show import Show
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_types import Current, Limits, Mark, Selector

_LENGTHS = {k.AF_INET: 4, k.AF_INET6: 16}


def address(family: int, packed: bytes) -> str:
    """As an address of `family`, whatever its own length (encap's OADDR need not fit)."""
    length = _LENGTHS.get(family)
    return "???" if length is None else inet_ntop(family, packed[:length].ljust(length, b"\0"))


def id_lines(
    src: bytes, dst: bytes, *, proto: int, spi: int, reqid: int, mode: int, family: int, prefix: str, show: Show,
    force_spi: bool = False,
) -> str:  # fmt: skip
    """`src A dst B` and `proto P spi S reqid R mode M`. A template leaves a zero SPI out, a state does not."""
    line = f"{prefix}\tproto {words.word(words.XFRM_PROTOS, proto)} "
    if show.stats or force_spi or spi:
        line += f"spi 0x{spi:08x}({spi}) " if show.stats else f"spi 0x{spi:08x} "
    line += f"reqid {reqid}(0x{reqid:08x}) " if show.stats else f"reqid {reqid} "
    return f"src {address(family, src)} dst {address(family, dst)}\n{line}mode {words.word(words.MODES, mode)}\n"


def is_any(sel: Selector) -> bool:
    """Whether all 56 bytes of it are zero."""
    return not (any(sel.saddr) or any(sel.daddr)) and sel == Selector(saddr=sel.saddr, daddr=sel.daddr)


def selector_line(sel: Selector, family: int, show: Show) -> str:
    """From `src` on. `family` is for a selector that has none."""
    family = sel.family or family or k.AF_INET
    line = f"src {address(family, sel.saddr)}/{sel.prefixlen_s} dst {address(family, sel.daddr)}/{sel.prefixlen_d} "
    if sel.proto:
        line += f"proto {words.word(words.PROTOS, sel.proto)} "
    line += _upspec(sel, show)
    if sel.ifindex > 0:
        line += f"dev {show.ifname(sel.ifindex)} "
    return line + (f"uid {sel.user}\n" if show.stats else "\n")


def _upspec(sel: Selector, show: Show) -> str:
    sport, dport = f"{sel.sport} " if sel.sport_mask else "", f"{sel.dport} " if sel.dport_mask else ""
    if sel.proto in (k.IPPROTO_ICMP, k.IPPROTO_ICMPV6):
        return (f"type {sport}" if sport else "") + (f"code {dport}" if dport else "")
    if sel.proto == k.IPPROTO_GRE:
        return f"key {sel.sport << 16 | sel.dport} " if sport or dport else ""
    if sel.proto == k.IPPROTO_MH:
        swapped = int.from_bytes(sel.dport.to_bytes(2, "big"), "little")
        code = f"(dport) 0x{swapped:04x} " if dport and show.stats else ""
        return (f"type {sport}" if sport else "") + code
    return (f"sport {sport}" if sport else "") + (f"dport {dport}" if dport else "")


def mark_line(mark: Mark, set_mark: Mark | None) -> str:
    """One line for both marks, empty without any. The tab is ip's own: there is no prefix here."""
    line = ""
    if mark.value or mark.mask:
        line += f"mark {_hash_hex(mark.value)}/{_hash_hex(mark.mask)} "
    if set_mark is not None:
        line += f"output-mark 0x{set_mark.value:x}/0x{set_mark.mask:x}"
    return f"\t{line}\n" if line else ""


def _hash_hex(number: int) -> str:
    """C's %#x."""
    return hex(number) if number else "0"


def if_id_line(if_id: int, prefix: str) -> str:
    return f"{prefix}if_id {if_id:#x}\n" if if_id else ""


def context_line(sec_ctx: bytes | None) -> str:
    return "" if sec_ctx is None else f"\tsecurity context {words.sec_ctx_text(sec_ctx)} \n"


def lifetime_lines(limits: Limits, current: Current, prefix: str, show: Show) -> str:
    def limit(number: int) -> str:
        return "(INF)" if number == k.XFRM_INF else str(number)

    lines = (
        "lifetime config:",
        f"  limit: soft {limit(limits.soft_bytes)}(bytes), hard {limit(limits.hard_bytes)}(bytes)",
        f"  limit: soft {limit(limits.soft_packets)}(packets), hard {limit(limits.hard_packets)}(packets)",
        f"  expire add: soft {limits.soft_add}(sec), hard {limits.hard_add}(sec)",
        f"  expire use: soft {limits.soft_use}(sec), hard {limits.hard_use}(sec)",
        "lifetime current:",
        f"  {current.bytes}(bytes), {current.packets}(packets)",
        f"  add {show.time(current.add_time)} use {show.time(current.use_time)}",
    )
    return "".join(f"{prefix}{line}\n" for line in lines)


def bits8(flags: int) -> str:
    """The flags byte as -s shows it: binary digits behind 0x."""
    return f"(0x{flags & 0xFF:08b})"
