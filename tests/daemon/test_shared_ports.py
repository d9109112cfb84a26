"""A port is shared as long as its holder lives, and no request of a stranger's shape is taken."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.netns import in_netns
from xfrmi.core.engine import Engine
from xfrmi.daemon.data_path import DataPath
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.shared_ports import SharedPorts
from xfrmi.dev.port_sharing import allow_sharing
from xfrmi.dev.router import KernelRouter
from xfrmi.dev.underlay import Underlay
from xfrmi.errors import XfrmError

IKE, ESP = bytes(4) + b"ike header", b"\0\0\x10\1\0\0\0\1sealed"


class Setting:
    def __init__(self) -> None:
        self.loop = Loop()
        router = KernelRouter()
        self.underlay = Underlay(router)
        data_path = DataPath(Engine(router), self.underlay, router, self.loop, lambda _: None)
        self.ports = SharedPorts(data_path, self.loop, lambda _: None)

    def share(self, sock: socket.socket, holder: int, **request: object) -> None:
        address, port = sock.getsockname()
        asked: dict[str, Any] = {"family": 2, "port": port, "address": "" if address == "0.0.0.0" else address}
        self.ports.command(asked | {"fds": (holder,)} | request)

    def turn(self) -> None:
        self.loop.run(lambda _: self.loop.stop(), lambda: 0.0)


@contextmanager
def holder() -> Iterator[tuple[int, int]]:
    """A process, and a descriptor of it. It ends when the test says so, or with the test."""
    pid = os.fork()
    if not pid:
        while True:
            socket.socketpair()[0].recv(1)
    fd = os.pidfd_open(pid)
    try:
        yield pid, fd
    finally:
        os.close(fd)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def bound(address: str, reuse: bool = False) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(2)
    if reuse:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, 4500))
    return sock


@in_netns
def test_each_address_is_shared_by_itself() -> None:
    """As libreswan binds them."""
    setting = Setting()
    with holder() as (_, fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        addresses = ("127.0.0.1", "127.0.0.2")
        sockets = [bound(address) for address in addresses]
        for sock in sockets:
            allow_sharing(sock)
            setting.share(sock, fd)
        for sock, address in zip(sockets, addresses, strict=True):
            for datagram in (ESP, IKE):
                peer.sendto(datagram, (address, 4500))
            assert sock.recv(100) == IKE
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
            sock.close()


@in_netns
def test_the_next_one_can_bind_when_the_holder_has_ended() -> None:
    setting = Setting()
    with holder() as (pid, fd):
        sock = bound("")
        allow_sharing(sock)
        setting.share(sock, fd)
        setting.share(sock, fd)
        sock.close()
        with pytest.raises(OSError, match="in use"):
            bound("")
        os.kill(pid, 9)
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
        setting.turn()
        bound("").close()


@pytest.mark.parametrize(
    "request_",
    [{"family": 3}, {"port": 0}, {"port": "4500"}, {"address": 5}, {"fds": ()}, {"fds": (0, 0)}, {"fds": (0,)}],
)
@in_netns
def test_what_is_no_such_request(request_: dict[str, object]) -> None:
    setting = Setting()
    with holder() as (_, fd), bound("") as sock, pytest.raises(XfrmError, match="process descriptor"):
        setting.share(sock, fd, **request_)


@in_netns
def test_who_has_not_allowed_it_is_not_shared_with() -> None:
    setting = Setting()
    with holder() as (_, fd), bound("") as sock, pytest.raises(XfrmError, match="ss -ulpn"):
        setting.share(sock, fd)
