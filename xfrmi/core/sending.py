"""Stages 4 and 5 of output.py: what waits to be sealed together, sealing it, and what is counted for it.

Two things can wait. Super-packets of one flow that follow each other are a train (seal_train.py). All other packets
that go the same way are a run, of whichever flows (burst.py). Both wait at a time, as acknowledgements keep coming
between the super-packets of a busy stream: what is of the train's flow never waits in the run, so no flow is reordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from xfrmi.core.burst import FEW as MANY
from xfrmi.core.burst import seal_burst
from xfrmi.core.dropped import tell
from xfrmi.core.gso import segment
from xfrmi.core.lone import sealer
from xfrmi.core.outer import DF_HIGH
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.seal_train import FEW, joins, seal_run, seal_train
from xfrmi.core.state import KM_VALID
from xfrmi.errors import Drop
from xfrmi.wire.ip import IPV4_CHECKSUM, IPV6_MIN_MTU, ipv4_header_checksum
from xfrmi.wire.vnet import SuperPacket
from xfrmi.wire.xfrm_const import XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.burst import Drops
    from xfrmi.core.decision import Decision
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.state import State
    from xfrmi.core.train import Train
    from xfrmi.wire.ip import Buffer
    from xfrmi.wire.vnet import Packet

MAX_SEGMENTS = 256
"""In one train: beyond that nothing is gained, and caches are lost."""


class Sending:
    """One burst of one device, on its way from `add` to `outgoing`."""

    __slots__ = (
        "_decision", "_engine", "_inner", "_interface", "_now", "_outgoing", "_run", "_segments", "_train",
        "_train_decision", "_train_key", "late",
    )  # fmt: skip

    def __init__(self, engine: Engine, interface: Interface, outgoing: list[Outgoing], now: float) -> None:
        self._engine, self._interface, self._outgoing, self._now = engine, interface, outgoing, now
        self._run: list[Buffer] = []
        self._inner: list[Packet] = []
        """What each packet of the run is to the device: itself, or a short super-packet it is a segment of."""
        self._decision: Decision
        self._train: list[SuperPacket] = []
        self._segments = 0
        self._train_key = b""
        self._train_decision: Decision
        self.late: list[Packet] = []
        """Packets whose state has reached its end: another decision is due."""

    def add(self, packet: Packet, key: bytes, decision: Decision) -> bool:
        """Let `packet`, of the flow with this key, wait. False if `decision` has become old meanwhile, because of what
        had to be sent before; then nothing waits any more, and first comes what is `late`."""
        if isinstance(packet, SuperPacket):
            segments = packet.segments
            if self._segments + segments <= MAX_SEGMENTS and self._continues(packet, key):
                self._train.append(packet)
                self._segments += segments
                return True
            if segments >= FEW:
                if (self._train or self._run) and not self._flushed(decision):
                    return False
                self._train = [packet]
                self._segments, self._train_key, self._train_decision = segments, key, decision
                return True
        must_wait = (self._train and key == self._train_key) or (self._run and not decision.joins(self._decision))
        if must_wait and not self._flushed(decision):
            return False
        self._decision = decision
        if isinstance(packet, SuperPacket):
            self._run += segment(packet)
            self._inner += repeat(packet, len(self._run) - len(self._inner))
        else:
            self._run.append(packet)
            self._inner.append(packet)
        return True

    def _continues(self, packet: SuperPacket, key: bytes) -> bool:
        return bool(self._train) and key == self._train_key and joins(self._train[-1], packet)

    def settled(self, decision: Decision) -> bool:
        """Send what waits. Does `decision` hold after that? False as for `add`."""
        return not (self._train or self._run) or self._flushed(decision)

    def _flushed(self, decision: Decision) -> bool:
        self.flush()
        return decision.generation == self._engine.generation and not self.late

    def flush(self) -> None:
        """Seal and send all that waits."""
        if self._train:
            self.late += _send_train(
                self._engine, self._interface, self._train_decision, self._train, self._outgoing, self._now
            )
            self._train = []
        if self._run and not self._sent_as_train():
            sealed, drops = _seal(self._decision.states, self._run, self._now)
            self.late += after_run(
                self._engine, self._interface, self._decision, sealed, drops, self._inner, self._outgoing, self._now
            )
        self._run, self._inner = [], []

    def _sent_as_train(self) -> bool:
        """Do all packets of the run become one train? Then they have been sent."""
        decision = self._decision
        if len(self._run) < MANY or not _takes_trains(decision):
            return False
        train = seal_run(decision.states[0], self._run, self._now)
        if train is None:
            return False
        _count(self._interface, self._inner)
        _depart(self._engine, self._interface, decision, train, list(self._inner), self._outgoing, self._now)
        return True


def after_run(
    engine: Engine,
    interface: Interface,
    decision: Decision,
    sealed: list[Buffer],
    drops: Drops,
    inner: Sequence[Packet],
    outgoing: list[Outgoing],
    now: float,
) -> list[Packet]:
    """Count what has become of a run, and send it. Returns the packets about which another decision is due."""
    if engine.sad.aevents.wanted:
        engine.sad.aevents.moved(decision.states, now)
    if not drops:
        _count(interface, inner)
        group(interface, decision, sealed, list(inner), outgoing)
        return []
    late: list[Packet] = []
    failed: list[SuperPacket] = []
    for index, drop in drops:
        packet = inner[index]
        if isinstance(packet, SuperPacket):  # as in _send_super: once, and for all of it
            if packet in failed:
                continue
            failed.append(packet)
        begun = index > 0 and isinstance(packet, SuperPacket) and inner[index - 1] is packet
        if drop.stat == XfrmStat.OUT_STATE_INVALID and decision.generation != engine.generation and not begun:
            late.append(packet)  # a state reached its end within this run: another decision is due
        else:
            _abort(engine, interface, drop, packet)
    dead = {index for index, _ in drops}
    left = [packet for index, packet in enumerate(inner) if index not in dead]
    _count(interface, [packet for packet in left if packet not in failed])
    group(interface, decision, sealed, [None if packet in failed else packet for packet in left], outgoing)
    return late


def _count(interface: Interface, inner: Sequence[Packet]) -> None:
    """What has been sent, once for each super-packet."""
    last: Packet = b""
    for packet in inner:
        if not isinstance(packet, SuperPacket):
            interface.tx_packets += 1
            interface.tx_bytes += len(packet)
        elif packet is not last:
            interface.tx_packets += 1
            interface.tx_bytes += len(packet.data)
        last = packet


def _send_train(
    engine: Engine,
    interface: Interface,
    decision: Decision,
    packets: list[SuperPacket],
    outgoing: list[Outgoing],
    now: float,
) -> list[SuperPacket]:
    """A super-packet is one packet to the device and many to ESP, each with its own sequence number (1.4, 3.7).
    Returns the packets about which another decision is due."""
    train = seal_train(decision.states[0], packets, now) if _takes_trains(decision) else None
    if train is None:
        for index, packet in enumerate(packets):
            if decision.generation != engine.generation:  # a state reached its end with the packet before
                return packets[index:]
            _send_super(engine, interface, decision, packet, outgoing, now)
        return []
    inner: list[Packet | None] = []
    for packet in packets:
        inner += repeat(packet, packet.segments)
        interface.tx_bytes += len(packet.data)
    interface.tx_packets += len(packets)
    _depart(engine, interface, decision, train, inner, outgoing, now)
    return []


def _takes_trains(decision: Decision) -> bool:
    """One state, and a way on which nothing has to be made smaller than it is (_let_be_cut)."""
    return len(decision.states) == 1 and decision.mtu >= IPV6_MIN_MTU


def _depart(
    engine: Engine,
    interface: Interface,
    decision: Decision,
    train: Train,
    inner: list[Packet | None],
    outgoing: list[Outgoing],
    now: float,
) -> None:
    """A train that has been counted goes out."""
    outgoing.append(Outgoing(decision.path, train, interface, inner))
    if engine.sad.aevents.wanted:
        engine.sad.aevents.moved(decision.states, now)


def _send_super(
    engine: Engine,
    interface: Interface,
    decision: Decision,
    packet: SuperPacket,
    outgoing: list[Outgoing],
    now: float,
) -> None:
    """The first segment that fails fails all of it; those before it are on their way."""
    sealed, drops = _seal(decision.states, segment(packet), now)
    if drops:
        _abort(engine, interface, drops[0][1], packet)
        group(interface, decision, sealed, [None] * len(sealed), outgoing)
    else:
        interface.tx_packets += 1
        interface.tx_bytes += len(packet.data)
        group(interface, decision, sealed, [packet] * len(sealed), outgoing)
    if engine.sad.aevents.wanted:
        engine.sad.aevents.moved(decision.states, now)


def _seal(states: tuple[State, ...], packets: Sequence[Buffer], now: float) -> tuple[list[Buffer], Drops]:
    """(sealed packets in order, (position, drop) of those that were not)."""
    if len(states) == 1:
        return seal_burst(states[0], packets, now)
    sealed: list[Buffer] = []
    drops: Drops = []
    for index, packet in enumerate(packets):
        try:
            if any(state.km != KM_VALID for state in states):  # before the inner ones have spent a number
                raise Drop(XfrmStat.OUT_STATE_INVALID, "one of the states is not valid")
            for state in states:  # innermost first: what one state made is the next one's packet
                packet = sealer(state)(state, packet, now)
            sealed.append(packet)
        except Drop as drop:
            drops.append((index, drop))
    return sealed, drops


def _abort(engine: Engine, interface: Interface, drop: Drop, packet: Packet) -> None:
    """ESP or the outer IP output failed (1.4)."""
    if drop.stat is not None:
        engine.stats[drop.stat] += 1
    interface.tx_errors += 1
    interface.tx_aborted += 1
    tell(engine, drop.stat, drop.reason, packet, interface)


def group(
    interface: Interface,
    decision: Decision,
    sealed: list[Buffer],
    inner: list[Packet | None],
    outgoing: list[Outgoing],
) -> None:
    """Add `sealed` to what goes out; `inner` says what each of them was counted as (see Outgoing)."""
    if not sealed:
        return
    if decision.mtu < IPV6_MIN_MTU:
        _let_be_cut(sealed, decision.states[-1].path_mtu)
    last = outgoing[-1] if outgoing else None
    if last is not None and last.path is decision.path and isinstance(last.packets, list):
        last.packets += sealed
        last.inner += inner
    else:
        outgoing.append(Outgoing(decision.path, sealed, interface, inner))


def _let_be_cut(sealed: list[Buffer], mtu: int) -> None:
    """What is too big and is here all the same (_fits_anyway) may be fragmented: also IPv6 in IPv4, where DF is set."""
    for index, packet in enumerate(sealed):
        if len(packet) > mtu and packet[0] >> 4 == 4 and packet[6] & DF_HIGH:
            cut = sealed[index] = bytearray(packet)  # a row of rows.py is not ours to change
            cut[6] &= ~DF_HIGH
            header_len = (cut[0] & 15) * 4
            cut[IPV4_CHECKSUM] = ipv4_header_checksum(cut[:header_len]).to_bytes(2, "big")
