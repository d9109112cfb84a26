"""A command line as a stream of words, with iproute2's words for what is wrong with it.

`Tokens` is the cursor that every grammar function shares: it hands out the next word and remembers where it was, so
that an error names the word, its place and what would have been right there. The texts and exit codes are those of
ip(8) 6.1; the hint is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from xfrmi.formats.numbers import Prefix, parse_address, parse_number, parse_prefix
from xfrmi.formats.words import FAMILIES
from xfrmi.wire.xfrm_const import AF_UNSPEC

USAGE = 255
"""Exit code of ip(8) for a word it cannot use."""
INCOMPLETE = 1
"""Exit code of ip(8) for a command that lacks something or contradicts itself."""
_LONGEST_NUMBER = len("0x") + 16


class GrammarError(Exception):
    """A command line that cannot become a request.

    `text` is what ip(8) prints on stderr (no newline), `exit_code` what it exits with, `position` the index of the
    word at fault in the words given (one past the last when a word is missing), `hint` one sentence on how to fix it.
    """

    def __init__(self, text: str, exit_code: int, *, position: int, hint: str) -> None:
        self.text = text
        self.exit_code = exit_code
        self.position = position
        self.hint = hint
        super().__init__(text)


def _no_devices(name: str) -> int:
    return 0


class Tokens:
    """`words` from `at` on. `ifindex_of` turns a device name into its index, 0 if there is no such device."""

    __slots__ = ("at", "family", "ifindex_of", "words")

    def __init__(
        self, words: Sequence[str], *, family: int = AF_UNSPEC, ifindex_of: Callable[[str], int] | None = None
    ) -> None:
        self.words = tuple(words)
        self.at = 0
        self.family = family
        self.ifindex_of = ifindex_of or _no_devices

    # The cursor.

    @property
    def more(self) -> bool:
        return self.at < len(self.words)

    def peek(self) -> str | None:
        return self.words[self.at] if self.more else None

    def take(self, expected: str) -> str:
        """The next word. `expected` names it for the hint when the line ends here."""
        if not self.more:
            after = f' after "{shown(self.words[-1])}"' if self.words else ""
            raise self.incomplete('Command line is not complete. Try option "help"', USAGE, f"{expected} goes{after}.")
        self.at += 1
        return self.words[self.at - 1]

    def accept(self, *words: str) -> bool:
        """Whether the next word is one of `words`; it is taken if so."""
        if self.more and self.words[self.at] in words:
            self.at += 1
            return True
        return False

    def mark_once(self, seen: set[str], word: str) -> None:
        """Note that keyword `word` was taken; the second time is an error."""
        if word in seen:
            raise self.duplicate(word)
        seen.add(word)

    # What is wrong. Each is about the word taken last, unless it says otherwise.

    def wrong(self, why: str, hint: str, *, secret: bool = False) -> GrammarError:
        word = "..." if secret else shown(self.words[self.at - 1])
        return self.error(f'Error: argument "{word}" is wrong: {why}', USAGE, hint)

    def duplicate(self, name: str, hint: str = "give it once.") -> GrammarError:
        word = shown(self.words[self.at - 1])
        return self.error(f'Error: duplicate "{name}": "{word}" is the second value.', USAGE, hint)

    def unknown(self, keywords: Iterable[str]) -> GrammarError:
        """The next word is none of `keywords`, which may stand here."""
        self.at += 1
        return self.wrong("unknown", suggestion(self.words[self.at - 1], keywords))

    def missing(self, name: str, hint: str) -> GrammarError:
        """What the line lacks has a name in the grammar."""
        return self.incomplete(f'Error: argument "{name}" is required', USAGE, hint)

    def incomplete(self, text: str, exit_code: int, hint: str) -> GrammarError:
        """About the line as a whole: something is not there."""
        return GrammarError(text, exit_code, position=len(self.words), hint=hint)

    def error(self, text: str, exit_code: int, hint: str) -> GrammarError:
        position = max(self.at - 1, 0)
        return GrammarError(text, exit_code, position=position, hint=f"Word {position + 1}: {hint}")

    # Values.

    def number(self, why: str, bits: int = 32) -> int:
        """An unsigned number of `bits` bits."""
        value = parse_number(self.take("a number"), bits)
        if value is None:
            raise self.wrong(why, f"a number from 0 to {(1 << bits) - 1} goes here, decimal or 0x.")
        return value

    def choice(self, table: Mapping[int, str], why: str, *, abbreviated: bool = False) -> int:
        """One of the words of `table`; `abbreviated` accepts a beginning, the first in the table winning."""
        word = self.take(" or ".join(table.values()))
        for number, name in table.items():
            if name == word or (abbreviated and matches(word, name)):
                return number
        raise self.wrong(why, f"one of {', '.join(table.values())} goes here.")

    def flags(self, table: Mapping[int, str], bits: int, why: str) -> int:
        """A list of flag words, or one number in hex. Stops before the first word that is no flag."""
        word = self.peek()
        if word is not None and word.startswith("0x") and len(word) > 2:
            return self.number(why, bits)
        if word is None:
            self.take("a flag")
        flags = 0
        names = {name: bit for bit, name in table.items()}
        while (word := self.peek()) is not None and word in names:
            flags |= names[word]
            self.at += 1
        return flags

    def prefix(self, family: int, keyword: str) -> Prefix:
        """ADDR[/PLEN] of `family`, after `keyword`; a wild word needs a family."""
        text = self.take("an address")
        prefix = parse_prefix(text, family)
        if prefix is None:
            raise self._no_address("prefix", family, text)
        if not prefix.family:
            why = f'value after "{keyword}" has an unrecognized address family'
            raise self.wrong(why, 'give an address such as 0.0.0.0/0 or ::/0, or option "-4" or "-6".')
        return prefix

    def address(self, family: int = AF_UNSPEC) -> Prefix:
        """ADDR; a wild word gives an empty address where no family is known."""
        text = self.take("an address")
        address = parse_address(text, family)
        if address is None:
            raise self._no_address("address", family, text)
        return address

    def _no_address(self, what: str, family: int, text: str) -> GrammarError:
        expected = f'Error: {FAMILIES.get(family, "???")} {what} is expected rather than "{shown(text)}".'
        return self.error(expected, INCOMPLETE, "an IP address goes here, such as 192.0.2.1 or 2001:db8::1.")


def matches(word: str, name: str) -> bool:
    """Whether `word` is `name` or the beginning of it, as ip abbreviates."""
    return bool(word) and name.startswith(word)


Parser = TypeVar("Parser")


def take_verb(tokens: Tokens, name: str, verbs: Sequence[tuple[str, Parser]], usage: str) -> Parser:
    """What `verbs` has for the next word, the first that it abbreviates; `help` and the unknown end in `usage`."""
    word = tokens.take("a command")
    for verb, parser in verbs:
        if matches(word, verb):
            return parser
    if matches(word, "help"):
        raise tokens.error(usage, USAGE, f"this is all that {name} knows.")
    text = f'Command "{shown(word)}" is unknown, try "xfrmi {name} help".'
    raise tokens.error(text, USAGE, suggestion(word, dict(verbs)))


def suggestion(word: str, keywords: Iterable[str]) -> str:
    """What somebody who wrote `word` may have meant."""
    from difflib import get_close_matches

    keywords = list(keywords)
    close = get_close_matches(word, keywords, 1)
    return f'did you mean "{close[0]}"?' if close else f"one of {', '.join(keywords)} goes here."


def shown(word: str) -> str:
    """A word as an error may quote it: something longer than any number in hex can only be a key."""
    if word.startswith("0x") and len(word) > _LONGEST_NUMBER:
        return "0x..."
    return word
