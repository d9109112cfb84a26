"""The checks of the demo. Each returns (held, evidence, further lines of evidence ..)."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from xfrmi.lab.demo_hosts import IPSEC0, IPSEC1, OUTER, Hosts, Tunnel, new_key, spi_of, state_lines
from xfrmi.lab.traffic import PATTERN, NumberedStream, ping, tcp_transfer
from xfrmi.lab.wiretap import esp_offset, spi_and_sequence

Result: TypeAlias = tuple[bool | str, ...]

MEGABYTE = 1_000_000
PINGS = 5
TRANSFER = 16 * MEGABYTE


def ping_both_families(hosts: Hosts) -> Result:
    held, parts = True, []
    for family, address in zip(("IPv4", "IPv6"), IPSEC0.inner["sun"], strict=True):
        times = ping(hosts.moon, address, PINGS)
        held &= len(times) == PINGS
        median = f", median {statistics.median(times) * 1000:.2f} ms" if times else ""
        parts.append(f"{family} {len(times)}/{PINGS}{median}")
    return held, "through one interface: " + "; ".join(parts)


def transfers(hosts: Hosts) -> Result:
    held, parts = True, []
    for family, address in zip(("IPv4", "IPv6"), IPSEC0.inner["sun"], strict=True):
        done = tcp_transfer(hosts.moon, hosts.sun, address, TRANSFER)
        held &= done.intact
        rate = done.bytes * 8 / done.seconds / 1e6
        verdict = f"SHA-256 {done.received_hash[:8]} at both ends" if done.intact else done.error or "HASHES DIFFER"
        parts.append(f"{family} {done.bytes // MEGABYTE} MB at {rate:.0f} Mbit/s, {verdict}")
    return held, *parts


def only_esp_on_the_wire(hosts: Hosts) -> Result:
    time.sleep(0.1)  # what is under way arrives
    kinds = hosts.tap.kinds()
    others = {name: count for name, count in kinds.items() if name not in ("ESP", "neighbour")}
    spoken = hosts.tap.holds(PATTERN[:24])
    spis = {spi_and_sequence(frame)[0] for frame in hosts.tap.esp()}
    held = kinds["ESP"] > 0 and not others and not spoken
    seen = f"{kinds['ESP']} ESP packets, {sum(others.values()) or 'nothing'} else" + (f" ({others})" if others else "")
    return held, f"{seen}; the plaintext seen {spoken} times; SPIs {hexes(spis)}"


def second_interface(hosts: Hosts) -> Result:
    """if_id is the key: same endpoints, same selectors, and yet nothing of one goes by the other."""
    before0 = hosts.link(hosts.moon, IPSEC0)["tx"]["packets"]
    hosts.tap.clear()
    answered = len(ping(hosts.moon, IPSEC1.inner["sun"][0], PINGS)) + len(
        ping(hosts.moon, IPSEC1.inner["sun"][1], PINGS)
    )
    time.sleep(0.1)
    spis = {spi_and_sequence(frame)[0] for frame in hosts.tap.esp()}
    own = {spi_of(IPSEC1, "moon"), spi_of(IPSEC1, "sun")}
    moved0 = hosts.link(hosts.moon, IPSEC0)["tx"]["packets"] - before0
    # Take one interface's state away: its packets are refused, not sent by the state of the other.
    carrier = hosts.link(hosts.moon, IPSEC1)["tx"]["carrier_errors"]
    hosts.batch(hosts.moon, f"state delete dst {OUTER['sun']} proto esp spi {spi_of(IPSEC1, 'moon'):#x}\n")
    orphans = len(ping(hosts.moon, IPSEC1.inner["sun"][0], 2, timeout=0.2))
    refused = hosts.link(hosts.moon, IPSEC1)["tx"]["carrier_errors"] - carrier
    others = len(ping(hosts.moon, IPSEC0.inner["sun"][0], PINGS))
    held = (
        answered == 2 * PINGS and spis == own and moved0 == 0 and orphans == 0 and refused >= 2 and others == PINGS
    )
    return (
        held,
        f"same endpoints: {answered}/{2 * PINGS} answered under SPIs {hexes(spis)}; ipsec0 sent {moved0}",
        f"its state deleted: carrier errors +{refused}, {orphans} leaked; ipsec0 still {others}/{PINGS}",
    )


def rekey(hosts: Hosts) -> Result:
    """Make before break: inbound on both ends, then outbound, then the old ones go. Traffic never pauses."""
    running = threading.Event()
    running.set()
    hosts.tap.clear()
    with ThreadPoolExecutor() as pool:
        try:
            transfer = pool.submit(
                tcp_transfer, hosts.moon, hosts.sun, IPSEC0.inner["sun"][0], TRANSFER, more=running.is_set
            )
            stream = NumberedStream(hosts.moon, hosts.sun, IPSEC0.inner["sun"][1], per_second=500)
            try:
                time.sleep(0.2)
                install(hosts, IPSEC0, generation=1)
                time.sleep(0.2)
            finally:
                account = stream.finish()
        finally:
            running.clear()  # or the pool would wait for ever
    done = transfer.result()
    time.sleep(0.1)
    counts = Counter(spi_and_sequence(frame)[0] for frame in hosts.tap.esp())
    old, new = spi_of(IPSEC0, "moon"), spi_of(IPSEC0, "moon", 1)
    held = account.lost == 0 and account.sent > 100 and done.intact and counts[old] > 0 and counts[new] > 0
    return (
        held,
        f"SPI {old:#x} → {new:#x} while {done.bytes // MEGABYTE} MB flow: "
        + ("hashes agree" if done.intact else done.error or "HASHES DIFFER"),
        f"beside them {account.sent} numbered datagrams: {account.lost} lost, {account.duplicates} twice",
    )


def install(hosts: Hosts, tunnel: Tunnel, generation: int) -> None:
    """Replace both states of a tunnel without a gap: a receiver knows the new state before any sender uses it."""
    lines = {
        (a, b): state_lines(tunnel, a, b, generation, new_key()) for a, b in (("moon", "sun"), ("sun", "moon"))
    }
    hosts.batch(hosts.sun, lines["moon", "sun"])
    hosts.batch(hosts.moon, lines["sun", "moon"])
    hosts.batch(hosts.moon, lines["moon", "sun"])
    hosts.batch(hosts.sun, lines["sun", "moon"])
    time.sleep(0.2)  # what was sealed with the old keys arrives
    for host in (hosts.moon, hosts.sun):
        hosts.batch(
            host,
            "".join(
                f"state delete dst {OUTER[b]} proto esp spi {spi_of(tunnel, a, generation - 1):#x}\n"
                for a, b in (("moon", "sun"), ("sun", "moon"))
            ),
        )


def tampered(hosts: Hosts) -> Result:
    """A copy of a packet with one bit of its ciphertext turned and a number that is due: only the ICV tells."""
    frame = bytearray(latest_to_sun(hosts))
    offset = esp_offset(frame)
    sequence = int.from_bytes(frame[offset + 4 : offset + 8], "big") + 1
    frame[offset + 4 : offset + 8] = sequence.to_bytes(4, "big")
    frame[offset + 20] ^= 1
    return dropped(hosts, bytes(frame), "XfrmInStateProtoError", "one bit turned on the way")


def replayed(hosts: Hosts) -> Result:
    """A packet that sun has already accepted, sent again as it was."""
    return dropped(hosts, latest_to_sun(hosts), "XfrmInStateSeqError", "sent again unchanged")


def latest_to_sun(hosts: Hosts) -> bytes:
    ping(hosts.moon, IPSEC0.inner["sun"][0], 1)
    time.sleep(0.1)
    spi = spi_of(IPSEC0, "moon", 1)
    return [frame for frame in hosts.tap.esp() if spi_and_sequence(frame)[0] == spi][-1]


def dropped(hosts: Hosts, frame: bytes, counter: str, what: str) -> Result:
    before, before_link = hosts.counters(hosts.sun), hosts.link(hosts.sun, IPSEC0)["rx"]
    hosts.tap.inject(frame)
    time.sleep(0.2)
    after, after_link = hosts.counters(hosts.sun), hosts.link(hosts.sun, IPSEC0)["rx"]
    moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    errors = after_link["errors"] - before_link["errors"]
    delivered = after_link["packets"] - before_link["packets"]
    held = moved == {counter: 1} and errors == 1 and delivered == 0
    shown = f"{counter} {before[counter]} → {after[counter]}" if set(moved) <= {counter} else f"counters {moved}"
    return held, f"{what}: dropped, {shown}, rx errors +{errors}, delivered {delivered}"


def hexes(numbers: set[int]) -> str:
    return " ".join(f"{number:#x}" for number in sorted(numbers)) or "none"
