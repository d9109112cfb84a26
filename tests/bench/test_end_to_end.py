"""The end-to-end measurements do what they say, over the bare cable and through xfrmi. How fast is no question here."""

from __future__ import annotations

import argparse
import math

from bench.algorithms import KINDS, algorithms, described, tunnels
from bench.contenders import ways
from bench.contenders.wireguard import wireguard
from bench.contenders.xfrmi import Keyed
from bench.datagrams import datagrams
from bench.latency import latency
from bench.rounds import run
from bench.throughput import throughput
from tests.core.algorithms import AUTHENTICATED
from tests.netns import in_netns, need_tun

PLAIN, OURS = "plain veth, IPv4", "xfrmi UDP, IPv6 in IPv4"


def told(*only: str) -> argparse.Namespace:
    return argparse.Namespace(rounds=1, quick=False, only=only, names=[PLAIN, OURS], usual=(1, 1))


@in_netns
def test_every_way_gets_its_figures() -> None:
    need_tun()
    done = run(told("plain", "xfrmi"), [throughput(0.1), latency(0.1), datagrams(64, 0.05)])
    assert done.failed == []
    streams, echoes, packets = ({way.name: each[0] for way, each in results.items()} for results in done.results)
    assert set(streams) == set(echoes) == set(packets) == {PLAIN, OURS}
    assert all(min(result[:3]) > 0 for result in streams.values())
    assert streams[OURS].sender > 0 and streams[OURS].receiver > 0 and math.isnan(streams[PLAIN].sender)
    assert all(result.echoes > 0 and 0 < result.idle <= result.idle_p99 for result in echoes.values())
    assert all(result.offered > 0 for result in packets.values())


@in_netns
def test_what_one_contender_cannot_do_stops_nobody() -> None:
    measurement = throughput(0.05)
    whole = measurement.measure

    def broken(moon, sun, way):  # type: ignore[no-untyped-def]
        if way.family == 4:
            raise RuntimeError("it fell over")
        return whole(moon, sun, way)

    measurement.measure = broken
    options = told("plain")
    options.names = ["plain"]
    done = run(options, [measurement])
    assert [note.split(":")[-1].strip() for note in done.failed] == ["it fell over"]
    assert [way.name for way in done.results[0]] == ["plain veth, IPv6"]


def test_who_is_absent_is_told_with_the_package_that_helps(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PATH", "/nowhere")
    found, (note,), failed = ways(None, None, {"wireguard": wireguard})  # type: ignore[arg-type]
    assert found == [] and failed == []
    assert "WIREGUARD" in note and "apt-get install" in note


@in_netns
def test_each_algorithm_has_a_tunnel_of_its_own() -> None:
    need_tun()
    options = told()
    options.names = []
    done = run(options, [algorithms(0.05)], tunnels(["gcm256-icv128", "sha1", "null"]))
    assert done.failed == []
    (results,) = done.results
    assert [way.contender for way in results] == ["xfrmi UDP gcm256-icv128", "xfrmi UDP sha1", "xfrmi UDP null"]
    assert all(each[0].rate > 0 for each in results.values())


def test_algorithms_in_the_words_of_the_command() -> None:
    assert described("ccm128-icv64") == [Keyed("aead", "rfc4309(ccm(aes))", 19, 64)]
    assert described("sha1-32") == [Keyed("enc", "cbc(aes)", 16), Keyed("auth-trunc", "hmac(sha1)", 20, 32)]
    assert described("null-xcbc") == [Keyed("enc", "ecb(cipher_null)", 0), Keyed("auth", "xcbc(aes)", 16)]
    assert set(KINDS) < set(AUTHENTICATED)
