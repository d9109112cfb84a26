"""`xfrmi top`: interfaces, drops and states of a running daemon, live; or once, or as data."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import sys
import time
from typing import TYPE_CHECKING

from xfrmi.cli.options import Options
from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from rich.console import Console

    from xfrmi.client.samples import Sample
    from xfrmi.top.view import View

EPILOG = """\
Keys: q quit, s sort, f filter, arrows scroll, ? help. Cryptographic keys are not shown, and not even asked for.

  xfrmi top                        until q
  xfrmi top -f ipsec0              one interface and its states; -f 42 those with this if_id
  xfrmi top --once -n 5            one picture, rates over five seconds; needs no terminal
  xfrmi top --json                 counters of this moment, all states"""
ONCE_WIDTH = 80
ONCE_SECONDS = 1.0
LIVE_SECONDS = 2.0
SHORTEST = 0.1


def top_parser() -> argparse.ArgumentParser:
    from xfrmi.top.selection import SORTS

    parser = argparse.ArgumentParser(
        prog="xfrmi top",
        description="Look on: interfaces, drops, states, as they change.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-n", "--seconds", type=_seconds, help=f"between samples ({LIVE_SECONDS:g}; --once: {ONCE_SECONDS:g})"
    )
    parser.add_argument("-f", "--filter", default="", help="only this interface: a part of its name, or an if_id")
    parser.add_argument("-s", "--sort", choices=SORTS, default=SORTS[0], help="of states")
    parser.add_argument("--once", action="store_true", help="print one picture")
    parser.add_argument("--svg", metavar="FILE", help="write one picture into a file")
    parser.add_argument("--json", "-j", action="store_true", help="print one sample")
    return parser


def top(options: Options, words: list[str]) -> int:
    """The words after `top`."""
    given = top_parser().parse_args(words)
    try:
        return _show(given, given.json or options.json)
    except XfrmError as error:
        print(f"xfrmi: {error.detail or error}", file=sys.stderr)
        return 1


def _show(given: argparse.Namespace, as_json: bool) -> int:
    from xfrmi.top.view import View

    view = View(given.sort, given.filter)
    if as_json:
        print(json.dumps(as_dict(_sample(), given.filter), indent=1))
        return 0
    console = _console()
    if given.once or given.svg:
        _once(console, view, given.seconds or ONCE_SECONDS, given.svg)
        return 0
    if not (console.is_terminal and sys.stdin.isatty()) or console.is_dumb_terminal:
        print("xfrmi: `xfrmi top` needs a terminal for its keys; --once and --json do without", file=sys.stderr)
        return 1
    from xfrmi.top.screen import watch

    with contextlib.suppress(KeyboardInterrupt):
        watch(view, given.seconds or LIVE_SECONDS, console)
    return 0


def as_dict(sample: Sample, wanted: str = "") -> dict[str, object]:
    """A sample as plain data: addresses as text, limits that are none as null."""
    from dataclasses import asdict

    from xfrmi.formats.words import MODES, SA_DIRS
    from xfrmi.top.selection import wanted_if_ids
    from xfrmi.wire.address import format_address
    from xfrmi.wire.link_types import IFF_UP
    from xfrmi.wire.xfrm_types import Limits

    if_ids = wanted_if_ids(wanted, sample.links)
    states = [*sample.larval, *(sample.states[use.key] for use in sample.uses if use.key in sample.states)]
    return {
        "daemon": dict(sample.status),
        "interfaces": [
            {
                "name": link.name, "if_id": link.if_id or 0, "up": bool(link.flags & IFF_UP),
                "stats": asdict(link.stats) if link.stats is not None else {},
            }
            for link in sample.links
            if if_ids is None or link.if_id in if_ids
        ],
        "xfrm_stat": dict(sample.stat),
        "larval": sample.larval_count,
        "states": [
            {
                **asdict(state), "src": format_address(state.src), "dst": format_address(state.dst),
                "mode": MODES.get(state.mode, state.mode), "dir": SA_DIRS.get(state.dir, ""),
                "limits": {
                    name: None if limit is None or (limit == 0 and name.endswith(("_add", "_use"))) else limit
                    for name, limit in zip(Limits._fields, state.limits, strict=True)
                },
                "seen": f"{state.seen:#x}",
            }
            for state in states
            if if_ids is None or state.if_id in if_ids
        ],
    }  # fmt: skip


def _seconds(text: str) -> float:
    try:
        return max(SHORTEST, float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None


def _sample() -> Sample:
    """All of it, states in full."""
    from xfrmi.client import Client

    with Client() as client, client.sampler() as sampler:
        sample = sampler.sample()
        return sampler.with_details(sample, [use.key for use in sample.uses])


def _once(console: Console, view: View, seconds: float, svg: str | None) -> None:
    """Two samples, for the rates; every state is in the picture."""
    from rich.console import Group

    from xfrmi.client import Client
    from xfrmi.top.picture import asked, picture

    with Client() as client, client.sampler() as sampler:
        before = sampler.sample()
        time.sleep(seconds)
        now = sampler.sample()
        _, keys = asked(before, now, view, None)
        now = sampler.with_details(now, keys)
    width = ONCE_WIDTH if svg else console.width
    shown = Group(*picture(before, now, time.time(), view, width, None))
    if svg:
        from xfrmi.cli.svg import write_svg

        write_svg(svg, shown, width, "xfrmi top")
    else:
        console.print(shown, highlight=False, soft_wrap=True)


def _console() -> Console:
    """For standard output. XfrmError where rich is missing."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        detail = "to draw it rich is needed: pip install 'xfrmi[teach]'; --json does without"
        raise XfrmError(errno.ENOENT, detail=detail) from None
    return Console()
