"""The nouns of xfrm as values: what a netlink message says, without behaviour.

One vocabulary for the whole project: the netlink codec makes and reads these, the command-line grammar makes them,
the printers print them, and the core builds its State and Policy from them. All are frozen; addresses are packed
bytes (see address.py) and constructors also take text. Sizes: seconds for time limits, bytes and packets for the
others, bits for key and ICV lengths. Sources: linux/xfrm.h, kernel-behaviour 7.2 and 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from xfrmi.wire.address import any_address, family_of, pack_address, parse_prefix
from xfrmi.wire.xfrm_const import (
    AF_UNSPEC,
    IPPROTO_ESP,
    STATE_AF_UNSPEC,
    UDP_ENCAP_ESPINUDP,
    XFRM_INF,
    Action,
    Dir,
    Mode,
    PolicyType,
    SaDir,
)

ANY_ALGOS: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Selector:
    """Which packets: xfrm_selector. Ports match under their masks; mask 0 matches any port."""

    family: int = AF_UNSPEC
    saddr: bytes = b""
    prefixlen_s: int = 0
    daddr: bytes = b""
    prefixlen_d: int = 0
    proto: int = 0
    """Protocol number, 0 for any."""
    sport: int = 0
    """Source port; ICMP type; upper half of a GRE key (2.1)."""
    sport_mask: int = 0
    dport: int = 0
    """Destination port; ICMP code; lower half of a GRE key."""
    dport_mask: int = 0
    ifindex: int = 0
    user: int = 0

    @classmethod
    def parse(
        cls,
        src: str = "",
        dst: str = "",
        *,
        proto: int = 0,
        sport: int | None = None,
        dport: int | None = None,
        ifindex: int = 0,
    ) -> Selector:
        """Selector.parse('10.0.0.0/8', '0.0.0.0/0', proto=6, dport=80). An omitted side is any address."""
        if not src and not dst:
            src = "0.0.0.0/0"
        saddr, prefixlen_s = parse_prefix(src) if src else (b"", 0)
        daddr, prefixlen_d = parse_prefix(dst) if dst else (b"", 0)
        family = family_of(saddr or daddr)
        saddr = saddr or any_address(family)
        daddr = daddr or any_address(family)
        if len(saddr) != len(daddr):
            raise ValueError("source and destination of a selector are of one family")
        return cls(
            family, saddr, prefixlen_s, daddr, prefixlen_d, proto,
            sport or 0, 0 if sport is None else 0xFFFF, dport or 0, 0 if dport is None else 0xFFFF, ifindex,
        )  # fmt: skip


ANY_SELECTOR: Final = Selector()


class Mark(NamedTuple):
    value: int = 0
    mask: int = 0


NO_MARK: Final = Mark()


class Limits(NamedTuple):
    """xfrm_lifetime_cfg. Bytes and packets: XFRM_INF is no limit. Seconds: 0 is no limit."""

    soft_bytes: int = XFRM_INF
    hard_bytes: int = XFRM_INF
    soft_packets: int = XFRM_INF
    hard_packets: int = XFRM_INF
    soft_add: int = 0
    hard_add: int = 0
    soft_use: int = 0
    hard_use: int = 0


NO_LIMITS: Final = Limits()


class Current(NamedTuple):
    """xfrm_lifetime_cur: what has been used up. Times are Unix seconds, use_time 0 means never."""

    bytes: int = 0
    packets: int = 0
    add_time: int = 0
    use_time: int = 0


UNUSED: Final = Current()


class StateStats(NamedTuple):
    """xfrm_stats, one state's drops."""

    replay_window: int = 0
    replay: int = 0
    integrity_failed: int = 0


NO_STATS: Final = StateStats()


class Algorithm(NamedTuple):
    """A transform as the kernel names it. `bits` is the ICV (aead) or truncation (auth-trunc) length, 0 elsewhere."""

    name: str
    key: bytes
    bits: int = 0

    def __repr__(self) -> str:
        return f"Algorithm({self.name!r}, {len(self.key)} bytes of key, {self.bits})"


class Encap(NamedTuple):
    """xfrm_encap_tmpl."""

    type: int = UDP_ENCAP_ESPINUDP
    sport: int = 4500
    dport: int = 4500
    oa: bytes = bytes(4)


class Replay(NamedTuple):
    """xfrm_replay_state: 32-bit counters and window bitmap, bit 0 = seq."""

    oseq: int = 0
    seq: int = 0
    bitmap: int = 0


class ReplayEsn(NamedTuple):
    """xfrm_replay_state_esn; `bitmap` is a tuple of 32-bit words, bmp_len of them."""

    bitmap: tuple[int, ...] = ()
    oseq: int = 0
    seq: int = 0
    oseq_hi: int = 0
    seq_hi: int = 0
    replay_window: int = 0


@dataclass(frozen=True, slots=True)
class StateInfo:
    """xfrm_usersa_info and its attributes: one SA as a request names it and as a dump shows it.

    StateInfo(src='192.0.2.1', dst='192.0.2.2', spi=0x1000, mode=Mode.TUNNEL, if_id=42,
              aead=Algorithm('rfc4106(gcm(aes))', key, 128))
    """

    src: bytes = b""
    """Outer source (id: saddr). Text is accepted and packed."""
    dst: bytes = b""
    """Outer destination (id.daddr)."""
    spi: int = 0
    proto: int = IPPROTO_ESP
    mode: int = Mode.TRANSPORT
    reqid: int = 0
    if_id: int = 0
    family: int = AF_UNSPEC
    """Outer family; taken from dst when left out."""
    selector: Selector = ANY_SELECTOR
    flags: int = 0
    extra_flags: int = 0
    replay_window: int = 0
    """Legacy window (packets, <= 255 on the wire, 32 in effect); larger windows are in `replay_esn`."""
    aead: Algorithm | None = None
    auth: Algorithm | None = None
    """XFRMA_ALG_AUTH; bits 0."""
    auth_trunc: Algorithm | None = None
    """XFRMA_ALG_AUTH_TRUNC; wins over `auth`."""
    crypt: Algorithm | None = None
    comp: Algorithm | None = None
    encap: Encap | None = None
    mark: Mark = NO_MARK
    set_mark: Mark | None = None
    """XFRMA_SET_MARK and its mask (absent mask: all ones)."""
    tfcpad: int = 0
    replay: Replay | None = None
    replay_esn: ReplayEsn | None = None
    limits: Limits = NO_LIMITS
    current: Current = UNUSED
    stats: StateStats = NO_STATS
    seq: int = 0
    """km sequence: ties an SA to its acquire, not an ESP sequence number."""
    dir: int = SaDir.NONE
    coaddr: bytes | None = None
    lastused: int = 0
    """Unix seconds, 0 never; dumps only."""
    mtimer_thresh: int = 0
    nat_keepalive_interval: int = 0
    """Seconds, 0 off."""
    pcpu: int | None = None
    replay_thresh: int | None = None
    """Packets from one aevent to the next; requests only, None: the default."""
    etimer_thresh: int | None = None
    """Tenths of a second likewise."""
    offload: tuple[int, int] | None = None
    """XFRMA_OFFLOAD_DEV: (ifindex, flags)."""
    sec_ctx: bytes | None = None

    def __post_init__(self) -> None:
        if isinstance(self.src, str):
            object.__setattr__(self, "src", pack_address(self.src))
        if isinstance(self.dst, str):
            object.__setattr__(self, "dst", pack_address(self.dst))
        if not self.family and self.dst:
            object.__setattr__(self, "family", family_of(self.dst))
        if not self.selector.family and not self.flags & STATE_AF_UNSPEC and self.family and not self.selector.saddr:
            # As iproute2 sends it: a state without selector gets the any-selector of its outer family (2.5).
            wild = any_address(self.family)
            object.__setattr__(self, "selector", replace(self.selector, family=self.family, saddr=wild, daddr=wild))


@dataclass(frozen=True, slots=True)
class StateId:
    """xfrm_usersa_id: what GETSA and DELSA name. `src` is the optional XFRMA_SRCADDR, not part of the key (3.1)."""

    dst: bytes
    spi: int
    proto: int = IPPROTO_ESP
    family: int = AF_UNSPEC
    mark: Mark = NO_MARK
    src: bytes = b""

    def __post_init__(self) -> None:
        if isinstance(self.dst, str):
            object.__setattr__(self, "dst", pack_address(self.dst))
        if not self.family:
            object.__setattr__(self, "family", family_of(self.dst))


@dataclass(frozen=True, slots=True)
class Template:
    """xfrm_user_tmpl: the transform a policy demands. Any address is all zero bytes."""

    src: bytes = bytes(4)
    dst: bytes = bytes(4)
    spi: int = 0
    proto: int = IPPROTO_ESP
    mode: int = Mode.TUNNEL
    reqid: int = 0
    """A value on output, 0 is a wildcard on input (2.5, IN-11)."""
    optional: int = 0
    """1 for `level use`."""
    family: int = AF_UNSPEC
    """Outer family; taken from dst when left out."""
    share: int = 0
    aalgos: int = ANY_ALGOS
    ealgos: int = ANY_ALGOS
    calgos: int = ANY_ALGOS

    def __post_init__(self) -> None:
        if isinstance(self.src, str):
            object.__setattr__(self, "src", pack_address(self.src))
        if isinstance(self.dst, str):
            object.__setattr__(self, "dst", pack_address(self.dst))
        if not self.family:
            object.__setattr__(self, "family", family_of(self.dst))


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """xfrm_userpolicy_info and its attributes."""

    selector: Selector = ANY_SELECTOR
    dir: int = Dir.OUT
    if_id: int = 0
    templates: tuple[Template, ...] = ()
    action: int = Action.ALLOW
    priority: int = 0
    mark: Mark = NO_MARK
    index: int = 0
    flags: int = 0
    share: int = 0
    type: int = PolicyType.MAIN
    limits: Limits = NO_LIMITS
    current: Current = UNUSED
    sec_ctx: bytes | None = None


@dataclass(frozen=True, slots=True)
class PolicyId:
    """xfrm_userpolicy_id: by index when index is not zero, else by selector (7.2)."""

    selector: Selector = ANY_SELECTOR
    dir: int = Dir.OUT
    if_id: int = 0
    index: int = 0
    mark: Mark = NO_MARK
    type: int = PolicyType.MAIN
    sec_ctx: bytes | None = None
