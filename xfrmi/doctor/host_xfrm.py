"""The xfrm of the host's own kernel: does it make xfrmi unnecessary, compete with it, or stand in its way?

xfrmi works with sockets of the host, and what they send and receive goes through the host's policies first.
"""

from __future__ import annotations

import errno
import platform
import re

from xfrmi.client.channel import Channel
from xfrmi.doctor.finding import Finding, lack, ok, some, warning
from xfrmi.doctor.machine import Machine
from xfrmi.errors import XfrmError
from xfrmi.wire import xfrm_info_msg as info_msg
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_DUMP
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import Action, Default
from xfrmi.wire.xfrm_policy_msg import decode_policy_notice
from xfrmi.wire.xfrm_types import PolicyInfo

MODULES = {"esp4": "INET_ESP", "esp6": "INET6_ESP", "xfrm_interface": "XFRM_INTERFACE"}
"""Each with the option that builds it."""
DIRECTIONS = "in", "out", "fwd"


def kernel(machine: Machine) -> Finding:
    """Its own ESP and xfrm interfaces."""
    here = {name for name in MODULES if _available(machine, name)}
    if {"esp4", "xfrm_interface"} <= here or any(link.kind == "xfrm" for link in machine.links):
        text = "this kernel has xfrm interfaces of its own: xfrmi is good for labs here, and needed for nothing"
        return warning("kernel", text, "sudo ip link add ipsec0 type xfrm if_id 42")
    loaded = sorted(name for name in MODULES if name in _loaded(machine))
    if loaded:
        text = f"{some(loaded)} loaded: the kernel takes protocol 50 as well, and counts ours as XfrmInNoStates"
        return warning("kernel", text, f"sudo modprobe -r {' '.join(loaded)}")
    return ok("kernel", f"Linux {platform.release()}, no ESP of its own at work: nothing competes for protocol 50")


def _available(machine: Machine, module: str) -> bool:
    """Built in, loaded, or there to be loaded."""
    if module in _loaded(machine):
        return True
    release = platform.release()
    config = machine.read("/proc/config.gz") or machine.read(f"/boot/config-{release}") or ""
    if re.search(rf"^CONFIG_{MODULES[module]}=y$", config, re.MULTILINE):
        return True
    lists = (machine.read(f"/lib/modules/{release}/modules.{name}") or "" for name in ("dep", "builtin"))
    return any(f"/{module}.ko" in text for text in lists)


def _loaded(machine: Machine) -> set[str]:
    return {line.split()[0] for line in (machine.read("/proc/modules") or "").splitlines() if line}


def states(machine: Machine) -> Finding:
    """States in the kernel's own SAD: a packet for one of them is taken twice."""
    channel = machine.host_xfrm
    if channel is None:
        return ok("states", "the kernel has no xfrm")
    try:
        (answer,) = channel.ask(XfrmMsg.GETSADINFO, NLM_F_ACK, info_msg.encode_get_info())
    except XfrmError as error:
        return _unasked("states", error)
    count = info_msg.decode_sad_info(answer).count
    if count:
        return warning("states", f"the kernel has states of its own ({count})", "sudo ip xfrm state flush")
    return ok("states", "none in the kernel")


def policies(machine: Machine) -> Finding:
    """Policies of the kernel apply to what xfrmi sends and receives through its sockets."""
    channel = machine.host_xfrm
    if channel is None:
        return ok("policies", "the kernel has no xfrm")
    try:
        blocked = _blocked(channel)
        found = [decode_policy_notice(answer) for answer in channel.ask(XfrmMsg.GETPOLICY, NLM_F_DUMP, b"")]
    except XfrmError as error:
        return _unasked("policies", error)
    if blocked:
        text = f"the kernel's own default policy blocks {some(blocked)}: it drops what xfrmi receives or sends"
        return lack("policies", text, "sudo ip xfrm policy setdefault in accept fwd accept out accept")
    in_the_way = [policy for policy in found if _in_the_way(policy)]
    if in_the_way:
        directions = sorted({DIRECTIONS[policy.dir] for policy in in_the_way})
        text = f"the kernel has policies of its own ({len(in_the_way)}, {some(directions)}) that block or demand IPsec"
        return warning("policies", text, "sudo ip xfrm policy flush")
    return ok("policies", f"{len(found) or 'none'} in the kernel{', none in the way' if found else ''}")


def _blocked(channel: Channel) -> list[str]:
    """Directions whose default is block. Before Linux 5.15 there are no defaults to ask for (EINVAL)."""
    try:
        (answer,) = channel.ask(XfrmMsg.GETDEFAULT, NLM_F_ACK, info_msg.encode_defaults(info_msg.Defaults()))
    except XfrmError as error:
        if error.errno == errno.EPERM:
            raise
        return []
    defaults = info_msg.decode_defaults(answer)
    values = zip(DIRECTIONS, (defaults.input, defaults.output, defaults.fwd), strict=True)
    return [direction for direction, value in values if value == Default.BLOCK]


def _in_the_way(policy: PolicyInfo) -> bool:
    """Sockets ask for policies of if_id 0, and those do harm that block or demand a transformation."""
    return not policy.if_id and (policy.action == Action.BLOCK or bool(policy.templates))


def _unasked(check: str, error: XfrmError) -> Finding:
    text = f"the kernel does not tell ({error.strerror})"
    return warning(check, text, "sudo xfrmi doctor" if error.errno == errno.EPERM else "")
