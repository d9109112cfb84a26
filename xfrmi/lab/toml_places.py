"""Where keys stand in a TOML text. tomllib says what a file means, and forgets in which line it was said."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Sequence

_HEADER = re.compile(r"\s*(\[\[?)([^\[\]]+)\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=\s*(.*)$""", re.ASCII)
_QUOTES = ('"""', "'''")
_NO_LINE = re.compile(r"\(at line (\d+), column \d+\)|\(at end of document\)")

FAR = 256
"""Lines to look through for one string: were it all, a long list would be looked through for each of its entries."""


class Places:
    """Lines of keys, by their path: ("node", "moon", "address", "eth0"), ("link", "1", "delay")."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._keys: dict[tuple[str, ...], int] = {}
        self._scan()
        self._starts = sorted(set(self._keys.values()))

    def line(self, *path: str) -> int:
        """Of a key, or of the nearest thing around it."""
        while path and path not in self._keys:
            path = path[:-1]
        return self._keys.get(path, 1)

    def lines(self, words: Sequence[str], *path: str) -> list[int]:
        """Of strings in the value of a key, in the order in which they stand there: for each the first line with it,
        not before that of the one before nor far behind it; that of the key if there is none."""
        first = self.line(*path)
        after = bisect_right(self._starts, first)
        end = self._starts[after] if after < len(self._starts) else len(self._lines) + 1
        found: list[int] = []
        at = first
        for word in words:
            near = range(at, min(at + FAR, end))
            line = next((line for line in near if word in self._lines[line - 1]), 0)
            at = line or at
            found.append(line or first)
        return found

    def first_line_of_text(self, *path: str) -> int:
        """Where the content of a string begins: behind its opening quotes, in the next line if they end theirs."""
        line = self.line(*path)
        return line + self._lines[line - 1].rstrip().endswith(_QUOTES)

    def _scan(self) -> None:
        table: tuple[str, ...] = ()
        counts: dict[tuple[str, ...], int] = {}
        inside = ""  # the quotes that end the string in which we are
        for number, line in enumerate(self._lines, 1):
            if inside:
                inside = "" if inside in line else inside
                continue
            if header := _HEADER.match(line):
                table = _path(header[2])
                if header[1] == "[[":
                    index = counts[table] = counts.get(table, -1) + 1
                    table = (*table, str(index))
                self._keys.setdefault(table, number)
            elif key := _KEY.match(line):
                path = (*table, *_path(key[1]))
                for length in range(len(table) + 1, len(path) + 1):
                    self._keys.setdefault(path[:length], number)
                inside = next((quotes for quotes in _QUOTES if key[2].count(quotes) == 1), "")


def _path(dotted: str) -> tuple[str, ...]:
    parts = re.findall(r"""[\w-]+|"[^"]*"|'[^']*'""", dotted, re.ASCII)
    return tuple(part.strip("\"'") for part in parts)


def syntax_error(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """The line (from 1) and the words of what tomllib could not read."""
    found = _NO_LINE.search(str(error))
    line = int(found[1]) if found and found[1] else max(len(text.splitlines()), 1)
    return line, _NO_LINE.sub("", str(error)).strip()
