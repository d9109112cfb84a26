"""Two charons with the ordinary kernel-netlink plugin, one of them with a real kernel: neither can tell the difference.

Only in `make interop`: it boots a machine of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.interpose.strongswan import carried
from tests.oracle.kernelpeer.ike import IkePair, ike_pair
from tests.oracle.kernelpeer.machine import BOOT_SECONDS
from tests.oracle.kernelpeer.pair import clean, inner
from tests.oracle.kernelpeer.talk import Datagrams, carries_tcp, echoes
from tests.stage import SECONDS, Stage, on_stage
from tests.system.hosts import eventually


@pytest.fixture(scope="module")
def peers() -> Iterator[Stage[IkePair]]:
    seconds = BOOT_SECONDS + SECONDS
    with Stage(ike_pair, lambda peers: clean(peers.pair), IkePair.last_words, seconds) as stage:
        yield stage


def agree(peers: IkePair) -> bool:
    """Both have the same pair of SAs, with the same counted."""
    here, there = (carried(end.swanctl("--list-sas")) for end in peers.ends)
    return here == {"in": there.get("out"), "out": there.get("in")}


def crosses(peers: IkePair) -> None:
    pair = peers.pair
    for family in (4, 6):
        for source, sink in (pair.ends, pair.ends[::-1]):
            address = inner(sink.name, family)
            assert echoes(source, address) == 2, f"IPv{family} from {source.name}"
            assert carries_tcp(source, sink, address, 40_000), f"IPv{family} from {source.name}"


@on_stage
@pytest.mark.parametrize("encap", ["no", "yes"])
@pytest.mark.parametrize("outer", [4, 6])
def test_a_tunnel(peers: IkePair, outer: int, encap: str) -> None:
    """Initiated here, ended there; both list the same counters."""
    with peers.started(outer, ike=f"encap = {encap}"):
        peers.moon.swanctl("--initiate", "--child", "net")
        crosses(peers)
        eventually(lambda: agree(peers), lambda: "\n".join(end.swanctl("--list-sas") for end in peers.ends))
        assert carried(peers.moon.swanctl("--list-sas"))["out"][2] > 10
        assert ("TUNNEL-in-UDP" in peers.sun.swanctl("--list-sas")) == (encap == "yes")
        peers.sun.swanctl("--terminate", "--ike", "net")
        for end in peers.pair.ends:
            eventually(lambda end=end: not end.states(), f"{end.name} has kept states")  # type: ignore[misc]


@on_stage
@pytest.mark.parametrize("initiator", ["moon", "sun"])
def test_keys_are_renewed_under_traffic(peers: IkePair, initiator: str) -> None:
    """CHILD_SA twice, IKE_SA once, by the one end or by the other; not a packet is lost."""
    pair = peers.pair
    asking = dict(zip(("moon", "sun"), peers.ends, strict=True))[initiator]
    with peers.started():
        asking.swanctl("--initiate", "--child", "net")
        eventually(lambda: len(carried(peers.moon.swanctl("--list-sas"))) == 2, peers.last_words)
        first = carried(peers.moon.swanctl("--list-sas"))
        streams = [Datagrams(source, sink, inner(sink.name, 4)) for source, sink in (pair.ends, pair.ends[::-1])]
        stop = threading.Event()
        speaking = threading.Thread(target=_speak, args=(streams, stop))
        speaking.start()
        try:
            for kind in ("child", "ike", "child"):
                asking.swanctl("--rekey", f"--{kind}", "net")
                time.sleep(0.7)
        finally:
            stop.set()
            speaking.join()
        for stream in streams:
            assert stream.sent > 50
            assert stream.arrived(stream.sent) == list(range(stream.sent)), "lost, doubled or out of order"
            stream.close()
        eventually(lambda: agree(peers), lambda: "\n".join(end.swanctl("--list-sas") for end in peers.ends))
        last = carried(peers.moon.swanctl("--list-sas"))
        assert {spi for spi, _, _ in first.values()}.isdisjoint(spi for spi, _, _ in last.values())
        crosses(peers)


def _speak(streams: list[Datagrams], stop: threading.Event) -> None:
    while not stop.is_set():
        for stream in streams:
            stream.send()
        time.sleep(0.02)


@on_stage
@pytest.mark.parametrize("victim", ["moon", "sun"])
def test_a_peer_that_vanishes(peers: IkePair, victim: str) -> None:
    """DPD: who is left closes what there was, and the next packet raises it anew when the other is back."""
    ends = dict(zip(("moon", "sun"), peers.ends, strict=True))
    left = ends["sun" if victim == "moon" else "moon"]
    pair = peers.pair
    survivor, other = pair.ends if victim == "sun" else pair.ends[::-1]
    impatient = {
        "ike": "dpd_delay = 1s",
        "child": "start_action = trap\n dpd_action = trap",
        "settings": "retransmit_tries = 1\n retransmit_timeout = 1.0",
    }
    with peers.started(**impatient):
        eventually(lambda: echoes(survivor, inner(victim, 4), 1, timeout=0.5), peers.last_words, 10)
        ends[victim].stop("KILL")
        eventually(lambda: not carried(left.swanctl("--list-sas")), left.last_words, 20)
        ends[victim].relaunch()
        eventually(lambda: echoes(survivor, inner(victim, 4), 1, timeout=0.5), peers.last_words, 10)
        assert echoes(other, inner(survivor.name, 4)) == 2
