"""The listing of policies, read back: one function for each kind of line that print_policy writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from xfrmi.formats import words
from xfrmi.formats.listing_parts import (
    Line,
    Lines,
    Reader,
    next_line,
    read_context,
    read_id,
    read_if_id,
    read_lifetime,
    read_marks,
    read_rest,
    read_selector,
)
from xfrmi.wire.xfrm_types import PolicyInfo, Template


def read_policy(record: list[Line]) -> PolicyInfo:
    lines = iter(record)
    fields: dict[str, Any] = {"selector": read_selector(next(lines)), "templates": ()}
    read_rest(lines, _POLICY_READERS, fields)
    if "dir" not in fields:
        raise record[-1].error('the line with "dir" is missing')
    return PolicyInfo(**fields)


def _dir(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    """{ dir | socket } DIR [ action A ] [ index I ] priority P [ ptype T ] [ share S ] [ flag ... ] [ (0xBINARY) ]."""
    of_socket = line.take() == "socket"
    fields["dir"] = line.named(words.DIRS) + (3 if of_socket else 0)
    tables = {"action": words.ACTIONS, "ptype": words.POLICY_TYPES, "share": words.SHARES}
    while line.more and not line.peek().startswith("("):
        word = line.take()
        if word == "flag":
            fields["flags"] = line.flags(words.POLICY_FLAGS)
        elif word in ("index", "priority"):
            fields[word] = line.numeral()
        elif word in tables:
            fields["type" if word == "ptype" else word] = line.named(tables[word])
        else:
            raise line.error(f'"{word}" is no part of a policy')
    if line.more:
        line.take()


def _tmpl(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("tmpl")
    fields["templates"] += (Template(**read_id(line, next_line(lines, line))),)


def _amend_template(fields: dict[str, Any], line: Line, **changes: int) -> None:
    """Lines after a template's first two belong to the last one."""
    if not fields["templates"]:
        raise line.error("there is no tmpl above")
    *others, last = fields["templates"]
    fields["templates"] = (*others, replace(last, **changes))


def _level(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("level")
    level = line.named(words.LEVELS)
    share = line.named(words.SHARES) if line.accept("share") else 0
    _amend_template(fields, line, optional=level, share=share)


def _masks(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    masks = {}
    for word, field in (("enc-mask", "ealgos"), ("auth-mask", "aalgos"), ("comp-mask", "calgos")):
        line.expect(word)
        masks[field] = line.as_number(f"0x{line.take()}")
    _amend_template(fields, line, **masks)


_POLICY_READERS: Final[dict[str, Reader]] = {
    "security": read_context,
    "dir": _dir,
    "socket": _dir,
    "lifetime": read_lifetime,
    "mark": read_marks,
    "tmpl": _tmpl,
    "level": _level,
    "enc-mask": _masks,
    "if_id": read_if_id,
}
