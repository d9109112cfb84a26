"""Things in words, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.formats import words
from xfrmi.wire.address import format_address
from xfrmi.wire.flow import PORT_PROTOCOLS, Flow
from xfrmi.wire.xfrm_const import IPPROTO_ICMP, IPPROTO_ICMPV6
from xfrmi.wire.xfrm_types import Selector, StateInfo, Template

if TYPE_CHECKING:
    from xfrmi.core.state import State

def address(packed: bytes) -> str:
    return format_address(packed) if len(packed) in (4, 16) else "any"


def protocol(number: int) -> str:
    return words.word(words.PROTOS, number)


def mode(number: int) -> str:
    return words.word(words.MODES, number)


def direction(number: int) -> str:
    return words.word(words.DIRS, number)


def flow_text(flow: Flow) -> str:
    """As `udp 10.1.0.1:1111 > 10.2.0.1:2222`."""
    name = protocol(flow.proto)
    if flow.sport_known and flow.proto in PORT_PROTOCOLS:
        return f"{name} {_with_port(flow.saddr, flow.sport)} > {_with_port(flow.daddr, flow.dport)}"
    extra = ""
    if flow.sport_known and flow.proto in (IPPROTO_ICMP, IPPROTO_ICMPV6):
        extra = f" type {flow.sport} code {flow.dport}"
    return f"{name} {address(flow.saddr)} > {address(flow.daddr)}{extra}"


def _with_port(packed: bytes, port: int) -> str:
    return f"[{address(packed)}]:{port}" if len(packed) == 16 else f"{address(packed)}:{port}"


def selector_text(selector: Selector) -> str:
    """As ip prints it, on one line."""
    text = f"{address(selector.saddr)}/{selector.prefixlen_s} > {address(selector.daddr)}/{selector.prefixlen_d}"
    if selector.proto:
        text += f" proto {protocol(selector.proto)}"
    if selector.sport_mask:
        text += f" sport {selector.sport}"
    if selector.dport_mask:
        text += f" dport {selector.dport}"
    return text


def state_title(state: State) -> str:
    """What it is found by."""
    return f"spi {state.spi:#x} {address(state.src)} > {address(state.dst)} reqid {state.reqid} if_id {state.if_id:#x}"


def template_text(template: Template) -> str:
    spi = f" spi {template.spi:#x}" if template.spi else ""
    level = " level use" if template.optional else ""
    ends = f"{address(template.src)} > {address(template.dst)} " if any(template.dst) else ""
    return f"{ends}proto esp reqid {template.reqid} mode {mode(template.mode)}{spi}{level}"


def algorithms(info: StateInfo) -> str:
    """Names and ICV length, no keys."""
    if info.aead is not None:
        return f"{info.aead.name}, ICV {info.aead.bits} bits"
    auth = info.auth_trunc or info.auth
    cipher = info.crypt.name if info.crypt is not None else "no cipher"
    return f"{cipher} with {auth.name}" if auth is not None else f"{cipher}, not authenticated"


def keys(info: StateInfo) -> list[tuple[str, str]]:
    """(what, key in hexadecimal). Only for who asked to see them."""
    named = (("aead", info.aead), ("enc", info.crypt), ("auth", info.auth_trunc or info.auth))
    return [(f"key ({what})", f"0x{one.key.hex()}") for what, one in named if one is not None and one.key]
