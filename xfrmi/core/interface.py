"""One xfrm device: its identity, its counters, its flow cache; and the table that enforces the rules of 1.1.

An interface is a key (if_id) and little else. It owns no state and no policy: those live in the SAD and the SPD and
outlive it (DEV-14). Several interfaces may run between the same two endpoints because nothing but the if_id tells
them apart, and that is the point of the device.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import POLICY_BASED, XFRM_LINK_MTU, LinkStats

if TYPE_CHECKING:
    from xfrmi.core.decision import Decision
    from xfrmi.core.state import State
    from xfrmi.core.verdict import Verdict


class Interface:
    """One xfrm device. `link` is the ifindex of the underlying device (0: none)."""

    __slots__ = (
        "_ifindex", "away", "collisions", "external", "flows", "flows_generation", "if_id", "link", "mtu", "name",
        "nopolicy", "nopolicy_asked", "numbered", "policy_based", "rx_bytes", "rx_dropped", "rx_errors", "rx_packets",
        "takes", "tx_aborted", "tx_bytes", "tx_carrier", "tx_dropped", "tx_errors", "tx_packets", "up", "verdicts",
        "verdicts_generation",
    )  # fmt: skip

    def __init__(self, name: str, if_id: int, link: int = 0, external: bool = False) -> None:
        self.name = name
        self.if_id = if_id
        self.link = link
        self.external = external
        self.policy_based = False
        """It stands for all devices of the host, where policies without if_id apply (see Interfaces.policy_based)."""
        self._ifindex = 0
        self.numbered: dict[int, list[Interface]] = {}
        """Of all devices, by ifindex; shared with Interfaces."""
        self.mtu = XFRM_LINK_MTU
        self.up = True
        """IFF_UP; a device that is down is treated as absent on input (RX-07)."""
        self.away = False
        """The device lives in another network namespace than its states (NS-02). Who changes it clears `verdicts`."""
        self.nopolicy: frozenset[int] = frozenset()
        """Families in which what it receives is let in unasked (RX-12), as it was when that was last asked."""
        self.nopolicy_asked = 0.0
        self.takes: frozenset[int] = frozenset()
        """GSO types (wire/vnet.py) of super-packets that may be delivered to the device."""
        self.flows: dict[bytes, Decision] = {}
        self.flows_generation = -1
        self.verdicts: dict[bytes, Verdict] = {}
        self.verdicts_generation = -1
        # Table 1.4, raised at the failing line.
        self.rx_packets = self.rx_bytes = self.rx_errors = self.rx_dropped = 0
        self.tx_packets = self.tx_bytes = self.tx_errors = self.tx_dropped = 0
        self.tx_carrier = self.tx_aborted = self.collisions = 0

    @property
    def ifindex(self) -> int:
        """Its own, in the namespace where it is; 0 as long as it is not known."""
        return self._ifindex

    @ifindex.setter
    def ifindex(self, ifindex: int) -> None:
        if self._ifindex:
            self.numbered[self._ifindex].remove(self)
            if not self.numbered[self._ifindex]:
                del self.numbered[self._ifindex]
        self._ifindex = ifindex
        if ifindex:
            self.numbered.setdefault(ifindex, []).append(self)

    def __repr__(self) -> str:
        key = "external" if self.external else f"if_id {self.if_id:#x}"
        return f"<Interface {self.name} {key} rx {self.rx_packets} tx {self.tx_packets}>"

    def stats(self) -> LinkStats:
        return LinkStats(
            rx_packets=self.rx_packets, rx_bytes=self.rx_bytes, rx_errors=self.rx_errors, rx_dropped=self.rx_dropped,
            tx_packets=self.tx_packets, tx_bytes=self.tx_bytes, tx_errors=self.tx_errors, tx_dropped=self.tx_dropped,
            tx_carrier_errors=self.tx_carrier, tx_aborted_errors=self.tx_aborted, collisions=self.collisions,
        )  # fmt: skip


class Interfaces:
    """The devices of one home namespace, found by name or by if_id."""

    def __init__(self) -> None:
        self._by_name: dict[str, Interface] = {}
        self._by_if_id: dict[int, Interface] = {}
        self._numbered: dict[int, list[Interface]] = {}
        self._external: Interface | None = None
        self.policy_based: Interface | None = None
        """What policies without if_id have caught comes out of this one, and what came through states without a device
        goes into it. It is no xfrm device, so that nobody finds it by name or number."""

    def __iter__(self) -> Iterator[Interface]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __getitem__(self, name: str) -> Interface:
        try:
            return self._by_name[name]
        except KeyError:
            raise XfrmError(errno.ENODEV, detail=f'there is no xfrm interface "{name}"') from None

    def at_home(self, ifindex: int) -> Interface | None:
        """The device with this number in the namespace of the states."""
        return next((interface for interface in self._numbered.get(ifindex, ()) if not interface.away), None)

    def for_state(self, if_id: int) -> Interface | None:
        """RX-04: the UP device with the state's if_id, else the UP external device, else the one for policies without
        if_id (RX-05), None if there is none."""
        found = self._by_if_id.get(if_id) if if_id else None
        if found is not None and found.up:
            return found
        external = self._external
        return external if external is not None and external.up else self.policy_based

    def let_go(self, state: State) -> None:
        """It has been removed. What was decided about flows would not be believed any more, but not be forgotten before
        the next packet comes, and with it the keys."""
        for interface in (self._by_if_id.get(state.if_id), self._external, self.policy_based):
            if interface is not None:
                interface.flows.clear()
                interface.verdicts.clear()

    def add_policy_based(self) -> Interface:
        interface = self.policy_based = Interface(POLICY_BASED, 0)
        interface.policy_based = True
        return interface

    def remove_policy_based(self) -> None:
        self.policy_based = None

    def check_add(self, name: str, if_id: int, link: int = 0, external: bool = False) -> None:
        """Rules DEV-01..05; raises before anything exists, so that the caller may create the device in between."""
        if external:
            if if_id or link:
                raise XfrmError(
                    errno.EINVAL, "link and if_id must be zero", f'"{name}" is external and takes neither dev nor if_id'
                )
            if self._external is not None:
                raise XfrmError(errno.EEXIST, detail=f'"{self._external.name}" is the external device here already')
        elif not if_id:
            raise XfrmError(errno.EINVAL, "if_id must be non zero", f'say "if_id N", 1..0xffffffff, for "{name}"')
        if name in self._by_name:
            raise XfrmError(errno.EEXIST, detail=f'an interface "{name}" exists already')
        self._check_free(if_id)

    def add(self, name: str, if_id: int, link: int = 0, external: bool = False) -> Interface:
        self.check_add(name, if_id, link, external)
        interface = Interface(name, if_id, link, external)
        interface.numbered = self._numbered
        self._by_name[name] = interface
        if external:
            self._external = interface
        else:
            self._by_if_id[if_id] = interface
        return interface

    def check_change(self, interface: Interface, if_id: int, link: int = 0, external: bool = False) -> None:
        """RTM_NEWLINK on an existing device: rules DEV-08..13, looked at in the kernel's order."""
        if not if_id:
            raise XfrmError(errno.EINVAL, "if_id must be non zero", f'say "if_id N" to change "{interface.name}"')
        if external or interface.external:
            raise XfrmError(errno.EINVAL, "collect_md can't be changed", f'"{interface.name}" keeps the mode it has')
        self._check_free(if_id, interface)
        if link != interface.link:
            raise XfrmError(
                errno.EINVAL,
                detail=f'the underlying device of "{interface.name}" cannot change: repeat its "dev" beside the if_id',
            )

    def change(self, interface: Interface, if_id: int, link: int = 0, external: bool = False) -> None:
        """As check_change."""
        self.check_change(interface, if_id, link, external)
        if if_id == interface.if_id:
            return
        self._by_if_id.pop(interface.if_id, None)
        interface.if_id = if_id
        interface.flows.clear()
        interface.verdicts.clear()
        self._by_if_id[if_id] = interface

    def rename(self, interface: Interface, name: str) -> None:
        if name in self._by_name:
            raise XfrmError(errno.EEXIST, detail=f'an interface "{name}" exists already')
        del self._by_name[interface.name]
        interface.name = name
        self._by_name[name] = interface

    def remove(self, interface: Interface) -> None:
        """DEV-14: states and policies with its if_id stay."""
        interface.ifindex = 0
        del self._by_name[interface.name]
        if interface.external:
            self._external = None
        self._by_if_id.pop(interface.if_id, None)

    def _check_free(self, if_id: int, but_for: Interface | None = None) -> None:
        taken = self._by_if_id.get(if_id)
        if taken is not None and taken is not but_for:
            raise XfrmError(
                errno.EEXIST,
                detail=f'if_id {if_id:#x} belongs to "{taken.name}"; the if_id alone is the key, whatever "dev" says',
            )
