"""UDP ports that IKE daemons share with us (dev/port_sharing.py), each for as long as the process lives that has it.

An IKE daemon that is started again binds its port without asking us, and without leave to share it: strongSwan sets
neither SO_REUSEADDR nor SO_REUSEPORT. So the port must be free when the one before it has ended. A process descriptor
tells us in time, whoever else has died meanwhile.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6

if TYPE_CHECKING:
    from xfrmi.daemon.data_path import DataPath
    from xfrmi.daemon.loop import Loop

Port = tuple[int, int, str]
"""Family, number, address; "" for all addresses."""


class SharedPorts:
    def __init__(self, data_path: DataPath | None, loop: Loop, log: Callable[[str], None]) -> None:
        """Without a data path, which workers have, nothing can be shared."""
        self._data_path = data_path
        self._loop = loop
        self._log = log
        self._holders: dict[Port, int] = {}
        """Process descriptors of who has the port."""

    def command(self, request: Mapping[str, Any]) -> dict[str, object]:
        """The JSON command; the process descriptor comes with it. XfrmError EINVAL, EOPNOTSUPP, EADDRINUSE..."""
        family, port, address = request.get("family"), request.get("port"), request.get("address")
        fds = request["fds"]
        if (
            family not in (AF_INET, AF_INET6)
            or not isinstance(port, int)
            or not 0 < port < 1 << 16
            or not isinstance(address, str)
            or len(fds) != 1
            or not _is_pidfd(fds[0])
        ):
            detail = '"share-port" takes "family" (2 or 10), "port", "address" ("": all) and a process descriptor'
            raise XfrmError(errno.EINVAL, detail=detail)
        if self._data_path is None:
            raise XfrmError(errno.EOPNOTSUPP, detail="workers share no port with an IKE daemon: start with --workers 1")
        self._forget((family, port, address))
        self._data_path.share_port(family, port, address)
        self.adopt((family, port, address), os.dup(fds[0]))
        self._log(f"UDP port {port}{address and f' of {address}'} shared with an IKE daemon")
        return {}

    @property
    def holders(self) -> dict[Port, int]:
        """A process descriptor for each port."""
        return self._holders

    def adopt(self, port: Port, holder: int) -> None:
        """The port is shared already; `holder`, a process descriptor, is taken."""
        self._holders[port] = holder
        self._loop.watch(holder, lambda: self._ended(port))

    def _ended(self, port: Port) -> None:
        self._forget(port)
        assert self._data_path is not None
        self._data_path.leave_port(*port)
        self._log(f"UDP port {port[1]}{port[2] and f' of {port[2]}'} left: the IKE daemon that shared it has ended")

    def _forget(self, port: Port) -> None:
        holder = self._holders.pop(port, None)
        if holder is not None:
            self._loop.unwatch(holder)
            os.close(holder)


def _is_pidfd(fd: int) -> bool:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        return any(line.startswith("Pid:") for line in info)
