"""Is this a policy the kernel would take? Its questions, in its order, in its words (kernel-behaviour 7.4).

    1  header     share, action, selector (family, then prefixes), direction, index
    2  type       main or sub
    3  templates  how many; then for each: mode against direction and family, family, protocol

What only the table can know (EEXIST, ENOENT) is the SPD's to answer.
"""

from __future__ import annotations

import errno

from xfrmi.errors import XfrmError
from xfrmi.wire.address import any_address
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_DSTOPTS,
    IPPROTO_ESP,
    IPPROTO_ROUTING,
    XFRM_MAX_DEPTH,
    Action,
    Dir,
    Mode,
    PolicyType,
)
from xfrmi.wire.xfrm_types import PolicyInfo, Selector, Template

XFRM_SHARE_MAX = 3
"""XFRM_SHARE_UNIQUE, the last of ANY, SESSION, USER, UNIQUE."""
XFRM_MODE_MAX = 6
DIR_OF_INDEX = 7
"""The bits of an index that repeat the direction."""

_BITS = {AF_INET: (32, "IPv4"), AF_INET6: (128, "IPv6")}
_PROTOCOLS = (IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP, IPPROTO_ROUTING, IPPROTO_DSTOPTS)
_FAMILY_CHANGERS = (Mode.TUNNEL, Mode.BEET, Mode.IPTFS)


def check_policy(info: PolicyInfo) -> None:
    """Raises XfrmError EINVAL with what NEWPOLICY and UPDPOLICY would answer."""
    if not 0 <= info.share <= XFRM_SHARE_MAX:
        raise _invalid("Invalid policy share", f"share {info.share} is none of any, session, user, unique")
    if info.action not in (Action.ALLOW, Action.BLOCK):
        raise _invalid("Invalid policy action", f"action {info.action} is neither allow (0) nor block (1)")
    _check_selector(info.selector)
    check_direction(info.dir)
    if info.index and info.index & DIR_OF_INDEX != info.dir:
        raise _invalid(
            "Policy index doesn't match direction",
            f"index {info.index} is one of direction {info.index & DIR_OF_INDEX} (its lowest three bits)",
        )
    check_type(info.type)
    _check_templates(info)


def check_direction(direction: int) -> None:
    """Raises XfrmError EINVAL unless it is one of in, out, fwd."""
    if direction not in (Dir.IN, Dir.OUT, Dir.FWD):
        raise _invalid("Invalid policy direction", f"direction {direction} is none of in (0), out (1), fwd (2)")


def check_type(policy_type: int) -> None:
    """Raises XfrmError EINVAL unless it is main or sub."""
    if policy_type not in (PolicyType.MAIN, PolicyType.SUB):
        raise _invalid("Invalid policy type", f"type {policy_type} is neither main (0) nor sub (1)")


def _check_selector(selector: Selector) -> None:
    if selector.family not in _BITS:
        raise _invalid(
            "Invalid selector family", "a policy is for IPv4 or for IPv6; traffic of both families takes two policies"
        )
    bits, name = _BITS[selector.family]
    if max(selector.prefixlen_s, selector.prefixlen_d) > bits:
        raise _invalid(f"Invalid prefix length in selector (must be <= {bits} for {name})")
    if not {len(selector.saddr), len(selector.daddr)} <= {0, bits // 8}:
        raise _invalid("", "the addresses of a selector are of its family")


def _check_templates(info: PolicyInfo) -> None:
    if len(info.templates) > XFRM_MAX_DEPTH:
        raise _invalid(f"Template count must be <= XFRM_MAX_DEPTH ({XFRM_MAX_DEPTH})")
    family = info.selector.family
    for template in info.templates:
        _check_template(template, info.dir, family)
        family = template.family


def _check_template(template: Template, direction: int, family: int) -> None:
    """`family` is that of the packet the template is applied to."""
    if template.mode in _FAMILY_CHANGERS:
        if template.optional and direction == Dir.OUT:
            raise _invalid(
                "Mode in optional template not allowed in outbound policy",
                f'"level use" with mode {Mode(template.mode).name.lower()} is for in and fwd policies (OUT-10)',
            )
    elif template.family != family:
        raise _invalid("Mode in template doesn't support a family change")
    if template.mode >= XFRM_MODE_MAX:
        raise _invalid(f"Mode in template must be < XFRM_MODE_MAX ({XFRM_MODE_MAX})")
    if template.family not in _BITS:
        raise _invalid("Invalid family in template")
    if template.proto not in _PROTOCOLS:
        raise _invalid("Invalid XFRM protocol in template", f"protocol {template.proto} is none of esp, ah, comp")
    length = len(any_address(template.family))
    if len(template.dst) != length or (len(template.src) != length and any(template.src)):
        raise _invalid("", "the addresses of a template are of its family")


def _invalid(extack: str, detail: str = "") -> XfrmError:
    return XfrmError(errno.EINVAL, extack, detail)
