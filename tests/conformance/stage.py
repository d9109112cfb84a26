"""One pair of hosts for many tests: they are built once, in a child process, which plays the tests one by one.

Between two tests the tables are emptied and the devices deleted, so that each finds hosts as new; what cannot be set
back is the counters, which tests compare with what they were.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Concatenate, ParamSpec

from tests.netns import enter_netns, outcome, settle
from tests.system.hosts import Hosts, at, tell, two_hosts
from xfrmi.lab.namespace import sysctl

SECONDS = 30
"""For one test."""

P = ParamSpec("P")
_plays: dict[str, Callable[..., object]] = {}
"""By name: the child was forked when all of them were known."""


def on_stage(test: Callable[Concatenate[Hosts, P], object]) -> Callable[Concatenate[Stage, P], None]:
    """Decorator: play the test on the hosts of the `hosts` fixture, which outside is a Stage and inside two hosts."""
    name = f"{test.__module__}.{test.__qualname__}"
    _plays[name] = test

    @functools.wraps(test)
    def run(hosts: Stage, *args: P.args, **kwargs: P.kwargs) -> None:
        settle(*hosts.play(name, *args, **kwargs))

    return run


class Stage:
    """The child, from the first test on; a new one after a test that killed it."""

    def __init__(self) -> None:
        self._pid = 0
        self._link: Connection

    def play(self, name: str, *args: Any, **kwargs: Any) -> tuple[str, str]:
        """Run one test there: how it ended, and the words for it."""
        if not self._pid:
            self._build()
        try:
            self._link.send((name, args, kwargs))
            return self._link.recv()
        except (EOFError, BrokenPipeError):
            status = self._wait()
            return "fail", f"the process with the hosts ended with wait status {status}"

    def close(self) -> None:
        if self._pid:
            self._wait()

    def _build(self) -> None:
        self._link, theirs = multiprocessing.Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._link.close()
            _be_the_stage(theirs)
        theirs.close()

    def _wait(self) -> int:
        self._link.close()
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return status


def _be_the_stage(link: Connection) -> None:
    """The child: build the hosts, play what is asked for until nobody asks any more."""

    def play_all() -> None:
        signal.alarm(SECONDS)
        enter_netns()
        with two_hosts() as hosts:
            while request := _next(link):
                name, args, kwargs = request
                signal.alarm(SECONDS)
                link.send(_play(hosts, functools.partial(_plays[name], hosts, *args, **kwargs)))

    verdict, text = outcome(play_all)
    if verdict != "pass":  # there are no hosts: every test comes out like that
        while _next(link):
            link.send((verdict, text))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _next(link: Connection) -> tuple[str, tuple[Any, ...], dict[str, Any]] | None:
    try:
        return link.recv()  # type: ignore[no-any-return]
    except EOFError:
        return None


def _play(hosts: Hosts, test: Callable[[], object]) -> tuple[str, str]:
    def from_the_start() -> None:
        clean(hosts)
        test()

    verdict, text = outcome(from_the_start)
    if verdict == "fail":
        for host in hosts.ends:
            text += f"\n{host.name}'s daemon said:\n{host.last_words(lines=40)}"
    return verdict, text


def clean(hosts: Hosts) -> None:
    """Hosts as new: no states, policies, devices or learned path MTUs, cables of 1500 bytes."""
    for host in (*hosts.ends, hosts.router):
        with host:
            for family in ("ipv4", "ipv6"):
                sysctl(f"net.{family}.route.flush", 1)
    for host in hosts.ends:
        with at(host) as client:
            links = "".join(f"link del {link.name}\n" for link in client.links())
        tables = "state flush\npolicy flush\npolicy flush ptype sub\n"
        tell(host, f"{links}{tables}policy setdefault in accept fwd accept out accept\n")
        host.up("eth0", mtu=1500)
    hosts.clear()
