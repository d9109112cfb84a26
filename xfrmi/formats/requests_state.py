"""What a `state` command asks for.

The filter of `list` and `deleteall` is applied by the client, as ip(8) does it: the kernel knows hardly any (NL-08).
"""

from __future__ import annotations

from typing import NamedTuple

from xfrmi.formats.numbers import lies_in
from xfrmi.wire.xfrm_const import AF_UNSPEC
from xfrmi.wire.xfrm_sa_msg import SpiRequest
from xfrmi.wire.xfrm_types import StateId, StateInfo


class StateFilter(NamedTuple):
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


class AddState(NamedTuple):
    info: StateInfo
    update: bool = False
    """UPDSA instead of NEWSA."""


class AllocSpi(NamedTuple):
    request: SpiRequest


class GetState(NamedTuple):
    id: StateId


class DeleteState(NamedTuple):
    id: StateId


class ListStates(NamedTuple):
    filter: StateFilter
    nokeys: bool = False


class DeleteStates(NamedTuple):
    filter: StateFilter


class FlushStates(NamedTuple):
    proto: int = 0
    """0: all of AH, ESP and IPcomp."""


class CountStates(NamedTuple):
    pass


StateRequest = AddState | AllocSpi | GetState | DeleteState | ListStates | DeleteStates | FlushStates | CountStates
