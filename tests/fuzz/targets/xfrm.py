"""NETLINK_XFRM requests as the daemon gets them, from a client who may configure. Nothing is raised; every answer can
be read by a client; what is refused has changed nothing; what was done leaves tables that agree with themselves, and
that a dump tells as they are.

    0 | any datagram
    type | flags | body of one request
"""

from __future__ import annotations

from errno import ENOENT
from operator import attrgetter
from typing import Any

from tests.core.pair import NOW
from tests.daemon.messages import POLICY, ROOT, STATE
from tests.formats.captures import load
from tests.fuzz.registry import One
from xfrmi.core import Engine, Selector, StateInfo
from xfrmi.core.router import StaticRouter
from xfrmi.daemon.events import Events
from xfrmi.daemon.xfrm_handler import XfrmHandler
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_const import Dir

MAX_LEN = 900
FIRST, LAST = min(XfrmMsg), max(XfrmMsg)
FLAGS = (
    netlink.NLM_F_ACK, netlink.NLM_F_ACK | netlink.NLM_F_DUMP, netlink.NLM_F_DUMP, netlink.NLM_F_CREATE,
    netlink.NLM_F_ACK | netlink.NLM_F_EXCL | netlink.NLM_F_CREATE,
)  # fmt: skip
ASKS = {
    XfrmMsg.GETSA, XfrmMsg.GETPOLICY, XfrmMsg.GETSADINFO, XfrmMsg.GETSPDINFO, XfrmMsg.GETAE, XfrmMsg.GETDEFAULT,
    XfrmMsg.ACQUIRE,
}  # fmt: skip
"""What changes nothing, also when it succeeds."""


def seeds() -> list[bytes]:
    """What iproute2 has sent, and one of each type."""
    found = []
    for entry in load("iproute2/commands.json")["commands"]:
        if entry["protocol"] == "xfrm":
            found.append(bytes((entry["type"] - FIRST + 1, 0)) + bytes.fromhex(entry["body"]))
    for entry in load("iproute2/notices.json")["notices"][:60]:
        found.append(bytes((entry["type"] - FIRST + 1, 0)) + bytes.fromhex(entry["body"]))
    found.append(b"\0" + netlink.message(XfrmMsg.NEWSA, 5, 1, 1, xfrm_msg.encode_state(STATE)))
    two = netlink.message(XfrmMsg.FLUSHSA, 5, 1, 1, b"\0") + netlink.message(XfrmMsg.GETSA, 0x305, 1, 1)
    return [*found, b"\0" + two]


def make() -> One:
    return Tables().one


class Notices:
    """Who listens to everything, and can read it."""

    groups = sum(group.bit for group in Group)

    def put(self, datagram: bytes, group: Group) -> None:
        for message in netlink.split(datagram):
            xfrm_msg.decode_notice(message)


class Tables:
    def __init__(self) -> None:
        self.engine: Engine | None = None

    def prepare(self) -> Engine:
        if self.engine is None:
            router = StaticRouter()
            self.engine = Engine(router, random=bytes)
            events = Events(self.engine)
            events.add(Notices())
            self.handler = XfrmHandler(self.engine, events, clock=lambda: NOW)
            self.engine.add_state(STATE, NOW)
            larval = StateInfo(src="192.0.2.1", dst="192.0.2.2", mode=1, reqid=7, if_id=42)
            self.engine.alloc_spi(larval, 0x2000, 0x2000, NOW)
            self.engine.add_policy(POLICY, NOW)
            self.engine.add_policy(POLICY.__class__(Selector.parse("::/0"), Dir.FWD, 42), NOW)
            self.before, self.traces = picture(self.engine), traces(self.engine)
        return self.engine

    def one(self, data: bytes) -> None:
        if len(data) < 2:
            return
        engine = self.prepare()
        if data[0]:
            kind = FIRST + (data[0] - 1) % (LAST - FIRST + 2)
            flags = FLAGS[data[1] % len(FLAGS)] | netlink.NLM_F_REQUEST
            datagram = netlink.message(kind, flags, 1, 1, data[2:])
        else:
            datagram = data[1:]
        answers = [reply for answer in self.handler.handle(datagram, ROOT) for reply in netlink.split(answer)]
        for reply in answers:
            if reply.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
                continue
            xfrm_msg.decode_notice(reply)
        if traces(engine) != self.traces and picture(engine) != self.before:
            if data[0]:
                assert kind not in ASKS, f"{XfrmMsg(kind).name} has changed something"
                refusals = [failure for reply in answers if (failure := fails(reply)) is not None]
                if kind != XfrmMsg.ALLOCSPI or (refusals and refusals[0].errno != ENOENT):  # as a kernel, see Sad
                    assert not refusals, "refused, and has changed something"
            agree(engine)
            self.engine = None


def fails(reply: netlink.Message) -> XfrmError | None:
    if reply.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
        try:
            netlink.raise_error(reply)
        except XfrmError as failure:
            return failure
    return None


def picture(engine: Engine) -> object:
    spd = engine.spd
    return (
        [state.snapshot() for state in engine.states()], [policy.snapshot() for policy in engine.policies()],
        list(spd.defaults), spd.counts(), engine.sad.counts(),
    )  # fmt: skip


_of_state = attrgetter(
    "info", "window", "window.top", "window.seen", "window.late", "window.replayed", "sequence", "sequence.last",
    "bytes", "packets", "add_time", "use_time", "lastused", "stats_integrity_failed",
)  # fmt: skip
_of_policy = attrgetter("info", "index", "add_time", "use_time")


def traces(engine: Engine) -> object:
    """All that `picture` is made of: where it is the same the picture is, and most inputs need no other."""
    spd, states, policies = engine.spd, engine.states(), engine.policies()
    return (
        [*map(_of_state, states)], [*map(_of_policy, policies)], list(spd.defaults), spd.counts(), engine.sad.counts()
    )


def agree(engine: Engine) -> None:
    states = list(engine.states())
    assert len(states) == len(engine.sad)
    for state in states:
        told = xfrm_msg.encode_state(state.snapshot(), reply=True)
        if state.selector.family:  # a larval one's may be open, and is told as that of the addresses
            assert xfrm_msg.encode_state(read(XfrmMsg.NEWSA, told), reply=True) == told
        value, mask = state.mark
        if state.spi and value & mask == value:  # a larval one may have a mark that no packet has, as a kernel's
            assert engine.sad.lookup_input(state.dst, state.spi, state.proto, value) is not None
    policies = list(engine.policies())
    assert len(policies) == len(engine.spd)
    for policy in policies:
        told = xfrm_msg.encode_policy(policy.snapshot())
        assert xfrm_msg.encode_policy(read(XfrmMsg.NEWPOLICY, told)) == told
    engine.tick(NOW + 10)
    if (deadline := engine.next_deadline()) is not None:
        engine.tick(deadline + 1)


def read(kind: XfrmMsg, told: bytes) -> Any:
    """As a client reads it."""
    (message,) = netlink.split(netlink.message(kind, 0, 0, 0, told))
    return xfrm_msg.decode_notice(message)
