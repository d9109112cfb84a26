"""`xfrmi` as a program, against `xfrmi daemon` as a program: what a shell sees, and who may ask."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

from tests.netns import in_netns, need_other_users
from tests.system.hosts import Hosts, Tunnel, give_addresses, tell, two_hosts
from tests.system.monitor import Monitor
from tests.system.stage import on_stage
from xfrmi.lab.namespace import xfrmi_command
from xfrmi.lab.traffic import ping

TUNNEL = Tunnel("ipsec0", 42)
NOBODY = 65534


@on_stage
def test_a_listing_makes_the_other_end(hosts: Hosts) -> None:
    """`xfrmi state list` on one host, `xfrmi state add -` on the other: the tunnel stands."""
    tell(hosts.moon, TUNNEL.lines("moon"))
    give_addresses(hosts.moon, TUNNEL)
    listing = hosts.moon.xfrmi("state", "list")
    assert (listing.returncode, listing.stderr) == (0, "")
    tell(hosts.sun, TUNNEL.lines("sun").replace(TUNNEL.key_lines(), ""))
    give_addresses(hosts.sun, TUNNEL)
    assert fed(hosts, "state", "add", "-", text=listing.stdout) == (0, "", "")
    assert hosts.sun.xfrmi("state", "list").stdout == listing.stdout
    for family in (4, 6):
        assert len(ping(hosts.moon, TUNNEL.address("sun", family), 3)) == 3

    # Policies, too: gone and back, in the same order.
    policies = hosts.sun.xfrmi("policy", "list").stdout
    tell(hosts.sun, "policy flush")
    assert ping(hosts.moon, TUNNEL.address("sun", 4), 1, timeout=0.1) == []
    assert fed(hosts, "policy", "add", "-", text=policies) == (0, "", "")
    assert hosts.sun.xfrmi("policy", "list").stdout == policies
    assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 3)) == 3

    assert TUNNEL.keys["moon"] in listing.stdout
    assert TUNNEL.keys["moon"] not in hosts.moon.xfrmi("state", "list", "nokeys").stdout


def fed(hosts: Hosts, *words: str, text: str) -> tuple[int, str, str]:
    """`xfrmi words..` on sun with `text` on its standard input."""
    path = hosts.sun.folder / "listing"
    path.write_text(text)
    command = 'exec "$@" < "$0"'
    done = hosts.sun.run(["sh", "-c", command, str(path), *xfrmi_command(*words)], env=hosts.sun.env)
    return done.returncode, done.stdout, done.stderr


@on_stage
def test_exit_statuses_and_first_lines(hosts: Hosts) -> None:
    """As ip(8): 0 done, 255 a wrong word, 1 something missing, 2 refused; its line first, then a sentence of ours."""
    tell(hosts.moon, TUNNEL.lines("moon"))
    for words, status, first, second in (
        ("link add x type xfrm", 2, "Error: if_id must be non zero.", "xfrmi: "),
        (
            "link add x type xfrm if_id 42",
            2,
            "RTNETLINK answers: File exists",
            'xfrmi: if_id 0x2a belongs to "ipsec0"',
        ),
        ("state get dst 198.51.100.1 proto esp spi 0x9", 2, "RTNETLINK answers: No such process", "xfrmi: "),
        ("state add src x", 1, 'Error: any valid prefix is expected rather than "x".', "xfrmi: Word 4: "),
        ("policy add dir up", 255, 'Error: argument "up" is wrong: DIR value is invalid', "xfrmi: Word 4: "),
        ("stat", 0, "", ""),
    ):
        done = hosts.moon.xfrmi(*words.split())
        assert done.returncode == status, words
        lines = done.stderr.splitlines()
        assert lines[:1] == [first] * bool(first), words
        assert all(line.startswith(second) for line in lines[1:]), lines
    assert len(done.stdout.splitlines()) == 32, "as many lines as /proc/net/xfrm_stat"


@in_netns
def test_from_outside() -> None:
    """-n goes to the daemon of another namespace, by the pid of a process in there."""
    with two_hosts() as hosts:
        tell(hosts.moon, TUNNEL.lines("moon"))
        command = xfrmi_command("-n", str(hosts.daemons["moon"].pid), "--json", "link", "show", "ipsec0")
        done = subprocess.run(command, env=hosts.moon.env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)[0]["ifname"] == "ipsec0"
        elsewhere = hosts.router.run(xfrmi_command("state", "list"), env=hosts.moon.env)
        assert elsewhere.returncode == 2
        assert elsewhere.stderr.startswith("xfrmi: no xfrmi daemon serves this network namespace")


@in_netns
def test_a_monitor_ends_with_ctrl_c_or_with_its_daemon() -> None:
    with two_hosts() as hosts:
        with Monitor(hosts.moon) as monitor:
            monitor.program.send_signal(signal.SIGINT)
            assert monitor.program.wait(5) == 0
            assert "Traceback" not in monitor.text()
        with Monitor(hosts.moon) as monitor:
            assert hosts.moon.stop(hosts.daemons["moon"]) == 0
            assert monitor.program.wait(5) == 2
            last = monitor.text().splitlines()[-1]
            assert last.startswith("xfrmi: ")
            assert "daemon" in last


@in_netns
def test_nobody_else_may_ask() -> None:
    """0700 and 0600; and where somebody has opened these, the daemon itself looks at who is asking."""
    need_other_users()
    with two_hosts() as hosts:
        (directory,) = (path for path in hosts.moon.folder.iterdir() if path.is_dir())
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
        assert modes == {"xfrm": 0o600, "route": 0o600, "json": 0o600, "lock": 0o600, "states": 0o600}
        kinds = {"xfrm": socket.SOCK_SEQPACKET, "route": socket.SOCK_SEQPACKET, "json": socket.SOCK_STREAM}
        for name, kind in kinds.items():
            assert somebody_else(directory / name, kind) == "PermissionError"
        for path in (*directory.iterdir(), directory, *directory.parents[:2]):
            path.chmod(0o777)
        for name, kind in kinds.items():
            assert somebody_else(directory / name, kind) == "hung up"
        assert hosts.moon.xfrmi("stat").returncode == 2, "no client, either, trusts a directory that others can change"


def somebody_else(path: Path, kind: socket.SocketKind) -> str:
    """What becomes of another user who connects to the socket and asks something."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            with socket.socket(socket.AF_UNIX, kind) as connection:
                connection.settimeout(5)
                connection.connect(str(path))
                with contextlib.suppress(ConnectionError):
                    connection.send(b'{"cmd": "status"}\n'.ljust(32))
                os.write(write, connection.recv(100) or b"hung up")
        except ConnectionError:
            os.write(write, b"hung up")
        except OSError as error:
            os.write(write, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        return answer.read()
