"""Policies as `ip [-s] xfrm policy` prints them, byte for byte (iproute2 6.1)."""

from __future__ import annotations

from xfrmi.formats import words
from xfrmi.formats.print_parts import (
    bits8,
    context_line,
    id_lines,
    if_id_line,
    lifetime_lines,
    mark_line,
    selector_line,
)
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_types import PolicyInfo, Template

_SOCKET_DIRS = 3
"""Directions from here on are of socket policies (2.3)."""


def print_policy(info: PolicyInfo, show: Show = PLAIN) -> str:
    """One policy, newline at the end."""
    return show.record(policy_lines(info, show))


def policy_lines(info: PolicyInfo, show: Show, *, indent: str = "", title: str = "") -> str:
    """The lines of one policy, without regard to -o; inside an acquire they are indented and have a title."""
    prefix = f"{indent}\t"
    text = title + selector_line(info.selector, k.AF_INET, show)
    text += context_line(info.sec_ctx)
    text += prefix + _dir_line(info, show)
    if show.stats:
        text += lifetime_lines(info.limits, info.current, prefix, show)
    text += mark_line(info.mark, None)
    for template in info.templates:
        text += _template_lines(template, prefix, show)
    return text + if_id_line(info.if_id, prefix)


def _dir_line(info: PolicyInfo, show: Show) -> str:
    if info.dir < _SOCKET_DIRS:
        line = f"dir {words.word(words.DIRS, info.dir)} "
    else:
        line = f"socket {words.word(words.DIRS, info.dir - _SOCKET_DIRS)} "
    if show.stats or info.action != k.Action.ALLOW:
        line += f"action {words.word(words.ACTIONS, info.action)} "
    if show.stats:
        line += f"index {info.index} "
    line += f"priority {info.priority} ptype {words.word(words.POLICY_TYPES, info.type)} "
    if show.stats:
        line += f"share {words.word(words.SHARES, info.share)} "
    if show.stats or info.flags:
        line += "flag " + " ".join(words.flag_words(words.POLICY_FLAGS, info.flags))
    return f"{line} {bits8(info.flags)}\n" if show.stats else f"{line}\n"


def _template_lines(template: Template, prefix: str, show: Show) -> str:
    text = f"{prefix}tmpl " + id_lines(
        template.src, template.dst, proto=template.proto, spi=template.spi, reqid=template.reqid, mode=template.mode,
        family=template.family, prefix=prefix, show=show,
    )  # fmt: skip
    if show.stats or template.optional:
        line = f"level {words.word(words.LEVELS, template.optional)} "
        if show.stats:
            line += f"share {words.word(words.SHARES, template.share)} "
        text += f"{prefix}\t{line}\n"
    return text + (f"{prefix}\t{masks(template.ealgos, template.aalgos, template.calgos)}\n" if show.stats else "")


def masks(ealgos: int, aalgos: int, calgos: int) -> str:
    """The algorithm masks of a template or an acquire."""
    return f"enc-mask {ealgos:08x} auth-mask {aalgos:08x} comp-mask {calgos:08x}"
