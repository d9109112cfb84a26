"""Engine.input of trains: what is delivered, cut up again, and all that is counted, is what the same datagrams make one
by one, whatever is in a train: flows, flags, options, wrong checksums, wrong ICVs."""

from __future__ import annotations

import random
from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.pair import KEY, NOW, OUTER, Pair, policies, raised
from tests.core.test_gro import ACK, ALL, CWR, FIN, ODD_ONES, PSH, TIMESTAMPS, datagram, tcp
from tests.core.trains import Memory
from tests.each import each
from tests.examples import examples, some, thinned
from xfrmi.core import Algorithm, Interface, PolicyInfo, Selector
from xfrmi.core.gso import segment
from xfrmi.core.train import Arrived
from xfrmi.wire.ip import Buffer, ipv4_header_checksum, renew_checksum, split_outer
from xfrmi.wire.vnet import Gathered, Packet, SuperPacket, emit, parse
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, STATE_DECAP_DSCP, STATE_ESN, Action, Dir
from xfrmi.wire.xfrm_types import Encap, Limits, ReplayEsn

Datagrams = list[tuple[Buffer, Buffer]]
Delivered = list[tuple[Interface, list[Packet]]]

SLOW = settings(deadline=None, max_examples=examples(250), suppress_health_check=[HealthCheck.too_slow])
both = pytest.mark.parametrize("version", [4, 6])
MOST_DATAGRAMS = 64


def flattened(delivered: Delivered) -> dict[str, list[bytes]]:
    """Every packet of each interface, as the TUN's reader on the other side of a wire would see it."""
    packets: dict[str, list[bytes]] = {}
    for interface, group in delivered:
        into = packets.setdefault(interface.name, [])
        for packet in group:
            if not isinstance(packet, SuperPacket):
                into.append(bytes(packet))
                continue
            assert packet.gso_type in interface.takes and len(packet.data) <= 0xFFFF
            assert b"".join(packet.pieces()) == packet.data
            read = parse(memoryview(bytearray(emit(packet) + bytes(packet.data))))
            assert isinstance(read, SuperPacket) and read.hdr_len == packet.hdr_len and read.segments > 1
            assert read.gso_type != 5 or read.segments <= MOST_DATAGRAMS
            into += map(bytes, segment(read))
    return packets


class Twins:
    """Two receivers with the same tables, and the sender whose packets both get."""

    def __init__(self, outer: int = 4, takes: frozenset[int] = ALL, **fields: Any) -> None:
        self.lone, self.train = Pair(outer, **fields), Pair(outer, **fields)
        self.interfaces: list[list[Interface]] = []
        for pair in (self.lone, self.train):
            pair.left.interface("xfrm1", 43)
            second = pair.right.interface("xfrm1", 43)
            pair.add_tunnel(outer, 43, 0x2000, **fields)
            self.interfaces.append([pair.xfrm_right, second])
        for interface in self.interfaces[1]:
            interface.takes = takes
        self.now = NOW
        self._memory: dict[int, Memory] = {}

    def seal(self, packets: list[bytes], which: int = 0) -> Datagrams:
        left = self.lone.left.engine
        outgoing, _ = left.output(left.interfaces[f"xfrm{which}"], packets, self.now)
        datagrams = [split_outer(bytes(packet)) for group in outgoing for packet in group.packets]
        # A UDP socket tells no checksums (dev/udp_headers.py).
        return [(bytes(header[:46]) + bytes(2) if len(header) == 48 else header, esp) for header, esp in datagrams]

    def receive(self, items: list[Any]) -> tuple[dict[str, list[bytes]], Delivered]:
        """Both, and what they say must be the same. Returns what has been delivered, and how."""
        self.now += 0.01
        apart: Datagrams = []
        for item in items:
            for header, packet in item.datagrams() if isinstance(item, Arrived) else [item]:
                apart.append((bytes(header), bytes(packet)))
        expected = flattened(self.lone.right.engine.input(apart, self.now))
        delivered = self.train.right.engine.input(items, self.now)
        result = flattened(delivered)
        assert result == expected
        self.compare()
        return result, delivered

    def as_trains(self, datagrams: Datagrams, splits: random.Random | None = None) -> list[Any]:
        """Neighbours of one header and one length as trains, or at random as trains of some and datagrams. As in a
        device, they lie in memory that has been used before, behind each other."""
        items: list[Any] = []
        used: dict[int, int] = {}
        for (header, length), group in groupby(datagrams, lambda one: (bytes(one[0]), len(one[1]))):
            packets = [bytes(packet) for _, packet in group]
            while packets:
                count = splits.randint(1, len(packets)) if splits and splits.random() < 0.5 else len(packets)
                run, packets = packets[:count], packets[count:]
                if length < 44 or (splits and splits.random() < 0.2):
                    items += [(header, packet) for packet in run]
                    continue
                start = used.get(length, 0) + (splits.randint(0, 3) if splits else 0)
                used[length] = start + count
                memory = self._memory.get(length)
                if memory is None:
                    memory = self._memory[length] = Memory(300, length, 20, 3)
                if start + count > 300:
                    memory, start = Memory(count, length), 0
                items.append(memory.receive(header, run, start))
        return items

    def compare(self) -> None:
        lone, train = self.lone.right.engine, self.train.right.engine
        assert train.stats == lone.stats
        assert [raised(one) for one in self.interfaces[1]] == [raised(one) for one in self.interfaces[0]]
        assert [one.use_time for one in train.spd.dump()] == [one.use_time for one in lone.spd.dump()]
        assert list(map(seen, train.sad.dump())) == list(map(seen, lone.sad.dump()))


def seen(state: Any) -> tuple[Any, ...]:
    return state.spi, state.km, state.dying, state.snapshot(), state.window.top, state.window.seen


# What can be in a train -----------------------------------------------------------------------------------------------

ODD = {name: fields for name, fields in ODD_ONES.items() if name not in ("no options", "longer", "empty")}
OPTIONS = st.sampled_from([b"", TIMESTAMPS, b"\1" * 40])


@st.composite
def runs(draw: st.DrawFn) -> list[bytes]:
    """Packets of one length, most of them of one stream."""
    version, size = draw(st.sampled_from([4, 6])), draw(st.sampled_from([2, 32, 100, 1200, 33]))
    count = draw(st.sampled_from([1, 8, 20, 70]))
    if draw(st.integers(0, 3)) == 0:
        run = [datagram(version, number, size) for number in range(count)]
    else:
        fixed: dict[str, Any] = {
            "options": draw(OPTIONS), "start": draw(st.sampled_from([0, 0xFFFFFF00, 0x1_0000_0000 - size * count])),
            "flags": draw(st.sampled_from([ACK, ACK, ACK, ACK | 0x40])),
        }  # fmt: skip
        wraps = draw(st.sampled_from([0, 0x10000 - count, 0xFFFF]))
        fields = [fixed | {"ident": number + wraps & 0xFFFF} for number in range(count)]
        if draw(st.booleans()):  # every so many have been pushed
            every = draw(st.integers(1, 20))
            for number in range(every, count, every):
                fields[number]["flags"] |= PSH
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
            at = draw(st.integers(0, count - 1))
            for name in draw(st.lists(st.sampled_from(list(ODD)), max_size=2)):
                change: dict[str, Any] = ODD[name]  # type: ignore[assignment]
                if "options" not in change or fixed["options"] == TIMESTAMPS:
                    fields[at] |= change
            fields[at]["flags"] |= draw(st.sampled_from([0, 0, PSH, FIN, FIN | PSH, CWR, 0x24]))
        run = [tcp(version, number, size, **fields[number]) for number in range(count)]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1]))):
        at = draw(st.integers(0, count - 1))
        damaged = bytearray(run[at])
        damaged[draw(st.integers(0, min(len(damaged) - 1, 70)))] ^= 1 << draw(st.integers(0, 7))
        run[at] = bytes(damaged)
    if draw(st.integers(0, 4)) == 0:
        run[draw(st.integers(0, count - 1))] = run[draw(st.integers(0, count - 1))]
    if draw(st.integers(0, 4)) == 0:  # the next flow, without a pause
        run += [tcp(version, number, size, port=83, options=TIMESTAMPS) for number in range(9)]
    return run


@st.composite
def receivers(draw: st.DrawFn) -> dict[str, Any]:
    fields: dict[str, Any] = {"outer": draw(st.sampled_from([4, 6])), "replay_window": draw(st.sampled_from([0, 32]))}
    fields["flags"] = STATE_AF_UNSPEC | draw(st.sampled_from([0, 0, 0, STATE_DECAP_DSCP]))
    if draw(st.booleans()):
        fields["encap"] = Encap()
    if draw(st.booleans()):
        fields["flags"] |= STATE_ESN
        fields |= {"replay_window": 0, "replay_esn": ReplayEsn((0, 0, 0, 0), replay_window=128)}
    if draw(st.integers(0, 3)) == 0:
        fields["limits"] = Limits(
            hard_packets=draw(st.integers(1, 200)), soft_bytes=draw(st.sampled_from([1000, 20000]))
        )
    return fields


@SLOW
@given(fields=receivers(), bursts=st.lists(st.lists(runs(), min_size=1, max_size=3), min_size=1, max_size=4),
       seed=st.integers(0, 1 << 32), takes=st.sampled_from([ALL, ALL, ALL, frozenset[int]()]))  # fmt: skip
def test_trains_are_their_datagrams(
    fields: dict[str, Any], bursts: list[list[list[bytes]]], seed: int, takes: frozenset[int]
) -> None:
    """Several bursts, so that flows are known; through two interfaces; with losses, replays and forgeries between."""
    splits = random.Random(seed)
    twins = Twins(takes=takes, **fields)
    for burst in bursts:
        datagrams: Datagrams = []
        for run in burst:
            datagrams += twins.seal(run, splits.choice([0, 0, 1]))
        for _ in range(splits.choice([0, 0, 1, 3]) if datagrams else 0):
            at = splits.randrange(len(datagrams))
            what = splits.choice(["touch", "lose", "replay", "mark"])
            header, packet = datagrams[at]
            if what == "touch":
                touched = bytearray(packet)
                touched[splits.randrange(len(packet))] ^= 1
                datagrams[at] = header, bytes(touched)
            elif what == "lose" and len(datagrams) > 1:
                del datagrams[at]
            elif what == "replay":
                datagrams.insert(splits.randint(0, len(datagrams)), datagrams[at])
            elif what == "mark":
                for index in range(at, len(datagrams)):
                    marked = bytearray(datagrams[index][0])
                    marked[1] |= 3 if marked[0] >> 4 == 4 else 0x30
                    datagrams[index] = bytes(marked), datagrams[index][1]
        what = splits.choice(["", "", "", "", "", "down", "away", "no policy", "listen"])
        for pair, interfaces in zip((twins.lone, twins.train), twins.interfaces, strict=True):
            interfaces[0].up = what != "down"
            interfaces[0].away = what == "away"
            interfaces[0].verdicts.clear()
            if what == "no policy":
                pair.right.engine.flush_policies(0, twins.now)
            pair.right.engine.sad.aevents.listeners = int(what == "listen")
        twins.receive(twins.as_trains(datagrams, splits))


# What has to become one -----------------------------------------------------------------------------------------------


def joined(twins: Twins, run: list[bytes]) -> list[int]:
    """How many packets each delivered one stands for."""
    _, delivered = twins.receive(twins.as_trains(twins.seal(run)))
    return [packet.segments if isinstance(packet, SuperPacket) else 1 for _, group in delivered for packet in group]


def known(outer: int = 4, version: int = 4, **fields: Any) -> Twins:
    """A receiver that knows the flows of tcp() and datagram()."""
    twins = Twins(outer, **fields)
    twins.receive(
        twins.as_trains(twins.seal([tcp(version, start=5), datagram(version), tcp(version, port=82, start=9)]))
    )
    return twins


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("encap", [None, Encap()])
@both
def test_a_stream_is_one_packet_and_not_copied(version: int, outer: int, encap: Encap | None) -> None:
    twins = known(outer, version, encap=encap)
    for run in (
        [tcp(version, number, 1200, start=1, ident=number) for number in range(40)],
        [datagram(version, number, 1200) for number in range(40)],
        [tcp(version, number, 100, start=1, ident=number, options=b"") for number in range(128)],
    ):
        _, delivered = twins.receive(twins.as_trains(twins.seal(run)))
        ((_, (packet,)),) = delivered
        assert isinstance(packet, Gathered) and packet.segments == len(run)
        assert len(packet.pieces()) == 1 + len(run)


@both
def test_no_more_than_fits(version: int) -> None:
    """64 KiB, or 64 datagrams."""
    twins = known(version=version)
    most = 0xFFFF - 20 - 12 - (20 if version == 4 else 40)
    size = 1300
    run = [tcp(version, number, size, start=1, ident=number) for number in range(120)]
    fits = most // size
    assert joined(twins, run) == [fits, fits, 120 - 2 * fits]
    assert joined(twins, [datagram(version, number, 200) for number in range(100)]) == [64, 36]


@both
@pytest.mark.parametrize("flags", [PSH, FIN, FIN | PSH])
def test_what_ends_a_packet_is_in_it(version: int, flags: int) -> None:
    twins = known(version=version)
    for at in (1, 7, 18, 19):
        run = [tcp(version, number, start=1, ident=number, flags=ACK | (flags if number == at else 0))
               for number in range(20)]  # fmt: skip
        assert joined(twins, run) == ([at + 1, 19 - at] if at < 19 else [20])


@both
@each("extra", [0, PSH, FIN])
@each("name", ODD)
def test_what_differs_is_not_joined(name: str, extra: int, version: int) -> None:
    """Also where the one that differs would otherwise be the last of a packet."""
    twins = known(version=version)
    for at in (0, 1, 10, 19):
        run = []
        for number in range(20):
            fields: dict[str, Any] = {"start": 1, "ident": number, "options": TIMESTAMPS}
            if number == at:
                change: dict[str, Any] = dict(ODD[name])  # type: ignore[call-overload]
                if "start" in change:
                    change["start"] = 3
                change["flags"] = change.get("flags", ACK) | extra
                fields |= change
            run.append(tcp(version, number, **fields))
        assert sum(joined(twins, run)) == 20


@thinned
@both
@pytest.mark.parametrize("extra", [0, PSH])
def test_every_bit_of_a_header(version: int, extra: int) -> None:
    """Turned on the way to the sealing peer, who gets right checksums all the same; in the middle, and at the end."""
    twins = known(version=version)
    for at in (3, 7):
        run = [tcp(version, number, 32, start=1, ident=number, flags=ACK | (extra if number == at else 0))
               for number in range(8)]  # fmt: skip
        for bit in some(range(8, 8 * (len(run[0]) - 32))):
            if bit // 8 in range(*((2, 4) if version == 4 else (4, 6))):
                continue  # a packet that lies about its length is not sealed
            turned = bytearray(run[at])
            turned[bit // 8] ^= 1 << bit % 8
            if version == 4:
                turned[10:12] = ipv4_header_checksum(turned[:20]).to_bytes(2, "big")
            renew_checksum(turned)
            twins.receive(twins.as_trains(twins.seal([*run[:at], bytes(turned), *run[at + 1 :]])))


@thinned
@both
def test_every_combination_of_flags(version: int) -> None:
    """In all packets of a train, in two of the middle, in the last two."""
    twins = known(version=version)
    for flags in some(range(256)):
        for those in (range(8), range(3, 5), range(6, 8)):
            run = [tcp(version, at, 32, start=1, ident=at, flags=flags if at in those else ACK) for at in range(8)]
            twins.receive(twins.as_trains(twins.seal(run)))


@both
def test_a_policy_that_refuses_one_of_two_flows(version: int) -> None:
    """It is asked about each, also if a train has both, and has been asked about the first before."""
    twins = known(version=version)
    anywhere = "0.0.0.0/0" if version == 4 else "::/0"
    refused = PolicyInfo(Selector.parse(anywhere, proto=6, sport=82), Dir.FWD, 42, action=Action.BLOCK)
    for pair in (twins.lone, twins.train):
        pair.right.engine.flush_policies(0, NOW)
        for info in (refused, *policies(*OUTER[4], out=False)):  # of the same priority: the first one decides
            pair.right.engine.add_policy(info, NOW)
    one, other = ([tcp(version, at, start=1, ident=at, port=port) for at in range(10)] for port in (80, 82))
    twins.receive(twins.as_trains(twins.seal(one)))
    for _ in range(2):
        for run in (one + other, other + one, one[:5] + other + one[5:]):
            packets, _ = twins.receive(twins.as_trains(twins.seal(run)))
            assert packets == {"xfrm0": one}


@both
def test_the_end_of_what_is_too_long_for_one_packet(version: int) -> None:
    """FIN and PSH are the last one's, not those of the packets before it."""
    twins = known(version=version)
    for flags in (PSH, FIN, FIN | PSH):
        run = [tcp(version, at, 1300, start=1, ident=at, flags=ACK | (flags if at == 59 else 0)) for at in range(60)]
        assert joined(twins, run) == [50, 10]


def test_an_ipv4_checksum_that_is_wrong_throughout() -> None:
    """By the same in each packet: putting them together would mend it."""
    twins = known()
    run = [bytearray(tcp(number=number, start=1, ident=number)) for number in range(20)]
    for packet in run:
        packet[10:12] = (int.from_bytes(packet[10:12], "big") + 256).to_bytes(2, "big")
    assert joined(twins, [bytes(packet) for packet in run]) == [1] * 20


def test_when_a_policy_was_used_last() -> None:
    twins = known()
    for _ in range(3):
        twins.now += 1
        twins.receive(twins.as_trains(twins.seal([tcp(number=at, start=1, ident=at) for at in range(20)])))
        assert int(twins.now) in {policy.use_time for policy in twins.train.right.engine.spd.dump()}


@both
def test_wrong_checksums_stay_alone(version: int) -> None:
    """Were one put together with others, it would be gone."""
    twins = known(version=version)
    for make in (tcp, datagram):
        for at in (0, 1, 10, 19):
            for where in (-1, -2, 20 if version == 4 else 40):
                run = [bytearray(make(version, number)) for number in range(20)]
                if make is tcp:
                    run = [bytearray(tcp(version, number, start=1, ident=number)) for number in range(20)]
                run[at][where] ^= 4
                assert 1 in joined(twins, [bytes(packet) for packet in run])


def test_a_checksum_that_is_right_but_written_otherwise() -> None:
    """0xffff for 0 in TCP: gso.py would write it differently."""
    packets = [bytearray(tcp(number=number, start=1, ident=number)) for number in range(12)]
    packet = packets[6]
    rest = int.from_bytes(packet[-2:], "big") + int.from_bytes(packet[36:38], "big")
    packet[-2:], packet[36:38] = (rest % 0xFFFF).to_bytes(2, "big"), b"\xff\xff"
    twins = known()
    assert joined(twins, [bytes(one) for one in packets]) == [6, 1, 5]
    packet[36:38] = bytes(2)
    assert joined(twins, [bytes(one) for one in packets]) == [12]


@both
def test_known_flows_only_and_only_what_the_device_takes(version: int) -> None:
    run = [tcp(version, number, start=1, ident=number) for number in range(20)]
    stranger = Twins()
    assert joined(stranger, run) == [20]  # by way of gro.py
    plain = Twins(takes=frozenset())
    assert joined(plain, run) == joined(plain, run) == [1] * 20
    mixed = known(version=version)
    for other in (tcp(version, 3, port=82), datagram(version, 3, 112)):
        assert len(other) == len(run[0]) or other[-100:] != run[0][-100:]
        assert sum(joined(mixed, [*run[:9], other, *run[9:]])) == 21


def test_a_limit_within_a_train() -> None:
    """The state is gone then: the packets behind it have none."""
    for limit in (1, 5, 19, 20, 21):
        twins = Twins(limits=Limits(hard_packets=limit + 3))
        twins.receive(twins.as_trains(twins.seal([tcp(start=5), datagram(), tcp(port=82, start=9)])))
        free = Pair()
        sealed = [split_outer(one) for one in free.emit(*[tcp(number=at, start=1, ident=at) for at in range(24)])][3:]
        packets, _ = twins.receive(twins.as_trains(sealed))
        assert len(packets.get("xfrm0", [])) == min(limit, 21)


@pytest.mark.parametrize("name", ["rfc4106(gcm(aes))", "rfc4543(gcm(aes))", "rfc4309(ccm(aes))"])
def test_whatever_the_state(name: str) -> None:
    """Algorithms that are done in rows and others, and more than one interface."""
    aead = Algorithm(name, KEY[: 19 if "ccm" in name else 20], 128)
    twins = known(aead=aead)
    run = [tcp(number=number, start=1, ident=number) for number in range(20)]
    assert joined(twins, run) == [20]
    datagrams = [*twins.seal(run, 1), *twins.seal(run, 0), *twins.seal(run, 1)]
    packets, _ = twins.receive(twins.as_trains(datagrams))
    assert packets == {"xfrm0": run, "xfrm1": run * 2}


@thinned
@each("seed", range(examples(20)))
def test_noise(seed: int) -> None:
    """What only looks like ESP, in trains, of states that exist and of others."""
    dice = random.Random(seed)
    twins = known()
    ((header, _),) = twins.seal([tcp()])
    items: list[Any] = []
    for _ in range(20):
        length, spi, first = dice.randint(44, 200), dice.choice([0x1000, 0x2000, 0x3000]), dice.randint(0, 1 << 31)
        packets = [
            spi.to_bytes(4, "big") + (first + number).to_bytes(4, "big") + dice.randbytes(length - 8)
            for number in range(dice.randint(1, 30))
        ]
        items.append(Memory(len(packets), length).receive(header, packets))
    packets, _ = twins.receive(items)
    assert not packets
    stats = twins.train.right.moved()
    assert set(stats) == {"XfrmInStateProtoError", "XfrmInNoStates"}
    assert sum(stats.values()) == sum(item.count for item in items)


@both
def test_any_rows_of_one_memory(version: int) -> None:
    """Neither the first row nor the last tells which rows a train has, nor its length which flow."""
    twins, memory = known(version=version), {}
    places = [(0, 20), (5, 15), (0, 20), (0, 15), (5, 15), (3, 12), (3, 9)]
    for number, (start, count) in enumerate(places * 4):
        turn = number // len(places)
        size = 100 if turn % 2 else 112
        run = [tcp(version, at, size, start=number, ident=at, options=TIMESTAMPS * (turn % 2)) for at in range(count)]
        if turn == 2:
            run = [datagram(version, at, 124) for at in range(count)]
        ((header, _), *_), packets = (sealed := twins.seal(run)), [packet for _, packet in sealed]
        rows = memory.setdefault(len(packets[0]), Memory(30, len(packets[0])))
        _, delivered = twins.receive([rows.receive(header, packets, start)])
        ((_, (packet,)),) = delivered
        assert isinstance(packet, Gathered) and packet.segments == count
    assert len(memory) == 1
