"""What the tables tell the world: the notifications of the xfrm multicast groups, as values (kernel-behaviour 7.5).

Tables emit an event after the fact, so what an event holds is a snapshot. Which request caused it (NL-11) the tables do
not know; whoever carries out the request does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xfrmi.wire.xfrm_migrate_msg import Migration
from xfrmi.wire.xfrm_types import PolicyInfo, StateInfo, Template


@dataclass(frozen=True, slots=True)
class StateAdded:
    """NEWSA. ALLOCSPI and larval states have none (3.3)."""

    info: StateInfo


@dataclass(frozen=True, slots=True)
class StateUpdated:
    """UPDSA, also where it turned a larval state into a valid one."""

    info: StateInfo


@dataclass(frozen=True, slots=True)
class StateDeleted:
    """DELSA by request. A state that ends by expiry or replacement has none."""

    info: StateInfo


@dataclass(frozen=True, slots=True)
class StateExpired:
    """EXPIRE: soft (the state is dying, rekey) or hard (it is gone)."""

    info: StateInfo
    hard: bool


@dataclass(frozen=True, slots=True)
class StateReplayed:
    """NEWAE: the replay counters of a state have moved, or were set by request; group AEVENTS. See aevents.py."""

    info: StateInfo
    cause: int
    """One of xfrm_event_msg.AE_CAUSE_..."""


@dataclass(frozen=True, slots=True)
class StatesFlushed:
    """FLUSHSA of a non-empty table. `proto` is as requested, 0 for all."""

    proto: int


@dataclass(frozen=True, slots=True)
class PolicyAdded:
    """NEWPOLICY."""

    info: PolicyInfo


@dataclass(frozen=True, slots=True)
class PolicyUpdated:
    """UPDPOLICY, also where it created the policy (SPD-05)."""

    info: PolicyInfo


@dataclass(frozen=True, slots=True)
class PolicyDeleted:
    """DELPOLICY; the message names the policy as the request did, by index or by selector."""

    info: PolicyInfo
    by_index: bool


@dataclass(frozen=True, slots=True)
class PolicyExpired:
    """POLEXPIRE: soft, or hard with the policy gone (2.7)."""

    info: PolicyInfo
    hard: bool


@dataclass(frozen=True, slots=True)
class PoliciesFlushed:
    """FLUSHPOLICY that removed something (SPD-12). `type` is a PolicyType."""

    type: int


@dataclass(frozen=True, slots=True)
class DefaultChanged:
    """SETDEFAULT, even where it changed nothing (2.7): xfrmi.wire.xfrm_const.Default for each direction."""

    input: int
    forward: int
    output: int


@dataclass(frozen=True, slots=True)
class Acquire:
    """A packet needs a state that is not there (7.6)."""

    state: StateInfo
    """The larval state: who, to whom, for which flow (its selector), and the seq that NEWSA shall carry."""
    template: Template
    """The one that was not met; its algorithm masks are part of the message."""
    policy: PolicyInfo


@dataclass(frozen=True, slots=True)
class Mapping:
    """A peer behind NAT sends from another address or port now; the state itself is not changed (3.8)."""

    state: StateInfo
    """Its src and encap.sport are the old ones."""
    new_src: bytes
    new_sport: int


@dataclass(frozen=True, slots=True)
class Migrated:
    """MIGRATE: a policy has other templates now, and states other addresses."""

    migration: Migration
    states: tuple[tuple[StateInfo, StateInfo], ...]
    """(the one that was, the one that is)"""


Event = (
    StateAdded
    | StateUpdated
    | StateDeleted
    | StateExpired
    | StateReplayed
    | StatesFlushed
    | PolicyAdded
    | PolicyUpdated
    | PolicyDeleted
    | PolicyExpired
    | PoliciesFlushed
    | DefaultChanged
    | Acquire
    | Mapping
    | Migrated
)

EventSink = Callable[[Event], None]
