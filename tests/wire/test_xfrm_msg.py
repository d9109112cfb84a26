"""xfrm messages: what is encoded is decoded, layouts are the kernel's, and no byte string brings the decoder down."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.wire import xfrm_values as values
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.address import pack_address
from xfrmi.wire.netlink import Message
from xfrmi.wire.xfrm_attr import SIZES, Xfrma, message_attrs
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, Mode
from xfrmi.wire.xfrm_msg import (
    Acquire,
    Aevent,
    Defaults,
    Group,
    Mapping,
    PolicyExpiry,
    SadInfo,
    SpdInfo,
    SpiRequest,
    StateExpiry,
    StateFilter,
    Thresholds,
    XfrmMsg,
)
from xfrmi.wire.xfrm_types import (
    NO_LIMITS,
    Algorithm,
    Current,
    Encap,
    Mark,
    PolicyId,
    PolicyInfo,
    Replay,
    ReplayEsn,
    Selector,
    StateId,
    StateInfo,
    Template,
)

KEY = bytes(range(20))
REQUEST = netlink.NLM_F_REQUEST
few = settings(max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def framed(kind: int, body: bytes, flags: int = REQUEST) -> Message:
    (message,) = netlink.split(netlink.message(kind, flags, 1, 2, body))
    return message


def request(kind: int, body: bytes, flags: int = REQUEST) -> xfrm_msg.Request:
    return xfrm_msg.decode_request(framed(kind, body, flags))


def notice(kind: int, body: bytes) -> xfrm_msg.Notice:
    return xfrm_msg.decode_notice(framed(kind, body))


def refusal(kind: int, body: bytes, flags: int = REQUEST) -> tuple[int, str]:
    with pytest.raises(XfrmError) as caught:
        request(kind, body, flags)
    return caught.value.errno, caught.value.extack


# Both ways


@few
@given(values.states, values.maybe(values.replays_esn))
def test_state_requests(info: StateInfo, replay_esn: ReplayEsn | None) -> None:
    if replay_esn is not None:
        info = replace(info, replay_esn=replay_esn, replay=None)
    for kind in (XfrmMsg.NEWSA, XfrmMsg.UPDSA):
        assert request(kind, xfrm_msg.encode_state(info)) == info


@few
@given(values.states)
def test_state_notices_say_what_the_kernel_always_says(info: StateInfo) -> None:
    """7.3: ALG_AUTH beside ALG_AUTH_TRUNC, REPLAY_VAL when there is no REPLAY_ESN_VAL."""
    shown = info.auth
    if shown is None and info.auth_trunc is not None:
        shown = Algorithm(info.auth_trunc.name, info.auth_trunc.key)
    full = replace(info, auth=shown, replay=info.replay or Replay())
    assert notice(XfrmMsg.NEWSA, xfrm_msg.encode_state(info, reply=True)) == full
    assert notice(XfrmMsg.UPDSA, xfrm_msg.encode_state(info, reply=True)) == full
    assert notice(XfrmMsg.DELSA, xfrm_msg.encode_state_deleted(info)) == full


@few
@given(values.state_expiries)
def test_state_expiries(expiry: StateExpiry) -> None:
    """What travels: usersa_info, MARK, IF_ID; SA_PCPU and SA_DIR in a notification only (3.6)."""
    info = expiry.info
    told = StateInfo(
        src=info.src, dst=info.dst, spi=info.spi, proto=info.proto, mode=info.mode, reqid=info.reqid, if_id=info.if_id,
        family=info.family, selector=info.selector, flags=info.flags, replay_window=info.replay_window, mark=info.mark,
        limits=info.limits, current=info.current, stats=info.stats, seq=info.seq, dir=info.dir, pcpu=info.pcpu,
    )  # fmt: skip
    assert notice(XfrmMsg.EXPIRE, xfrm_msg.encode_state_expiry(expiry, reply=True)) == replace(expiry, info=told)
    asked = replace(told, dir=0, pcpu=None)
    assert request(XfrmMsg.EXPIRE, xfrm_msg.encode_state_expiry(expiry)) == replace(expiry, info=asked)


@few
@given(values.spi_requests)
def test_spi_requests(wanted: SpiRequest) -> None:
    """3.3: what a larval state does not have is not even looked at."""
    info = wanted.info
    told = StateInfo(
        src=info.src, dst=info.dst, spi=info.spi, proto=info.proto, mode=info.mode, reqid=info.reqid, if_id=info.if_id,
        family=info.family, selector=info.selector, flags=info.flags, replay_window=info.replay_window, mark=info.mark,
        limits=info.limits, current=info.current, stats=info.stats, seq=info.seq, dir=info.dir, pcpu=info.pcpu,
    )  # fmt: skip
    assert request(XfrmMsg.ALLOCSPI, xfrm_msg.encode_alloc_spi(wanted)) == wanted._replace(info=told)


@few
@given(values.aevents)
def test_aevents(aevent: Aevent) -> None:
    if aevent.replay_esn is not None:
        aevent = replace(aevent, replay=None)
    told = aevent if aevent.replay_esn is not None else replace(aevent, replay=aevent.replay or Replay())
    assert notice(XfrmMsg.NEWAE, xfrm_msg.encode_aevent(aevent, reply=True)) == told
    asked = replace(aevent, dir=0, pcpu=None)
    named = Aevent(aevent.id, aevent.src, aevent.reqid, aevent.flags, if_id=aevent.if_id)
    assert request(XfrmMsg.GETAE, xfrm_msg.encode_aevent(aevent)) == replace(named, id=replace(named.id, src=b""))
    settable = replace(asked, current=aevent.current or Current(1, 2, 3, 4))
    body = xfrm_msg.encode_aevent(settable)
    assert request(XfrmMsg.NEWAE, body, REQUEST | netlink.NLM_F_REPLACE) == settable


@few
@given(values.policies)
def test_policies(info: PolicyInfo) -> None:
    for kind in (XfrmMsg.NEWPOLICY, XfrmMsg.UPDPOLICY):
        assert request(kind, xfrm_msg.encode_policy(info)) == info
        assert notice(kind, xfrm_msg.encode_policy(info)) == info
    for by_index in (False, True):
        assert notice(XfrmMsg.DELPOLICY, xfrm_msg.encode_policy_deleted(info, by_index=by_index)) == info


Encode = Callable[..., bytes]
SAME_BOTH_WAYS = [
    (values.state_ids, xfrm_msg.encode_state_id, [XfrmMsg.DELSA, XfrmMsg.GETSA], []),
    (values.policy_ids, xfrm_msg.encode_policy_id, [XfrmMsg.DELPOLICY, XfrmMsg.GETPOLICY], []),
    (values.policy_expiries, xfrm_msg.encode_policy_expiry, [XfrmMsg.POLEXPIRE], [XfrmMsg.POLEXPIRE]),
    (values.acquires, xfrm_msg.encode_acquire, [XfrmMsg.ACQUIRE], [XfrmMsg.ACQUIRE]),
    (values.mappings, xfrm_msg.encode_mapping, [], [XfrmMsg.MAPPING]),
    (values.migrations, xfrm_msg.encode_migration, [XfrmMsg.MIGRATE], []),
    (values.migrations.map(lambda migration: replace(migration, if_id=0)), xfrm_msg.encode_migration_notice, [],
     [XfrmMsg.MIGRATE]),
    (values.u8, xfrm_msg.encode_flush_states, [XfrmMsg.FLUSHSA], [XfrmMsg.FLUSHSA]),
    (values.u8, xfrm_msg.encode_flush_policies, [XfrmMsg.FLUSHPOLICY], [XfrmMsg.FLUSHPOLICY]),
    (values.u32, xfrm_msg.encode_get_info, [XfrmMsg.GETSADINFO, XfrmMsg.GETSPDINFO], []),
    (st.builds(SadInfo, values.u32, values.u32, values.u32), xfrm_msg.encode_sad_info, [], [XfrmMsg.NEWSADINFO]),
    (st.builds(SpdInfo, *[values.u32] * 8, st.tuples(values.u8, values.u8), st.tuples(values.u8, values.u8)),
     xfrm_msg.encode_spd_info, [], [XfrmMsg.NEWSPDINFO]),
    (st.builds(Defaults, values.u8, values.u8, values.u8), xfrm_msg.encode_defaults,
     [XfrmMsg.SETDEFAULT, XfrmMsg.GETDEFAULT], [XfrmMsg.GETDEFAULT]),
    (st.builds(Thresholds, values.maybe(st.just((24, 16))), values.maybe(st.just((128, 0)))),
     xfrm_msg.encode_thresholds, [XfrmMsg.NEWSPDINFO], []),
]  # fmt: skip


@pytest.mark.parametrize(
    "strategy, encode, requests, notices", SAME_BOTH_WAYS, ids=lambda v: getattr(v, "__name__", "")
)
@few
@given(data=st.data())
def test_the_rest(
    strategy: st.SearchStrategy[object], encode: Encode, requests: list[int], notices: list[int], data: st.DataObject
) -> None:
    value = data.draw(strategy)
    for kind in requests:
        assert request(kind, encode(value)) == value
    for kind in notices:
        assert notice(kind, encode(value)) == value


@few
@given(values.filters)
def test_dump_filters(wanted: StateFilter) -> None:
    assert request(XfrmMsg.GETSA, xfrm_msg.encode_state_filter(wanted), REQUEST | netlink.NLM_F_DUMP) == wanted


def test_subscriptions() -> None:
    groups = Group.SA.bit | Group.MAPPING.bit
    assert groups == 0x84
    body = xfrm_msg.encode_subscription(groups)
    assert xfrm_msg.decode_subscription(framed(netlink.NLMSG_SUBSCRIBE, body)) == groups
    with pytest.raises(XfrmError):
        xfrm_msg.decode_subscription(framed(netlink.NLMSG_SUBSCRIBE, body[:3]))


SRC, DST = "192.0.2.1", "192.0.2.2"
AEAD = Algorithm("rfc4106(gcm(aes))", KEY, 128)
CBC = Algorithm("cbc(aes)", KEY[:16])


# Layout


def kinds(body: bytes, kind: int) -> list[int]:
    return list(message_attrs(framed(kind, body)))


def test_attribute_order_of_a_state() -> None:
    """7.3, whole."""
    info = StateInfo(
        SRC, DST, 1, if_id=1, extra_flags=1, aead=AEAD, auth_trunc=Algorithm("hmac(sha1)", KEY, 96), crypt=CBC,
        comp=Algorithm("deflate", b""), encap=Encap(), mark=Mark(1, 1), set_mark=Mark(1, 1), tfcpad=1, dir=1,
        coaddr=bytes(4), lastused=1, mtimer_thresh=1, nat_keepalive_interval=1, pcpu=0, offload=(1, 0),
        sec_ctx=b"\x08\0\x08\0\1\1\0\0",
    )  # fmt: skip
    order = [
        Xfrma.SA_EXTRA_FLAGS, Xfrma.COADDR, Xfrma.LASTUSED, Xfrma.ALG_AEAD, Xfrma.ALG_AUTH, Xfrma.ALG_AUTH_TRUNC,
        Xfrma.ALG_CRYPT, Xfrma.ALG_COMP, Xfrma.ENCAP, Xfrma.TFCPAD, Xfrma.MARK, Xfrma.SET_MARK, Xfrma.SET_MARK_MASK,
        Xfrma.REPLAY_VAL, Xfrma.OFFLOAD_DEV, Xfrma.IF_ID, Xfrma.SEC_CTX, Xfrma.MTIMER_THRESH, Xfrma.SA_PCPU,
        Xfrma.SA_DIR, Xfrma.NAT_KEEPALIVE_INTERVAL,
    ]  # fmt: skip
    assert kinds(xfrm_msg.encode_state(info, reply=True), XfrmMsg.NEWSA) == order
    assert kinds(xfrm_msg.encode_state_deleted(info), XfrmMsg.DELSA) == [Xfrma.SA, *order]
    esn = replace(info, replay_esn=ReplayEsn((0,), replay_window=32))
    assert kinds(xfrm_msg.encode_state(esn, reply=True), XfrmMsg.NEWSA) == [
        Xfrma.REPLAY_ESN_VAL if kind == Xfrma.REPLAY_VAL else kind for kind in order
    ]


def test_a_plain_state_and_policy_carry_little() -> None:
    """7.3: MARK and IF_ID only if not zero, TMPL only with templates; REPLAY_VAL in a reply and POLICY_TYPE always."""
    info = StateInfo(SRC, DST, 1, aead=AEAD)
    assert kinds(xfrm_msg.encode_state(info), XfrmMsg.NEWSA) == [Xfrma.ALG_AEAD]
    assert kinds(xfrm_msg.encode_state(info, reply=True), XfrmMsg.NEWSA) == [Xfrma.ALG_AEAD, Xfrma.REPLAY_VAL]
    assert kinds(xfrm_msg.encode_policy(PolicyInfo()), XfrmMsg.NEWPOLICY) == [Xfrma.POLICY_TYPE]
    full = PolicyInfo(templates=(Template(),), sec_ctx=b"\x08\0\x08\0\1\1\0\0", mark=Mark(1, 1), if_id=1)
    assert kinds(xfrm_msg.encode_policy(full), XfrmMsg.NEWPOLICY) == [
        Xfrma.TMPL, Xfrma.SEC_CTX, Xfrma.POLICY_TYPE, Xfrma.MARK, Xfrma.IF_ID,
    ]  # fmt: skip


FIXED = [
    (XfrmMsg.NEWSA, xfrm_msg.encode_state(StateInfo(SRC, DST, 1))),
    (XfrmMsg.DELSA, xfrm_msg.encode_state_id(StateId(DST, 1))),
    (XfrmMsg.ALLOCSPI, xfrm_msg.encode_alloc_spi(SpiRequest(StateInfo(SRC, DST), 1, 2))),
    (XfrmMsg.EXPIRE, xfrm_msg.encode_state_expiry(StateExpiry(StateInfo(SRC, DST, 1), True))),
    (XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(0)),
    (XfrmMsg.GETAE, xfrm_msg.encode_aevent(Aevent(StateId(DST, 1)))),
    (XfrmMsg.MAPPING, xfrm_msg.encode_mapping(Mapping(StateId(DST, 1), 1, bytes(4), 1, bytes(4), 2))),
    (XfrmMsg.GETSADINFO, xfrm_msg.encode_get_info()),
    (XfrmMsg.SETDEFAULT, xfrm_msg.encode_defaults(Defaults())),
]
WITH_TYPE = [
    (XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(PolicyInfo())),
    (XfrmMsg.DELPOLICY, xfrm_msg.encode_policy_id(PolicyId())),
    (XfrmMsg.POLEXPIRE, xfrm_msg.encode_policy_expiry(PolicyExpiry(PolicyInfo(), True))),
    (XfrmMsg.ACQUIRE, xfrm_msg.encode_acquire(Acquire(bytes(4), bytes(4), Selector(), PolicyInfo(), 1))),
    (XfrmMsg.FLUSHPOLICY, xfrm_msg.encode_flush_policies()),
]


def test_fixed_parts_have_the_sizes_of_7_2() -> None:
    """Padded to a multiple of four, as the kernel sends them."""
    assert {kind: len(body) for kind, body in FIXED} == {kind: (SIZES[kind] + 3) & ~3 for kind, _ in FIXED}
    assert {kind: len(body) - 12 for kind, body in WITH_TYPE} == {kind: SIZES[kind] for kind, _ in WITH_TYPE}


def test_offsets_that_matter() -> None:
    """7.2, by hand."""
    body = xfrm_msg.encode_state(
        StateInfo(
            SRC, DST, 0x01020304, mode=Mode.BEET, reqid=0x0A0B0C0D, seq=0x11121314, replay_window=32, flags=0x41,
            selector=Selector.parse("10.0.0.0/8", "10.1.0.0/16", proto=6, sport=1, dport=2),
        )
    )  # fmt: skip
    assert body[0:4] == bytes((10, 1, 0, 0)) and body[16:20] == bytes((10, 0, 0, 0))
    assert body[32:40] == b"\0\2\xff\xff\0\1\xff\xff"
    assert body[40:45] == bytes((AF_INET, 0, 16, 8, 6))
    assert body[56:60] == pack_address(DST) and body[72:77] == b"\1\2\3\4\x32" and body[80:84] == pack_address(SRC)
    assert body[96:128] == b"\xff" * 32
    assert int.from_bytes(body[204:208], "little") == 0x11121314
    assert int.from_bytes(body[208:212], "little") == 0x0A0B0C0D
    assert body[212:217] == bytes((AF_INET, 0, Mode.BEET, 32, 0x41))


def test_a_selector_without_family_takes_the_states() -> None:
    """2.5: only STATE_AF_UNSPEC leaves it open."""
    body = bytearray(xfrm_msg.encode_state(StateInfo(SRC, DST, 1, selector=Selector.parse("10.0.0.0/8"))))
    body[40:42] = bytes(2)
    decoded = request(XfrmMsg.NEWSA, bytes(body))
    assert isinstance(decoded, StateInfo) and decoded.selector == Selector.parse("10.0.0.0/8")


def test_a_template_without_family_takes_the_policys() -> None:
    """7.4."""
    info = PolicyInfo(Selector.parse("2001:db8::/32"), templates=(Template(family=0, src=bytes(16), dst=bytes(16)),))
    body = bytearray(xfrm_msg.encode_policy(info))
    body[168 + 4 + 24 : 168 + 4 + 26] = bytes(2)
    decoded = request(XfrmMsg.NEWPOLICY, bytes(body))
    assert isinstance(decoded, PolicyInfo) and decoded.templates[0].family == AF_INET6


# Refusals (7.1, 7.4). Each phrase is what Linux 6.18 answers; test_against_kernel asks the one at hand.


def test_numbers_without_room_are_named() -> None:
    for encode, value, name in (
        (xfrm_msg.encode_state, StateInfo(SRC, DST, 2**32), "spi"),
        (xfrm_msg.encode_state, StateInfo(SRC, DST, replay_window=256), "replay_window"),
        (xfrm_msg.encode_state, StateInfo(SRC, DST, if_id=-1), "if_id"),
        (xfrm_msg.encode_state, StateInfo(SRC, DST, encap=Encap(sport=65536)), "sport"),
        (xfrm_msg.encode_state_id, StateId(DST, -5), "spi"),
        (xfrm_msg.encode_policy, PolicyInfo(templates=(Template(), Template(reqid=2**32))), "reqid"),
        (xfrm_msg.encode_policy, PolicyInfo(limits=NO_LIMITS._replace(soft_add=2**64)), "soft_add"),
        (xfrm_msg.encode_defaults, Defaults(fwd=300), "fwd"),
    ):
        with pytest.raises(XfrmError) as caught:
            encode(value)  # type: ignore[operator]
        assert caught.value.errno == errno.ERANGE and caught.value.detail.startswith(name + " ")


def test_key_material_is_not_in_the_error() -> None:
    with pytest.raises(XfrmError) as caught:
        xfrm_msg.encode_state(StateInfo(SRC, DST, 2**40, aead=Algorithm("x", b"SECRETSECRET", 128)))
    assert "SECRET" not in repr(caught.value) and "534543" not in repr(caught.value)


def test_a_dir_is_told_but_not_asked_for_elsewhere() -> None:
    """3.6: a DELSA notification has SA_DIR, a DELSA request must not."""
    info = StateInfo(SRC, DST, 1, dir=2, pcpu=1)
    told = notice(XfrmMsg.DELSA, xfrm_msg.encode_state_deleted(info))
    assert isinstance(told, StateInfo) and (told.dir, told.pcpu) == (2, 1)


def test_aevent_needs_something_to_set_and_replace() -> None:
    """NL-05."""
    empty = xfrm_msg.encode_aevent(Aevent(StateId(DST, 1)))
    full = xfrm_msg.encode_aevent(Aevent(StateId(DST, 1), replay=Replay()))
    replacing = REQUEST | netlink.NLM_F_REPLACE
    assert refusal(XfrmMsg.NEWAE, empty, replacing) == (errno.EINVAL, "Missing required attribute for AE")
    assert refusal(XfrmMsg.NEWAE, full) == (errno.EINVAL, "NLM_F_REPLACE flag is required")


def test_notices_without_their_state_or_policy_are_refused() -> None:
    for kind, body in ((XfrmMsg.DELSA, bytes(24)), (XfrmMsg.DELPOLICY, bytes(64)), (XfrmMsg.GETSA, bytes(24))):
        with pytest.raises(XfrmError):
            notice(kind, body)


def test_a_huge_bitmap_is_a_number_not_an_allocation() -> None:
    """7.4: bmp_len is bounded before anything is made of it."""
    head = b"\xff" * 24
    body = xfrm_msg.encode_state(StateInfo(SRC, DST, 1)) + netlink.attr(Xfrma.REPLAY_ESN_VAL, head)
    assert refusal(XfrmMsg.NEWSA, body) == (errno.EINVAL, "ESN bitmap length must be <= 128")
