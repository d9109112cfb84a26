"""Outbound: from packets that came out of a TUN to ESP packets for the wire. File order is packet order.

    1  flow     which flow is this packet, and what was decided for it (decision.py, once per flow)
    2  refuse   no way through: tell the sender, count carrier errors; plaintext never leaves (TX-07, TX-09)
    3  fit      larger than the tunnel can carry: tell the sender, or go on and let the outer packet fragment (TX-12)
    4  seal     what goes the same way together (sending.py), innermost state first
    5  group    by the way out, in order

Few packets, of flows that are known, take a shorter way to the same end (_send_lone).

Nothing is ever queued for want of a state (TX-16), and nothing is raised: each packet that dies here has raised its
MIB counter and its device counters (table 1.4) by the time `output` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xfrmi.core.burst import FEW
from xfrmi.core.decision import Decision, Loop, Refused, decide
from xfrmi.core.dropped import tell
from xfrmi.core.lone import sealer
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.sending import Sending, after_run, group
from xfrmi.errors import Drop
from xfrmi.wire import icmp
from xfrmi.wire.flow import flow_key, flow_of_key
from xfrmi.wire.ip import IPV4_SADDR, IPV6_MIN_MTU, IPV6_SADDR
from xfrmi.wire.vnet import SuperPacket
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
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
        for packet in packets:
            tell(engine, None, "an external device, and nothing says which if_id is meant", packet, interface)
        return outgoing, replies
    done = 0
    if len(packets) == 1 or (len(packets) < FEW and not engine.sad.aevents.wanted):  # who are told once per run
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
        late = after_run(engine, interface, decision, [], [(0, drop)], [packet], outgoing, now)
        if late:
            _walk(engine, interface, late, outgoing, replies, now)
        return True
    if engine.sad.aevents.wanted:
        engine.sad.aevents.moved(decision.states, now)
    interface.tx_packets += 1
    interface.tx_bytes += length
    group(interface, decision, sealed, [packet], outgoing)
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
    sending = Sending(engine, interface, outgoing, now)
    for packet in packets:
        if isinstance(packet, SuperPacket):
            whole: Buffer = packet.data
            length = packet.segment_len
        else:
            whole = packet
            length = len(packet)
        taken = False
        while not taken:  # again if what was to be sent before it has changed what is decided
            if sending.late:
                late, sending.late = sending.late, []
                _walk(engine, interface, late, outgoing, replies, now)
            # 1 flow
            try:
                key = flow_key(whole)
                decision = _decision(engine, interface, key, now)
            except Refused as refused:
                if engine.pass_on is not None:
                    engine.pass_on(interface, packet)
                else:
                    _refuse(engine, interface, whole, refused, replies, now)
                break
            except Loop:
                interface.tx_errors += 1
                interface.tx_dropped += 1
                interface.collisions += 1
                tell(engine, None, "routing loop: the outer packet would come back into this device", whole, interface)
                break
            except ValueError as error:  # neither IPv4 nor IPv6, or not a whole header of either
                interface.tx_errors += 1
                interface.tx_dropped += 1
                tell(engine, None, str(error), whole, interface)
                break
            # 3 fit
            if length > decision.mtu:
                if not sending.settled(decision):
                    continue
                if not _fits_anyway(engine, interface, whole, length, decision.mtu, replies):
                    break
            # 4 seal, 5 group
            taken = sending.add(packet, key, decision)
    sending.flush()
    if sending.late:
        _walk(engine, interface, sending.late, outgoing, replies, now)


# 1 flow ---------------------------------------------------------------------------------------------------------


def _decision(engine: Engine, interface: Interface, key: bytes, now: float) -> Decision:
    """The decision for the flow with this key: a dict lookup, or made now. Raises as `decide`."""
    flows = interface.flows
    generation = engine.generation
    if interface.flows_generation != generation or len(flows) > MAX_FLOWS:
        flows.clear()
        interface.flows_generation = generation
    decision = flows.get(key)
    if decision is None or decision.expires <= now:
        decision = flows[key] = decide(engine, interface, flow_of_key(key), now)
    return decision


# 2 refuse -------------------------------------------------------------------------------------------------------


def _refuse(
    engine: Engine, interface: Interface, packet: Buffer, refused: Refused, replies: list[Buffer], now: float
) -> None:
    """TX-09, link failure: host or address unreachable to the sender, as often as a kernel says so."""
    if refused.stat is not None:
        engine.stats[refused.stat] += 1
    if refused.stat == XfrmStat.OUT_STATE_DIR_ERROR:  # the template is unresolved for good, which also counts (3.6)
        engine.stats[XfrmStat.OUT_POL_ERROR] += 1
    interface.tx_errors += 1
    interface.tx_dropped += 1
    interface.tx_carrier += 1
    tell(engine, refused.stat, refused.reason, packet, interface)
    family, sender = (AF_INET, packet[IPV4_SADDR]) if packet[0] >> 4 == 4 else (AF_INET6, packet[IPV6_SADDR])
    sender = bytes(sender)
    local = interface.away or engine.router.is_local(interface.ifindex, sender)
    if interface.policy_based:
        # A kernel says nothing, but for a refusal to a sender of its own (EPERM), who hears of it by ICMP here.
        if refused.stat != XfrmStat.OUT_POL_BLOCK or not local:
            return
        unreachable = icmp.prohibited
    else:
        unreachable = icmp.host_unreachable if family == AF_INET else icmp.address_unreachable
    if not engine.icmp_limit.allows(family, sender, local, now):
        return
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
                tell(engine, None, f"longer than the {mtu} bytes that fit, and lost as by a kernel", packet, interface)
            return not engine.kernel_quirks
        reply = icmp.packet_too_big(packet, mtu)  # which tells at least 1280
    interface.tx_errors += 1
    interface.tx_dropped += 1
    tell(engine, None, f"longer than the {mtu} bytes that fit", packet, interface)
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
