"""What supervision must not change: status, signals, streams, pid; fork, threads, nesting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.daemon.server import runtime_directory
from tests.interpose.supervised import EXEC, STATE, daemon, need_exec, output, run, start_daemon
from tests.netns import in_netns, need_tun
from xfrmi.dev.netns import netns_inode


@in_netns
def test_exit_status_signals_and_streams() -> None:
    with daemon():
        assert run("exit 7").returncode == 7
        assert run("kill -KILL $$").returncode == -signal.SIGKILL
        assert run("cat", stdin="through\n").stdout == "through\n"
        missing = subprocess.run([*EXEC, "--", "no-such-program"], capture_output=True, text=True)
        assert missing.returncode == 127
        assert missing.stderr == "xfrmi: no-such-program: No such file or directory\n"
        process = subprocess.Popen([*EXEC, "--", "sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True)
        assert process.communicate()[0] == f"{process.pid}\n", "the very process that was started"


@in_netns
def test_output_ends_with_the_program_and_no_child_is_left_to_it() -> None:
    with daemon():
        said = output("ps -o comm= --ppid $$ 2>/dev/null || true")
        assert "python" not in said and "xfrmi" not in said


@in_netns
def test_nested() -> None:
    with daemon():
        nested = " ".join([sys.executable, "-m", "xfrmi", "exec", "--"])
        assert output(f"ip xfrm state add {STATE}; {nested} {nested} ip xfrm state count") == "\t SAD count 1\n"


@in_netns
def test_a_daemon_is_not_run_under_exec() -> None:
    with daemon():
        refused = run(f"{sys.executable} -m xfrmi daemon")
        assert refused.returncode == 1 and "start one outside" in refused.stderr


THREADS = """
import os, socket, struct, threading
def ask(s, count):
    for number in range(count):
        s.send(struct.pack("=IHHIII", 20, 35, 1, number, 0, 0))
        while True:
            data, (port, groups) = s.recvfrom(4096)
            length, kind, flags, seq, pid = struct.unpack_from("=IHHII", data)
            assert port == 0 and groups == 0 and pid == s.getsockname()[0], (port, groups, pid)
            if seq == number:
                break
        assert kind == 34, kind
def work():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
    s.bind((0, 0))
    ask(s, 50)
    s.close()
threads = [threading.Thread(target=work) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
s = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 6)
assert os.get_inheritable(s.fileno()) is False
ask(s, 3)
if not os.fork():
    ask(s, 3)
    ask(s.dup(), 3)
    os._exit(5)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 5
copy = os.dup(s.fileno())
s.close()
ask(socket.socket(16, 3, 6, fileno=copy), 3)
print("done")
"""


@in_netns
def test_threads_forks_and_duplicates() -> None:
    with daemon():
        done = subprocess.run([*EXEC, "--", sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


WAITING = """
import errno, os, signal, socket, struct, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
s.bind((0, 0))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@qq", 0, 200000))
began = time.monotonic()
try:
    s.recv(100)
except BlockingIOError:
    assert 0.15 < time.monotonic() - began < 2
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@qq", 0, 0))
class Alarm(Exception): pass
def alarm(*_): raise Alarm
signal.signal(signal.SIGALRM, alarm)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    s.recv(100)
except Alarm:
    print("woken")
s.setblocking(False)
try:
    s.recv(100)
except BlockingIOError:
    print("nothing")
try:
    s.recv(100, socket.MSG_DONTWAIT)
except BlockingIOError:
    print("nothing")
"""


@in_netns
def test_waiting_ends_by_time_and_by_signals_with_a_handler() -> None:
    with daemon():
        done = subprocess.run([*EXEC, "--", sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, "woken\nnothing\nnothing\n", "")


INTERVAL = """
import signal, socket
hits = 0
def tick(*_):
    global hits
    hits += 1
signal.signal(signal.SIGALRM, tick)
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
s.bind((0, 0))
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.xfrm_types import StateInfo
netlink.message(22, 1, 0, 0, xfrm_msg.encode_alloc_spi(xfrm_msg.SpiRequest(StateInfo(), 0x100, 0x200)))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)  # not before all is imported, see docs/exec.md about open
for n in range(100):
    want = xfrm_msg.SpiRequest(StateInfo(src="192.0.2.1", dst="192.0.2.2", spi=0, seq=n + 1), 0x100, 0xffffffff)
    s.send(netlink.message(22, 1, n, 0, xfrm_msg.encode_alloc_spi(want)))
    message = next(netlink.split(s.recv(4096)))
    assert message.type == 16 and message.seq == n, message
signal.setitimer(signal.ITIMER_REAL, 0)
print(hits > 3)
"""


@in_netns
def test_a_storm_of_signals_repeats_nothing() -> None:
    """A request whose caller is interrupted again and again is carried out once."""
    with daemon():
        done = subprocess.run([*EXEC, "--", sys.executable, "-c", INTERVAL], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
        assert output("ip xfrm state count") == "\t SAD count 100\n"


@in_netns
def test_a_daemon_is_started_and_goes_with_the_last_program() -> None:
    need_exec()
    need_tun()
    with runtime_directory() as base:
        directory = f"{base}/{netns_inode()}"
        first = subprocess.Popen(
            [*EXEC, "--", "sh", "-c", "ip xfrm state count; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert first.stdout is not None and first.stdout.readline() == "\t SAD count 0\n"
        assert output(f"ip xfrm state add {STATE}; ip xfrm state count") == "\t SAD count 1\n", "the same daemon"
        assert os.path.exists(directory)
        _, said = first.communicate("\n")
        assert said.startswith("xfrmi: started a daemon for this network namespace (pid ")
        wait_until_gone(directory)
        stays = run("true", "--stay")
        assert stays.returncode == 0 and os.path.exists(directory)
        os.kill(int(stays.stderr.split("pid ")[1].split(",")[0]), signal.SIGTERM)
        wait_until_gone(directory)


@in_netns
def test_policies_without_if_id_catch_packets_when_the_last_program_has_gone() -> None:
    """An IKE daemon that crashes leaves its policies in a kernel, too: nothing leaves in the clear."""
    need_exec()
    need_tun()
    setup = (
        "link add eth0 type veth peer name eth1", "link set eth0 up", "link set eth1 up",
        "address add 192.0.2.1/24 dev eth0", "neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:01 dev eth0",
    )  # fmt: skip
    subprocess.run(["ip", "-batch", "-"], input="\n".join(setup), text=True, check=True)
    with runtime_directory() as base, closing(sniffer("eth1")) as wire:
        directory = f"{base}/{netns_inode()}"
        sends("192.0.2.2")
        assert plaintext(wire)
        policy = "src 192.0.2.1 dst 192.0.2.2 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode transport"
        assert run(f"ip xfrm policy add {policy}").returncode == 0
        wait_until_gone(directory)
        sends("192.0.2.2")
        assert not plaintext(wire), "nobody is there, and nothing leaves"
        assert run("ip xfrm policy count").returncode == 0
        wait_until_gone(directory)
        sends("192.0.2.2")
        assert not plaintext(wire), "it was asked about, and not told anything new"
        assert run("ip xfrm policy flush").returncode == 0
        sends("192.0.2.2")
        assert plaintext(wire)


def sniffer(device: str) -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind((device, 0))
    wire.settimeout(0.3)
    return wire


def sends(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"in the clear", (address, 9))


def plaintext(wire: socket.socket) -> bool:
    with suppress(TimeoutError):
        while True:
            if b"in the clear" in wire.recv(2048):
                return True
    return False


def wait_until_gone(path: str) -> None:
    deadline = time.monotonic() + 20
    while os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@in_netns
def test_without_a_daemon_that_can_be_started_nothing_is_run() -> None:
    need_exec()
    if os.getuid() != 0:
        pytest.skip("NEEDS ROOT TO LOSE SOMETHING, NOT TESTED")
    with runtime_directory():
        done = subprocess.run(
            ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", *EXEC, "--", "echo", "run"],
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 1 and done.stdout == ""
        assert "none could be started" in done.stderr and "CAP_NET_RAW" in done.stderr
        assert done.stderr.count("\n") == 1


KILLED = """
import os, signal, socket, struct, subprocess, sys, time
def supervisor():
    mine = os.environ["MARK"]
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mine in open(f"/proc/{pid}/environ").read() and "\\0exec\\0" in open(f"/proc/{pid}/cmdline").read():
                found.append((int(open(f"/proc/{pid}/stat").read().rsplit(")")[1].split()[1]), int(pid)))
        except OSError:
            pass
    parents = {pid for _, pid in found}
    return [pid for parent, pid in found if parent in parents and pid != os.getpid()]
s = socket.socket(16, 3, 6)
s.bind((0, 1 << 2))
for number in range(3):
    (victim,) = supervisor()
    os.kill(victim, signal.SIGKILL)
    assert open("/proc/net/xfrm_stat").read().startswith("XfrmInError")
    subprocess.run(["sh", "-c", os.environ["ADD"]], check=True)
    s.send(struct.pack("=IHHIIB3x", 20, 28, 5, number, 0, 0))
    kinds = set()
    while kinds != {16, 28, 2}:
        data, (port, _) = s.recvfrom(4096)
        kinds.add(struct.unpack_from("=IH", data)[1])
        assert port == 0
monitor = subprocess.Popen(["ip", "xfrm", "monitor"], stdout=subprocess.PIPE)
time.sleep(0.5)
(victim,) = supervisor()
os.kill(victim, signal.SIGKILL)
time.sleep(0.5)
subprocess.run(["sh", "-c", os.environ["ADD"]], check=True)
assert monitor.stdout.readline() == b"src 192.0.2.1 dst 192.0.2.2\\n"
monitor.kill()
print("survived")
"""


@in_netns
def test_a_killed_supervisor_is_replaced() -> None:
    """Sockets, listeners, who waits: all of it goes on."""
    need_exec()
    need_tun()
    with runtime_directory() as base:
        done = subprocess.run(
            [*EXEC, "--", sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=30,
            env=os.environ | {"MARK": base, "ADD": f"ip xfrm state add {STATE}"},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr
        log = Path(f"{base}/exec.log").read_text()
        assert log.count("there is a new one") == 4 and "Traceback" not in log, log


@in_netns
def test_a_daemon_that_ends_is_missed_and_found_again() -> None:
    """Refused at once, not hung; and who only listens hears the next daemon, too."""
    with daemon() as first:
        base = os.environ["XFRMI_RUNTIME_DIR"]
        shell = subprocess.Popen(
            [*EXEC, "--", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert shell.stdin is not None and shell.stdout is not None

        def say(line: str) -> str:
            assert shell.stdin is not None and shell.stdout is not None
            shell.stdin.write(line + "\n")
            shell.stdin.flush()
            return shell.stdout.readline()

        assert say("ip xfrm state count") == "\t SAD count 0\n"
        assert say("ip xfrm monitor > heard & M=$!; sleep 0.5; echo listening") == "listening\n"
        first.kill()
        first.wait()
        assert "onnection refused" in say("ip xfrm state count")
        second = start_daemon(base)
        try:
            heard = say(f"sleep 1; ip xfrm state add {STATE}; sleep 0.3; head -1 heard; rm heard; kill $M")
            assert heard == "src 192.0.2.1 dst 192.0.2.2\n"
            shell.communicate()
        finally:
            second.terminate()
            second.wait()


NAMESPACES = """
mount -t tmpfs run /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs run /run/netns; }
ip netns add A
ip netns exec A ip link add xfrm0 type xfrm if_id 5
sleep 2.5
ip -n A link show xfrm0
N=$(stat -L -c %i /run/netns/A)
ip netns del A
for t in $(seq 80); do
    ls -l /proc/[0-9]*/ns/net 2>/dev/null | grep -q "net:.$N." || { echo gone; break; }
    sleep 0.1
done
"""


@in_netns
def test_a_namespace_ends_when_nobody_needs_it() -> None:
    """Its daemon and the supervisor are no reason to keep it; its name is."""
    if os.getuid() != 0:
        pytest.skip("ONLY ROOT GIVES NAMESPACES NAMES, NOT TESTED")
    with daemon():
        done = subprocess.run(
            ["unshare", "-m", *EXEC, "--", "sh", "-ec", NAMESPACES],
            capture_output=True, text=True, timeout=40,
        )  # fmt: skip
        assert "xfrm0@NONE" in done.stdout, done
        assert done.stdout.endswith("gone\n"), done
