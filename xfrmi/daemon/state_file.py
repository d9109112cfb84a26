"""Which states there were, in a file that outlives a daemon that is killed; and its successor tells who wants to know.

Keys are gone with the daemon, by design, and so are states. A kernel has no such case, and so an IKE daemon would go on
believing in its SAs until DPD or the next rekeying. What it does understand is that an SA has reached a hard limit: it
deletes it, tells its peer and negotiates a new one. So that is what the next daemon tells it, as soon as it listens.

The file has a record of fixed length for each state: its id and what else an EXPIRE message names, no key. A record is
written before its request is answered, and made blank when the state has gone.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from xfrmi.core.events import StateAdded, StateDeleted, StateExpired, StatesFlushed, StateUpdated
from xfrmi.core.sad_check import IPSEC_PROTO_ANY
from xfrmi.daemon.notices import notice
from xfrmi.wire import netlink
from xfrmi.wire.xfrm_attr import Group
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6
from xfrmi.wire.xfrm_types import Mark, StateInfo

if TYPE_CHECKING:
    from xfrmi.core.events import Event
    from xfrmi.daemon.events import Listener

NAME = "states"
GRACE = 60.0
"""Seconds in which it is news. Who listened to the daemon before is back within one."""

_RECORD = struct.Struct("=BBHIIIII16s16s8x")
"""Protocol (0: blank), mode, family, SPI, reqid, if_id, mark and its mask, destination, source."""
_BLANK = bytes(_RECORD.size)
_ADDRESS_SIZE = {AF_INET: 4, AF_INET6: 16}

_Id = tuple[bytes, int, int, int]
"""Destination, SPI, protocol, mark: what no two states share."""


class StateFile:
    def __init__(self, directory: str, log: Callable[[str], None], inherited: bool = False) -> None:
        """Read what an earlier daemon has left in its runtime directory, and go on with the file. `inherited`: that
        daemon still has it, see `resume`."""
        self._log = log
        self._path = f"{directory}/{NAME}"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._lost: dict[_Id, StateInfo] = {}
        self._places: dict[_Id, int] = {}
        """Of records, counted in records; those of lost states too, until somebody has been told."""
        self._free: list[int] = []
        self._end = 0
        self._news_until = time.monotonic() + GRACE
        if not inherited:
            self._read()

    def resume(self, states: Iterable[StateInfo], lost: Iterable[StateInfo], lost_until: float) -> None:
        """Go on with the file of a daemon that has handed over: these are the states, and these nobody has been told of
        until now."""
        os.ftruncate(self._fd, 0)
        self._news_until = lost_until
        self._lost = {_id(info): info for info in lost}
        known = {_id(info): info for info in (*self._lost.values(), *states)}
        self._places = {key: place for place, key in enumerate(known)}
        self._free, self._end = [], len(known)
        self._write(0, b"".join(map(_record, known.values())))

    @property
    def lost(self) -> tuple[tuple[StateInfo, ...], float]:
        """States of an earlier daemon that nobody has been told of, and until when that is news, monotonic seconds."""
        return tuple(self._lost.values()), self._news_until

    def note(self, event: Event) -> None:
        """Keep the file up to date."""
        match event:
            case StateAdded(info) | StateUpdated(info):
                self._lost.pop(_id(info), None)
                self._keep(info)
            case StateDeleted(info) | StateExpired(info, True):
                self._blank(_id(info))
            case StatesFlushed(proto):
                everything = proto in (0, IPSEC_PROTO_ANY)
                for key in [key for key in self._places if everything or key[2] == proto]:
                    self._blank(key)

    def tell(self, listener: Listener) -> None:
        """Tell a new listener what has been lost, if that is still news."""
        if not self._lost or not listener.groups & Group.EXPIRE.bit:
            return
        if time.monotonic() > self._news_until:
            self._lost.clear()
            return
        self._log(f"{len(self._lost)} states ended with an earlier daemon; who listens is told that they have expired")
        for key, info in self._lost.items():
            listener.put(notice(StateExpired(info, True), netlink.NO_REQUEST), Group.EXPIRE)
            self._blank(key)

    def close(self, forget: bool) -> None:
        """The daemon ends. `forget`: nobody is left who should be told."""
        if forget or not self._places:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        os.close(self._fd)

    def _read(self) -> None:
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        for record in _RECORD.iter_unpack(data[: len(data) - len(data) % _RECORD.size]):
            proto, mode, family, spi, reqid, if_id, mark, mask, dst, src = record
            size = _ADDRESS_SIZE.get(family, 0)
            if proto and size:
                info = StateInfo(
                    src[:size], dst[:size], spi, proto, mode, reqid, if_id, family, mark=Mark(mark, mask)
                )  # fmt: skip
                self._lost[_id(info)] = info
        os.ftruncate(self._fd, 0)
        for info in self._lost.values():
            self._keep(info)

    def _keep(self, info: StateInfo) -> None:
        key = _id(info)
        place = self._places.get(key)
        if place is None:
            place = self._free.pop() if self._free else self._end
            self._places[key] = place
            self._end = max(self._end, place + 1)
        self._write(place, _record(info))

    def _blank(self, key: _Id) -> None:
        place = self._places.pop(key, None)
        if place is not None:
            self._free.append(place)
            self._write(place, _BLANK)

    def _write(self, place: int, record: bytes) -> None:
        try:
            os.pwrite(self._fd, record, place * _RECORD.size)
        except OSError as error:  # no room: the state lives all the same
            self._log(f"{self._path}: {error.strerror}")


def _record(info: StateInfo) -> bytes:
    return _RECORD.pack(
        info.proto, info.mode, info.family, info.spi, info.reqid, info.if_id, info.mark.value, info.mark.mask,
        info.dst, info.src,
    )  # fmt: skip


def _id(info: StateInfo) -> _Id:
    return info.dst, info.spi, info.proto, info.mark.value
