"""Events as `ip xfrm monitor` prints them, byte for byte (iproute2 6.1): one function for each kind of message.

A new state or policy is printed like one in a listing; the others have a word in front or lines of their own.
"""

from __future__ import annotations

from typing import Final

from xfrmi.formats import words
from xfrmi.formats.print_parts import address, selector_line
from xfrmi.formats.print_policy import masks, policy_lines
from xfrmi.formats.print_state import state_lines
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire.xfrm_types import ANY_ALGOS, PolicyInfo, Selector, StateId, StateInfo

ADDED: Final = ""
UPDATED: Final = "Updated"
DELETED: Final = "Deleted"

_AEVENT_FLAGS: Final = {0x10: "replay update", 0x20: "timer expired", 0x40: "policy updated"}
"""XFRM_AE_CR, CE, CU."""


def print_state_event(info: StateInfo, event: str = ADDED, show: Show = PLAIN) -> str:
    """NEWSA, UPDSA or DELSA."""
    return show.record(_titled(event) + state_lines(info, show))


def print_state_expired(info: StateInfo, *, hard: bool, show: Show = PLAIN) -> str:
    return show.record(f"{_titled('Expired')}{state_lines(info, show)}\thard {int(hard)}\n")


def print_policy_event(info: PolicyInfo, event: str = ADDED, show: Show = PLAIN) -> str:
    """NEWPOLICY, UPDPOLICY or DELPOLICY."""
    return show.record(_titled(event) + policy_lines(info, show))


def print_policy_expired(info: PolicyInfo, *, hard: bool, show: Show = PLAIN) -> str:
    return show.record(f"{_titled('Expired')}{policy_lines(info, show)}\thard {int(hard)}\n")


def _titled(event: str) -> str:
    return f"{event} " if event else ""


def print_acquire(
    selector: Selector, policy: PolicyInfo, *, proto: int, spi: int = 0, seq: int = 0,
    aalgos: int = ANY_ALGOS, ealgos: int = ANY_ALGOS, calgos: int = ANY_ALGOS, show: Show = PLAIN,
) -> str:  # fmt: skip
    """ACQUIRE: `selector` is the flow that wants a state, `policy` the one that demands it (7.6)."""
    text = f"acquire proto {words.word(words.XFRM_PROTOS, proto)} "
    if show.stats or spi:
        text += f"spi 0x{spi:08x}({spi}) " if show.stats else f"spi 0x{spi:08x} "
    text += "\n  sel " + selector_line(selector, policy.selector.family, show)
    text += policy_lines(policy, show, indent="    ", title="  policy ")
    if show.stats:
        text += f"  seq 0x{seq:08d} {masks(ealgos, aalgos, calgos)}"
    return show.record(text + "\n")


def print_states_flushed(proto: int, show: Show = PLAIN) -> str:
    """FLUSHSA."""
    return show.record(f"Flushed state proto {words.word(words.XFRM_PROTOS, proto)}\n")


def print_policies_flushed(type: int | None = None, show: Show = PLAIN) -> str:
    """FLUSHPOLICY; None where the message had no policy type."""
    kind = "" if type is None else f"ptype {words.word(words.POLICY_TYPES, type)} "
    return show.record(f"Flushed policy {kind}\n")


def print_async_event(state: StateId, *, reqid: int, flags: int) -> str:
    """NEWAE; `state.src` is its source. -s and -o make no difference."""
    names = "".join(f" {name} " for bit, name in _AEVENT_FLAGS.items() if flags & bit)
    return f"Async event  (0x{flags:x}) {names}\n\tsrc {address(state.family, state.src)} {_state_id(state, reqid)}\n"


def print_mapping(state: StateId, *, reqid: int, old: tuple[bytes, int], new: tuple[bytes, int]) -> str:
    """MAPPING: the peer's (address, port) before and after. -s and -o make no difference."""
    old_text, new_text = (f"{address(state.family, packed)}:{port}" for packed, port in (old, new))
    return f"Mapping change {old_text} -> {new_text}\n\t{_state_id(state, reqid)}\n"


def _state_id(state: StateId, reqid: int) -> str:
    # Here ip takes the protocol for an upper one: `comp` is `ipcomp`.
    proto = words.word(words.PROTOS, state.proto)
    return f"dst {address(state.family, state.dst)}  reqid 0x{reqid:x} protocol {proto}  SPI 0x{state.spi:x}"
