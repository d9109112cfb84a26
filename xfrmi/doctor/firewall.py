"""Does a rule of the host's firewall drop protocol 50 or UDP 4500? As far as that can be found out cheaply.

Rules are read as text, and only what they say outright is understood: a rule that names the protocol or the port and
drops, or a chain that drops by default in a rule set that lets neither in.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess

from xfrmi.client.channel import Channel
from xfrmi.doctor.finding import Finding, ok, warning
from xfrmi.doctor.machine import Machine
from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import NLM_F_DUMP

NETLINK_NETFILTER = 12
NFT_MSG_GETTABLE = 10 << 8 | 1
"""Subsystem nftables."""
SECONDS = 0.5
LISTINGS = {"nft": ("list", "ruleset"), "iptables-save": (), "ip6tables-save": ()}

_ESP = re.compile(
    r"(?<!! )(?:ip protocol|ip6 nexthdr|l4proto|-p|--protocol)\s+(?:\{[^}]*)?\b(?:esp|50)\b|\besp spi\b"
)
_NAT_T = re.compile(r"\b(4500|ipsec-nat-t)\b")
_DROP = re.compile(r"\b(drop|reject)\b", re.IGNORECASE)
_ACCEPT = re.compile(r"\baccept\b", re.IGNORECASE)
_DROPS_ALL = re.compile(r"hook (input|output)\b.*policy drop|^:(INPUT|OUTPUT) DROP", re.MULTILINE)


def firewall(machine: Machine) -> Finding:
    if os.geteuid():
        return warning("firewall", "only root sees the rules", "sudo xfrmi doctor")
    tools = [name for name in LISTINGS if shutil.which(name)]
    texts = [_listing(name) for name in tools]
    if not tools:
        if _no_tables(machine):
            return ok("firewall", "no tables")
        return warning("firewall", "unknown: neither nft nor iptables is here to list the rules")
    known = [text for text in texts if text is not None]
    if not known:
        return warning("firewall", f"unknown: {' and '.join(tools)} did not list the rules")
    for name, text in zip(tools, texts, strict=True):
        if text and (rule := in_the_way(text)):
            return warning("firewall", rule, f"sudo {' '.join((name, *LISTINGS[name]))}   (find it and let ESP in)")
    return ok("firewall", "no rule against protocol 50 or UDP 4500")


def in_the_way(rules: str) -> str:
    """What of a listing, by nft or iptables-save, keeps ESP out; empty if nothing does outright."""
    accepted = False
    for line in rules.splitlines():
        esp = _ESP.search(line)
        if not esp and not _NAT_T.search(line):
            continue
        if _DROP.search(line):
            return f"a rule drops {'protocol 50' if esp else 'UDP 4500'}: {line.strip()}"
        accepted = accepted or _ACCEPT.search(line) is not None
    closed = _DROPS_ALL.search(rules)
    if closed is not None and not accepted:
        return f"{(closed[1] or closed[2]).lower()} is dropped by default, and no rule names protocol 50 or UDP 4500"
    return ""


def _listing(tool: str) -> str | None:
    try:
        done = subprocess.run([tool, *LISTINGS[tool]], capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _no_tables(machine: Machine) -> bool:
    """Without tables there are no rules; the kernel says so to root even where no tool is."""
    if any((machine.read(f"/proc/net/{name}") or "").strip() for name in ("ip_tables_names", "ip6_tables_names")):
        return False
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as connection:
            return not list(Channel(connection).ask(NFT_MSG_GETTABLE, NLM_F_DUMP, bytes(4)))
    except (OSError, XfrmError):
        return False
