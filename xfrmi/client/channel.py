"""A connection to a daemon, and netlink requests over it."""

from __future__ import annotations

import errno
import itertools
import socket
from collections import deque
from collections.abc import Iterator

from xfrmi.daemon import runtime
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.netlink import NLM_F_REQUEST, Message


class Channel:
    """netlink requests and their answers over one SEQPACKET connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sequence = itertools.count(1)
        self._arrived: dict[int, deque[Message]] = {}
        """Unread answers by sequence number: a dump may be read slowly, with other requests in between."""

    def close(self) -> None:
        self._connection.close()

    def receive(self) -> Iterator[Message]:
        """The messages of the next datagram."""
        try:
            datagram = self._connection.recv(runtime.MAX_DATAGRAM)
        except ConnectionError:
            raise hung_up() from None
        except TimeoutError:
            raise silent() from None
        if not datagram:
            raise hung_up()
        return netlink.split(datagram)

    def ask(self, kind: int, flags: int, body: bytes, fds: tuple[int, ...] = ()) -> Iterator[Message]:
        """Send one request; yield its answers up to the acknowledgement or the end of the dump. Raises its refusal."""
        sequence = next(self._sequence)
        request = netlink.message(kind, NLM_F_REQUEST | flags, sequence, 0, body)
        try:
            socket.send_fds(self._connection, [request], list(fds)) if fds else self._connection.send(request)
        except OSError as error:
            raise hung_up() if isinstance(error, ConnectionError) else XfrmError(error.errno or errno.EIO) from None
        answers = self._arrived[sequence] = deque()
        try:
            while True:
                while not answers:
                    self._sort_in(self.receive())
                answer = answers.popleft()
                if answer.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
                    netlink.raise_error(answer)
                    return
                yield answer
        finally:
            del self._arrived[sequence]

    def _sort_in(self, messages: Iterator[Message]) -> None:
        for message in messages:
            if (unread := self._arrived.get(message.seq)) is not None:  # else of a dump that nobody read to its end
                unread.append(message)


def connect(
    netns: str, name: str, kind: int, timeout: float | None = None, base: str | None = None
) -> socket.socket:
    """A connection to one of the sockets of the daemon that serves `netns` (a path), whose runtime directory is below
    `base` if that is given. XfrmError if there is none.

    With `timeout`, every wait for it ends in a TimeoutError after so many seconds.
    """
    directory = runtime.find_directory(netns, base)
    if directory is None:
        raise runtime.no_daemon(netns)
    connection = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    connection.settimeout(timeout)
    try:
        connection.connect(f"{directory}/{name}")
    except (ConnectionError, FileNotFoundError):
        connection.close()
        raise runtime.no_daemon(netns) from None
    except OSError as error:
        connection.close()
        raise XfrmError(error.errno or errno.EIO, detail=f"{directory}/{name}: {error.strerror}") from None
    return connection


def hung_up() -> XfrmError:
    return XfrmError(errno.ECONNRESET, detail="the xfrmi daemon closed the connection")


def silent() -> XfrmError:
    return XfrmError(errno.ETIMEDOUT, detail="the xfrmi daemon does not answer")
