"""What a `state` command asks for.

The filter of `list` and `deleteall` is applied by the client, as ip(8) does it: the kernel knows hardly any (NL-08).
"""

from __future__ import annotations

from dataclasses import dataclass

from xfrmi.formats.numbers import lies_in
from xfrmi.wire.xfrm_const import AF_UNSPEC
from xfrmi.wire.xfrm_sa_msg import SpiRequest
from xfrmi.wire.xfrm_types import StateId, StateInfo


@dataclass(frozen=True, slots=True)
class StateFilter:
    """Of `state list` and `state deleteall`: None, an empty address or 0 flags filter nothing."""

    family: int = AF_UNSPEC
    """From -4 or -6."""
    src: bytes = b""
    src_bits: int = 0
    dst: bytes = b""
    dst_bits: int = 0
    proto: int | None = None
    spi: int | None = None
    mode: int | None = None
    reqid: int | None = None
    flags: int = 0
    """One of these bits is enough."""

    def matches(self, info: StateInfo) -> bool:
        return (
            self.family in (AF_UNSPEC, info.family)
            and lies_in(info.src, self.src, self.src_bits)
            and lies_in(info.dst, self.dst, self.dst_bits)
            and self.proto in (None, info.proto)
            and self.spi in (None, info.spi)
            and self.mode in (None, info.mode)
            and self.reqid in (None, info.reqid)
            and (not self.flags or bool(self.flags & info.flags))
        )


@dataclass(frozen=True, slots=True)
class AddState:
    info: StateInfo
    update: bool = False
    """UPDSA instead of NEWSA."""


@dataclass(frozen=True, slots=True)
class AllocSpi:
    request: SpiRequest


@dataclass(frozen=True, slots=True)
class GetState:
    id: StateId


@dataclass(frozen=True, slots=True)
class DeleteState:
    id: StateId


@dataclass(frozen=True, slots=True)
class ListStates:
    filter: StateFilter
    nokeys: bool = False


@dataclass(frozen=True, slots=True)
class DeleteStates:
    filter: StateFilter


@dataclass(frozen=True, slots=True)
class FlushStates:
    proto: int = 0
    """0: all of AH, ESP and IPcomp."""


@dataclass(frozen=True, slots=True)
class CountStates:
    pass


StateRequest = AddState | AllocSpi | GetState | DeleteState | ListStates | DeleteStates | FlushStates | CountStates
