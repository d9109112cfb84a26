"""ESP in UDP on port 4500 (5.10, RFC 3948): what else arrives there, keepalives, and what the kernel segments."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.system.hosts import (
    OUTER,
    PEER,
    Hosts,
    Tunnel,
    at,
    eventually,
    give_addresses,
    rises,
    strangers,
    tell,
)
from tests.system.monitor import Monitor
from tests.system.stage import on_stage
from xfrmi.lab.traffic import family_of, ping, tcp_transfer
from xfrmi.lab.wiretap import ETH_HEADER_LEN
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, Mode, SaDir
from xfrmi.wire.xfrm_types import Algorithm, Encap, StateId, StateInfo

ENCAP = "encap espinudp 4500 4500 0.0.0.0"
KEEPALIVE = b"\xff"


def udp(frame: bytes) -> tuple[int, int, int, bytes] | None:
    """(source port, destination port, checksum, payload), None if this is no UDP."""
    packet = frame[ETH_HEADER_LEN:]
    if frame[12:14] == b"\x08\x00" and packet[9] == socket.IPPROTO_UDP:
        rest = packet[(packet[0] & 15) * 4 :]
    elif frame[12:14] == b"\x86\xdd" and packet[6] == socket.IPPROTO_UDP:
        rest = packet[40:]
    else:
        return None
    sport, dport, length, check = struct.unpack_from(">HHHH", rest)
    return sport, dport, check, rest[8:length]


def datagrams(hosts: Hosts) -> list[tuple[int, int, int, bytes]]:
    return [found for frame in hosts.wire() if (found := udp(frame)) is not None]


@pytest.mark.parametrize("outer", [4, 6])
@on_stage
def test_both_families_over_udp(hosts: Hosts, outer: int) -> None:
    tunnel = Tunnel("nat0", 45, outer=outer, state=ENCAP)
    hosts.set_up(tunnel)
    for family in (4, 6):
        address = tunnel.address("sun", family)
        with rises(hosts.moon), rises(hosts.sun):
            assert len(ping(hosts.moon, address, 3)) == 3
            assert len(ping(hosts.sun, tunnel.address("moon", family), 3)) == 3
        before = len(hosts.wire())
        transfer = tcp_transfer(hosts.moon, hosts.sun, address, 8_000_000)
        assert transfer.intact, transfer
        # A run that left in one call (UDP_SEGMENT) carries checksums; over IPv4 a lone packet has none.
        sent = [found for frame in hosts.wire()[before:] if (found := udp(frame)) is not None]
        assert any(check for _, _, check, payload in sent if len(payload) > 1000)
    assert hosts.shown() == []
    assert set(strangers(hosts.wire())) == {f"IPv{outer} protocol 17"}
    seen = datagrams(hosts)
    assert {(sport, dport) for sport, dport, _, _ in seen} == {(4500, 4500)}
    spis = {payload[:4] for _, _, _, payload in seen}
    assert spis == {tunnel.spi(host).to_bytes(4, "big") for host in PEER}
    if outer == 4:
        assert any(check == 0 for _, _, check, _ in seen)


@on_stage
def test_what_is_not_esp_on_the_port_does_no_harm(hosts: Hosts) -> None:
    """RFC 3948: an IKE message begins with four zero bytes, a keepalive is one byte. Neither moves a counter."""
    tunnel = Tunnel("nat0", 45, state=ENCAP)
    hosts.set_up(tunnel)
    address = tunnel.address("sun", 4)
    assert len(ping(hosts.moon, address, 1)) == 1
    with hosts.moon:
        stranger = socket.socket(family_of(OUTER["sun", 4]), socket.SOCK_DGRAM)
    with stranger, rises(hosts.sun):
        for payload in (bytes(4) + b"IKE header and payloads", bytes(4), KEEPALIVE, b"12345678", b""):
            stranger.sendto(payload, (OUTER["sun", 4], 4500))
        assert len(ping(hosts.moon, address, 3)) == 3
    assert set(strangers(hosts.wire())) == {"IPv4 protocol 17"}, "no ICMP: the port is open"


@on_stage
def test_esp_must_come_as_its_state_says(hosts: Hosts) -> None:
    """T-13, 5.10: plain ESP for a state with encapsulation is XfrmInStateMismatch."""
    tunnel = Tunnel("nat0", 45)
    tell(hosts.sun, tunnel.link_lines() + tunnel.state_line("moon", ENCAP))
    tell(hosts.moon, tunnel.lines("moon"))
    give_addresses(hosts.moon, tunnel)
    with rises(hosts.sun, XfrmInStateMismatch=2):
        assert ping(hosts.moon, tunnel.address("sun", 4), 2, timeout=0.1) == []


@on_stage
def test_peer_on_another_port(hosts: Hosts) -> None:
    """T-22: a peer behind a NAT that gives it another port is still heard, and key managers are told (MAPPING)."""
    tunnel = Tunnel("nat0", 45, state=ENCAP)
    hosts.set_up(tunnel)
    with Monitor(hosts.sun) as monitor:
        tell(hosts.moon, tunnel.state_line("moon", ENCAP.replace("4500", "4501", 1)).replace("add", "update", 1))
        assert len(ping(hosts.moon, tunnel.address("sun", 4), 2)) == 2
        monitor.expect(f"Mapping change {OUTER['moon', 4]}:4500 -> {OUTER['moon', 4]}:4501")
    assert {sport for sport, _, _, _ in datagrams(hosts)} == {4500, 4501}


@on_stage
def test_keepalive(hosts: Hosts) -> None:
    """3.8: an outbound state that has been silent for its interval sends one byte 0xFF from port to port."""
    tunnel = Tunnel("nat0", 45)
    with at(hosts.moon) as client:
        client.add_state(
            StateInfo(
                src=pack_address(OUTER["moon", 4]), dst=pack_address(OUTER["sun", 4]), spi=tunnel.spi("moon"),
                mode=Mode.TUNNEL, reqid=45, if_id=45, flags=STATE_AF_UNSPEC, dir=SaDir.OUT, encap=Encap(),
                aead=Algorithm("rfc4106(gcm(aes))", bytes.fromhex(tunnel.keys["moon"]), 128),
                nat_keepalive_interval=1,
            )
        )  # fmt: skip
        eventually(lambda: len(datagrams(hosts)) >= 2, "no keepalives")
        client.delete_state(StateId(pack_address(OUTER["sun", 4]), tunnel.spi("moon")))
    assert {found[:2] + found[3:] for found in datagrams(hosts)} == {(4500, 4500, KEEPALIVE)}
