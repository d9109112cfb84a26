"""Outbound captures: the same inner packet, state, sequence number and IV give the same outer packet, byte for byte;
and the kernel's outer packet, opened, gives the inner one back.

`xfrm_interface` vectors go through the engine as packets out of the TUN do, `policy` vectors through seal alone.
"""

from __future__ import annotations

from typing import Any

from tests.captures.files import OUR_OWN, OUTBOUND, Vector, vectors
from tests.captures.machine import NOW, Machine, moved, turned_round
from tests.captures.outer_packets import DF, check_outer, datagram
from tests.each import each
from xfrmi.core.burst import open_burst, seal_burst
from xfrmi.wire.ip import IPV4_CHECKSUM, ipv4_header_checksum

VECTORS = list(vectors(OUTBOUND))


every = each("vector", VECTORS, ids=lambda vector: vector.id)


def test_our_own_captures_cover_every_key_and_icv_length_of_gcm() -> None:
    sas = [vector.data["sa"] for vector in VECTORS if vector.file.parent == OUR_OWN]
    keyed = [sa["aead"] for sa in sas if sa.get("aead", {}).get("name") == "rfc4106(gcm(aes))"]
    assert {(len(aead["key"]) // 2, aead["icv_bits"]) for aead in keyed} >= {
        (key, icv) for key in (20, 28, 36) for icv in (64, 96, 128)
    }
    assert {sa["mode"] for sa in sas} == {"tunnel", "transport", "beet"}
    assert any(sa.get("esn") and sa.get("oseq", 0) >> 32 for sa in sas)


@every
@each("one_burst", [False, True], ids=["one by one", "one burst"])
def test_the_kernels_bytes(vector: Vector, one_burst: bool) -> None:
    packets = vector.data["packets"]
    machine = Machine()
    machine.set_up(vector.data["commands"])
    (state,) = machine.states()
    emitted = [packet for packet in packets if packet["outer"] is not None]
    state.take_ivs([p["seq"] for p in emitted], [bytes.fromhex(p["iv"]) for p in emitted])
    before = machine.counters()
    inner = [bytes.fromhex(packet["inner"]) for packet in packets]
    outer: list[bytes] = []
    for burst in [inner] if one_burst else [[packet] for packet in inner]:
        if vector.data["path"] == "xfrm_interface":
            outgoing, replies = machine.engine.output(machine.xfrm0, burst, NOW)
            assert replies == []
            outer += [bytes(packet) for group in outgoing for packet in group.packets]
        else:
            outer += [bytes(packet) for packet in seal_burst(state, burst, NOW)[0]]

    assert len(outer) == len(emitted)
    for ours, packet in zip(outer, emitted, strict=True):
        check_outer(state, ours, bytes.fromhex(packet["outer"]), packet["seq"], packet["next_header"])
    assert state.oseq == emitted[-1]["seq"]
    if vector.data["path"] == "xfrm_interface":
        lost = len(packets) - len(emitted)
        sent = {"tx_packets": len(emitted), "tx_bytes": sum(len(p["inner"]) // 2 for p in emitted)}
        delta = {"link": sent} | ({"xfrm_stat": {"XfrmOutStateModeError": lost}} if lost else {})
        if lost:
            sent |= {"tx_errors": lost, "tx_aborted_errors": lost}
        assert moved(before, machine.counters()) == delta


@every
@each("one_burst", [False, True], ids=["one by one", "one burst"])
def test_what_the_kernel_sent_opens(vector: Vector, one_burst: bool) -> None:
    machine = Machine()
    machine.set_up(vector.data["commands"])
    receiver = turned_round(machine.states()[0])
    packets = [packet for packet in vector.data["packets"] if packet["outer"] is not None]
    datagrams = [datagram(bytes.fromhex(packet["outer"])) for packet in packets]
    opened: list[bytes] = []
    for burst in [datagrams] if one_burst else [[one] for one in datagrams]:
        inner, drops = open_burst(receiver, burst, NOW)
        dropped = {index for index, _ in drops}
        # Next header 59 is a dummy packet to whoever opens it (5.1): BEET and transport send it, nobody receives it.
        assert all(packets[index if one_burst else len(opened)]["next_header"] == 59 for index in dropped)
        left = iter(map(bytes, inner))
        opened += [b"" if index in dropped else next(left) for index in range(len(burst))]
    assert len(opened) == len(packets)
    for ours, packet in zip(opened, packets, strict=True):
        if packet["next_header"] != 59:
            assert ours == as_received(packet, vector.data["sa"]["mode"])


def as_received(packet: dict[str, Any], mode: str) -> bytes:
    """What comes out at the other end: the inner packet, but for what a BEET header cannot say (5.7), and with the
    identification that the kernel has put where there was none."""
    inner, outer = bytearray.fromhex(packet["inner"]), bytes.fromhex(packet["outer"])
    if mode == "beet" and inner[0] >> 4 != outer[0] >> 4:
        if inner[0] >> 4 == 6:
            inner[1:4] = bytes((inner[1] & 0xF0, 0, 0))  # no flow label in IPv4
            return bytes(inner)
        inner[4:8] = bytes((0, 0, DF, 0))  # no identification in IPv6
    elif mode != "tunnel" and inner[0] >> 4 == 4:
        inner[4:6] = outer[4:6]
    if inner[0] >> 4 == 4:
        inner[IPV4_CHECKSUM] = ipv4_header_checksum(inner[: (inner[0] & 15) * 4]).to_bytes(2, "big")
    return bytes(inner)
