"""State: one security association, from its configuration to its last counter (RFC 4301 4.4.2; kernel-behaviour 3).

A State is what the data path works with: the fields of StateInfo it needs for each packet lie flat in slots, the
cipher is keyed when the first packet comes, and what never changes for the life of the state is computed once. Two
things live exactly as long as the State object, whatever an update changes: the sequence numbers and the IV counter.

The IV of counter-mode transforms is a 64-bit counter XOR a random 64-bit salt drawn once per State, as in the kernel.
It is never derived from the sequence number, which can wrap (oseq-may-wrap) and can be set from outside: a repeated
IV would give away AES-GCM's authentication key. CBC's is random: who can foretell it can test guesses of the plaintext
that follows (RFC 3602 section 3).
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from xfrmi.core import algo, replay
from xfrmi.core.path import Path
from xfrmi.core.router import DEFAULT_TTL
from xfrmi.core.state_check import check_state
from xfrmi.core.transform import Transform
from xfrmi.errors import Drop, XfrmError
from xfrmi.wire.address import any_address
from xfrmi.wire.esp import ESP_HEADER_LEN
from xfrmi.wire.ip import IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_AF_UNSPEC,
    STATE_ESN,
    XFRM_INF,
    Mode,
    XfrmStat,
)
from xfrmi.wire.xfrm_types import NO_MARK, Current, Encap, Limits, Mark, Replay, ReplayEsn, StateInfo, StateStats

KM_VOID = 0
KM_ACQ = 1
KM_VALID = 2
KM_ERROR = 3
KM_EXPIRED = 4
KM_DEAD = 5

BEET_PSEUDO_HEADER_LEN = 8


class State:
    """One SA. Build it from a StateInfo, or with the fields of one: State(src=..., dst=..., spi=..., aead=...).

    Raises XfrmError exactly as NEWSA does (7.4). With km=KM_ACQ it is a larval state: nothing is checked, no transform
    is attached, and no packet passes (3.3). `now` is Unix seconds; `random(n)` gives n random bytes.
    """

    __slots__ = (
        "__weakref__",
        "add_time",
        "bytes",
        "dir",
        "dst",
        "dying",
        "encap",
        "encap_type",
        "esn",
        "extra_flags",
        "family",
        "flags",
        "header_len",
        "if_id",
        "info",
        "iv_counter",
        "iv_salt",
        "km",
        "lastused",
        "mapping_sport",
        "mapping_time",
        "mark",
        "mode",
        "on_limit",
        "on_mapping",
        "opener",
        "packets",
        "path_mtu",
        "paths",
        "proto",
        "random",
        "reqid",
        "sealer",
        "selector",
        "seq",
        "sequence",
        "soft_left",
        "spi",
        "spi_bytes",
        "src",
        "stats_integrity_failed",
        "tfcpad",
        "transform",
        "ttl",
        "unlimited",
        "use_time",
        "window",
        "wrap_cache",
    )

    def __init__(
        self,
        info: StateInfo | None = None,
        *,
        km: int = KM_VALID,
        now: float = 0,
        random: Callable[[int], bytes] = secrets.token_bytes,
        **fields: Any,
    ) -> None:
        if info is None:
            info = StateInfo(**fields)
        if km != KM_ACQ:
            check_state(info)
        info = _settled(info)
        self.info = info
        """The configuration in force; counters in it are those it was configured with (see snapshot)."""
        # Identity (3.1) and what lookups compare (2.5)
        self.src = info.src
        self.dst = info.dst
        self.spi = info.spi
        self.spi_bytes = info.spi.to_bytes(4, "big")
        self.proto = info.proto
        self.family = info.family
        self.mode = info.mode
        self.reqid = info.reqid
        self.if_id = info.if_id
        self.mark = info.mark
        self.selector = info.selector
        self.dir = info.dir
        self.seq = info.seq
        """km sequence number of the acquire this state answers."""
        # What the data path asks
        self.flags = info.flags
        self.extra_flags = info.extra_flags
        self.esn = bool(info.flags & STATE_ESN)
        self.encap: Encap | None = info.encap
        self.encap_type = info.encap.type if info.encap else 0
        self.tfcpad = info.tfcpad
        self.ttl = DEFAULT_TTL
        """TTL or hop limit of outer headers (5.3). See set_ttl."""
        self.path_mtu = 1500
        """MTU of the way to the peer, bytes, as far as known; only TFC padding depends on it (5.8)."""
        self.transform: Transform = None if km == KM_ACQ else algo.transform_for(info)  # type: ignore[assignment]
        self.header_len = _header_len(info, self.transform)
        self.window = replay.make_window(info)
        self.sequence = replay.make_sequence(info, bool(info.extra_flags & SA_XFLAG_OSEQ_MAY_WRAP))
        self.iv_counter = 0
        self.iv_salt = int.from_bytes(random(8), "big")
        self.random = random
        # Life (3.3, 3.4)
        self.km = km
        self.dying = False
        """The soft limit has been reached: still usable, but a fresher state is preferred (3.2)."""
        self.bytes = info.current.bytes
        self.packets = info.current.packets
        self.add_time = info.current.add_time or int(now)
        self.use_time = info.current.use_time
        self.lastused = 0
        self.soft_left: int | None = None
        """Seconds to the soft time limit when it was last looked at (see lifetime.py)."""
        self.stats_integrity_failed = 0
        self.on_limit: Callable[[State, bool], None] | None = None
        """Told once when a soft limit is reached (False) and once for a hard one (True); set by the owner."""
        self.on_mapping: Callable[[State, bytes, int], None] | None = None
        """Told the peer's new address and port when an encapsulated packet comes from elsewhere (3.8)."""
        self.mapping_time = 0.0
        self.mapping_sport = 0
        # Caches
        self.paths: tuple[Path, ...] = ()
        self.wrap_cache: Any = None
        """core.mode's: the parts of the outer header that never change."""
        self.sealer: Any = None
        self.opener: Any = None
        """core.lone's: what else never changes."""
        self.unlimited: Limits | None = None
        """core.lone's: the limits last found to be none."""

    def __repr__(self) -> str:
        return f"<State spi {self.spi:#010x} mode {self.mode} if_id {self.if_id:#x} km {self.km}>"

    # Numbers ----------------------------------------------------------------------------------------------------

    @property
    def oseq(self) -> int:
        """The last sequence number sent, 64 bits with ESN."""
        return self.sequence.last

    @property
    def stats_replay_window(self) -> int:
        return self.window.late

    @property
    def stats_replay(self) -> int:
        return self.window.replayed

    def next_iv(self) -> bytes:
        """As long as the transform wants it: never given out before under this key, or not to be foretold."""
        if self.transform.random_iv:
            return self.random(self.transform.iv_len)
        counter = self.iv_counter
        self.iv_counter = counter + 1
        return (counter ^ self.iv_salt).to_bytes(8, "big")

    def reserve_ivs(self, count: int) -> int:
        """Take `count` IVs for a burst: number i is ((returned + i) XOR iv_salt), big-endian."""
        counter = self.iv_counter
        self.iv_counter = counter + count
        return counter

    def take_over_ivs(self, old: State) -> None:
        """Count on where `old`, which has the same key, stops."""
        self.iv_counter, self.iv_salt = old.iv_counter, old.iv_salt

    # Life -------------------------------------------------------------------------------------------------------

    @property
    def limited(self) -> bool:
        """Does any limit in bytes or packets apply? Then each packet has to ask check_limits."""
        limits = self.info.limits
        return min(limits.hard_bytes, limits.hard_packets, limits.soft_bytes, limits.soft_packets) < XFRM_INF

    def limits_are_far(self, packets: int, payload_len: int) -> bool:
        """Can so many packets of at most so many bytes each be counted without reaching a limit?"""
        if not self.limited:
            return True
        limits = self.info.limits
        count, size = self.packets + packets, self.bytes + packets * payload_len
        soft = self.dying or (count < limits.soft_packets and size < limits.soft_bytes)
        return soft and count < limits.hard_packets and size < limits.hard_bytes

    def count(self, packets: int, size: int, now: float) -> None:
        """So many packets, with `size` bytes of payload together, have been protected or verified (LT-04)."""
        self.bytes += size
        self.packets += packets
        self.lastused = int(now)

    def check_limits(self, now: float, expired: XfrmStat) -> None:
        """Before a packet is counted (LT-01): at a hard limit the state expires and Drop(expired) is raised; at a soft
        one it is dying from now on (LT-03). A limit of 0 is reached at once (LT-02)."""
        if not self.use_time:  # LT-07
            self.use_time = int(now)
        limits = self.info.limits
        if self.bytes >= limits.hard_bytes or self.packets >= limits.hard_packets:
            self.km = KM_EXPIRED
            if self.on_limit is not None:
                self.on_limit(self, True)
            raise Drop(expired, "hard limit reached")
        if not self.dying and (self.bytes >= limits.soft_bytes or self.packets >= limits.soft_packets):
            self.dying = True
            if self.on_limit is not None:
                self.on_limit(self, False)

    def update(self, info: StateInfo) -> None:
        """UPDSA on a valid state (3.3): only ports, care-of address, limits, set-mark and if_id change.

        Everything else in `info` is ignored, as in the kernel. Raises XfrmError EINVAL when encapsulation would come,
        go, or change its type.
        """
        if (info.encap.type if info.encap else 0) != self.encap_type:
            raise XfrmError(errno.EINVAL, detail="an update cannot change the kind of encapsulation")
        old = self.info
        self.info = replace(
            old,
            encap=info.encap,
            coaddr=info.coaddr if info.coaddr and old.coaddr else old.coaddr,
            limits=info.limits,
            set_mark=info.set_mark if info.set_mark and any(info.set_mark) else old.set_mark,
            if_id=info.if_id or old.if_id,
        )
        self.encap = info.encap
        self.if_id = self.info.if_id
        self.dying = False
        self.paths = ()
        self._forget_header()

    def snapshot(self) -> StateInfo:
        """This state as a dump shows it: configuration, counters, replay numbers of now."""
        shown = replay.export(self.info, self.window, self.sequence)
        return replace(
            self.info,
            replay=shown if isinstance(shown, Replay) else None,
            replay_esn=shown if isinstance(shown, ReplayEsn) else None,
            current=Current(self.bytes, self.packets, self.add_time, self.use_time),
            stats=StateStats(self.window.late, self.window.replayed, self.stats_integrity_failed),
            lastused=self.lastused,
        )

    # The way out ------------------------------------------------------------------------------------------------

    @property
    def overhead(self) -> int:
        """Bytes added to every packet, padding apart: outer header, UDP header, ESP header, IV, ICV."""
        return self.header_len + self.transform.icv_len

    def mtu(self, path_mtu: int) -> int:
        """The largest inner packet that fits `path_mtu` bytes (5.8)."""
        if self.km != KM_VALID:
            return path_mtu - self.header_len
        outside = 0  # bytes of the packet that are not encrypted: its own IP header
        if self.mode != Mode.TUNNEL:
            outside = IPV4_HEADER_LEN if self.family == AF_INET else IPV6_HEADER_LEN
        room = path_mtu - self.overhead - outside
        return room - room % self.transform.align + outside - 2

    def path_to(self, ifindex: int = 0) -> Path:
        """The way this state's packets leave, by device `ifindex` unless 0."""
        for path in self.paths:
            if path.ifindex == ifindex:
                return path
        encap = self.encap
        set_mark = self.info.set_mark or NO_MARK
        path = Path(
            self.family,
            self.src,
            self.dst,
            encap.sport if encap else 0,
            encap.dport if encap else 0,
            set_mark.value & set_mark.mask,
            ifindex,
            encap is not None and self.mode == Mode.TUNNEL,
        )
        self.paths += (path,)
        return path

    def set_ttl(self, ttl: int) -> None:
        """That of the route to the peer, for outer headers from now on."""
        if self.ttl != ttl:
            self.ttl = ttl
            self._forget_header()

    def _forget_header(self) -> None:
        self.wrap_cache = self.sealer = self.opener = None

    @property
    def path(self) -> Path:
        return self.path_to(0)


def _settled(info: StateInfo) -> StateInfo:
    """What the kernel stores of what it was given: what a dump shows right after NEWSA."""
    changes = algo.settled(info)
    if not info.src:
        changes["src"] = any_address(info.family)
    selector = info.selector
    if not selector.family and not info.flags & STATE_AF_UNSPEC:
        changes["selector"] = replace(selector, family=info.family)
    if info.replay_window > replay.LEGACY_MAX:
        changes["replay_window"] = replay.LEGACY_MAX
    if info.mark.value & ~info.mark.mask:
        changes["mark"] = Mark(info.mark.value & info.mark.mask, info.mark.mask)
    return replace(info, **changes) if changes else info


def _header_len(info: StateInfo, transform: Transform | None) -> int:
    """Bytes in front of the encrypted part that the state adds: x->props.header_len (5.8)."""
    if transform is None:
        return 0
    length = ESP_HEADER_LEN + transform.iv_len
    if info.mode == Mode.TUNNEL:
        length += IPV4_HEADER_LEN if info.family == AF_INET else IPV6_HEADER_LEN
    elif info.mode == Mode.BEET and info.selector.family != AF_INET6:
        length += BEET_PSEUDO_HEADER_LEN
        if info.family == AF_INET6:
            length += IPV6_HEADER_LEN - IPV4_HEADER_LEN
    if info.encap is not None:
        length += UDP_HEADER_LEN
    return length
