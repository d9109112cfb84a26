"""Which filters the devices of the host have, so that packets meet the policies without if_id: kept as the tables,
the devices and the addresses of the host are now."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from xfrmi.core.router import LOOPBACK_IFINDEX
from xfrmi.daemon.left_behind import HIDDEN, read_alias
from xfrmi.dev.host_devices import (
    ARPHRD_ETHER,
    ARPHRD_LOOPBACK,
    ARPHRD_NONE,
    ARPHRD_RAWIP,
    HostDevice,
    host_devices,
    own_addresses,
)
from xfrmi.dev.policy_filter import ETHERNET, UNKNOWN, Program, Rule, Section, Surroundings, inbound, outbound
from xfrmi.dev.traffic_control import Hook, TrafficControl
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IKE_PORTS, Action, Default, Dir, PolicyType
from xfrmi.wire.xfrm_types import PolicyInfo

if TYPE_CHECKING:
    from xfrmi.core.policy import Policy
    from xfrmi.core.spd import Spd
    from xfrmi.dev.rtnl import Rtnl

_FAMILIES = AF_INET, AF_INET6
_DIRECTIONS = {Hook.EGRESS: (Dir.OUT,), Hook.INGRESS: (Dir.IN, Dir.FWD)}
"""Whose policies a packet meets there."""
_BASES = {ARPHRD_ETHER: ETHERNET, ARPHRD_NONE: 0, ARPHRD_RAWIP: 0}
_PORTS_OF = frozenset(("bridge", "bond", "team", "openvswitch"))
"""What goes through a part of such a device is frames, the host's own and others'. Its IP is that device's."""


def demands(info: PolicyInfo) -> bool:
    """Does a policy need more than to be kept and listed? Those that only let through do not; others have devices."""
    return not info.if_id and (info.action == Action.BLOCK or bool(info.templates))


class PolicyFilters:
    def __init__(self, spd: Spd, rtnl: Rtnl) -> None:
        self._spd = spd
        self._rtnl = rtnl
        self._tc = TrafficControl(rtnl)
        self._own: set[bytes] = set()
        self._devices: list[HostDevice] = []
        self._known: WeakKeyDictionary[Policy, Rule] = WeakKeyDictionary()
        self._in_force: dict[tuple[int, Hook, int], tuple[list[Program], int]] = {}
        self.ports = set(IKE_PORTS)
        """UDP ports of this host at which ESP and IKE come in and go out."""
        self.forwards = False
        """Any device of the host forwards IPv4."""

    @property
    def wanted(self) -> bool:
        """Is there any policy that a packet has to meet?"""
        return Default.BLOCK in self._spd.defaults or any(
            not policy.if_id and self._rule(policy).diverts for policy in self._spd.dump()
        )

    def look(self) -> None:
        """Take in what devices and addresses there are."""
        found = [device for device in host_devices(self._rtnl) if device.type != ARPHRD_LOOPBACK]
        self._devices = [device for device in found if device.name not in HIDDEN and device.port_of not in _PORTS_OF]
        self.forwards = any(device.forwards for device in self._devices)
        self._own = own_addresses(self._rtnl)
        here = {device.ifindex for device in self._devices}
        for ifindex in {key[0] for key in self._in_force} - here:
            self._forget(ifindex)

    def apply(self, out_target: int, in_target: int, changed: PolicyInfo | None = None) -> None:
        """Bring what is in force to what the tables say: diverted packets go into these devices. If nothing has
        changed but one policy, it may be named. XfrmError."""
        targets = {Hook.EGRESS: out_target, Hook.INGRESS: in_target}
        families: tuple[int, ...] = _FAMILIES
        if changed is not None:
            families = (changed.selector.family,)
            targets = {hook: target for hook, target in targets.items() if changed.dir in _DIRECTIONS[hook]}
        for family in families:
            made: dict[tuple[Hook, int, int], list[Program]] = {}
            sections = {hook: [self._section(direction, family) for direction in _DIRECTIONS[hook]] for hook in targets}
            leaving = sections.get(Hook.EGRESS, ())
            by_device = any(rule.selector.ifindex for section in leaving for rule in section.rules)
            size = 4 if family == AF_INET else 16
            own = tuple(sorted(address for address in self._own if len(address) == size))
            for device in self._devices:
                base = _BASES.get(device.type, UNKNOWN)
                around = Surroundings(family, base, own, tuple(sorted(self.ports)))
                for hook, target in targets.items():
                    key = hook, base, device.ifindex if by_device else 0
                    if key not in made:
                        made[key] = _compile(hook, around, sections[hook], device.ifindex)
                    programs = made[key]
                    if _is_exempt(device, hook, family):
                        programs = []
                    self._set(device.ifindex, hook, family, programs, target)

    def probe(self, ifindex: int) -> None:
        """XfrmError EOPNOTSUPP where the kernel lacks what filters take. It is tried on this device."""
        self._tc.hook(ifindex)
        nothing = outbound(Surroundings(AF_INET, 0, (), ()), Section((), True), ifindex)
        self._tc.install(ifindex, Hook.INGRESS, AF_INET, nothing, ifindex)
        self._tc.clear(ifindex)

    def clear(self) -> None:
        """Remove all, also what an earlier process has left."""
        self._in_force.clear()
        for ifindex in self._tc.hooked():
            with contextlib.suppress(XfrmError):  # a device may go while we are at it
                self._tc.clear(ifindex)

    def _set(self, ifindex: int, hook: Hook, family: int, programs: list[Program], target: int) -> None:
        key = ifindex, hook, family
        if self._in_force.get(key, ([], target)) == (programs, target):
            return
        try:
            self._tc.hook(ifindex)
            self._tc.install(ifindex, hook, family, programs, target)
        except XfrmError as error:
            if error.errno != errno.ENODEV:  # it has gone since we looked
                raise
            self._forget(ifindex)
        else:
            self._in_force[key] = programs, target

    def _forget(self, ifindex: int) -> None:
        self._tc.forget(ifindex)
        for key in [key for key in self._in_force if key[0] == ifindex]:
            del self._in_force[key]

    def _section(self, direction: Dir, family: int) -> Section:
        return Section(self._rules(direction, family), self._spd.defaults[direction] == Default.BLOCK)

    def _rules(self, direction: Dir, family: int) -> list[Rule]:
        # A sub policy that demands nothing leaves it to the main ones.
        sub = map(self._rule, self._spd.ranked(direction, 0, family, PolicyType.SUB))
        return [rule for rule in sub if rule.diverts] + list(map(self._rule, self._spd.ranked(direction, 0, family)))

    def _rule(self, policy: Policy) -> Rule:
        """Coming in, a policy is content without states if all its templates are optional; going out, states are looked
        for, and packets do not leave without: what is diverted does not come back."""
        rule = self._known.get(policy)
        if rule is None:
            wants = any(policy.dir == Dir.OUT or not template.optional for template in policy.templates)
            rule = Rule(policy.selector, policy.mark, wants or policy.action != Action.ALLOW)
            self._known[policy] = rule
        return rule


def _is_exempt(device: HostDevice, hook: Hook, family: int) -> bool:
    if hook == Hook.EGRESS:
        return family == AF_INET and device.no_xfrm
    # What comes out of an xfrm device has been asked about with its if_id.
    return read_alias(device.alias) is not None or (family == AF_INET and device.no_policy)


def _compile(hook: Hook, around: Surroundings, sections: list[Section], ifindex: int) -> list[Program]:
    try:
        if hook == Hook.EGRESS:
            (out,) = sections
            return outbound(around, out, ifindex)
        delivered, forwarded = sections
        return inbound(around, delivered, forwarded, LOOPBACK_IFINDEX)
    except ValueError as error:
        raise XfrmError(errno.E2BIG, detail=str(error)) from None
