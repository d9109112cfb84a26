"""Inbound: from ESP packets off the wire to inner packets for the TUNs. File order is packet order.

    1  find     the state, by (destination, SPI, protocol, mark): never by if_id (RX-03)
    2  open     runs of one state together: valid? encapsulated alike? replayed? expired? authentic? decapsulate (LT-08)
    3  device   the interface whose if_id is the state's, if it is up (RX-04)
    4  count    the device has received it, before any policy is asked (1.4)
    5  check    `in` or `fwd` policy of that if_id (2.6)
    6  nested   ESP for this host inside, and its state is here: begin again, with one more state to answer for
    7  deliver  grouped by interface, in order

Nothing is raised: each packet that dies here has raised its counter by the time `input` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xfrmi.core.burst import open_burst
from xfrmi.core.policy_check import check_input, is_icmp_error, quoted_flow
from xfrmi.core.router import LOOPBACK_IFINDEX
from xfrmi.core.state import KM_DEAD
from xfrmi.errors import Drop
from xfrmi.wire.esp import ESP_HEADER_LEN
from xfrmi.wire.flow import flow_key, flow_of, flow_of_key
from xfrmi.wire.ip import split_outer, trim
from xfrmi.wire.xfrm_const import IPPROTO_ESP, XFRM_MAX_DEPTH, Dir, Mode, XfrmStat
from xfrmi.wire.xfrm_types import NO_MARK

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State
    from xfrmi.wire.ip import Buffer

    Datagram = tuple[Buffer, Buffer]
    """(outer header, ESP packet from the SPI on); see wire.ip.split_outer."""
    SecPath = tuple[State, ...]
    """The states a packet came through, the outermost first."""
    Delivered = list[tuple[Interface, list[Buffer]]]

MAX_VERDICTS = 4096
"""Policy verdicts kept per interface; past it they are all forgotten and made again."""



class Verdict:
    """An accepted flow: the states it came through, the policy that let it in (None: nothing was demanded), and whether
    it may be nested: ESP for this very host."""

    __slots__ = ("nested", "policy", "secpath")

    def __init__(self, secpath: SecPath, policy: Policy | None, nested: bool) -> None:
        self.secpath = secpath
        self.policy = policy
        self.nested = nested


def input(engine: Engine, datagrams: Sequence[Datagram], now: float) -> list[tuple[Interface, list[Buffer]]]:
    """Receive `datagrams`. Returns the packets each interface delivers, in order."""
    delivered: Delivered = []
    _walk(engine, datagrams, (), delivered, now)
    return delivered


def _walk(engine: Engine, datagrams: Sequence[Datagram], secpath: SecPath, delivered: Delivered, now: float) -> None:
    """`input` for what came through `secpath` already: outermost first, empty for what is off the wire."""
    if len(secpath) == XFRM_MAX_DEPTH:
        engine.stats[XfrmStat.IN_BUFFER_ERROR] += len(datagrams)
        return
    run: list[Datagram] = []
    run_key: tuple[bytes, bytes] | None = None
    run_state: State | None = None
    for datagram in datagrams:
        header, esp = datagram
        # 1 find
        if len(esp) < ESP_HEADER_LEN:
            engine.stats[XfrmStat.IN_HDR_ERROR] += 1
            continue
        daddr = _daddr(header)
        key = (daddr, bytes(esp[:4]))
        if key != run_key:
            if run_state is not None:
                _open_run(engine, run_state, run, secpath, delivered, now)
            run = []
            run_key = key
            run_state = engine.sad.lookup_input(daddr, int.from_bytes(key[1], "big"), IPPROTO_ESP, 0)
        if run_state is None:
            engine.stats[XfrmStat.IN_NO_STATES] += 1
            continue
        run.append(datagram)
    if run_state is not None:
        _open_run(engine, run_state, run, secpath, delivered, now)


def _open_run(
    engine: Engine, state: State, datagrams: list[Datagram], secpath: SecPath, delivered: Delivered, now: float
) -> None:
    # 2 open
    packets, drops = open_burst(state, datagrams, now)
    # 3 device
    interface = engine.interfaces.for_state(state.if_id)
    late: list[Datagram] = []
    for index, drop in drops:
        if state.km == KM_DEAD and drop.stat == XfrmStat.IN_STATE_INVALID:
            late.append(datagrams[index])  # the state reached its end within this run: there is none any more
            continue
        if drop.stat is not None:
            engine.stats[drop.stat] += 1
        if interface is not None and drop.stat != XfrmStat.IN_STATE_DIR_ERROR:
            interface.rx_errors += 1
            interface.rx_dropped += 1
    if interface is None:
        _refuse_stray(engine, (*secpath, state), packets, now)
    elif packets:
        _receive(engine, interface, (*secpath, state), packets, delivered, now)
    if late:
        _walk(engine, late, secpath, delivered, now)


def _receive(
    engine: Engine, interface: Interface, secpath: SecPath, packets: list[Buffer], delivered: Delivered, now: float
) -> None:
    generation = engine.generation
    if interface.verdicts_generation != generation or len(interface.verdicts) > MAX_VERDICTS:
        interface.verdicts.clear()
        interface.verdicts_generation = generation
    # 4 count
    if not interface.away:
        _count(interface, secpath[-1], packets)
    # 5 check, 6 nested
    accepted: list[Buffer] = []
    nested: list[Datagram] = []
    for packet in packets:
        verdict = _check(engine, interface, secpath, packet, now)
        if verdict is None:
            continue
        again = _nested(engine, packet) if verdict.nested else None
        if again is None:
            accepted.append(packet)
        else:
            nested.append(again)
    if interface.away:  # RX-10: asked before the packet leaves its home, so what is refused has not been received
        interface.rx_errors += len(packets) - len(accepted)
        interface.rx_dropped += len(packets) - len(accepted)
        _count(interface, secpath[-1], accepted)
    # 7 deliver
    if accepted:
        if delivered and delivered[-1][0] is interface:
            delivered[-1][1].extend(accepted)
        else:
            delivered.append((interface, accepted))
    if nested:
        _walk(engine, nested, secpath, delivered, now)


def _count(interface: Interface, state: State, packets: list[Buffer]) -> None:
    interface.rx_packets += len(packets)
    interface.rx_bytes += sum(map(len, packets))
    if state.mode == Mode.TRANSPORT:  # only what follows the IP header counts
        interface.rx_bytes -= sum(_ip_header_len(packet) for packet in packets)


def _check(engine: Engine, interface: Interface, secpath: SecPath, packet: Buffer, now: float) -> Verdict | None:
    """None where the packet is refused."""
    try:
        packet = trim(packet)  # TFC padding is no part of the packet
        key = flow_key(packet)
    except ValueError:  # not an IP packet: counted as received, refused by IP input, no xfrm counter moves
        return None
    verdict = interface.verdicts.get(key)
    if verdict is not None and verdict.secpath == secpath:
        if verdict.policy is not None:
            verdict.policy.use_time = int(now)
        return verdict
    flow = flow_of_key(key)
    # The route of a packet for this host leads to lo (2.1).
    local = interface.away or engine.router.is_local(interface.ifindex, flow.daddr)
    direction, ifindex = (Dir.IN, LOOPBACK_IFINDEX) if local else (Dir.FWD, 0)
    if_id = secpath[-1].if_id if interface.external else interface.if_id
    quoted = quoted_flow(packet) if is_icmp_error(flow) else None
    mark, verified = _mark(secpath), len(secpath) - 1  # all but the last have answered for themselves before (IN-12)
    try:
        policy = check_input(
            engine.spd, direction, if_id, flow, secpath, mark, now, ifindex=ifindex, quoted=quoted, verified=verified
        )
    except Drop as drop:
        if drop.stat is not None:
            engine.stats[drop.stat] += 1
        return None
    verdict = Verdict(secpath, policy, flow.proto == IPPROTO_ESP and local and not interface.away)
    if quoted is None:  # another error between the same hosts may quote something else
        interface.verdicts[key] = verdict
    return verdict


def _mark(secpath: SecPath) -> int:
    """What the states have made of the packet's mark, each right after it was found (3.8)."""
    mark = 0
    for state in secpath:
        set_mark = state.info.set_mark or NO_MARK
        mark = set_mark.value & set_mark.mask | mark & ~set_mark.mask
    return mark


def _nested(engine: Engine, packet: Buffer) -> Datagram | None:
    """An ESP packet for this host as a datagram, if its state is one of ours. Anything else, fragments too, is the
    host's: what it finds to be ESP comes back through the raw socket."""
    try:
        header, esp = split_outer(packet)
    except ValueError:
        return None
    state = engine.sad.lookup_input(_daddr(header), int.from_bytes(esp[:4], "big"), IPPROTO_ESP, 0)
    return None if state is None else (header, esp)


def _refuse_stray(engine: Engine, secpath: SecPath, packets: list[Buffer], now: float) -> None:
    """RX-05: a state without a device. The kernel goes on as policy IPsec with if_id 0 on the original device.

    A policy refusal counts as the kernel's; what a policy would let in has no device to go to and is XfrmInError.
    """
    for packet in packets:
        stat: XfrmStat | None = XfrmStat.IN_ERROR
        try:
            flow = flow_of(trim(packet))
            check_input(engine.spd, Dir.IN, 0, flow, secpath, _mark(secpath), now, ifindex=LOOPBACK_IFINDEX)
        except Drop as drop:
            stat = drop.stat
        except ValueError:
            stat = None
        if stat is not None:
            engine.stats[stat] += 1


def _daddr(header: Buffer) -> bytes:
    return bytes(header[16:20] if header[0] >> 4 == 4 else header[24:40])


def _ip_header_len(packet: Buffer) -> int:
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
