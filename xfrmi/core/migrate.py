"""MIGRATE: the hosts of a tunnel have other addresses now (kernel-behaviour 3.8; RFC 4555 calls it MOBIKE).

    1  check    the moves: how many, where to, none of them twice
    2  find     the policy, as a flow of the selector's addresses would find it: an any-port one, unmarked
    3  clone    for each move the newest state that fits it, with the new addresses. SPI, keys, limits, counters and
                replay state are the old one's, and its IVs count on from there: no nonce comes twice
    4  point    the templates of the policy to the new addresses
    5  remove   the old states, without a word; announce the whole

Wholly or not at all: a step that fails takes back what the earlier ones did.
"""

from __future__ import annotations

import errno
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.core.events import Migrated
from xfrmi.core.spd_check import check_direction, check_type
from xfrmi.core.state import State
from xfrmi.errors import XfrmError
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, XFRM_MAX_DEPTH, Mode
from xfrmi.wire.xfrm_types import Encap, Selector, Template

if TYPE_CHECKING:
    from xfrmi.core.events import EventSink
    from xfrmi.core.policy import Policy
    from xfrmi.core.sad import Sad
    from xfrmi.core.spd import Spd
    from xfrmi.wire.xfrm_migrate_msg import Migration, Move

_FAMILIES = (AF_INET, AF_INET6)
_WITH_ADDRESSES = (Mode.TUNNEL, Mode.BEET)
"""Modes whose templates name the hosts."""


def migrate(sad: Sad, spd: Spd, migration: Migration, now: float, emit: EventSink) -> list[State]:
    """Carry out `migration`; the states that stand for the old ones now.

    Raises XfrmError: EINVAL for what is no migration, EAFNOSUPPORT for a selector without family, ENOENT without a
    policy; ENODATA where a state cannot live at its new address, or no template of the policy says what moves.
    """
    check_type(migration.type)
    _check(migration)
    policy = _find_policy(spd, migration)
    olds, news = _clone_states(sad, migration, now)
    try:
        templates = _moved_templates(policy, migration.moves)
    except XfrmError:
        _remove(sad, news)
        raise
    spd.point(policy, templates)
    _remove(sad, olds)
    emit(Migrated(migration, tuple((old.info, new.info) for old, new in zip(olds, news, strict=True))))
    return news


# 1 check


def _check(migration: Migration) -> None:
    moves = migration.moves
    if not 0 < len(moves) <= XFRM_MAX_DEPTH:
        raise _invalid(f"Invalid number of SAs to migrate, must be 0 < num <= XFRM_MAX_DEPTH ({XFRM_MAX_DEPTH})")
    for at, move in enumerate(moves):
        if move.new_family in _FAMILIES and not (any(move.new_src) and any(move.new_dst)):
            raise _invalid("Addresses in the MIGRATE attribute's list cannot be null")
        if any(_from(move) == _from(other) for other in itertools.islice(moves, at + 1, None)):
            raise _invalid("Entries in the MIGRATE attribute's list must be unique")
    check_direction(migration.dir)


def _from(move: Move) -> tuple[object, ...]:
    return move.old_dst, move.old_src, move.proto, move.mode, move.reqid, move.old_family


def _invalid(extack: str, detail: str = "") -> XfrmError:
    return XfrmError(errno.EINVAL, extack, detail)


# 2 find


def _find_policy(spd: Spd, migration: Migration) -> Policy:
    selector = migration.selector
    if selector.family not in _FAMILIES:
        raise XfrmError(errno.EAFNOSUPPORT, "Target policy not found", f"the selector is of family {selector.family}")
    ifindex = selector.ifindex if selector.proto else 0
    policy = spd.lookup(migration.dir, migration.if_id, _flow(selector), 0, ifindex, migration.type)
    if policy is None:
        detail = f"no policy of this direction, type and if_id {migration.if_id:#x} is for these addresses"
        raise XfrmError(errno.ENOENT, "Target policy not found", detail)
    return policy


def _flow(selector: Selector) -> Flow:
    sport, dport = (selector.sport, selector.dport) if selector.proto else (0, 0)
    return Flow(selector.family, selector.saddr, selector.daddr, selector.proto, sport, dport, bool(selector.proto))


# 3 clone


def _clone_states(sad: Sad, migration: Migration, now: float) -> tuple[list[State], list[State]]:
    """The states that move, and their clones, which are in the SAD already."""
    olds: list[State] = []
    news: list[State] = []
    for move in migration.moves:
        old = next((state for state in sad.dump() if _moves(state, move, migration.if_id)), None)
        if old is None:
            continue
        try:
            new = _clone(old, move, migration.encap, now)
            sad.place(new, now, beside=old if move.new_dst == old.dst else None)
        except XfrmError as refused:
            _remove(sad, news)
            detail = f"the SA with spi {old.spi:#010x} cannot move: {refused}"
            raise XfrmError(errno.ENODATA, "", detail) from None
        olds.append(old)
        news.append(new)
    return olds, news


def _moves(state: State, move: Move, if_id: int) -> bool:
    return (
        state.src == move.old_src
        and state.dst == move.old_dst
        and state.mode == move.mode
        and state.proto == move.proto
        and (not move.reqid or state.reqid == move.reqid)
        and (not if_id or state.if_id == if_id)
    )


def _clone(old: State, move: Move, encap: Encap | None, now: float) -> State:
    info = old.snapshot()
    new = State(
        replace(info, src=move.new_src, dst=move.new_dst, family=move.new_family, encap=encap or info.encap), now=now
    )
    new.lastused = old.lastused
    new.take_over_ivs(old)
    return new


# 4 point


def _moved_templates(policy: Policy, moves: tuple[Move, ...]) -> tuple[Template, ...]:
    """The templates of `policy`, each taken along by one move after the other. Raises XfrmError ENODATA."""
    matches = 0
    templates = []
    for template in policy.templates:
        for move in moves:
            if _says(template, move):
                matches += 1
                if template.mode in _WITH_ADDRESSES:
                    if move.new_family not in _FAMILIES:
                        raise _invalid("", f"nobody has an address of family {move.new_family}")
                    template = replace(template, src=move.new_src, dst=move.new_dst, family=move.new_family)
        templates.append(template)
    if not matches:
        raise XfrmError(errno.ENODATA, "", f"no template of the policy with index {policy.index} says what moves")
    return tuple(templates)


def _says(template: Template, move: Move) -> bool:
    if template.mode != move.mode or template.proto != move.proto or move.reqid not in (0, template.reqid):
        return False
    if template.mode in _WITH_ADDRESSES:
        return template.dst == move.old_dst and template.src == move.old_src
    return template.mode == Mode.TRANSPORT


# 5 remove


def _remove(sad: Sad, states: list[State]) -> None:
    for state in states:
        sad.remove(state)
