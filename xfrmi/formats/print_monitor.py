"""Events as `ip xfrm monitor` prints them, byte for byte (iproute2 6.1).

    print_notice(message.type, decode_notice(message)) -> text, whatever the message says

A new state or policy is printed like one in a listing; the others have a word in front or lines of their own. In the
texts that are longer than a line -o joins lines; async events, mappings and defaults are always the same. A migration
is a message unknown to ip; JSON tells what it says.
"""

from __future__ import annotations

from typing import Final

from xfrmi.formats import words
from xfrmi.formats.print_parts import address, selector_line
from xfrmi.formats.print_policy import masks, policy_lines
from xfrmi.formats.print_stat import print_defaults
from xfrmi.formats.print_state import state_lines
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire import netlink
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_event_msg import (
    AE_CAUSE_REPLAY,
    AE_CAUSE_TIMER,
    AE_CAUSE_UPDATE,
    Acquire,
    Aevent,
    Mapping,
    StateExpiry,
)
from xfrmi.wire.xfrm_info_msg import Defaults
from xfrmi.wire.xfrm_migrate_msg import Migration, encode_migration_notice
from xfrmi.wire.xfrm_policy_msg import PolicyExpiry
from xfrmi.wire.xfrm_types import PolicyInfo, StateId, StateInfo

_TITLES: Final[dict[int, str]] = {
    XfrmMsg.UPDSA: "Updated ",
    XfrmMsg.UPDPOLICY: "Updated ",
    XfrmMsg.DELSA: "Deleted ",
    XfrmMsg.DELPOLICY: "Deleted ",
}
AEVENT_CAUSES: Final = {
    AE_CAUSE_REPLAY: "replay update",
    AE_CAUSE_TIMER: "timer expired",
    AE_CAUSE_UPDATE: "policy updated",
}


def print_notice(kind: int, value: object, show: Show = PLAIN) -> str:
    """The event that a message of type `kind` reports: `value` is what it says, as decode_notice gives it.

    An int is the protocol of a FLUSHSA or the type of a FLUSHPOLICY. TypeError for what is no event.
    """
    title = _TITLES.get(kind, "")
    match value:
        case StateInfo():
            return show.record(title + state_lines(value, show))
        case PolicyInfo():
            return show.record(title + policy_lines(value, show))
        case StateExpiry(info, hard):
            return show.record(f"Expired {state_lines(info, show)}\thard {int(hard)}\n")
        case PolicyExpiry(policy, hard):
            return show.record(f"Expired {policy_lines(policy, show)}\thard {int(hard)}\n")
        case Acquire():
            return show.record(_acquire_lines(value, show))
        case Mapping():
            return _mapping(value)
        case Aevent():
            return _async_event(value)
        case Defaults():
            return print_defaults(value)
        case Migration():  # of which ip knows no more than this
            length = netlink.NLMSG_HDRLEN + len(encode_migration_notice(value))
            return f"Unknown message: {length:08d} 0x{kind:08x} 0x{0:08x}\n"
        case int() if kind == XfrmMsg.FLUSHSA:
            return show.record(f"Flushed state proto {words.word(words.XFRM_PROTOS, value)}\n")
        case int() if kind == XfrmMsg.FLUSHPOLICY:
            return show.record(f"Flushed policy ptype {words.word(words.POLICY_TYPES, value)} \n")
    raise TypeError(f"a message of type {kind:#x} with {type(value).__name__} is no event")


def _acquire_lines(acquire: Acquire, show: Show) -> str:
    """The flow that wants a state, and the policy that demands it (7.6)."""
    text = f"acquire proto {words.word(words.XFRM_PROTOS, acquire.proto)} "
    if show.stats:
        text += f"spi 0x{acquire.spi:08x}({acquire.spi}) "
    elif acquire.spi:
        text += f"spi 0x{acquire.spi:08x} "
    text += "\n  sel " + selector_line(acquire.selector, acquire.policy.selector.family, show)
    text += policy_lines(acquire.policy, show, indent="    ", title="  policy ")
    if show.stats:
        # ip's own mixture: 0x and decimal digits.
        text += f"  seq 0x{acquire.seq:08d} {masks(acquire.ealgos, acquire.aalgos, acquire.calgos)}"
    return text + "\n"


def _async_event(event: Aevent) -> str:
    causes = "".join(f" {name} " for bit, name in AEVENT_CAUSES.items() if event.flags & bit)
    source = address(event.id.family, event.src)
    return f"Async event  (0x{event.flags:x}) {causes}\n\tsrc {source} {_state_id(event.id, event.reqid)}\n"


def _mapping(mapping: Mapping) -> str:
    old = f"{address(mapping.id.family, mapping.old_src)}:{mapping.old_sport}"
    new = f"{address(mapping.id.family, mapping.new_src)}:{mapping.new_sport}"
    return f"Mapping change {old} -> {new}\n\t{_state_id(mapping.id, mapping.reqid)}\n"


def _state_id(state: StateId, reqid: int) -> str:
    # Here ip takes the protocol for an upper one: `comp` is `ipcomp`.
    proto = words.word(words.PROTOS, state.proto)
    return f"dst {address(state.family, state.dst)}  reqid 0x{reqid:x} protocol {proto}  SPI 0x{state.spi:x}"
