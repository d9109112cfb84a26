"""No leak: whatever happens (cases.py), nothing of the protected flows is on the cables in the clear, and they go on.

`make test` takes each case once. `make noleak` takes them in a random order for XFRMI_NOLEAK seconds; XFRMI_SEED, which
is printed, makes it the same order again.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.iproute import ip
from tests.netns import in_netns
from tests.noleak.cases import CASES, Case, make_again
from tests.stage import Stage, on_stage
from tests.system.hosts import Hosts, eventually, two_hosts
from tests.system.test_fail_closed import ALL, TUNNELS, answered, carries, load
from xfrmi.lab.topology import Lab

SECONDS = float(os.environ.get("XFRMI_NOLEAK", "0"))
SEED = int(os.environ.get("XFRMI_SEED", str(random.SystemRandom().getrandbits(32))))
PAUSE = 0.005
"""Seconds between two datagrams of a flow."""


def go_through(hosts: Hosts, case: Case, chance: random.Random) -> None:
    """The case, with packets under way, until everything is answered again."""
    with load(hosts, size=300, pause=PAUSE):
        time.sleep(chance.uniform(0, 0.05))
        case.happens(hosts, chance)
        if not case.by_itself:
            make_again(hosts)
    eventually(lambda: answered(hosts) == ALL, lambda: f"{case.name}: {answered(hosts)} of {ALL} answered", seconds=30)
    assert hosts.shown() == [], case.name
    assert len(hosts.esp()) > ALL
    hosts.clear()


@contextmanager
def ready() -> Iterator[Hosts]:
    with two_hosts(make=Lab) as hosts:  # how much memory a daemon has is part of it
        hosts.set_up(*TUNNELS)
        with hosts.moon:
            for prefix in ("10.0.0.0/8", "fd00::/8"):
                ip(f"route add blackhole {prefix} metric 4294967295")
        carries(hosts)
        yield hosts


@pytest.fixture(scope="module")
def tunnels() -> Iterator[Stage[Hosts]]:
    with Stage(ready, Hosts.clear, lambda hosts: hosts.moon.last_words(lines=40)) as stage:
        yield stage


@pytest.mark.parametrize("happens", [case.name for case in CASES])
@on_stage
def test_nothing_leaks_and_all_goes_on(tunnels: Hosts, happens: str) -> None:
    (case,) = (case for case in CASES if case.name == happens)
    if lack := case.lacking():
        pytest.skip(f"NOT TESTED HERE: {lack}")
    go_through(tunnels, case, random.Random(SEED))


@pytest.mark.skipif(not SECONDS, reason="make noleak does this, for a time one gives it")
@in_netns
def test_at_random() -> None:
    signal.alarm(int(SECONDS) + 300)
    chance = random.Random(SEED)
    done: Counter[str] = Counter()
    cases = [case for case in CASES if not case.lacking()]
    end = time.monotonic() + SECONDS
    print(f"seed {SEED}", flush=True)
    with ready() as hosts:
        while time.monotonic() < end:
            case = chance.choice(cases)
            go_through(hosts, case, chance)
            done[case.name] += 1
    for name, count in done.most_common():
        print(f"{count:4} x {name}: 0 packets in the clear, all answered again", flush=True)
