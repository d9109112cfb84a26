"""The words of ip(8) for the numbers of xfrm: one table each, read by the grammar, the printers and the JSON.

Words are what `ip xfrm` prints and accepts; a number without a word is printed as the number (iproute2 6.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from xfrmi.wire import xfrm_const as k

MODES: Mapping[int, str] = {
    k.Mode.TRANSPORT: "transport",
    k.Mode.TUNNEL: "tunnel",
    k.Mode.ROUTEOPTIMIZATION: "ro",
    k.Mode.IN_TRIGGER: "in_trigger",
    k.Mode.BEET: "beet",
    k.Mode.IPTFS: "iptfs",
}

IPSEC_PROTO_ANY = 255

XFRM_PROTOS: Mapping[int, str] = {
    k.IPPROTO_ESP: "esp",
    k.IPPROTO_AH: "ah",
    k.IPPROTO_COMP: "comp",
    k.IPPROTO_ROUTING: "route2",
    k.IPPROTO_DSTOPTS: "hao",
    IPSEC_PROTO_ANY: "ipsec-any",
}
"""What transforms; the numbers have other names as upper protocols (PROTOS)."""

PROTOS: Mapping[int, str] = {
    0: "ip", 1: "icmp", 2: "igmp", 3: "ggp", 4: "ipencap", 5: "st", 6: "tcp", 8: "egp", 9: "igp", 12: "pup",
    17: "udp", 20: "hmp", 22: "xns-idp", 27: "rdp", 29: "iso-tp4", 33: "dccp", 36: "xtp", 37: "ddp",
    38: "idpr-cmtp", 41: "ipv6", 43: "ipv6-route", 44: "ipv6-frag", 45: "idrp", 46: "rsvp", 47: "gre", 50: "esp",
    51: "ah", 57: "skip", 58: "ipv6-icmp", 59: "ipv6-nonxt", 60: "ipv6-opts", 73: "rspf", 81: "vmtp", 88: "eigrp",
    89: "ospf", 93: "ax.25", 94: "ipip", 97: "etherip", 98: "encap", 103: "pim", 108: "ipcomp", 112: "vrrp",
    115: "l2tp", 124: "isis", 132: "sctp", 133: "fc", 135: "mobility-header", 136: "udplite", 137: "mpls-in-ip",
    138: "manet", 139: "hip", 140: "shim6", 141: "wesp", 142: "rohc", 143: "ethernet",
}  # fmt: skip
"""Upper protocols as /etc/protocols of Debian names them (ip asks getprotobynumber)."""

DIRS: Mapping[int, str] = {k.Dir.IN: "in", k.Dir.OUT: "out", k.Dir.FWD: "fwd"}
SA_DIRS: Mapping[int, str] = {k.SaDir.IN: "in", k.SaDir.OUT: "out"}
ACTIONS: Mapping[int, str] = {k.Action.ALLOW: "allow", k.Action.BLOCK: "block"}
DEFAULTS: Mapping[int, str] = {k.Default.BLOCK: "block", k.Default.ACCEPT: "accept"}
POLICY_TYPES: Mapping[int, str] = {k.PolicyType.MAIN: "main", k.PolicyType.SUB: "sub"}
SHARES: Mapping[int, str] = {0: "any", 1: "session", 2: "user", 3: "unique"}
LEVELS: Mapping[int, str] = {0: "required", 1: "use"}

ENCAP_TYPES: Mapping[int, str] = {
    k.UDP_ENCAP_ESPINUDP_NON_IKE: "espinudp-nonike",
    k.UDP_ENCAP_ESPINUDP: "espinudp",
    k.TCP_ENCAP_ESPINTCP: "espintcp",
}

# Bits in the order in which they are printed.
STATE_FLAGS: Mapping[int, str] = {
    k.STATE_NOECN: "noecn",
    k.STATE_DECAP_DSCP: "decap-dscp",
    k.STATE_NOPMTUDISC: "nopmtudisc",
    k.STATE_WILDRECV: "wildrecv",
    k.STATE_ICMP: "icmp",
    k.STATE_AF_UNSPEC: "af-unspec",
    k.STATE_ALIGN4: "align4",
    k.STATE_ESN: "esn",
}
EXTRA_FLAGS: Mapping[int, str] = {
    k.SA_XFLAG_DONT_ENCAP_DSCP: "dont-encap-dscp",
    k.SA_XFLAG_OSEQ_MAY_WRAP: "oseq-may-wrap",
}
POLICY_FLAGS: Mapping[int, str] = {k.POLICY_LOCALOK: "localok", k.POLICY_ICMP: "icmp"}
POLICY_FLAGS_READ: Mapping[int, str] = {**POLICY_FLAGS, k.POLICY_CPU_ACQUIRE: "cpu-acquire"}
"""ip has no word for the last one: it prints 4."""

OFFLOAD_IN = 2
OFFLOAD_PACKET = 4

FAMILIES: Mapping[int, str] = {k.AF_UNSPEC: "any valid", k.AF_INET: "inet", k.AF_INET6: "inet6"}

_SEC_CTX = Struct("=HHBBH")
"""xfrm_user_sec_ctx: len, exttype, ctx_alg, ctx_doi, ctx_len; then the context, zero-terminated."""
_XFRMA_SEC_CTX = 8


def word(table: Mapping[int, str], number: int) -> str:
    return table.get(number) or str(number)


def number(table: Mapping[int, str], text: str) -> int | None:
    """The number that `table` names `text`, None if there is none."""
    return next((n for n, name in table.items() if name == text), None)


def flag_words(table: Mapping[int, str], flags: int) -> list[str]:
    """Set bits in print order; bits without a word come last, together, in hex."""
    words = [name for bit, name in table.items() if flags & bit]
    rest = flags & ~sum(table)
    return [*words, f"{rest:x}"] if rest else words


SEC_CTX_MAX = 256
"""Bytes of a security context with its NUL, what ip(8) has room for."""


def pack_sec_ctx(context: str) -> bytes:
    """The payload of XFRMA_SEC_CTX as `ctx CONTEXT` makes it (doi 1, algorithm 1: SELinux). ValueError for one that is
    too long."""
    raw = context.encode("utf-8", "surrogateescape") + b"\0"
    if len(raw) > SEC_CTX_MAX:
        raise ValueError(f"a security context has at most {SEC_CTX_MAX - 1} bytes")
    return _SEC_CTX.pack(_SEC_CTX.size + len(raw), _XFRMA_SEC_CTX, 1, 1, len(raw)) + raw


def sec_ctx_text(payload: bytes) -> str:
    """The inverse of `pack_sec_ctx`; a payload too short for its header gives an empty text."""
    return payload[_SEC_CTX.size :].partition(b"\0")[0].decode("utf-8", "surrogateescape")
