"""Stock charons key tunnels between two hosts whose kernels know nothing of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.interpose.strongswan import ADDRESS, INNER, Host, counters, eventually, make_certificates, two_hosts
from tests.netns import in_netns
from tests.oracle.spread import EVERYTHING
from xfrmi.lab.namespace import sysctl

pytestmark = pytest.mark.skipif(not EVERYTHING, reason="two charons: make interop")


def installed(host: Host) -> list[str]:
    """SPIs that come in, of the CHILD_SAs that are up."""
    return re.findall(r"  in  ([0-9a-f]{8})", host.swanctl("--list-sas"))


@in_netns
def test_a_tunnel_keyed_by_two_charons() -> None:
    """And what charon tells of it: counters. Then both are told to end it, and nothing is left."""
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            host.start()
            host.link()
        moon.swanctl("--initiate", "--child", "net")
        assert moon.ping() == 3 and sun.ping(size=1400) == 3
        listed = moon.swanctl("--list-sas")
        assert "INSTALLED, TUNNEL, ESP:AES_GCM_16-128" in listed, listed
        expected = 3 * 84 + 3 * 1428, 6
        assert counters(moon) == counters(sun) == {"in": expected, "out": expected}
        assert "10.0.42.0/24" in moon.run("ip xfrm policy")
        moon.swanctl("--terminate", "--ike", "net")
        assert moon.run("ip xfrm state") == ""
        eventually(lambda: sun.run("ip xfrm state") == "", sun.last_words)
        assert sun.run("ip xfrm policy | grep -v socket || true").count("if_id 0x2a") == 0
        assert moon.ping(1) == 0, "nothing goes out in the clear"


@in_netns
def test_keys_are_renewed_while_packets_flow() -> None:
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            host.start()
            host.link()
        moon.swanctl("--initiate", "--child", "net")
        assert moon.ping() == 3
        before = installed(moon)
        flow = moon.node.start(["ping", "-c", "40", "-i", "0.05", "10.0.42.2"], "ping.log")
        time.sleep(0.3)
        moon.swanctl("--rekey", "--child", "net")
        time.sleep(0.3)
        sun.swanctl("--rekey", "--child", "net")
        time.sleep(0.3)
        moon.swanctl("--rekey", "--ike", "net")
        flow.wait(20)
        eventually(lambda: len(installed(moon)) == 1, moon.last_words)
        assert installed(moon) != before
        assert " 40 received, 0% packet loss" in (moon.node.folder / "ping.log").read_text()
        assert moon.ping() == 3 and sun.ping() == 3


LIFETIMES = {
    "time": "rekey_time = 2s\n life_time = {hard}s\n rand_time = 0",
    "bytes": "rekey_bytes = 1000\n life_bytes = {hard}000\n rand_bytes = 0",
    "packets": "rekey_packets = 10\n life_packets = {hard}\n rand_packets = 0",
}


@in_netns
def test_lifetimes() -> None:
    """Expire events, of time, bytes and packets: at the soft limit charon renews its keys, at the hard one it closes
    what it has, and begins anew."""
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            host.start()
            host.link()
        for settings in LIFETIMES.values():
            moon.reload(moon.connection(child=settings.format(hard=1000)))
            moon.swanctl("--initiate", "--child", "net")
            before = installed(moon)
            assert moon.ping(20, size=100) == 20
            eventually(lambda before=before: set(installed(moon)) - set(before), moon.last_words)  # type: ignore[misc]
            assert moon.ping() == 3
            assert "closing expired" not in moon.log()
            moon.swanctl("--terminate", "--ike", "net")
        for settings in LIFETIMES.values():
            hard = re.sub("rekey_([a-z]+) = [^\n]*", r"rekey_\1 = 0", settings).format(hard=3)
            moon.reload(moon.connection(child=hard))
            closed = _closed(moon)
            moon.swanctl("--initiate", "--child", "net")
            while _closed(moon) == closed:  # the packets are what brings it about
                moon.ping(1, size=1000)
            moon.swanctl("--terminate", "--ike", "net")


def _closed(host: Host) -> int:
    return host.log().count("closing expired CHILD_SA")


@in_netns
def test_the_first_packet_raises_the_tunnel() -> None:
    """start_action = trap: a policy, an acquire, and the packet that asked for it is not the last one."""
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            host.start(child="start_action = trap")
            host.link()
        assert installed(moon) == []
        assert moon.ping(10) >= 5
        assert len(installed(moon)) == len(installed(sun)) == 1
        assert moon.ping() == 3


@in_netns
def test_in_udp_on_the_port_of_ike() -> None:
    """encap = yes: ESP to 4500, which charon has bound; it gets IKE and nothing else. Also after it was restarted."""
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            host.start(ike="encap = yes")
            host.link()
        moon.swanctl("--initiate", "--child", "net")
        assert "ESP in UDP" in moon.swanctl("--list-sas") or "TUNNEL-in-UDP" in moon.swanctl("--list-sas")
        assert "encap type espinudp sport 4500 dport 4500" in moon.run("ip xfrm state")
        assert moon.ping() == 3 and sun.ping(size=1400) == 3
        moon.swanctl("--rekey", "--child", "net")
        moon.swanctl("--rekey", "--ike", "net")
        time.sleep(0.5)
        assert moon.ping() == 3
        sun.stop()
        sun.start(ike="encap = yes")
        sun.run("ip link show ipsec0 | grep ipsec0")
        moon.swanctl("--terminate", "--ike", "net", "--force", "--timeout", "1", check=False)
        moon.swanctl("--initiate", "--child", "net")
        assert moon.ping() == 3 and sun.ping() == 3


@in_netns
def test_a_daemon_that_outlives_its_charon_gives_the_port_back() -> None:
    """As with systemd: `xfrmi daemon` is a service of its own, and charon is started again beside it, or killed."""
    with two_hosts() as (moon, sun):
        moon.node.start_daemon()
        for host in (moon, sun):
            host.start(ike="encap = yes")
            host.link()
        for how in ("TERM", "KILL"):
            moon.swanctl("--initiate", "--child", "net")
            assert moon.ping() == 3 and sun.ping() == 3
            moon.stop(how)
            moon.relaunch()
            assert "unable to bind" not in moon.log(), moon.log()
        moon.swanctl("--initiate", "--child", "net")
        assert moon.ping() == 3 and sun.ping() == 3


@pytest.mark.parametrize("encap", ["no", "yes"])
@in_netns
def test_a_daemon_that_is_killed_under_its_charon(encap: str) -> None:
    """Its keys are gone. The next daemon says that they have expired, and charon negotiates new ones by itself; also
    where exec has to start the next daemon, as on sun."""
    with two_hosts() as (moon, sun):
        daemon = moon.node.start_daemon()
        for host in (moon, sun):
            host.start(ike=f"encap = {encap}")
            host.link()
        moon.swanctl("--initiate", "--child", "net")
        assert moon.ping() == 3 and sun.ping() == 3
        before = installed(moon)
        daemon.kill()
        moon.node.stop(daemon)
        moon.node.start_daemon()
        eventually(lambda: moon.ping(1) == 1, moon.last_words)
        assert before not in (installed(moon), installed(sun))
        (mine,) = sun.node.folder.glob("4*/lock")
        os.kill(int(mine.read_text()), signal.SIGKILL)
        eventually(lambda: moon.ping(1) == 1, lambda: moon.last_words() + sun.last_words())
        assert len(installed(moon)) == len(installed(sun)) == 1
        assert moon.ping() == 3 and sun.ping() == 3


@pytest.mark.parametrize("mode", ["transport", "beet"])
@in_netns
def test_between_the_hosts_themselves(mode: str) -> None:
    """Transport and BEET mode: the far end is routed into the device, and IKE and ESP past it."""
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            # Without its vendor id strongSwan does not believe itself that it knows BEET mode.
            host.start(child=f"mode = {mode}", settings="send_vendor_id = yes", dynamic=True)
            host.run("ip link add ipsec0 type xfrm dev eth0 if_id 42 && ip link set ipsec0 up")
        moon.swanctl("--initiate", "--child", "net")
        listed = moon.swanctl("--list-sas")
        assert f"INSTALLED, {mode.upper()}" in listed, listed + moon.log()
        assert f"mode {mode}" in moon.run("ip xfrm state")
        for host in (moon, sun):
            other = ADDRESS["sun" if host is moon else "moon"]
            # What IKE sends, and ESP itself, has to pass the device by: both carry no mark, what is inside here does.
            host.run(f"ip rule add ipproto icmp lookup 42 pref 10; ip route add {other} dev ipsec0 table 42")
        assert moon.ping(address=ADDRESS["sun"]) == 3
        assert counters(moon)["out"][1] == 3, moon.swanctl("--list-sas")


@in_netns
def test_peers_that_vanish_are_noticed_and_come_back() -> None:
    """DPD, and a charon that is started again: its daemon has kept nothing of what charon has forgotten."""
    with two_hosts() as (moon, sun):
        impatient = {
            "ike": "dpd_delay = 1s",
            "child": "start_action = trap\n dpd_action = trap",
            "settings": "retransmit_tries = 1\n retransmit_timeout = 1.0",
        }
        for host in (moon, sun):
            host.start(**impatient)
            host.link()
        assert moon.ping(10) >= 5
        assert sun.charon is not None
        sun.charon.kill()
        sun.charon.wait()
        sun.node.programs.remove(sun.charon)
        eventually(lambda: installed(moon) == [], moon.last_words)
        sun.start(**impatient)
        assert "ipsec0" in sun.run("ip link show type xfrm"), "the device of before"
        eventually(lambda: moon.ping(2) == 2, moon.last_words)


@in_netns
def test_an_address_that_changes() -> None:
    """MOBIKE: charon installs the same key for new addresses; its sequence numbers go on, or nonces would repeat."""
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            host.start(ike="mobike = yes", remote="%any")
            host.link()
        moon.swanctl("--initiate", "--child", "net")
        assert moon.ping(5) == 5
        spis = installed(moon)
        with moon.node:
            sysctl("net.ipv4.conf.eth0.promote_secondaries", 1)
        moon.node.address("eth0", "192.0.2.77/24")
        moon.run("ip address del 192.0.2.1/24 dev eth0")
        eventually(lambda: "192.0.2.77" in sun.run("ip xfrm state"), lambda: moon.last_words() + sun.last_words())
        assert installed(moon) == spis, "no new keys"
        assert moon.ping(5) == 5 and sun.ping(2) == 2
        sent = re.findall(r"oseq 0x([0-9a-f]+)", moon.run("ip xfrm state"))
        assert max(int(number, 16) for number in sent) == 12, sent


@in_netns
def test_as_a_service_of_systemd() -> None:
    """Type=notify: READY=1 comes from the process that was started. Then SIGTERM goes to all processes of the unit at
    once, and charon can still take leave of its peer, and of a daemon that is another unit."""
    with two_hosts() as (moon, sun), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        moon.node.start_daemon()
        systemd.bind(str(moon.node.folder / "notify"))
        systemd.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        systemd.settimeout(10)
        moon.more_env = {"NOTIFY_SOCKET": str(moon.node.folder / "notify")}
        for host in (moon, sun):
            host.start()
            host.link()
        message = b""
        while b"READY=1" not in message:
            message, credentials, _, _ = systemd.recvmsg(4096, 256)
        assert moon.charon is not None
        assert struct.unpack("=iII", credentials[0][2])[0] == moon.charon.pid
        moon.swanctl("--initiate", "--child", "net")
        unit = _processes_with(f"NOTIFY_SOCKET={moon.node.folder}/notify")
        assert len(unit) == 3, "charon, its supervisor, and who holds its place"
        for pid in unit:
            with suppress(ProcessLookupError):  # with the first, others may have ended before their turn comes
                os.kill(pid, signal.SIGTERM)
        assert moon.charon.wait(10) == 0
        moon.node.programs.remove(moon.charon)
        assert moon.run("ip xfrm state; ip xfrm policy") == ""
        eventually(lambda: installed(sun) == [], sun.last_words)
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in unit), lambda: "a supervisor has stayed")


def _processes_with(variable: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable in path.read_text(errors="replace").split("\0"):
                found.append(int(path.parent.name))
    return found


UPDOWN = """#!/bin/sh
case "$PLUTO_VERB" in
up-client)
    ip link add ipsec0 type xfrm dev eth0 if_id "$PLUTO_IF_ID_OUT" && ip link set ipsec0 up &&
    ip address add {inner}/24 dev ipsec0 ;;
down-client)
    ip link del ipsec0 ;;
esac
"""


@in_netns
def test_a_device_that_charon_makes() -> None:
    """if_id %unique, and a script that charon starts: what it calls is as supervised as charon."""
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            script = host.node.folder / "updown"
            script.write_text(UPDOWN.format(inner=INNER[host.name]))
            script.chmod(0o700)
            host.start(child=f"updown = {script}", if_id="%unique")
        moon.swanctl("--initiate", "--child", "net")
        eventually(lambda: moon.ping(1) == 1, moon.last_words)  # the other script may still be at it
        assert moon.ping() == 3 and sun.ping() == 3
        assert "xfrm if_id 0x1" in moon.run("ip -d link show ipsec0")
        moon.swanctl("--terminate", "--ike", "net")
        eventually(lambda: "ipsec0" not in moon.run("ip link"), moon.last_words)


@in_netns
def test_keyed_with_certificates() -> None:
    with two_hosts() as (moon, sun):
        certificates = make_certificates(moon.name, sun.name)
        for host in (moon, sun):
            host.start(certificates=certificates)
            host.link()
        moon.swanctl("--initiate", "--child", "net")
        assert moon.ping() == 3
        assert "authentication of 'C=CH, CN=sun' with RSA" in moon.log() or "with ECDSA" in moon.log()
