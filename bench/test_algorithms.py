"""What the other algorithms cost: bursts of 40 packets of 1400 bytes, against AES-GCM in the same run.

make bench BENCHARGS="bench/test_algorithms.py"
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.test_datapath import COUNT, again, inner_packets, name, run_anew
from tests.core.algorithms import ALL
from tests.core.pair import NOW, OUTER
from xfrmi.core.burst import open_burst, seal_burst
from xfrmi.core.state import State
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import Mode

SIZE = 1400
algorithms = pytest.mark.parametrize(
    "algorithm",
    [
        "gcm128-icv128", "gcm128-icv64", "ccm128-icv128", "chacha20poly1305", "gmac128", "ctr128", "cbc128", "sha1",
        "cmac", "xcbc", "null", "des3",
    ],
)  # fmt: skip
"""Those of tests.core.algorithms: a cipher is with hmac(sha256), what authenticates is with cbc(aes)."""


def state_with(algorithm: str) -> State:
    src, dst = OUTER[4]
    return State(src=src, dst=dst, spi=0x1000, mode=Mode.TUNNEL, **ALL[algorithm])


@algorithms
def test_seal(benchmark: Any, algorithm: str) -> None:
    name(benchmark, "seal with", algorithm, SIZE)
    sealed, drops = benchmark(seal_burst, state_with(algorithm), inner_packets(SIZE), NOW)
    assert len(sealed) == COUNT and not drops


@algorithms
def test_open(benchmark: Any, algorithm: str) -> None:
    name(benchmark, "open with", algorithm, SIZE)
    sealed, _ = seal_burst(state_with(algorithm), inner_packets(SIZE), NOW)
    datagrams, state = [split_outer(packet) for packet in sealed], state_with(algorithm)
    opened, drops = run_anew(benchmark, lambda: open_burst(state, datagrams, NOW), again(state))
    assert len(opened) == COUNT and not drops
