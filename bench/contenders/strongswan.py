"""strongSwan's userspace ESP: charon with the plugin kernel-libipsec at both ends, ESP in UDP, outside IPv4.

Raw ESP came to libipsec after 5.9.8, the version of Debian 12; so both ways of xfrmi are compared with ESP in UDP.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.cable import OUTER, Lacks, Way
from tests.oracle.libipsec.charon import PACKAGES, Charon, missing_charon
from tests.system.hosts import FULL, eventually
from xfrmi.lab.topology import Node

INNER = {4: ("10.1.0.1", "10.1.0.2"), 6: ("fd01::1", "fd01::2")}
NAMES = ("moon", "sun")


def strongswan(moon: Node, sun: Node) -> Iterator[Way]:
    if path := missing_charon():
        raise Lacks(f"no {path}: apt-get install --no-install-recommends {PACKAGES}")
    nodes = (moon, sun)
    for end, node in enumerate(nodes):  # libipsec's routes want a local address in the traffic selector
        node.address("lo", *(f"{INNER[family][end]}/{FULL[family]}" for family in INNER))
    charons = [Charon(node, config(end)) for end, node in enumerate(nodes)]
    for charon in reversed(charons):  # moon is the one to begin
        charon.load()
    eventually(lambda: all(len(each.counts()) == 2 for each in charons), charons[0].last_words)
    programs = charons[0].process.pid, charons[1].process.pid
    for family, addresses in INNER.items():
        yield Way("strongSwan UDP", family, addresses, programs)


def config(end: int) -> str:
    """A swanctl.conf: one CHILD_SA for both inner families."""
    other = 1 - end
    local, remote = (", ".join(f"{INNER[family][side]}/{FULL[family]}" for family in INNER) for side in (end, other))
    start = "start_action = start" if end == 0 else ""
    return f"""
secrets {{
 ike {{
  secret = 0x{bytes(range(16)).hex()}
 }}
}}
connections {{
 bench {{
  version = 2
  mobike = no
  rekey_time = 0
  proposals = aes128-sha256-x25519
  local_addrs = {OUTER[4][end]}
  remote_addrs = {OUTER[4][other]}
  local {{
   auth = psk
   id = {NAMES[end]}
  }}
  remote {{
   auth = psk
   id = {NAMES[other]}
  }}
  children {{
   bench {{
    esp_proposals = aes128gcm16
    mode = tunnel
    rekey_time = 0
    local_ts = {local}
    remote_ts = {remote}
    {start}
   }}
  }}
 }}
}}
"""
