"""Workers change hands: what `xfrmi daemon --replace` (handover.py) is for a daemon that has some, or is to have some.

Nothing of a worker is handed to another worker. Those that are there stop, all at once, and tell their parent how far
they have come; for the moment of the hand-over all numbers are in its tables, as in a daemon without workers. They have
been told that it is to be (`brace`), have told all they had counted by then, and look only at states that packets have
used since. A successor that is to have workers has forked them before the packets are held, from the tables as it was
told them first. They look at no packet, but take in what becomes of the tables, and then wait for a word: that comes
behind the last of it, and nobody waits for them to say that they have that.

    sequence numbers, windows   where the worker stopped; the successor's marks begin there
    IVs                         of a range that nobody has had: the old one's parent keeps the first IV of the next, and
                                the successor's workers get their ranges from there on
    packets under way           in sockets and queues, which keep their places (worker_homes.py, worker_queues.py);
                                what workers had handed on to worker 0 has been sent before that stops

If it comes to nothing the workers are told to go on, with what they had.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from xfrmi.daemon import worker_channel as channel
from xfrmi.daemon.handover_sockets import OPENER
from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.daemon.worker_homes import Homes
    from xfrmi.daemon.worker_processes import Processes
    from xfrmi.daemon.worker_queues import Queues

IV_RANGE = 1 << 48
IVS = 1 << 64
"""There are 65536 ranges for one key."""


class Hands:
    """Of one daemon's workers."""

    def __init__(self, engine: Engine, homes: Homes, processes: Processes, queues: Queues) -> None:
        self._engine = engine
        self._homes = homes
        self._processes = processes
        self._queues = queues
        self._strays: list[tuple[bytes, bytes]] = []

    # Here they are given away ----------------------------------------------------------------------------------------

    def brace(self) -> None:
        """`hold` is to follow: have every worker tell all it has counted, and note what it is to tell then."""
        self._processes.send_all(channel.Brace())
        self._processes.refresh()

    def hold(self) -> float:
        """Have every worker stop, so that the tables here are what there is. Returns since when one may have stopped,
        monotonic seconds. XfrmError EOVERFLOW, EAGAIN, and then `go_on` is due."""
        if any(state.iv_counter + IV_RANGE > IVS for state in self._engine.sad.dump()):
            raise XfrmError(errno.EOVERFLOW, detail="a key has been in too many hands: rekey, then try again")
        held_since = time.monotonic()
        if not self._processes.hold():
            raise XfrmError(errno.EAGAIN, detail="a worker is being replaced: try again")
        return held_since

    def go_on(self) -> None:
        self._processes.send_all(channel.GoOn())

    def end(self) -> None:
        """It is somebody else who goes on."""
        self._processes.end()

    # Here they are given ---------------------------------------------------------------------------------------------

    def adopt_port(self, family: int, port: int, reader: int, fd: int) -> None:
        """A socket of the other process, as Homes.adopt_port."""
        worker = self._homes.adopt_port(family, port, reader, fd)
        self._processes.send(worker, channel.PortOpened(family, port), (fd,))

    def caught_up(self) -> None:
        """Have every worker take in what has changed since it was forked; the next is told by `ready`."""
        self._processes.settle()
        self._processes.gather()

    def ready(self) -> None:
        """All has been given and told, so that `begin` can follow at once. XfrmError."""
        for family, port, worker, fd, strays in self._homes.complete_ports():
            self._processes.send(worker, channel.PortOpened(family, port), (fd,))
            self._strays += strays
        self._processes.send_all(channel.Learned(tuple(self._engine.router.learned.items())))
        self._processes.say()

    def begin(self) -> None:
        """And all is ours."""
        self.go_on()
        if self._strays:
            self._processes.send(OPENER, channel.Strays(tuple(self._strays)))
            self._strays.clear()
        self._homes.begin()
        self._queues.begin()
