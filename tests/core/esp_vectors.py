"""ESP captures of a Linux kernel (tests/vectors/kernel/esp_*.json) as cases, and states made from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xfrmi.core.state import State
from xfrmi.wire.xfrm_const import (
    SA_XFLAG_DONT_ENCAP_DSCP,
    STATE_AF_UNSPEC,
    STATE_ESN,
    STATE_NOECN,
    Mode,
    XfrmStat,
)
from xfrmi.wire.xfrm_types import Algorithm, Encap, Limits, Replay, ReplayEsn, Selector

VECTORS = Path(__file__).parents[1] / "vectors" / "kernel"

FLAGS = {"esn": STATE_ESN, "af-unspec": STATE_AF_UNSPEC, "noecn": STATE_NOECN}
EXTRA_FLAGS = {"dont-encap-dscp": SA_XFLAG_DONT_ENCAP_DSCP}
STATS = {stat.label: stat for stat in XfrmStat}


@dataclass(frozen=True)
class Sent:
    inner: bytes
    outer: bytes
    iv: bytes
    seq: int


@dataclass(frozen=True)
class Received:
    label: str
    outer: bytes
    drop: XfrmStat | None
    inner: bytes | None
    """What was delivered; None where that was not captured."""


class WithIv(State):
    """A state whose next IV the test decides."""

    __slots__ = ("iv",)

    def next_iv(self) -> bytes:
        return self.iv


def fields_of(sa: dict[str, Any]) -> dict[str, Any]:
    """An SA of the vector files as the fields of StateInfo, in the form iproute2 gives a request."""
    esn = "esn" in sa.get("flags", ())
    window, oseq, seq = sa.get("window", 0), sa.get("oseq", 0), sa.get("seq", 0)
    fields: dict[str, Any] = {
        "src": sa["src"],
        "dst": sa["dst"],
        "spi": sa["spi"],
        "mode": Mode[sa["mode"].upper()],
        "flags": sum(FLAGS[name] for name in sa.get("flags", ())),
        "extra_flags": sum(EXTRA_FLAGS[name] for name in sa.get("extra_flags", ())),
        "aead": Algorithm("rfc4106(gcm(aes))", bytes.fromhex(sa["key"]), sa["icv"]),
        "limits": Limits(hard_packets=sa["packet_hard"]) if "packet_hard" in sa else Limits(),
    }
    if esn or window > 32:
        fields["replay_esn"] = ReplayEsn(
            bitmap=(0,) * ((window + 31) // 32),
            oseq=oseq & 0xFFFFFFFF,
            oseq_hi=oseq >> 32,
            seq=seq & 0xFFFFFFFF,
            seq_hi=seq >> 32,
            replay_window=window,
        )
    else:
        fields["replay_window"] = window
        fields["replay"] = Replay(oseq=oseq, seq=seq)
    if "encap" in sa:
        fields["encap"] = Encap(sport=sa["encap"][0], dport=sa["encap"][1])
    if "sel" in sa:
        fields["selector"] = Selector.parse(sa["sel"]["src"], sa["sel"]["dst"])
    return fields


def sent() -> list[tuple[str, dict[str, Any], list[Sent]]]:
    """(id, SA, packets in the order sent)."""
    document = json.loads((VECTORS / "esp_out.json").read_text())
    return [
        (
            vector["id"],
            vector["sa"],
            [Sent(*map(bytes.fromhex, packet[:3]), seq=packet[3]) for packet in vector["packets"]],
        )
        for vector in document["vectors"]
    ]


def received() -> list[tuple[str, dict[str, Any], list[Received], dict[str, Any]]]:
    """(id, SA, packets in the order received, what `ip -s xfrm state` shows afterwards)."""
    document = json.loads((VECTORS / "esp_in.json").read_text())
    return [
        (
            vector["id"],
            vector["sa"],
            [
                Received(
                    label,
                    bytes.fromhex(outer),
                    STATS[drop] if drop else None,
                    bytes.fromhex(inner) if inner else None,
                )
                for label, outer, drop, inner in vector["packets"]
            ],
            vector["after"],
        )
        for vector in document["vectors"]
    ]
