"""Filters on what leaves and enters a device: classic BPF that says which packets go into another device instead.

The hook is the kernel's `clsact` (sch_ingress), the classifier cls_bpf, the action mirred: all in the kernel, all
orders of rtnetlink, so neither netfilter nor a compiler takes part. Hooks see every packet of the host on a device,
with its final header and after it has been routed. Filters outlive who has made them. A packet that is to go into a
device without carrier, or into one that is no more, is dropped.

Numbers: linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum

from xfrmi.dev.policy_filter import Program
from xfrmi.dev.rtnl import RTM_NEWQDISC, TCA_KIND, TCMSG, Rtnl
from xfrmi.dev.socket_filter import INSTRUCTION
from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import (
    NLA_F_NESTED,
    NLM_F_CREATE,
    NLM_F_EXCL,
    attr,
    attr_string,
    attr_u16,
    attr_u32,
    get_string,
    parse_attrs,
)
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, AF_UNSPEC

RTM_DELQDISC, RTM_GETQDISC = 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_TCA_OPTIONS = 2
_TCA_BPF_ACT, _TCA_BPF_OPS_LEN, _TCA_BPF_OPS, _TCA_BPF_FLAGS_GEN = 1, 4, 5, 9
_SKIP_HW = 1
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_MIRRED = struct.Struct("=IIiiiiI")
_EGRESS_REDIRECT, _STOLEN = 1, 4

_FIRST = 1
"""Our filters are the first, so that none before them lets something through."""
_MOST = 64
"""Programs in one set."""
_ETHERTYPES = {AF_INET: 0x0800, AF_INET6: 0x86DD}


class Hook(IntEnum):
    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


class TrafficControl:
    """The filters of one network namespace, by device, hook and family."""

    def __init__(self, rtnl: Rtnl) -> None:
        self._rtnl = rtnl
        self._sets: dict[tuple[int, Hook, int], tuple[int, Sequence[Program], int]] = {}
        """Of each set: which of two places it has, its programs and their target."""
        self._made: set[int] = set()
        """Devices whose hooks are ours."""

    def hook(self, ifindex: int) -> None:
        """Make the hooks of a device. XfrmError EOPNOTSUPP where the kernel has none, ENODEV."""
        body = TCMSG.pack(AF_UNSPEC, ifindex, _CLSACT_HANDLE, _CLSACT, 0) + attr_string(TCA_KIND, "clsact")
        try:
            self._rtnl.order(RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_EXCL)
            self._made.add(ifindex)
        except XfrmError as error:
            if error.errno == errno.ENOENT:
                raise _missing("sch_ingress") from None
            if error.errno != errno.EEXIST:
                raise

    def install(self, ifindex: int, hook: Hook, family: int, programs: Sequence[Program], target: int) -> None:
        """Have these filters and no others of ours, without a moment in which neither they nor the old ones are there.
        `target`: the device for what is diverted. XfrmError EOPNOTSUPP, E2BIG, ENODEV."""
        if len(programs) > _MOST:
            raise XfrmError(errno.E2BIG, detail=f"more policies than {_MOST} filters hold")
        key = ifindex, hook, family
        stale = self._ours(ifindex, hook, family) if key not in self._sets else set()
        place, old, before = self._sets.get(key, (0, (), target))
        same = old if target == before else ()
        changed = [index for index, program in enumerate(programs) if index >= len(same) or program != same[index]]
        # One is exchanged at once. Several are made elsewhere first: before the old ones, or behind all of them.
        at_once = max(len(old), len(programs)) <= 1 or (len(changed) <= 1 and len(same) == len(programs))
        new = place if at_once else 1 - place
        for index in changed if at_once else range(len(programs)):
            self._put(ifindex, hook, family, _preference(new, index, family), programs[index], target)
            stale.discard(_preference(new, index, family))
        for preference in stale:  # of an earlier process
            self._remove(ifindex, hook, family, preference)
        if new != place or not programs:
            for index in reversed(range(len(old))):
                self._remove(ifindex, hook, family, _preference(place, index, family))
        self._sets[key] = new, programs, target

    def forget(self, ifindex: int) -> None:
        """The device is gone, and with it all it had."""
        self._made.discard(ifindex)
        for key in [key for key in self._sets if key[0] == ifindex]:
            del self._sets[key]

    def clear(self, ifindex: int) -> None:
        """Remove all of ours from a device, those of an earlier process too, and the hooks if nobody else uses them."""
        made = ifindex in self._made
        self.forget(ifindex)
        for hook in Hook:
            for family in _ETHERTYPES:
                for preference in self._ours(ifindex, hook, family):
                    self._remove(ifindex, hook, family, preference)
                    made = True
        if made and not any(self._found(ifindex, hook) for hook in Hook):
            self._rtnl.order(
                RTM_DELQDISC,
                TCMSG.pack(AF_UNSPEC, ifindex, _CLSACT_HANDLE, _CLSACT, 0) + attr_string(TCA_KIND, "clsact"),
            )

    def hooked(self) -> set[int]:
        """Devices that have hooks, whoever has made them."""
        answers = self._rtnl.ask(RTM_GETQDISC, TCMSG.pack(AF_UNSPEC, 0, 0, 0, 0), dump=True)
        return {
            TCMSG.unpack_from(body)[1]
            for body in answers
            if get_string(parse_attrs(body, TCMSG.size)[TCA_KIND]) == "clsact"
        }

    def _ours(self, ifindex: int, hook: Hook, family: int) -> set[int]:
        """Where filters are that only we can have made."""
        first, end = _preference(0, 0, AF_INET), _preference(2, 0, AF_INET)
        return {at for at, of in self._found(ifindex, hook) if of == family and first <= at < end}

    def _found(self, ifindex: int, hook: Hook) -> set[tuple[int, int]]:
        """(preference, family) of the filters there; family AF_UNSPEC for what is no cls_bpf of a family."""
        found = set()
        for body in self._rtnl.ask(RTM_GETTFILTER, TCMSG.pack(AF_UNSPEC, ifindex, 0, hook, 0), dump=True):
            info = TCMSG.unpack_from(body)[4]
            is_bpf = get_string(parse_attrs(body, TCMSG.size)[TCA_KIND]) == "bpf"
            ethertype = socket.ntohs(info & 0xFFFF)
            family = next((family for family, of in _ETHERTYPES.items() if of == ethertype and is_bpf), AF_UNSPEC)
            found.add((info >> 16, family))
        return found

    def _put(self, ifindex: int, hook: Hook, family: int, preference: int, program: Program, target: int) -> None:
        code = program.code
        options = attr_u16(_TCA_BPF_OPS_LEN, len(code) // INSTRUCTION.size) + attr(_TCA_BPF_OPS, code)
        options += attr_u32(_TCA_BPF_FLAGS_GEN, _SKIP_HW)
        if program.diverts:
            redirect = attr(_MIRRED_PARMS, _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, target))
            action = attr_string(_ACT_KIND, "mirred") + attr(_ACT_OPTIONS | NLA_F_NESTED, redirect)
            options += attr(_TCA_BPF_ACT | NLA_F_NESTED, attr(1 | NLA_F_NESTED, action))
        body = _filter(ifindex, hook, family, preference)
        try:
            self._rtnl.order(RTM_NEWTFILTER, body + attr(_TCA_OPTIONS | NLA_F_NESTED, options), NLM_F_CREATE)
        except XfrmError as error:
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
                raise _missing("cls_bpf or act_mirred") from None
            raise

    def _remove(self, ifindex: int, hook: Hook, family: int, preference: int) -> None:
        try:
            self._rtnl.order(RTM_DELTFILTER, _filter(ifindex, hook, family, preference))
        except XfrmError as error:  # somebody else has removed it, or the device
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise


def _filter(ifindex: int, hook: Hook, family: int, preference: int) -> bytes:
    info = preference << 16 | socket.htons(_ETHERTYPES[family])
    return TCMSG.pack(AF_UNSPEC, ifindex, 1, hook, info) + attr_string(TCA_KIND, "bpf")


def _preference(place: int, index: int, family: int) -> int:
    """Filters are asked in this order. Those of the families never see the same packet."""
    return _FIRST + 2 * (place * _MOST + index) + (family == AF_INET6)


def _missing(what: str) -> XfrmError:
    return XfrmError(
        errno.EOPNOTSUPP,
        "Policy without if_id needs sch_ingress, cls_bpf and act_mirred",
        f"this kernel has no {what}, which leads packets to policies without if_id: give the policy and its "
        "states an if_id, and route into an xfrm interface",
    )
