"""RTM_*LINK: what iproute2 sends is understood, what we answer others understand, hostile bytes are refused."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import astuple, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.netns import in_netns, ip
from tests.wire.xfrm_values import maybe, u8, u32, u64
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.link_msg import RTM_GETLINK, RTM_NEWLINK, decode_link, encode_link
from xfrmi.wire.link_types import IFF_LOWER_UP, IFF_NOARP, IFF_UP, OPER_UNKNOWN, LinkInfo, LinkStats
from xfrmi.wire.netlink import Message, attr, attr_u32, parse_attrs

HEAD = bytes(16)
IFNAME, MTU, TXQLEN, LINKINFO, IFALIAS, INFO_KIND, INFO_DATA = 3, 4, 13, 18, 20, 1, 2


def decoded(body: bytes) -> LinkInfo:
    return decode_link(Message(RTM_NEWLINK, 1, 1, 1, memoryview(body)))


def xfrm(data: bytes) -> bytes:
    """IFLA_LINKINFO as iproute2 writes it: no NUL behind the kind, no nested flags."""
    return attr(LINKINFO, attr(INFO_KIND, b"xfrm") + attr(INFO_DATA, data))


IPROUTE2 = [
    ("link add xfrm0 type xfrm dev lo if_id 42",
     HEAD + attr(IFNAME, b"xfrm0\0") + xfrm(attr_u32(2, 42) + attr_u32(1, 1)),
     LinkInfo("xfrm0", if_id=42, link=1, flags=0)),
    ("link add xfrm1 mtu 1400 type xfrm if_id 0x2a",
     HEAD + attr_u32(MTU, 1400) + attr(IFNAME, b"xfrm1\0") + xfrm(attr_u32(2, 42)),
     LinkInfo("xfrm1", if_id=42, mtu=1400, flags=0)),
    ("link add xfrm2 type xfrm external", HEAD + attr(IFNAME, b"xfrm2\0") + xfrm(attr(3, b"")),
     LinkInfo("xfrm2", external=True, flags=0)),
    ("link set xfrm0 type xfrm if_id 7", HEAD[:4] + b"\x05\0\0\0" + HEAD[:8] + xfrm(attr_u32(2, 7)),
     LinkInfo(ifindex=5, if_id=7, flags=0)),
    ("link set xfrm0 up", HEAD[:4] + b"\x05\0\0\0" + b"\1\0\0\0" * 2,
     LinkInfo(ifindex=5, kind="", flags=IFF_UP, change=IFF_UP)),
    ("link set xfrm0 mtu 1300 txqueuelen 500 alias hello down",
     HEAD[:4] + b"\x05\0\0\0\0\0\0\0\1\0\0\0" + attr_u32(MTU, 1300) + attr_u32(TXQLEN, 500) + attr(IFALIAS, b"hello"),
     LinkInfo(ifindex=5, kind="", flags=0, change=IFF_UP, mtu=1300, txqlen=500, alias="hello")),
    ("link show type xfrm", HEAD + attr_u32(29, 1) + attr(LINKINFO, attr(INFO_KIND, b"xfrm")), LinkInfo(flags=0)),
    ("link show xfrm0", HEAD + attr(IFNAME, b"xfrm0\0") + attr_u32(29, 1), LinkInfo("xfrm0", kind="", flags=0)),
]  # fmt: skip


@pytest.mark.parametrize("command, body, expected", IPROUTE2, ids=[row[0] for row in IPROUTE2])
def test_requests_of_iproute2(command: str, body: bytes, expected: LinkInfo) -> None:
    """7.8."""
    assert decoded(body) == expected


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.@-", max_size=15)
links = st.builds(
    LinkInfo, name=names, ifindex=st.integers(0, 2**31 - 1), if_id=maybe(u32), link=maybe(u32), external=st.booleans(),
    kind=st.just("xfrm"), mtu=maybe(u32), txqlen=maybe(u32), flags=u32, change=u32, operstate=st.just(0),
    netns_fd=maybe(u32), netns_pid=maybe(u32), alias=names, stats=maybe(st.builds(LinkStats, *[u64] * 25)),
)  # fmt: skip


@settings(max_examples=examples(60))
@given(links, u8)
def test_links_round_trip(info: LinkInfo, operstate: int) -> None:
    """A request sends the flags it changes only; a reply sends all."""
    assert decoded(encode_link(info)) == replace(info, flags=info.flags & info.change)
    info = replace(info, operstate=operstate)
    assert decoded(encode_link(info, reply=True)) == info


SHOWN = LinkInfo(
    "xfrm0", 31, if_id=0x2A, link=2, mtu=1500, txqlen=1000, flags=IFF_UP | IFF_NOARP | IFF_LOWER_UP,
    operstate=OPER_UNKNOWN, stats=LinkStats(*range(25)),
)  # fmt: skip


def test_another_library_reads_our_reply() -> None:
    """1.3: pyroute2 sees what `ip -s -d link` shows."""
    ifinfmsg = pytest.importorskip("pyroute2.netlink.rtnl.ifinfmsg").ifinfmsg
    message: Any = ifinfmsg(netlink.message(RTM_NEWLINK, 0, 1, 1, encode_link(SHOWN, reply=True)))
    message.decode()
    assert (message["index"], message["flags"], message["ifi_type"]) == (31, SHOWN.flags, 0xFFFE)
    seen = {
        name: message.get_attr("IFLA_" + name)
        for name in ("IFNAME", "TXQLEN", "OPERSTATE", "MTU", "MIN_MTU", "MAX_MTU", "QDISC", "LINK", "NUM_TX_QUEUES")
    }
    assert seen == {
        "IFNAME": "xfrm0", "TXQLEN": 1000, "OPERSTATE": "UNKNOWN", "MTU": 1500, "MIN_MTU": 68, "MAX_MTU": 65535,
        "QDISC": "noqueue", "LINK": 2, "NUM_TX_QUEUES": 1,
    }  # fmt: skip
    assert message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "xfrm"
    data = message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    assert (data.get_attr("IFLA_XFRM_IF_ID"), data.get_attr("IFLA_XFRM_LINK")) == (0x2A, 2)
    stats = message.get_attr("IFLA_STATS64")
    assert (stats["rx_packets"], stats["collisions"], stats["tx_carrier_errors"]) == (0, 9, 17)


@pytest.mark.parametrize("reply", [False, True])
def test_nothing_is_flagged_as_nested(reply: bool) -> None:
    """As from a kernel, and from iproute2. There are programs that take a flagged type for another one."""

    def types(data: bytes) -> list[int]:
        found = []
        while len(data) >= 4:
            length, kind = struct.unpack_from("=HH", data)
            found += [kind, *(types(data[4:length]) if kind & 0x3FFF in (18, 26) else [])]
            data = data[length + 3 & ~3 :]
        return found

    body = encode_link(SHOWN, reply=reply)
    assert 18 in types(body[16:]) and max(types(body[16:])) < 0x4000


def test_link_and_if_id_are_shown_even_when_zero() -> None:
    """1.3."""
    body = encode_link(replace(SHOWN, if_id=0, link=0), reply=True)
    assert (decoded(body).if_id, decoded(body).link) == (0, 0)


REFUSED = [
    ("short", HEAD[:15], (errno.EINVAL, "Invalid header length")),
    ("name of 16", HEAD + attr(IFNAME, b"x" * 16), (errno.ERANGE, "Attribute failed policy validation")),
    ("name of 16 with NUL", HEAD + attr(IFNAME, b"x" * 16 + b"\0"),
     (errno.ERANGE, "Attribute failed policy validation")),
    ("no name", HEAD + attr(IFNAME, b""), (errno.ERANGE, "Attribute failed policy validation")),
    ("mtu of two bytes", HEAD + attr(MTU, b"\1\2"), (errno.ERANGE, "Attribute failed policy validation")),
    ("if_id of two bytes", HEAD + xfrm(attr(2, b"\1\2")), (errno.ERANGE, "Attribute failed policy validation")),
    ("external of a byte", HEAD + xfrm(attr(3, b"\1")), (errno.ERANGE, "Attribute failed policy validation")),
]  # fmt: skip


@pytest.mark.parametrize("what, body, refusal", REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(what: str, body: bytes, refusal: tuple[int, str]) -> None:
    with pytest.raises(XfrmError) as caught:
        decoded(body)
    assert (caught.value.errno, caught.value.extack) == refusal


def test_numbers_without_room_are_named() -> None:
    with pytest.raises(XfrmError, match="mtu 4294967296"):
        encode_link(LinkInfo("xfrm0", mtu=2**32))


@settings(max_examples=examples(300))
@given(
    st.binary(max_size=20),
    st.lists(st.tuples(st.sampled_from([*range(64), LINKINFO, LINKINFO]), st.binary(max_size=60)), max_size=6),
)
def test_any_bytes(head: bytes, items: list[tuple[int, bytes]]) -> None:
    nested = b"".join(attr(kind % 4, value) for kind, value in items)
    for rest in (b"".join(attr(*item) for item in items), xfrm(nested), attr(LINKINFO, nested)):
        try:
            info = decoded(head.ljust(16, b"\0") + rest if len(head) > 2 else head)
        except XfrmError as error:
            assert error.errno in (errno.EINVAL, errno.ERANGE)
        else:
            assert repr(info)


@in_netns
def test_the_kernels_own_links() -> None:
    """Its RTM_NEWLINK of `lo` and of a veth, against what it says elsewhere."""
    ip("link set lo mtu 4000 txqueuelen 77 alias loop")
    ip("link add v0 type veth peer name v1")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.settimeout(5)

        def get(name: str) -> tuple[LinkInfo, bytes]:
            body = encode_link(LinkInfo(name, kind=""))
            route.send(netlink.message(RTM_GETLINK, netlink.NLM_F_REQUEST, 1, 0, body))
            (message,) = netlink.split(route.recv(65536))
            assert message.type == RTM_NEWLINK
            return decode_link(message), bytes(message.body)

        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.sendto(bytes(952), ("::1", 9))
        lo, body = get("lo")
        assert (lo.name, lo.ifindex, lo.kind, lo.mtu, lo.txqlen, lo.alias) == ("lo", 1, "", 4000, 77, "loop")
        assert lo.flags & IFF_UP and lo.stats is not None and lo.stats.rx_bytes >= 1000
        assert lo.stats.rx_packets == lo.stats.tx_packets and len(astuple(lo.stats)) == 25
        ours = parse_attrs(memoryview(encode_link(SHOWN, reply=True)), 16)
        kernels = parse_attrs(memoryview(body), 16)
        for kind in ours.keys() & kernels.keys() - {IFNAME, LINKINFO, IFALIAS, 6, 26}:
            assert len(ours[kind]) == len(kernels[kind]), kind
        veth, _ = get("v0")
        assert (veth.kind, veth.if_id, veth.mtu) == ("veth", None, 1500)
