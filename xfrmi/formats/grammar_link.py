"""`link` commands for xfrm devices: words -> requests, as ip(8) 6.x reads `ip link ...`.

Only what an xfrm device has is understood; a device of another kind is passed on for the kernel's own answer. As in
the kernel, `link DEV` in front of the name does not make DEV the underlying device: `type xfrm dev DEV` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from xfrmi.formats import requests_link as requests
from xfrmi.formats.tokens import INCOMPLETE, USAGE, GrammarError, Tokens, matches, suggestion, take_verb
from xfrmi.formats.usage import LINK_TYPE_USAGE, LINK_USAGE
from xfrmi.wire.link_types import IFF_NOARP, IFF_UP, MAX_NAME, LinkInfo, is_device_name

_KERNEL_ERROR: Final = 2
"""Exit code of ip(8) when the kernel refused."""
_SWITCHES: Final = {"arp": IFF_NOARP, "multicast": 0x1000, "allmulticast": 0x200, "promisc": 0x100}
"""Word before on or off -> its IFF bit (the bit of arp means the opposite)."""
_WORDS: Final = ("up", "down", "mtu", "name", "txqueuelen", "netns", "alias", "index", "link", "type", *_SWITCHES)
_KIND: Final = "xfrm"


def parse_link(tokens: Tokens) -> requests.LinkRequest:
    """The words after `link`; none at all is `show`. Raises GrammarError."""
    if not tokens.more:
        return requests.ShowLinks()
    return take_verb(tokens, "link", _VERBS, LINK_USAGE)(tokens)


class _Draft:
    """What `add` and `set` have read so far."""

    def __init__(self) -> None:
        self.device = ""
        self.name = ""
        self.fields: dict[str, Any] = {}
        """Fields of LinkInfo but `name` and `kind`."""
        self.kind = ""
        self.netns = ""
        self.seen: set[str] = set()

    def info(self, name: str) -> LinkInfo:
        return LinkInfo(name=name, kind=self.kind, **{"flags": 0, **self.fields})


def _add(tokens: Tokens) -> requests.AddLink:
    draft = _read(tokens)
    if not draft.kind:
        text = 'Not enough information: "type" argument is required'
        raise tokens.incomplete(text, INCOMPLETE, 'Add "type xfrm dev PHYS_DEV if_id IF-ID".')
    return requests.AddLink(draft.info(draft.name or draft.device), draft.netns)


def _set(tokens: Tokens) -> requests.SetLink:
    draft = _read(tokens)
    _require_device(tokens, draft.device)
    return requests.SetLink(draft.device, draft.info(draft.name), draft.netns)


def _require_device(tokens: Tokens, device: str) -> None:
    if not device:
        text = 'Not enough information: "dev" argument is required.'
        raise tokens.incomplete(text, USAGE, "Name the device.")


def _read(tokens: Tokens) -> _Draft:
    draft = _Draft()
    while tokens.more:
        word = tokens.take("")
        if word in ("up", "down"):
            _flag(draft, IFF_UP, word == "up")
        elif word in _SWITCHES:
            _switch(tokens, draft, word)
        elif word == "mtu":
            _number(tokens, draft, "mtu", "mtu")
        elif matches(word, "txqueuelen") or word in ("qlen", "txqlen"):
            _number(tokens, draft, "txqueuelen", "txqlen")
        elif word == "index":
            _number(tokens, draft, "index", "ifindex")
        elif word == "name":
            draft.name = _once(tokens, draft, "name", "a name")
            _check_name(tokens, draft.name, "name")
        elif word == "alias":
            draft.fields["alias"] = tokens.take("a text")
        elif word == "netns":
            draft.netns = _once(tokens, draft, "netns", "a network namespace")
        elif word == "link":
            _find(tokens, _once(tokens, draft, "link", "a device"), INCOMPLETE)
        elif word in ("address", "broadcast"):
            tokens.take("a link-layer address")
            text = "RTNETLINK answers: Operation not supported"
            raise tokens.error(text, _KERNEL_ERROR, "an xfrm device has no link-layer address (1.2).")
        elif matches(word, "type"):
            draft.kind = tokens.take("a type")
            _type(tokens, draft)
        else:
            _device(tokens, draft, word)
    return draft


def _device(tokens: Tokens, draft: _Draft, word: str) -> None:
    """The device itself: `dev NAME`, or a word that is nothing else."""
    name = tokens.take("a device") if word == "dev" else word
    if matches(name, "help"):
        raise tokens.error(LINK_USAGE, USAGE, "this is all that link knows.")
    if draft.device:
        text = f'Error: either "dev" is duplicate, or "{name}" is a garbage.'
        raise tokens.error(text, USAGE, suggestion(name, _WORDS))
    _check_name(tokens, name, "dev")
    draft.device = name


def _flag(draft: _Draft, bit: int, on: bool) -> None:
    flags = draft.fields.get("flags", 0)
    draft.fields["flags"] = flags | bit if on else flags & ~bit
    draft.fields["change"] = draft.fields.get("change", 0) | bit


def _switch(tokens: Tokens, draft: _Draft, word: str) -> None:
    value = tokens.take('"on" or "off"')
    if value not in ("on", "off"):
        text = f'Error: argument of "{word}" must be "on" or "off", not "{value}"'
        raise tokens.error(text, INCOMPLETE, "on or off goes here.")
    _flag(draft, _SWITCHES[word], (value == "on") != (word == "arp"))


def _number(tokens: Tokens, draft: _Draft, word: str, name: str) -> None:
    value = tokens.number(f'Invalid "{word}" value', 31)
    tokens.mark_once(draft.seen, word)
    draft.fields[name] = value


def _once(tokens: Tokens, draft: _Draft, word: str, expected: str) -> str:
    value = tokens.take(expected)
    tokens.mark_once(draft.seen, word)
    return value


def _check_name(tokens: Tokens, name: str, word: str) -> None:
    if not is_device_name(name):
        hint = f"a device name has 1 to {MAX_NAME} characters, no blank and no slash."
        raise tokens.wrong(f'"{word}" not a valid ifname', hint)


def _find(tokens: Tokens, name: str, exit_code: int) -> int:
    """The index of the device taken last."""
    ifindex = tokens.ifindex_of(name)
    if not ifindex:
        raise tokens.error(f'Cannot find device "{name}"', exit_code, "the name of an existing device goes here.")
    return ifindex


def _type(tokens: Tokens, draft: _Draft) -> None:
    """xfrm [ dev PHYS_DEV ] [ if_id IF-ID ] [ external ]: the rest of the line."""
    if draft.kind != _KIND:
        if tokens.more:
            text = f'Garbage instead of arguments "{tokens.peek()} ...". Try "xfrmi link help".'
            raise tokens.error(text, USAGE, "only type xfrm has arguments here.")
        return
    fields = draft.fields
    while tokens.more:
        word = tokens.take("")
        if matches(word, "dev"):
            fields["link"] = _find(tokens, tokens.take("a device"), USAGE)
            fields["link_name"] = tokens.words[tokens.at - 1]
        elif matches(word, "if_id"):
            fields["if_id"] = tokens.number("if_id value is invalid")
            if not fields["if_id"]:
                raise tokens.wrong("if_id value is invalid", "a number from 1 to 4294967295 goes here (DEV-01).")
        elif word == "external":
            fields["external"] = True
        else:
            raise _bad_option(tokens, word)
    if "external" in fields and ("if_id" in fields or "link" in fields):
        text = "xfrmi: both 'external' and if_id/link cannot be specified"
        raise tokens.incomplete(text, INCOMPLETE, "Leave out external, or dev and if_id (DEV-03).")


def _bad_option(tokens: Tokens, word: str) -> GrammarError:
    return tokens.error(LINK_TYPE_USAGE, INCOMPLETE, suggestion(word, ("dev", "if_id", "external")))


def _delete(tokens: Tokens) -> requests.DeleteLink:
    draft = _read(tokens)
    _require_device(tokens, draft.device)
    return requests.DeleteLink(draft.device)


def _show(tokens: Tokens) -> requests.ShowLinks:
    """[ [ dev ] NAME ] [ up ] [ type TYPE ]."""
    draft = _Draft()
    up = False
    kind = ""
    while tokens.more:
        if tokens.accept("up"):
            up = True
        elif tokens.accept("type"):
            kind = tokens.take("a type")
        else:
            _device(tokens, draft, tokens.take(""))
    return requests.ShowLinks(draft.device, up, kind)


_VERBS: Final[tuple[tuple[str, Callable[[Tokens], requests.LinkRequest]], ...]] = (
    ("add", _add),
    ("set", _set),
    ("change", _set),
    ("delete", _delete),
    ("show", _show),
    ("lst", _show),
    ("list", _show),
)
"""In the order in which an abbreviation is tried."""
