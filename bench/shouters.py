"""Clients as a daemon had better not depend on them: what floods.py starts, in the daemon's namespace.

    python -m bench.shouters KIND COUNT      # prints "ready"; until standard input ends

shout    ask for all states again and again, and read the answers
stall    ask for all states, and never read
monitor  listen to everything, and never read
knock    connect and hang up at once, COUNT at a time, again and again
churn    one that adds and deletes states without a pause, so that there is something to listen to
storm    three datagrams in four to addresses that begin so, each to another one; COUNT is "VALID,PREFIX", and VALID
         gets the fourth
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from itertools import count
from typing import Any

from xfrmi.client import Client
from xfrmi.client.channel import connect
from xfrmi.daemon.runtime import XFRM_SOCKET
from xfrmi.dev.netns import OWN_NETNS
from xfrmi.wire import netlink
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import Mode
from xfrmi.wire.xfrm_msg import encode_subscription
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

DUMP = netlink.message(XfrmMsg.GETSA, netlink.NLM_F_REQUEST | netlink.NLM_F_DUMP, 1, 0)
PORT = 4699
PAYLOAD = b"x" * 100


def over() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def clients(number: int) -> list[socket.socket]:
    return [connect(OWN_NETNS, XFRM_SOCKET, socket.SOCK_SEQPACKET, None) for _ in range(number)]


def shout(argument: str) -> None:
    connections = clients(int(argument))
    for connection in connections:
        connection.setblocking(False)
        connection.send(DUMP)
    while not over():
        for connection in select.select(connections, [], [], 0.1)[0]:
            with contextlib.suppress(BlockingIOError):
                if any(message.type == netlink.NLMSG_DONE for message in netlink.split(connection.recv(1 << 16))):
                    connection.send(DUMP)


def stall(argument: str) -> None:
    connections = clients(int(argument))
    for connection in connections:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection.send(DUMP)
    sys.stdin.read()


def monitor(argument: str) -> None:
    connections = clients(int(argument))
    for connection in connections:
        connection.send(netlink.message(netlink.NLMSG_SUBSCRIBE, 1, 1, 0, encode_subscription(0xFFFFFFFF)))
    sys.stdin.read()


def knock(argument: str) -> None:
    while not over():
        for connection in clients(int(argument)):
            connection.close()


def churn(_: str) -> None:
    info: dict[str, Any] = {"src": "192.0.2.9", "dst": "192.0.2.10", "mode": Mode.TUNNEL, "if_id": 9}
    with Client() as client:
        for spi in count(0x1000):
            state = StateInfo(spi=spi, aead=Algorithm("rfc4106(gcm(aes))", bytes(20), 128), **info)
            client.add_state(state)
            client.delete_state(state)
            if over():
                return


def storm(argument: str) -> None:
    valid, prefix = argument.split(",")
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for number in count():
        strangers = 3 * number
        for stranger in range(strangers, strangers + 3):
            with contextlib.suppress(OSError):
                sender.sendto(PAYLOAD, (f"{prefix}.{stranger >> 8 & 255}.{stranger & 255}", PORT))
        sender.sendto(PAYLOAD, (valid, PORT))
        if number % 64 == 0 and over():
            return


if __name__ == "__main__":
    print("ready", flush=True)
    globals()[sys.argv[1]](sys.argv[2])
