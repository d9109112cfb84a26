"""One UDP port for an IKE daemon and for us."""

from __future__ import annotations

import socket

import pytest

from tests.netns import in_netns
from xfrmi.dev.port_sharing import allow_sharing, take_esp

PORT = 4500
IKE, KEEPALIVE, ESP = bytes(4) + b"ike header", b"\xff", b"\0\0\x10\1\0\0\0\1sealed"


def bound(family: int, address: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(2)
    sock.bind((address, PORT))
    return sock


def second(family: int, address: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(2)
    allow_sharing(sock)
    sock.bind((address, PORT))
    take_esp(sock)
    return sock


@pytest.mark.parametrize("family, address", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@in_netns
def test_each_gets_what_is_meant_for_it(family: int, address: str) -> None:
    with bound(family, address) as ike, socket.socket(family, socket.SOCK_DGRAM) as peer:
        allow_sharing(ike)
        with second(family, address) as esp:
            for _ in range(20):
                for datagram in (IKE, ESP, KEEPALIVE, b"abc", b""):
                    peer.sendto(datagram, (address, PORT))
            assert [ike.recv(100) for _ in range(80)] == [IKE, KEEPALIVE, b"abc", b""] * 20
            assert [esp.recv(100) for _ in range(20)] == [ESP] * 20
        peer.sendto(ESP, (address, PORT))
        assert ike.recv(100) == ESP, "alone, it gets everything"


@in_netns
def test_an_ike_daemon_that_is_started_again_gets_its_port() -> None:
    """As libreswan binds it: SO_REUSEADDR. It is the first again when we have bound anew."""
    first = bound(socket.AF_INET, "")
    allow_sharing(first)
    esp = second(socket.AF_INET, "")
    first.close()
    again = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    again.settimeout(2)
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind(("", PORT))
    allow_sharing(again)
    esp.close()
    esp = second(socket.AF_INET, "")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for datagram in (ESP, IKE):
            peer.sendto(datagram, ("127.0.0.1", PORT))
    assert (esp.recv(100), again.recv(100)) == (ESP, IKE)
    esp.close()
    again.close()


@in_netns
def test_who_has_not_allowed_it_is_not_shared_with() -> None:
    with bound(socket.AF_INET, ""), pytest.raises(OSError, match="in use"):
        second(socket.AF_INET, "")
