"""The states, policies and devices a packet is explained with: of a running daemon, or out of files of `ip xfrm` lines.

A file holds what one types (`ip xfrm state add ...`, `xfrmi link add ...`, comments after #) or what `ip xfrm state`
and `ip xfrm policy` print, in any mixture, one kind after the other.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xfrmi.errors import XfrmError
from xfrmi.formats.grammar import logical_lines, parse, split_line
from xfrmi.formats.listing import ListingError, parse_policies, parse_states
from xfrmi.formats.requests import AddLink, AddPolicy, AddState, Request, SetLink
from xfrmi.formats.tokens import GrammarError
from xfrmi.wire.link_types import LinkInfo
from xfrmi.wire.xfrm_types import PolicyInfo, StateInfo

if TYPE_CHECKING:
    from xfrmi.client import Client

_OBJECTS = ("ip", "xfrmi", "xfrm", "state", "sa", "policy", "link")


@dataclass(frozen=True, slots=True)
class Tables:
    """In the order in which they were made, the oldest first."""

    states: tuple[StateInfo, ...] = ()
    policies: tuple[PolicyInfo, ...] = ()
    links: tuple[LinkInfo, ...] = ()
    """The xfrm devices. Without any, each if_id of a policy has one."""
    source: str = ""
    """Where they are from, in words."""
    live: bool = False
    """Somebody seals packets with these keys right now: nothing else may be sealed with them."""

    @classmethod
    def read(cls, *paths: str, ifindex_of: Callable[[str], int] | None = None) -> Tables:
        """Out of files. Raises XfrmError that names file, line and what is wrong."""
        tables = cls()
        for path in paths:
            try:
                with open(0 if path == "-" else path, encoding="utf-8") as file:
                    text = file.read()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not a text file"
                raise XfrmError(errno.ENOENT, detail=f"cannot read {path}: {why}") from None
            tables = tables.joined(cls.parse(text, path, ifindex_of))
        return replace(tables, source=" and ".join(paths))

    @classmethod
    def parse(cls, text: str, name: str = "the text", ifindex_of: Callable[[str], int] | None = None) -> Tables:
        """Out of a text that `name` is the name of. Raises XfrmError EINVAL."""
        states: list[StateInfo] = []
        policies: list[PolicyInfo] = []
        links: list[LinkInfo] = []
        places: dict[str, int] = {}  # of the devices in links, by name
        listing: list[str] = []
        for number, _, line in logical_lines(text, _is_command):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            if not _is_command(line):
                listing += [""] * (number - 1 - len(listing)) + [line]  # keeps its number
                continue
            request = _command(line, f"{name}, line {number}", ifindex_of)
            if isinstance(request, AddState):
                states.append(request.info)
            elif isinstance(request, AddPolicy):
                policies.append(request.info)
            elif isinstance(request, AddLink):
                places[request.info.name] = len(links)
                links.append(request.info)
            elif isinstance(request, SetLink):  # what it changes is not of interest, but for the MTU
                at = places.get(request.device)
                if at is not None and request.info.mtu:
                    links[at] = replace(links[at], mtu=request.info.mtu)
        tables = cls(tuple(states), tuple(policies), tuple(links), name)
        if any(listing):
            tables = tables._with_listing(listing, name, ifindex_of)
        return tables

    @classmethod
    def of(cls, client: Client) -> Tables:
        """Those of a running daemon, keys included. Raises XfrmError."""
        states = tuple(reversed(list(client.states())))
        policies = tuple(reversed(list(client.policies())))
        return cls(states, policies, tuple(client.links()), "the daemon", live=True)

    def joined(self, other: Tables) -> Tables:
        return replace(
            self, states=self.states + other.states, policies=self.policies + other.policies,
            links=self.links + other.links,
        )  # fmt: skip

    def _with_listing(self, lines: list[str], name: str, ifindex_of: Callable[[str], int] | None) -> Tables:
        states, policies = _sorted_records(lines)
        try:
            old_states = parse_states("\n".join(states), ifindex_of=ifindex_of or (lambda device: 0xFFFF))
            old_policies = parse_policies("\n".join(policies), ifindex_of=ifindex_of or (lambda device: 0xFFFF))
        except ListingError as error:
            hint = "lines are `ip xfrm state add ...` as one types them, or what `ip xfrm state|policy` prints"
            raise XfrmError(errno.EINVAL, detail=f"{name}, {error}; {hint}") from None
        return replace(
            self,
            states=self.states + tuple(reversed(old_states)),
            policies=self.policies + tuple(reversed(old_policies)),
        )


def _is_command(line: str) -> bool:
    """And no line of a listing, each of which ends in a backslash where `ip -o` has printed it."""
    return not line[0].isspace() and line.split(maxsplit=1)[0] in _OBJECTS


def _command(line: str, where: str, ifindex_of: Callable[[str], int] | None) -> Request:
    """One that adds to tables. XfrmError EINVAL for any other."""
    try:
        # A file of another machine names devices of that machine.
        request = parse(split_line(line), ifindex_of=ifindex_of or (lambda device: 0xFFFF))
    except GrammarError as error:
        raise XfrmError(errno.EINVAL, detail=f"{where}: {error.text}; {error.hint}") from None
    if isinstance(request, AddState | AddPolicy | AddLink | SetLink):
        return request
    raise XfrmError(errno.EINVAL, detail=f"{where}: only what adds states, policies and links is of use here")


def _sorted_records(lines: list[str]) -> tuple[list[str], list[str]]:
    """(lines of states, lines of policies), each with empty lines where the others are: numbers stay right. A record
    begins in the first column; that of a policy says its direction in the next line, or the one after that."""
    states, policies = [""] * len(lines), [""] * len(lines)
    mine = states
    for at, line in enumerate(lines):
        if line and not line[0].isspace():
            parts = [part for whole in lines[at : at + 3] for part in whole.split("\\")]  # as -o prints it
            is_policy = any(part.split()[:1] in (["dir"], ["socket"]) for part in parts[1:3])
            mine = policies if is_policy else states
        mine[at] = line
    return states, policies
