"""Handing over to another process: `xfrmi daemon --replace`, this side of it being the one that serves until then.

Theory of operation. The successor connects to the JSON socket like any client, and sends one end of a socket pair along
with its request. The kernel vouches for who made that: our user, in our network namespace (SO_PEERCRED, SIOCGSKNS).
Over it goes everything that the two have to tell each other (handover_format.py), in three rounds.

    successor                                    here
    "hand-over", format of its messages   ->     refused, if another; else
                                          <-     1  sockets, control sockets, lock, TUNs: the descriptors;
                                                    all states and policies. Packets pass, requests are answered
    has built a daemon around them,
    its workers are there: Prepared       ->
                                          <-     2  what has become of them meanwhile. Packets pass
    has taken that in, and waits for
    nothing but its turn: Prepared        ->     3  hold: from here on this process looks at no packet
                                          <-        what has become of them meanwhile, clients, the rest
    has taken that in: Prepared           ->     4  MAINPID= to systemd
                                          <-     Yours
    looks at packets                             ends, without closing anything that both have

What makes it safe:

 - Descriptors are shared, not moved. What arrives between 3 and `Yours` waits in the queues of the kernel, of TUNs and
   sockets, and is read by who goes on. No packet is read twice, as from two sockets, and none is lost.
 - An AEAD state must never count its IVs in two processes. The numbers are told in step 3, and everything from there
   to the decision is one callback of our loop: nothing here can seal meanwhile. There is one decision, and it is made
   here. Who has sent `Yours` never seals again, whatever happens: what else is readable in that turn of its loop is
   not read any more. Who has not received it never begins.
 - A successor that fails, hangs (PATIENCE) or talks nonsense before that has changed nothing: it holds copies of
   descriptors and does not clean up. This process goes on with the next packet, tables and clients as they were.

So the pause is step 3 to `Yours`: what has changed since step 2, and of what has not nothing is even looked at
(core/noting.py). That is what step 2 is for: it makes little of what has changed in the second before, and the
successor and its workers, which have just been forked, go once through all that they will have to do in the pause.

The successor gives up its capabilities before it takes over, as any daemon when it begins to serve. One that SIGHUP has
started (successor.py) has no more than this process has kept; what it cannot open anew it is given (LinkMonitor).

With workers, on either side, it is the same: worker_handover.py. Not handed over is what is found again by itself:
statistics of standing_queue.py, routes that the kernel was asked for.

Looked at and not taken: exec() in place, which keeps the pid, but has no way back when the new code does not start;
the replay windows jumping ahead instead of being told, which loses what is on the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xfrmi.core.saved import save_counters, save_rest
from xfrmi.daemon import handover_format as told
from xfrmi.daemon.handover_format import FORMAT, KEYS_AT_ONCE, MAX_MESSAGE, Message, in_batches
from xfrmi.daemon.handover_sockets import Given, all_but_udp, of_underlay, steered, udp_of_underlay
from xfrmi.daemon.handover_tables import TablesTold
from xfrmi.daemon.notify import notify
from xfrmi.daemon.session import peer_credentials
from xfrmi.dev.netns import netns_inode
from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.daemon.control import ControlSockets
    from xfrmi.daemon.data_path import DataPath
    from xfrmi.daemon.devices import Devices
    from xfrmi.daemon.hub import Hub
    from xfrmi.daemon.loop import Loop
    from xfrmi.daemon.policy_path import PolicyPath
    from xfrmi.daemon.shared_ports import SharedPorts
    from xfrmi.daemon.state_file import StateFile
    from xfrmi.daemon.workers import Workers
    from xfrmi.daemon.xfrm_device import XfrmDevice

PATIENCE = 1.0
"""Seconds that packets wait for a successor, at most, before this process goes on by itself."""
SILENCE = 60.0
"""Seconds in which a successor has taken nothing and said nothing, after which another may come in its stead. To build
a daemon of 100,000 states takes some of them."""
DEVICES_AT_ONCE = 256
SENDS_A_TURN = 4
"""Messages while packets pass: 64 states, some milliseconds."""
SIOCGSKNS = 0x894C

Told = tuple[Message, tuple[int, ...]]
"""And the descriptors that go along."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Of a daemon: with workers, or with a data path and a policy path of its own."""

    engine: Engine
    loop: Loop
    control: ControlSockets
    devices: Devices
    hub: Hub
    ports: SharedPorts
    state_file: StateFile
    data_path: DataPath | None
    policy_path: PolicyPath | None
    workers: Workers | None
    given: Given | None
    """Sockets that were another process's."""

    def sockets(self) -> Given:
        if self.workers is not None:
            return self.workers.homes.sockets
        assert self.data_path is not None
        return of_underlay(self.data_path.underlay, self.given)

    def udp_sockets(self) -> Iterator[tuple[told.Port, int]]:
        if self.workers is not None:
            for family, port, reader, fd in self.workers.homes.udp_sockets:
                yield told.Port(family, port, "", reader), fd
        elif self.data_path is not None:
            yield from udp_of_underlay(self.data_path.underlay, self.given)


class HandOver:
    """The JSON command, and the one successor at a time."""

    def __init__(self, parts: Parts, log: Callable[[str], None]) -> None:
        self._parts = parts
        self._log = log
        self._conversation: _Conversation | None = None
        self.done = False
        """Another process has it all. Leave, and touch nothing."""

    def command(self, request: Mapping[str, Any]) -> dict[str, object]:
        """XfrmError EINVAL, EPERM, EPROTONOSUPPORT, EBUSY."""
        if len(request["fds"]) != 1:
            raise XfrmError(errno.EINVAL, detail='"hand-over" comes with one end of a socket pair')
        if request.get("format") != FORMAT:
            raise XfrmError(
                errno.EPROTONOSUPPORT,
                detail=f"the running daemon (pid {os.getpid()}) is of another version and hands over in format "
                f"{FORMAT}, not {request.get('format')}: stop it and start the new one (interfaces and routes stay, "
                "keys do not)",
            )
        if self._conversation is not None and not self._conversation.abandoned():
            raise XfrmError(errno.EBUSY, detail="the running daemon is handing over to another process already")
        fd = os.dup(request["fds"][0])
        try:
            channel = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise XfrmError(errno.EINVAL, detail="this is no socket") from None
        try:
            pid = _vouched(channel)
        except XfrmError:
            channel.close()
            raise
        self._conversation = _Conversation(self._parts, channel, pid, self._log, self._ended)
        return {"pid": os.getpid()}

    def _ended(self, done: bool) -> None:
        self._conversation = None
        if done:
            self.done = True
            self._parts.loop.leave()


def _vouched(channel: socket.socket) -> int:
    """Who is at the other end, the process number. XfrmError EPERM if it is none that may have our keys."""
    if channel.family != socket.AF_UNIX:
        raise XfrmError(errno.EINVAL, detail="this is no end of a socket pair")
    credentials = peer_credentials(channel)
    if credentials.uid != os.geteuid():
        detail = f"uid {credentials.uid} cannot replace a daemon of uid {os.geteuid()}: start it as the same user"
        raise XfrmError(errno.EPERM, detail=detail)
    try:
        fd = fcntl.ioctl(channel.fileno(), SIOCGSKNS)
    except OSError as error:
        raise XfrmError(error.errno or errno.EPERM, detail="cannot tell the successor's network namespace") from None
    try:
        if os.fstat(fd).st_ino != netns_inode():
            raise XfrmError(errno.EPERM, detail="the successor is in another network namespace")
    finally:
        os.close(fd)
    return credentials.pid


class _Conversation:
    """From the request to the end, whichever it is."""

    def __init__(
        self, parts: Parts, channel: socket.socket, pid: int, log: Callable[[str], None], ended: Callable[[bool], None]
    ) -> None:
        self._parts = parts
        self._channel = channel
        self._pid = pid
        self._log = log
        self._ended = ended
        self._buffer = bytearray(MAX_MESSAGE)
        self._last_key = 0
        self._devices: dict[Interface, told.DeviceIn] = {}
        """What was told of each."""
        self._tables = TablesTold(parts.engine)
        self._rounds = iter((self._all(), self._again()))
        self._to_tell: Iterator[Told] | None = next(self._rounds)
        self._next: Told | None = None
        self._moved = time.monotonic()
        """When the other has taken something last."""
        channel.setblocking(False)
        parts.loop.watch(channel.fileno(), self._heard)
        parts.loop.want_write(channel.fileno(), self._tell)
        log(f"pid {pid} asks to replace this daemon")

    def abandoned(self) -> bool:
        """To be asked when another would like to be told: has this one fallen silent? Then it is hung up on."""
        if time.monotonic() - self._moved < SILENCE:
            return False
        self._give_up(f"it has been silent for {SILENCE:.0f} s, and another asks")
        return True

    # 1 and 2: packets pass --------------------------------------------------------------------------------------------

    def _all(self) -> Iterator[Told]:
        parts = self._parts
        yield told.Lock(), (parts.control.lock,)
        for name, fd in parts.control.doors:
            yield told.Door(name), (fd,)
        yield from all_but_udp(parts.sockets())
        yield from self._changes()
        yield told.Prepared(), ()

    def _again(self) -> Iterator[Told]:
        if self._parts.workers is not None:
            self._parts.workers.hands.brace()
        yield from self._changes()
        yield told.Prepared(), ()

    def _changes(self) -> Iterator[Told]:
        """Since the last time."""
        yield from self._devices_changed()
        yield steered(self._parts.sockets()), ()
        for message in self._tables.everything():
            yield message, ()

    def _tell(self) -> None:
        """As much as is a turn's work."""
        try:
            for _ in range(SENDS_A_TURN):
                if self._next is None and self._to_tell is not None:
                    self._next = next(self._to_tell, None)
                if self._next is None:
                    self._to_tell = None
                    self._parts.loop.want_write(self._channel.fileno(), None)
                    return
                told.send(self._channel, *self._next)
                self._next = None
                self._moved = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            self._give_up("it has ended")
        except Exception:
            self._give_up("this daemon failed at it")
            raise

    def _devices_changed(self) -> Iterator[Told]:
        devices = {device.interface: device for device in self._parts.devices}
        gone = []
        for interface, before in list(self._devices.items()):
            if interface not in devices or before != _described(before.key, devices[interface]):
                gone.append(before.key)
                del self._devices[interface]
        for keys in in_batches(gone, KEYS_AT_ONCE):
            yield told.DevicesOut(keys), ()
        for interface, device in devices.items():
            if interface not in self._devices:
                self._last_key += 1
                described = self._devices[interface] = _described(self._last_key, device)
                yield described, tuple(tun.fileno() for tun in device.queues)

    def _heard(self) -> None:
        try:
            message = told.receive_alone(self._channel, self._buffer)
        except BlockingIOError:
            return
        except (OSError, EOFError, XfrmError):
            self._give_up("it has ended")
            return
        if not isinstance(message, told.Prepared) or self._to_tell is not None:
            self._give_up("it does not know what it does")
            return
        self._to_tell = next(self._rounds, None)
        if self._to_tell is None:
            self._hold()
        else:
            self._parts.loop.want_write(self._channel.fileno(), self._tell)

    def _give_up(self, why: str) -> None:
        self._log(f"pid {self._pid} does not replace this daemon, which goes on: {why}")
        self._end(False)

    def _end(self, done: bool) -> None:
        self._parts.loop.unwatch(self._channel.fileno())
        self._channel.close()
        if not done:
            self._tables.end()
        if self._parts.workers is not None:
            hands = self._parts.workers.hands
            (hands.end if done else hands.go_on)()
        self._ended(done)

    # 3 and 4: no packet passes ----------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """One callback of the loop, so that nothing else happens in this process."""
        held_since = time.monotonic()
        if self._parts.workers is not None:
            try:
                held_since = self._parts.workers.hands.hold()
            except XfrmError as error:
                self._give_up(error.detail)
                return
            except Exception:
                self._give_up("this daemon failed at it")
                raise
        self._decide(held_since)

    def _decide(self, held_since: float) -> None:
        """Who goes on: is it the successor?"""
        channel = self._channel
        try:
            channel.settimeout(PATIENCE)
            for message, fds in self._rest(held_since):
                told.send(channel, message, fds)
            answer = told.receive_alone(channel, self._buffer)
            if not isinstance(answer, told.Prepared):
                raise EOFError
        except TimeoutError:
            self._give_up(f"it has not answered for {PATIENCE:.0f} s")
            return
        except (OSError, EOFError, XfrmError):
            self._give_up("it has failed")
            return
        except Exception:
            self._give_up("this daemon failed at it")
            raise
        # From here on there is no way back.
        try:
            told.send(channel, told.Yours())
        except OSError:
            # Not even into the queue: it is gone, and cannot have begun.
            self._give_up("it has ended")
            return
        notify(f"MAINPID={self._pid}\nREADY=1")
        self._log(f"pid {self._pid} has replaced this daemon")
        self._end(True)

    def _rest(self, held_since: float) -> Iterator[Told]:
        parts, engine = self._parts, self._parts.engine
        yield from self._changes()
        for bound, fd in parts.udp_sockets():
            yield bound, (fd,)
        for (family, port, address), holder in parts.ports.holders.items():
            yield told.Holder(family, port, address), (holder,)
        if parts.policy_path is not None:
            tuns, fds = parts.policy_path.save()
            yield tuns, tuple(fds)
        if (hub := parts.hub.fileno()) is not None:
            yield told.HubSocket(), (hub,)
        if (ears := parts.devices.ears) is not None:
            yield told.LinkMonitor(), (ears,)
        for client, fd in parts.control.save_clients():
            for piece in told.in_pieces(client):
                yield piece, (fd,) if isinstance(piece, told.Client) else ()
        counters = [(device.key, save_counters(interface)) for interface, device in self._devices.items()]
        for batch in in_batches(counters, DEVICES_AT_ONCE):
            yield told.Counters(batch), ()
        lost, lost_until = parts.state_file.lost
        for infos in in_batches(lost):
            yield told.Lost(infos), ()
        based = engine.interfaces.policy_based
        based_counters = None if based is None else save_counters(based)
        shed = parts.data_path.shed if parts.data_path is not None else 0
        yield told.Rest(save_rest(engine), based_counters, lost_until, shed, parts.loop.faults, held_since), ()


def _described(key: int, device: XfrmDevice) -> told.DeviceIn:
    interface, reads = device.interface, 1 + len(device.more)
    return told.DeviceIn(key, interface.name, interface.if_id, interface.link, interface.external, reads)
