"""`xfrmi explain`: one packet through ESP, step by step and byte by byte."""

from __future__ import annotations

import argparse
import errno
import json
import re
import sys
from typing import TYPE_CHECKING

from xfrmi.cli.options import Options
from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from rich.console import Console

    from xfrmi.client.packets import Record
    from xfrmi.core.router import Router
    from xfrmi.teach import Explanation, Tables

WIDTH = 110
"""Columns where nobody says how many there are."""
_USAGE = 255

EPILOG = """\
The tables are those of the daemon here, or of --config files: `ip xfrm` lines as one types them, or what `ip xfrm
state` and `ip xfrm policy` print. With files neither a daemon nor privileges are needed. Nothing of a running daemon is
touched: packets that passed are shown with the bytes they had, others are sealed with keys drawn for the occasion.

  xfrmi explain -i ipsec0                       the next packet that passes
  xfrmi explain -i xfrmi-policy                 the next one that meets policies without if_id, on any device
  xfrmi explain --config states.txt 45000021... a packet in hexadecimal
  xfrmi explain -r ipsec0.pcapng -p 7 in        packet 7 of a capture, as it would be received
  xfrmi explain -i ipsec0 out --flip 60         ... and what a turned bit would do"""


def explain_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xfrmi explain",
        description="Show what ESP does with a packet, every step and every byte, and why.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="[out|in] [HEX|-]", help="direction; a packet, IP header first")
    parser.add_argument("-i", "--interface", metavar="DEV", help="the xfrm interface; alone: its next packet")
    parser.add_argument("-r", "--read", metavar="FILE", help="a packet out of a pcap or pcapng file")
    parser.add_argument("-p", "--packet", type=int, metavar="N", help="which one, as Wireshark numbers them")
    parser.add_argument("--config", action="append", metavar="FILE", help="tables out of files; may be repeated")
    parser.add_argument("--flip", action="append", metavar="N[:MASK]", help="turn bits of byte N on the way (mask 1)")
    parser.add_argument("--mtu", type=int, default=1500, help="of the way to the peer, with --config")
    parser.add_argument("--forwarded", action="store_true", help="with --config: inner destinations are not this host")
    parser.add_argument("--keys", action="store_true", help="show keys")
    parser.add_argument("--all", action="store_true", help="draw every row of a long packet")
    parser.add_argument("--html", metavar="FILE", help="write a page (mode 0600)")
    parser.add_argument("--svg", metavar="FILE", help="write what the terminal would show as a picture (mode 0600)")
    parser.add_argument("--json", "-j", action="store_true")
    return parser


def explain(options: Options, words: list[str]) -> int:
    """The words after `explain`."""
    given = explain_parser().parse_args(words)
    try:
        flips = [_flip(text) for text in given.flip or ()]
        found = _explain(given)
        _show(found, given, flips, given.json or options.json)
    except XfrmError as error:
        print(f"xfrmi: {error.detail or error}", file=sys.stderr)
        return 1
    return 0


def _explain(given: argparse.Namespace) -> Explanation:
    direction, text = _direction_and_hex(given.words)
    if (text is not None) + (given.read is not None) > 1:
        raise XfrmError(errno.EINVAL, detail="one packet at a time: hexadecimal, or -r FILE")
    from xfrmi.teach.one_packet import explain, explain_record

    if text is None and given.read is None:
        if given.config:
            raise XfrmError(errno.EINVAL, detail="which packet? Give it in hexadecimal, or a capture with -r FILE")
        record = _next_packet(given.interface, direction)
        return explain_record(record, _tables(None), _kernel_router(), keys=given.keys)
    packet = _packet_of(given.read, given.packet) if text is None else from_hex(text)
    tables = _tables(given.config)
    router = None if given.config else _kernel_router()
    return explain(
        packet, tables, direction=direction, interface=given.interface, router=router, mtu=given.mtu,
        forwarded=given.forwarded, keys=given.keys,
    )  # fmt: skip


def _direction_and_hex(words: list[str]) -> tuple[str | None, str | None]:
    direction = next((word for word in words if word in ("in", "out")), None)
    rest = [word for word in words if word not in ("in", "out")]
    if not rest:
        return direction, None
    return direction, sys.stdin.read() if rest == ["-"] else "".join(rest)


def from_hex(text: str) -> bytes:
    """Hexadecimal, with or without 0x, blanks and colons. Raises XfrmError that says what is wrong."""
    bare = re.sub(r"\s+|:", "", text).removeprefix("0x").removeprefix("0X")
    if (wrong := re.search(r"[^0-9a-fA-F]", bare)) is not None:
        where = f"{wrong.group()!r} at digit {wrong.start() + 1}"
        raise XfrmError(errno.EINVAL, detail=f"{where} is no hexadecimal digit; a packet begins like 45000054 or 6000")
    if len(bare) % 2:
        raise XfrmError(errno.EINVAL, detail=f"{len(bare)} hexadecimal digits are no whole bytes: one is missing")
    return bytes.fromhex(bare)


def _packet_of(path: str, number: int | None) -> bytes:
    from xfrmi.formats.pcapng import read_packets

    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise XfrmError(error.errno or errno.EIO, detail=f"cannot read {path}: {error.strerror}") from None
    seen = 0
    try:
        for captured in read_packets(data):
            seen = captured.number
            if number in (None, captured.number):
                return captured.data
    except ValueError as error:
        raise XfrmError(errno.EINVAL, detail=f"{path}: {error}") from None
    if number is None:
        raise XfrmError(errno.ENOENT, detail=f"{path} holds no IP packet")
    raise XfrmError(errno.ENOENT, detail=f"{path}: packet {number} is none of IP, or not there; the last one is {seen}")


def _tables(paths: list[str] | None) -> Tables:
    from xfrmi.teach import Tables

    if paths:
        return Tables.read(*paths)
    from xfrmi.client import Client

    with Client() as client:
        return Tables.of(client)


def _kernel_router() -> Router:
    from xfrmi.dev.router import KernelRouter

    return KernelRouter()


def _next_packet(interface: str | None, direction: str | None) -> Record:
    """Waits for it."""
    from xfrmi.client import Client
    from xfrmi.client.packets import Record

    with Client() as client:
        packets = client.packets(interface, direction)
        if sys.stderr.isatty():
            through = f"through {interface}" if interface else "through any xfrm interface"
            print(f"xfrmi: waiting for a packet {through} (Ctrl-C ends this)", file=sys.stderr)
        try:
            return next(record for record in packets if isinstance(record, Record))
        finally:
            packets.close()


def _flip(text: str) -> tuple[int, int]:
    offset, _, mask = text.partition(":")
    try:
        return int(offset, 0), int(mask, 0) if mask else 1
    except ValueError:
        detail = f'--flip {text}: the number of a byte goes here, as in "60" or "60:0x80"'
        raise XfrmError(errno.EINVAL, detail=detail) from None


def _show(found: Explanation, given: argparse.Namespace, flips: list[tuple[int, int]], as_json: bool) -> None:
    try:
        flipped = [found.flip(*flip) for flip in flips]
    except ValueError as error:
        raise XfrmError(errno.EINVAL, detail=str(error)) from None
    if given.html:
        from xfrmi.cli.private_file import create

        with create(given.html) as file:
            file.write(found.html().encode())
        print(f"xfrmi: written to {given.html}; {found.about_keys}", file=sys.stderr)
    if given.svg:
        _write_svg(found, given)
    if as_json:
        entry = found.as_dict(flips=True)
        if flipped:
            entry["flipped"] = [
                {
                    "offset": flip.offset, "mask": flip.mask, "field": flip.field.name, "outcome": str(flip),
                    "delivered": bool(flip.outcome.delivered), "unchanged": flip.same,
                    "counters": {**flip.outcome.counters, **flip.outcome.device},
                }
                for flip in flipped
            ]  # fmt: skip
        print(json.dumps(entry, indent=1))
    elif not given.html and not given.svg:
        console = terminal()
        from xfrmi.teach.show_text import render, render_flip

        console.print(render(found, whole=given.all, flips=not flipped, width=console.width), highlight=False)
        for flip in flipped:
            console.print()
            console.print(render_flip(flip), highlight=False)


def _write_svg(found: Explanation, given: argparse.Namespace) -> None:
    terminal()
    from xfrmi.cli.svg import write_svg
    from xfrmi.teach.show_text import render

    write_svg(given.svg, render(found, whole=given.all, width=WIDTH), WIDTH, "xfrmi explain")
    print(f"xfrmi: written to {given.svg}; {found.about_keys}", file=sys.stderr)


def terminal() -> Console:
    """A rich Console for standard output. XfrmError where rich is missing."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        detail = "to print it rich is needed: pip install 'xfrmi[teach]'; --json and --html do without"
        raise XfrmError(errno.ENOENT, detail=detail) from None
    console = Console(soft_wrap=False)
    return console if console.is_terminal else Console(width=WIDTH, soft_wrap=False)
