"""Policy: one line of the SPD, and the bin in which it is searched (kernel-behaviour 2.1, 2.3).

A bin holds the policies of one (type, direction, if_id, family). Inside, policies are grouped by the pair of their
prefix lengths and found by the masked addresses of the flow: one dict lookup for each pair of lengths in use, however
many policies there are. Policies with the very same prefixes (told apart by protocol, ports, device or mark) are
tried one after another, best first.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

from xfrmi.core.selector import Matcher, prefix_mask, prefix_of
from xfrmi.wire.address import any_address
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, Mode
from xfrmi.wire.xfrm_types import Current, Mark, PolicyInfo, Selector, Template

Rank = tuple[int, int]
"""(priority, position): the lowest wins (SPD-20), and among equals the oldest (SPD-21)."""

SOFT_REPEAT = 30
"""Seconds between two soft expiries of a policy that nobody renews (quirk Q15)."""

Identity = tuple[int, int, int, Selector, Mark, bytes | None]


class Look(NamedTuple):
    """What the clock says of a policy."""

    hard: bool
    soft: bool
    wait: int | None
    """Seconds until the next look; None if nothing will ever come due."""


class Policy:
    """One policy. Build it from a PolicyInfo that check_policy has passed, or with the fields of one."""

    __slots__ = (
        "__weakref__", "_matcher", "action", "add_time", "dir", "flags", "if_id", "index", "info", "limits", "mark",
        "priority", "rank", "selector", "templates", "type", "use_time",
    )  # fmt: skip

    def __init__(self, info: PolicyInfo | None = None, *, now: float = 0, **fields: Any) -> None:
        info = _settled(PolicyInfo(**fields) if info is None else info)
        self.info = info
        self.selector = info.selector
        self.dir = info.dir
        self.type = info.type
        self.if_id = info.if_id
        self.mark = info.mark
        self.index = info.index
        self.action = info.action
        self.priority = info.priority
        self.templates = info.templates
        self.flags = info.flags
        self.limits = info.limits
        self.add_time = int(now)
        self.use_time = 0
        """When it last decided something, Unix seconds, 0 never. Whoever acts on a policy refreshes it (2.7)."""
        self.rank: Rank = (info.priority, 0)
        """Set by the SPD on insertion."""
        self._matcher = Matcher(info.selector, info.selector.family)

    def __repr__(self) -> str:
        return f"<Policy index {self.index} dir {self.dir} priority {self.priority} if_id {self.if_id:#x}>"

    @property
    def identity(self) -> Identity:
        """What NEWPOLICY, DELPOLICY and GETPOLICY tell policies apart by (SPD-01..03): not the priority."""
        return self.dir, self.type, self.if_id, self.selector, self.mark, self.info.sec_ctx

    def matches(self, flow: Flow, mark: int, ifindex: int) -> bool:
        """Does the flow have this policy's selector and mark? Family and if_id are the bin's business."""
        return mark & self.mark.mask == self.mark.value and self._matcher.matches(flow, ifindex)

    @property
    def is_timed(self) -> bool:
        """Is there any limit in seconds? No other limit is ever enforced (quirk Q16)."""
        limits = self.limits
        return bool(limits.soft_add or limits.hard_add or limits.soft_use or limits.hard_use)

    def look(self, now: int) -> Look:
        """2.7: limits of use count from the insertion until the first use; a soft expiry repeats."""
        limits = self.limits
        used = self.use_time or self.add_time
        waits = []
        for limit, since in ((limits.hard_add, self.add_time), (limits.hard_use, used)):
            if limit:
                if limit + since <= now:
                    return Look(True, False, None)
                waits.append(limit + since - now)
        soft = False
        for limit, since in ((limits.soft_add, self.add_time), (limits.soft_use, used)):
            if limit:
                due = limit + since <= now
                soft = soft or due
                waits.append(SOFT_REPEAT if due else limit + since - now)
        return Look(False, soft, min(waits, default=None))

    def point(self, templates: tuple[Template, ...]) -> None:
        """Demand these from now on (MIGRATE)."""
        self.templates = templates
        self.info = replace(self.info, templates=templates)

    def snapshot(self) -> PolicyInfo:
        """This policy as a dump shows it."""
        return replace(self.info, index=self.index, current=Current(0, 0, self.add_time, self.use_time))


class HasMode(Protocol):
    """A state or a template."""

    @property
    def mode(self) -> int: ...


T = TypeVar("T", bound=HasMode)


def in_order(transforms: Sequence[T], policies: Sequence[Policy], family: int) -> Sequence[T]:
    """What `policies` demand together of a flow of `family`, as it is applied, the innermost first (SPD-23).

    It is the order of the policies and their templates; only where a sub policy is joined by a main one, IPv6 has
    transport mode innermost and tunnels outermost, whichever policy they are of: so the kernel does, for Mobile IPv6.
    """
    if len(policies) < 2 or family != AF_INET6:
        return transforms
    return sorted(transforms, key=_ipv6_class)


def _ipv6_class(transform: HasMode) -> int:
    if transform.mode == Mode.TRANSPORT:
        return 0
    return 1 if transform.mode in (Mode.ROUTEOPTIMIZATION, Mode.IN_TRIGGER) else 2


def whole_selector(selector: Selector) -> Selector:
    """With both addresses at full length: an omitted one is the any address."""
    wild = any_address(selector.family)
    if len(selector.saddr) == len(wild) == len(selector.daddr):
        return selector
    return replace(selector, saddr=selector.saddr.ljust(len(wild), b"\0"), daddr=selector.daddr.ljust(len(wild), b"\0"))


def _settled(info: PolicyInfo) -> PolicyInfo:
    """What the kernel stores of what it was given: the mark is masked (SPD-07), share is forgotten (2.7)."""
    return replace(
        info,
        selector=whole_selector(info.selector),
        templates=tuple(map(_whole_template, info.templates)),
        mark=Mark(info.mark.value & info.mark.mask, info.mark.mask),
        share=0,
    )


def _whole_template(template: Template) -> Template:
    """An omitted source is the any address of the template's family."""
    wild = any_address(template.family)
    return template if len(template.src) == len(wild) else replace(template, src=wild)


class PolicyBin:
    """The policies of one (type, direction, if_id, family)."""

    __slots__ = ("_bits", "_groups")

    def __init__(self, family: int) -> None:
        self._bits = 32 if family == AF_INET else 128
        self._groups: dict[tuple[int, int], dict[tuple[int, int], list[Policy]]] = {}
        # (source mask, destination mask) -> (source prefix, destination prefix) -> policies by rank

    def __bool__(self) -> bool:
        return bool(self._groups)

    def insert(self, policy: Policy) -> None:
        masks, prefixes = self._place(policy.selector)
        insort(self._groups.setdefault(masks, {}).setdefault(prefixes, []), policy, key=_rank)

    def remove(self, policy: Policy) -> None:
        masks, prefixes = self._place(policy.selector)
        group = self._groups[masks]
        policies = group[prefixes]
        del policies[bisect_left(policies, policy.rank, key=_rank)]
        if not policies:
            del group[prefixes]
            if not group:
                del self._groups[masks]

    def find(self, flow: Flow, mark: int, ifindex: int) -> Policy | None:
        """The policy of lowest rank that matches."""
        best: Policy | None = None
        saddr = int.from_bytes(flow.saddr, "big")
        daddr = int.from_bytes(flow.daddr, "big")
        for (smask, dmask), group in self._groups.items():
            for policy in group.get((saddr & smask, daddr & dmask), ()):
                if best is not None and policy.rank > best.rank:
                    break
                if policy.matches(flow, mark, ifindex):
                    best = policy
                    break
        return best

    def ranked(self) -> list[Policy]:
        """All of them, best first."""
        policies = (policy for group in self._groups.values() for same in group.values() for policy in same)
        return sorted(policies, key=_rank)

    def _place(self, selector: Selector) -> tuple[tuple[int, int], tuple[int, int]]:
        bits = self._bits
        return (
            (prefix_mask(selector.prefixlen_s, bits), prefix_mask(selector.prefixlen_d, bits)),
            (
                prefix_of(selector.saddr, selector.prefixlen_s, bits),
                prefix_of(selector.daddr, selector.prefixlen_d, bits),
            ),
        )


def _rank(policy: Policy) -> Rank:
    return policy.rank
