"""Migration in netlink: MIGRATE, request and notification (kernel-behaviour 3.8, 7.2; RFC 4555 needs it).

As in xfrm_sa_msg: `encode_...` gives a body, `decode_...` takes a message. A request names a policy as DELPOLICY does,
and in one XFRMA_MIGRATE all the moves; a notification has an XFRMA_MIGRATE for each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EINVAL
from struct import Struct
from typing import Final

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import Attrs, Message, all_attrs, attr
from xfrmi.wire.xfrm_alg import encap_attr, get_encap
from xfrmi.wire.xfrm_attr import SIZES, Xfrma, message_attrs, request_attrs
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_ESP, Dir, Mode, PolicyType
from xfrmi.wire.xfrm_policy_msg import POLICY_ID, get_type, policy_id_struct, type_attr
from xfrmi.wire.xfrm_struct import Fields, address, get_number, if_id_attr, selector_of, unfit
from xfrmi.wire.xfrm_types import Encap, PolicyId, Selector

_MOVE: Final = Struct("=16s16s16s16sBBxxIHH")
"""xfrm_user_migrate: old daddr, old saddr, new daddr, new saddr, proto, mode, reqid, old family, new family."""
_KM_ADDRESS: Final = Struct("=16s16s4xH2x")
"""xfrm_user_kmaddress: local, remote, family."""


@dataclass(frozen=True, slots=True)
class Move:
    """The states and templates between two hosts, and where these hosts are now."""

    old_src: bytes
    old_dst: bytes
    new_src: bytes
    new_dst: bytes
    proto: int = IPPROTO_ESP
    mode: int = Mode.TUNNEL
    reqid: int = 0
    """0: whatever theirs is."""
    old_family: int = AF_INET
    new_family: int = AF_INET


@dataclass(frozen=True, slots=True)
class KmAddress:
    """Where the key managers are to talk from now on: handed on to whoever listens."""

    local: bytes
    remote: bytes
    family: int = AF_INET


@dataclass(frozen=True, slots=True)
class Migration:
    """The policy for `selector` in direction `dir`, and what moves."""

    selector: Selector
    dir: int = Dir.OUT
    moves: tuple[Move, ...] = ()
    type: int = PolicyType.MAIN
    if_id: int = 0
    """0: states of any if_id (a policy has one, as ever)."""
    encap: Encap | None = None
    """UDP encapsulation of the states from now on; None: as before."""
    km_address: KmAddress | None = None


def encode_migration(migration: Migration) -> bytes:
    """A request."""
    try:
        moves = b"".join(map(_move_struct, migration.moves))
        return _head(migration) + attr(Xfrma.MIGRATE, moves) + if_id_attr(migration.if_id)
    except (struct.error, OverflowError):
        raise unfit(migration) from None


def decode_migration(message: Message) -> Migration:
    attrs = request_attrs(message)
    if (moves := attrs.get(Xfrma.MIGRATE)) is None:
        raise XfrmError(EINVAL, "Missing required MIGRATE attribute")
    whole = len(moves) // _MOVE.size * _MOVE.size
    return _migration_of(message, attrs, _MOVE.iter_unpack(moves[:whole]))


def encode_migration_notice(migration: Migration) -> bytes:
    return _head(migration) + b"".join(attr(Xfrma.MIGRATE, _move_struct(move)) for move in migration.moves)


def decode_migration_notice(message: Message) -> Migration:
    attrs = message_attrs(message)
    moves = all_attrs(message.body, SIZES[message.type], Xfrma.MIGRATE)
    return _migration_of(message, attrs, map(_MOVE.unpack_from, moves))


def _head(migration: Migration) -> bytes:
    km_address, encap = migration.km_address, migration.encap
    named = policy_id_struct(PolicyId(migration.selector, migration.dir))
    if km_address is not None:
        told = _KM_ADDRESS.pack(km_address.local, km_address.remote, km_address.family)
        named += attr(Xfrma.KMADDRESS, told)
    return named + (encap_attr(encap) if encap is not None else b"") + type_attr(migration.type)


def _move_struct(move: Move) -> bytes:
    return _MOVE.pack(
        move.old_dst, move.old_src, move.new_dst, move.new_src,
        move.proto, move.mode, move.reqid, move.old_family, move.new_family,
    )  # fmt: skip


def _migration_of(message: Message, attrs: Attrs, moves: Iterable[Fields]) -> Migration:
    wire = POLICY_ID.unpack_from(message.body)
    found = tuple(map(_move_of, moves))
    return Migration(
        selector_of(wire[:9]), wire[10], found, get_type(attrs), get_number(attrs, Xfrma.IF_ID),
        get_encap(attrs, found[0].new_family if found else AF_INET), _km_address_of(attrs),
    )  # fmt: skip


def _move_of(wire: Fields) -> Move:
    old_dst, old_src, new_dst, new_src, proto, mode, reqid, old_family, new_family = wire
    return Move(
        address(old_src, old_family), address(old_dst, old_family),
        address(new_src, new_family), address(new_dst, new_family), proto, mode, reqid, old_family, new_family,
    )  # fmt: skip


def _km_address_of(attrs: Attrs) -> KmAddress | None:
    if (value := attrs.get(Xfrma.KMADDRESS)) is None:
        return None
    local, remote, family = _KM_ADDRESS.unpack_from(value)
    return KmAddress(address(local, family), address(remote, family), family)
