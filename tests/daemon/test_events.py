"""Events on their way to subscribers: groups, numbers (7.5, NL-11), and what a subscriber who does not read costs."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from tests.daemon.messages import KEY, POLICY, STATE, ask
from tests.each import each
from xfrmi.core.engine import Engine
from xfrmi.core.events import Acquire, Mapping
from xfrmi.daemon import events as module
from xfrmi.daemon.events import Events, Subscriber
from xfrmi.daemon.xfrm_handler import XfrmHandler
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_REPLACE, Message
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_const import Default, Mode
from xfrmi.wire.xfrm_msg import Aevent, Defaults, PolicyExpiry, SpiRequest, StateExpiry
from xfrmi.wire.xfrm_types import Encap, Limits, PolicyId, Replay, StateId, Template

ALL = sum(group.bit for group in Group)
STATE_ID = StateId(STATE.dst, STATE.spi)


class World:
    """An engine, a handler, and one subscriber to `groups`."""

    def __init__(self, groups: int = ALL) -> None:
        self.engine = Engine()
        self.events = Events(self.engine)
        self.handle = XfrmHandler(self.engine, self.events, lambda: 1000.0).handle
        self.wakes = 0
        self.subscriber = self.events.subscribe(groups, self.wake)

    def wake(self) -> None:
        self.wakes += 1

    def do(self, kind: int, body: bytes, flags: int = NLM_F_ACK) -> None:
        ask(self.handle, kind, body, flags)

    def heard(self) -> list[Message]:
        return drain(self.subscriber)


def drain(subscriber: Subscriber) -> list[Message]:
    messages = []
    while datagram := subscriber.take():
        messages += netlink.split(datagram)
    return messages


NEW = (XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE), NLM_F_ACK)
NEW_POLICY = (XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(POLICY), NLM_F_ACK)
Request = tuple[int, bytes, int]

# requests of which the last one is looked at, group, message type, sequence number and port
NOTICES: list[tuple[list[Request], Group, XfrmMsg, int, int]] = [
    ([NEW], Group.SA, XfrmMsg.NEWSA, 5, 77),
    ([NEW, (XfrmMsg.UPDSA, NEW[1], NLM_F_ACK)], Group.SA, XfrmMsg.UPDSA, 5, 77),
    ([NEW, (XfrmMsg.DELSA, xfrm_msg.encode_state_id(STATE_ID), NLM_F_ACK)], Group.SA, XfrmMsg.DELSA, 5, 77),
    ([NEW, (XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(0), NLM_F_ACK)], Group.SA, XfrmMsg.FLUSHSA, 5, 77),
    ([NEW, (XfrmMsg.EXPIRE, xfrm_msg.encode_state_expiry(StateExpiry(STATE, True)), NLM_F_ACK)],
     Group.EXPIRE, XfrmMsg.EXPIRE, 0, 77),
    ([NEW, (XfrmMsg.NEWAE, xfrm_msg.encode_aevent(Aevent(STATE_ID, replay=Replay(oseq=9))), NLM_F_ACK | NLM_F_REPLACE)],
     Group.AEVENTS, XfrmMsg.NEWAE, 5, 77),
    ([NEW_POLICY], Group.POLICY, XfrmMsg.NEWPOLICY, 5, 77),
    ([(XfrmMsg.UPDPOLICY, NEW_POLICY[1], NLM_F_ACK)], Group.POLICY, XfrmMsg.UPDPOLICY, 5, 77),
    ([NEW_POLICY, (XfrmMsg.DELPOLICY, xfrm_msg.encode_policy_id(PolicyId(POLICY.selector, POLICY.dir, 42)), NLM_F_ACK)],
     Group.POLICY, XfrmMsg.DELPOLICY, 5, 77),
    ([NEW_POLICY, (XfrmMsg.FLUSHPOLICY, xfrm_msg.encode_flush_policies(0), NLM_F_ACK)],
     Group.POLICY, XfrmMsg.FLUSHPOLICY, 5, 77),
    ([NEW_POLICY, (XfrmMsg.POLEXPIRE, xfrm_msg.encode_policy_expiry(PolicyExpiry(POLICY, False)), NLM_F_ACK)],
     Group.EXPIRE, XfrmMsg.POLEXPIRE, 0, 77),
    ([(XfrmMsg.SETDEFAULT, xfrm_msg.encode_defaults(Defaults(Default.BLOCK)), NLM_F_ACK)],
     Group.POLICY, XfrmMsg.GETDEFAULT, 0, 0),
]  # fmt: skip


@each(("requests", "group", "kind", "seq", "pid"), NOTICES)
def test_what_a_request_announces(requests: list[Request], group: Group, kind: XfrmMsg, seq: int, pid: int) -> None:
    """7.5 for the group, NL-11 for sequence number and port; nobody hears it but subscribers of that group."""
    world, others = World(group.bit), World(ALL & ~group.bit)
    for at in (world, others):
        for request in requests[:-1]:
            at.do(*request)
        drain(at.subscriber)
        at.do(*requests[-1])
    (notice,) = world.heard()
    assert (notice.type, notice.flags, notice.seq, notice.pid) == (kind, 0, seq, pid)
    xfrm_msg.decode_notice(notice)
    assert others.heard() == []


@pytest.mark.parametrize(
    "request_",
    [
        (XfrmMsg.ALLOCSPI, xfrm_msg.encode_alloc_spi(SpiRequest(replace(STATE, aead=None), 256, 300)), NLM_F_ACK),
        (XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(0), NLM_F_ACK),
        (XfrmMsg.FLUSHPOLICY, b"", NLM_F_ACK),
    ],
)
def test_what_announces_nothing(request_: Request) -> None:
    """3.3: ALLOCSPI has no event; flushing nothing neither (7.2, SPD-12)."""
    world = World()
    world.do(*request_)
    assert world.heard() == []


def test_a_refused_request_announces_nothing() -> None:
    world = World()
    world.do(*NEW)
    world.heard()
    with pytest.raises(XfrmError):
        world.do(*NEW)
    assert world.heard() == []


def test_what_time_brings_carries_no_request() -> None:
    world = World(Group.EXPIRE.bit)
    limited = replace(STATE, limits=Limits(hard_add=10))
    world.do(XfrmMsg.NEWSA, xfrm_msg.encode_state(limited))
    for second in range(1001, 1013):
        world.engine.tick(float(second))
    (notice,) = world.heard()
    assert (notice.type, notice.seq, notice.pid) == (XfrmMsg.EXPIRE, 0, 0)
    expiry = xfrm_msg.decode_notice(notice)
    assert isinstance(expiry, StateExpiry)
    assert expiry.hard
    assert expiry.info.spi == STATE.spi


def test_acquire_says_who_wants_what() -> None:
    """7.6: larval state and template of the packet that found none."""
    world = World(Group.ACQUIRE.bit)
    larval = replace(STATE, spi=0, aead=None, seq=33, selector=POLICY.selector)
    template = Template("192.0.2.1", "192.0.2.2", reqid=7, aalgos=1, ealgos=2, calgos=3)
    world.engine._emit(Acquire(larval, template, POLICY))
    (notice,) = world.heard()
    acquire = xfrm_msg.decode_notice(notice)
    assert (notice.type, notice.seq) == (XfrmMsg.ACQUIRE, 0)
    assert acquire == xfrm_msg.Acquire(STATE.src, STATE.dst, POLICY.selector, POLICY, 33, aalgos=1, ealgos=2, calgos=3)


def test_mapping_says_from_where_to_where() -> None:
    world = World(Group.MAPPING.bit)
    natted = replace(STATE, mode=Mode.TUNNEL, encap=Encap(2, 4500, 4501))
    world.engine._emit(Mapping(natted, bytes([198, 51, 100, 7]), 1024))
    (notice,) = world.heard()
    mapping = xfrm_msg.decode_notice(notice)
    assert notice.type == XfrmMsg.MAPPING
    assert mapping == xfrm_msg.Mapping(STATE_ID, 7, STATE.src, 4500, bytes([198, 51, 100, 7]), 1024)


def test_acquires_are_made_only_while_somebody_listens() -> None:
    """7.6."""
    world = World(Group.SA.bit)
    assert world.engine.acquire_listeners == 0
    listener = world.events.subscribe(Group.ACQUIRE.bit | Group.EXPIRE.bit, world.wake)
    assert world.engine.acquire_listeners == 1
    world.events.unsubscribe(listener)
    assert world.engine.acquire_listeners == 0


def test_nothing_is_encoded_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(Group.POLICY.bit)
    monkeypatch.setattr(module, "notice", lambda *_: pytest.fail("encoded, though nobody listens"))
    world.do(*NEW)


def test_subscribers_share_one_encoding() -> None:
    world = World(Group.SA.bit)
    other = world.events.subscribe(Group.SA.bit, world.wake)
    world.do(*NEW)
    assert world.wakes == 2
    datagram = world.subscriber.take()
    assert datagram
    assert other.take() is datagram


def test_a_full_queue_loses_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before the gap, ENOBUFS, and from when it has been read, what comes then."""
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    world = World(Group.SA.bit)
    for spi in range(1, 10):
        world.do(XfrmMsg.NEWSA, xfrm_msg.encode_state(replace(STATE, spi=spi)))
    *kept, gap = world.heard()
    assert [xfrm_msg.decode_state_notice(message).spi for message in kept] == [1, 2, 3]
    with pytest.raises(XfrmError) as lost:
        netlink.raise_error(gap)
    assert lost.value.errno == errno.ENOBUFS
    world.do(XfrmMsg.NEWSA, xfrm_msg.encode_state(replace(STATE, spi=10)))
    (after,) = world.heard()
    assert xfrm_msg.decode_state_notice(after).spi == 10


def test_a_subscriber_may_leave_while_an_event_goes_round() -> None:
    """A session that finds its client gone unsubscribes from inside the wake-up."""
    world = World(Group.SA.bit)

    def leave() -> None:
        world.events.unsubscribe(leaver)

    leaver = world.events.subscribe(Group.SA.bit, leave)
    last = world.events.subscribe(Group.SA.bit, world.wake)
    world.do(*NEW)
    assert KEY in last.take(), "SA events show keys, as the kernel's do"
