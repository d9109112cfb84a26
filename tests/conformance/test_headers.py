"""T-16, T-17: the outer header, as a tap sees it, and what becomes of it inside, as a receiver sees it."""

from __future__ import annotations

import socket

import pytest

from tests.conformance.frames import (
    IP_MTU_DISCOVER,
    IP_OPTIONS,
    IP_TTL,
    IPV6_FLOWINFO_SEND,
    IPV6_UNICAST_HOPS,
    PMTUDISC_DO,
    PMTUDISC_DONT,
    PORT,
    TOS,
    Outer,
    catch,
    inbox,
    opened,
    outbox,
    outer,
    put,
    with_tos,
)
from tests.system.hosts import Hosts, Tunnel, eventually, rises, tell
from tests.system.stage import on_stage
from xfrmi.lab.wiretap import kind, spi_and_sequence

TUNNELS = {4: Tunnel("over4", 44, outer=4), 6: Tunnel("over6", 46, outer=6)}
PAIRS = pytest.mark.parametrize(("inner", "over"), [(4, 4), (4, 6), (6, 4), (6, 6)])
DSCP, OTHER_DSCP = 46 << 2, 10 << 2
CE, ECT0 = 3, 2
SENDERS_TTL, ROUTE_TTL = 7, 64
LABEL = 0x12345
FLAGS = "flag af-unspec"


def sent(hosts: Hosts, tunnel: Tunnel, payload: bytes, count: int) -> list[bytes]:
    """So many ESP frames as they left moon, with this inside; what was seen is forgotten."""

    def seen() -> list[bytes]:
        frames = [frame for frame in hosts.wire("moon") if kind(frame) == "ESP"]
        outward = [frame for frame in frames if spi_and_sequence(frame)[0] == tunnel.spi("moon")]
        return [frame for frame in outward if opened(frame, tunnel)[0].endswith(payload)]

    eventually(lambda: len(seen()) == count, lambda: f"{len(seen())} of {count} frames were seen")
    frames = seen()
    hosts.clear()
    return frames


def expected_tos(tos: int, flags: str) -> int:
    """5.3: DSCP is copied, ECN is copied but for CE, which begins anew as ECT(0)."""
    dscp = 0 if "dont-encap-dscp" in flags else tos & 0xFC
    ecn = 0 if "noecn" in flags else ECT0 if tos & 3 == CE else tos & 3
    return dscp | ecn


@PAIRS
@on_stage
def test_t16_tos_outside(hosts: Hosts, inner: int, over: int) -> None:
    """T-16: 5.3, 5.4, 3.5."""
    tunnel = TUNNELS[over]
    hosts.set_up(tunnel)
    toses = [dscp | ecn for dscp in (0, DSCP) for ecn in range(4)]
    for flags in ("", "noecn", "extra-flag dont-encap-dscp", "noecn extra-flag dont-encap-dscp"):
        line = tunnel.state_line("moon").replace(FLAGS, f"{FLAGS} {flags}")
        tell(hosts.moon, "state flush\n" + line)
        hosts.clear()
        with outbox(hosts.moon, tunnel.address("sun", inner)) as sender:
            for tos in toses:
                sender.setsockopt(*TOS[inner], tos)
                sender.send(b"tos")
        frames = sent(hosts, tunnel, b"tos", len(toses))
        assert [outer(frame).tos for frame in frames] == [expected_tos(tos, flags) for tos in toses], flags


@PAIRS
@on_stage
def test_t16_the_rest_of_the_outer_header(hosts: Hosts, inner: int, over: int) -> None:
    """T-16: 5.3, 5.4: TTL of the route, flow label of the inner packet, DF of the inner packet, identification."""
    tunnel = TUNNELS[over]
    hosts.set_up(tunnel)
    address = tunnel.address("sun", inner)
    seen = []
    for flags in ("", "nopmtudisc"):
        line = tunnel.state_line("moon").replace(FLAGS, f"{FLAGS} {flags}")
        tell(hosts.moon, "state flush\n" + line)
        hosts.clear()
        for discover in (PMTUDISC_DO, PMTUDISC_DONT):
            if inner == 4:
                with outbox(hosts.moon, address, (IP_TTL, SENDERS_TTL), (IP_MTU_DISCOVER, discover)) as sender:
                    sender.send(b"header")
            else:
                options = (IPV6_UNICAST_HOPS, SENDERS_TTL), (IPV6_FLOWINFO_SEND, 1)
                with outbox(hosts.moon, address, *options) as sender:
                    sender.sendto(b"header", (address, PORT, LABEL, 0))
        for frame in sent(hosts, tunnel, b"header", 2):
            inside, _ = opened(frame, tunnel)
            assert inside[8 if inner == 4 else 7] == SENDERS_TTL, "the inner one is not touched"
            seen.append(outer(frame))
    assert [header.ttl for header in seen] == [ROUTE_TTL] * 4
    if over == 6:
        assert seen == [Outer(0, ROUTE_TTL, label=LABEL if inner == 6 else 0)] * 4
    else:
        may_copy = [True, False] if inner == 4 else [True, True]
        assert [header.df for header in seen] == [*may_copy, False, False]
        assert all(header.ident == 0 for header in seen if header.df)


@PAIRS
@on_stage
def test_t16_tos_inside(hosts: Hosts, inner: int, over: int) -> None:
    """T-16: 5.5: CE outside becomes CE inside where the inner packet can say so; DSCP only with decap-dscp."""
    tunnel = TUNNELS[over]
    hosts.set_up(tunnel)
    frames = catch(hosts, tunnel, 4, inner, toses=[OTHER_DSCP | ecn for ecn in range(4)])
    with inbox(hosts.sun, tunnel.address("sun", inner)) as box:
        for flags in ("", "noecn", "decap-dscp", "decap-dscp noecn"):
            line = tunnel.state_line("moon").replace(FLAGS, f"{FLAGS} {flags}")
            tell(hosts.sun, "state flush\n" + line.replace("replay-window 128", "replay-window 0"))
            got, wanted = [], []
            with rises(hosts.sun):
                for ecn_inside, frame in enumerate(frames):
                    for ecn_outside in range(4):
                        put(hosts, with_tos(frame, DSCP | ecn_outside))
                        arrived = box.next()
                        assert (arrived.payload, arrived.ttl) == (str(ecn_inside).encode(), 64)
                        got.append(arrived.tos)
                        marked = ecn_outside == CE and ecn_inside != 0 and "noecn" not in flags
                        dscp = DSCP if "decap-dscp" in flags else OTHER_DSCP
                        wanted.append(dscp | (CE if marked else ecn_inside))
            assert got == wanted, flags


@pytest.mark.parametrize(("length", "pad_len", "header_len"), [(4, 0, 0), (8, 4, 1), (12, 0, 1)])
@on_stage
def test_t17_beet_options(hosts: Hosts, length: int, pad_len: int, header_len: int) -> None:
    """T-17: 5.7: options travel behind a pseudo header, and come back."""
    options = b"\x01" * (length - 1) + b"\x00"
    for over in (4, 6):
        tunnel = Tunnel(f"beet{over}", 40 + over, outer=over, mode="beet", inner=(4,))
        hosts.set_up(tunnel)
        hosts.clear()
        address = tunnel.address("sun", 4)
        with (
            rises(hosts.sun),
            inbox(hosts.sun, address) as box,
            outbox(hosts.moon, address, (IP_OPTIONS, options)) as sender,
        ):
            sender.send(b"with options")
            arrived = box.next()
        assert (arrived.payload, arrived.options) == (b"with options", options)
        (frame,) = sent(hosts, tunnel, b"with options", 1)
        payload, next_header = opened(frame, tunnel)
        assert next_header == 94
        assert payload[:3] == bytes((socket.IPPROTO_UDP, header_len, pad_len))
        assert payload[4 : 4 + pad_len] == b"\x01" * pad_len
        assert payload[4 + pad_len : 4 + pad_len + length] == options
        assert payload[4 + pad_len + length + 8 :] == b"with options"
        assert (header_len + 1) * 8 == 4 + pad_len + length
