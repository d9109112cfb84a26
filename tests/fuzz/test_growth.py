"""What is done about an input grows with its length, not with the square of it. Of each repetition that a format allows
there are three inputs, each with twice as many as the one before; and of each line of Python, how often it is run.

Ten times as many repetitions would show no more: a line that is run for each pair is run four times as often here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER
from tests.fuzz.registry import target
from tests.fuzz.targets import capture
from tests.fuzz.work import growth, lines
from xfrmi.formats import pcapng
from xfrmi.wire.netlink import message
from xfrmi.wire.vnet import GSO_TCPV4, NEEDS_CSUM, VNET_HDR
from xfrmi.wire.xfrm_attr import XfrmMsg

LINEAR = 3.0
"""Between 2, for what is done for each, and 4, for what is done for each pair."""

STATE = (
    "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi {0:#x} reqid 1 mode tunnel if_id 42 "
    "enc 'ecb(cipher_null)' ''\n"
)
LISTED_STATE = "src 192.0.2.1 dst 192.0.2.2\n\tproto esp spi {0:#x} reqid 1 mode tunnel\n"
TEMPLATE = "\ttmpl src 1.1.1.1 dst 2.2.2.2\n\t\tproto esp reqid 1 mode tunnel\n"
LISTED_POLICY = "src 10.0.{0}.0/24 dst 0.0.0.0/0\n\tdir out priority 0\n" + TEMPLATE
NETDEV = "[NetDev]\nName=i{0}\nKind=xfrm\n[Xfrm]\nInterfaceId={0}\nIndependent=yes\n"
STATE_ADD = "ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 mode tunnel enc 'ecb(cipher_null)' ''"


def each(text: str) -> Callable[[int], bytes]:
    """The text for 1, 2, ... one after the other."""
    return lambda count: "".join(map(text.format, range(1, count + 1))).encode()


def around(head: str, text: str, tail: str = "") -> Callable[[int], bytes]:
    repeated = each(text)
    return lambda count: head.encode("latin-1") + repeated(count) + tail.encode()


def both(first: str, second: str) -> Callable[[int], bytes]:
    """All of the one, then all of the other."""
    return lambda count: each(first)(count) + each(second)(count)


def attributes(kind: int, head: int) -> Callable[[int], bytes]:
    """Of a request with a header of so many bytes, each of a type of its own."""
    return lambda count: (
        bytes((kind, 0)) + bytes(head) + b"".join(struct.pack("<HHI", 8, 200 + n, n) for n in range(count))
    )


def datagrams(count: int) -> bytes:
    return b"\0" + message(XfrmMsg.GETSADINFO, 5, 1, 1, bytes(4)) * count


def pcap_packets(count: int) -> bytes:
    seed = capture.seeds()[4]
    return seed + seed[1 + 24 :] * count


def pcapng_blocks(count: int) -> bytes:
    made = [pcapng.section("x"), *(pcapng.interface(f"d{n}", "") for n in range(count))]
    return b"\0" + b"".join((*made, *(pcapng.packet(n, 1, udp(*INNER[4]), 1, ["why"]) for n in range(count))))


def extended(head: bytes) -> Callable[[int], bytes]:
    """An IPv6 packet with so many extension headers."""

    def packet(count: int) -> bytes:
        whole = bytearray(udp(*INNER[6]))
        whole[40:40] = bytes((60, 0, 0, 0, 0, 0, 0, 0)) * (count - 1) + bytes((17, 0, 0, 0, 0, 0, 0, 0))
        whole[6] = 60
        whole[4:6] = (len(whole) - 40).to_bytes(2)
        return head + whole

    return packet


def segments(count: int) -> bytes:
    tcp = bytearray(udp(*INNER[4])[:20]) + struct.pack(">HHIIBBHHH", 80, 8000, 1, 2, 0x50, 0x18, 1000, 0, 0)
    tcp += bytes(10 * count)
    tcp[9], tcp[2:4] = 6, len(tcp).to_bytes(2)
    return VNET_HDR.pack(NEEDS_CSUM, GSO_TCPV4, 0, 10, 20, 16) + bytes(tcp)


CASES: dict[str, tuple[str, Callable[[int], bytes], int]] = {
    "explain, links that are set": (
        "tables", both("ip link add x{0} type xfrm if_id {0}\n", "ip link set x{0} mtu 1400\n"), 4,
    ),
    "explain, listed states": ("tables", each(LISTED_STATE), 6),
    "explain, listed policies": ("tables", each(LISTED_POLICY), 6),
    "explain, commands and listings": ("tables", each(LISTED_STATE + STATE), 3),
    "explain, continued lines": ("tables", around(STATE_ADD + " replay-window 64 flag \\\n", "esn \\\n", "\n"), 20),
    "explain, comments": ("tables", each("# x\n\n"), 20),
    "words of ip": ("grammar", around(f"{STATE_ADD} replay-window 64 flag ", "esn "), 20),
    "words that ip does not know": ("grammar", around(f"{STATE_ADD} ", "x{0} "), 20),
    "a word that ip does not know": ("grammar", around(f"{STATE_ADD} ", "abc"), 20),
    "templates of ip": ("grammar", around("ip xfrm policy add dir out ", "tmpl proto esp mode tunnel "), 6),
    "quotes of ip": ("grammar", around(f"{STATE_ADD} ", "'a'\\b"), 20),
    "listing, states": ("listing", around("\0", LISTED_STATE), 4),
    "listing, policies": ("listing", around("\1", LISTED_POLICY), 4),
    "listing, templates": ("listing", around("\1" + LISTED_POLICY.format(1), TEMPLATE), 4),
    "lab, nodes": ("lab", each("[node.n{0}]\nkind = 'router'\n"), 6),
    "lab, links": (
        "lab", both("[node.n{0}]\n", "[[link]]\nendpoints = ['n{0}:e', 'n1:e{0}']\ndelay = '1ms'\n"), 6,
    ),
    "lab, lists": ("lab", around("[node.a]\nroute = [\n", "'10.{0}.0.0/16 via 1.1.1.1',\n", "]\n"), 6),
    "lab, a list with escapes": ("lab", around("[node.a]\nrun = [\n", '"p\\u0041ng",\n', "]\n"), 90),
    "lab, addresses": (
        "lab",
        lambda count: b"[node.b]\n[node.a]\n" + each("address.e{0} = '10.0.{0}.1/24'\n")(count)
        + each("[[link]]\nendpoints = ['a:e{0}', 'b:e{0}']\n")(count), 6,
    ),
    "lab, netdevs": ("lab", around("[node.a]\nnetdev = '''\n", NETDEV, "'''\n"), 6),
    "lab, netdevs that move": (
        "lab",
        lambda count: b"[node.b]\n[node.a]\nnetdev = '''\n" + each(NETDEV)(count) + b"'''\n[node.a.moved]\n"
        + each("i{0} = 'b'\n")(count), 6,
    ),
    "lab, texts": ("lab", around("xfrm = [\n", "'''\nstate flush\n''',\n", "]\n[node.a]\nxfrm = []\n"), 6),
    "lab, keys in keys": ("lab", around("[node", ".a", "]\n"), 20),
    "netdevs": ("netdev", each(NETDEV), 10),
    "netdev, keys": (
        "netdev", around("[NetDev]\nName=i\nKind=xfrm\n", "Description=x\n", "[Xfrm]\nInterfaceId=1\n"), 20,
    ),
    "control socket, lines": ("json", around("\0", '{{"cmd": "nothing{0}"}}\n'), 10),
    "control socket, a list": (
        "json", around('\0{"cmd": "states", "of": [[""]', ', ["c0000202", {0}, 50, 0]', "]}\n"), 10,
    ),
    "NETLINK_XFRM, messages": ("xfrm", datagrams, 6),
    "NETLINK_XFRM, attributes": ("xfrm", attributes(1, 224), 10),
    "RTM link, attributes": ("route", attributes(1, 16), 10),
    "pcap": ("capture", pcap_packets, 10),
    "pcapng": ("capture", pcapng_blocks, 10),
    "IPv6 extension headers": ("ip", extended(b""), 10),
    "IPv6 extension headers out of a TUN": ("inner", extended(b"\0\0"), 10),
    "IPv6 extension headers explained": ("explain", extended(b"\0\0"), 6),
    "a super-packet out of a TUN": ("tun", segments, 6),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_work_grows_with_the_length(case: str) -> None:
    name, repeated, count = CASES[case]
    one = target(name).make()
    one(repeated(count))  # what is made once is made now
    ratio, where = growth(*(lines(one, repeated(times * count)) for times in (1, 2, 4)))
    assert ratio < LINEAR, f"{where}: {ratio:.1f} times as often for twice the length"
