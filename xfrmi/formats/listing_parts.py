"""What state and policy listings have in common, read back: lines, selectors, marks, lifetimes, flags, dates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xfrmi.formats import words
from xfrmi.formats.numbers import parse_number
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.address import family_of, pack_address, parse_prefix
from xfrmi.wire.xfrm_types import Current, Limits, Mark, Selector

_PARTS_OF_A_DATE = 6


class ListingError(ValueError):
    """Text that no listing of ip(8) contains; names its line, counted from 1."""

    def __init__(self, number: int, why: str) -> None:
        self.number = number
        super().__init__(f"line {number}: {why}")


def local_timestamp(text: str) -> int:
    """The inverse of show.local_time; ValueError for what is no date."""
    parts = [int(part) for part in text.replace("-", " ").replace(":", " ").split()]
    if len(parts) != _PARTS_OF_A_DATE:
        raise ValueError(f'"{text}" is not a date as in 2026-11-23 23:43:43')
    year, month, day, hour, minute, second = parts
    return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))


class Outside:
    """What a listing does not say itself: how its dates and device names are meant."""

    __slots__ = ("ifindex_of", "timestamp")

    def __init__(
        self, timestamp: Callable[[str], int] = local_timestamp, ifindex_of: Callable[[str], int] | None = None
    ) -> None:
        self.timestamp = timestamp
        self.ifindex_of = ifindex_of or (lambda name: 0)


class Line:
    """A line as words, without commas at their ends. Methods raise ListingError."""

    __slots__ = ("at", "number", "outside", "words")

    def __init__(self, number: int, text: str, outside: Outside) -> None:
        self.number = number
        # ip writes no blank before this word.
        self.words = [word.removesuffix(",") for word in text.replace("extra_flag", " extra_flag").split()]
        self.at = 0
        self.outside = outside

    def error(self, why: str) -> ListingError:
        return ListingError(self.number, why)

    @property
    def more(self) -> bool:
        return self.at < len(self.words)

    def peek(self) -> str:
        return self.words[self.at] if self.more else ""

    def take(self) -> str:
        if not self.more:
            after = f' after "{self.words[-1]}"' if self.words else ""
            raise self.error(f"something is missing{after}")
        self.at += 1
        return self.words[self.at - 1]

    def accept(self, word: str) -> bool:
        if self.peek() != word:
            return False
        self.at += 1
        return True

    def expect(self, *expected: str) -> None:
        for word in expected:
            if not self.accept(word):
                raise self.error(f'"{word}" is expected rather than "{self.peek()}"')

    def end(self) -> None:
        if self.more:
            raise self.error(f'"{self.peek()}" has no meaning here')

    def numeral(self, bits: int = 32) -> int:
        """A number; what -s repeats behind it in parentheses is skipped."""
        return self.as_number(self.take().partition("(")[0], bits)

    def as_number(self, text: str, bits: int = 32) -> int:
        number = parse_number(text, bits) if text == "0" or not text.startswith("0") or text[:2] == "0x" else None
        if number is None:
            raise self.error(f'"{text}" is not a number of {bits} bits')
        return number

    def named(self, table: Mapping[int, str]) -> int:
        """A word of `table`, or a number without one."""
        text = self.take()
        number = words.number(table, text)
        return self.as_number(text) if number is None else number

    def address(self) -> bytes:
        try:
            return pack_address(self.take())
        except ValueError as error:
            raise self.error(str(error)) from None

    def date(self) -> int:
        """Two words, or - for never."""
        if self.accept("-"):
            return 0
        text = f"{self.take()} {self.take()}"
        try:
            return self.outside.timestamp(text)
        except (ValueError, OverflowError) as error:
            raise self.error(str(error)) from None

    def device(self) -> int:
        name = self.take()
        ifindex = self.outside.ifindex_of(name)
        if not ifindex:
            raise self.error(f'there is no device "{name}"')
        return ifindex

    def flags(self, table: Mapping[int, str]) -> int:
        """Flag words, then the bits that have none, in hex; up to the next keyword or parenthesis."""
        flags = 0
        while self.more and self.peek() != "extra_flag" and not self.peek().startswith("("):
            text = self.take()
            bit = words.number(table, text)
            flags |= self.as_number(f"0x{text}") if bit is None else bit
        return flags


Lines = Iterator[Line]
Reader = Callable[[Line, Lines, dict[str, Any]], None]
"""Reads a line, and those that belong to it, into fields of the value."""


def records(text: str, outside: Outside) -> Iterator[list[Line]]:
    """The lines of each record: one begins with `src` at the start of a line. Listings made with -o are undone."""
    record: list[Line] = []
    for number, whole in enumerate(text.splitlines(), 1):
        for part in whole.split("\\"):
            if not part.strip():
                continue
            if not part[0].isspace() and record:
                yield record
                record = []
            line = Line(number, part, outside)
            if not record and line.peek() != "src":
                raise line.error(f'a record begins with "src", not "{line.peek()}"')
            record.append(line)
    if record:
        yield record


def next_line(lines: Lines, after: Line) -> Line:
    line = next(lines, None)
    if line is None:
        raise after.error("the line that belongs to this one is missing")
    return line


def read_selector(line: Line) -> Selector:
    """From `src` to the end of the line. A port that is shown is matched whole, whatever its mask was."""
    line.expect("src")
    saddr, prefixlen_s = _read_prefix(line)
    line.expect("dst")
    daddr, prefixlen_d = _read_prefix(line)
    if len(saddr) != len(daddr):
        raise line.error("source and destination of a selector are of one family")
    fields = {"prefixlen_s": prefixlen_s, "prefixlen_d": prefixlen_d}
    while line.more:
        word = line.take()
        if word == "proto":
            fields["proto"] = line.named(words.PROTOS)
        elif word in ("sport", "type"):
            fields |= {"sport": line.numeral(16), "sport_mask": 0xFFFF}
        elif word in ("dport", "code"):
            fields |= {"dport": line.numeral(16), "dport_mask": 0xFFFF}
        elif word == "key":
            sport, dport = divmod(line.numeral(), 0x10000)
            fields |= {"sport": sport, "sport_mask": 0xFFFF, "dport": dport, "dport_mask": 0xFFFF}
        elif word == "(dport)":
            swapped = line.numeral(16).to_bytes(2, "little")
            fields |= {"dport": int.from_bytes(swapped, "big"), "dport_mask": 0xFFFF}
        elif word == "dev":
            fields["ifindex"] = line.device()
        elif word == "uid":
            fields["user"] = line.numeral()
        else:
            raise line.error(f'"{word}" is no part of a selector')
    return Selector(family_of(saddr), saddr, daddr=daddr, **fields)


def _read_prefix(line: Line) -> tuple[bytes, int]:
    try:
        return parse_prefix(line.take())
    except ValueError as error:
        raise line.error(str(error)) from None


def read_marks(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    """mark V/M, output-mark V/M: one or both."""
    while line.more:
        word = line.take()
        value, _, mask = line.take().partition("/")
        mark = Mark(line.as_number(value), line.as_number(mask or "0xffffffff"))
        if word == "mark":
            fields["mark"] = mark
        elif word == "output-mark":
            fields["set_mark"] = mark
        else:
            raise line.error(f'"{word}" is no mark')


def read_if_id(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("if_id")
    fields["if_id"] = line.numeral()


def read_context(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("security", "context")
    try:
        fields["sec_ctx"] = words.pack_sec_ctx(line.take())
    except ValueError as error:
        raise line.error(str(error)) from None


def read_lifetime(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    """lifetime config: or lifetime current: with their lines."""
    line.expect("lifetime")
    if line.accept("config:"):
        pairs = [_read_pair(next_line(lines, line)) for _ in range(4)]
        fields["limits"] = Limits(*(number for pair in pairs for number in pair))
        return
    line.expect("current:")
    used = next_line(lines, line)
    byte_count, packets = (_number_before(used, unit) for unit in ("(bytes)", "(packets)"))
    times = next_line(lines, used)
    times.expect("add")
    added = times.date()
    times.expect("use")
    fields["current"] = Current(byte_count, packets, added, times.date())


def _read_pair(line: Line) -> tuple[int, int]:
    """limit: soft (INF)(bytes), hard 5(bytes) and expire add: soft 0(sec), hard 0(sec)."""
    if not line.accept("limit:"):
        line.expect("expire")
        line.take()
    line.expect("soft")
    soft = _limit(line)
    line.expect("hard")
    return soft, _limit(line)


def _limit(line: Line) -> int:
    text = line.take()
    return k.XFRM_INF if text.startswith("(INF)") else line.as_number(text.partition("(")[0], 64)


def _number_before(line: Line, unit: str) -> int:
    text = line.take()
    if not text.endswith(unit):
        raise line.error(f'"{text}" does not end in {unit}')
    return line.as_number(text.removesuffix(unit), 64)


def read_rest(lines: Lines, readers: dict[str, Reader], fields: dict[str, Any]) -> None:
    for line in lines:
        reader = readers.get(line.peek())
        if reader is None:
            raise line.error(f'"{line.peek()}" begins no line of this listing')
        reader(line, lines, fields)
        line.end()


def read_id(first: Line, second: Line) -> dict[str, Any]:
    """src A dst B, and proto P spi S reqid R mode M: the head of a state, and of a template behind `tmpl`."""
    first.expect("src")
    src = first.address()
    first.expect("dst")
    dst = first.address()
    first.end()
    if len(src) != len(dst):
        raise first.error("source and destination are of one family")
    second.expect("proto")
    fields = {"src": src, "dst": dst, "family": family_of(dst), "proto": second.named(words.XFRM_PROTOS)}
    if second.accept("spi"):
        fields["spi"] = second.numeral()
    second.expect("reqid")
    fields["reqid"] = second.numeral()
    second.expect("mode")
    fields["mode"] = second.named(words.MODES)
    second.end()
    return fields
