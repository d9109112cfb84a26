"""`xfrmi exec -- ip xfrm ...`: Debian's ip, our states and policies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

from tests.daemon.messages import STATE as GENUINE
from tests.interpose.supervised import AEAD, EXEC, POLICY, STATE, daemon, need, output, run
from tests.iproute import ip
from tests.netns import Namespace, in_netns, need_other_users
from xfrmi.client import Client
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.link_types import IFF_UP, LinkInfo
from xfrmi.wire.xfrm_attr import Group, XfrmMsg


@in_netns
def test_states_and_policies_come_and_go() -> None:
    with daemon():
        assert output(f"ip xfrm state add {STATE} && ip xfrm policy add {POLICY}") == ""
        with Client() as client:
            (state,) = client.states()
            (policy,) = client.policies()
            assert (state.spi, state.if_id, policy.if_id) == (0x1001, 42, 42)
        listed = output("ip xfrm state; ip xfrm policy")
        assert "spi 0x00001001 reqid 1 mode tunnel" in listed
        assert "if_id 0x2a" in listed and "dir out priority 0" in listed
        assert output("ip xfrm state count; ip xfrm policy count") == "\t SAD count 1\n\t SPD IN  0 OUT 1 FWD 0\n"
        got = output("ip xfrm state get dst 192.0.2.2 proto esp spi 0x1001")
        assert got.startswith("src 192.0.2.1 dst 192.0.2.2\n")
        output("ip xfrm state deleteall && ip xfrm policy flush")
        assert output("ip xfrm state; ip xfrm policy") == ""
        allocated = output("ip xfrm state allocspi src 1.1.1.1 dst 2.2.2.2 proto esp min 7 max 7")
        assert "proto esp spi 0x00000007" in allocated


@in_netns
def test_a_refusal_is_the_kernels() -> None:
    with daemon():
        output(f"ip xfrm state add {STATE}")
        again = run(f"ip xfrm state add {STATE}")
        assert (again.returncode, again.stderr) == (2, "RTNETLINK answers: File exists\n")
        missing = run("ip xfrm state delete dst 9.9.9.9 proto esp spi 5")
        assert (missing.returncode, missing.stderr) == (2, "RTNETLINK answers: No such process\n")
        missing = run("ip xfrm policy delete src 1.0.0.0/8 dst 2.0.0.0/8 dir in")
        assert (missing.returncode, missing.stderr) == (2, "RTNETLINK answers: No such file or directory\n")
        loopback = run("ip xfrm state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 3 enc 'cbc(nonsense)' 0x00")
        assert (loopback.returncode, loopback.stderr) == (
            2, "Error: Requested COMP algorithm not found.\n"
        ) or loopback.stderr.startswith(("Error: ", "RTNETLINK answers: "))  # fmt: skip


COUNT = 600


@in_netns
def test_a_table_that_does_not_fit_into_the_queue() -> None:
    """The dump (300 KB; a queue is 208 KB) goes on when something is taken out; a reader with a small queue
    gets all of it."""
    with daemon():
        lines = "".join(
            f"xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi {spi} mode tunnel if_id 7 {AEAD}\n".replace(
                "'", ""
            )
            for spi in range(0x1000, 0x1000 + COUNT)
        )
        done = run("ip -batch -", stdin=lines)
        assert (done.returncode, done.stderr) == (0, "")
        listed = output("ip -o xfrm state")
        assert listed.count("proto esp spi") == COUNT
        assert sorted(set(part.split()[0] for part in listed.split("spi ")[1:]))[-1] == f"{0x1000 + COUNT - 1:#010x}"
        small = output(f"{sys.executable} -c '{SMALL_QUEUE}'")
        assert small == f"{COUNT}\n"


SMALL_QUEUE = """
import socket, struct, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
s.bind((0, 0))
s.send(struct.pack("=IHHII", 16, 18, 0x301, 1, 0))
found = 0
while True:
    data = s.recv(4096)
    assert len(data) < 4096
    while data:
        length, kind = struct.unpack_from("=IH", data)
        if kind == 3:
            print(found)
            raise SystemExit
        assert kind == 16
        found += 1
        data = data[length + 3 & ~3:]
"""


@in_netns
def test_a_batch_stops_where_ips_does() -> None:
    with daemon():
        lines = "xfrm state count\nxfrm state delete dst 9.9.9.9 proto esp spi 5\nxfrm policy count\n"
        stopped = run("ip -batch -", stdin=lines)
        assert stopped.returncode == 2 and "SAD" in stopped.stdout and "SPD" not in stopped.stdout


@in_netns
def test_a_monitor_sees_what_happens_and_ends_by_a_signal() -> None:
    with daemon():
        monitor = subprocess.Popen([*EXEC, "--", "ip", "xfrm", "monitor"], stdout=subprocess.PIPE, text=True)
        assert monitor.stdout is not None
        try:
            wait_for_listeners()
            output(f"ip xfrm state add {STATE}; ip xfrm policy add {POLICY}; ip xfrm state flush")
            seen = ""
            while "Flushed state" not in seen:
                seen += monitor.stdout.readline()
            assert "spi 0x00001001" in seen and "dir out" in seen
            # A job is stopped and goes on; nothing is lost meanwhile.
            monitor.send_signal(signal.SIGSTOP)
            output("ip xfrm policy flush")
            monitor.send_signal(signal.SIGCONT)
            while "Flushed policy" not in seen:
                seen += monitor.stdout.readline()
        finally:
            monitor.send_signal(signal.SIGINT)
        assert monitor.wait(10) == -signal.SIGINT


def wait_for_listeners() -> None:
    """Until a supervised program has joined groups."""
    from pathlib import Path

    while not any(
        line.split()[1] == "2" and line.split()[3] != "00000000"
        for line in Path("/proc/net/netlink").read_text().splitlines()[1:]
    ):
        time.sleep(0.02)


@in_netns
def test_who_listens_counts_until_it_has_ended() -> None:
    """7.6: larval states are made for programs that hear of them. The shell around the monitor lives on."""
    listening = "import socket; s = socket.socket(16, 3, 6); s.bind((0, 1)); print(flush=True); input()"
    routed = "ping -c 1 -W 1 10.1.0.1 >/dev/null; ip xfrm state count"
    with daemon(), Client() as client:
        client.add_link(LinkInfo(name="xfrm0", if_id=42, flags=IFF_UP, change=IFF_UP))
        ip("address add 10.0.0.1/32 dev xfrm0")
        ip("route add 10.1.0.0/16 dev xfrm0")
        ip("address add 192.0.2.1/24 dev lo")
        output(f"ip xfrm policy add {POLICY}")
        held = subprocess.Popen(
            [*EXEC, "--", "sh", "-c", f"{sys.executable} -c '{listening}'; {routed}; read line; {routed}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert held.stdin is not None and held.stdout is not None
        held.stdout.readline()
        assert "SAD count 1" in output(routed)
        output("ip xfrm state flush")
        held.stdin.write("\n")
        held.stdin.flush()
        assert held.stdout.readline() == "\t SAD count 0\n"
        held.communicate("\n", timeout=20)


@in_netns
def test_another_namespace() -> None:
    """`ip -n`: the states there are those of the daemon there, which is started, and said goodbye to."""
    need("ip")
    with daemon():
        there = Namespace()
        path = f"/proc/{os.getpid()}/fd/{there.fd}"
        output(f"ip xfrm state add {STATE}")
        enter = f"{sys.executable} -c \"import os, sys; sys.path[:0] = sys.argv[1:2]; " \
            "from xfrmi.dev.netns import enter, open_netns; enter(open_netns(sys.argv[2])); " \
            f"os.execvp('ip', ['ip'] + sys.argv[3:])\" {os.getcwd()} {path}"  # fmt: skip
        said = output(f"{enter} xfrm state count; ip xfrm state count")
        assert said == "\t SAD count 0\n\t SAD count 1\n"


@in_netns
def test_counters_are_read_from_proc() -> None:
    with daemon():
        for path in ("/proc/net/xfrm_stat", "/proc/self/net/xfrm_stat", "/proc/thread-self/net/xfrm_stat"):
            assert output(f"cat {path}") == output(f"{sys.executable} -m xfrmi stat")
        assert run("cat /proc/net/xfrm_statx").returncode == 1


@in_netns
def test_who_may_not_configure_may_not_ask() -> None:
    """NL-01: dumps included; and root of a user namespace of his own is nobody here."""
    need_other_users()
    need("setpriv")
    with daemon():
        output(f"ip xfrm state add {STATE}")
        for who in ("setpriv --reuid 65534 --clear-groups", "setpriv --reuid 65534 --clear-groups unshare -Ur"):
            if "unshare" in who and run(f"{who} true").returncode:
                continue
            refused = run(f"{who} ip xfrm state")
            assert refused.stdout == "" and "Operation not permitted" in refused.stderr, who
            refused = run(f"{who} ip xfrm state flush")
            assert (refused.returncode, refused.stderr) == (2, "RTNETLINK answers: Operation not permitted\n")
        assert "0x1001" in output("ip xfrm state")[:200] or "00001001" in output("ip xfrm state")


LISTENS = """
import socket, struct, sys
s = socket.socket(16, 3, 6)
s.bind((0, 1 << 2))
print(s.getsockname()[0], flush=True)
while True:
    data, sender = s.recvfrom(65536)
    assert sender[0] == 0, sender
    spi = data[16 + 72:16 + 76].hex()
    print(struct.unpack_from("=IH", data)[1], spi, flush=True)
    if spi == "00001001":
        break
s.setblocking(False)
try:
    print("more", s.recv(65536))
except BlockingIOError:
    print("no more")
"""


@in_netns
def test_nobody_else_speaks_for_the_kernel() -> None:
    """Root himself multicasts and sends to the socket: a program under exec sees what the daemon says, nothing else."""
    with daemon():
        listener = subprocess.Popen(
            [*EXEC, "--", sys.executable, "-c", LISTENS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert listener.stdout is not None
        port = int(listener.stdout.readline())
        body = xfrm_msg.encode_state(replace(GENUINE, spi=0x6666), reply=True)
        forged = netlink.message(XfrmMsg.NEWSA, 0, 0, 0, body)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2) as forger:
            for _ in range(3):
                with contextlib.suppress(OSError):
                    forger.sendto(forged, (port, Group.SA.bit))
                with contextlib.suppress(OSError):
                    forger.sendto(forged, (port, 0))
            time.sleep(0.3)
            output(f"ip xfrm state add {STATE}")
            for _ in range(3):
                with contextlib.suppress(OSError):
                    forger.sendto(forged, (0, Group.SA.bit))
        out, err = listener.communicate(timeout=20)
        assert err == "" and out == "16 00001001\nno more\n", out
