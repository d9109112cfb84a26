"""What `xfrmi exec` costs: `python -m bench.supervised [--quick]`, as root or with user namespaces.

The same program is run natively and supervised, in turns, in a namespace with a daemon of its own; natively it talks to
this kernel's own NETLINK_XFRM, where there is one. Then a table of states listed by `ip`, the requests of a CHILD_SA,
and what the supervisor takes while nothing happens.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xfrmi.interpose.launch import MOST_CARRIERS
from xfrmi.lab.namespace import Namespace, become_root_in_user_namespace

EXEC = [sys.executable, "-m", "xfrmi", "exec", "--"]
STATE = "mode tunnel if_id 7 aead rfc4106(gcm(aes)) 0x0123456789abcdef0123456789abcdef01234567 128"

CLIENT = """
import json, os, socket, statistics, struct, sys, time
count = int(sys.argv[1])
def times(call):
    told = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        told.append((time.perf_counter() - began) * 1e6)
    return statistics.median(told)
def ask(number):
    s.send(struct.pack("=IHHIII", 20, 35, 1, number, 0, 0))
    s.recv(4096)
def links(number):
    r.send(struct.pack("=IHHIIBxHiII", 32, 18, 1, number, 0, 0, 0, 1, 0, 0))
    r.recv(8192)
def opened(number):
    os.close(os.open("/dev/null", os.O_RDONLY))
def sockets(number):
    socket.socket(16, 3, 6).close()
def again(number):
    try:
        s.recv(4096, socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
reader, writer = os.pipe()
def piped(number):
    os.write(writer, b"x")
    os.read(reader, 1)
result = {"system calls nobody stops for: write and read": times(piped), "open a file for reading": times(opened)}
r = socket.socket(16, 3, 0)
r.bind((0, 0))
result["ask for a link of the kernel's"] = times(links)
try:
    s = socket.socket(16, 3, 6)
    s.bind((0, 0))
    result["open NETLINK_XFRM, close it"] = times(sockets)
    result["look for an answer that is not there"] = times(again)
    result["ask for the number of states"] = times(ask)
except OSError:
    pass
print(json.dumps(result))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.supervised", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, a short table")
    options = parser.parse_args()
    if os.geteuid():
        become_root_in_user_namespace()
    rounds, calls, states = (1, 200, 1000) if options.quick else (5, 1000, 10_000)
    with tempfile.TemporaryDirectory(prefix="xfrmi-bench-") as base, Namespace():
        os.environ["XFRMI_RUNTIME_DIR"] = base
        with a_daemon():
            compare(rounds, calls)
            if shutil.which("ip"):
                list_states(states)
                child_sa()
            idle(2.0 if options.quick else 10.0)
    return 0


@contextmanager
def a_daemon() -> Iterator[None]:
    daemon = subprocess.Popen([sys.executable, "-m", "xfrmi", "daemon", "--remove-on-exit"], stderr=subprocess.DEVNULL)
    try:
        while subprocess.run([sys.executable, "-m", "xfrmi", "stat"], capture_output=True).returncode:
            time.sleep(0.05)
        yield
    finally:
        daemon.terminate()
        daemon.wait()


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compare(rounds: int, calls: int) -> None:
    print(f"{'microseconds, median of medians':<48} {'native':>8} {'exec':>8} {'more':>8}")
    native: dict[str, list[float]] = {}
    supervised: dict[str, list[float]] = {}
    for _ in range(rounds):
        for results, front in ((native, []), (supervised, EXEC)):
            told: dict[str, float] = json.loads(run(*front, sys.executable, "-c", CLIENT, str(calls)))
            for name, value in told.items():
                results.setdefault(name, []).append(value)
    for name, values in supervised.items():
        with_exec = statistics.median(values)
        if name in native:
            plain = statistics.median(native[name])
            print(f"{name:<48} {plain:8.1f} {with_exec:8.1f} {with_exec - plain:8.1f}")
        else:
            print(f"{name:<48} {'':>8} {with_exec:8.1f}")
    began = time.perf_counter()
    run(*EXEC, "true")
    print(f"{'start of exec itself, ms':<48} {'':>8} {(time.perf_counter() - began) * 1e3:8.0f}")


def list_states(count: int) -> None:
    lines = "".join(
        f"xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi {0x1000 + n:#x} {STATE}\n" for n in range(count)
    )
    with tempfile.NamedTemporaryFile("w") as batch:
        batch.write(lines)
        batch.flush()
        began = time.perf_counter()
        run(*EXEC, "ip", "-batch", batch.name)
        added = time.perf_counter() - began
    timed = run(*EXEC, "sh", "-c", "date +%s.%N; ip xfrm state | grep -c 'proto esp'; date +%s.%N").split()
    assert int(timed[1]) == count
    print(f"{count} states: added by ip -batch in {added:.2f} s, listed in {float(timed[2]) - float(timed[0]):.2f} s")
    run(*EXEC, "ip", "xfrm", "state", "flush")


def child_sa() -> None:
    """What charon asks for a CHILD_SA, in the order it does, by the library of this project."""
    told = run(*EXEC, sys.executable, "-c", CHILD_SA)
    print(f"the six requests of a CHILD_SA: {told.strip()} ms, median of 50")


CHILD_SA = """
import socket, statistics, time
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateInfo, Template
s = socket.socket(16, 3, 6)
s.bind((0, 0))
def ask(kind, body, flags=5):
    s.send(netlink.message(kind, flags, 1, 0, body))
    return next(netlink.split(s.recv(4096)))
def info(src, dst, spi):
    return StateInfo(src=src, dst=dst, spi=spi, mode=1, reqid=1, if_id=42,
                     aead=Algorithm("rfc4106(gcm(aes))", bytes(20), 128))
here, there = "192.0.2.1", "192.0.2.2"
told = []
for n in range(50):
    ask(28, xfrm_msg.encode_flush_states(0)); ask(29, xfrm_msg.encode_flush_policies(0))
    began = time.perf_counter()
    wanted = StateInfo(src=there, dst=here, mode=1, reqid=1, if_id=42, seq=n)
    ask(XfrmMsg.ALLOCSPI, xfrm_msg.encode_alloc_spi(xfrm_msg.SpiRequest(wanted, 0x100 + n, 0x100 + n)), 1)
    assert netlink.raise_error(ask(XfrmMsg.UPDSA, xfrm_msg.encode_state(info(there, here, 0x100 + n)))) is None
    assert netlink.raise_error(ask(XfrmMsg.NEWSA, xfrm_msg.encode_state(info(here, there, 0x900 + n)))) is None
    for dir, src, dst in ((1, here, there), (0, there, here), (2, there, here)):
        policy = PolicyInfo(Selector.parse("10.0.0.0/8", "10.0.0.0/8"), dir, 42, (Template(src, dst, reqid=1),))
        assert netlink.raise_error(ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(policy))) is None
    told.append((time.perf_counter() - began) * 1e3)
print(f"{statistics.median(told):.2f}")
"""


def idle(seconds: float) -> None:
    """With a monitor that waits."""
    monitor = subprocess.Popen([*EXEC, sys.executable, "-c", WAITS], stdout=subprocess.PIPE)
    assert monitor.stdout is not None
    monitor.stdout.readline()
    supervisors = [
        int(path.name)
        for path in Path("/proc").glob("[0-9]*")
        if int(path.name) != monitor.pid and _is_supervisor(path)
    ]
    before = {pid: _cpu(pid) for pid in supervisors}
    time.sleep(seconds)
    used = sum(_cpu(pid) - before[pid] for pid in supervisors)
    memory = [_memory(pid) for pid in supervisors]
    resident = " and ".join(f"{rss:.1f}" for rss, _ in memory)
    print(
        f"{len(supervisors)} processes of the supervisor: {resident} MB resident, "
        f"{sum(pss for _, pss in memory):.1f} MB in all where pages are shared; "
        f"{100 * used / seconds:.2f} % of a core while one program waits; "
        f"room for up to {MOST_CARRIERS} sockets a process"
    )
    monitor.kill()
    monitor.wait()


WAITS = """
import socket
s = socket.socket(16, 3, 6)
s.bind((0, 1))
print(flush=True)
s.recv(1)
"""


def _is_supervisor(path: Path) -> bool:
    try:
        return (
            os.environ["XFRMI_RUNTIME_DIR"].encode() in (path / "environ").read_bytes()
            and b"\0exec\0" in (path / "cmdline").read_bytes()
            and "Seccomp:\t0" in (path / "status").read_text()
        )
    except OSError:
        return False


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> tuple[float, float]:
    """Megabytes: resident, and its share of them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:] if "kB" in line}
    return fields["Rss"] / 1024, fields["Pss"] / 1024


if __name__ == "__main__":
    sys.exit(main())
