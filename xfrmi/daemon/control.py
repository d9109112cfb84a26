"""The control sockets: taking the runtime directory, accepting clients, giving it all back.

The directory is taken with a lock that dies with the process, so there is never more than one daemon for a network
namespace, and what a killed daemon left is known to be stale and is replaced. Only this user and root get in: the
directory is 0700, the sockets 0600, and SO_PEERCRED is asked on top.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping

from xfrmi.daemon.events import Events
from xfrmi.daemon.handover_format import Client
from xfrmi.daemon.hub import Hub
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.runtime import JSON_SOCKET, LOCK_FILE, ROUTE_SOCKET, XFRM_SOCKET, create_directory
from xfrmi.daemon.session import (
    Command,
    DatagramSession,
    LineSession,
    RequestHandler,
    Session,
    StreamCommand,
    peer_credentials,
)
from xfrmi.errors import XfrmError

BACKLOG = 64
MAX_SESSIONS = 256
"""Clients at a time; more are turned away at the door."""
ACCEPTS_A_TURN = 8
"""Of one door. With one a turn, who comes behind a crowd waits for as many turns as it has members, and with packets a
turn takes a while."""


def take_directory() -> tuple[str, int]:
    """Make and lock the directory of this network namespace: its path, and the descriptor that holds the lock until it
    is closed. XfrmError EADDRINUSE if another daemon holds it; whatever create_directory raises.
    """
    while True:
        directory = create_directory()
        path = f"{directory}/{LOCK_FILE}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # a daemon that is ending has just removed the directory
            continue
        except OSError as error:
            raise XfrmError(error.errno or errno.EIO, detail=f"cannot open {path}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Has a daemon that was ending removed the file under our hands? Then this is a lock on nothing.
            current = os.stat(path).st_ino == os.fstat(fd).st_ino
        except BlockingIOError:
            holder = os.pread(fd, 16, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise XfrmError(
                errno.EADDRINUSE, detail=f"an xfrmi daemon (pid {holder}) serves this network namespace already"
            ) from None
        except FileNotFoundError:
            current = False
        if current:
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            return directory, fd
        os.close(fd)


class ControlSockets:
    """The listening sockets of one daemon and the sessions they lead to."""

    def __init__(self, loop: Loop, lock: int = -1, doors: Mapping[str, int] | None = None) -> None:
        """`lock`, `doors`: those of a daemon that hands over, by name of the socket; see `begin`."""
        self._loop = loop
        self._given = dict(doors or {})
        self.directory, self._lock = take_directory() if lock < 0 else (create_directory(), lock)
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        """Given up for a moment to turn somebody away when all other descriptors are in use."""
        self._listeners: dict[str, socket.socket] = {}
        self._makers: dict[str, Callable[[socket.socket], Session]] = {}
        self._sessions: dict[Session, str] = {}
        """And by which door each has come."""

    def listen(
        self,
        xfrm: RequestHandler,
        route: RequestHandler,
        events: Events,
        hub: Hub,
        commands: Mapping[str, Command],
        streams: Mapping[str, StreamCommand],
    ) -> None:
        """Open the three sockets. From now on clients may connect; they are served when the loop runs."""

        def datagrams(handler: RequestHandler) -> Callable[[socket.socket], Session]:
            return lambda s: DatagramSession(self._loop, s, self._left, handler, events, hub)

        self._listen(XFRM_SOCKET, socket.SOCK_SEQPACKET, datagrams(xfrm))
        self._listen(ROUTE_SOCKET, socket.SOCK_SEQPACKET, datagrams(route))
        self._listen(
            JSON_SOCKET,
            socket.SOCK_STREAM,
            lambda s: LineSession(self._loop, s, self._left, commands, streams),
        )

    @property
    def lock(self) -> int:
        return self._lock

    @property
    def doors(self) -> Iterator[tuple[str, int]]:
        """Name and descriptor of each socket that takes connections."""
        for name, listener in self._listeners.items():
            yield name, listener.fileno()

    def save_clients(self) -> list[tuple[Client, int]]:
        """All connections, for another process to go on with."""
        saved = [(session.save(door), session.fileno()) for session, door in self._sessions.items()]
        return [(client, fd) for client, fd in saved if client is not None]

    def begin(self, clients: Iterable[tuple[Client, int]]) -> None:
        """Everything that another process has handed over is ours now; descriptors are taken."""
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)
        for listener in self._listeners.values():
            listener.listen(BACKLOG)  # who connects is shown our credentials
        for client, fd in clients:
            session = self._makers[client.door](socket.socket(fileno=fd))
            self._sessions[session] = client.door
            session.resume(client)

    def _left(self, session: Session) -> None:
        self._sessions.pop(session, None)

    def close(self) -> None:
        """Hang up, remove the sockets, let the next daemon in."""
        for session in list(self._sessions):
            session.close()
        for listener in self._listeners.values():
            self._loop.unwatch(listener.fileno())
            listener.close()
        for name in (XFRM_SOCKET, ROUTE_SOCKET, JSON_SOCKET, LOCK_FILE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{name}")
        with contextlib.suppress(OSError):  # somebody keeps notes in there: leave it
            os.rmdir(self.directory)
        os.close(self._spare)
        os.close(self._lock)

    def _listen(self, name: str, kind: int, make: Callable[[socket.socket], Session]) -> None:
        listener = self._bind(name, kind)
        self._makers[name] = make
        self._loop.watch(listener.fileno(), lambda: self._accept(name, listener))

    def _bind(self, name: str, kind: int) -> socket.socket:
        if (given := self._given.get(name)) is not None:
            listener = self._listeners[name] = socket.socket(fileno=given)
            return listener
        path = f"{self.directory}/{name}"
        listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._listeners[name] = listener
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # stale: we hold the lock
        old = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError as error:
            raise XfrmError(error.errno or errno.EINVAL, detail=f"cannot listen on {path}: {error}") from None
        finally:
            os.umask(old)
        listener.listen(BACKLOG)
        return listener

    def _accept(self, name: str, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                connection, _ = listener.accept()
            except OSError as error:  # most often: nobody is left
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away(listener)
                return
            if peer_credentials(connection).uid not in (0, os.geteuid()) or len(self._sessions) >= MAX_SESSIONS:
                connection.close()
            else:
                self._sessions[self._makers[name](connection)] = name

    def _turn_away(self, listener: socket.socket) -> None:
        """Out of descriptors. Whoever knocks has to go, or the listener would stay readable and the loop spin."""
        os.close(self._spare)
        with contextlib.suppress(OSError):
            listener.accept()[0].close()
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
