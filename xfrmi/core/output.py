"""Outbound: from packets that came out of a TUN to ESP packets for the wire. File order is packet order.

    1  flow     which flow is this packet, and what was decided for it (decision.py, once per flow)
    2  refuse   no way through: tell the sender, count carrier errors; plaintext never leaves (TX-07, TX-09)
    3  fit      larger than the tunnel can carry: tell the sender, or go on and let the outer packet fragment (TX-12)
    4  seal     runs of one flow together, innermost state first
    5  group    by the way out, in order

Few packets, of flows that are known, take a shorter way to the same end (_send_lone).

Nothing is ever queued for want of a state (TX-16), and nothing is raised: each packet that dies here has raised its
MIB counter and its device counters (table 1.4) by the time `output` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from xfrmi.core.burst import FEW, seal_burst
from xfrmi.core.decision import Decision, Loop, Refused, decide
from xfrmi.core.gso import segment
from xfrmi.core.lone import sealer
from xfrmi.core.outer import DF_HIGH
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.state import KM_VALID
from xfrmi.errors import Drop
from xfrmi.wire import icmp
from xfrmi.wire.flow import flow_key, flow_of_key
from xfrmi.wire.ip import IPV4_CHECKSUM, IPV6_MIN_MTU, IPV6_SADDR, ipv4_header_checksum
from xfrmi.wire.vnet import SuperPacket
from xfrmi.wire.xfrm_const import XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.state import State
    from xfrmi.wire.ip import Buffer
    from xfrmi.wire.vnet import Packet

MAX_FLOWS = 4096
"""Decisions kept per interface; past it they are all forgotten and made again."""


def output(
    engine: Engine, interface: Interface, packets: Sequence[Packet], now: float
) -> tuple[list[Outgoing], list[Buffer]]:
    """Send `packets` through `interface`. Returns (what to put on the wire, ICMP errors to put back into the TUN)."""
    outgoing: list[Outgoing] = []
    replies: list[Buffer] = []
    if interface.external:  # TX-04: which if_id? A TUN has nothing to tell it by
        interface.tx_errors += len(packets)
        interface.tx_dropped += len(packets)
        return outgoing, replies
    done = 0
    if len(packets) == 1 or (len(packets) < FEW and not engine.sad.aevents.listeners):  # who are told once per run
        for packet in packets:
            if not _send_lone(engine, interface, packet, outgoing, replies, now):
                break
            done += 1
    if done < len(packets):
        _walk(engine, interface, packets[done:] if done else packets, outgoing, replies, now)
    return outgoing, replies


def _send_lone(
    engine: Engine, interface: Interface, packet: Packet, outgoing: list[Outgoing], replies: list[Buffer], now: float
) -> bool:
    """What _walk does, for one packet of a flow that has been decided about and needs one state: an acknowledgement on
    its way. False if there is more to it, and then nothing has happened."""
    if isinstance(packet, SuperPacket) or interface.flows_generation != engine.generation:
        return False
    try:
        decision = interface.flows.get(flow_key(packet))
    except ValueError:
        return False
    if decision is None or decision.expires <= now or len(decision.states) != 1:
        return False
    length = len(packet)
    if length > decision.mtu or decision.mtu < IPV6_MIN_MTU:
        return False
    state = decision.states[0]
    try:
        sealed = [sealer(state)(state, packet, now)]
    except Drop as drop:
        _after_run(engine, interface, decision, [], [(0, drop)], [packet], outgoing, replies, now)
        return True
    if engine.sad.aevents.listeners:
        engine.sad.aevents.moved(decision.states, now)
    interface.tx_packets += 1
    interface.tx_bytes += length
    if outgoing and outgoing[-1].path is decision.path:
        outgoing[-1].packets += sealed
        outgoing[-1].inner.append(packet)
    else:
        outgoing.append(Outgoing(decision.path, sealed, interface, [packet]))
    return True


def _walk(
    engine: Engine,
    interface: Interface,
    packets: Sequence[Packet],
    outgoing: list[Outgoing],
    replies: list[Buffer],
    now: float,
) -> None:
    """`output`; again for what is left when a state reaches its end on the way."""
    run: list[Buffer] = []
    inner: list[Packet] = []
    run_decision: Decision | None = None
    for index, packet in enumerate(packets):
        long = False
        if isinstance(packet, SuperPacket):
            whole: Buffer = packet.data
            length = packet.segment_len
            long = packet.segments >= FEW
        else:
            whole = packet
            length = len(packet)
        # 1 flow
        try:
            decision = _decision(engine, interface, whole, now)
        except Refused as refused:
            _refuse(engine, interface, whole, refused, replies)
            continue
        except Loop:
            interface.tx_errors += 1
            interface.tx_dropped += 1
            interface.collisions += 1
            continue
        except ValueError:  # neither IPv4 nor IPv6, or not a whole header of either
            interface.tx_errors += 1
            interface.tx_dropped += 1
            continue
        # 3 fit
        if length > decision.mtu and not _fits_anyway(engine, interface, whole, length, decision.mtu, replies):
            continue
        # 4 seal: whatever goes the same way together, of whichever flow; a long super-packet is a run of its own
        if run_decision is not None and run and (long or not decision.joins(run_decision)):
            _send_run(engine, interface, run_decision, run, inner, outgoing, replies, now)
            run, inner = [], []
            if decision.generation != engine.generation:  # a state has reached its end just now
                _walk(engine, interface, packets[index:], outgoing, replies, now)
                return
        run_decision = decision
        if not isinstance(packet, SuperPacket):
            run.append(packet)
            inner.append(packet)
        elif long:
            _send_super(engine, interface, decision, packet, outgoing, now)
        else:
            run += segment(packet)
            inner += repeat(packet, len(run) - len(inner))
    if run:
        assert run_decision is not None
        _send_run(engine, interface, run_decision, run, inner, outgoing, replies, now)


# 1 flow ---------------------------------------------------------------------------------------------------------


def _decision(engine: Engine, interface: Interface, packet: Buffer, now: float) -> Decision:
    """The decision for this packet's flow: a dict lookup, or made now. Raises as `decide`."""
    flows = interface.flows
    generation = engine.generation
    if interface.flows_generation != generation or len(flows) > MAX_FLOWS:
        flows.clear()
        interface.flows_generation = generation
    key = flow_key(packet)
    decision = flows.get(key)
    if decision is None or decision.expires <= now:
        decision = flows[key] = decide(engine, interface, flow_of_key(key), now)
    return decision


# 2 refuse -------------------------------------------------------------------------------------------------------


def _refuse(engine: Engine, interface: Interface, packet: Buffer, refused: Refused, replies: list[Buffer]) -> None:
    """TX-09, link failure: host or address unreachable to the sender."""
    if refused.stat is not None:
        engine.stats[refused.stat] += 1
    if refused.stat == XfrmStat.OUT_STATE_DIR_ERROR:  # the template is unresolved for good, which also counts (3.6)
        engine.stats[XfrmStat.OUT_POL_ERROR] += 1
    interface.tx_errors += 1
    interface.tx_dropped += 1
    interface.tx_carrier += 1
    unreachable = icmp.host_unreachable if packet[0] >> 4 == 4 else icmp.address_unreachable
    reply = unreachable(packet)
    if reply is not None:
        replies.append(reply)


# 3 fit ----------------------------------------------------------------------------------------------------------


def _fits_anyway(
    engine: Engine, interface: Interface, packet: Buffer, length: int, mtu: int, replies: list[Buffer]
) -> bool:
    """TX-12: too big for the tunnel. True when it goes on all the same and its outer packet will be fragmented."""
    if packet[0] >> 4 == 4:
        if not packet[6] & 0x40:  # DF clear (TX-12b)
            return True
        reply = icmp.frag_needed(packet, mtu)
    else:
        if length <= IPV6_MIN_MTU:  # no link may say it cannot carry this (TX-12a)
            if engine.kernel_quirks:
                _vanish(engine, interface, packet, mtu, replies)
            return not engine.kernel_quirks
        reply = icmp.packet_too_big(packet, mtu)  # which tells at least 1280
    interface.tx_errors += 1
    interface.tx_dropped += 1
    if reply is not None:
        replies.append(reply)
    return False


def _vanish(engine: Engine, interface: Interface, packet: Buffer, mtu: int, replies: list[Buffer]) -> None:
    """What a kernel means to fragment, and drops. Who is on this host hears nothing of it; somebody else is told an MTU
    that no IPv6 sender believes (PMTU-05)."""
    interface.tx_errors += 1
    interface.tx_aborted += 1
    if not engine.router.is_local(interface.ifindex, bytes(packet[IPV6_SADDR])):
        reply = icmp.packet_too_big(packet, mtu, least=0)
        if reply is not None:
            replies.append(reply)


# 4 seal ---------------------------------------------------------------------------------------------------------


def _send_run(
    engine: Engine,
    interface: Interface,
    decision: Decision,
    run: list[Buffer],
    inner: Sequence[Packet],
    outgoing: list[Outgoing],
    replies: list[Buffer],
    now: float,
) -> None:
    """`inner` says what each packet of the run is to the device: itself, or a short super-packet it is a segment of."""
    sealed, drops = _seal(decision.states, run, now)
    _after_run(engine, interface, decision, sealed, drops, inner, outgoing, replies, now)


def _after_run(
    engine: Engine,
    interface: Interface,
    decision: Decision,
    sealed: list[Buffer],
    drops: list[tuple[int, Drop]],
    inner: Sequence[Packet],
    outgoing: list[Outgoing],
    replies: list[Buffer],
    now: float,
) -> None:
    if engine.sad.aevents.listeners:
        engine.sad.aevents.moved(decision.states, now)
    if not drops:
        _count(interface, inner)
        _group(interface, decision, sealed, inner, outgoing)
        return
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
            _abort(engine, interface, drop)
    dead = {index for index, _ in drops}
    left = [packet for index, packet in enumerate(inner) if index not in dead]
    _count(interface, [packet for packet in left if packet not in failed])
    _group(interface, decision, sealed, [None if packet in failed else packet for packet in left], outgoing)
    if late:
        _walk(engine, interface, late, outgoing, replies, now)


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


def _send_super(
    engine: Engine,
    interface: Interface,
    decision: Decision,
    packet: SuperPacket,
    outgoing: list[Outgoing],
    now: float,
) -> None:
    """A super-packet is one packet to the device and many to ESP, each with its own sequence number (1.4, 3.7). The
    first segment that fails fails all of it; those before it are on their way."""
    if len(decision.states) == 1:
        sealed, drops = seal_burst(decision.states[0], packet, now)
    else:
        sealed, drops = _seal(decision.states, segment(packet), now)
    if engine.sad.aevents.listeners:
        engine.sad.aevents.moved(decision.states, now)
    if drops:
        _abort(engine, interface, drops[0][1])
        _group(interface, decision, sealed, [None] * len(sealed), outgoing)
    else:
        interface.tx_packets += 1
        interface.tx_bytes += len(packet.data)
        _group(interface, decision, sealed, [packet] * len(sealed), outgoing)


def _seal(
    states: tuple[State, ...], packets: Sequence[Buffer], now: float
) -> tuple[list[Buffer], list[tuple[int, Drop]]]:
    """(sealed packets in order, (position, drop) of those that were not)."""
    if len(states) == 1:
        return seal_burst(states[0], packets, now)
    sealed: list[Buffer] = []
    drops: list[tuple[int, Drop]] = []
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


def _abort(engine: Engine, interface: Interface, drop: Drop) -> None:
    """ESP or the outer IP output failed (1.4)."""
    if drop.stat is not None:
        engine.stats[drop.stat] += 1
    interface.tx_errors += 1
    interface.tx_aborted += 1


# 5 group --------------------------------------------------------------------------------------------------------


def _group(
    interface: Interface,
    decision: Decision,
    sealed: list[Buffer],
    inner: Sequence[Packet | None],
    outgoing: list[Outgoing],
) -> None:
    """Add `sealed` to what goes out; `inner` says what each of them was counted as (see Outgoing)."""
    if not sealed:
        return
    if not outgoing or outgoing[-1].path is not decision.path:
        outgoing.append(Outgoing(decision.path, [], interface))
    if decision.mtu < IPV6_MIN_MTU:
        _let_be_cut(sealed, decision.states[-1].path_mtu)
    group = outgoing[-1]
    group.packets += sealed
    group.inner += inner


def _let_be_cut(sealed: list[Buffer], mtu: int) -> None:
    """What is too big and is here all the same (_fits_anyway) may be fragmented: also IPv6 in IPv4, where DF is set."""
    for index, packet in enumerate(sealed):
        if len(packet) > mtu and packet[0] >> 4 == 4 and packet[6] & DF_HIGH:
            cut = sealed[index] = bytearray(packet)  # a row of rows.py is not ours to change
            cut[6] &= ~DF_HIGH
            header_len = (cut[0] & 15) * 4
            cut[IPV4_CHECKSUM] = ipv4_header_checksum(cut[:header_len]).to_bytes(2, "big")
