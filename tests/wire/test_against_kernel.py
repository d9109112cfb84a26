"""The kernel at hand as the judge of our xfrm messages, in a network namespace of its own.

What we send it takes; what it sends decodes to what we asked for and encodes to its very bytes; what it refuses for
its form we refuse with the same words. Works without ESP in the kernel: policies, larval states, defaults, counts and
all checks that come before an algorithm is looked up are there whenever NETLINK_XFRM is.
"""

from __future__ import annotations

import errno
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.netns import in_netns, ip, sysctl
from tests.wire.test_xfrm_refusals import FAILED, LENGTH, RANGE, REFUSALS, SHORT, TOLERATED
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.address import pack_address
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Message, attr, attr_u8
from xfrmi.wire.xfrm_attr import SIZES, Group, Xfrma, XfrmMsg, dump_attrs
from xfrmi.wire.xfrm_const import Action, Default, Dir, Mode, PolicyType
from xfrmi.wire.xfrm_msg import (
    Acquire,
    Aevent,
    Defaults,
    SadInfo,
    SpdInfo,
    SpiRequest,
    StateExpiry,
    StateFilter,
    Thresholds,
)
from xfrmi.wire.xfrm_types import (
    Algorithm,
    Current,
    Encap,
    Limits,
    Mark,
    PolicyId,
    PolicyInfo,
    ReplayEsn,
    Selector,
    StateId,
    StateInfo,
    Template,
)

RELEASE = tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])
recent = pytest.mark.skipif(RELEASE < (6, 18), reason=f"ITS WORDS ARE THOSE OF LINUX 6.18, NOT TESTED ON {RELEASE}")

NETLINK_XFRM = 6
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 1, 10, 11


class Kernel:
    """A NETLINK_XFRM socket, its requests one at a time."""

    def __init__(self, *groups: Group) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM)
        except OSError as error:
            pytest.skip(f"THIS KERNEL HAS NO NETLINK_XFRM, NOT TESTED: {error}")
        self._socket.bind((0, 0))
        self._socket.settimeout(5)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._seq = 0

    def messages(self) -> Iterator[Message]:
        while True:
            yield from netlink.split(self._socket.recv(65536))

    def ask(self, kind: int, body: bytes, flags: int = NLM_F_ACK) -> list[Message]:
        """The answers before the acknowledgement or the end of the dump. XfrmError if the kernel refuses."""
        self._seq += 1
        self._socket.send(netlink.message(kind, NLM_F_REQUEST | flags, self._seq, 0, body))
        answers = []
        for message in self.messages():
            if message.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
                netlink.raise_error(message)
                return answers
            answers.append(message)
        raise AssertionError

    def only(self, kind: int, body: bytes, flags: int = NLM_F_ACK) -> Message:
        (message,) = self.ask(kind, body, flags)
        return message

    def next(self) -> Message:
        return next(self.messages())


def refusal(kernel: Kernel, kind: int, body: bytes, flags: int = NLM_F_ACK) -> tuple[int, str] | None:
    try:
        kernel.ask(kind, body, flags)
    except XfrmError as error:
        return error.errno, error.extack
    return None


# Policies

TUNNEL4 = Template(pack_address("192.0.2.1"), pack_address("192.0.2.2"), reqid=7)
TUNNEL6 = Template(pack_address("2001:db8::1"), pack_address("2001:db8::2"), spi=0x12345678, reqid=0xFFFFFFFF)
OPTIONAL6 = Template(bytes(16), bytes(16), mode=Mode.TRANSPORT, optional=1)
POLICIES = [
    PolicyInfo(Selector.parse(), Dir.OUT),
    PolicyInfo(Selector.parse("10.0.0.0/8", "10.1.0.0/16", proto=6, sport=80, dport=443), Dir.IN, 42, (TUNNEL4,)),
    PolicyInfo(Selector.parse("10.0.0.0/8", "10.1.0.1/32", ifindex=1), Dir.FWD, 0xFFFFFFFF, (TUNNEL4,) * 5),
    PolicyInfo(Selector.parse("2001:db8::/32", "::/0", proto=58), Dir.OUT, 1, (TUNNEL6,), mark=Mark(5, 7)),
    PolicyInfo(Selector.parse("2001:db8::1/128"), Dir.OUT, 2, (OPTIONAL6, TUNNEL4), priority=0xFFFFFFFF),
    PolicyInfo(Selector.parse("10.9.0.0/16"), Dir.OUT, action=Action.BLOCK, flags=3, type=PolicyType.SUB),
    PolicyInfo(
        Selector.parse("10.8.0.0/16"), Dir.IN, 3,
        (replace(TUNNEL4, mode=Mode.TRANSPORT, aalgos=1, ealgos=2, calgos=3), replace(TUNNEL4, proto=108)),
        limits=Limits(1, 2, 3, 4, 3600, 7200, 50, 60),
    ),
]  # fmt: skip


def without_kernel_fields(info: PolicyInfo) -> PolicyInfo:
    """What a policy has only once it is installed."""
    return replace(info, index=0, current=Current())


@in_netns
def test_policies_go_in_and_come_out_the_same() -> None:
    kernel = Kernel()
    for info in POLICIES:
        kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(info))
    dump = kernel.ask(XfrmMsg.GETPOLICY, b"", NLM_F_DUMP)
    assert len(dump) == len(POLICIES)
    shown = [xfrm_msg.decode_notice(message) for message in dump]
    assert all(isinstance(info, PolicyInfo) and info.index and info.current.add_time for info in shown)
    assert all(without_kernel_fields(info) in POLICIES for info in shown if isinstance(info, PolicyInfo))
    for message, info in zip(dump, shown, strict=True):
        assert isinstance(info, PolicyInfo)
        assert xfrm_msg.encode_policy(info) == bytes(message.body)


@in_netns
def test_policies_are_found_by_id_and_index() -> None:
    kernel = Kernel()
    for info in POLICIES:
        kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(info))
    for info in POLICIES:
        by_selector = PolicyId(info.selector, info.dir, info.if_id, mark=info.mark, type=info.type)
        found = xfrm_msg.decode_notice(kernel.only(XfrmMsg.GETPOLICY, xfrm_msg.encode_policy_id(by_selector)))
        assert isinstance(found, PolicyInfo) and without_kernel_fields(found) == info
        by_index = replace(by_selector, selector=Selector(), index=found.index)
        again = kernel.only(XfrmMsg.GETPOLICY, xfrm_msg.encode_policy_id(by_index))
        assert xfrm_msg.decode_notice(again) == found
        kernel.ask(XfrmMsg.DELPOLICY, xfrm_msg.encode_policy_id(by_index))
    assert kernel.ask(XfrmMsg.GETPOLICY, b"", NLM_F_DUMP) == []


@in_netns
def test_policy_notifications() -> None:
    """7.2, NL-11: what the groups POLICY and EXPIRE hear, byte for byte."""
    kernel, listener = Kernel(), Kernel(Group.POLICY, Group.EXPIRE)
    info = POLICIES[1]

    def heard(kind: int) -> object:
        message = listener.next()
        assert message.type == kind
        return xfrm_msg.decode_notice(message), bytes(message.body)

    kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(info))
    added, body = heard(XfrmMsg.NEWPOLICY)  # type: ignore[misc]
    assert without_kernel_fields(added) == info and xfrm_msg.encode_policy(added) == body
    kernel.ask(XfrmMsg.UPDPOLICY, xfrm_msg.encode_policy(replace(info, priority=9)))
    updated, body = heard(XfrmMsg.UPDPOLICY)  # type: ignore[misc]
    assert updated.priority == 9 and xfrm_msg.encode_policy(updated) == body

    name = PolicyId(info.selector, info.dir, info.if_id)
    kernel.ask(XfrmMsg.DELPOLICY, xfrm_msg.encode_policy_id(name))
    deleted, body = heard(XfrmMsg.DELPOLICY)  # type: ignore[misc]
    assert deleted == updated and xfrm_msg.encode_policy_deleted(deleted) == body
    kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(info))
    added, _ = heard(XfrmMsg.NEWPOLICY)  # type: ignore[misc]
    by_index = replace(name, selector=Selector(), index=added.index)
    kernel.ask(XfrmMsg.DELPOLICY, xfrm_msg.encode_policy_id(by_index))
    deleted, body = heard(XfrmMsg.DELPOLICY)  # type: ignore[misc]
    assert deleted == added and xfrm_msg.encode_policy_deleted(deleted, by_index=True) == body

    kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(info))
    heard(XfrmMsg.NEWPOLICY)
    kernel.ask(XfrmMsg.POLEXPIRE, xfrm_msg.encode_policy_expiry(xfrm_msg.PolicyExpiry(info, True)))
    expired, body = heard(XfrmMsg.POLEXPIRE)  # type: ignore[misc]
    while isinstance(expired, PolicyInfo):
        expired, body = heard(XfrmMsg.POLEXPIRE)  # type: ignore[misc]
    assert expired.hard and without_kernel_fields(expired.info) == info
    assert xfrm_msg.encode_policy_expiry(expired) == body

    kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(info))
    heard(XfrmMsg.NEWPOLICY)
    kernel.ask(XfrmMsg.FLUSHPOLICY, xfrm_msg.encode_flush_policies(PolicyType.MAIN))
    assert heard(XfrmMsg.FLUSHPOLICY) == (PolicyType.MAIN, xfrm_msg.encode_flush_policies(PolicyType.MAIN))
    kernel.ask(XfrmMsg.SETDEFAULT, xfrm_msg.encode_defaults(Defaults(Default.BLOCK, 0, Default.ACCEPT)))
    told = Defaults(Default.BLOCK, Default.ACCEPT, Default.ACCEPT)
    default, body = heard(XfrmMsg.GETDEFAULT)  # type: ignore[misc]
    assert default == told and body == xfrm_msg.encode_defaults(told)


@in_netns
def test_iproute2_and_we_mean_the_same_policy() -> None:
    kernel = Kernel()
    command = (
        "ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 proto tcp sport 80 dport 443 dir in if_id 42 "
        "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode tunnel"
    )
    if shutil.which("ip") is None:
        pytest.skip("NO iproute2 HERE, NOT TESTED")
    subprocess.run(command.split(), check=True)
    (message,) = kernel.ask(XfrmMsg.GETPOLICY, b"", NLM_F_DUMP)
    info = xfrm_msg.decode_notice(message)
    assert isinstance(info, PolicyInfo) and without_kernel_fields(info) == POLICIES[1]


# Counts and defaults


@in_netns
def test_counts_and_defaults() -> None:
    kernel = Kernel()
    message = kernel.only(XfrmMsg.GETSADINFO, xfrm_msg.encode_get_info(5))
    assert xfrm_msg.decode_notice(message) == SadInfo()
    assert xfrm_msg.encode_sad_info(SadInfo(), flags=5) == bytes(message.body)

    kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(POLICIES[0]))
    kernel.ask(XfrmMsg.NEWSPDINFO, xfrm_msg.encode_thresholds(Thresholds((24, 16), (64, 48))))
    message = kernel.only(XfrmMsg.GETSPDINFO, xfrm_msg.encode_get_info())
    info = SpdInfo(count_out=1, ipv4=(24, 16), ipv6=(64, 48))
    assert xfrm_msg.decode_notice(message) == info
    assert xfrm_msg.encode_spd_info(info, flags=0xFFFFFFFF) == bytes(message.body)

    kernel.ask(XfrmMsg.SETDEFAULT, xfrm_msg.encode_defaults(Defaults(fwd=Default.BLOCK)))
    message = kernel.only(XfrmMsg.GETDEFAULT, xfrm_msg.encode_defaults(Defaults()))
    assert xfrm_msg.decode_notice(message) == Defaults(Default.ACCEPT, Default.BLOCK, Default.ACCEPT)


# States: larval ones live in any kernel

LARVAL4 = StateInfo("192.0.2.1", "192.0.2.2", mode=Mode.TUNNEL, reqid=5, if_id=42, mark=Mark(1, 3), dir=1)
LARVAL6 = StateInfo("2001:db8::1", "2001:db8::2", mode=Mode.TRANSPORT, reqid=6)


def with_open_family(body: bytes, at: int = 0) -> bytes:
    """The kernel leaves the family of a larval state's selector at zero; read, it is the state's (2.5)."""
    return body[: at + 40] + bytes(2) + body[at + 42 :]


def larval(kernel: Kernel, info: StateInfo, low: int, high: int) -> tuple[StateInfo, bytes]:
    body = xfrm_msg.encode_alloc_spi(SpiRequest(info, low, high))
    message = kernel.only(XfrmMsg.ALLOCSPI, body)
    state = xfrm_msg.decode_notice(message)
    assert message.type == XfrmMsg.NEWSA and isinstance(state, StateInfo)
    return state, bytes(message.body)


@recent
@in_netns
def test_larval_states() -> None:
    """ALLOCSPI, GETSA, its dump and filters, GETAE, DELSA and its notification, FLUSHSA and its."""
    kernel, listener = Kernel(), Kernel(Group.SA)
    states = []
    for info, spi in ((LARVAL4, 0x100), (LARVAL6, 0x10203)):
        state, body = larval(kernel, info, spi, spi)
        states.append(state)
        assert (state.src, state.dst, state.spi, state.mode) == (info.src, info.dst, spi, info.mode)
        assert (state.reqid, state.if_id, state.mark, state.dir) == (info.reqid, info.if_id, info.mark, info.dir)
        assert with_open_family(xfrm_msg.encode_state(state, reply=True)) == body
        name = StateId(state.dst, state.spi, mark=state.mark)
        message = kernel.only(XfrmMsg.GETSA, xfrm_msg.encode_state_id(name))
        assert xfrm_msg.decode_notice(message) == state and bytes(message.body) == body
        message = kernel.only(XfrmMsg.GETAE, xfrm_msg.encode_aevent(Aevent(name, flags=xfrm_msg.AE_ETIMER_THRESH)))
        aevent = xfrm_msg.decode_notice(message)
        assert isinstance(aevent, Aevent) and (aevent.id, aevent.src, aevent.reqid) == (name, state.src, state.reqid)
        assert (aevent.current, aevent.dir) == (state.current, state.dir) and aevent.etimer_thresh is not None
        assert xfrm_msg.encode_aevent(aevent, reply=True) == bytes(message.body)

    def dump(wanted: StateFilter) -> list[object]:
        answers = kernel.ask(XfrmMsg.GETSA, xfrm_msg.encode_state_filter(wanted), NLM_F_DUMP)
        assert all(message.flags & netlink.NLM_F_MULTI for message in answers)
        return sorted(map(xfrm_msg.decode_notice, answers), key=lambda state: state.spi)  # type: ignore[union-attr]

    assert dump(StateFilter()) == states
    assert dump(StateFilter(50, LARVAL4.family, LARVAL4.src, 24, LARVAL4.dst, 32)) == states[:1]
    assert dump(StateFilter(51)) == []
    v6 = StateFilter(0, LARVAL6.family, pack_address("2001:db8::"), 32, bytes(16), 0)
    assert dump(v6) == states[1:]

    kernel.ask(XfrmMsg.DELSA, xfrm_msg.encode_state_id(StateId(states[0].dst, states[0].spi, mark=states[0].mark)))
    message = listener.next()
    assert message.type == XfrmMsg.DELSA and xfrm_msg.decode_notice(message) == states[0]
    assert with_open_family(xfrm_msg.encode_state_deleted(states[0]), 28) == bytes(message.body)
    kernel.ask(XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(50))
    message = listener.next()
    while message.type != XfrmMsg.FLUSHSA:
        message = listener.next()
    assert xfrm_msg.decode_notice(message) == 50


@recent
@in_netns
def test_a_larval_state_expires() -> None:
    """3.3: hard, and with its direction."""
    try:
        sysctl("net.core.xfrm_acq_expires", 1)
    except OSError as error:
        pytest.skip(f"LARVAL STATES LIVE HALF A MINUTE HERE, NOT TESTED: {error}")
    kernel, listener = Kernel(), Kernel(Group.EXPIRE)
    state, _ = larval(kernel, LARVAL4, 0x100, 0x100)
    message = listener.next()
    expiry = xfrm_msg.decode_notice(message)
    assert isinstance(expiry, StateExpiry) and expiry.hard
    assert (expiry.info.dst, expiry.info.spi) == (state.dst, 0x100)
    assert (expiry.info.mark, expiry.info.if_id, expiry.info.dir) == (state.mark, state.if_id, state.dir)
    assert with_open_family(xfrm_msg.encode_state_expiry(expiry, reply=True)) == bytes(message.body)


@pytest.mark.parametrize(
    "family, target, template",
    [(socket.AF_INET, "10.1.0.5", TUNNEL4), (socket.AF_INET6, "2001:db8:5::5", TUNNEL4),
     (socket.AF_INET6, "2001:db8:5::6", TUNNEL6)],
    ids=["v4", "v6-in-v4", "v6"],
)  # fmt: skip
def test_a_packet_acquires(family: int, target: str, template: Template) -> None:
    """7.6: the ACQUIRE of a packet that met a policy and no state."""

    @in_netns
    def run() -> None:
        sysctl("net.ipv4.conf.lo.disable_xfrm", 0)
        ip(f"route add local {target} dev lo")
        ip(f"addr add {'192.0.2.1/32' if '.' in target else '2001:db8::1/128 dev lo nodad'} dev lo")
        kernel, listener = Kernel(), Kernel(Group.ACQUIRE)
        info = PolicyInfo(
            Selector.parse("", target), Dir.OUT, mark=Mark(0, 1), templates=(replace(template, aalgos=1, ealgos=2),)
        )
        kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(info))
        with socket.socket(family, socket.SOCK_DGRAM) as client, suppress(OSError):
            client.setblocking(False)
            client.connect((target, 4242))
            client.send(b"x")
        message = listener.next()
        acquire = xfrm_msg.decode_notice(message)
        assert isinstance(acquire, Acquire) and without_kernel_fields(acquire.policy) == info
        assert (acquire.src, acquire.dst, acquire.spi) == (template.src, template.dst, template.spi)
        assert (acquire.selector.daddr, acquire.selector.dport) == (pack_address(target), 4242)
        assert acquire.seq and (acquire.aalgos, acquire.ealgos) == (1, 2)
        assert xfrm_msg.encode_acquire(acquire) == bytes(message.body)

    run()


STATES = [
    StateInfo("192.0.2.1", "192.0.2.2", 0x1000, aead=Algorithm("rfc4106(gcm(aes))", bytes(20), 128)),
    StateInfo(
        "2001:db8::1", "2001:db8::2", 0x1000, mode=Mode.TUNNEL, aead=Algorithm("rfc4106(gcm(aes))", bytes(36), 64),
        replay_esn=ReplayEsn((0,) * 128, replay_window=4096), flags=128, if_id=1, mark=Mark(1, 1), set_mark=Mark(1, 1),
        encap=Encap(), tfcpad=9, dir=1, nat_keepalive_interval=0, mtimer_thresh=5,
    ),
    StateInfo(
        "192.0.2.1", "192.0.2.2", 0x1000, auth=Algorithm("hmac(sha1)", bytes(20)),
        auth_trunc=Algorithm("hmac(sha1)", bytes(20), 96), crypt=Algorithm("cbc(aes)", bytes(16)), lastused=5,
    ),
]  # fmt: skip


@in_netns
def test_the_form_of_our_states_is_right() -> None:
    """A kernel without ESP looks for the algorithm or the type, and looks only after the form has passed."""
    kernel = Kernel()
    for info in STATES:
        assert (refusal(kernel, XfrmMsg.NEWSA, xfrm_msg.encode_state(info)) or (0,))[0] in (
            0, errno.ENOSYS, errno.EPROTONOSUPPORT,
        )  # fmt: skip


# Refusals: the kernel's words are ours


def ours(kind: int, body: bytes, flags: int) -> tuple[int, str] | None:
    try:
        xfrm_msg.decode_request(Message(kind, NLM_F_REQUEST | flags, 1, 1, memoryview(body)))
    except XfrmError as error:
        return error.errno, error.extack
    return None


@recent
@in_netns
def test_refusals() -> None:
    """NL-02 to NL-05, 3.6, 7.4."""
    kernel = Kernel()
    for case in REFUSALS:
        verdict = refusal(kernel, case.kind, case.body, case.flags | NLM_F_ACK)
        assert verdict == (case.errno, case.extack), case.what


@recent
@in_netns
def test_tolerance() -> None:
    """NL-04: nothing wrong with the form; what the kernel thinks of the content comes later."""
    kernel = Kernel()
    forms = {SHORT, FAILED, RANGE, LENGTH}
    for what, kind, body in TOLERATED:
        verdict = refusal(kernel, kind, body, NLM_F_DUMP if kind == XfrmMsg.GETSA else NLM_F_ACK)
        assert verdict is None or verdict[1] not in forms, what


LENGTHS = (*range(14), 15, 16, 23, 24, *range(31, 41), 63, 64, *range(67, 77), 167, 168, 223, 224)


@recent
@in_netns
def test_every_attribute_of_every_length() -> None:
    """NL-04, 3.6: one too short, right, one too long, in a request that needs none."""
    kernel = Kernel()
    for kind in Xfrma:
        for size in (
            *range(10),
            *range(11, 14),
            15,
            16,
            23,
            24,
            *range(31, 41),
            63,
            64,
            *range(67, 77),
            167,
            168,
            223,
            224,
        ):
            body = attr(kind, b"\0" * size)
            if kind in (Xfrma.POLICY_TYPE, Xfrma.PAD):
                continue
            assert refusal(kernel, XfrmMsg.FLUSHPOLICY, body) == ours(XfrmMsg.FLUSHPOLICY, body, 0), (kind, size)


@recent
@in_netns
def test_fixed_parts_are_as_long_as_the_kernels() -> None:
    """7.2, NL-03: one byte less is too short, and no other answer is."""
    kernel = Kernel()
    for kind, size in SIZES.items():
        short, full = (refusal(kernel, kind, bytes(length)) for length in (max(size - 1, 0), size))
        too_short = (errno.EINVAL, "Invalid header length")
        assert full != too_short
        if kind != XfrmMsg.NEWSADINFO and size:
            assert short == too_short, kind


def test_a_dump_has_no_fixed_part() -> None:
    """NL-07, NL-08: its attributes start at once."""
    body = attr_u8(Xfrma.PROTO, 50)
    assert list(dump_attrs(Message(XfrmMsg.GETSA, NLM_F_DUMP, 1, 1, memoryview(body)))) == [Xfrma.PROTO]
