"""The security policy database: which policy decides a flow (RFC 4301 4.4.1; kernel-behaviour 2.2, 2.3, 2.7).

Three views of the same policies:

    by identity   (direction, type, if_id, selector, mark, context): what requests name; insertion order = dump order
    by index      the number the kernel gives each policy
    by bin        (type, direction, if_id, family): what a flow is looked up in, see policy.py

A flow that comes with an if_id sees only the policies of that if_id, so thousands of interfaces do not slow each
other (SPD-25).
"""

from __future__ import annotations

import errno

from xfrmi.core.events import (
    DefaultChanged,
    EventSink,
    PoliciesFlushed,
    PolicyAdded,
    PolicyDeleted,
    PolicyExpired,
    PolicyUpdated,
)
from xfrmi.core.policy import Identity, Policy, PolicyBin, whole_selector
from xfrmi.core.spd_check import check_direction, check_policy, check_type
from xfrmi.core.timers import FIRST_LOOK, Timers
from xfrmi.errors import XfrmError
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import Action, Default, Dir, PolicyType
from xfrmi.wire.xfrm_info_msg import SpdInfo, Thresholds
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, Template

INDEX_STEP = 8
"""The lowest three bits of an index are the direction (SPD-09)."""
_U32 = 0xFFFFFFFF

HASH_BUCKETS = 8
HASH_MAX = 1 << 20

BinKey = tuple[int, int, int, int]


class Spd:
    """The policies of one namespace. `emit` is told of every change, after the fact."""

    def __init__(self, emit: EventSink) -> None:
        self._emit = emit
        self._policies: dict[Identity, Policy] = {}  # in the order of insertion
        self._by_index: dict[int, Policy] = {}
        self._bins: dict[BinKey, PolicyBin] = {}
        self._counts = [0, 0, 0]
        self.timers: Timers[Policy] = Timers()
        self.next_index = 0
        self.next_position = 0
        self.hash_buckets = HASH_BUCKETS
        self.defaults: list[int] = [Default.ACCEPT] * 3
        """What happens to a flow without a policy, by Dir."""
        self.thresholds = ((32, 32), (128, 128))  # stored, reported, and without effect (SPD-22)
        self.generation = 0
        """Changes whenever an earlier lookup may have become wrong."""
        self.noted: set[Policy] | None = None
        """Where it is noted, if anywhere, which policies have come, gone or got other templates (core/noting.py)."""

    def __len__(self) -> int:
        return len(self._policies)

    def __contains__(self, policy: Policy) -> bool:
        return self._by_index.get(policy.index) is policy

    # Requests ----------------------------------------------------------------------------------------------------

    def insert(self, info: PolicyInfo, now: float) -> Policy:
        """NEWPOLICY. Raises XfrmError: EINVAL (7.4), EEXIST (SPD-01)."""
        check_policy(info)
        policy = Policy(info, now=now)
        old = self._policies.get(policy.identity)
        if old is not None:
            raise XfrmError(
                errno.EEXIST,
                detail=f"the policy with index {old.index} and priority {old.priority} has this selector, direction, "
                f"if_id and mark already; the priority does not tell two apart",
            )
        self._add(policy, None, now)
        self._emit(PolicyAdded(policy.snapshot()))
        return policy

    def update(self, info: PolicyInfo, now: float) -> Policy:
        """UPDPOLICY: replaces, or creates where there is nothing to replace (SPD-04, SPD-05). Raises XfrmError EINVAL.

        The new policy takes over the index of the old one. Where the priority stays the same it also takes over its
        place among policies of equal priority; otherwise it is the youngest of them.
        """
        check_policy(info)
        policy = Policy(info, now=now)
        old = self._policies.get(policy.identity)
        if old is not None:
            self.remove(old)
        self._add(policy, old, now)
        self._emit(PolicyUpdated(policy.snapshot()))
        return policy

    def get(self, policy_id: PolicyId) -> Policy:
        """GETPOLICY, by index if there is one. Raises XfrmError: EINVAL, ENOENT (SPD-07, SPD-08)."""
        check_type(policy_id.type)
        check_direction(policy_id.dir)
        if policy_id.index:
            found = self._by_index.get(policy_id.index)
            if found is not None and found.identity == _identity(policy_id, found):
                return found
        else:
            found = self._policies.get(_identity(policy_id, None))
            if found is not None:
                return found
        raise _no_policy(policy_id)

    def delete(self, policy_id: PolicyId, now: float) -> Policy:
        """DELPOLICY. Raises XfrmError as get does."""
        policy = self.get(policy_id)
        self.remove(policy)
        self._emit(PolicyDeleted(policy.snapshot(), bool(policy_id.index)))
        return policy

    def expire(self, policy_id: PolicyId, hard: bool, now: float) -> Policy:
        """POLEXPIRE by request: announce an expiry, and if it is a hard one carry it out. Raises XfrmError as get."""
        policy = self.get(policy_id)
        if hard:
            self.remove(policy)
        self._emit(PolicyExpired(policy.snapshot(), hard))
        return policy

    def flush(self, policy_type: int, now: float) -> int:
        """FLUSHPOLICY of one type; returns how many went, silently if none did (SPD-12). Raises XfrmError EINVAL."""
        check_type(policy_type)
        flushed = [policy for policy in self._policies.values() if policy.type == policy_type]
        for policy in flushed:
            self.remove(policy)
        if flushed:
            self._emit(PoliciesFlushed(policy_type))
        return len(flushed)

    def dump(self) -> list[Policy]:
        """All policies, the newest first (SPD-11)."""
        return list(reversed(self._policies.values()))

    def set_default(self, input: int, forward: int, output: int) -> None:
        """SETDEFAULT: what is neither block nor accept leaves its direction as it is (2.7)."""
        for direction, default in ((Dir.IN, input), (Dir.FWD, forward), (Dir.OUT, output)):
            if default in (Default.BLOCK, Default.ACCEPT):
                self.defaults[direction] = default
        self.generation += 1
        defaults = self.defaults
        self._emit(DefaultChanged(defaults[Dir.IN], defaults[Dir.FWD], defaults[Dir.OUT]))

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """NEWSPDINFO."""
        self.thresholds = (thresholds.ipv4 or self.thresholds[0], thresholds.ipv6 or self.thresholds[1])

    def counts(self) -> SpdInfo:
        """GETSPDINFO. There are no socket policies here."""
        counts = self._counts
        return SpdInfo(
            counts[Dir.IN],
            counts[Dir.OUT],
            counts[Dir.FWD],
            buckets=self.hash_buckets - 1,  # the kernel tells the mask
            max_buckets=HASH_MAX,
            ipv4=self.thresholds[0],
            ipv6=self.thresholds[1],
        )

    # Lookup ------------------------------------------------------------------------------------------------------

    def lookup(
        self,
        direction: int,
        if_id: int,
        flow: Flow,
        mark: int = 0,
        ifindex: int = 0,
        policy_type: int = PolicyType.MAIN,
    ) -> Policy | None:
        """The policy of one type that decides `flow`, which carries `mark` and leaves by device `ifindex` (2.1)."""
        found = self._bins.get((policy_type, direction, if_id, flow.family))
        return found.find(flow, mark, ifindex) if found is not None else None

    def ranked(self, direction: int, if_id: int, family: int, policy_type: int = PolicyType.MAIN) -> list[Policy]:
        """All policies that may decide flows of this family, best first."""
        found = self._bins.get((policy_type, direction, if_id, family))
        return found.ranked() if found is not None else []

    def lookup_all(self, direction: int, if_id: int, flow: Flow, mark: int = 0, ifindex: int = 0) -> list[Policy]:
        """The policies that decide `flow` together (SPD-23): a sub policy and the main one that joins it; or just one.

        Empty when there is none. The flow is allowed if all of them allow, with the templates of all in this order. A
        sub policy that blocks is joined only on input, where it makes no difference but to the main one's use_time. The
        one that joins a `fwd` sub policy is of direction `in`: so does the kernel, and not `fwd` as one would expect.
        """
        sub = self.lookup(direction, if_id, flow, mark, ifindex, PolicyType.SUB)
        if sub is None:
            main = self.lookup(direction, if_id, flow, mark, ifindex)
            return [main] if main is not None else []
        if direction == Dir.OUT and sub.action != Action.ALLOW:
            return [sub]
        main = self.lookup(Dir.OUT if direction == Dir.OUT else Dir.IN, if_id, flow, mark, ifindex)
        return [sub, main] if main is not None else [sub]

    # Time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Announce soft expiries, remove what has expired: only limits in seconds count (2.7, quirk Q16)."""
        for policy in self.timers.due(now):
            look = policy.look(int(now))
            if look.hard:
                self.remove(policy)
            if look.hard or look.soft:
                self._emit(PolicyExpired(policy.snapshot(), look.hard))
            if look.wait is not None:
                self.timers.set(policy, now + look.wait)

    def next_deadline(self) -> float | None:
        return self.timers.next_deadline()

    # Bookkeeping -------------------------------------------------------------------------------------------------

    def point(self, policy: Policy, templates: tuple[Template, ...]) -> None:
        """Give a policy other templates."""
        policy.point(templates)
        self._note(policy)
        self.generation += 1

    def _note(self, policy: Policy) -> None:
        if self.noted is not None:
            self.noted.add(policy)

    def _add(self, policy: Policy, replaced: Policy | None, now: float) -> None:
        policy.index = replaced.index if replaced is not None else self._choose_index(policy.dir, policy.index)
        if replaced is not None and replaced.priority == policy.priority:
            policy.rank = replaced.rank
        else:
            self.next_position += 1
            policy.rank = (policy.priority, self.next_position)
        self.place(policy)
        if self.hash_buckets <= len(self._policies) < HASH_MAX:
            self.hash_buckets *= 2
        if policy.is_timed:
            self.timers.set(policy, now + FIRST_LOOK)

    def place(self, policy: Policy) -> None:
        """Only this: its index and rank are known, nobody watches its limits, no event."""
        self._policies[policy.identity] = policy
        self._by_index[policy.index] = policy
        bin_key = _bin_key(policy)
        if bin_key not in self._bins:
            self._bins[bin_key] = PolicyBin(policy.selector.family)
        self._bins[bin_key].insert(policy)
        self._counts[policy.dir] += 1
        self._note(policy)
        self.generation += 1

    def remove(self, policy: Policy) -> None:
        """Only this: no event."""
        del self._policies[policy.identity]
        del self._by_index[policy.index]
        bin_key = _bin_key(policy)
        self._bins[bin_key].remove(policy)
        if not self._bins[bin_key]:
            del self._bins[bin_key]
        self._counts[policy.dir] -= 1
        self._note(policy)
        self.timers.cancel(policy)
        self.generation += 1

    def _choose_index(self, direction: int, wanted: int) -> int:
        """SPD-09, SPD-10: the wanted index if it is free, else the next of the generator that all directions share."""
        index = wanted
        while not index or index in self._by_index:
            index = self.next_index | direction or INDEX_STEP
            self.next_index = self.next_index + INDEX_STEP & _U32
        return index


def _bin_key(policy: Policy) -> BinKey:
    return policy.type, policy.dir, policy.if_id, policy.selector.family


def _identity(policy_id: PolicyId, by_index: Policy | None) -> Identity:
    """What `policy_id` says. Where it names a policy by index, selector and context are not compared."""
    selector = whole_selector(policy_id.selector) if by_index is None else by_index.selector
    sec_ctx = policy_id.sec_ctx if by_index is None else by_index.info.sec_ctx
    return policy_id.dir, policy_id.type, policy_id.if_id, selector, policy_id.mark, sec_ctx


def _no_policy(policy_id: PolicyId) -> XfrmError:
    what = f"index {policy_id.index}" if policy_id.index else "this selector"
    detail = f"no policy has {what} together with this direction, type, if_id {policy_id.if_id:#x} and mark"
    mark = policy_id.mark
    if mark.value & ~mark.mask:  # SPD-07
        detail += f"; marks are stored masked, so ask for {mark.value & mark.mask:#x} mask {mark.mask:#x}"
    return XfrmError(errno.ENOENT, detail=detail)
