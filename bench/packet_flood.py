"""Packets out of a file, again and again, as fast as they leave: the attacker of floods.py.

    python -m bench.packet_flood FILE      # until standard input ends

A line of the file is a complete IPv4 packet in hexadecimal. Prints "ready", and at the end how many have left. A raw
socket sends them, headers and all, many with each call.
"""

from __future__ import annotations

import select
import sys
from pathlib import Path

from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path as Way
from xfrmi.core.router import StaticRouter
from xfrmi.dev.raw import RawEsp
from xfrmi.wire.ip import IPV4_DADDR, IPV4_SADDR
from xfrmi.wire.xfrm_const import AF_INET

BURST = 64


def main(file: str) -> None:
    packets = [bytes.fromhex(line) for line in Path(file).read_text().split()]
    way = Way(AF_INET, packets[0][IPV4_SADDR], packets[0][IPV4_DADDR])
    device = RawEsp(AF_INET, StaticRouter())
    bursts = [[Outgoing(way, packets[at : at + BURST])] for at in range(0, len(packets), BURST)]
    left = 0
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for burst in bursts:
            left += device.send_burst(burst)
    print(left)


if __name__ == "__main__":
    main(sys.argv[1])
