"""What a command line asks for, as values: the output of the grammar, the input of whoever carries requests out.

A request that changes or names something holds the xfrm value itself; one that lists or deletes many holds a filter,
applied by the client as ip(8) does (the kernel has no such filters, NL-08).
"""

from __future__ import annotations

from dataclasses import dataclass

from xfrmi.wire.link_types import LinkInfo
from xfrmi.wire.xfrm_const import AF_UNSPEC, PolicyType
from xfrmi.wire.xfrm_info_msg import Defaults, Thresholds
from xfrmi.wire.xfrm_sa_msg import SpiRequest
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, StateId, StateInfo


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
            and _begins(info.src, self.src, self.src_bits)
            and _begins(info.dst, self.dst, self.dst_bits)
            and self.proto in (None, info.proto)
            and self.spi in (None, info.spi)
            and self.mode in (None, info.mode)
            and self.reqid in (None, info.reqid)
            and (not self.flags or bool(self.flags & info.flags))
        )


@dataclass(frozen=True, slots=True)
class PolicyFilter:
    """Of `policy list` and `policy deleteall`: None or an empty address filter nothing."""

    family: int = AF_UNSPEC
    """From -4 or -6."""
    src: bytes = b""
    src_bits: int = 0
    dst: bytes = b""
    dst_bits: int = 0
    proto: int | None = None
    sport: int | None = None
    """Also an ICMP type."""
    dport: int | None = None
    ifindex: int | None = None
    dir: int | None = None
    index: int | None = None
    type: int | None = None
    action: int | None = None
    priority: int | None = None
    flags: int = 0
    """One of these bits is enough."""

    def matches(self, info: PolicyInfo) -> bool:
        sel = info.selector
        return (
            self.family in (AF_UNSPEC, sel.family)
            and _begins(sel.saddr, self.src, self.src_bits)
            and _begins(sel.daddr, self.dst, self.dst_bits)
            and self.proto in (None, sel.proto)
            and self.sport in (None, sel.sport)
            and self.dport in (None, sel.dport)
            and self.ifindex in (None, sel.ifindex)
            and self.dir in (None, info.dir)
            and self.index in (None, info.index)
            and self.type in (None, info.type)
            and self.action in (None, info.action)
            and self.priority in (None, info.priority)
            and (not self.flags or bool(self.flags & info.flags))
        )


def _begins(address: bytes, prefix: bytes, bits: int) -> bool:
    """Whether `address` lies in prefix/bits. Nothing given matches all; one family never matches the other."""
    if not bits:
        return True
    if len(address) != len(prefix):
        return False
    shift = len(address) * 8 - bits
    return int.from_bytes(address) >> shift == int.from_bytes(prefix) >> shift


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


@dataclass(frozen=True, slots=True)
class AddPolicy:
    info: PolicyInfo
    update: bool = False
    """UPDPOLICY instead of NEWPOLICY."""


@dataclass(frozen=True, slots=True)
class GetPolicy:
    id: PolicyId


@dataclass(frozen=True, slots=True)
class DeletePolicy:
    id: PolicyId


@dataclass(frozen=True, slots=True)
class ListPolicies:
    filter: PolicyFilter
    nosock: bool = False
    """Leave out policies of sockets (direction 3 and up)."""


@dataclass(frozen=True, slots=True)
class DeletePolicies:
    filter: PolicyFilter


@dataclass(frozen=True, slots=True)
class FlushPolicies:
    type: int = PolicyType.MAIN


@dataclass(frozen=True, slots=True)
class CountPolicies:
    pass


@dataclass(frozen=True, slots=True)
class SetThresholds:
    """`policy set`."""

    thresholds: Thresholds


@dataclass(frozen=True, slots=True)
class SetDefaults:
    """`policy setdefault`; a direction that was not named is UNSPEC (2.7)."""

    defaults: Defaults


@dataclass(frozen=True, slots=True)
class GetDefaults:
    pass


@dataclass(frozen=True, slots=True)
class Monitor:
    groups: tuple[int, ...]
    """Multicast groups (7.5) to join."""
    nokeys: bool = False
    all_nsid: bool = False


@dataclass(frozen=True, slots=True)
class AddLink:
    info: LinkInfo
    netns: str = ""
    """Name or process id of the network namespace where the device shall live; empty for here."""


@dataclass(frozen=True, slots=True)
class SetLink:
    device: str
    info: LinkInfo
    """Only what changes: `name` is the new name, flags under `change`, `kind` is empty without `type`."""
    netns: str = ""


@dataclass(frozen=True, slots=True)
class DeleteLink:
    device: str


@dataclass(frozen=True, slots=True)
class ShowLinks:
    device: str = ""
    """Empty for all."""
    up: bool = False
    """Only devices that are up."""
    kind: str = ""
    """Only devices of this kind."""


StateRequest = AddState | AllocSpi | GetState | DeleteState | ListStates | DeleteStates | FlushStates | CountStates
PolicyRequest = (
    AddPolicy
    | GetPolicy
    | DeletePolicy
    | ListPolicies
    | DeletePolicies
    | FlushPolicies
    | CountPolicies
    | SetThresholds
    | SetDefaults
    | GetDefaults
)
LinkRequest = AddLink | SetLink | DeleteLink | ShowLinks
Request = StateRequest | PolicyRequest | LinkRequest | Monitor
