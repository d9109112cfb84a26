"""`xfrmi trace`: packets as they pass, drops included, with the counter and the reason; until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING

from xfrmi.cli.options import Options
from xfrmi.client.packets import Lost, Record
from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from xfrmi.teach import Tables

EPILOG = """\
One line a packet: when, through which interface, which way, what is inside, what is outside; or why it died and which
counter rose. -v shows each packet as `xfrmi explain` does. While somebody traces, what is received is opened packet by
packet, which costs throughput; who reads too slowly loses records and is told how many.

  xfrmi trace ipsec0             all that passes through ipsec0
  xfrmi trace --dropped          what dies, wherever
  xfrmi trace in --spi 0x1001    what arrives for one state
  xfrmi trace xfrmi-policy       what meets policies without if_id, on any device"""


def trace_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xfrmi trace",
        description="Follow packets as they pass.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="[DEV] [in|out]", help="only this interface, only this direction")
    parser.add_argument("--dropped", action="store_true", help="only what dies")
    parser.add_argument("--spi", type=lambda text: int(text, 0), help="only this SPI")
    parser.add_argument("-c", "--count", type=int, help="end after so many")
    parser.add_argument("-v", "--verbose", action="store_true", help="every step of each packet")
    parser.add_argument("--keys", action="store_true", help="with -v: show keys")
    parser.add_argument("--json", "-j", action="store_true", help="one object a line")
    return parser


def trace(options: Options, words: list[str]) -> int:
    """The words after `trace`."""
    parser = trace_parser()
    given = parser.parse_args(words)
    direction = next((word for word in given.words if word in ("in", "out")), None)
    devices = [word for word in given.words if word not in ("in", "out")]
    if len(devices) > 1:
        parser.error(f"one interface, or all: {' '.join(devices)}")
    try:
        _follow(given, devices[0] if devices else None, direction, given.json or options.json)
    except XfrmError as error:
        print(f"xfrmi: {error.detail or error}", file=sys.stderr)
        return 1
    return 0


def _follow(given: argparse.Namespace, device: str | None, direction: str | None, as_json: bool) -> None:
    from xfrmi.client import Client

    left = given.count
    with Client() as client, contextlib.suppress(KeyboardInterrupt):
        packets = client.packets(device, direction, given.dropped, given.spi)
        for record in packets:
            if isinstance(record, Lost):
                print(f"xfrmi: {record.records} packets not shown: read too slowly", file=sys.stderr, flush=True)
                continue
            if as_json:
                print(json.dumps(record_json(record)), flush=True)
            else:
                print(line_of(record), flush=True)
            if given.verbose:
                from xfrmi.teach import Tables

                _explain(record, Tables.of(client), given.keys, as_json)
            if left is not None and (left := left - 1) <= 0:
                return


def _explain(record: Record, tables: Tables, keys: bool, as_json: bool) -> None:
    from xfrmi.cli.explain import terminal
    from xfrmi.dev.router import KernelRouter
    from xfrmi.teach.one_packet import explain_record

    found = explain_record(record, tables, KernelRouter(), keys=keys)
    if as_json:
        print(json.dumps(found.as_dict()), flush=True)
        return
    from xfrmi.teach.show_text import render

    console = terminal()
    console.print(render(found, flips=False, width=console.width), highlight=False)


def record_json(record: Record) -> dict[str, object]:
    """Bytes in hexadecimal."""
    return {**record._asdict(), "inner": record.inner.hex(), "outer": record.outer.hex()}


def line_of(record: Record) -> str:
    """One packet on one line."""
    clock = time.strftime("%H:%M:%S", time.localtime(record.time)) + f".{int(record.time % 1 * 1e6):06d}"
    parts = [f"{clock} {record.interface or '-'} {record.direction:<3}"]
    inner, outer = inner_text(record.inner), outer_text(record.outer) if record.outer else "in the clear"
    if record.reason:
        parts.append(outer if record.outer else inner)
        parts.append(f"DROPPED {record.counter or '(no xfrm counter)'}: {record.reason}")
    else:
        parts += [inner, outer] if record.direction == "out" else [outer, inner]
    return " | ".join(parts)


def inner_text(packet: bytes) -> str:
    """Its flow and its length."""
    from xfrmi.teach.wording import flow_text
    from xfrmi.wire.flow import flow_of
    from xfrmi.wire.ip import trim

    try:
        return f"{flow_text(flow_of(trim(packet)))}, {len(packet)} bytes"
    except ValueError:
        return f"{len(packet)} bytes that are no IP packet"


def outer_text(packet: bytes) -> str:
    """Its ends, SPI and number."""
    from xfrmi.wire.address import format_address
    from xfrmi.wire.ip import addresses_of, split_outer

    try:
        header, esp = split_outer(packet)
    except ValueError:
        return f"{len(packet)} bytes that are no ESP"
    src, dst = map(format_address, addresses_of(header))
    spi, number = int.from_bytes(esp[:4], "big"), int.from_bytes(esp[4:8], "big")
    in_udp = " in UDP" if len(header) > (20 if header[0] >> 4 == 4 else 40) else ""
    return f"ESP{in_udp} {src} > {dst} spi {spi:#x} seq {number}, {len(packet)} bytes"
