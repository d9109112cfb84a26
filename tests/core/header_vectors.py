"""Header captures of a Linux kernel (tests/vectors/kernel/headers*.json) as cases, and states made from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xfrmi.core.state import State
from xfrmi.wire.xfrm_const import (
    SA_XFLAG_DONT_ENCAP_DSCP,
    STATE_AF_UNSPEC,
    STATE_ALIGN4,
    STATE_DECAP_DSCP,
    STATE_NOECN,
    STATE_NOPMTUDISC,
    Mode,
)
from xfrmi.wire.xfrm_types import Algorithm, Encap, Selector, StateInfo

VECTORS = Path(__file__).parents[1] / "vectors" / "kernel"

FLAGS = {
    "noecn": STATE_NOECN,
    "decap-dscp": STATE_DECAP_DSCP,
    "nopmtudisc": STATE_NOPMTUDISC,
    "af-unspec": STATE_AF_UNSPEC,
    "align4": STATE_ALIGN4,
    "dont-encap-dscp": SA_XFLAG_DONT_ENCAP_DSCP,
}

GCM_16 = Algorithm("rfc4106(gcm(aes))", bytes(range(20)), 128)


class Sent(NamedTuple):
    """A packet the kernel sent; header is None where it refused to. `esp` only where a checksum covers it."""

    label: str
    inner: bytes
    header: bytes | None
    esp_len: int
    next_header: int
    payload: bytes
    esp: bytes | None


class Received(NamedTuple):
    """A packet the kernel received; `outcome`: what it delivered, the counter that rose, None (not captured)."""

    label: str
    header: bytes
    payload: bytes
    next_header: int
    outcome: bytes | str | None


def info_of(sa: dict[str, Any], **fields: Any) -> StateInfo:
    flags = sum(FLAGS[name] for name in sa.get("flags", ()))
    if "sel" in sa:
        fields["selector"] = Selector.parse(sa["sel"]["src"], sa["sel"]["dst"])
    if "encap" in sa:
        fields["encap"] = Encap(sport=sa["encap"][0], dport=sa["encap"][1])
    return StateInfo(
        src=sa["src"],
        dst=sa["dst"],
        spi=sa["spi"],
        mode=Mode[sa["mode"].upper()],
        flags=flags,
        extra_flags=sum(FLAGS[name] for name in sa.get("extra_flags", ())),
        aead=GCM_16,
        **fields,
    )


def state_of(sa: dict[str, Any]) -> State:
    return State(info_of(sa))


def sent() -> Iterator[tuple[str, dict[str, Any], list[Sent]]]:
    """(id, SA as in the capture, packets) of each outbound vector."""
    document = json.loads((VECTORS / "headers.json").read_text())
    inners = [(label, bytes.fromhex(packet)) for label, packet in document["inner"]]
    payloads = [bytes.fromhex(payload) for payload in document["payload"]]
    for vector in document["vectors"]:
        packets = []
        for inner, header, esp_len, next_header, payload, *esp in vector["packets"]:
            label, packet = inners[inner]
            packets.append(Sent(
                label, packet, None if header is None else bytes.fromhex(header), esp_len, next_header,
                packet if payload is None else payloads[payload], bytes.fromhex(esp[0]) if esp else None,
            ))  # fmt: skip
        yield vector["id"], vector["sa"], packets


def received() -> Iterator[tuple[str, dict[str, Any], list[Received]]]:
    """(id, SA as in the capture, packets) of each inbound vector."""
    document = json.loads((VECTORS / "headers_in.json").read_text())
    for vector in document["vectors"]:
        packets = []
        for label, header, payload, next_header, outcome in vector["packets"]:
            if outcome is not None and not outcome.startswith("Xfrm"):
                outcome = bytes.fromhex(outcome)
            packets.append(Received(label, bytes.fromhex(header), bytes.fromhex(payload), next_header, outcome))
        yield vector["id"], vector["sa"], packets
