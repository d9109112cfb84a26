"""The fixed structs that several xfrm messages share, between bytes and values (kernel-behaviour 7.2, LP64 layout).

Formats are joined into one precompiled Struct per message body, so that a body costs one pack or unpack call; the
functions here turn a value into the fields of its format and back. Addresses are 16 bytes on the wire whatever the
family, an IPv4 one comes first; SPI and ports are in network order, all else in host order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from errno import EINVAL, ERANGE
from struct import Struct
from typing import Any, Final

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import Attrs, attr, attr_u32, get_u32
from xfrmi.wire.xfrm_attr import Xfrma
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, AF_UNSPEC
from xfrmi.wire.xfrm_types import ANY_SELECTOR, NO_LIMITS, NO_MARK, UNUSED, Current, Limits, Mark, Selector, StateId

Fields = Sequence[Any]
"""What Struct.unpack gives."""

SELECTOR_FORMAT: Final = "16s16s8sHBBB3xiI"
"""daddr, saddr, ports, family, prefixlen_d, prefixlen_s, proto, ifindex, user: 9 fields, 56 bytes."""
LIMITS_FORMAT: Final = "8Q"
CURRENT_FORMAT: Final = "4Q"
STATE_ID_FORMAT: Final = "16s4sHBx"
"""xfrm_usersa_id: daddr, spi, family, proto: 4 fields, 24 bytes."""

_PORTS: Final = Struct(">4H")
_MARK: Final = Struct("=II")
_CURRENT: Final = Struct("=" + CURRENT_FORMAT)
_NO_SELECTOR: Final = (bytes(16), bytes(16), bytes(8), 0, 0, 0, 0, 0, 0)


def address(wire: bytes, family: int) -> bytes:
    """An xfrm_address_t as a packed address; of no family it is empty."""
    if family == AF_INET:
        return wire[:4]
    return wire if family == AF_INET6 else b""


def spi_bytes(spi: int) -> bytes:
    return spi.to_bytes(4, "big")


def selector_fields(selector: Selector) -> tuple[object, ...]:
    return (
        selector.daddr, selector.saddr,
        _PORTS.pack(selector.dport, selector.dport_mask, selector.sport, selector.sport_mask),
        selector.family, selector.prefixlen_d, selector.prefixlen_s, selector.proto, selector.ifindex, selector.user,
    )  # fmt: skip


def selector_of(wire: Fields, family: int = AF_UNSPEC) -> Selector:
    """A selector from its 9 fields; `family` is the one it has when it names none."""
    daddr, saddr, ports, own_family, prefixlen_d, prefixlen_s, proto, ifindex, user = wire
    family = own_family or family
    if not family and wire == _NO_SELECTOR:
        return ANY_SELECTOR
    dport, dport_mask, sport, sport_mask = _PORTS.unpack(ports)
    return Selector(
        family, address(saddr, family), prefixlen_s, address(daddr, family), prefixlen_d, proto,
        sport, sport_mask, dport, dport_mask, ifindex, user,
    )  # fmt: skip


def limits_of(wire: Fields) -> Limits:
    return NO_LIMITS if wire == NO_LIMITS else Limits(*wire)


def current_of(wire: Fields) -> Current:
    return Current(*wire) if any(wire) else UNUSED


def current_attr(current: Current) -> bytes:
    """XFRMA_LTIME_VAL."""
    return attr(Xfrma.LTIME_VAL, _CURRENT.pack(*current))


def get_current(attrs: Attrs) -> Current | None:
    value = attrs.get(Xfrma.LTIME_VAL)
    return None if value is None else current_of(_CURRENT.unpack_from(value))


def state_id_fields(state: StateId) -> tuple[object, ...]:
    return state.dst, spi_bytes(state.spi), state.family, state.proto


def state_id_of(wire: Fields, attrs: Attrs) -> StateId:
    """A StateId from its 4 fields, XFRMA_MARK and XFRMA_SRCADDR. With a family that is not IP it names no state."""
    daddr, spi, family, proto = wire
    src = attrs.get(Xfrma.SRCADDR)
    return StateId(
        address(daddr, family), int.from_bytes(spi, "big"), proto, family, get_mark(attrs),
        b"" if src is None else address(bytes(src[:16]), family),
    )  # fmt: skip


def mark_attr(mark: Mark) -> bytes:
    """XFRMA_MARK, only if there is one (7.3)."""
    return attr(Xfrma.MARK, _MARK.pack(mark.value, mark.mask)) if mark.value | mark.mask else b""


def get_mark(attrs: Attrs) -> Mark:
    value = attrs.get(Xfrma.MARK)
    return NO_MARK if value is None else Mark(*_MARK.unpack_from(value))


def if_id_attr(if_id: int) -> bytes:
    """XFRMA_IF_ID, only if not zero (7.3)."""
    return attr_u32(Xfrma.IF_ID, if_id) if if_id else b""


def get_optional_u32(attrs: Attrs, kind: int) -> int | None:
    value = attrs.get(kind)
    return None if value is None else get_u32(value)


def get_number(attrs: Attrs, kind: int) -> int:
    """A u32 attribute, 0 when absent."""
    value = attrs.get(kind)
    return 0 if value is None else get_u32(value)


def address_attr(kind: int, packed: bytes) -> bytes:
    return attr(kind, packed.ljust(16, b"\0"))


_BITS: Final = {
    "proto": 8, "mode": 8, "replay_window": 8, "flags": 8, "share": 8, "optional": 8, "dir": 8, "action": 8, "type": 16,
    "prefixlen_s": 8, "prefixlen_d": 8, "family": 16, "sport": 16, "sport_mask": 16, "dport": 16, "dport_mask": 16,
    "soft_bytes": 64, "hard_bytes": 64, "soft_packets": 64, "hard_packets": 64, "soft_add": 64, "hard_add": 64,
    "soft_use": 64, "hard_use": 64, "bytes": 64, "packets": 64, "add_time": 64, "use_time": 64, "lastused": 64,
    "input": 8, "fwd": 8, "output": 8,
}  # fmt: skip


def unfit(value: object) -> XfrmError:
    """After a struct.error: the error that names the number of a value (or of a value in it) that has no room."""
    return _unfit(value) or XfrmError(EINVAL, "", f"a {type(value).__name__} that no netlink message can carry")


def _unfit(value: object) -> XfrmError | None:
    inside: Sequence[object] = value if isinstance(value, tuple) else ()
    names: Sequence[str] = getattr(value, "_fields", ())
    if is_dataclass(value):
        names = [item.name for item in fields(value)]
        inside = [getattr(value, name) for name in names]
    for name, number in zip(names, inside, strict=False):
        bits = _BITS.get(name, 32)
        if isinstance(number, int) and not 0 <= number < 1 << bits:
            return XfrmError(ERANGE, "", f"{name} {number} is not a number of {bits} bits")
    return next((found for item in inside if (found := _unfit(item))), None)
