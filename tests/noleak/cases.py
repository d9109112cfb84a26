"""What can happen to a daemon and its surroundings while packets flow, as a table: what is done to moon, and whether
the tunnels come back by themselves (a kernel's would), or need what a key manager does.

Packets flow all the time through `test_fail_closed.TUNNELS`, which are every pair of an inner and an outer family. As
docs/architecture.md asks for, a blackhole route of a high metric stands behind the devices.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.iproute import ip
from tests.netns import Namespace
from tests.noleak import memory
from tests.system.hosts import ANY, OUTER, ROUTER, Hosts, at, eventually, give_addresses, tell
from tests.system.test_fail_closed import TUNNELS, key_again, kill
from xfrmi.errors import XfrmError
from xfrmi.lab.topology import Node

ADDRESSES = ((4, 30), (6, 64))
OTHER = {4: "192.0.2.129", 6: "2001:db8:1::77"}
WIDE = {4: 24, 6: 64}
"""Addresses that moon might have, in a network that its router is in, too."""
RATHER_LITTLE = 1 << 20
"""Bytes that a daemon may still have when its memory is limited."""
ANOTHER = (
    "state add src 192.0.2.1 dst 198.51.100.9 proto esp spi {:#x} reqid 9 mode tunnel "
    f"aead rfc4106(gcm(aes)) 0x{'5e' * 20} 128\n"
)
"""A state that no packet is for."""


@dataclass(frozen=True)
class Case:
    name: str
    happens: Callable[[Hosts, random.Random], None]
    by_itself: bool = True
    """Do the tunnels go on afterwards, or have they to be keyed, and made, again?"""
    lacking: Callable[[], str] = str
    """What this machine lacks for it, empty if nothing."""


def moment(chance: random.Random) -> None:
    time.sleep(chance.uniform(0.02, 0.15))


# The daemon ----------------------------------------------------------------------------------------------------------


def start(hosts: Hosts) -> None:
    hosts.daemons["moon"] = hosts.moon.start_daemon()


def killed(hosts: Hosts, chance: random.Random) -> None:
    kill(hosts.daemons["moon"])
    moment(chance)
    start(hosts)


def restarted(hosts: Hosts, chance: random.Random) -> None:
    hosts.daemons["moon"].send_signal(signal.SIGTERM)
    assert hosts.daemons["moon"].wait(5) == 0
    moment(chance)
    start(hosts)


def replaced(hosts: Hosts, chance: random.Random) -> None:
    old = hosts.daemons["moon"]
    hosts.daemons["moon"] = hosts.moon.launch_daemon("--replace")
    assert old.wait(20) == 0, hosts.moon.last_words()


def killed_while_replaced(hosts: Hosts, chance: random.Random) -> None:
    """The one that takes over, at any moment; whoever is left serves, or nobody, and then a new one."""
    successor = hosts.moon.launch_daemon("--replace")
    time.sleep(chance.uniform(0.2, 1.5))
    kill(successor)
    old = hosts.daemons["moon"]
    eventually(lambda: old.poll() is not None or serves(hosts), hosts.moon.last_words)
    if old.poll() is not None:
        assert old.returncode == 0, hosts.moon.last_words()
        start(hosts)


def out_of_memory(hosts: Hosts, chance: random.Random) -> None:
    """Whether it lives on without what it has asked for, or ends, nothing goes out in the clear."""
    daemon = hosts.daemons["moon"]
    with open(f"/proc/{daemon.pid}/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    unlimited = resource.prlimit(daemon.pid, resource.RLIMIT_AS, (size + RATHER_LITTLE, resource.RLIM_INFINITY))
    try:
        for _ in range(3):
            moment(chance)
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, unlimited)
    assert daemon.poll() is None, hosts.moon.last_words()


def killed_for_want_of_memory(hosts: Hosts, chance: random.Random) -> None:
    """By the kernel, while states come in until there is no room for them."""
    daemon = hosts.daemons["moon"]
    with memory.at_most(daemon.pid, RATHER_LITTLE), contextlib.suppress(XfrmError, OSError):
        for first in range(0x10000, 0x80000, 256):
            tell(hosts.moon, "".join(ANOTHER.format(spi) for spi in range(first, first + 256)))
    assert daemon.wait(5) == -signal.SIGKILL, hosts.moon.last_words()
    moment(chance)
    start(hosts)


def stopped_and_continued(hosts: Hosts, chance: random.Random) -> None:
    hosts.daemons["moon"].send_signal(signal.SIGSTOP)
    moment(chance)
    hosts.daemons["moon"].send_signal(signal.SIGCONT)


# Tables --------------------------------------------------------------------------------------------------------------


def rekey_storm(hosts: Hosts, chance: random.Random) -> None:
    """New keys under the same SPIs, again and again, on both hosts."""
    for _ in range(10):
        fresh = [tunnel.rekeyed() for tunnel in TUNNELS]
        for host in hosts.ends:
            tell(host, "state flush\n" + "".join(tunnel.key_lines() for tunnel in fresh))


def states_deleted(hosts: Hosts, chance: random.Random) -> None:
    for tunnel in TUNNELS:
        for sender, receiver in (("moon", "sun"), ("sun", "moon")):
            line = f"state delete dst {OUTER[receiver, tunnel.outer]} proto esp spi {tunnel.spi(sender):#x}\n"
            tell(hosts.moon, line)
    moment(chance)


def states_flushed(hosts: Hosts, chance: random.Random) -> None:
    tell(hosts.moon, "state flush\n")
    moment(chance)


def policies_flushed(hosts: Hosts, chance: random.Random) -> None:
    tell(hosts.moon, "policy flush\n")
    moment(chance)


def policies_changed(hosts: Hosts, chance: random.Random) -> None:
    """Block, ask for states that are not there, and what was."""
    for words in ("action block", "tmpl src 192.0.2.1 dst 198.51.100.1 proto esp reqid 999 mode tunnel"):
        for tunnel in TUNNELS:
            for family in tunnel.inner:
                line = f"policy update src {ANY[family]} dst {ANY[family]} dir out if_id {tunnel.if_id} {words}\n"
                tell(hosts.moon, line)
        moment(chance)
    for tunnel in TUNNELS:
        for family in tunnel.inner:
            tell(hosts.moon, tunnel.policy_line("moon", "out", family).replace("policy add", "policy update"))


# Devices -------------------------------------------------------------------------------------------------------------


def interfaces_down_and_up(hosts: Hosts, chance: random.Random) -> None:
    for word in ("down", "up"):
        tell(hosts.moon, "".join(f"link set {tunnel.name} {word}\n" for tunnel in TUNNELS))
        moment(chance)
    address_again(hosts)


def address_again(hosts: Hosts) -> None:
    """IPv6 addresses go with a device that goes down."""
    for tunnel in TUNNELS:
        for family, length in ADDRESSES:
            if family in tunnel.inner:
                give(hosts.moon, tunnel.name, f"{tunnel.address('moon', family)}/{length}")


def give(host: Node, device: str, address: str) -> None:
    """Unless it has it."""
    with host, contextlib.suppress(FileExistsError):
        ip(f"addr add {address} dev {device} nodad")


def cable_again(moon: Node) -> None:
    with moon:
        ip("link set eth0 up")
    for family, length in ADDRESSES:
        give(moon, "eth0", f"{OUTER['moon', family]}/{length}")
        with moon:
            ip(f"-{family} route replace default via {ROUTER['moon', family]}")


def underlying_down_and_up(hosts: Hosts, chance: random.Random) -> None:
    with hosts.moon:
        ip("link set eth0 down")
    moment(chance)
    cable_again(hosts.moon)


def underlying_gone_and_back(hosts: Hosts, chance: random.Random) -> None:
    """Into another namespace, and back: with another number and without addresses."""
    elsewhere = Namespace()
    try:
        with hosts.moon:
            ip(f"link set eth0 netns /proc/self/fd/{elsewhere.fd}")
        moment(chance)
        with elsewhere:
            ip(f"link set eth0 netns /proc/self/fd/{hosts.moon.fd}")
    finally:
        os.close(elsewhere.fd)
    cable_again(hosts.moon)


def address_changed(hosts: Hosts, chance: random.Random) -> None:
    """The states' own is not there for a while."""
    for family, length in ADDRESSES:
        with hosts.moon:
            ip(f"addr del {OUTER['moon', family]}/{length} dev eth0")
        give(hosts.moon, "eth0", f"{OTHER[family]}/{WIDE[family]}")
        with hosts.moon:
            ip(f"-{family} route replace default via {ROUTER['moon', family]}")
    moment(chance)
    for family in WIDE:
        with hosts.moon:
            ip(f"addr del {OTHER[family]}/{WIDE[family]} dev eth0")
    cable_again(hosts.moon)


def tun_deleted(hosts: Hosts, chance: random.Random) -> None:
    """By somebody who does not ask us."""
    for tunnel in TUNNELS:
        with hosts.moon:
            ip(f"link del {tunnel.name}")
    moment(chance)
    eventually(lambda: not links(hosts), "interfaces stay without TUN")


def namespace_deleted(hosts: Hosts, chance: random.Random) -> None:
    """Devices are moved to a namespace, which goes, and takes them along."""
    elsewhere = Namespace()
    try:
        for tunnel in TUNNELS:
            with hosts.moon:
                ip(f"link set {tunnel.name} netns /proc/self/fd/{elsewhere.fd}")
        moment(chance)
    finally:
        os.close(elsewhere.fd)
    eventually(lambda: not links(hosts), "interfaces stay without TUN")


def links(hosts: Hosts) -> list[str]:
    with at(hosts.moon) as client:
        return [link.name for link in client.links()]


def serves(hosts: Hosts) -> bool:
    """A daemon that is about to end, for it has handed over, does not answer."""
    with contextlib.suppress(XfrmError):
        return bool(links(hosts))
    return False


def make_again(hosts: Hosts) -> None:
    """What a key manager, and who made the devices, would do."""
    there = links(hosts)
    tell(hosts.moon, "state flush\npolicy flush\n")
    for tunnel in TUNNELS:
        if tunnel.name not in there:
            tell(hosts.moon, tunnel.link_lines())
            give_addresses(hosts.moon, tunnel)
    key_again(hosts)


CASES = (
    Case("killed", killed, by_itself=False),
    Case("restarted", restarted, by_itself=False),
    Case("replaced", replaced),
    Case("successor killed", killed_while_replaced, by_itself=False),
    Case("out of memory", out_of_memory),
    Case("killed for want of memory", killed_for_want_of_memory, by_itself=False, lacking=memory.lacking),
    Case("stopped and continued", stopped_and_continued),
    Case("rekey storm", rekey_storm),
    Case("states deleted", states_deleted, by_itself=False),
    Case("states flushed", states_flushed, by_itself=False),
    Case("policies flushed", policies_flushed, by_itself=False),
    Case("policies changed", policies_changed),
    Case("interfaces down and up", interfaces_down_and_up),
    Case("underlying device down and up", underlying_down_and_up),
    Case("underlying device gone and back", underlying_gone_and_back),
    Case("underlying address changed", address_changed),
    Case("TUN deleted", tun_deleted, by_itself=False),
    Case("namespace deleted", namespace_deleted, by_itself=False),
)
