"""The listing of states, read back: one function for each kind of line that print_state writes."""

from __future__ import annotations

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
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_types import Algorithm, Encap, Replay, ReplayEsn, StateInfo, StateStats


def read_state(record: list[Line]) -> StateInfo:
    lines = iter(record)
    first = next(lines)
    fields = read_id(first, next_line(lines, first))
    read_rest(lines, _STATE_READERS, fields)
    return StateInfo(**fields)


def _window(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    """replay-window N [ seq 0xDECIMAL ] [ flag ... ] [ extra_flag ... ] [ (0xBINARY) ]."""
    line.expect("replay-window")
    fields["replay_window"] = line.numeral(8)
    if line.accept("seq"):
        digits = line.take().removeprefix("0x").lstrip("0")
        fields["seq"] = line.as_number(digits or "0")
    if line.accept("flag"):
        fields["flags"] = line.flags(words.STATE_FLAGS)
    if line.accept("extra_flag"):
        fields["extra_flags"] = line.flags(words.EXTRA_FLAGS)
    if line.peek().startswith("("):
        line.take()


def _algorithm(field: str, *, with_bits: bool = False) -> Reader:
    def reader(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
        line.take()
        name = line.take()
        if line.peek().startswith("<<Keys"):
            raise line.error("the keys are hidden; take the listing without nokeys")
        key = b""
        if line.peek().startswith("0x"):
            try:
                key = bytes.fromhex(line.take().removeprefix("0x"))
            except ValueError:
                raise line.error("the key is not in hex") from None
        if line.peek().startswith("("):
            line.take()
            line.expect("bits)")
        fields[field] = Algorithm(name, key, line.numeral() if with_bits else 0)

    return reader


def _encap(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("encap", "type")
    kind = line.named(words.ENCAP_TYPES)
    line.expect("sport")
    sport = line.numeral(16)
    line.expect("dport")
    dport = line.numeral(16)
    line.expect("addr")
    fields["encap"] = Encap(kind, sport, dport, line.address())


def _coa(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("coa")
    fields["coaddr"] = line.address()


def _lastused(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("lastused")
    fields["lastused"] = line.date()


def _replay(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    """anti-replay context: in one line, anti-replay esn context: in three and the bitmap, last word first."""
    line.expect("anti-replay")
    if line.accept("context:"):
        seq, oseq, bitmap = (_counter(line, word) for word in ("seq", "oseq", "bitmap"))
        fields["replay"] = Replay(oseq, seq, bitmap)
        return
    line.expect("esn", "context:")
    counters = next_line(lines, line)
    seq_hi, seq, oseq_hi, oseq = (_counter(counters, word) for word in ("seq-hi", "seq", "oseq-hi", "oseq"))
    sizes = next_line(lines, counters)
    window, length = (_counter(sizes, word) for word in ("replay_window", "bitmap-length"))
    if length > k.REPLAY_ESN_MAX // 32:
        raise sizes.error(f"a bitmap of {length} words is longer than {k.REPLAY_ESN_MAX // 32}")
    bitmap_words: list[int] = []
    row = sizes
    while len(bitmap_words) < length:
        row = next_line(lines, row)
        bitmap_words += [row.as_number(f"0x{row.take()}") for _ in row.words]
    if len(bitmap_words) > length:
        raise row.error(f"the bitmap has more than {length} words")
    fields["replay_esn"] = ReplayEsn(tuple(reversed(bitmap_words)), oseq, seq, oseq_hi, seq_hi, window)


def _counter(line: Line, word: str) -> int:
    line.expect(word)
    return line.numeral()


def _offload(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("crypto", "offload", "parameters:", "dev")
    ifindex = 0 if line.accept("*") else line.device()
    line.expect("dir")
    flags = words.OFFLOAD_IN if line.named(words.SA_DIRS) == k.SaDir.IN else 0
    if line.accept("mode"):
        line.expect("packet")
        flags |= words.OFFLOAD_PACKET
    fields["offload"] = (ifindex, flags)


def _value(field: str, table: dict[int, str] | None = None) -> Reader:
    def reader(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
        line.take()
        fields[field] = line.numeral() if table is None else line.named(table)

    return reader


def _sel(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("sel")
    fields["selector"] = read_selector(line)


def _stats(line: Line, lines: Lines, fields: dict[str, Any]) -> None:
    line.expect("stats:")
    numbers = next_line(lines, line)
    fields["stats"] = StateStats(*(_counter(numbers, word) for word in ("replay-window", "replay", "failed")))


_STATE_READERS: Final[dict[str, Reader]] = {
    "replay-window": _window,
    "mark": read_marks,
    "output-mark": read_marks,
    "auth": _algorithm("auth"),
    "auth-trunc": _algorithm("auth_trunc", with_bits=True),
    "aead": _algorithm("aead", with_bits=True),
    "enc": _algorithm("crypt"),
    "comp": _algorithm("comp"),
    "encap": _encap,
    "coa": _coa,
    "lastused": _lastused,
    "anti-replay": _replay,
    "crypto": _offload,
    "if_id": read_if_id,
    "tfcpad": _value("tfcpad"),
    "dir": _value("dir", dict(words.SA_DIRS)),
    "pcpu-num": _value("pcpu"),
    "sel": _sel,
    "lifetime": read_lifetime,
    "stats:": _stats,
    "security": read_context,
}
