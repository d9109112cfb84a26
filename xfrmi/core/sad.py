"""The security association database: which state seals a flow, which one opens a packet (RFC 4301 4.4.2;
kernel-behaviour 2.5, 3.1 to 3.4, 7.6).

The life of a state:

    alloc_spi, or a packet without a state            add                            update
            |                                          |                               |
          LARVAL  -- update, or add with its seq --> VALID  -- soft limit --> dying  --+ (revived)
            |                                          |                        |
            +-- acq_expires -----> gone <-- hard limit, delete, flush ----------+

What a state is found by is state_index.py's business; what it may be is state_check.py's.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.core.acquire import acquires_wanted, larval_for_flow, larval_for_spi
from xfrmi.core.acquire_limit import AcquireLimit
from xfrmi.core.aevents import Aevents, restart, set_thresholds
from xfrmi.core.events import (
    Acquire,
    EventSink,
    Mapping,
    StateAdded,
    StateDeleted,
    StateExpired,
    StateReplayed,
    StatesFlushed,
    StateUpdated,
)
from xfrmi.core.lifetime import check_times
from xfrmi.core.resolve import ends_of, find, wants_own
from xfrmi.core.sad_check import (
    IPSEC_PROTO_ANY,
    check_cpu,
    check_esn_update,
    check_id,
    check_spi_request,
    duplicate,
    no_state,
)  # fmt: skip
from xfrmi.core.spd_check import check_policy
from xfrmi.core.state import KM_ACQ, KM_DEAD, KM_VALID, State
from xfrmi.core.state_index import StateIndex, output_key
from xfrmi.core.sysctl import Sysctls
from xfrmi.core.timers import FIRST_LOOK, Timers, earliest
from xfrmi.errors import Drop, XfrmError
from xfrmi.wire.address import any_address
from xfrmi.wire.xfrm_const import SaDir, XfrmStat
from xfrmi.wire.xfrm_event_msg import AE_CAUSE_UPDATE
from xfrmi.wire.xfrm_info_msg import SadInfo
from xfrmi.wire.xfrm_types import Current, Replay, ReplayEsn, StateId, StateInfo, Template

if TYPE_CHECKING:
    from xfrmi.core.policy import Policy
    from xfrmi.wire import xfrm_event_msg
    from xfrmi.wire.flow import Flow

HASH_BUCKETS = 8
HASH_MAX = 1 << 20
_U32 = 0xFFFFFFFF
_DEFAULTS = Sysctls()


class Sad:
    """The states of one namespace. `emit` is told of every change, after the fact; `random(n)` gives n random bytes;
    `acq_expires()` says for how many seconds a larval state waits to be completed, `cpus()` how many processors there
    are, of which `cpu` is ours."""

    def __init__(
        self,
        emit: EventSink,
        random: Callable[[int], bytes],
        acq_expires: Callable[[], int] = _DEFAULTS.acq_expires,
        cpus: Callable[[], int] = _DEFAULTS.cpus,
        cpu: int = 0,
    ) -> None:
        self._emit = emit
        self._random = random
        self.index = StateIndex()
        self.timers: Timers[State] = Timers()
        self.aevents = Aevents(emit)
        self.acquire_seq = 0
        self._acquire_limit = AcquireLimit(acq_expires)
        self.hash_buckets = HASH_BUCKETS
        self._on_limit, self._on_mapping = self._limit_reached, self._peer_moved  # one bound method for all states
        self._acq_expires, self._cpus, self.cpu = acq_expires, cpus, cpu
        self.acquire_listeners = 0
        """How many want to hear of acquires. Without any, no larval state is made for a flow (7.6)."""
        self.generation = 0
        """Changes whenever an earlier lookup may have become wrong."""
        self.on_removed: Callable[[State], None] | None = None
        """Told of one that might have carried packets: who has it at hand for the next lets it go."""
        self.lookup_input = self.index.at
        """lookup_input(daddr, spi, proto, mark) -> State | None: one dict lookup, never asks for the if_id (RX-03). The
        state may be larval: XfrmAcquireError."""
        self.lookup_encap = self.index.encapsulated
        """lookup_encap(daddr, sport, dport) -> State | None: one that sends ESP in UDP between these ports."""

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, state: State) -> bool:
        return state in self.index

    # Requests ----------------------------------------------------------------------------------------------------

    def add(self, state: StateInfo | State, now: float) -> State:
        """NEWSA (3.3). A larval state that this one answers goes. Raises XfrmError: EINVAL and others (7.4), EEXIST."""
        if isinstance(state, StateInfo):
            state = State(state, now=now, random=self._random)
            check_cpu(state.info.pcpu, self._cpus, errno.ERANGE)
        old = self.index.at(state.dst, state.spi, state.proto, state.mark.value)
        if old is not None:
            raise duplicate(old)
        larval = self.index.answered_by(state)
        self.insert(state, now)
        if larval is not None:
            self.remove(larval)
        self._emit(StateAdded(state.snapshot()))
        return state

    def update(self, info: StateInfo, now: float) -> State:
        """UPDSA (3.3). A larval state is replaced; a valid one gets new limits, ports, set-mark and if_id and ceases
        to die, and whatever else `info` says is ignored. Raises XfrmError: as add, and ESRCH; EINVAL for a change of
        encapsulation.
        """
        new = State(info, now=now, random=self._random)
        check_cpu(info.pcpu, self._cpus, errno.ERANGE)
        old = self.index.at(new.dst, new.spi, new.proto, new.mark.value)
        if old is None:
            raise no_state(errno.ESRCH, new.dst, new.spi, new.proto, new.mark)
        if old.dir != new.dir and (new.dir or old.km != KM_ACQ):
            raise XfrmError(errno.ESRCH, detail="an SA keeps its direction (dir), also in an update")
        if old.km == KM_ACQ:
            self.insert(new, now)
            self.remove(old)
            current = new
        else:
            with self.index.moving(old):
                old.update(info)
            self.generation += 1
            self._arm(old, now)
            if old.use_time:
                with suppress(Drop):  # a hard limit below what has been used up: gone at once
                    old.check_limits(now, XfrmStat.OUT_STATE_EXPIRED)
            current = old
        self._emit(StateUpdated(new.snapshot()))  # the kernel shows the request here, not what became of it
        return current

    def get(self, state_id: StateId) -> State:
        """GETSA. Raises XfrmError ESRCH; EINVAL for a protocol without SPIs if no source is named."""
        check_id(state_id)
        return self.find(state_id)

    def find(self, state_id: StateId, missing: int = errno.ESRCH) -> State:
        """The state with this key, whatever the protocol: what GETAE and EXPIRE look up. Raises XfrmError `missing`."""
        mark = state_id.mark
        state = self.index.at(state_id.dst, state_id.spi, state_id.proto, mark.value & mark.mask)
        if state is None:
            raise no_state(missing, state_id.dst, state_id.spi, state_id.proto, mark)
        return state

    def delete(self, state_id: StateId, now: float) -> State:
        """DELSA, also of larval states. Raises XfrmError as get does."""
        state = self.get(state_id)
        self.remove(state)
        self._emit(StateDeleted(state.snapshot()))
        return state

    def expire(self, state_id: StateId, hard: bool, now: float) -> State:
        """EXPIRE by request: announce it, and carry it out if it is a hard one. Raises XfrmError ENOENT, EINVAL."""
        state = self._valid(state_id, errno.ENOENT)
        self._emit(StateExpired(state.snapshot(), hard))
        if hard:
            self.remove(state)
        return state

    def set_replay(
        self,
        state_id: StateId,
        replay: Replay | None = None,
        replay_esn: ReplayEsn | None = None,
        current: Current | None = None,
        replay_thresh: int | None = None,
        etimer_thresh: int | None = None,
    ) -> State:
        """NEWAE: sequence numbers, window and lifetime counters from outside, and when aevents tell of them (packets,
        tenths of a second). The IV counter is not touched.

        What does not suit the kind of the state's window is ignored. Raises XfrmError ESRCH, EINVAL.
        """
        state = self._valid(state_id, errno.ESRCH)
        old_esn = state.info.replay_esn
        if replay_esn is not None and old_esn is not None:
            check_esn_update(old_esn, replay_esn)
            restart(state, replace(state.info, replay_esn=replay_esn))
        elif replay is not None and old_esn is None:
            restart(state, replace(state.info, replay=replay))
        if current is not None:
            with self.index.moving(state):
                state.add_time = current.add_time
            state.bytes, state.packets, state.use_time = current.bytes, current.packets, current.use_time
        set_thresholds(state, replay_thresh, etimer_thresh)
        self.aevents.reset(state)
        self.generation += 1
        self._emit(StateReplayed(state.snapshot(), AE_CAUSE_UPDATE))
        return state

    def alloc_spi(self, info: StateInfo, low: int, high: int, now: float) -> State:
        """ALLOCSPI (3.3): a larval state with an SPI in low..high that no state has, towards whatever destination.

        Of `info` only what identifies a negotiation is used. An existing larval state is taken if it fits; one that
        has an SPI already keeps it. Raises XfrmError: EINVAL; ENOENT when no SPI is free, and then the larval state
        stays behind without one.
        """
        check_spi_request(info, low, high)
        check_cpu(info.pcpu, self._cpus, errno.EINVAL)
        info = replace(info, src=info.src or any_address(info.family))
        mark = info.mark.value & info.mark.mask
        larval = self.index.larval_numbered(info.seq, mark, info.pcpu)
        if larval is None or larval.dst != info.dst:
            larval = self.index.larval_waiting(output_key(info), mark, info.pcpu)
        if larval is None:
            larval = larval_for_spi(info, now, self._acq_expires())
            self.insert(larval, now)
        if not larval.spi:
            spi = self.index.free_spi(info.proto, low, high, int.from_bytes(self._random(8), "big"))
            if not spi:
                detail = f"all of {low:#x}..{high:#x} are taken on this host, whatever the destination"
                raise XfrmError(errno.ENOENT, "No SPI available in the requested range", detail)
            with self.index.moving(larval):
                larval.spi, larval.spi_bytes = spi, spi.to_bytes(4, "big")
                larval.info = replace(larval.info, spi=spi)
        if info.dir:
            larval.dir, larval.info = info.dir, replace(larval.info, dir=info.dir)
            self.aevents.used(larval)
        return larval

    def acquire(self, wanted: xfrm_event_msg.Acquire) -> None:
        """ACQUIRE by request (7.2): announced for every template of its policy, and that is all: no larval state is
        made, and nobody has to listen. Raises XfrmError EINVAL, as for a policy."""
        check_policy(wanted.policy)
        check_cpu(wanted.pcpu, self._cpus, errno.EINVAL)
        for event in acquires_wanted(wanted, self._next_acquire_seq):
            self._emit(event)

    def flush(self, proto: int, now: float) -> int:
        """FLUSHSA; 0 and 255 mean every protocol. Returns how many went; an empty flush is silent."""
        states = self.dump()
        if proto not in (0, IPSEC_PROTO_ANY):
            states = [state for state in states if state.proto == proto]
        for state in states:
            self.remove(state)
        if states:
            self._emit(StatesFlushed(proto))
        return len(states)

    def dump(self) -> list[State]:
        """All states, larval ones too, the newest first."""
        return self.index.newest_first()

    def counts(self) -> SadInfo:
        """GETSADINFO."""
        return SadInfo(len(self.index), self.hash_buckets, HASH_MAX)

    # Output ------------------------------------------------------------------------------------------------------

    def resolve(
        self,
        template: Template,
        policy: Policy,
        flow: Flow,
        now: float,
        *,
        src: bytes = b"",
        dst: bytes = b"",
        ifindex: int = 0,
    ) -> State | None:
        """The state that meets `template` of `policy` for `flow` (2.5, 3.2); None if none does and none has to.

        `src` and `dst` are the addresses of the packet where an earlier template has changed them: the ends of that
        tunnel (OUT-08); `src` is also the address the host would use, for a tunnel template without source (OUT-09).
        `flow` stays the innermost packet's. `ifindex` is the device it leaves by.

        Raises Drop: OUT_NO_STATES, after an Acquire if anybody listens (7.6); OUT_POL_ERROR where the template names an
        SPI and the state that has it does not fit; OUT_STATE_DIR_ERROR where an inbound state was the best one, for
        which the kernel counts XfrmOutPolError, too (3.6).
        """
        src, dst = ends_of(template, flow, src, dst)
        state, awaited = find(self.index, template, policy, flow, src, dst, ifindex, self.cpu)
        if state is not None:
            if self.acquire_listeners and not awaited and not template.spi and wants_own(policy, state, self.cpu):
                self._acquire(template, policy, flow, src, dst, ifindex, now, self.cpu)
            if state.dir == SaDir.IN:
                raise Drop(XfrmStat.OUT_STATE_DIR_ERROR, "the state is an inbound one")
            return state
        why = "no state yet" if awaited else "no state"
        taken = not awaited and template.spi and self.index.at(dst, template.spi, template.proto, policy.mark.value)
        asks = not awaited and not taken and self.acquire_listeners
        if asks and not self._acquire(template, policy, flow, src, dst, ifindex, now):
            why = "no state, and too many flows wait for one: who asks again is heard"
        if template.optional:
            return None
        if taken:
            raise Drop(XfrmStat.OUT_POL_ERROR, "the state with the template's spi does not fit the template")
        raise Drop(XfrmStat.OUT_NO_STATES, why)

    def _acquire(self, template: Template, policy: Policy, flow: Flow, src: bytes, dst: bytes, ifindex: int, now: float,
                 pcpu: int | None = None) -> bool:  # fmt: skip
        if not self._acquire_limit.allows(self.index.waiting_count, (dst, src, template.reqid, policy.if_id), now):
            return False
        larval = larval_for_flow(template, policy, flow, src, dst, ifindex=ifindex, pcpu=pcpu, now=now,
                                 seq=self._next_acquire_seq(), lifetime=self._acq_expires())  # fmt: skip
        self.insert(larval, now)
        self._emit(Acquire(larval.info, template, policy.snapshot()))
        return True

    def _next_acquire_seq(self) -> int:
        self.acquire_seq = self.acquire_seq % _U32 + 1
        return self.acquire_seq

    # Time and limits ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Announce soft expiries, remove what has expired (LT-05)."""
        for state in self.timers.due(now):
            # As the kernel: in whole seconds of wall-clock time, from one look to the next.
            again = check_times(state, int(now))
            if again is not None:
                self.timers.set(state, now + again - int(now))
        self.aevents.tick(now)

    def next_deadline(self) -> float | None:
        return earliest((self.timers.next_deadline, self.aevents.next_deadline))

    def _limit_reached(self, state: State, hard: bool) -> None:
        """A limit of whatever kind: a soft one is announced once, a hard one ends the state at once (3.3)."""
        if hard:
            self.remove(state)
        else:
            with self.index.moving(state):
                pass
            self.generation += 1
        self._emit(StateExpired(state.snapshot(), hard))

    def _peer_moved(self, state: State, new_src: bytes, new_sport: int) -> None:
        self._emit(Mapping(state.snapshot(), new_src, new_sport))

    def _arm(self, state: State, now: float) -> None:
        limits = state.info.limits
        if state.km == KM_ACQ:
            self.timers.set(state, now + limits.hard_add)
        elif limits.soft_add or limits.hard_add or limits.soft_use or limits.hard_use:
            self.timers.set(state, now + FIRST_LOOK)
        else:
            self.timers.cancel(state)

    # Bookkeeping -------------------------------------------------------------------------------------------------

    def place(self, state: State, now: float, beside: State | None = None) -> None:
        """Insert a clone. Raises XfrmError EEXIST if another state than `beside` has its key."""
        old = self.index.at(state.dst, state.spi, state.proto, state.mark.value)
        if old is not None and old is not beside:
            raise duplicate(old)
        self.insert(state, now)

    def insert(self, state: State, now: float) -> None:
        """Only this: no check, no event, no larval state answered."""
        state.on_limit = self._on_limit
        state.on_mapping = self._on_mapping
        self.index.insert(state)
        if self.hash_buckets <= len(self.index) and self.hash_buckets < HASH_MAX:
            self.hash_buckets *= 2
        self._arm(state, now)
        self.generation += state.transform is not None  # a larval one changes no decision, as in a kernel

    def remove(self, state: State) -> None:
        """Only this: no event."""
        self.index.remove(state)
        self.timers.cancel(state)
        self.aevents.forget(state)
        state.km = KM_DEAD
        state.on_limit = state.on_mapping = None
        if state.transform is not None:  # a larval one changes no decision, as in a kernel
            self.generation += 1
            if self.on_removed is not None:
                self.on_removed(state)

    def _valid(self, state_id: StateId, missing: int) -> State:
        state = self.find(state_id, missing)
        if state.km != KM_VALID:
            raise XfrmError(errno.EINVAL, "SA must be in VALID state")
        return state
