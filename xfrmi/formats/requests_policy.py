"""What a `policy` command asks for. The filter of `list` and `deleteall` is applied by the client, as by ip(8)."""

from __future__ import annotations

from dataclasses import dataclass

from xfrmi.formats.numbers import lies_in
from xfrmi.wire.xfrm_const import AF_UNSPEC, PolicyType
from xfrmi.wire.xfrm_info_msg import Defaults, Thresholds
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo


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
            and lies_in(sel.saddr, self.src, self.src_bits)
            and lies_in(sel.daddr, self.dst, self.dst_bits)
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
