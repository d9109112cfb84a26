"""JSON requests to a daemon and the lines it answers: what there is no netlink message for."""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

from xfrmi.client.channel import connect, hung_up, silent
from xfrmi.daemon import runtime
from xfrmi.errors import XfrmError


class JsonChannel:
    """A connection of its own. Raises XfrmError, also when the daemon has gone, or is silent for too long."""

    def __init__(self, netns: str, timeout: float | None = None, base: str | None = None) -> None:
        """See `connect`."""
        self._connection = connect(netns, runtime.JSON_SOCKET, socket.SOCK_STREAM, timeout, base)
        self._lines = self._connection.makefile("rb")

    def close(self) -> None:
        self._lines.close()
        self._connection.close()

    def ask(self, command: str, /, **arguments: object) -> Any:
        """The result of a command. Some are followed by lines, see `line`."""
        try:
            self._connection.sendall(json.dumps({"cmd": command} | arguments).encode() + b"\n")
        except OSError as error:
            raise silent() if isinstance(error, TimeoutError) else hung_up() from None
        answer = self.line()
        if "error" in answer:
            raise XfrmError(answer.get("errno", errno.EPROTO), detail=answer["error"])
        return answer["result"]

    def line(self) -> dict[str, Any]:
        """The next one."""
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise silent() from None
        except OSError:  # also once a line has not come in time: what is left of it cannot be told
            line = b""
        if not line:
            raise hung_up()
        found: dict[str, Any] = json.loads(line)
        return found
