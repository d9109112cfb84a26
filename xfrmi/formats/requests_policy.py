"""What a `policy` command asks for. The filter of `list` and `deleteall` is applied by the client, as by ip(8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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


class AddPolicy(NamedTuple):
    info: PolicyInfo
    update: bool = False
    """UPDPOLICY instead of NEWPOLICY."""


class GetPolicy(NamedTuple):
    id: PolicyId


class DeletePolicy(NamedTuple):
    id: PolicyId


class ListPolicies(NamedTuple):
    filter: PolicyFilter
    nosock: bool = False
    """Leave out policies of sockets (direction 3 and up)."""


class DeletePolicies(NamedTuple):
    filter: PolicyFilter


class FlushPolicies(NamedTuple):
    type: int = PolicyType.MAIN


class CountPolicies(NamedTuple):
    pass


class SetThresholds(NamedTuple):
    """`policy set`."""

    thresholds: Thresholds


class SetDefaults(NamedTuple):
    """`policy setdefault`; a direction that was not named is UNSPEC (2.7)."""

    defaults: Defaults


class GetDefaults(NamedTuple):
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
