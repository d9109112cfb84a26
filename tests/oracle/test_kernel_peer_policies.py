"""What two policies demand together, and keepalives: things that only a kernel's own packets can tell."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.oracle.kernelpeer.exam import moved, untroubled
from tests.oracle.kernelpeer.pair import IF_ID, NUMBER, Pair, inner
from tests.oracle.kernelpeer.talk import echoes
from tests.stage import on_stage
from tests.system.hosts import OUTER, PEER, PORT, at
from xfrmi.core import StateInfo
from xfrmi.lab.wiretap import ETH_HEADER_LEN, ETH_P_ALL
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.address import pack_address
from xfrmi.wire.udpencap import KEEPALIVE
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, Mode, SaDir
from xfrmi.wire.xfrm_types import Algorithm, Encap

NETLINK_XFRM = 6
SO_TIMESTAMPNS = 35
INTERVAL = 2
"""Seconds between keepalives."""
AEAD = "aead 'rfc4106(gcm(aes))' 0x{:040x} 128"


def state_lines(mode: str, flag: str, ends: dict[str, str], at_: int) -> str:
    return "".join(
        f"xfrm state add src {ends[sender]} dst {ends[PEER[sender]]} proto esp spi {at_ + number:#x} reqid {at_} "
        f"mode {mode} {flag} if_id {IF_ID} replay-window 32 {AEAD.format(at_ + number)}\n"
        for sender, number in NUMBER.items()
    )


def policy(dir: str, kind: str, template: str, selector: str = "", priority: int = 10) -> str:
    return (
        f"xfrm policy add src ::/0 dst ::/0 {selector} dir {dir} ptype {kind} priority {priority} if_id {IF_ID} "
        f"{template}\n"
    )


@on_stage
def test_SPD_23_transport_of_the_main_policy_in_a_tunnel_of_the_sub_policy(kernel_pair: Pair) -> None:
    """IPv6 in a tunnel over IPv4, in transport mode between the ends inside: both ends put the one into the other,
    although the sub policy, which has the tunnel, comes first."""
    pair = kernel_pair
    outside = {name: OUTER[name, 4] for name in NUMBER}
    inside = {name: inner(name, 6) for name in NUMBER}

    def lines(name: str) -> str:
        def templates(sender: str) -> tuple[str, str]:
            return tuple(  # type: ignore[return-value]
                f"tmpl src {ends[sender]} dst {ends[PEER[sender]]} proto esp reqid {reqid} mode {mode}"
                for ends, reqid, mode in ((outside, 0x100, "tunnel"), (inside, 0x200, "transport"))
            )

        tunnel, transport = templates(name)
        tunnel_in, transport_in = templates(PEER[name])
        return (
            state_lines("tunnel", "flag af-unspec", outside, 0x100)
            + state_lines("transport", "", inside, 0x200)
            + policy("out", "sub", tunnel)
            + policy("out", "main", transport)
            + policy("in", "sub", tunnel_in)
            + policy("in", "main", transport_in)
            + policy("in", "main", "", "proto esp", priority=1)
        )

    pair.tell(lines)
    with untroubled(pair), pair.tap("sun") as tap:
        for source, sink in (pair.ends, pair.ends[::-1]):
            assert echoes(source, inside[sink.name], timeout=1) == 2
        spis = {int.from_bytes(frame[34:38], "big") for frame in tap.frames if frame[23:24] == b"\x32"}
        assert spis == {0x100 + number for number in NUMBER.values()}, "the tunnel is outside"
    counted = [{state.spi: state.current.packets for state in end.states()} for end in pair.ends]
    assert counted[0] == counted[1] and set(counted[0].values()) == {4}


def told(pair: Pair, name: str, info: StateInfo) -> None:
    """A state that this `ip` has no words for."""
    if name == "moon":
        with at(pair.moon.node) as client:
            client.add_state(info)
        return
    sock = pair.sun.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM)
    request = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
    sock.send(netlink.message(XfrmMsg.NEWSA, request, 1, 0, xfrm_msg.encode_state(info)))
    for answer in netlink.split(sock.recv(1 << 16)):
        netlink.raise_error(answer)
    sock.close()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("sender", ["moon", "sun"])
@on_stage
def test_3_8_keepalives_begin_at_once(kernel_pair: Pair, sender: str, family: int) -> None:
    """Ours and the kernel's are the same, and come when they should: one with the state, one after each interval."""
    pair = kernel_pair
    if sender == "sun":  # a look that is planned still, for states of the last test, comes before any other
        time.sleep(INTERVAL + 0.5)
    ends = OUTER[sender, family], OUTER[PEER[sender], family]
    info = StateInfo(
        src=pack_address(ends[0]), dst=pack_address(ends[1]), spi=0x300, mode=Mode.TUNNEL, flags=STATE_AF_UNSPEC,
        if_id=IF_ID, aead=Algorithm("rfc4106(gcm(aes))", bytes(20), 128), dir=SaDir.OUT,
        encap=Encap(sport=4500, dport=4500), nat_keepalive_interval=INTERVAL,
    )  # fmt: skip
    with moved(pair.moon), moved(pair.sun), keepalives(pair, sender, pack_address(ends[0])) as heard:
        begun = time.time()
        told(pair, sender, info)
        first, second = next(heard), next(heard)
    assert first.at - begun < 1, f"one comes with the state, not {first.at - begun} s later"
    assert 1 <= second.at - first.at < 3.5, "whole seconds are compared"
    header = 20 if family == 4 else 40
    assert first.packet[header : header + 6].hex() == "119411940009"
    assert first.packet[8 if family == 4 else 7] == 64


class Heard(NamedTuple):
    at: float
    """When it was on the cable, by the kernel's clock: a test that is kept waiting does not move it."""
    packet: bytes


@contextmanager
def keepalives(pair: Pair, sender: str, source: bytes) -> Iterator[Iterator[Heard]]:
    """Those of `source` on the cable of `sender`, from now on, each waited for."""
    with pair.router:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with tap:
        tap.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        tap.bind((PORT[sender], ETH_P_ALL))
        tap.settimeout(6)

        def heard() -> Iterator[Heard]:
            while True:
                frame, control, _, _ = tap.recvmsg(2048, 64)
                packet = frame[ETH_HEADER_LEN:]
                if packet[-1:] == KEEPALIVE and source in (packet[12:16], packet[8:24]) and protocol(packet) == 17:
                    seconds, nanoseconds = struct.unpack("=qq", control[0][2])
                    yield Heard(seconds + nanoseconds / 1e9, packet)

        yield heard()


def protocol(packet: bytes) -> int:
    return packet[9] if packet[0] >> 4 == 4 else packet[6]
