"""What a network namespace may put in the way: each setting is really made, in a namespace of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.doctor.doctor import found
from tests.iproute import ip
from tests.netns import in_netns, sysctl
from tests.wire.test_against_kernel import Kernel
from xfrmi.doctor import host_xfrm
from xfrmi.doctor.firewall import in_the_way
from xfrmi.doctor.machine import Machine
from xfrmi.wire import xfrm_msg
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import Action, Default, Dir, Mode
from xfrmi.wire.xfrm_types import PolicyInfo, Selector, StateInfo, Template


def veth(mtu: int = 1500) -> None:
    ip("link add veth0 type veth peer name veth1")
    for name in ("veth0", "veth1"):
        ip(f"link set {name} up mtu {mtu}")
    ip("address add 192.0.2.1/24 dev veth0")
    ip("route add default via 192.0.2.2")


# Settings ------------------------------------------------------------------------------------------------------------


@in_netns
def test_reverse_path_filter() -> None:
    """Strict anywhere is told, and the cure is stronger than what any device says (2 beats 1)."""
    veth()
    for name in ("all", "default", "veth0", "veth1"):
        sysctl(f"net.ipv4.conf.{name}.rp_filter", 0)
    assert found("rp_filter")[0] == "ok"
    sysctl("net.ipv4.conf.veth0.rp_filter", 1)
    status, text, cure = found("rp_filter")
    assert (status, text.partition(":")[0]) == ("warning", "strict on veth0")
    sysctl("net.ipv4.conf.veth0.rp_filter", 0)
    sysctl("net.ipv4.conf.default.rp_filter", 1)
    assert found("rp_filter")[1].startswith("strict on new devices:")
    sysctl("net.ipv4.conf.all.rp_filter", 1)
    assert found("rp_filter")[1].startswith("strict on veth1, veth0, new devices:")
    carry_out(cure)
    assert found("rp_filter")[0] == "ok"


@in_netns
def test_routes_without_carrier() -> None:
    sysctl("net.ipv4.conf.all.ignore_routes_with_linkdown", 1)
    status, _, cure = found("linkdown")
    assert status == "warning"
    carry_out(cure)
    assert found("linkdown")[0] == "ok"


@in_netns
def test_forwarding_is_a_note() -> None:
    """A host needs none, so it is never a warning; for a gateway the line is there."""
    sysctl("net.ipv4.ip_forward", 0)
    sysctl("net.ipv6.conf.all.forwarding", 0)
    status, text, cure = found("forwarding")
    assert (status, cure) == ("ok", "")
    assert text.endswith("sudo sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    sysctl("net.ipv4.ip_forward", 1)
    assert found("forwarding")[1] == "IPv4 needs sudo sysctl -w net.ipv6.conf.all.forwarding=1"
    sysctl("net.ipv6.conf.all.forwarding", 1)
    assert found("forwarding")[1] == "on, as a gateway needs it"


def carry_out(cure: str) -> None:
    """`sudo sysctl -w NAME=VALUE` as it stands there."""
    words = cure.split()
    assert words[:3] == ["sudo", "sysctl", "-w"]
    for word in words[3:]:
        name, _, value = word.partition("=")
        sysctl(name, value)


# Devices -------------------------------------------------------------------------------------------------------------


@in_netns
def test_the_way_to_the_peers() -> None:
    assert found("underlay")[:2] == ("warning", "no device is up but lo: no peer can be reached")
    veth(1500)
    assert found("underlay") == ("ok", "veth0 (MTU 1500)", ""), "that of the default route"
    ip("link set veth0 mtu 1360")
    status, text, cure = found("underlay")
    assert (status, cure) == ("warning", "sudo ip link set veth0 mtu 1500")
    assert "go out in fragments" in text
    ip("link set veth0 mtu 1200")
    assert found("underlay")[1] == "veth0 has MTU 1200, and IPv6 needs 1280"
    ip("link set veth0 mtu 1500")
    assert found("underlay")[0] == "ok"


@contextmanager
def holding(port: int, *families: int) -> Iterator[int]:
    """Another process with that port open; its pid."""
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        sockets = [socket.socket(family, socket.SOCK_DGRAM) for family in families]
        for one in sockets:
            one.bind(("", port))
        os.write(told, b"1")
        signal.pause()
        os._exit(0)
    os.close(told)
    assert os.read(ready, 1) == b"1"
    os.close(ready)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@in_netns
def test_who_has_udp_4500(family: int) -> None:
    with holding(4501, family):
        assert found("udp 4500") == ("ok", "free", "")
    with holding(4500, family) as pid:
        status, text, cure = found("udp 4500")
        assert (status, cure) == ("warning", f"sudo kill {pid}")
        with open(f"/proc/{pid}/comm") as name:
            assert f"taken by {name.read().strip()} (pid {pid})" in text


# The kernel's own xfrm -----------------------------------------------------------------------------------------------


def forbid(direction: str) -> None:
    values = {direction: Default.BLOCK}
    Kernel().ask(XfrmMsg.SETDEFAULT, xfrm_msg.encode_defaults(xfrm_msg.Defaults(**values)))


@pytest.mark.parametrize(("field", "name"), [("input", "in"), ("output", "out"), ("fwd", "fwd")])
@in_netns
def test_default_policies_of_the_kernel(field: str, name: str) -> None:
    """RAW-05: setdefault block takes away what the raw sockets would receive."""
    assert found("policies") == ("ok", "none in the kernel", "")
    forbid(field)
    status, text, cure = found("policies")
    assert (status, cure) == ("lack", "sudo ip xfrm policy setdefault in accept fwd accept out accept")
    assert f"blocks {name}:" in text


@in_netns
def test_policies_of_the_kernel() -> None:
    """In the way are those of if_id 0 that block or demand IPsec: sockets ask for no others."""
    kernel = Kernel()
    demand = (Template("192.0.2.1", "192.0.2.2", reqid=1, mode=Mode.TUNNEL),)
    harmless = [
        PolicyInfo(Selector.parse("10.0.0.0/8"), Dir.OUT),
        PolicyInfo(Selector.parse("10.1.0.0/16"), Dir.OUT, if_id=7, templates=demand),
    ]
    for policy in harmless:
        kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(policy))
    assert found("policies") == ("ok", "2 in the kernel, none in the way", "")
    for policy in (
        PolicyInfo(Selector.parse("10.2.0.0/16"), Dir.OUT, templates=demand),
        PolicyInfo(Selector.parse("10.3.0.0/16"), Dir.IN, action=Action.BLOCK),
    ):
        kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(policy))
    status, text, cure = found("policies")
    assert (status, cure) == ("warning", "sudo ip xfrm policy flush")
    assert "(2, in, out)" in text


@in_netns
def test_states_of_the_kernel() -> None:
    """A larval one counts: every kernel can have it."""
    assert found("states") == ("ok", "none in the kernel", "")
    state = StateInfo(src="192.0.2.1", dst="192.0.2.2", mode=Mode.TUNNEL)
    Kernel().ask(XfrmMsg.ALLOCSPI, xfrm_msg.encode_alloc_spi(xfrm_msg.SpiRequest(state, 0x1000, 0x1000)))
    status, text, cure = found("states")
    assert (status, text, cure) == ("warning", "the kernel has states of its own (1)", "sudo ip xfrm state flush")


class Elsewhere(Machine):
    """This machine with other files."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def read(self, path: str) -> str | None:
        return next((text for name, text in self.files.items() if path.startswith(name)), None)


@pytest.mark.parametrize(
    ("files", "status", "text"),
    [
        ({}, "OK", "nothing competes for protocol 50"),
        ({"/proc/modules": "tun 65536 2 - Live 0x0\n"}, "OK", "nothing competes"),
        ({"/proc/modules": "esp4 28672 0 - Live 0x0\nxfrm_user 1 0 - Live 0x0\n"}, "WARNING", "esp4 loaded"),
        ({"/proc/modules": "esp4 1 0\nesp6 1 0\n"}, "WARNING", "esp4, esp6 loaded"),
        ({"/proc/modules": "esp4 1 0\nxfrm_interface 1 0\n"}, "WARNING", "has xfrm interfaces of its own"),
        ({"/proc/config.gz": "CONFIG_INET_ESP=y\nCONFIG_XFRM_INTERFACE=y\n"}, "WARNING", "interfaces of its own"),
        ({"/proc/config.gz": "CONFIG_INET_ESP=m\n# CONFIG_XFRM_INTERFACE is not set\n"}, "OK", "nothing competes"),
        ({"/boot/config-": "CONFIG_INET_ESP=y\n", "/lib/modules/": "kernel/net/xfrm/xfrm_interface.ko.xz:\n"},
         "WARNING", "xfrm interfaces of its own"),
        ({"/lib/modules/": "kernel/net/ipv4/esp4.ko: kernel/x.ko\nkernel/net/xfrm/xfrm_interface.ko:\n"}, "WARNING",
         "needed for nothing"),
    ],
)  # fmt: skip
def test_a_kernel_with_esp(files: dict[str, str], status: str, text: str) -> None:
    finding = host_xfrm.kernel(Elsewhere(files))
    assert finding.level.name == status
    assert text in finding.text
    assert bool(finding.cure) == (status == "WARNING")


# The firewall --------------------------------------------------------------------------------------------------------


def nft(*lines: str) -> None:
    if shutil.which("nft") is None:
        pytest.skip("NO nft HERE, NOT TESTED")
    done = subprocess.run(["nft", "-f", "-"], input="\n".join(lines), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO nftables IN THIS KERNEL, NOT TESTED: {done.stderr}")


@pytest.mark.parametrize("rule", ["ip protocol esp drop", "meta l4proto 50 reject", "udp dport 4500 drop"])
@in_netns
def test_a_rule_against_esp(rule: str) -> None:
    nft("add table inet f", "add chain inet f i { type filter hook input priority 0; }", "add rule inet f i accept")
    assert found("firewall")[0] == "ok"
    nft(f"insert rule inet f i {rule}")
    status, text, cure = found("firewall")
    assert status == "warning"
    assert text.startswith(f"a rule drops {'UDP 4500' if '4500' in rule else 'protocol 50'}: ")
    assert cure.startswith("sudo nft list ruleset")


@in_netns
def test_a_firewall_that_knows_nothing_of_esp() -> None:
    nft("add table inet f", "add chain inet f i { type filter hook input priority 0; policy drop; }")
    status, text, _ = found("firewall")
    assert (status, text) == ("warning", "input is dropped by default, and no rule names protocol 50 or UDP 4500")
    nft("add rule inet f i meta l4proto esp accept")
    assert found("firewall")[0] == "ok"


@in_netns
def test_without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel still says that there is nothing; what there is it says in a form that takes the tool."""
    nft("add table inet f")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert found("firewall") == ("warning", "unknown: neither nft nor iptables is here to list the rules", "")
    monkeypatch.undo()
    nft("delete table inet f")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert found("firewall") == ("ok", "no tables", "")


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        (":INPUT ACCEPT [0:0]\n-A INPUT -p esp -j DROP\n", "a rule drops protocol 50: -A INPUT -p esp -j DROP"),
        ("ip protocol { tcp, esp } drop\n", "a rule drops protocol 50: "),
        ("-A INPUT ! -p esp -j DROP\n", ""),
        ("-A INPUT -p udp -m udp --dport 4500 -j REJECT\n", "a rule drops UDP 4500: "),
        (":INPUT DROP [1:2]\n-A INPUT -p tcp --dport 22 -j ACCEPT\n", "input is dropped by default, "),
        (":INPUT DROP [1:2]\n-A INPUT -p esp -j ACCEPT\n", ""),
        (":OUTPUT ACCEPT [0:0]\n-A INPUT -p tcp --dport 50 -j DROP\n", ""),
        (":INPUT ACCEPT [50:4500]\n", ""),
    ],
)
def test_what_rules_of_iptables_say(rules: str, verdict: str) -> None:
    assert in_the_way(rules).startswith(verdict)
    assert bool(in_the_way(rules)) == bool(verdict)


