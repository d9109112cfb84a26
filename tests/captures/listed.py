"""What is in the captures and is not compared, each with the reason. Nothing else is left out."""

from __future__ import annotations

import re

NOT_REPRODUCIBLE = {
    "IV of outbound packets": "random; given to the state from the capture",
    "outer IPv4 identification where DF is clear, and the header checksum over it": "the sending host's choice",
    "fourth byte of the BEET pseudo header (next header 94), and the UDP checksum over it": (
        "the kernel sends what was in memory; xfrmi 0"
    ),
    "identification and flow label of ICMP errors": "the sending host's choice",
    "source of ICMP errors, and checksums over it": (
        "an own address would be taken for martian (PMTU-02): xfrmi answers from the destination of the packet"
    ),
    "identification, port, flow label and checksums of packets a socket of the machine has sent": "random",
    "dates in texts, indexes of devices": "another machine, another time",
}
"""Bytes."""

NOT_COUNTED = {
    "snmp": "the host's IP, UDP and ICMP count; only the number of ICMP errors sent is compared",
    "sa replay-window": "the captured deltas have read the line above in its place; `state_text_after` has it",
    "tx counters in link_text_after": "of all vectors before, and only ICMP of the host itself",
}
"""Counters."""

SILENT_ROUTE = (
    "An xfrm device lowers the MTU of the inner route itself when a packet without DF is too big (TX-12), so that the "
    "host fragments the next ones before they come to it. A TUN can tell the host by ICMP only, which is not for "
    "packets without DF: the host goes on sending whole ones, each outer packet is fragmented. The captures' next "
    "packets are made from what the kernel's host has learned."
)
"""See Sender._learn_silently."""

NOT_XFRMIS = {
    r"ip (-6 )?(addr|route) .*": "addresses and routes of a TUN are ip(8)'s, not xfrmi's",
    r"ip link set \w+ address .*": "ip(8) finds the device; a TUN has no link layer address either",
    r"for f in .*/sys/class/net/.*|ls /sys/.*|ls /proc/sys/.*|cat /proc/net/dev": "a TUN's own files",
    r"sysctl .*|dmesg.*": "the kernel's own",
}
"""Command lines of text captures that xfrmi has no word for."""


def not_xfrmis(line: str) -> bool:
    return any(re.fullmatch(pattern, line, re.DOTALL) for pattern in NOT_XFRMIS)
