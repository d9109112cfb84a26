"""Inbound: from ESP packets off the wire to inner packets for the TUNs. File order is packet order.

    1  find     the state, by (destination, SPI, protocol, mark): never by if_id (RX-03)
    2  open     runs of one state together: valid? encapsulated alike? replayed? expired? authentic? decapsulate (LT-08)
                ESP inside transport mode is opened at once: no device has it yet, no policy is asked
    3  device   the interface whose if_id is the state's, if it is up (RX-04)
    4  count    the device has received it, before any policy is asked (1.4)
    5  check    `in` or `fwd` policy of that if_id (2.6), unless the device is told to ask none (RX-12)
    6  nested   ESP for this host inside, and its state is here: begin again, with one more state to answer for (RX-02)
    7  deliver  grouped by interface, in order

Where a device takes super-packets, neighbours of one flow are put together (gro.py) before 5: what is one packet to the
TUN is asked about once. Every number counted is still of packets.

One packet that comes through a tunnel alone takes a shorter way to the same end (_receive_lone).

Nothing is raised: each packet that dies here has raised its counter by the time `input` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from xfrmi.core.burst import open_burst
from xfrmi.core.dropped import tell
from xfrmi.core.gro import coalesce
from xfrmi.core.gro_train import merge_train
from xfrmi.core.lone import opener
from xfrmi.core.open_train import open_train
from xfrmi.core.policy_check import check_input
from xfrmi.core.router import LOOPBACK_IFINDEX
from xfrmi.core.state import KM_DEAD
from xfrmi.core.train import Arrived
from xfrmi.core.verdict import OFF_THE_WIRE, Way, known_verdict, mark_of, refresh, verdict_on
from xfrmi.errors import Drop
from xfrmi.wire.esp import ESP_HEADER_LEN
from xfrmi.wire.flow import flow_of
from xfrmi.wire.ip import destination_of, renew_checksum, split_outer, trim, upper_layer
from xfrmi.wire.xfrm_const import IPPROTO_ESP, XFRM_MAX_DEPTH, Dir, Mode, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.burst import Drops
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.state import State
    from xfrmi.core.verdict import Verdict
    from xfrmi.wire.ip import Buffer
    from xfrmi.wire.vnet import Packet

    Datagram = tuple[Buffer, Buffer]
    """(outer header, ESP packet from the SPI on); see wire.ip.split_outer."""
    Delivered = list[tuple[Interface, list[Packet]]]

SPI_LEN = 4
_TUNNEL = int(Mode.TUNNEL)
_header_of = itemgetter(0)


def input(engine: Engine, burst: Sequence[Datagram | Arrived], now: float) -> list[tuple[Interface, list[Packet]]]:
    """Receive `burst`. Returns the packets each interface delivers, in order."""
    delivered: Delivered = []
    waiting: list[Datagram] = []
    for item in burst:
        if not isinstance(item, Arrived):
            waiting.append(item)
            continue
        _receive_few(engine, waiting, delivered, now)
        waiting = [] if _receive_train(engine, item, delivered, now) else item.datagrams()
    _receive_few(engine, waiting, delivered, now)
    return delivered


def _receive_few(engine: Engine, datagrams: list[Datagram], delivered: Delivered, now: float) -> None:
    if len(datagrams) == 1 and _receive_lone(engine, datagrams[0], delivered, now):
        return
    if datagrams:
        _walk(engine, datagrams, OFF_THE_WIRE, delivered, now)


def _receive_train(engine: Engine, train: Arrived, delivered: Delivered, now: float) -> bool:
    """What _walk does, for a train that comes through a tunnel; the quickest if it is of one flow that has been let in
    before. False if there is more to it, and then nothing has happened."""
    start, count = train.start, train.count
    spi = int.from_bytes(train.block.rows[start][:SPI_LEN], "big")
    state = engine.sad.lookup_input(destination_of(train.header), spi, IPPROTO_ESP, 0)
    if state is None or (opened := open_train(state, train, now)) is None:
        return False
    packets, drops, views = opened
    interface = engine.interfaces.for_state(state.if_id)
    if interface is not None and views is not None:
        verdict = known_verdict(engine, interface, state, packets[0], now)
        merged = merge_train(views, slice(start, start + count), interface.takes) if verdict is not None else None
        if verdict is not None and merged is not None:
            _let_in(engine, interface, state, verdict, count, count * len(packets[0]), now)
            delivered.append((interface, merged))
            return True
    _after_run(engine, state, packets, drops, [], OFF_THE_WIRE, delivered, now)
    return True


def _receive_lone(engine: Engine, datagram: Datagram, delivered: Delivered, now: float) -> bool:
    """What _walk does, for one packet in a tunnel; the quickest if its flow has been let in before. False if there is
    more to it, and then nothing has happened."""
    header, esp = datagram
    if len(esp) < ESP_HEADER_LEN:
        return False
    state = engine.sad.lookup_input(destination_of(header), int.from_bytes(esp[:SPI_LEN], "big"), IPPROTO_ESP, 0)
    if state is None or state.mode != _TUNNEL:
        return False
    try:
        packet = opener(state)(state, header, esp, now)
    except Drop as drop:
        _after_run(engine, state, [], [(0, drop)], [datagram], OFF_THE_WIRE, delivered, now)
        return True
    interface = engine.interfaces.for_state(state.if_id)
    verdict = known_verdict(engine, interface, state, packet, now) if interface is not None else None
    if interface is None or verdict is None:
        _after_run(engine, state, [packet], [], [datagram], OFF_THE_WIRE, delivered, now)
        return True
    _let_in(engine, interface, state, verdict, 1, len(packet), now)
    delivered.append((interface, [packet]))
    return True


def _let_in(
    engine: Engine, interface: Interface, state: State, verdict: Verdict, packets: int, size: int, now: float
) -> None:
    """What is counted and told of packets whose flow has been let in before."""
    if engine.sad.aevents.wanted:
        engine.sad.aevents.moved((state,), now)
    interface.rx_packets += packets
    interface.rx_bytes += size
    if verdict.policy is not None:
        verdict.policy.use_time = int(now)


def _walk(engine: Engine, datagrams: Sequence[Datagram], way: Way, delivered: Delivered, now: float) -> None:
    """`input` for what has come through other states already."""
    if len(way.secpath) == XFRM_MAX_DEPTH:
        engine.stats[XfrmStat.IN_BUFFER_ERROR] += len(datagrams)
        for datagram in datagrams:
            tell(engine, XfrmStat.IN_BUFFER_ERROR, "nested deeper than can be checked", datagram)
        return
    run: list[Datagram] = []
    run_key: tuple[bytes, Buffer] | None = None
    run_state: State | None = None
    for header, group in groupby(datagrams, _header_of):
        # 1 find
        daddr = destination_of(header)
        for spi, alike in _by_spi(list(group)):
            if len(spi) < SPI_LEN:
                engine.stats[XfrmStat.IN_HDR_ERROR] += len(alike)
                for datagram in alike:
                    tell(engine, XfrmStat.IN_HDR_ERROR, "truncated ESP header", datagram)
                if way.verified < len(way.secpath):  # inside transport mode, so it has a state and that a device
                    _count_error(engine.interfaces.for_state(way.secpath[-1].if_id), len(alike))
                continue
            if (daddr, spi) != run_key:
                if run_state is not None:
                    _open_run(engine, run_state, run, way, delivered, now)
                run = []
                run_key = daddr, spi
                run_state = engine.sad.lookup_input(daddr, int.from_bytes(spi, "big"), IPPROTO_ESP, way.mark)
            if run_state is None:
                engine.stats[XfrmStat.IN_NO_STATES] += len(alike)
                if engine.on_drop is not None:
                    for datagram in alike:
                        tell(engine, XfrmStat.IN_NO_STATES, "no state with this destination and SPI", datagram)
            else:
                run += alike
    if run_state is not None:
        _open_run(engine, run_state, run, way, delivered, now)


def _by_spi(datagrams: list[Datagram]) -> Iterable[tuple[bytes, Sequence[Datagram]]]:
    """Neighbours with the same SPI; those without a whole ESP header have an empty one."""
    if len(datagrams) == 1:
        return ((_spi_of(datagrams[0]), datagrams),)
    first = bytes(datagrams[0][1][:SPI_LEN])
    spis = [esp[:SPI_LEN] if len(esp) >= ESP_HEADER_LEN else b"" for _, esp in datagrams]
    if b"".join(spis) == first * len(datagrams):
        return ((first, datagrams),)
    return ((spi, list(group)) for spi, group in groupby(datagrams, _spi_of))


def _spi_of(datagram: Datagram) -> bytes:
    return bytes(datagram[1][:SPI_LEN]) if len(datagram[1]) >= ESP_HEADER_LEN else b""


def _open_run(
    engine: Engine, state: State, datagrams: list[Datagram], way: Way, delivered: Delivered, now: float
) -> None:
    # 2 open
    packets, drops = open_burst(state, datagrams, now)
    _after_run(engine, state, packets, drops, datagrams, way, delivered, now)


def _after_run(
    engine: Engine,
    state: State,
    packets: list[Buffer],
    drops: Drops,
    datagrams: list[Datagram],
    way: Way,
    delivered: Delivered,
    now: float,
) -> None:
    if engine.sad.aevents.wanted:
        engine.sad.aevents.moved((state,), now)
    came = Way((*way.secpath, state), way.verified, way.mark)
    inside: list[Datagram] = []
    if state.mode == Mode.TRANSPORT:
        packets, inside = _esp_inside(packets)
        if state.encap is not None:
            _renew_checksums(packets)
    # 3 device
    interface = engine.interfaces.for_state(state.if_id)
    late: list[Datagram] = []
    for index, drop in drops:
        if state.km == KM_DEAD and drop.stat == XfrmStat.IN_STATE_INVALID:
            late.append(datagrams[index])  # the state reached its end within this run: there is none any more
            continue
        if drop.stat is not None:
            engine.stats[drop.stat] += 1
        if drop.stat != XfrmStat.IN_STATE_DIR_ERROR:
            _count_error(interface)
        tell(engine, drop.stat, drop.reason, datagrams[index] if datagrams else (b"", b""), interface, state)
    if interface is None:
        _refuse_stray(engine, came, packets, now)
    elif packets:
        _receive(engine, interface, came, packets, delivered, now)
    if inside:
        _walk(engine, inside, came, delivered, now)
    if late:
        _walk(engine, late, way, delivered, now)


def _esp_inside(packets: list[Buffer]) -> tuple[list[Buffer], list[Datagram]]:
    """What came out of a transport state: (other packets, those that are ESP still)."""
    others: list[Buffer] = []
    inside: list[Datagram] = []
    for packet in packets:
        try:
            protocol, offset, fragment = upper_layer(packet)
        except ValueError:  # IP's to refuse
            protocol, offset, fragment = 0, 0, 0
        if protocol == IPPROTO_ESP and fragment == -1:
            inside.append((packet[:offset], packet[offset:]))
        else:
            others.append(packet)
    return others, inside


def _renew_checksums(packets: list[Buffer]) -> None:
    """A NAT on the way has changed addresses that TCP and UDP have in their checksums (RFC 3948 3.1.2). A kernel takes
    these for right, since the ICV has been; a packet on its way into a TUN cannot be marked so, they are made right."""
    for packet in packets:
        assert isinstance(packet, bytearray)  # transport mode puts each together
        renew_checksum(packet)


def _receive(
    engine: Engine, interface: Interface, way: Way, packets: list[Buffer], delivered: Delivered, now: float
) -> None:
    refresh(engine, interface, now)
    # 4 count
    if not interface.away:
        _count(interface, way.secpath[-1], packets)
    # 5 check, 6 nested
    accepted: list[Packet] = []
    refused: set[int] = set()
    nested: list[Datagram] = []
    at = 0
    for merged, count in coalesce(packets, interface.takes):
        verdict = verdict_on(engine, interface, way, packets[at], now)
        if verdict is None:
            refused.add(at)
            for index in range(at + 1, at + count):  # every refusal counts
                if verdict_on(engine, interface, way, packets[index], now) is None:
                    refused.add(index)
                else:
                    accepted.append(packets[index])
        elif verdict.nested and (datagram := _nested(engine, packets[at], mark_of(way.secpath))) is not None:
            nested.append(datagram)
        else:
            accepted.append(merged)
        at += count
    if interface.away:  # RX-10: asked before the packet leaves its home, so what is refused has not been received
        interface.rx_errors += len(refused)
        interface.rx_dropped += len(refused)
        _count(interface, way.secpath[-1], [packet for at, packet in enumerate(packets) if at not in refused])
    # 7 deliver
    if accepted:
        if delivered and delivered[-1][0] is interface:
            delivered[-1][1].extend(accepted)
        else:
            delivered.append((interface, accepted))
    if nested:
        again = Way(way.secpath, len(way.secpath), mark_of(way.secpath))
        _walk(engine, nested, again, delivered, now)


def _count_error(interface: Interface | None, packets: int = 1) -> None:
    if interface is not None:
        interface.rx_errors += packets
        interface.rx_dropped += packets


def _count(interface: Interface, state: State, packets: list[Buffer]) -> None:
    interface.rx_packets += len(packets)
    interface.rx_bytes += sum(map(len, packets))
    if state.mode == Mode.TRANSPORT:  # only what follows the IP header counts
        interface.rx_bytes -= sum(_ip_header_len(packet) for packet in packets)


def _nested(engine: Engine, packet: Buffer, mark: int) -> Datagram | None:
    """An ESP packet for this host as a datagram, if its state is one of ours. Anything else, fragments too, is the
    host's: what it finds to be ESP comes back through the raw socket."""
    try:
        header, esp = split_outer(packet)
    except ValueError:
        return None
    state = engine.sad.lookup_input(destination_of(header), int.from_bytes(esp[:4], "big"), IPPROTO_ESP, mark)
    return None if state is None else (header, esp)


def _refuse_stray(engine: Engine, way: Way, packets: list[Buffer], now: float) -> None:
    """RX-05: a state without a device. The kernel goes on as policy IPsec with if_id 0 on the original device.

    A policy refusal counts as the kernel's; what a policy would let in has no device to go to and is XfrmInError.
    """
    for packet in packets:
        stat: XfrmStat | None = XfrmStat.IN_ERROR
        reason = "no device has the if_id of the state, or it is down"
        try:
            flow = flow_of(trim(packet))
            check_input(
                engine.spd, Dir.IN, 0, flow, way.secpath, mark_of(way.secpath), now,
                ifindex=LOOPBACK_IFINDEX, verified=way.verified,
            )  # fmt: skip
        except Drop as drop:
            stat, reason = drop.stat, drop.reason
        except ValueError as error:
            stat, reason = None, str(error)
        if stat is not None:
            engine.stats[stat] += 1
        tell(engine, stat, reason, packet, None, way.secpath[-1])


def _ip_header_len(packet: Buffer) -> int:
    return (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
