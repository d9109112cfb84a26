"""The engine: one network namespace's worth of xfrm, without a socket in sight.

It owns the tables (SAD, SPD, interfaces), the counters of /proc/net/xfrm_stat and the events, and turns bursts into
bursts: `output` for what comes out of a TUN, `input` for what comes off the wire, `tick` for what only time brings
about. It never asks what time it is and never does I/O; routes come from an injected Router.

    >>> engine = Engine()
    >>> xfrm0 = engine.add_interface("xfrm0", if_id=42)
    >>> engine.add_state(StateInfo(src="192.0.2.1", dst="192.0.2.2", spi=0x1000, mode=Mode.TUNNEL, reqid=1, if_id=42,
    ...                            aead=Algorithm("rfc4106(gcm(aes))", bytes(20), 128)), now=0)
    >>> engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, if_id=42,
    ...                              templates=(Template("192.0.2.1", "192.0.2.2", reqid=1),)), now=0)
    >>> outgoing, replies = engine.output(xfrm0, [packet], now=0)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.core import input as inbound
from xfrmi.core import output as outbound
from xfrmi.core.icmp_limit import IcmpLimit
from xfrmi.core.interface import Interface, Interfaces
from xfrmi.core.keepalive import Keepalives
from xfrmi.core.migrate import migrate
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.core.path_mtu import PathMtus, icmp_error
from xfrmi.core.router import Router, StaticRouter
from xfrmi.core.sad import Sad
from xfrmi.core.spd import Spd
from xfrmi.core.sysctl import Sysctls
from xfrmi.core.timers import earliest
from xfrmi.wire.xfrm_const import AF_INET, STATE_NOPMTUDISC, SaDir, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.dropped import Dropped
    from xfrmi.core.events import Event, EventSink
    from xfrmi.core.input import Datagram
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State
    from xfrmi.core.train import Arrived
    from xfrmi.wire.ip import Buffer
    from xfrmi.wire.vnet import Packet
    from xfrmi.wire.xfrm_migrate_msg import Migration
    from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, StateId, StateInfo


class Engine:
    """One namespace's interfaces, states and policies. `now` is Unix seconds everywhere."""

    def __init__(
        self,
        router: Router | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
        kernel_quirks: bool = False,
        sysctls: Sysctls | None = None,
        cpu: int = 0,
        make_sad: type[Sad] = Sad,
        make_spd: type[Spd] = Spd,
    ) -> None:
        """`cpu`: which processor this is to states that are for one alone (RFC 9611)."""
        self.kernel_quirks = kernel_quirks
        """Do what Linux does also where that falls short of what xfrm interfaces are for (docs/deviations.md)."""
        self.sysctls = sysctls if sysctls is not None else Sysctls()
        self._host_router: Router = router if router is not None else StaticRouter()
        self.router = PathMtus(self._host_router)
        """Routes as they are known here: the given router's, and what has been learned about them."""
        self.stats = [0] * len(XfrmStat)
        """/proc/net/xfrm_stat, indexed by XfrmStat."""
        self.interfaces = Interfaces()
        self.pass_on: Callable[[Interface, Packet], None] | None = None
        """Who is given a packet for which no way out is known here, instead of its sender being told."""
        self.on_drop: Callable[[Dropped], None] | None = None
        """Who is told of each packet that dies, after it has been counted."""
        self._sinks: list[EventSink] = []
        self.sad = make_sad(self._emit, random, self.sysctls.acq_expires, self.sysctls.cpus, cpu)
        self.sad.on_removed = self.interfaces.let_go
        self.spd = make_spd(self._emit)
        self.keepalives = Keepalives()
        self.icmp_limit = IcmpLimit(lambda: self.sysctls.icmp_limits(), random)
        sources = self.sad, self.spd, self.router, self.keepalives
        self._deadlines = tuple(source.next_deadline for source in sources)

    # Events ------------------------------------------------------------------------------------------------------

    def watch_nat(self, state: State, now: float) -> None:
        """Send the keepalives that `state` asks for."""
        self.keepalives.watch(state, now)

    def subscribe(self, sink: EventSink) -> None:
        """Every event of the tables goes to `sink` at once, in order."""
        self._sinks.append(sink)

    def _emit(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)

    @property
    def acquire_listeners(self) -> int:
        """Without anybody listening for acquires no larval state is made (7.6)."""
        return self.sad.acquire_listeners

    @acquire_listeners.setter
    def acquire_listeners(self, count: int) -> None:
        self.sad.acquire_listeners = count

    @property
    def generation(self) -> int:
        """Changes whenever something an interface has cached may have become wrong."""
        return self.sad.generation + self.spd.generation + self._host_router.generation

    # Interfaces --------------------------------------------------------------------------------------------------

    def add_interface(self, name: str, if_id: int = 0, link: int = 0, external: bool = False) -> Interface:
        """Rules DEV-01..05. Raises XfrmError EINVAL or EEXIST."""
        return self.interfaces.add(name, if_id, link, external)

    def change_interface(self, name: str, if_id: int = 0, link: int = 0, external: bool = False) -> Interface:
        """Rules DEV-08..12: the whole new description; an omitted link means none. Raises XfrmError."""
        interface = self.interfaces[name]
        self.interfaces.change(interface, if_id, link, external)
        return interface

    def delete_interface(self, name: str) -> None:
        self.interfaces.remove(self.interfaces[name])

    # States ------------------------------------------------------------------------------------------------------

    def add_state(self, info: StateInfo, now: float) -> State:
        """NEWSA (3.3). Raises XfrmError as 7.4 says, before anything has changed."""
        state = self.sad.add(self._settled(info), now)
        self.keepalives.watch(state, now)
        return state

    def update_state(self, info: StateInfo, now: float) -> State:
        """UPDSA (3.3): makes a larval state valid, or changes the little that may change of a valid one."""
        state = self.sad.update(self._settled(info), now)
        self.keepalives.watch(state, now)
        return state

    def _settled(self, info: StateInfo) -> StateInfo:
        """With the flag that a switch of the machine adds (3.5)."""
        if info.family == AF_INET and info.dir != SaDir.IN and self.sysctls.no_pmtu_disc():
            return replace(info, flags=info.flags | STATE_NOPMTUDISC)
        return info

    def delete_state(self, state_id: StateId, now: float) -> State:
        return self.sad.delete(state_id, now)

    def get_state(self, state_id: StateId) -> State:
        return self.sad.get(state_id)

    def alloc_spi(self, info: StateInfo, low: int, high: int, now: float) -> State:
        return self.sad.alloc_spi(info, low, high, now)

    def flush_states(self, proto: int, now: float) -> int:
        return self.sad.flush(proto, now)

    def states(self) -> Iterable[State]:
        return self.sad.dump()

    # Policies ----------------------------------------------------------------------------------------------------

    def add_policy(self, info: PolicyInfo, now: float) -> Policy:
        return self.spd.insert(info, now)

    def update_policy(self, info: PolicyInfo, now: float) -> Policy:
        return self.spd.update(info, now)

    def delete_policy(self, policy_id: PolicyId, now: float) -> Policy:
        return self.spd.delete(policy_id, now)

    def get_policy(self, policy_id: PolicyId) -> Policy:
        return self.spd.get(policy_id)

    def flush_policies(self, policy_type: int, now: float) -> int:
        return self.spd.flush(policy_type, now)

    def policies(self) -> Iterable[Policy]:
        return self.spd.dump()

    # Both --------------------------------------------------------------------------------------------------------

    def migrate(self, migration: Migration, now: float) -> list[State]:
        """MIGRATE: states and the templates of a policy move to other addresses. Raises XfrmError, see migrate.py."""
        states = migrate(self.sad, self.spd, migration, now, self._emit)
        for state in states:
            self.keepalives.watch(state, now)
        return states

    # The data path -----------------------------------------------------------------------------------------------

    def output(
        self, interface: Interface, packets: Sequence[Packet], now: float
    ) -> tuple[list[Outgoing], list[Buffer]]:
        """Packets out of the TUN -> (outer packets by path, ICMP errors for the TUN). See output.py."""
        return outbound.output(self, interface, packets, now)

    def input(self, burst: Sequence[Datagram | Arrived], now: float) -> list[tuple[Interface, list[Packet]]]:
        """(outer header, ESP) pairs off the wire, or trains of them -> inner packets by interface. See input.py."""
        return inbound.input(self, burst, now)

    def icmp_error(self, family: int, message: Buffer, now: float) -> tuple[Sequence[Path], int]:
        """An ICMP or (`family` AF_INET6) ICMPv6 message of the underlay, from its ICMP header on. One that quotes a
        packet of a state of ours as too big lowers the path MTU, and those paths are returned with it; all others are
        ignored (1.7). See path_mtu.py."""
        return icmp_error(self.router, self.sad, family, message, now)

    def send_failed(self, outgoing: Outgoing, positions: Iterable[int]) -> None:
        """Those packets of `outgoing` did not leave the machine. See Outgoing.fail."""
        outgoing.fail(positions)

    # Time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Outgoing]:
        """Do what is due: expiries of states, policies and path MTUs. Returns NAT keepalives to send (3.8)."""
        self.sad.tick(now)
        self.spd.tick(now)
        self.router.expire(now)
        return self.keepalives.tick(self.router, now)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do next, None if nothing is planned."""
        return earliest(self._deadlines)
