"""RTM link messages as bytes (1.1, 7.8), on devices that are not there: what the handler does of its own."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.daemon.messages import ROOT, STRANGER, answers, ask, refusal, request
from tests.daemon.server import PretendedDevices
from tests.examples import examples
from xfrmi.core.engine import Engine
from xfrmi.daemon.route_handler import RouteHandler
from xfrmi.dev.rtnl import RTM_GETROUTE
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.link_msg import (
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
    decode_link,
    encode_link,
)
from xfrmi.wire.link_types import IFF_NOARP, IFF_UP, OPER_DOWN, LinkInfo
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_MULTI, NLM_F_REQUEST

NEW = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL


class Links:
    """A handler and its pretended devices."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.devices = PretendedDevices(self.engine)
        self.handle = RouteHandler(self.devices).handle  # type: ignore[arg-type]

    def add(self, name: str, if_id: int, **fields: object) -> LinkInfo:
        ask(self.handle, RTM_NEWLINK, encode_link(LinkInfo(name=name, if_id=if_id, **fields)), NEW)  # type: ignore[arg-type]
        return self.get(name)

    def get(self, name: str) -> LinkInfo:
        (reply,) = ask(self.handle, RTM_GETLINK, encode_link(LinkInfo(name=name)))
        return decode_link(reply)

    def all(self) -> list[LinkInfo]:
        return [decode_link(entry) for entry in ask(self.handle, RTM_GETLINK, b"", NLM_F_DUMP)]


@pytest.fixture
def links() -> Links:
    return Links()


def test_a_device_comes_back_as_it_went_in(links: Links) -> None:
    shown = links.add("xfrm0", 42, link=2, mtu=1400)
    assert (shown.name, shown.if_id, shown.link, shown.mtu, shown.kind) == ("xfrm0", 42, 2, 1400, "xfrm")
    assert (shown.flags, shown.operstate) == (IFF_NOARP, OPER_DOWN)
    assert shown.stats is not None


def test_before_a_route_is_asked_for_the_routers_are_heard() -> None:
    heard: list[bool] = []
    handle = RouteHandler(PretendedDevices(Engine()), lambda: heard.append(True)).handle  # type: ignore[arg-type]
    assert ask(handle, RTM_GETROUTE) == []
    assert heard == [True]


def test_a_dump_is_multi_and_ends_with_done(links: Links) -> None:
    """NL-07; an empty one is DONE alone."""
    datagram = request(RTM_GETLINK, b"", NLM_F_DUMP)
    assert [answer.type for answer in answers(links.handle, datagram)] == [netlink.NLMSG_DONE]
    for number in range(30):
        links.add(f"xfrm{number}", number + 1)
    *entries, done = answers(links.handle, datagram)
    assert [decode_link(entry).if_id for entry in entries] == list(range(1, 31))
    assert all(entry.flags & NLM_F_MULTI and entry.seq == 5 for entry in entries)
    assert (done.type, done.flags & NLM_F_MULTI) == (netlink.NLMSG_DONE, NLM_F_MULTI)


@pytest.mark.parametrize("kind", [RTM_NEWLINK, RTM_SETLINK, RTM_DELLINK, 99])
def test_a_stranger_may_look_but_not_touch(links: Links, kind: int) -> None:
    """As in rtnetlink, and unlike NL-01."""
    links.add("xfrm0", 42)
    body = encode_link(LinkInfo(name="xfrm0"))
    (answer,) = answers(links.handle, request(kind, body), STRANGER)
    with pytest.raises(XfrmError) as refused:
        netlink.raise_error(answer)
    assert refused.value.errno == errno.EPERM
    reply, ack = answers(links.handle, request(RTM_GETLINK, body), STRANGER)
    assert decode_link(reply).if_id == 42
    netlink.raise_error(ack)


REFUSED = [
    ("DEV-01", RTM_NEWLINK, LinkInfo(name="n"), NEW, errno.EINVAL, "if_id must be non zero"),
    ("DEV-01", RTM_NEWLINK, LinkInfo(name="n", if_id=0), NEW, errno.EINVAL, "if_id must be non zero"),
    ("DEV-02", RTM_NEWLINK, LinkInfo(name="n", if_id=42, link=9), NEW, errno.EEXIST, ""),
    ("DEV-03", RTM_NEWLINK, LinkInfo(name="n", if_id=1, external=True), NEW, errno.EINVAL,
     "link and if_id must be zero"),
    ("DEV-04", RTM_NEWLINK, LinkInfo(name="n", external=True), NEW, errno.EEXIST, ""),
    ("DEV-08", RTM_NEWLINK, LinkInfo(name="xfrm0"), NLM_F_ACK, errno.EINVAL, "if_id must be non zero"),
    ("DEV-09", RTM_NEWLINK, LinkInfo(name="xfrm0", if_id=43), NLM_F_ACK, errno.EINVAL, ""),
    ("DEV-10", RTM_NEWLINK, LinkInfo(name="xfrm0", if_id=7, link=2), NLM_F_ACK, errno.EEXIST, ""),
    ("DEV-11", RTM_NEWLINK, LinkInfo(name="xfrm0", if_id=43, link=2, external=True), NLM_F_ACK, errno.EINVAL,
     "collect_md can't be changed"),
    ("7.8 kind", RTM_NEWLINK, LinkInfo(name="n", kind="dummy"), NEW, errno.EOPNOTSUPP, "Unknown device type"),
    ("7.8 kind of an old one", RTM_NEWLINK, LinkInfo(name="xfrm0", kind="tun"), NLM_F_ACK, errno.EOPNOTSUPP, ""),
    ("7.8 exclusive", RTM_NEWLINK, LinkInfo(name="xfrm0", if_id=43), NEW, errno.EEXIST, ""),
    ("no create", RTM_NEWLINK, LinkInfo(name="n", if_id=43), NLM_F_ACK, errno.ENODEV, ""),
    ("set creates nothing", RTM_SETLINK, LinkInfo(name="n", if_id=43), NEW, errno.ENODEV, ""),
    ("no such name", RTM_DELLINK, LinkInfo(name="n"), NLM_F_ACK, errno.ENODEV, ""),
    ("no such number", RTM_DELLINK, LinkInfo(ifindex=4711), NLM_F_ACK, errno.ENODEV, ""),
    ("no name at all", RTM_GETLINK, LinkInfo(), NLM_F_ACK, errno.ENODEV, ""),
    ("a descriptor that did not come", RTM_NEWLINK, LinkInfo(name="xfrm0", kind="", netns_fd=0), NLM_F_ACK,
     errno.EBADF, ""),
    ("the same for a new one", RTM_NEWLINK, LinkInfo(name="n", if_id=43, netns_fd=5), NEW, errno.EBADF, ""),
    ("another type", 99, LinkInfo(name="xfrm0"), NLM_F_ACK, errno.EOPNOTSUPP, ""),
]  # fmt: skip


@pytest.mark.parametrize("what, kind, info, flags, number, phrase", REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_refused_has_changed_nothing(
    links: Links, what: str, kind: int, info: LinkInfo, flags: int, number: int, phrase: str
) -> None:
    links.add("xfrm0", 42, link=2)
    links.add("xfrm1", 7)
    ask(links.handle, RTM_NEWLINK, encode_link(LinkInfo(name="ext", external=True)), NEW)
    before = links.all()
    refused = refusal(links.handle, kind, encode_link(info), flags)
    assert (refused.errno, refused.extack) == (number, phrase)
    assert links.all() == before


def test_a_short_body_is_refused(links: Links) -> None:
    """NL-03."""
    for kind in (RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK):
        assert refusal(links.handle, kind, bytes(15)).extack == "Invalid header length"


def test_the_key_can_be_changed(links: Links) -> None:
    """DEV-12; the same key again is no change."""
    links.add("xfrm0", 42, link=2)
    for if_id in (43, 43):
        ask(links.handle, RTM_NEWLINK, encode_link(LinkInfo(name="xfrm0", if_id=if_id, link=2)))
        assert links.get("xfrm0").if_id == 43
    links.add("xfrm1", 42)


@pytest.mark.parametrize("kind", [RTM_NEWLINK, RTM_SETLINK])
def test_a_device_is_set_by_number_and_gets_a_name(links: Links, kind: int) -> None:
    shown = links.add("xfrm0", 42)
    change = LinkInfo(name="blue", ifindex=shown.ifindex, kind="", mtu=1300, flags=IFF_UP, change=IFF_UP)
    ask(links.handle, kind, encode_link(change))
    shown = links.get("blue")
    assert (shown.mtu, bool(shown.flags & IFF_UP), shown.if_id) == (1300, True, 42)
    assert refusal(links.handle, RTM_GETLINK, encode_link(LinkInfo(name="xfrm0"))).errno == errno.ENODEV


def test_a_refused_size_leaves_the_key_alone(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    links.add("xfrm0", 42, link=2)

    def refuse(*_: object) -> None:
        raise XfrmError(errno.EINVAL, "mtu greater than device maximum")

    monkeypatch.setattr(links.devices, "set", refuse)
    info = LinkInfo(name="xfrm0", if_id=43, link=2, mtu=70000)
    assert refusal(links.handle, RTM_NEWLINK, encode_link(info)).extack == "mtu greater than device maximum"
    assert links.get("xfrm0").if_id == 42


def test_DEV_13_nothing_of_a_refused_change_of_an_external_device_is_done(links: Links) -> None:
    ask(links.handle, RTM_NEWLINK, encode_link(LinkInfo(name="ext", external=True)), NEW)
    said = refusal(links.handle, RTM_NEWLINK, encode_link(LinkInfo(name="ext", if_id=43, mtu=1400)))
    assert said.extack == "collect_md can't be changed"
    shown = links.get("ext")
    assert (shown.if_id, shown.external, shown.mtu) == (0, True, 1500)


def test_a_device_that_cannot_be_moved_is_not_made(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    real = links.devices.set

    def refuse(interface: object, info: LinkInfo, netns_fd: int | None = None) -> None:
        if info.netns_pid is not None:
            raise XfrmError(errno.ESRCH)
        real(interface, info, netns_fd)  # type: ignore[arg-type]

    monkeypatch.setattr(links.devices, "set", refuse)
    body = encode_link(LinkInfo(name="xfrm0", if_id=42, netns_pid=1 << 30))
    assert refusal(links.handle, RTM_NEWLINK, body, NEW).errno == errno.ESRCH
    assert links.all() == []


def test_a_namespace_comes_as_a_descriptor(links: Links) -> None:
    with open("/proc/self/ns/net") as netns:
        datagram = request(RTM_NEWLINK, encode_link(LinkInfo(name="xfrm0", if_id=42, netns_fd=0)), NEW)
        (ack,) = answers(links.handle, datagram, ROOT._replace(fds=(netns.fileno(),)))
        netlink.raise_error(ack)
    (device,) = links.devices
    assert device.moved_to == [os.stat("/proc/self/ns/net").st_ino]


def test_deleted_by_name_or_number(links: Links) -> None:
    """DEV-14 is the engine's: states are not asked."""
    one, two = links.add("xfrm0", 1), links.add("xfrm1", 2)
    ask(links.handle, RTM_DELLINK, encode_link(LinkInfo(name=one.name)))
    assert [link.name for link in links.all()] == ["xfrm1"]
    ask(links.handle, RTM_DELLINK, encode_link(LinkInfo(ifindex=two.ifindex)))
    assert links.all() == []


def test_control_messages_do_nothing(links: Links) -> None:
    """NL-02 holds for every netlink protocol."""
    for kind in range(0x10):
        (ack,) = answers(links.handle, request(kind))
        netlink.raise_error(ack)
    assert answers(links.handle, netlink.message(RTM_DELLINK, 0, 1, 1, b"")) == []


def test_several_in_one_datagram(links: Links) -> None:
    new = [request(RTM_NEWLINK, encode_link(LinkInfo(name=f"x{n}", if_id=n)), NEW, seq=n) for n in (1, 2, 2, 3)]
    outcome = []
    for answer in answers(links.handle, b"".join(new)):
        try:
            netlink.raise_error(answer)
            outcome.append((answer.seq, 0))
        except XfrmError as refused:
            outcome.append((answer.seq, refused.errno))
    assert outcome == [(1, 0), (2, 0), (2, errno.EEXIST), (3, 0)]


# Hostile -------------------------------------------------------------------------------------------------------------


def well_formed(datagrams: list[bytes]) -> None:
    for datagram in datagrams:
        assert list(netlink.split(datagram))


@settings(max_examples=examples(200))
@given(st.binary(max_size=300))
def test_any_bytes_are_answered_or_ignored(datagram: bytes) -> None:
    well_formed(list(Links().handle(datagram, ROOT)))


@settings(max_examples=examples(300))
@given(
    kind=st.integers(14, 22),
    flags=st.integers(0, 0x7FF).map(lambda flags: flags | NLM_F_REQUEST),
    info=st.builds(
        LinkInfo, name=st.sampled_from(["", "xfrm0", "other"]), ifindex=st.sampled_from([0, 100, 101, -1]),
        if_id=st.none() | st.sampled_from([0, 42, 43, 0xFFFFFFFF]), link=st.none() | st.integers(0, 3),
        external=st.booleans(), kind=st.sampled_from(["xfrm", "", "tun"]), mtu=st.none() | st.integers(0, 2**32 - 1),
    ),
    spoil=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
)  # fmt: skip
def test_what_is_refused_has_changed_nothing_however_spoiled(
    kind: int, flags: int, info: LinkInfo, spoil: list[tuple[int, int]]
) -> None:
    links = Links()
    links.add("xfrm0", 42, link=1)
    before = links.all()
    body = bytearray(encode_link(info))
    for at, value in spoil:
        if at < len(body):
            body[at] = value
    replies = answers(links.handle, netlink.message(kind, flags, 1, 1, bytes(body)))
    refused = False
    for reply in replies:
        if reply.type == netlink.NLMSG_ERROR:
            try:
                netlink.raise_error(reply)
            except XfrmError:
                refused = True
    if refused:
        assert links.all() == before
