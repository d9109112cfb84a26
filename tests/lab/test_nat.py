"""A NAT of the kernel's, without the nft command."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lacks import no_capabilities
from tests.netns import in_netns
from xfrmi.cli.labs import lab
from xfrmi.lab.nat import masquerade
from xfrmi.lab.topology import Lab, Node
from xfrmi.lab.traffic import family_of

SERVER = {4: "203.0.113.1", 6: "2001:db8::1"}


@contextmanager
def at_home() -> Iterator[tuple[Node, Node, Node]]:
    with Lab() as made:
        inside, home, server = made.node("inside"), made.node("home"), made.node("server")
        made.link(inside, "eth0", ["192.168.7.2/24", "fd07::2/64"], home, "eth0", ["192.168.7.1/24", "fd07::1/64"])
        outside = ["203.0.113.5/24", "2001:db8::5/64"]
        made.link(home, "eth1", outside, server, "eth0", ["203.0.113.1/24", "2001:db8::1/64"])
        home.forward()
        inside.route("0.0.0.0/0", via="192.168.7.1")
        inside.route("::/0", via="fd07::1")
        yield inside, home, server


def seen_from(inside: Node, server: Node, family: int) -> tuple[str, int]:
    """Where the server thinks a new flow from port 5000 comes from; the answer arrives, too."""
    kind = family_of(SERVER[family])
    with server, socket.socket(kind, socket.SOCK_DGRAM) as listener:
        listener.bind((SERVER[family], 0))
        listener.settimeout(5)
        with inside, socket.socket(kind, socket.SOCK_DGRAM) as sender:
            sender.bind(("", 5000))
            sender.settimeout(5)
            sender.sendto(b"?", listener.getsockname()[:2])
            _, source = listener.recvfrom(10)
            listener.sendto(b"!", source)
            assert sender.recv(10) == b"!"
    return source[0], source[1]


@in_netns
def test_both_families() -> None:
    with at_home() as (inside, home, server):
        with home:
            try:
                masquerade("eth1")
            except OSError as error:
                pytest.skip(f"NO NAT IN THIS KERNEL, NOT TESTED: {error}")
        assert seen_from(inside, server, 4) == ("203.0.113.5", 5000)
        assert seen_from(inside, server, 6) == ("2001:db8::5", 5000)
        with home:
            masquerade("eth1", port=10001)
        assert seen_from(inside, server, 4) == ("203.0.113.5", 10001)
        assert seen_from(inside, server, 6) == ("2001:db8::5", 10001)
        with home:
            masquerade("lo")
        assert seen_from(server, server, 4) == ("203.0.113.1", 5000)


@in_netns
def test_refused() -> None:
    no_capabilities()
    with pytest.raises(OSError) as caught:
        masquerade("eth1")
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("words", [["home"], ["home:eth1", "--port", "0"], ["home:eth1", "--port", "65536"]])
def test_bad_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert lab(["nat", *words]) == 1
    assert "xfrmi lab nat home:eth1 --port 10001" in capsys.readouterr().err
