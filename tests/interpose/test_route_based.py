"""strongSwan's published scenarios for xfrm interfaces (its testing/tests/route-based), each done anew in namespaces.

      alice ── moon ══════ sun ── bob          carol and dave: road warriors of moon, on the outer network
      10.1.0.0/16          10.2.0.0/16

Only in `make interop`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.interpose.strongswan import Host, counters, eventually, need_charon
from tests.netns import in_netns
from tests.oracle.spread import EVERYTHING
from xfrmi.lab.topology import Lab, Node
from xfrmi.lab.traffic import ping

pytestmark = pytest.mark.skipif(not EVERYTHING, reason="strongSwan's scenarios: make interop")

OUTER = {"moon": "192.0.2.1", "sun": "192.0.2.2", "carol": "192.0.2.100", "dave": "192.0.2.200"}
ALICE, VENUS, BOB = "10.1.0.10", "10.1.0.20", "10.2.0.10"
CONFIG = """
connections {{
    gw {{
        local_addrs = {own}
        remote_addrs = {other}
        version = 2
        proposals = aes128-sha256-x25519
        {ike}
        local {{
            auth = psk
            id = {name}
        }}
        remote {{
            auth = psk
        }}
        children {{
            {children}
        }}
    }}
}}
pools {{
    rw_pool {{
        addrs = 10.3.0.0/28
    }}
}}
secrets {{
    ike {{
        secret = "not very secret"
    }}
}}
"""


def config(host: Host, other: str, *children: str, ike: str = "") -> str:
    own = OUTER[host.name]
    return CONFIG.format(own=own, other=other, name=host.name, ike=ike, children="\n".join(children))


def child(name: str, local: str, remote: str, more: str = "") -> str:
    return f"{name} {{\n local_ts = {local}\n remote_ts = {remote}\n esp_proposals = aes128gcm16\n {more}\n}}\n"


@dataclass
class Network:
    alice: Node
    bob: Node
    moon: Host
    sun: Host
    carol: Host
    dave: Host


@contextmanager
def network() -> Iterator[Network]:
    need_charon()
    with Lab() as lab:
        nodes = {name: lab.node(name) for name in ("alice", "bob", "switch", *OUTER)}
        switch = nodes["switch"]
        with switch:
            switch.run(["ip", "link", "add", "br0", "type", "bridge"])
        switch.up("br0")
        for number, (name, address) in enumerate(OUTER.items()):
            lab.link(nodes[name], "eth0", [f"{address}/24"], switch, f"p{number}", [])
            switch.run(["ip", "link", "set", f"p{number}", "master", "br0"])
        lab.link(nodes["moon"], "eth1", ["10.1.0.1/16"], nodes["alice"], "eth0", [f"{ALICE}/16", f"{VENUS}/16"])
        lab.link(nodes["sun"], "eth1", ["10.2.0.1/16"], nodes["bob"], "eth0", [f"{BOB}/16"])
        nodes["alice"].route("0.0.0.0/0", via="10.1.0.1")
        nodes["bob"].route("0.0.0.0/0", via="10.2.0.1")
        for name in ("moon", "sun"):
            nodes[name].forward()
        hosts = {name: Host(nodes[name]) for name in OUTER}
        try:
            yield Network(nodes["alice"], nodes["bob"], **hosts)
        except BaseException:
            print(*(host.last_words() for host in hosts.values() if host.charon), sep="\n")
            raise
        for host in hosts.values():
            if host.charon is not None:
                host.stop()
            assert not (host.node.folder / "exec.log").exists()


def reaches(node: Node, address: str, source: str = "") -> bool:
    words = ["ping", "-c", "2", "-i", "0.05", "-W", "2", *(["-I", source] if source else []), address]
    return "2 received" in node.run(words).stdout


UPDOWN = """#!/bin/sh
exec >> {folder}/updown.log 2>&1
case "$PLUTO_VERB" in
up-client)
    ip link add xfrm-in type xfrm dev eth0 if_id "$PLUTO_IF_ID_IN" && ip link set xfrm-in up
    ip link add xfrm-out type xfrm dev eth0 if_id "$PLUTO_IF_ID_OUT" && ip link set xfrm-out up
    ip route add "$PLUTO_PEER_CLIENT" dev xfrm-out ;;
down-client)
    ip link del xfrm-out; ip link del xfrm-in ;;
esac
"""
STATIC = (
    "ip link add xfrm-moon-out type xfrm dev eth0 if_id 1337 && ip link set xfrm-moon-out up && "
    "ip link add xfrm-moon-in type xfrm dev eth0 if_id 42 && ip link set xfrm-moon-in up && "
    "ip route add 10.2.0.0/16 dev xfrm-moon-out"
)


def script(host: Host, text: str) -> str:
    path = host.node.folder / "updown"
    path.write_text(text)
    path.chmod(0o700)
    return f"updown = {path}"


@in_netns
def test_net2net_xfrmi() -> None:
    """One interface for each direction: static on moon, on sun from a script, with numbers that charon gives."""
    with network() as net:
        net.moon.launch(config(net.moon, OUTER["sun"], child(
            "net-net", "10.1.0.0/16", "10.2.0.0/16", "if_id_out = 1337\n if_id_in = 42",
        )))  # fmt: skip
        updown = script(net.sun, UPDOWN.format(folder=net.sun.node.folder))
        net.sun.launch(config(net.sun, OUTER["moon"], child(
            "net-net", "10.2.0.0/16", "10.1.0.0/16", f"if_id_out = %unique-dir\n if_id_in = %unique-dir\n {updown}",
        )))  # fmt: skip
        net.moon.run(STATIC)
        net.moon.swanctl("--initiate", "--child", "net-net")
        eventually(lambda: reaches(net.alice, BOB), net.sun.last_words)
        assert reaches(net.bob, ALICE)
        shown = net.sun.run("ip -d link show type xfrm")
        assert "if_id 0x1 " in shown and "if_id 0x2 " in shown, shown
        carried = counters(net.moon)
        assert carried["in"] == carried["out"] and carried["in"][1] >= 4
        net.moon.swanctl("--terminate", "--ike", "gw")
        eventually(lambda: "xfrm-" not in net.sun.run("ip link"), net.sun.last_words)
        assert not reaches(net.alice, BOB)


@in_netns
def test_net2net_xfrmi_ike() -> None:
    """Numbers that belong to the IKE_SA, so that its children share interfaces: alice and venus have one each."""
    with network() as net:
        children = [child(f"{n}-net", f"{a}/32", "10.2.0.0/16") for n, a in (("alice", ALICE), ("venus", VENUS))]
        net.moon.launch(config(net.moon, OUTER["sun"], *children, ike="if_id_out = 1337\n if_id_in = 42"))
        unique = "if_id_out = %unique-dir\n if_id_in = %unique-dir"
        net.sun.launch(config(net.sun, OUTER["moon"], child("net", "10.2.0.0/16", "10.1.0.0/16"), ike=unique))
        net.moon.run(STATIC)
        net.moon.swanctl("--initiate", "--child", "alice-net")
        net.sun.run(
            "ip link add xfrm-in type xfrm dev eth0 if_id 1 && ip link add xfrm-out type xfrm dev eth0 if_id 2 && "
            "ip link set xfrm-in up && ip link set xfrm-out up && ip route add 10.1.0.0/16 dev xfrm-out"
        )
        assert reaches(net.alice, BOB, ALICE) and not reaches(net.alice, BOB, VENUS)
        net.moon.swanctl("--initiate", "--child", "venus-net")
        assert reaches(net.alice, BOB, ALICE) and reaches(net.alice, BOB, VENUS)
        assert len(set(net.sun.run("ip xfrm state | grep -o 'if_id .*'").split())) == 3, "two numbers for four states"


NETNS = """#!/bin/sh
exec >> {folder}/updown.log 2>&1
[ "$PLUTO_VERB" = up-client ] || exit 0
ip link add xfrm-sun type xfrm dev eth0 if_id "$PLUTO_IF_ID_OUT" &&
ip link set xfrm-sun netns {pid} &&
nsenter -n -t {pid} sh -c "ip link set xfrm-sun up && ip address add 10.2.0.77/32 dev xfrm-sun &&
ip route add $PLUTO_PEER_CLIENT dev xfrm-sun src 10.2.0.77"
"""


@in_netns
def test_net2net_xfrmi_netns() -> None:
    """The interface is made where the keys are, and moved to where the packets are: that namespace has nothing else."""
    with network() as net, Lab() as other:
        cell = other.node("cell")
        sleeper = cell.start(["sleep", "1000"])
        updown = script(net.sun, NETNS.format(folder=net.sun.node.folder, pid=sleeper.pid))
        more = f"if_id_out = %unique\n if_id_in = %unique\n {updown}"
        net.moon.launch(config(net.moon, OUTER["sun"], child(
            "net-net", "10.1.0.0/16", "10.2.0.0/16", "if_id_out = 42\n if_id_in = 42",
        )))  # fmt: skip
        net.sun.launch(config(net.sun, OUTER["moon"], child("net-net", "10.2.0.0/16", "10.1.0.0/16", more)))
        net.moon.run(
            "ip link add xfrm-moon type xfrm dev eth0 if_id 42 && ip link set xfrm-moon up && "
            "ip route add 10.2.0.0/16 dev xfrm-moon"
        )
        net.moon.swanctl("--initiate", "--child", "net-net")
        eventually(lambda: reaches(cell, ALICE), net.sun.last_words)
        assert reaches(net.alice, "10.2.0.77")
        assert "xfrm-sun" not in net.sun.run("ip link")


@in_netns
def test_rw_shared_xfrmi() -> None:
    """Road warriors with addresses from a pool share one interface; whoever has none goes without one, or has %unique.

    Carol has an interface of her own; dave's number is one that charon gives him.
    """
    with network() as net:
        net.moon.launch(config(net.moon, "%any", child(
            "net", "10.1.0.0/16", "dynamic", "if_id_out = 42\n if_id_in = 42",
        ), ike="pools = rw_pool"))  # fmt: skip
        net.moon.run(
            "ip link add xfrm-moon type xfrm dev eth0 if_id 42 && ip link set xfrm-moon up && "
            "ip route add 10.3.0.0/28 dev xfrm-moon"
        )
        for host, if_id in ((net.carol, "7"), (net.dave, "%unique")):
            home = child("home", "dynamic", "10.1.0.0/16", f"if_id_out = {if_id}\n if_id_in = {if_id}")
            host.launch(config(host, OUTER["moon"], home, ike="vips = 0.0.0.0"), "install_virtual_ip_on = ipsec0")
            number = "7" if if_id == "7" else "1"
            host.run(f"ip link add ipsec0 type xfrm dev eth0 if_id {number} && ip link set ipsec0 up")
            host.swanctl("--initiate", "--child", "home")
            host.run("ip route replace 10.1.0.0/16 dev ipsec0")
        vips = ("10.3.0.1", "10.3.0.2")
        for host, vip in zip((net.carol, net.dave), vips, strict=True):
            assert f"inet {vip}/32" in host.run("ip address show dev ipsec0")
            assert reaches(host.node, ALICE)
            assert reaches(net.alice, vip)
        net.carol.swanctl("--terminate", "--ike", "gw")
        eventually(lambda: not reaches(net.alice, vips[0]), net.moon.last_words)
        assert reaches(net.alice, vips[1]), "the other one has lost nothing"
        assert len(ping(net.alice, vips[1], 2)) == 2
