"""What a daemon tells of its states to who looks on: in pieces, without keys; and what refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.daemon.messages import STATE
from tests.daemon.server import serving
from xfrmi.client import Client
from xfrmi.client.samples import StateKey
from xfrmi.core.engine import Engine
from xfrmi.daemon.state_samples import MAX_LARVAL, STATES_A_PIECE, StateSamples
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_types import Current, Limits, ReplayEsn, StateInfo

NOW = 1000.0


def pieces(engine: Engine, **request: object) -> list[bytes]:
    stream = StateSamples(engine.sad, request)
    found = []
    while piece := stream.take():
        found.append(piece)
    return found


def test_a_sample_of_each_kind() -> None:
    with serving() as server, Client() as client, client.sampler() as sampler:
        esn = ReplayEsn((0b1011,), seq=4, replay_window=32)
        client.add_state(replace(STATE, replay_esn=esn, limits=Limits(soft_bytes=10), current=Current(5, 2, 900, 950)))
        client.alloc_spi(StateInfo(src="192.0.2.7", dst="192.0.2.8", seq=3, if_id=9))
        sample = sampler.sample()
        assert [(use.bytes, use.packets, use.if_id) for use in sample.uses] == [(5, 2, STATE.if_id)]
        assert sample.stat == client.stat()
        sample = sampler.with_details(sample, [sample.uses[0].key, StateKey("7f000001", 1, 50, 0)])
        (state,) = sample.states.values()
        assert (state.src, state.dst, state.spi, state.key) == (STATE.src, STATE.dst, STATE.spi, sample.uses[0].key)
        assert state.algorithms == tuple(one.name for one in (STATE.aead, STATE.crypt, STATE.auth_trunc) if one)
        assert (state.top, state.window, state.seen) == (4, 32, 0b1101)
        assert state.limits[:3] == (10, None, None)
        (larval,) = sample.larval
        assert (larval.larval, larval.if_id, sample.larval_count) == (True, 9, 1)
        server.stop()
        with pytest.raises(XfrmError):
            sampler.sample()


def test_keys_stay_where_they_are() -> None:
    engine = Engine()
    engine.add_state(STATE, NOW)
    algorithms = [one for one in (STATE.aead, STATE.crypt, STATE.auth_trunc, STATE.auth) if one is not None]
    assert algorithms
    said = b"".join(pieces(engine) + pieces(engine, of=[[STATE.dst.hex(), STATE.spi, STATE.proto, 0]]))
    assert algorithms[0].name.encode() in said
    for one in algorithms:
        assert one.key[:4].hex().encode() not in said
        assert one.key[:4] not in said


def test_many_come_in_pieces() -> None:
    engine = Engine()
    for spi in range(1000):
        engine.add_state(replace(STATE, spi=0x1000 + spi), NOW)
    found = [json.loads(piece) for piece in pieces(engine)]
    assert found.pop() == {"end": True}
    assert max(len(piece["uses"]) for piece in found) == STATES_A_PIECE
    assert [use[1] for piece in found for use in piece["uses"]] == [*reversed(range(0x1000, 0x1000 + 1000))]


def test_states_may_go_meanwhile() -> None:
    engine = Engine()
    engine.add_state(STATE, NOW)
    stream = StateSamples(engine.sad, {"of": [[STATE.dst.hex(), STATE.spi, STATE.proto, 0]]})
    assert json.loads(stream.take()) == {"larval": 0, "states": []}
    engine.flush_states(0, NOW)
    assert json.loads(stream.take()) == {"states": []}
    assert json.loads(stream.take()) == {"end": True}
    assert stream.take() == b""


def test_a_flood_of_larval_states_is_counted() -> None:
    engine = Engine()
    for number in range(MAX_LARVAL + 5):
        engine.alloc_spi(StateInfo(src="192.0.2.7", dst="192.0.2.8", seq=number + 1), 0x100, 0xFFFF, NOW)
    first = json.loads(pieces(engine, of=[])[0])
    assert (first["larval"], len(first["states"])) == (MAX_LARVAL + 5, MAX_LARVAL)


@pytest.mark.parametrize(
    "wrong",
    [
        "x", 1, [1], [["zz", 1, 50, 0]], [["", 1]], [[1, 1, 1, 1]], {"a": 1}, [["", [], 0, 0]],
        [["", float("inf"), 0, 0]],
    ],
)  # fmt: skip
def test_what_names_no_states(wrong: object) -> None:
    with pytest.raises(XfrmError, match="Invalid") as refused:
        StateSamples(Engine().sad, {"of": wrong})
    assert refused.value.detail == '"of" is a list of [dst in hex, spi, proto, mark]'
