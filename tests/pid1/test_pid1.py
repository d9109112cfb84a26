"""examples/xfrmi.service under a real systemd: started, reloaded, restarted, killed and stopped under traffic.

`make test` starts it, `make interop` does the rest. Figures: `XFRMI_INTEROP=1 pytest tests/pid1 -s`.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.daemon.test_main import UNIT
from tests.daemon.test_privileges import KEPT
from tests.daemon.test_unit import EXPOSURE
from tests.iproute import ip
from tests.pid1.machine import SECONDS, Machine, need_systemd
from tests.stage import Stage, on_stage
from tests.system.hosts import Hosts, Tunnel, device, eventually, give_addresses, tell, two_hosts
from tests.system.test_fail_closed import PAIRS, TUNNELS, carries, load, routed
from tests.system.test_replace import PAUSE, losses, refused, streaming, used_twice
from xfrmi.lab.namespace import sysctl
from xfrmi.wire.link_types import IFF_LOWER_UP

in_interop = pytest.mark.skipif("XFRMI_INTEROP" not in os.environ, reason="make interop does this: half a minute")
BATCH = "/etc/xfrmi/start.batch"
WRITE = f"umask 077; mkdir -p /etc/xfrmi; cat > {BATCH}"


@dataclass
class Site:
    hosts: Hosts
    machine: Machine
    """moon, with systemd; sun's daemon is started as ever."""
    tunnels: tuple[Tunnel, ...] = field(default=TUNNELS)

    def key(self) -> None:
        """Other keys at both ends, moon's by the file that the unit reads when it is started."""
        self.tunnels = tuple(tunnel.rekeyed() for tunnel in TUNNELS)
        self.machine.run("sh", "-c", WRITE, text="".join(tunnel.lines("moon") for tunnel in self.tunnels))
        tell(self.hosts.sun, "state flush\n" + "".join(tunnel.key_lines() for tunnel in self.tunnels))

    def main_pid(self) -> int:
        return int(self.machine.shows("MainPID")[0])

    def secrets(self) -> set[str]:
        return {key for tunnel in self.tunnels for key in tunnel.keys.values()}


@contextmanager
def site() -> Iterator[Site]:
    need_systemd()
    with two_hosts(daemons=False) as hosts:
        hosts.sun.start_daemon()
        with hosts.moon:  # as on many routers; the unit must be able to see to it
            for family in ("ipv4", "ipv6"):
                sysctl(f"net.{family}.conf.default.ignore_routes_with_linkdown", 1)
        tell(hosts.sun, "".join(tunnel.lines("sun") for tunnel in TUNNELS))
        for tunnel in TUNNELS:
            give_addresses(hosts.sun, tunnel)
        machine = Machine(hosts.moon, UNIT)
        try:
            yield Site(hosts, machine)
        finally:
            machine.close()


def started(at: Site) -> None:
    """As if it were for the first time."""
    at.machine.systemctl("stop", "xfrmi")
    at.machine.systemctl("reset-failed", "xfrmi", check=False)
    at.machine.mark()
    for tunnel in TUNNELS:
        if device(at.hosts.moon, tunnel.name):
            with at.hosts.moon:
                ip(f"link del {tunnel.name}")
    at.key()
    at.machine.systemctl("enable", "--now", "xfrmi")
    for tunnel in TUNNELS:
        give_addresses(at.hosts.moon, tunnel)
    at.hosts.clear()


@pytest.fixture(scope="module")
def booted() -> Iterator[Stage[Site]]:
    with Stage(site, started, lambda at: "\n".join(at.machine.journal()), seconds=2 * SECONDS) as stage:
        yield stage


@on_stage
def test_started(booted: Site) -> None:
    """Type=notify, the batch file, two capabilities; and what the journal says of it: four lines, and no keys."""
    at, machine = booted, booted.machine
    assert machine.shows("ActiveState", "SubState", "Result", "NRestarts") == ["active", "running", "success", "0"]
    (post,) = machine.shows("ExecStartPost")
    assert "code=exited ; status=0" in post, "the batch file is read when requests are answered"
    carries(at.hosts)
    status = dict(line.split(":\t") for line in machine.run("cat", f"/proc/{at.main_pid()}/status").stdout.splitlines())
    assert [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [KEPT, KEPT, 0, 0]
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
    assert [re.sub("namespace [0-9]+", "namespace N", line) for line in machine.journal()] == [
        machine.run("xfrmi", "--version").stdout.split("-")[-1].strip().join(("xfrmi ", " serves network namespace N")),
        *(f"interface {tunnel.name} (if_id {tunnel.if_id:#x}) added" for tunnel in TUNNELS),
        "UDP port 4500 open for ESP",
    ]
    everything = "\n".join((*machine.whole_journal(), machine.last_words()))
    assert not [key for key in at.secrets() if key in everything]
    assert at.hosts.shown() == []


@on_stage
def test_score(booted: Site) -> None:
    """Of the unit that runs, by systemd itself."""
    said = booted.machine.run("systemd-analyze", "security", "--no-pager", "xfrmi").stdout
    found = re.search(r"Overall exposure level for xfrmi.service: ([0-9.]+)", said)
    assert found
    assert float(found[1]) <= EXPOSURE, said
    print(f"exposure {found[1]} of 10, {booted.machine.systemctl('--version').stdout.splitlines()[0]}")


@in_interop
@on_stage
def test_reloaded(booted: Site) -> None:
    """Twice: no packet lost, systemd knows the process that serves, and restarts that one when it is killed."""
    at, machine = booted, booted.machine
    carries(at.hosts)
    at.hosts.clear()
    pids = [at.main_pid()]
    with streaming(at.hosts, PAIRS) as accounts:
        for _ in range(2):
            machine.systemctl("reload", "xfrmi")  # and has taken place, when it returns
            eventually(lambda: at.main_pid() not in pids, lambda: f"{machine.journal()}")
            pids.append(at.main_pid())
    print("packets waited (ms):", *PAUSE.findall("\n".join(machine.journal())))
    assert machine.shows("ActiveState", "SubState", "NRestarts") == ["active", "running", "0"]
    assert losses(accounts) == {}
    assert min(stream.sent for stream in accounts.values()) > 50
    assert used_twice(at.hosts.wire()) == []
    assert refused(at.hosts) == {}
    assert at.hosts.shown() == []
    assert len(machine.processes()) == 1, "the old ones have gone"

    at.key()
    machine.run("kill", "-KILL", str(pids[-1]))
    eventually(lambda: machine.shows("NRestarts", "ActiveState") == ["1", "active"], "not started again", seconds=20)
    carries(at.hosts)
    assert at.main_pid() not in pids


@in_interop
@on_stage
def test_restarted_and_killed(booted: Site) -> None:
    """Under load: nothing in the clear meanwhile, and with the new keys from the file all goes on."""
    at, machine = booted, booted.machine
    carries(at.hosts)
    with load(at.hosts, size=300, pause=0.005):
        at.key()
        machine.systemctl("restart", "xfrmi")
        carries(at.hosts)
        at.key()
        machine.systemctl("kill", "--signal=KILL", "xfrmi")
        eventually(lambda: machine.shows("NRestarts", "ActiveState") == ["1", "active"], "not started", seconds=20)
        carries(at.hosts)
    assert at.hosts.shown() == []
    assert len([line for line in machine.journal() if line.endswith("taken over")]) == 2 * len(TUNNELS)


@in_interop
@on_stage
def test_stopped(booted: Site) -> None:
    """The devices stay, shut, with their routes, also where others would be passed over without carrier."""
    at, machine = booted, booted.machine
    carries(at.hosts)
    with load(at.hosts, size=300, pause=0.005):
        machine.systemctl("stop", "xfrmi")
        assert machine.shows("ActiveState", "Result") == ["inactive", "success"]
        for tunnel, family in PAIRS:
            link = device(at.hosts.moon, tunnel.name)
            assert link is not None
            eventually(lambda: not device(at.hosts.moon, tunnel.name).flags & IFF_LOWER_UP, "carrier")  # noqa: B023
            assert routed(at.hosts.moon, tunnel.address("sun", family)) == link.ifindex
    assert at.hosts.shown() == []
    assert machine.processes() == []


@in_interop
@on_stage
def test_refused(booted: Site) -> None:
    """A second daemon of the namespace: the unit fails with a sentence, a few times, and then no more."""
    at, machine = booted, booted.machine
    machine.systemctl("stop", "xfrmi")
    other = at.hosts.moon.start_daemon()
    try:
        assert machine.systemctl("start", "xfrmi", check=False).returncode == 1
        eventually(lambda: machine.shows("ActiveState") == ["failed"], "it goes on trying", seconds=30)
        assert "serves this network namespace already" in machine.journal()[-1]
        assert other.poll() is None
    finally:
        other.send_signal(signal.SIGTERM)
        assert other.wait(10) == 0
