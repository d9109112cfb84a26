"""Events as plain dicts, one for each message: for `monitor --json`, a line each. ip(8) has no JSON for them.

event   new | updated | deleted | expired | flushed | acquire | mapping | aevent | defaults | migrate
state   (state_json) with new, updated, deleted, expired;  policy  (policy_json) likewise
hard    with expired: whether it is gone;  proto, ptype  with flushed
acquire: src dst proto spi seq sel{} policy{};  mapping: id{} reqid old{addr,port} new{addr,port}
aevent: id{} src reqid flags[];  defaults: in fwd out
migrate: sel{} dir ptype moves[{old{src,dst} new{src,dst} proto mode reqid}] encap{} km{local,remote}
"""

from __future__ import annotations

from typing import Any

from xfrmi.formats import words
from xfrmi.formats.json_xfrm import Json, defaults_json, encap_json, policy_json, selector_json, state_json
from xfrmi.formats.print_monitor import AEVENT_CAUSES
from xfrmi.formats.print_parts import address
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_event_msg import Acquire, Aevent, Mapping, StateExpiry
from xfrmi.wire.xfrm_info_msg import Defaults
from xfrmi.wire.xfrm_migrate_msg import Migration, Move
from xfrmi.wire.xfrm_policy_msg import PolicyExpiry
from xfrmi.wire.xfrm_types import PolicyInfo, StateId, StateInfo

_EVENTS = {
    XfrmMsg.NEWSA: "new",
    XfrmMsg.NEWPOLICY: "new",
    XfrmMsg.UPDSA: "updated",
    XfrmMsg.UPDPOLICY: "updated",
    XfrmMsg.DELSA: "deleted",
    XfrmMsg.DELPOLICY: "deleted",
}


def notice_json(kind: int, value: object, show: Show = PLAIN) -> Json:
    """As print_notice: `value` is what a message of type `kind` says. TypeError for what is no event."""
    match value:
        case StateInfo():
            return {"event": _EVENTS[XfrmMsg(kind)], "state": state_json(value, show)}
        case PolicyInfo():
            return {"event": _EVENTS[XfrmMsg(kind)], "policy": policy_json(value, show)}
        case StateExpiry(info, hard):
            return {"event": "expired", "state": state_json(info, show), "hard": hard}
        case PolicyExpiry(policy, hard):
            return {"event": "expired", "policy": policy_json(policy, show), "hard": hard}
        case Acquire():
            return {"event": "acquire", **_acquire(value, show)}
        case Mapping():
            return {"event": "mapping", **_mapping(value)}
        case Aevent():
            return {"event": "aevent", **_aevent(value)}
        case Defaults():
            return {"event": "defaults", **defaults_json(value)}
        case Migration():
            return {"event": "migrate", **_migration(value, show)}
        case int() if kind == XfrmMsg.FLUSHSA:
            return {"event": "flushed", "proto": words.word(words.XFRM_PROTOS, value)}
        case int() if kind == XfrmMsg.FLUSHPOLICY:
            return {"event": "flushed", "ptype": words.word(words.POLICY_TYPES, value)}
    raise TypeError(f"a message of type {kind:#x} with {type(value).__name__} is no event")


def _acquire(acquire: Acquire, show: Show) -> Json:
    # The outer addresses may be of another family than the flow.
    family = acquire.policy.templates[0].family if acquire.policy.templates else acquire.selector.family
    return {
        "src": address(family, acquire.src),
        "dst": address(family, acquire.dst),
        "proto": words.word(words.XFRM_PROTOS, acquire.proto),
        "spi": f"0x{acquire.spi:08x}",
        "seq": acquire.seq,
        "sel": selector_json(acquire.selector, acquire.policy.selector.family, show),
        "policy": policy_json(acquire.policy, show),
    }


def _mapping(mapping: Mapping) -> Json:
    family = mapping.id.family
    return {
        "id": _state_id(mapping.id),
        "reqid": mapping.reqid,
        "old": {"addr": address(family, mapping.old_src), "port": mapping.old_sport},
        "new": {"addr": address(family, mapping.new_src), "port": mapping.new_sport},
    }


def _aevent(event: Aevent) -> Json:
    return {
        "id": _state_id(event.id),
        "src": address(event.id.family, event.src),
        "reqid": event.reqid,
        "flags": [name for bit, name in AEVENT_CAUSES.items() if event.flags & bit],
    }


def _migration(migration: Migration, show: Show) -> Json:
    result: Json = {
        "sel": selector_json(migration.selector, migration.selector.family, show),
        "dir": words.word(words.DIRS, migration.dir),
        "ptype": words.word(words.POLICY_TYPES, migration.type),
        "moves": list(map(_move, migration.moves)),
    }
    if migration.encap is not None:
        result["encap"] = encap_json(migration.encap, migration.moves[0].new_family if migration.moves else 0)
    if (km := migration.km_address) is not None:
        result["km"] = {"local": address(km.family, km.local), "remote": address(km.family, km.remote)}
    return result


def _move(move: Move) -> Json:
    return {
        "old": {"src": address(move.old_family, move.old_src), "dst": address(move.old_family, move.old_dst)},
        "new": {"src": address(move.new_family, move.new_src), "dst": address(move.new_family, move.new_dst)},
        "proto": words.word(words.XFRM_PROTOS, move.proto),
        "mode": words.word(words.MODES, move.mode),
        "reqid": move.reqid,
    }


def _state_id(state: StateId) -> dict[str, Any]:
    return {
        "dst": address(state.family, state.dst),
        "proto": words.word(words.XFRM_PROTOS, state.proto),
        "spi": f"0x{state.spi:08x}",
    }
