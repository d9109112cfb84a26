"""What the machine sends into xfrm0, and what becomes of it: sockets, forwarding, injected packets, the way out.

The host's own IP is told here in a few lines, as far as the captures need it: path MTUs of its routes, PMTU discovery
of a UDP socket, fragments, and the ICMP errors of forwarding.
"""

from __future__ import annotations

from tests.captures.host import OWN_ADDRESSES, addresses
from tests.captures.machine import NOW, Machine
from tests.core.packets import udp
from xfrmi.core.outgoing import Outgoing
from xfrmi.wire.address import pack_address
from xfrmi.wire.flow import flow_key
from xfrmi.wire.fragment import fragment_ipv4, fragment_ipv6
from xfrmi.wire.ip import ipv4_header_checksum
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6

DONT, DO = 0, 2
"""IP_PMTUDISC_*; -1 is what a socket has by itself, WANT."""
MIN_PMTU = {4: 552, 6: 1280}
"""The least a route learns."""
DF = 0x40

Errors = list[tuple[int, int, int]]
"""ICMP type, code, and what it says of the MTU."""


class Sender:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sent: list[bytes] = []
        """Put into xfrm0."""
        self.emitted: list[bytes] = []
        """Out of eth0, in fragments where need be."""
        self.to_itself: list[bytes] = []
        """ICMP errors of xfrm0 to the host."""
        self.to_lan: list[bytes] = []
        """ICMP errors of xfrm0 to a sender on the LAN."""
        self.ip_answered: list[tuple[int, int]] = []
        """(version, MTU) of packets too big that forwarding refused: they did not come to xfrm0."""

    # The device ------------------------------------------------------------------------------------------------------

    def transmit(self, packets: list[bytes]) -> Errors:
        """Into xfrm0. Returns the ICMP errors that came back."""
        machine = self.machine
        self.sent += packets
        outgoing, replies = machine.engine.output(machine.xfrm0, packets, NOW)
        self._leave(outgoing)
        errors = []
        for reply in map(bytes, replies):
            (self.to_itself if addresses(reply)[1] in OWN_ADDRESSES else self.to_lan).append(reply)
            errors.append(self._learn(reply))
        for packet in packets:
            self._learn_silently(packet)
        return errors

    def _leave(self, outgoing: list[Outgoing]) -> None:
        """What a raw socket makes of it (RAW-06): fragments of what may be fragmented, failure for the rest."""
        for group in outgoing:
            for position, packet in enumerate(map(bytes, group.packets)):
                mtu = self.machine.mtu_to(addresses(packet)[1])
                if len(packet) <= mtu:
                    self.emitted.append(packet)
                elif packet[0] >> 4 == 4 and packet[6] & DF:
                    self.machine.engine.send_failed(group, [position])
                else:
                    self.emitted += fragments(packet, mtu)

    def _learn(self, error: bytes) -> tuple[int, int, int]:
        if error[0] >> 4 == 4:
            kind, code, mtu, about = error[20], error[21], int.from_bytes(error[26:28], "big"), error[28:]
            too_big = (kind, code) == (3, 4)
        else:
            kind, code, mtu, about = error[40], error[41], int.from_bytes(error[44:48], "big"), error[48:]
            too_big = kind == 2
        if too_big:
            self._lower(addresses(about)[1], about[0] >> 4, mtu)
        return kind, code, mtu

    def _learn_silently(self, packet: bytes) -> None:
        """TX-12: the kernel's device lowers the MTU of the route also where it tells nobody (listed.SILENT_ROUTE)."""
        decision = self.machine.xfrm0.flows.get(flow_key(packet))
        if decision is not None and len(packet) > decision.mtu:
            self._lower(addresses(packet)[1], packet[0] >> 4, decision.mtu)

    def _lower(self, destination: bytes, version: int, mtu: int) -> None:
        self.machine.route_mtu[destination] = max(mtu, MIN_PMTU[version])

    def route_mtu(self, destination: bytes) -> int:
        return min(self.machine.route_mtu.get(destination, self.machine.xfrm0.mtu), self.machine.xfrm0.mtu)

    # The stimuli -----------------------------------------------------------------------------------------------------

    def run(self, line: str) -> str:
        """One command of a stimulus; what it prints. AssertionError for one that nobody has taught it."""
        words = line.split()
        if words[:2] == ["kptool", "udpsend"]:
            return "\n".join(self.udpsend(words[2], words[3], *map(int, words[4:])))
        if words[:3] == ["kptool", "inject", "xfrm0"]:
            return self.inject([bytes.fromhex(word) for word in words[3:]])
        if words[:3] == ["ip", "route", "get"]:
            destination = pack_address(words[3])
            mtu = self.machine.route_mtu.get(destination) or self.machine.mtu_to(destination)
            return words[3] if mtu == self.machine.roads.mtu else f"{words[3]} mtu {mtu}"
        raise AssertionError(f"what does {line!r} do?")

    def inject(self, packets: list[bytes], one_burst: bool = False) -> str:
        if not self.machine.xfrm0.up:  # a TUN that is down takes nothing and hands nothing over
            return "\n".join(["inject: ENETDOWN"] * len(packets))
        for burst in [packets] if one_burst else [[packet] for packet in packets]:
            self.transmit(burst)
        return ""

    def udpsend(self, src: str, dst: str, port: int, size: int, discover: int, count: int = 1) -> list[str]:
        destination = pack_address(dst)
        version = 4 if len(destination) == 4 else 6
        payload = bytes(i & 0xFF for i in range(size))
        length = size + (28 if version == 4 else 48)
        said = []
        for _ in range(count):
            mtu = self.route_mtu(destination)
            line = f"send {size}: "
            if discover == DO and length > mtu:
                line += f"EMSGSIZE mtu_before={mtu} mtu_after={mtu}"
                said.append(f"{line} err[errno=EMSGSIZE origin=1 type=0 code=0 info={mtu}]")
                continue
            fits = length <= mtu
            packet = udp(src, dst, payload, sport=50000, dport=port, df=discover != DONT and fits)
            pieces = [packet] if fits else fragments(packet, mtu)
            errors = [error for piece in pieces for error in self.transmit([piece])]
            line += f"ok mtu_before={mtu} mtu_after={self.route_mtu(destination)}"
            said.append(line + "".join(f" err[{queued(version, *error)}]" for error in errors))
        return said

    def forward(self, packet: bytes) -> None:
        """A packet from the LAN, one hop on."""
        destination = addresses(packet)[1]
        version = packet[0] >> 4
        header = bytearray(packet)
        header[8 if version == 4 else 7] -= 1
        if version == 4:
            header[10:12] = ipv4_header_checksum(header[: (header[0] & 15) * 4]).to_bytes(2, "big")
            mtu = self.machine.xfrm0.mtu  # what a route has learned does not count for forwarding
        else:
            mtu = max(self.route_mtu(destination), MIN_PMTU[6])
        if len(packet) > mtu and (version == 6 or packet[6] & DF):
            self.ip_answered.append((version, mtu))
            return
        for piece in fragments(bytes(header), mtu) if len(packet) > mtu else [bytes(header)]:
            self.transmit([piece])

    def underlay_error(self, error: bytes) -> None:
        """An ICMP error for an outer packet (1.7)."""
        if error[0] >> 4 == 4:
            self.machine.engine.icmp_error(AF_INET, error[20:], NOW)
        else:
            self.machine.engine.icmp_error(AF_INET6, error[40:], NOW)


def fragments(packet: bytes, mtu: int) -> list[bytes]:
    if packet[0] >> 4 == 4:
        return [bytes(piece) for piece in fragment_ipv4(packet, mtu, int.from_bytes(packet[4:6], "big"))]
    return [bytes(piece) for piece in fragment_ipv6(packet, mtu, 1)]


def queued(version: int, kind: int, code: int, mtu: int) -> str:
    """What an ICMP error looks like in the error queue of the socket it is about."""
    too_big = (kind, code) == (3, 4) if version == 4 else kind == 2
    errno = "EMSGSIZE" if too_big else "EHOSTUNREACH"
    info = mtu if too_big else 0
    return f"errno={errno} origin={2 if version == 4 else 3} type={kind} code={code} info={info}"
