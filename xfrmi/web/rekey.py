"""New keys for a tunnel while packets flow: what an IKE daemon does, by hand, as in examples/07-rekey.

Make before break: who receives knows a new key before anybody uses it, and the old states go when nothing that they
sealed is under way any more.
"""

from __future__ import annotations

import errno
import secrets
from dataclasses import dataclass, replace

from xfrmi.client import Client
from xfrmi.core.saved import unnumbered
from xfrmi.errors import XfrmError
from xfrmi.teach.scratch import with_new_keys
from xfrmi.teach.tables import Tables
from xfrmi.web.held import HeldLab
from xfrmi.wire.xfrm_types import NO_STATS, UNUSED, StateInfo

OLD_STATES_STAY = 2.0
"""Seconds."""
LOWEST_SPI = 0x100


@dataclass(frozen=True)
class Pair:
    """One direction of a tunnel: the same state at both ends (behind a NAT, with other addresses)."""

    sender: str
    sending: StateInfo
    receiver: str
    receiving: StateInfo


def pairs(lab: HeldLab, one: tuple[str, int], other: tuple[str, int]) -> list[Pair]:
    """The newest for each direction between two (node, if_id). For the worker. XfrmError."""
    ends = [(lab.nodes[name], _states(lab, name, if_id)) for name, if_id in (one, other)]
    found = []
    for (sender, sent), (receiver, received) in (ends, ends[::-1]):
        by_spi = {info.spi: info for info in received if receiver.is_local(info.dst)}
        for info in sent:  # newest first
            if info.spi in by_spi and not sender.is_local(info.dst):
                found.append(Pair(sender.name, info, receiver.name, by_spi[info.spi]))
                break
    return found


def rekey(lab: HeldLab, one: tuple[str, int], other: tuple[str, int]) -> list[tuple[Pair, Pair]]:
    """Bring new states into use; (old, new) for each direction. For the worker. XfrmError ESRCH without states."""
    old = pairs(lab, one, other)
    if not old:
        raise XfrmError(
            errno.ESRCH, detail=f"{one[0]} and {other[0]} share no state with if_id {one[1]:#x}: nothing to rekey"
        )
    taken = {info.spi for name in (one[0], other[0]) for info in _client(lab, name).states()}
    new = [_renewed(pair, taken) for pair in old]
    for pair in new:
        _client(lab, pair.receiver).add_state(pair.receiving)
    for pair in new:
        _client(lab, pair.sender).add_state(pair.sending)
    return list(zip(old, new, strict=True))


def remove(lab: HeldLab, old: list[Pair]) -> None:
    """Those that were replaced: senders' first. What has gone already is gone. For the worker."""
    for name, info in [(pair.sender, pair.sending) for pair in old] + [(pair.receiver, pair.receiving) for pair in old]:
        try:
            _client(lab, name).delete_state(info)
        except XfrmError as error:
            if error.errno != errno.ESRCH:
                raise


def _states(lab: HeldLab, name: str, if_id: int) -> list[StateInfo]:
    return [info for info in _client(lab, name).states() if info.if_id == if_id and info.spi]


def _client(lab: HeldLab, name: str) -> Client:
    client = lab.nodes[name].client
    if client is None:
        raise XfrmError(errno.ESRCH, detail=f'node "{name}" has no daemon, and so no states')
    return client


def _renewed(pair: Pair, taken: set[int]) -> Pair:
    spi = pair.sending.spi
    while spi in taken:
        spi = LOWEST_SPI + secrets.randbelow(0xFFFF_FFFF - LOWEST_SPI)
    taken.add(spi)
    (keyed,) = with_new_keys(Tables((pair.sending,))).states

    def fresh(info: StateInfo) -> StateInfo:
        return replace(
            unnumbered(info), spi=spi, aead=keyed.aead, crypt=keyed.crypt, auth=keyed.auth, auth_trunc=keyed.auth_trunc,
            current=UNUSED, stats=NO_STATS, lastused=0, seq=0,
        )  # fmt: skip

    return Pair(pair.sender, fresh(pair.sending), pair.receiver, fresh(pair.receiving))
