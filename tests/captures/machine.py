"""The machine of the captures, made of an Engine: its devices and addresses, and the commands that set it up.

It has 192.0.2.2 and 2001:db8::2 on eth0; xfrm0 (`dev eth0 if_id 42`) with 198.51.100.1 and 2001:db8:1::1; xfrm1 with
if_id 43; 203.0.113.1 and 2001:db8:2::1 on eth1. Nobody listens for acquires.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from xfrmi.core import Engine, Interface
from xfrmi.core.router import Route, StaticRouter
from xfrmi.core.state import State
from xfrmi.errors import XfrmError
from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.print_link import print_link
from xfrmi.formats.print_state import print_state
from xfrmi.formats.requests import AddPolicy, AddState, FlushPolicies, FlushStates
from xfrmi.formats.show import Show
from xfrmi.wire.address import pack_address
from xfrmi.wire.link_types import IFF_LOWER_UP, IFF_NOARP, IFF_UP, LinkInfo, LinkStats
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_types import Limits, ReplayEsn

INDEX = {"lo": 1, "eth0": 2, "xfrm0": 3, "eth1": 4, "xfrm1": 5}
OWN = ("192.0.2.2", "2001:db8::2", "198.51.100.1", "2001:db8:1::1", "203.0.113.1", "2001:db8:2::1")
NOW = 1_700_000_000.0
MTU = 1500

LINK_COUNTERS = {
    "rx_packets": "rx_packets", "rx_bytes": "rx_bytes", "rx_errors": "rx_errors", "rx_dropped": "rx_dropped",
    "tx_packets": "tx_packets", "tx_bytes": "tx_bytes", "tx_errors": "tx_errors", "tx_dropped": "tx_dropped",
    "tx_carrier_errors": "tx_carrier", "tx_aborted_errors": "tx_aborted", "tx_collisions": "collisions",
}  # fmt: skip
"""As `ip -s -s -j link` names them -> as an Interface does."""

Counters = dict[str, dict[str, int]]
"""As `delta` of a vector: `xfrm_stat`, `link`, `sa`."""


class Scripted(State):
    """A state whose IVs and sequence numbers are those of a capture."""

    __slots__ = ("ivs",)

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        super().__init__(*arguments, **fields)
        self.ivs: list[bytes] = []

    def next_iv(self) -> bytes:
        return self.ivs.pop(0) if self.ivs else super().next_iv()

    def take_ivs(self, numbers: list[int], ivs: list[bytes]) -> None:
        """The IVs to come, and the sequence numbers they belong to. Where they are a counter XOR a salt, as the
        kernel's are, they are made from counter and salt: then a burst has them too."""
        salts = {number ^ int.from_bytes(iv, "big") for number, iv in zip(numbers, ivs, strict=True)}
        if len(salts) == 1 and all(len(iv) == 8 for iv in ivs) and numbers == list(range(numbers[0], numbers[-1] + 1)):
            self.iv_counter, self.iv_salt = numbers[0], salts.pop()
        else:
            self.ivs = list(ivs)


class Roads(StaticRouter):
    """Routes of the machine: everything by eth0, but for what `ip route replace` says."""

    def __init__(self) -> None:
        super().__init__(MTU, {pack_address(address) for address in OWN}, INDEX["eth0"])
        self.through: dict[bytes, int] = {}

    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        found = super().route(dst, src, ifindex, mark)
        assert found is not None
        if not ifindex and dst in self.through:
            found = found._replace(ifindex=self.through[dst])
        return found

    def changed(self) -> None:
        self.generation += 1


class Machine:
    def __init__(self, **options: Any) -> None:
        self.roads = Roads()
        self.engine = Engine(self.roads, **options)
        self.xfrm0 = self._interface("xfrm0", 42)
        self._interface("xfrm1", 43)
        self.route_mtu: dict[bytes, int] = {}
        """What the host's own routes into xfrm0 have learned, by destination."""

    def _interface(self, name: str, if_id: int) -> Interface:
        interface = self.engine.add_interface(name, if_id, link=INDEX["eth0"])
        interface.ifindex = INDEX[name]
        return interface

    # Commands --------------------------------------------------------------------------------------------------------

    def set_up(self, commands: list[str]) -> str:
        """Run what comes before a vector; returns what the tool would say. A command that speaks of links or routes
        means that an earlier experiment with them is over."""
        self.xfrm0.up = True  # the captures put it back up without saying so
        lines = [line.strip() for command in commands for line in command.split(";")]
        if any(not line.startswith("ip xfrm") for line in lines):
            self.xfrm0.mtu = self.roads.mtu = MTU
            self.roads.through.clear()
            self.roads.changed()
        said = []
        for line in lines:
            try:
                self.run(line)
            except XfrmError as error:
                said.append(complaint(error))
        return "\n".join(said)

    def run(self, line: str) -> None:
        """One command. Raises XfrmError as the kernel refuses; AssertionError for a command nobody has taught it."""
        if line.startswith("ip xfrm "):
            self._run_xfrm(line)
        elif found := re.fullmatch(r"ip link set (\w+) mtu (\d+)", line):
            self._set_mtu(found[1], int(found[2]))
        elif found := re.fullmatch(r"ip link set xfrm0 (up|down)", line):
            self.xfrm0.up = found[1] == "up"
        elif found := re.fullmatch(r"ip (?:-6 )?route (?:replace|add) (\S+) dev (\w+)", line):
            self.roads.through[pack_address(found[1].partition("/")[0])] = INDEX[found[2]]
        elif found := re.fullmatch(r"ip (?:-6 )?route (?:del|delete) (\S+)(?: dev \w+)?", line):
            self.roads.through.pop(pack_address(found[1].partition("/")[0]), None)
        else:
            assert re.fullmatch(r"ip (-6 )?route flush cache", line), f"what does {line!r} do?"
            self.route_mtu.clear()
            self.engine.router.expire(float("inf"))
        self.roads.changed()

    def _set_mtu(self, device: str, mtu: int) -> None:
        if device == "xfrm0":
            self.xfrm0.mtu = mtu
        else:
            assert device == "eth0"
            self.roads.mtu = mtu

    def _run_xfrm(self, line: str) -> None:
        request = parse(split_line(line), ifindex_of=lambda name: INDEX.get(name, 0))
        match request:
            case AddState(info=info, update=False):
                self.engine.add_state(Scripted(info, now=NOW), NOW)  # type: ignore[arg-type]
            case AddState(info=info):
                self.engine.update_state(info, NOW)
            case AddPolicy(info=info):
                self.engine.add_policy(info, NOW)
            case FlushStates(proto=proto):
                self.engine.flush_states(proto, NOW)
            case FlushPolicies(type=kind):
                self.engine.flush_policies(kind, NOW)
            case _:
                raise AssertionError(f"what does {line!r} do?")

    def mtu_to(self, peer: bytes) -> int:
        """What an outer packet may have on its way there."""
        route = self.engine.router.route(peer, b"", 0, 0)
        assert route is not None
        return route.mtu

    # What it shows ---------------------------------------------------------------------------------------------------

    def states(self) -> list[Scripted]:
        return list(self.engine.states())  # type: ignore[arg-type]

    def counters(self) -> Counters:
        """Every counter a `delta` may have, but `snmp`: that is the host's."""
        stats = [state.snapshot().stats for state in self.engine.states()]
        return {
            "xfrm_stat": {stat.label: self.engine.stats[stat] for stat in XfrmStat},
            "link": {name: getattr(self.xfrm0, ours) for name, ours in LINK_COUNTERS.items()},
            "sa": {
                "replay-window": sum(s.replay_window for s in stats),
                "replay": sum(s.replay for s in stats),
                "failed": sum(s.integrity_failed for s in stats),
            },
        }

    def state_text(self) -> str:
        """`ip -s xfrm state`, without the last line's end."""
        show = Show(stats=1, localtime=lambda seconds: "DATE")
        return "".join(print_state(state.snapshot(), show) for state in self.engine.states()).rstrip("\n")

    def link_text(self, stats: LinkStats) -> str:
        """`ip -d -s link show xfrm0` with these counters."""
        names = {index: name for name, index in INDEX.items()}
        info = LinkInfo(
            "xfrm0", self.xfrm0.ifindex, if_id=self.xfrm0.if_id, link=self.xfrm0.link, mtu=self.xfrm0.mtu,
            flags=IFF_NOARP | IFF_UP | IFF_LOWER_UP, stats=stats,
        )  # fmt: skip
        return print_link(info, Show(details=True, stats=1, ifname=names.__getitem__)).rstrip("\n")


def moved(before: Counters, after: Counters) -> Counters:
    """What rose in between, as a `delta` has it: only what moved."""
    found = {
        group: {name: value - before[group].get(name, 0) for name, value in values.items()}
        for group, values in after.items()
    }
    rose = {group: {name: by for name, by in values.items() if by > 0} for group, values in found.items()}
    return {group: values for group, values in rose.items() if values}


def expected(delta: dict[str, Any]) -> Counters:
    """The part of a captured `delta` that the engine counts."""
    return {group: values for group, values in delta.items() if group != "snmp" and values}


def complaint(error: XfrmError) -> str:
    """How ip(8) says that the kernel refused."""
    return f"Error: {error.extack}." if error.extack else f"RTNETLINK answers: {error.strerror}"


def without_dates(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text).rstrip("\n")


def turned_round(state: State) -> State:
    """The peer's state: opens what `state` is going to seal."""
    esn = state.info.replay_esn
    if esn is not None:
        size = max(esn.replay_window, 32)
        bitmap = (0,) * -(-size // 32)
        esn = ReplayEsn(bitmap, seq=esn.oseq, seq_hi=esn.oseq_hi, replay_window=size)
    return State(replace(state.info, replay_window=0, replay=None, replay_esn=esn, limits=Limits()), now=NOW)
