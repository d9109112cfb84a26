"""States come and go under traffic, and their numbers run on: rekeying and the wrap at 2^32, against a real kernel."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from itertools import product

import pytest

from tests.oracle.kernelpeer.algorithms import GCM
from tests.oracle.kernelpeer.case import Algorithm, Case
from tests.oracle.kernelpeer.exam import connected, counts_agree, crosses, moved, untroubled
from tests.oracle.kernelpeer.pair import Pair
from tests.oracle.kernelpeer.talk import Datagrams, echoes
from tests.stage import on_stage
from tests.system.hosts import OUTER, PEER

CBC = Algorithm("cbc(aes)", 16, 128, "hmac(sha256)", 32)
CHACHA = Algorithm("rfc7539esp(chacha20,poly1305)", 36, 128)
NEAR_THE_END = 2**32 - 16


@on_stage
@pytest.mark.parametrize(("initiator", "encap", "families"), list(product(PEER, (False, True), ((4, 4), (6, 6)))))
def test_rekey_under_traffic(kernel_pair: Pair, initiator: str, encap: bool, families: tuple[int, int]) -> None:
    """3.2: each end listens before the other speaks, so nothing is lost; the newest state is the one that is used."""
    pair = kernel_pair
    case = Case(GCM, "tunnel", *families, encap)
    ends = {end.name: end for end in pair.ends}
    order = [ends[initiator], ends[PEER[initiator]]]
    with connected(pair, case), untroubled(pair):
        streams = [Datagrams(source, sink, case.address(sink.name)) for source, sink in (pair.ends, pair.ends[::-1])]
        stop = threading.Event()
        speaking = threading.Thread(target=_speak, args=(streams, stop))
        speaking.start()
        try:
            for generation in (1, 2):
                for end in order:
                    end.tell(case.state_line(PEER[end.name], end.name, generation=generation))
                for end in order:
                    end.tell(case.state_line(end.name, end.name, generation=generation))
                counts_agree(pair, [case.spi(name, generation - 1) for name in PEER])  # nothing is on its way any more
                for end in order:
                    end.tell("".join(_delete(case, sender, generation - 1) for sender in PEER))
                time.sleep(0.1)
        finally:
            stop.set()
            speaking.join()
        for stream in streams:
            assert stream.sent > 30
            assert stream.arrived(stream.sent) == list(range(stream.sent)), "lost, doubled or out of order"
            stream.close()
        assert {state.spi for end in pair.ends for state in end.states()} == {case.spi(name, 2) for name in PEER}
        counts_agree(pair)
        assert all(state.current.packets > 0 for end in pair.ends for state in end.states())


def _speak(streams: list[Datagrams], stop: threading.Event) -> None:
    while not stop.is_set():
        for stream in streams:
            stream.send()
        time.sleep(0.01)


def _delete(case: Case, sender: str, generation: int) -> str:
    ends = f"src {OUTER[sender, case.outer]} dst {OUTER[PEER[sender], case.outer]}"
    return f"xfrm state delete {ends} proto esp spi {case.spi(sender, generation):#x}\n"


@on_stage
@pytest.mark.parametrize(("algorithm", "window"), list(product((GCM, CHACHA, CBC), (32, 1024))), ids=str)
def test_esn_across_the_wrap(kernel_pair: Pair, algorithm: Algorithm, window: int) -> None:
    """T-18: the upper half of the number is not sent, and yet both ends agree about it."""
    pair = kernel_pair
    case = Case(algorithm, "tunnel", 6, 4, esn=True, window=window)

    def lines(name: str) -> str:
        states = (case.state_line(sender, name, more=_start(sender == name, NEAR_THE_END)) for sender in PEER)
        return "".join(states) + case.policy_lines(name)

    with untroubled(pair):
        pair.tell(lines)
        crosses(pair, case)
        counts_agree(pair)
    for end in pair.ends:
        for state in end.states():
            assert state.replay_esn is not None
            assert state.replay_esn.seq_hi + state.replay_esn.oseq_hi == 1


def _start(sender: bool, number: int) -> str:
    return f"replay-oseq {number}" if sender else f"replay-seq {number}"


@on_stage
@pytest.mark.parametrize("sender", ["moon", "sun"])
def test_numbers_without_esn_come_to_an_end(kernel_pair: Pair, sender: str) -> None:
    """T-19: after 2^32-1 nothing more is sent, either by xfrmi or by a kernel; the counters are the same."""
    pair = kernel_pair
    case = Case(GCM, "tunnel", 4, 4)
    source, sink = (end for end in sorted(pair.ends, key=lambda end: end.name != sender))

    def lines(name: str) -> str:
        last = _start(name == sender, 2**32 - 4)
        return case.state_line(sender, name, more=last) + case.state_line(PEER[sender], name) + case.policy_lines(name)

    pair.tell(lines)
    with moved(source, XfrmOutStateSeqError=2), moved(sink):
        assert echoes(source, case.address(sink.name), 5, timeout=0.3) == 3


@on_stage
@pytest.mark.parametrize(("receiver", "esn", "window"), list(product(PEER, (False, True), (32, 1024))))
def test_what_is_sent_again_is_dropped(kernel_pair: Pair, receiver: str, esn: bool, window: int) -> None:
    """T-08, 3.7: the same frames once more: each is refused, and both implementations say why in the same words.

    With ESN what is older than the window counts as a number of the next 2^32, and is not authentic as such.
    """
    pair = kernel_pair
    case = Case(GCM, "tunnel", 4, 4, esn=esn, window=window)
    count = 40
    too_old = max(count - window, 0)
    source, sink = (end for end in sorted(pair.ends, key=lambda end: end.name == receiver))
    expected = {"XfrmInStateSeqError": count - too_old * esn, "XfrmInStateProtoError": too_old * esn}
    with connected(pair, case):
        with closing(Datagrams(source, sink, case.address(receiver))) as stream, pair.tap(receiver) as tap:
            for _ in range(count):
                stream.send()
            assert stream.arrived(count) == list(range(count))
            frames = [frame for frame in tap.esp() if frame[6:12] == pair.router_mac(receiver)]
            assert len(frames) == count
            with moved(sink, **{name: rise for name, rise in expected.items() if rise}):
                for frame in frames:
                    tap.inject(frame)
        (state,) = (state for state in sink.states() if state.spi == case.spi(source.name))
        assert state.stats == ((0, count - too_old, too_old) if esn else (too_old, count - too_old, 0))
