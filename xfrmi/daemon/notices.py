"""One event of the core -> the netlink message that tells of it, and the multicast group it goes to (7.2, 7.5)."""

from __future__ import annotations

from xfrmi.core import events as core
from xfrmi.wire import xfrm_event_msg as event_msg
from xfrmi.wire import xfrm_info_msg as info_msg
from xfrmi.wire import xfrm_migrate_msg as migrate_msg
from xfrmi.wire import xfrm_policy_msg as policy_msg
from xfrmi.wire import xfrm_sa_msg as sa_msg
from xfrmi.wire.netlink import Message, message
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_types import PolicyInfo, StateId, StateInfo, Template

_GROUPS: dict[type, Group] = {
    core.StateAdded: Group.SA,
    core.StateUpdated: Group.SA,
    core.StateDeleted: Group.SA,
    core.StatesFlushed: Group.SA,
    core.StateExpired: Group.EXPIRE,
    core.StateReplayed: Group.AEVENTS,
    core.PolicyAdded: Group.POLICY,
    core.PolicyUpdated: Group.POLICY,
    core.PolicyDeleted: Group.POLICY,
    core.PoliciesFlushed: Group.POLICY,
    core.DefaultChanged: Group.POLICY,
    core.PolicyExpired: Group.EXPIRE,
    core.Acquire: Group.ACQUIRE,
    core.Mapping: Group.MAPPING,
    core.Migrated: Group.MIGRATE,
}

_WITHOUT_PORT = (core.Acquire, core.Mapping, core.DefaultChanged, core.Migrated)
"""NL-11: sequence number and port are 0 even where a request caused them..."""
_WITHOUT_SEQUENCE = (core.StateExpired, core.PolicyExpired, *_WITHOUT_PORT)
"""...and for these the sequence number is."""


def group_of(event: core.Event) -> Group:
    return _GROUPS[type(event)]


def notice(event: core.Event, cause: Message) -> bytes:
    """The notification. `cause` is the request at work, NO_REQUEST if time or traffic brought it about."""
    kind, body = _encode(event)
    seq = 0 if isinstance(event, _WITHOUT_SEQUENCE) else cause.seq
    pid = 0 if isinstance(event, _WITHOUT_PORT) else cause.pid
    return message(kind, 0, seq, pid, body)


def state_id(info: StateInfo) -> StateId:
    return StateId(info.dst, info.spi, info.proto, info.family, info.mark)


def aevent(info: StateInfo, flags: int, thresholds: tuple[int, int] = (0, 0)) -> event_msg.Aevent:
    """The replay counters and the current lifetime of a state, as NEWAE carries them. `thresholds` (packets, tenths of
    a second) are part of it where `flags` ask for them."""
    return event_msg.Aevent(
        state_id(info), info.src, info.reqid, flags, info.replay, info.replay_esn, info.current,
        thresholds[0] if flags & event_msg.AE_REPLAY_THRESH else None,
        thresholds[1] if flags & event_msg.AE_ETIMER_THRESH else None,
        if_id=info.if_id, pcpu=info.pcpu, dir=info.dir,
    )  # fmt: skip


def _encode(event: core.Event) -> tuple[XfrmMsg, bytes]:
    match event:
        case core.StateAdded(info):
            return XfrmMsg.NEWSA, sa_msg.encode_state(info, reply=True)
        case core.StateUpdated(info):
            return XfrmMsg.UPDSA, sa_msg.encode_state(info, reply=True)
        case core.StateDeleted(info):
            return XfrmMsg.DELSA, sa_msg.encode_state_deleted(info)
        case core.StateExpired(info, hard):
            return XfrmMsg.EXPIRE, event_msg.encode_state_expiry(event_msg.StateExpiry(info, hard), reply=True)
        case core.StateReplayed(info, cause):
            return XfrmMsg.NEWAE, event_msg.encode_aevent(aevent(info, cause), reply=True)
        case core.StatesFlushed(proto):
            return XfrmMsg.FLUSHSA, sa_msg.encode_flush_states(proto)
        case core.PolicyAdded(info):
            return XfrmMsg.NEWPOLICY, policy_msg.encode_policy(info)
        case core.PolicyUpdated(info):
            return XfrmMsg.UPDPOLICY, policy_msg.encode_policy(info)
        case core.PolicyDeleted(info, by_index):
            return XfrmMsg.DELPOLICY, policy_msg.encode_policy_deleted(info, by_index=by_index)
        case core.PolicyExpired(info, hard):
            return XfrmMsg.POLEXPIRE, policy_msg.encode_policy_expiry(policy_msg.PolicyExpiry(info, hard))
        case core.PoliciesFlushed(policy_type):
            return XfrmMsg.FLUSHPOLICY, policy_msg.encode_flush_policies(policy_type)
        case core.DefaultChanged(inbound, forward, outbound):
            defaults = info_msg.Defaults(inbound, forward, outbound)
            return XfrmMsg.GETDEFAULT, info_msg.encode_defaults(defaults)
        case core.Acquire(state, template, policy):
            return XfrmMsg.ACQUIRE, event_msg.encode_acquire(_acquire(state, template, policy))
        case core.Mapping(state, new_src, new_sport):
            return XfrmMsg.MAPPING, event_msg.encode_mapping(_mapping(state, new_src, new_sport))
        case core.Migrated(migration, _):
            return XfrmMsg.MIGRATE, migrate_msg.encode_migration_notice(migration)


def _acquire(state: StateInfo, template: Template, policy: PolicyInfo) -> event_msg.Acquire:
    return event_msg.Acquire(
        state.src, state.dst, state.selector, policy, state.seq, state.spi, state.proto,
        template.aalgos, template.ealgos, template.calgos, state.pcpu,
    )  # fmt: skip


def _mapping(state: StateInfo, new_src: bytes, new_sport: int) -> event_msg.Mapping:
    old_sport = state.encap.sport if state.encap is not None else 0
    return event_msg.Mapping(state_id(state), state.reqid, state.src, old_sport, new_src, new_sport)
