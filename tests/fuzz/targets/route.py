"""RTM_*LINK requests as the daemon gets them. Nothing is raised, what is refused has changed nothing, and what was made
can be told.

    type | flags | body of one request       (type 0: any datagram)
"""

from __future__ import annotations

import socket

from tests.daemon.messages import ROOT
from tests.daemon.server import PretendedDevices
from tests.formats.captures import load
from tests.fuzz.registry import One
from tests.fuzz.targets.xfrm import fails
from xfrmi.core import Engine
from xfrmi.daemon.route_handler import RouteHandler
from xfrmi.wire import link_msg, netlink
from xfrmi.wire.link_types import LinkInfo

MAX_LEN = 500
TYPES = link_msg.RTM_NEWLINK, link_msg.RTM_DELLINK, link_msg.RTM_GETLINK, link_msg.RTM_SETLINK, 26, 255
FLAGS = 4, 0x304, 0x604, 0x404, 0x504, 0x300


def seeds() -> list[bytes]:
    found = [bytes((1, index)) + bytes.fromhex(entry["body"])[:400] for index, entry in
             enumerate(load("iproute2/links.json")["links"][:12])]  # fmt: skip
    for flags in range(len(FLAGS)):
        link = LinkInfo(name="ipsec0", if_id=42, link=2, kind="xfrm")
        found.append(bytes((1, flags)) + link_msg.encode_link(link))
        found.append(bytes((4, flags)) + link_msg.encode_link(LinkInfo(name="ipsec1", ifindex=100, mtu=1400)))
        found.append(bytes((2, flags)) + link_msg.encode_link(LinkInfo(name="xfrm0")))
    return found


def make() -> One:
    return Links().one


class Links:
    def __init__(self) -> None:
        self.devices: PretendedDevices | None = None
        self.ours = socket.socket()

    def one(self, data: bytes) -> None:
        if len(data) < 2:
            return
        if self.devices is None:
            engine = Engine()
            self.devices = PretendedDevices(engine)
            self.devices.add(LinkInfo(name="xfrm0", if_id=7, kind="xfrm"))
            self.handler = RouteHandler(self.devices)  # type: ignore[arg-type]
            self.before = self.picture()
        if data[0]:
            kind, flags = TYPES[(data[0] - 1) % len(TYPES)], FLAGS[data[1] % len(FLAGS)] | netlink.NLM_F_REQUEST
            datagram = netlink.message(kind, flags, 1, 1, data[2:])
        else:
            datagram = data[1:]
        who = ROOT._replace(fds=(self.ours.fileno(),))
        answers = [reply for answer in self.handler.handle(datagram, who) for reply in netlink.split(answer)]
        for reply in answers:
            if reply.type == link_msg.RTM_NEWLINK:
                link_msg.decode_link(reply)
        if self.picture() != self.before:
            if data[0]:
                assert kind not in (link_msg.RTM_GETLINK, 26)
                assert all(fails(reply) is None for reply in answers), "refused, and has changed something"
            self.devices = None

    def picture(self) -> object:
        assert self.devices is not None
        return [
            (device.interface.name, device.interface.if_id, device.interface.link, device.interface.external,
             device.interface.up, device.interface.mtu, device.txqlen, device.multicast, tuple(device.moved_to))
            for device in self.devices
        ]  # fmt: skip
