"""`xfrmi capture --keys`: what it writes, opened by tshark as the advice says; every algorithm, in every shape."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import pytest

from tests.core.algorithms import ALL
from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, tunnel_state
from xfrmi.cli.capture import Keys, Writer
from xfrmi.client import Client
from xfrmi.client.packets import Record
from xfrmi.core import esp
from xfrmi.core.state import State
from xfrmi.wire.xfrm_const import STATE_ESN, Mode
from xfrmi.wire.xfrm_types import Encap, ReplayEsn, Selector, StateInfo

TSHARK = shutil.which("tshark")
UNKNOWN = (
    "ccm", "gmac", "chacha", "camellia", "sm4",  # to Wireshark's ESP altogether
    "cast5-5", "cast5-10", "cast5-11", "blowfish-4", "blowfish-56",  # it takes 128 bits
    "sha512-full", "sha1-32",  # of no length of ICV that it can step over
)  # fmt: skip
HELLO = b"hello from inside"


ESN = "tunnel, ESN"


class Shape(NamedTuple):
    name: str
    inner: int = 4
    outer: int = 4
    fields: Mapping[str, Any] = MappingProxyType({})


SHAPES = [
    Shape("tunnel"),
    Shape("tunnel 6 in 4", 6, 4),
    Shape("tunnel in UDP", 4, 4, {"encap": Encap(2, 4500, 4500)}),
    Shape(ESN, 4, 4, {"flags": STATE_ESN, "replay_window": 0, "replay_esn": ReplayEsn((0,), 5, 0, 7, 0, 32)}),
    Shape("transport", 4, 4, {"mode": Mode.TRANSPORT}),
    Shape("transport 6 in UDP", 6, 6, {"mode": Mode.TRANSPORT, "encap": Encap(2, 4500, 4500)}),
    Shape("BEET", 4, 4, {"mode": Mode.BEET}),
]  # fmt: skip


class States:
    """In place of a daemon: who is asked for states."""

    def __init__(self) -> None:
        self.infos: list[StateInfo] = []

    def states(self) -> Iterator[StateInfo]:
        return iter(self.infos)


def seal(shape: Shape, spi: int, algorithm: str) -> tuple[StateInfo, Record]:
    ends = OUTER[shape.inner] if shape.fields.get("mode") == Mode.TRANSPORT else INNER[shape.inner]
    fields = {"aead": None, **shape.fields, **ALL[algorithm]}
    if "mode" in fields:
        fields = {"flags": 0, "selector": Selector.parse(*ends), **fields}
    state = State(tunnel_state(*OUTER[shape.outer], spi, **fields))
    inner = udp(*ends, HELLO, sport=40001, dport=40002)
    return state.snapshot(), Record(NOW, "ipsec0", "out", bytes(inner), bytes(esp.seal(state, inner, NOW)))


@pytest.mark.skipif(TSHARK is None, reason="TSHARK IS NOT INSTALLED, NOT TESTED")
def test_every_algorithm_in_every_shape(tmp_path: Path) -> None:
    """Those that Wireshark cannot open are said to be so, and are no others than docs/explain.md names."""
    cases = list(product(SHAPES, ALL))
    sealed = [seal(shape, spi, algorithm) for spi, (shape, algorithm) in enumerate(cases, 0x1000)]
    states = States()
    states.infos = [info for info, _ in sealed]
    path = tmp_path / "it.pcapng"
    with path.open("wb") as file:
        writer = Writer(file, "ipsec0")
        keys = Keys(cast(Client, states), f"{path}.wireshark")
        file.write(keys.block())
        for _, record in sealed:
            writer.add(record)
    assert TSHARK is not None
    wanted = ["data.data", "esp.icv_bad"]
    command = [TSHARK, "-n", "-r", str(path), "-Y", 'frame.interface_name == "underlay"', "-T", "fields"]
    command += [word for field in wanted for word in ("-e", field)]
    env = {**os.environ, "WIRESHARK_CONFIG_DIR": f"{path}.wireshark", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases), done.stderr
    old = "More fields than required" in done.stderr  # it knows no ESN, and so finds no ICV right
    opened, checked = set(), set()
    for (shape, algorithm), line in zip(cases, lines, strict=True):
        data, bad = line.split("\t")
        opened |= {(shape.name, algorithm)} if data == HELLO.hex() else set()
        checked |= {(shape.name, algorithm)} if bad in ("", "0", "False") or (old and shape.name == ESN) else set()
    known = {(shape.name, algorithm) for shape, algorithm in cases if not algorithm.startswith(UNKNOWN)}
    assert opened == known and known <= checked
    assert keys.strange == len(cases) - len(known)
