"""What the tables tell the world: the notifications of the xfrm multicast groups, as values (kernel-behaviour 7.5).

Tables emit an event after the fact, so what an event holds is a snapshot. Its `request_seq` and `request_pid` are
those of the netlink request that caused it (NL-11). The tables do not know them and leave them 0; whoever runs the
request stamps the event on its way out (dataclasses.replace). They stay 0 for what time or traffic caused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from xfrmi.wire.xfrm_types import PolicyInfo, StateInfo, Template


@dataclass(frozen=True, slots=True)
class _Notification:
    request_seq: int = field(default=0, kw_only=True)
    request_pid: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class StateAdded(_Notification):
    """NEWSA. ALLOCSPI and larval states have none (3.3)."""

    info: StateInfo


@dataclass(frozen=True, slots=True)
class StateUpdated(_Notification):
    """UPDSA, also where it turned a larval state into a valid one."""

    info: StateInfo


@dataclass(frozen=True, slots=True)
class StateDeleted(_Notification):
    """DELSA by request. A state that ends by expiry or replacement has none."""

    info: StateInfo


@dataclass(frozen=True, slots=True)
class StateExpired(_Notification):
    """EXPIRE: soft (the state is dying, rekey) or hard (it is gone)."""

    info: StateInfo
    hard: bool


@dataclass(frozen=True, slots=True)
class StateReplaySet(_Notification):
    """NEWAE: replay counters or lifetimes of a state were set by request; group AEVENTS."""

    info: StateInfo


@dataclass(frozen=True, slots=True)
class StatesFlushed(_Notification):
    """FLUSHSA of a non-empty table. `proto` is as requested, 0 for all."""

    proto: int


@dataclass(frozen=True, slots=True)
class PolicyAdded(_Notification):
    """NEWPOLICY."""

    info: PolicyInfo


@dataclass(frozen=True, slots=True)
class PolicyUpdated(_Notification):
    """UPDPOLICY, also where it created the policy (SPD-05)."""

    info: PolicyInfo


@dataclass(frozen=True, slots=True)
class PolicyDeleted(_Notification):
    """DELPOLICY; the message names the policy as the request did, by index or by selector."""

    info: PolicyInfo
    by_index: bool


@dataclass(frozen=True, slots=True)
class PolicyExpired(_Notification):
    """POLEXPIRE: soft, or hard with the policy gone (2.7)."""

    info: PolicyInfo
    hard: bool


@dataclass(frozen=True, slots=True)
class PoliciesFlushed(_Notification):
    """FLUSHPOLICY that removed something (SPD-12). `type` is a PolicyType."""

    type: int


@dataclass(frozen=True, slots=True)
class DefaultChanged(_Notification):
    """SETDEFAULT, even where it changed nothing (2.7): xfrmi.wire.xfrm_const.Default for each direction."""

    input: int
    forward: int
    output: int


@dataclass(frozen=True, slots=True)
class Acquire(_Notification):
    """A packet needs a state that is not there (7.6)."""

    state: StateInfo
    """The larval state: who, to whom, for which flow (its selector), and the seq that NEWSA shall carry."""
    template: Template
    """The one that was not met; its algorithm masks are part of the message."""
    policy: PolicyInfo


@dataclass(frozen=True, slots=True)
class Mapping(_Notification):
    """A peer behind NAT sends from another address or port now; the state itself is not changed (3.8)."""

    state: StateInfo
    """Its src and encap.sport are the old ones."""
    new_src: bytes
    new_sport: int


Event = (
    StateAdded
    | StateUpdated
    | StateDeleted
    | StateExpired
    | StateReplaySet
    | StatesFlushed
    | PolicyAdded
    | PolicyUpdated
    | PolicyDeleted
    | PolicyExpired
    | PoliciesFlushed
    | DefaultChanged
    | Acquire
    | Mapping
)

EventSink = Callable[[Event], None]
