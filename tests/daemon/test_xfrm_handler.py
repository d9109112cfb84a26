"""NETLINK_XFRM, request by request, as bytes: 7.1, 7.2 and the errors that clients see (7.4)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.daemon.messages import KEY, POLICY, ROOT, STATE, STRANGER, answers, ask, refusal, request
from xfrmi.core import events
from xfrmi.core.engine import Engine
from xfrmi.core.events import Event
from xfrmi.daemon.events import Events
from xfrmi.daemon.xfrm_handler import XfrmHandler
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.address import pack_address
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_MULTI, NLM_F_REPLACE, Message
from xfrmi.wire.xfrm_attr import Group, Xfrma, XfrmMsg
from xfrmi.wire.xfrm_const import STATE_ESN, Default, Dir, Mode, SaDir
from xfrmi.wire.xfrm_msg import (
    AE_ETIMER_THRESH,
    AE_REPLAY_THRESH,
    Acquire,
    Aevent,
    Defaults,
    KmAddress,
    Migration,
    Move,
    PolicyExpiry,
    SpiRequest,
    StateExpiry,
    StateFilter,
    Thresholds,
)
from xfrmi.wire.xfrm_types import (
    Algorithm,
    Current,
    Encap,
    Mark,
    PolicyId,
    Replay,
    ReplayEsn,
    Selector,
    StateId,
    StateInfo,
    Template,
)

NOW = 1_000_000.0
STATE_ID = StateId(STATE.dst, STATE.spi)


class Kernel:
    """An engine behind the handler, at a clock that stands still."""

    def __init__(self) -> None:
        self.engine = Engine()
        self._events = Events(self.engine)
        self.handle = XfrmHandler(self.engine, self._events, lambda: NOW).handle

    def listen(self, *groups: Group) -> Callable[[], list[Message]]:
        """What comes to these groups from now on, since it was last asked."""
        subscriber = self._events.subscribe(sum(group.bit for group in groups), lambda: None)
        return lambda: [message for datagram in iter(subscriber.take, b"") for message in netlink.split(datagram)]

    def add(self, state: StateInfo = STATE) -> None:
        ask(self.handle, XfrmMsg.NEWSA, xfrm_msg.encode_state(state))

    def states(self, wanted: StateFilter | None = None) -> list[StateInfo]:
        body = xfrm_msg.encode_state_filter(wanted or StateFilter())
        return [xfrm_msg.decode_state_notice(m) for m in ask(self.handle, XfrmMsg.GETSA, body, NLM_F_DUMP)]

    def tables(self) -> tuple[object, ...]:
        """All there is to change, for comparison before and after."""
        return (
            [state.snapshot() for state in self.engine.states()],
            [policy.snapshot() for policy in self.engine.policies()],
            list(self.engine.spd.defaults),
        )


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


# What is answered at all (7.1) ---------------------------------------------------------------------------------------


def test_a_request_gets_an_acknowledgement_only_if_it_asks(kernel: Kernel) -> None:
    body = xfrm_msg.encode_state(STATE)
    assert answers(kernel.handle, request(XfrmMsg.NEWSA, body, flags=0)) == []
    (ack,) = answers(kernel.handle, request(XfrmMsg.UPDSA, body))
    assert (ack.type, ack.seq, ack.pid) == (netlink.NLMSG_ERROR, 5, 77)
    netlink.raise_error(ack)


def test_reply_comes_before_acknowledgement(kernel: Kernel) -> None:
    """NL-06."""
    kernel.add()
    reply, ack = answers(kernel.handle, request(XfrmMsg.GETSA, xfrm_msg.encode_state_id(STATE_ID)))
    assert (reply.type, reply.flags, reply.seq, reply.pid) == (XfrmMsg.NEWSA, 0, 5, 77)
    assert ack.type == netlink.NLMSG_ERROR


@pytest.mark.parametrize("kind", [0, netlink.NLMSG_NOOP, netlink.NLMSG_DONE, 0x0E])
def test_control_messages_are_acknowledged_and_do_nothing(kernel: Kernel, kind: int) -> None:
    """NL-02."""
    assert ask(kernel.handle, kind) == []


@pytest.mark.parametrize("kind", [0x29, 0xFFFF, XfrmMsg.NEWSADINFO, XfrmMsg.REPORT, XfrmMsg.MAPPING])
def test_types_without_a_handler(kernel: Kernel, kind: int) -> None:
    """NL-02."""
    assert refusal(kernel.handle, kind, bytes(300)).errno == errno.EINVAL


def test_what_is_no_request_is_none(kernel: Kernel) -> None:
    """Without NLM_F_REQUEST a message is acknowledged if it asks for that, and ignored."""
    message = netlink.message(XfrmMsg.NEWSA, NLM_F_ACK, 5, 77, xfrm_msg.encode_state(STATE))
    (ack,) = answers(kernel.handle, message)
    netlink.raise_error(ack)
    assert kernel.states() == []


@pytest.mark.parametrize("kind", sorted(set(XfrmMsg) - {XfrmMsg.FLUSHPOLICY}))
def test_a_body_shorter_than_its_struct(kernel: Kernel, kind: XfrmMsg) -> None:
    """NL-03. (A dump request is short by right, NL-07.)"""
    assert refusal(kernel.handle, kind, b"").errno == errno.EINVAL


def test_a_short_attribute_is_erange(kernel: Kernel) -> None:
    """NL-04."""
    body = xfrm_msg.encode_state(STATE) + netlink.attr(Xfrma.IF_ID, b"\1\0")
    failure = refusal(kernel.handle, XfrmMsg.NEWSA, body)
    assert (failure.errno, failure.extack) == (errno.ERANGE, "Attribute failed policy validation")


def test_unknown_attributes_and_trailing_garbage_are_ignored(kernel: Kernel) -> None:
    """NL-04."""
    ask(kernel.handle, XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE) + netlink.attr(4000, b"x") + b"\1\2\3")
    assert [state.spi for state in kernel.states()] == [STATE.spi]


@pytest.mark.parametrize("flags", [NLM_F_EXCL, NLM_F_CREATE, NLM_F_EXCL | NLM_F_CREATE | NLM_F_REPLACE])
def test_the_type_decides_not_the_flags(kernel: Kernel, flags: int) -> None:
    """NL-05: NEWSA never replaces, UPDSA never creates."""
    body = xfrm_msg.encode_state(STATE)
    assert refusal(kernel.handle, XfrmMsg.UPDSA, body, NLM_F_ACK | flags).errno == errno.ESRCH
    ask(kernel.handle, XfrmMsg.NEWSA, body, NLM_F_ACK | flags)
    assert refusal(kernel.handle, XfrmMsg.NEWSA, body, NLM_F_ACK | flags).errno == errno.EEXIST


@pytest.mark.parametrize(
    ("kind", "body", "flags"),
    [
        (XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE), NLM_F_ACK),
        (XfrmMsg.GETSA, b"", NLM_F_DUMP),
        (XfrmMsg.GETPOLICY, b"", NLM_F_DUMP),
        (XfrmMsg.GETSADINFO, xfrm_msg.encode_get_info(), 0),
    ],
)
def test_a_stranger_may_not_even_ask(kernel: Kernel, kind: int, body: bytes, flags: int) -> None:
    """NL-01."""
    (answer,) = answers(kernel.handle, request(kind, body, flags), STRANGER)
    with pytest.raises(netlink.XfrmError) as refused:
        netlink.raise_error(answer)
    assert refused.value.errno == errno.EPERM
    assert kernel.states() == []


def test_several_requests_in_one_datagram(kernel: Kernel) -> None:
    """As `ip -batch` and deleteall send them; one that fails does not end the others."""
    good, other = xfrm_msg.encode_state(STATE), xfrm_msg.encode_state(replace(STATE, spi=0x1002))
    datagram = b"".join(
        request(XfrmMsg.NEWSA, body, seq=seq) for seq, body in enumerate((good, good, other), start=1)
    )
    codes = [(m.seq, struct.unpack_from("=i", m.body)[0]) for m in answers(kernel.handle, datagram)]
    assert codes == [(1, 0), (2, -errno.EEXIST), (3, 0)]
    assert [state.spi for state in kernel.states()] == [0x1002, 0x1001]


def test_impossible_framing_ends_the_datagram(kernel: Kernel) -> None:
    good = request(XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE))
    (ack,) = answers(kernel.handle, good + b"\5\0\0\0" + bytes(20))
    netlink.raise_error(ack)


# States --------------------------------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_went_in(kernel: Kernel) -> None:
    state = replace(
        STATE,
        selector=Selector.parse("10.0.0.0/8", "10.1.0.0/16", proto=17, dport=53),
        flags=STATE_ESN, replay_esn=ReplayEsn(bitmap=(0,) * 4, replay_window=128),
        mark=Mark(5, 0xFF), set_mark=Mark(7, 0xFFFFFFFF), encap=Encap(2, 4500, 4501), extra_flags=1,
    )  # fmt: skip
    kernel.add(state)
    (reply,) = ask(kernel.handle, XfrmMsg.GETSA, xfrm_msg.encode_state_id(replace(STATE_ID, mark=Mark(5, 0xFF))))
    assert xfrm_msg.decode_state_notice(reply) == replace(state, current=Current(add_time=int(NOW)))


def test_4_3_algorithms_come_back_by_their_long_names(kernel: Kernel) -> None:
    """And with the length of the ICV: what was asked for as AUTH is both AUTH and AUTH_TRUNC from then on."""
    crypt, auth = Algorithm("aes", bytes(16)), Algorithm("sha256", bytes(32))
    kernel.add(replace(STATE, aead=None, crypt=crypt, auth=auth))
    (reply,) = ask(kernel.handle, XfrmMsg.GETSA, xfrm_msg.encode_state_id(STATE_ID))
    shown = xfrm_msg.decode_state_notice(reply)
    assert shown.crypt == Algorithm("cbc(aes)", bytes(16))
    assert shown.auth == Algorithm("hmac(sha256)", bytes(32))
    assert shown.auth_trunc == Algorithm("hmac(sha256)", bytes(32), 96)


def test_dump_is_multi_and_ends_with_done(kernel: Kernel) -> None:
    """NL-07; with NLM_F_ACK there is no acknowledgement beside DONE. Datagrams fit a 4096-byte buffer."""
    assert [m.type for m in answers(kernel.handle, request(XfrmMsg.GETSA, b"", NLM_F_DUMP))] == [netlink.NLMSG_DONE]
    for spi in range(0x1000, 0x1100):
        kernel.add(replace(STATE, spi=spi))
    datagrams = list(kernel.handle(request(XfrmMsg.GETSA, b"", NLM_F_DUMP | NLM_F_ACK), ROOT))
    assert max(map(len, datagrams)) <= 4096
    *entries, done = (m for datagram in datagrams for m in netlink.split(datagram))
    assert done.type == netlink.NLMSG_DONE
    assert {(m.type, m.flags, m.seq) for m in entries} == {(XfrmMsg.NEWSA, NLM_F_MULTI, 5)}
    spis = [xfrm_msg.decode_state_notice(m).spi for m in entries]
    assert spis == list(range(0x10FF, 0x0FFF, -1)), "the newest first"


@pytest.mark.parametrize(
    ("wanted", "spis"),
    [
        (StateFilter(), {1, 2, 3}),
        (StateFilter(proto=50), {1, 2, 3}),
        (StateFilter(proto=51), set()),
        (StateFilter(family=2, src=bytes([192, 0, 2, 0]), prefixlen_s=24, dst=bytes(4)), {1, 2}),
        (StateFilter(family=2, src=bytes(4), dst=bytes([198, 51, 100, 9]), prefixlen_d=32), {2}),
        (StateFilter(family=10, src=bytes(16), dst=bytes(16)), {3}),
    ],
)
def test_dump_filter(kernel: Kernel, wanted: StateFilter, spis: set[int]) -> None:
    """NL-08."""
    kernel.add(replace(STATE, spi=1))
    kernel.add(replace(STATE, spi=2, dst=bytes([198, 51, 100, 9])))
    kernel.add(StateInfo(src="2001:db8::1", dst="2001:db8::2", spi=3, mode=Mode.TUNNEL, aead=STATE.aead))
    assert {state.spi for state in kernel.states(wanted)} == spis


def test_dump_filter_with_an_impossible_prefix(kernel: Kernel) -> None:
    """NL-08."""
    body = xfrm_msg.encode_state_filter(StateFilter(family=2, src=bytes(4), prefixlen_s=129, dst=bytes(4)))
    assert refusal(kernel.handle, XfrmMsg.GETSA, body, NLM_F_DUMP).errno == errno.EINVAL


def test_delete(kernel: Kernel) -> None:
    """3.1: the key is destination, SPI and protocol; the if_id is not asked for."""
    kernel.add()
    ask(kernel.handle, XfrmMsg.DELSA, xfrm_msg.encode_state_id(STATE_ID))
    assert kernel.states() == []
    failure = refusal(kernel.handle, XfrmMsg.DELSA, xfrm_msg.encode_state_id(STATE_ID))
    assert (failure.errno, failure.extack) == (errno.ESRCH, "")


def test_alloc_spi_then_update(kernel: Kernel) -> None:
    """3.3: ALLOCSPI answers with the larval state, NEWSA on it is refused, UPDSA makes it valid."""
    larval = replace(STATE, spi=0, aead=None)
    body = xfrm_msg.encode_alloc_spi(SpiRequest(larval, 0x2000, 0x2000))
    (reply,) = ask(kernel.handle, XfrmMsg.ALLOCSPI, body)
    assert (reply.type, xfrm_msg.decode_state_notice(reply).spi) == (XfrmMsg.NEWSA, 0x2000)
    valid = xfrm_msg.encode_state(replace(STATE, spi=0x2000))
    assert refusal(kernel.handle, XfrmMsg.NEWSA, valid).errno == errno.EEXIST
    ask(kernel.handle, XfrmMsg.UPDSA, valid)
    (state,) = kernel.states()
    assert state.aead == STATE.aead


@pytest.mark.parametrize(("low", "high", "number"), [(9, 8, errno.EINVAL), (0, 0, errno.ENOENT)])
def test_alloc_spi_from_an_impossible_range(kernel: Kernel, low: int, high: int, number: int) -> None:
    body = xfrm_msg.encode_alloc_spi(SpiRequest(replace(STATE, spi=0, aead=None), low, high))
    assert refusal(kernel.handle, XfrmMsg.ALLOCSPI, body).errno == number


def test_alloc_spi_of_no_family(kernel: Kernel) -> None:
    """A deviation: the kernel takes it."""
    body = xfrm_msg.encode_alloc_spi(SpiRequest(replace(STATE, spi=0, aead=None, family=17), 9, 9))
    assert refusal(kernel.handle, XfrmMsg.ALLOCSPI, body).extack == "Invalid address family"
    assert kernel.states() == []


@pytest.mark.parametrize("kind", [XfrmMsg.GETSA, XfrmMsg.DELSA, XfrmMsg.GETAE])
def test_a_name_without_an_address_is_nobodys(kernel: Kernel, kind: int) -> None:
    body = xfrm_msg.encode_state_id(StateId(bytes(16), 5, family=17)).ljust(48, b"\0")
    assert refusal(kernel.handle, kind, body).errno == errno.ESRCH


def test_a_user_may_inject_acquires(kernel: Kernel) -> None:
    """7.2: one for each template, with the masks of the request; no state is made and nobody has to listen."""
    heard: list[Event] = []
    kernel.engine.subscribe(heard.append)
    other = replace(POLICY.templates[0], spi=9, reqid=8)
    policy = replace(POLICY, dir=Dir.IN, templates=(*POLICY.templates, other))
    wanted = Acquire(STATE.src, bytes(4), POLICY.selector, policy, 0, aalgos=1, ealgos=2, calgos=3)
    ask(kernel.handle, XfrmMsg.ACQUIRE, xfrm_msg.encode_acquire(wanted))
    first, second = heard
    assert isinstance(first, events.Acquire) and isinstance(second, events.Acquire)
    assert [event.state.spi for event in (first, second)] == [0, 9]
    assert [event.state.dst for event in (first, second)] == [STATE.dst] * 2
    assert second.state.seq == first.state.seq + 1
    assert [template.aalgos for template in first.policy.templates] == [1, 0xFFFFFFFF]
    assert [template.ealgos for template in second.policy.templates] == [2, 2]
    assert first.policy.dir == Dir.OUT
    assert kernel.states() == []


def test_flush_by_protocol(kernel: Kernel) -> None:
    kernel.add()
    ask(kernel.handle, XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(51))
    assert len(kernel.states()) == 1
    ask(kernel.handle, XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(0))
    assert kernel.states() == []


def test_a_user_may_expire_a_state(kernel: Kernel) -> None:
    soft, hard = (xfrm_msg.encode_state_expiry(StateExpiry(STATE, hard)) for hard in (False, True))
    assert refusal(kernel.handle, XfrmMsg.EXPIRE, hard).errno == errno.ENOENT
    kernel.add()
    ask(kernel.handle, XfrmMsg.EXPIRE, soft)
    assert len(kernel.states()) == 1
    ask(kernel.handle, XfrmMsg.EXPIRE, hard)
    assert kernel.states() == []


def test_replay_counters_can_be_set_and_read(kernel: Kernel) -> None:
    """As charon moves a state to other addresses: GETAE of the old, NEWAE of the new (7.7)."""
    kernel.add(replace(STATE, replay_window=32))
    counters = Replay(oseq=1000, seq=77, bitmap=3)
    aevent = Aevent(STATE_ID, replay=counters, current=Current(500, 5, int(NOW) - 9, int(NOW) - 1))
    body = xfrm_msg.encode_aevent(aevent)
    assert refusal(kernel.handle, XfrmMsg.NEWAE, body).errno == errno.EINVAL, "NL-05: takes NLM_F_REPLACE"
    ask(kernel.handle, XfrmMsg.NEWAE, body, NLM_F_ACK | NLM_F_REPLACE)
    (reply,) = ask(kernel.handle, XfrmMsg.GETAE, xfrm_msg.encode_aevent(Aevent(STATE_ID)))
    assert reply.type == XfrmMsg.NEWAE
    now = xfrm_msg.decode_aevent_notice(reply)
    assert (now.id, now.reqid, now.replay, now.current) == (STATE_ID, STATE.reqid, counters, aevent.current)


def test_thresholds_are_told_if_asked_for(kernel: Kernel) -> None:
    """3.7, 7.2: those of the sysctls until NEWAE sets others."""
    kernel.add()

    def told(flags: int) -> tuple[int | None, int | None]:
        (reply,) = ask(kernel.handle, XfrmMsg.GETAE, xfrm_msg.encode_aevent(Aevent(STATE_ID, flags=flags)))
        aevent = xfrm_msg.decode_aevent_notice(reply)
        return aevent.replay_thresh, aevent.etimer_thresh

    assert told(0) == (None, None)
    assert told(AE_REPLAY_THRESH) == (2, None)
    new = xfrm_msg.encode_aevent(Aevent(STATE_ID, replay_thresh=9, etimer_thresh=9))
    ask(kernel.handle, XfrmMsg.NEWAE, new, NLM_F_ACK | NLM_F_REPLACE)
    assert told(AE_REPLAY_THRESH | AE_ETIMER_THRESH) == (9, 9)


def test_a_migration_is_announced_to_its_group(kernel: Kernel) -> None:
    """7.5, NL-11: without sequence number and port, and without the if_id it asked for."""
    kernel.add()
    ask(kernel.handle, XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(POLICY))
    new = pack_address("198.51.100.7")
    wanted = Migration(
        POLICY.selector, POLICY.dir, (Move(STATE.src, STATE.dst, new, STATE.dst),), if_id=42,
        km_address=KmAddress(new, STATE.dst),
    )  # fmt: skip
    heard = kernel.listen(Group.SA, Group.POLICY, Group.MIGRATE)
    ask(kernel.handle, XfrmMsg.MIGRATE, xfrm_msg.encode_migration(wanted))
    (told,) = heard()
    assert (told.type, told.seq, told.pid) == (XfrmMsg.MIGRATE, 0, 0)
    assert xfrm_msg.decode_notice(told) == replace(wanted, if_id=0)
    assert [state.src for state in kernel.states()] == [new]


def test_set_replay_refusals(kernel: Kernel) -> None:
    nothing = xfrm_msg.encode_aevent(Aevent(STATE_ID))
    something = xfrm_msg.encode_aevent(Aevent(STATE_ID, replay=Replay(oseq=1)))
    flags = NLM_F_ACK | NLM_F_REPLACE
    assert refusal(kernel.handle, XfrmMsg.NEWAE, nothing, flags).errno == errno.EINVAL
    assert refusal(kernel.handle, XfrmMsg.NEWAE, something, flags).errno == errno.ESRCH
    assert refusal(kernel.handle, XfrmMsg.GETAE, nothing).errno == errno.ESRCH


def test_counts(kernel: Kernel) -> None:
    (reply,) = ask(kernel.handle, XfrmMsg.GETSADINFO, xfrm_msg.encode_get_info())
    info = xfrm_msg.decode_sad_info(reply)
    assert (reply.type, info.count, info.buckets, info.max_buckets) == (XfrmMsg.NEWSADINFO, 0, 8, 1048576)
    kernel.add()
    (reply,) = ask(kernel.handle, XfrmMsg.GETSADINFO, xfrm_msg.encode_get_info())
    assert xfrm_msg.decode_sad_info(reply).count == 1


# Policies ------------------------------------------------------------------------------------------------------------


def test_a_policy_comes_back_as_it_went_in(kernel: Kernel) -> None:
    ask(kernel.handle, XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(POLICY))
    policy_id = PolicyId(POLICY.selector, POLICY.dir, POLICY.if_id)
    (reply,) = ask(kernel.handle, XfrmMsg.GETPOLICY, xfrm_msg.encode_policy_id(policy_id))
    assert reply.type == XfrmMsg.NEWPOLICY
    shown = xfrm_msg.decode_policy_notice(reply)
    assert shown == replace(POLICY, index=shown.index, current=Current(add_time=int(NOW)))
    assert shown.index & 7 == Dir.OUT, "SPD-09"
    (entry,) = ask(kernel.handle, XfrmMsg.GETPOLICY, b"", NLM_F_DUMP)
    assert (entry.flags, xfrm_msg.decode_policy_notice(entry)) == (NLM_F_MULTI, shown)


def test_policy_new_update_delete(kernel: Kernel) -> None:
    """SPD-01, SPD-04, SPD-05, SPD-08."""
    body = xfrm_msg.encode_policy(POLICY)
    ask(kernel.handle, XfrmMsg.UPDPOLICY, body)
    assert refusal(kernel.handle, XfrmMsg.NEWPOLICY, body).errno == errno.EEXIST
    ask(kernel.handle, XfrmMsg.UPDPOLICY, xfrm_msg.encode_policy(replace(POLICY, priority=9)))
    (policy,) = kernel.engine.policies()
    assert policy.priority == 9
    by_index = xfrm_msg.encode_policy_id(PolicyId(dir=Dir.OUT, if_id=42, index=policy.index))
    ask(kernel.handle, XfrmMsg.DELPOLICY, by_index)
    assert refusal(kernel.handle, XfrmMsg.DELPOLICY, by_index).errno == errno.ENOENT


def test_policy_flush_and_expiry(kernel: Kernel) -> None:
    expiry = xfrm_msg.encode_policy_expiry(PolicyExpiry(POLICY, True))
    assert refusal(kernel.handle, XfrmMsg.POLEXPIRE, expiry).errno == errno.ENOENT
    for kind, body in ((XfrmMsg.POLEXPIRE, expiry), (XfrmMsg.FLUSHPOLICY, xfrm_msg.encode_flush_policies(0))):
        ask(kernel.handle, XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(POLICY))
        ask(kernel.handle, kind, body)
        assert list(kernel.engine.policies()) == []


def test_flush_takes_one_type(kernel: Kernel) -> None:
    """SPD-12."""
    ask(kernel.handle, XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(replace(POLICY, type=1)))
    ask(kernel.handle, XfrmMsg.FLUSHPOLICY)
    assert len(list(kernel.engine.policies())) == 1


def test_thresholds_and_counts(kernel: Kernel) -> None:
    ask(kernel.handle, XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(POLICY))
    ask(kernel.handle, XfrmMsg.NEWSPDINFO, xfrm_msg.encode_thresholds(Thresholds(ipv6=(64, 56))))
    (reply,) = ask(kernel.handle, XfrmMsg.GETSPDINFO, xfrm_msg.encode_get_info())
    info = xfrm_msg.decode_spd_info(reply)
    assert (info.count_in, info.count_out, info.count_fwd) == (0, 1, 0)
    assert (info.ipv4, info.ipv6) == ((32, 32), (64, 56))
    too_long = xfrm_msg.encode_thresholds(Thresholds(ipv4=(33, 0)))
    assert refusal(kernel.handle, XfrmMsg.NEWSPDINFO, too_long).errno == errno.EINVAL


def test_defaults(kernel: Kernel) -> None:
    """2.7: values that are neither block nor accept leave a direction alone."""
    body = xfrm_msg.encode_defaults(Defaults(Default.BLOCK, 7, Default.UNSPEC))
    ask(kernel.handle, XfrmMsg.SETDEFAULT, body)
    (reply,) = ask(kernel.handle, XfrmMsg.GETDEFAULT, xfrm_msg.encode_defaults(Defaults()))
    assert reply.type == XfrmMsg.GETDEFAULT
    assert xfrm_msg.decode_defaults(reply) == Defaults(Default.BLOCK, Default.ACCEPT, Default.ACCEPT)


# Refusals (7.4): errno and phrase, and nothing has changed ------------------------------------------------------------


def bad_state(**changes: object) -> Callable[[], bytes]:
    return lambda: xfrm_msg.encode_state(replace(STATE, **{"spi": 0x9999, **changes}))  # type: ignore[arg-type]


def bad_policy(**changes: object) -> Callable[[], bytes]:
    return lambda: xfrm_msg.encode_policy(replace(POLICY, **changes))  # type: ignore[arg-type]


AEAD = "rfc4106(gcm(aes))"
REFUSALS = [
    (XfrmMsg.NEWSA, bad_state(aead=None), errno.EINVAL, ""),
    (XfrmMsg.NEWSA, bad_state(aead=Algorithm("nosuch", KEY, 128)), errno.ENOSYS, "Requested AEAD algorithm not found"),
    (XfrmMsg.NEWSA, bad_state(aead=Algorithm(AEAD, KEY, 120)), errno.ENOSYS, "Requested AEAD algorithm not found"),
    (XfrmMsg.NEWSA, bad_state(aead=Algorithm(AEAD, KEY[1:], 128)), errno.EINVAL,
     "Kernel was unable to initialize cryptographic operations"),
    (XfrmMsg.NEWSA, bad_state(flags=STATE_ESN), errno.EINVAL, ""),
    (XfrmMsg.NEWSA, bad_state(dir=SaDir.OUT, replay_window=32), errno.EINVAL, ""),
    (XfrmMsg.NEWSA, bad_state(mode=Mode.IN_TRIGGER), errno.EINVAL, "Unsupported mode"),
    (XfrmMsg.NEWSA, bad_state(proto=17), errno.EINVAL, "Unsupported protocol"),
    (XfrmMsg.NEWSA, bad_state(spi=STATE.spi), errno.EEXIST, ""),
    (XfrmMsg.NEWSA, bad_state(spi=STATE.spi, if_id=43, reqid=9, src=b"\xc6\x33\x64\x01"), errno.EEXIST, ""),
    (XfrmMsg.UPDSA, bad_state(), errno.ESRCH, ""),
    (XfrmMsg.NEWPOLICY, bad_policy(dir=3), errno.EINVAL, "Invalid policy direction"),
    (XfrmMsg.NEWPOLICY, bad_policy(action=2), errno.EINVAL, "Invalid policy action"),
    (XfrmMsg.NEWPOLICY, bad_policy(index=8, dir=Dir.OUT), errno.EINVAL, "Policy index doesn't match direction"),
    (XfrmMsg.NEWPOLICY, bad_policy(selector=Selector()), errno.EINVAL, "Invalid selector family"),
    (XfrmMsg.NEWPOLICY, bad_policy(type=2), errno.EINVAL, "Invalid policy type"),
    (XfrmMsg.NEWPOLICY, bad_policy(templates=POLICY.templates * 7), errno.EINVAL, ""),
    (XfrmMsg.NEWPOLICY, bad_policy(templates=(Template(proto=0),)), errno.EINVAL, ""),
    (XfrmMsg.MIGRATE, lambda: bytes(64), errno.EINVAL, ""),
    (XfrmMsg.MIGRATE, lambda: bytes(64) + netlink.attr(Xfrma.MIGRATE, bytes(76)), errno.EAFNOSUPPORT, ""),
    (XfrmMsg.ACQUIRE, lambda: bytes(280), errno.EINVAL, ""),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "body", "number", "extack"), REFUSALS)
def test_a_refusal_changes_nothing(
    kernel: Kernel, kind: int, body: Callable[[], bytes], number: int, extack: str
) -> None:
    kernel.add()
    before = kernel.tables()
    failure = refusal(kernel.handle, kind, body())
    assert failure.errno == number
    if extack:
        assert failure.extack == extack
    assert KEY.hex() not in f"{failure} {failure.extack} {failure.detail}"
    assert kernel.tables() == before


# Anything at all ------------------------------------------------------------------------------------------------------


@given(datagram=st.binary(max_size=400))
def test_any_bytes_are_answered_or_ignored(datagram: bytes) -> None:
    answers(Kernel().handle, datagram)


@given(
    kind=st.integers(0, 0x2A),
    flags=st.sampled_from([0, NLM_F_ACK, NLM_F_DUMP, NLM_F_REPLACE | NLM_F_ACK]),
    body=st.binary(max_size=300),
)
def test_any_request_is_answered_in_kind(kind: int, flags: int, body: bytes) -> None:
    """Whatever it says: no exception, and where an answer is owed there is one, with the request's sequence number."""
    replies = answers(Kernel().handle, request(kind, body, flags))
    assert all((reply.seq, reply.pid) == (5, 77) for reply in replies)
    if flags & NLM_F_ACK:
        assert replies


@settings(deadline=None)
@given(at=st.integers(0, 300), value=st.integers(0, 255), kind=st.sampled_from([XfrmMsg.NEWSA, XfrmMsg.UPDSA]))
def test_a_state_with_one_byte_changed(at: int, value: int, kind: int) -> None:
    """All or nothing: after a refusal the table is as before."""
    kernel = Kernel()
    kernel.add()
    before = kernel.tables()
    body = bytearray(xfrm_msg.encode_state(replace(STATE, spi=0x1002)))
    body[at % len(body)] = value
    (answer,) = answers(kernel.handle, request(kind, bytes(body)))
    if struct.unpack_from("=i", answer.body)[0]:
        assert kernel.tables() == before
