"""`xfrmi exec -- ip link ... type xfrm`: ours among the kernel's. How they print is test_golden_text.py's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.interpose.supervised import EXEC, daemon, output, run
from tests.iproute import ip
from tests.netns import Namespace, in_netns, need_other_users
from xfrmi.client import Client
from xfrmi.dev.rtnl import Rtnl
from xfrmi.interpose.link_view import Heard
from xfrmi.wire.netlink import parse_attrs

EXISTS = "RTNETLINK answers: File exists\n"


def links(options: str = "", which: str = "") -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(output(f"ip -d -j {options} link show {which}") or "[]")
    return [link for link in shown if link]


@in_netns
def test_ours_among_the_kernels() -> None:
    with daemon():
        ip("link add eth0 type veth peer name eth1")
        output("ip link add xfrm0 type xfrm dev eth0 if_id 42 && ip link set xfrm0 up")
        with Client() as client:
            (known,) = client.links()
            assert (known.name, known.if_id, known.flags & 1) == ("xfrm0", 42, 1)
        everything = {link["ifname"]: link for link in links()}
        assert set(everything) == {"lo", "eth0", "eth1", "xfrm0"}
        assert everything["xfrm0"]["linkinfo"] == {"info_kind": "xfrm", "info_data": {"if_id": "0x2a"}}
        assert everything["xfrm0"]["link"] == "eth0"
        assert "ifalias" not in everything["xfrm0"]
        assert [link["ifname"] for link in links(which="type xfrm")] == ["xfrm0"]
        assert links(which="type tun") == [], "what it is in truth, nobody sees"
        assert [link["ifname"] for link in links(which="type veth")] == ["eth1", "eth0"]


@in_netns
def test_what_is_behind_policies_without_if_id_is_not_shown() -> None:
    with daemon():
        output("ip xfrm policy add src 10.0.0.0/8 dst 10.0.0.0/8 dir out action block")
        rtnl = Rtnl()
        assert rtnl.link("xfrmi-policy") and rtnl.link("xfrmi-refused")
        assert [link["ifname"] for link in links()] == ["lo"]
        output("ip xfrm policy flush")
        assert not rtnl.link("xfrmi-policy") and not rtnl.link("xfrmi-refused")
        rtnl.close()


@in_netns
def test_refusals() -> None:
    with daemon():
        output("ip link add xfrm0 type xfrm if_id 42")
        for line, said in (
            ("ip link add xfrm1 type xfrm if_id 42", EXISTS),
            ("ip link add xfrm0 type xfrm if_id 43", EXISTS),
            ("ip link set xfrm0 carrier off", "RTNETLINK answers: Operation not supported\n"),
            ("ip link add xfrm1 index 1 type xfrm if_id 9", EXISTS),
            ("ip link replace xfrm0 type xfrm if_id 9", "RTNETLINK answers: Operation not supported\n"),
            ("ip link set lo type xfrm if_id 9", "RTNETLINK answers: Operation not supported\n"),
            (f"ip link set xfrm0 alias {'x' * 250}", "RTNETLINK answers: Invalid argument\n"),
            ("ip link add xfrm1 master lo type xfrm if_id 9", None),
        ):
            refused = run(line)
            assert refused.returncode == 2, (line, refused)
            assert said is None or refused.stderr == said, line
        assert [link["ifname"] for link in links(which="type xfrm")] == ["xfrm0"], "nothing is left of what was refused"
        assert run("ip link set lo alias mine").returncode == 0, "others' aliases are theirs"


@in_netns
def test_what_becomes_of_a_device() -> None:
    with daemon():
        there = Namespace()
        output("ip link add mtu 1400 xfrm0 group 7 type xfrm if_id 42 && ip link set xfrm0 name ipsec0 mtu 1300")
        (link,) = links(which="type xfrm")
        assert (link["ifname"], link["mtu"], link["group"]) == ("ipsec0", 1300, "7")
        output("ip link set ipsec0 type xfrm if_id 55")
        (link,) = links(which="type xfrm")
        assert link["linkinfo"]["info_data"] == {"if_id": "0x37"}
        output(f"ip link set ipsec0 netns {there}")
        assert links(which="type xfrm") == []
        with there:
            done = run("ip -d link show type xfrm; ip link delete ipsec0")  # a daemon is started there, and says so
            assert done.returncode == 0 and "ipsec0@" in done.stdout and "xfrm if_id 0x37" in done.stdout
        add = "ip link add ipsec0 type xfrm if_id 42"
        output(f"{add} && ip link delete ipsec0 && {add}")
        output(f"ip link add elsewhere netns {there} type xfrm if_id 9")
        with there:
            assert "elsewhere@" in run("ip link show type xfrm").stdout


@in_netns
def test_an_alias_and_an_index_are_the_users() -> None:
    """Also after a change of the key, and for who comes without exec."""
    with daemon():
        output("ip link add xfrm0 index 77 type xfrm if_id 42 && ip link set xfrm0 alias 'to the branch'")
        (link,) = links(which="type xfrm")
        assert (link["ifindex"], link["ifalias"]) == (77, "to the branch")
        output("ip link set xfrm0 type xfrm if_id 43")
        (link,) = links(which="type xfrm")
        assert (link["ifalias"], link["linkinfo"]["info_data"]) == ("to the branch", {"if_id": "0x2b"})
        ip("link set xfrm0 alias mine")
        with Client() as client:
            assert [link.alias for link in client.links()] == ["mine"], "who writes over the mark loses nothing"
        (link,) = links(which="type xfrm")
        assert link["ifalias"] == "mine"
        output("ip link set xfrm0 alias ''")
        (link,) = links(which="type xfrm")
        assert "ifalias" not in link


@in_netns
def test_a_device_far_away_is_changed_by_its_own_daemon() -> None:
    with daemon():
        there = Namespace()
        output(f"ip link add xfrm0 type xfrm if_id 42 && ip link set xfrm0 netns {there}")
        # One supervisor for both: another would not know the daemon of the namespace where the device was made.
        entered = f"nsenter --net={there} ip"
        output(f"{entered} link set xfrm0 type xfrm if_id 43 && {entered} link set xfrm0 alias far")
        with Client() as client:
            (link,) = client.links()
            assert (link.if_id, link.alias) == (43, "far")


@in_netns
def test_counters_by_getstats() -> None:
    with daemon():
        output("ip link add xfrm0 type xfrm if_id 42 && ip link set xfrm0 up && ip addr add 10.0.0.1/24 dev xfrm0")
        output("ping -c 1 -W 1 10.0.0.2 > /dev/null; sleep 0.2")
        (by_link,) = links("-s", "xfrm0")
        assert by_link["stats64"]["tx"]["errors"] > 0
        (by_stats,) = json.loads(output("ip -j stats show dev xfrm0 group link"))
        assert by_stats["stats64"]["tx"]["errors"] == by_link["stats64"]["tx"]["errors"]


@in_netns
def test_a_monitor_hears_of_xfrm_devices_only() -> None:
    """One announcement of the new device, as a kernel makes it, not those of the TUN that becomes it. (What the monitor
    complains about is namespaces with a name, which other tests make and delete meanwhile.)"""
    with daemon():
        said = output(
            "ip monitor link > mon 2> /dev/null & M=$!; sleep 0.5; ip link add xfrm0 type xfrm if_id 42; "
            "ip link set xfrm0 up; ip link set xfrm0 mtu 1400; ip link del xfrm0; sleep 0.3; kill $M; cat mon; rm mon"
        )
        lines = [line for line in said.splitlines() if "xfrm0" in line]
        assert len(lines) == 5, said
        assert lines[0].startswith(tuple(f"{n}: xfrm0@NONE: <NOARP> mtu 1500 qdisc noop state DOWN" for n in range(9)))
        assert "<NOARP,UP,LOWER_UP> mtu 1500 qdisc noqueue" in lines[1]
        assert "mtu 1400" in lines[2]
        assert lines[-1].startswith("Deleted ")
        assert "POINTOPOINT" not in said and "tun" not in said


@in_netns
def test_who_may_not_configure_is_refused_by_the_kernel() -> None:
    need_other_users()
    with daemon():
        nobody = "setpriv --reuid 65534 --clear-groups"
        refused = run(f"{nobody} ip link add xfrm0 type xfrm if_id 42")
        assert (refused.returncode, refused.stderr) == (2, "RTNETLINK answers: Operation not permitted\n")
        output("ip link add xfrm0 type xfrm if_id 42")
        assert "xfrm if_id 0x2a" in output(f"{nobody} ip -d link show type xfrm"), "to look is allowed"


PYROUTE2 = """
from pyroute2 import IPRoute
with IPRoute() as ipr:
    ipr.link("add", ifname="xfrm0", kind="xfrm", xfrm_if_id=42, xfrm_link=1)
    (index,) = ipr.link_lookup(ifname="xfrm0")
    ipr.link("set", index=index, state="up", mtu=1400)
    (link,) = ipr.get_links(index)
    info = link.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "xfrm", info
    assert info.get_attr("IFLA_INFO_DATA").get_attr("IFLA_XFRM_IF_ID") == 42, info
    assert [l.get_attr("IFLA_IFNAME") for l in ipr.link("dump", kind="xfrm")] == ["xfrm0"]
    ipr.link("del", index=index)
    assert ipr.link_lookup(ifname="xfrm0") == []
print("done")
"""


@in_netns
def test_pyroute2() -> None:
    """A program that knows nothing of us, with its own netlink library."""
    with daemon():
        done = subprocess.run([*EXEC, "--", sys.executable, "-c", PYROUTE2], capture_output=True, text=True, timeout=40)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@in_netns
def test_what_is_shown_is_no_longer_than_what_it_is_made_of() -> None:
    """A reader's buffer was made for the kernel's message."""
    with daemon():
        for name, more in (("xa", ""), ("xb", "dev lo"), ("xc", "external")):
            key = "" if more == "external" else f"if_id {ord(name[1])}"
            output(f"ip link add {name} type xfrm {more} {key}")
            rtnl = Rtnl()
            link = rtnl.link(name)
            assert link is not None
            body = rtnl.link_body(link.ifindex)
            rtnl.close()
            assert body is not None
            heard = Heard(body)
            assert heard.tag is not None
            shown = heard.as_xfrm(heard.tag, None, 7)
            assert len(shown) <= len(body)
            assert parse_attrs(memoryview(shown), 16)


LATE = """
import socket, struct, subprocess
news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
news.bind((0, 1))  # RTMGRP_LINK
subprocess.run(["ip", "link", "add", "xfrm0", "type", "xfrm", "if_id", "42"], check=True)
subprocess.run(["ip", "link", "set", "xfrm0", "up"], check=True)
seen = []
news.settimeout(0)
try:
    while True:
        data = news.recv(65536)
        seen.append(struct.unpack_from("=BxHiII", data, 16)[3] & 1)
except BlockingIOError:
    print(seen)
"""


@in_netns
def test_who_reads_late_hears_what_was() -> None:
    """The first announcement says that the device was made, and not that it is up by now."""
    with daemon():
        done = subprocess.run([*EXEC, "--", sys.executable, "-c", LATE], capture_output=True, text=True, timeout=40)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1]\n", "")
