"""The `xfrmi` command: iproute2's grammar in front of the emulator.

    xfrmi [ OPTIONS ] OBJECT { COMMAND | help }

Exit status as ip(8): 0 done, 1 a command that lacks something or a machine that does, 2 refused by the (emulated)
kernel, 255 a word that cannot be used. What ip prints comes first on stderr, our sentence on the next line.
Imports are made where they are needed: `xfrmi state list` is felt in a shell loop.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from xfrmi.cli.options import Options, read_options
from xfrmi.errors import XfrmError
from xfrmi.formats.tokens import GrammarError, matches

if TYPE_CHECKING:
    from xfrmi.client import Client

REFUSED = 2
NOBODY_THERE = (errno.ECONNREFUSED, errno.ECONNRESET)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (sys.argv by default). Returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options, words = read_options(words)
        status = _run(options, words)
        sys.stdout.flush()
        return status
    except (GrammarError, XfrmError) as error:
        return complain(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(options: Options, words: list[str]) -> int:
    if options.version:
        from xfrmi import __version__

        print(f"xfrmi utility, xfrmi-{__version__}")
        return 0
    if options.netns is not None:
        from xfrmi.dev.netns import enter, netns_path, open_netns

        enter(open_netns(netns_path(options.netns)))  # as ip does it: names of devices mean those in there
    if options.batch is not None:
        from xfrmi.cli.batch import run_batch

        return run_batch(options, options.batch)
    if options.help or not words or words[0] in ("help", "-h", "--help"):
        from xfrmi.cli.help import print_help

        return print_help([] if options.help else words[1:], asked=bool(words) or options.help)
    if matches(words[0], "daemon") and len(words[0]) > 1:
        from xfrmi.cli.programs import daemon

        return daemon(words[1:])
    if words[0] == "doctor":
        from xfrmi.cli.doctor import doctor

        return doctor(options, words[1:])
    if words[0] == "explain":
        from xfrmi.cli.explain import explain

        return explain(options, words[1:])
    if words[0] == "trace":
        from xfrmi.cli.trace import trace

        return trace(options, words[1:])
    if words[0] == "capture":
        from xfrmi.cli.capture import capture

        return capture(options, words[1:])
    if words[0] == "top":
        from xfrmi.cli.top import top

        return top(options, words[1:])
    if words[0] == "web":
        from xfrmi.cli.web import web

        return web(words[1:])
    if words[0] == "metrics":
        from xfrmi.cli.metrics import metrics

        return metrics(words[1:])
    if words[0] == "completion":
        from xfrmi.cli.completion import completion

        return completion(words[1:])
    if words[0] == "exec":
        from xfrmi.cli.programs import execute_program

        return execute_program(words[1:])
    if words[0] == "lab":
        from xfrmi.cli.labs import lab

        return lab(words[1:])
    from xfrmi.client import Client

    with Client() as client:
        run_line(client, options, words)
    return 0


def run_line(client: Client, options: Options, words: list[str]) -> None:
    """One command for the daemon. Raises GrammarError or XfrmError."""
    from xfrmi.cli.execute import execute

    execute(client, options, words)


def complain(error: GrammarError | XfrmError) -> int:
    """Say what went wrong, as ip says it and then in a sentence of our own; the exit status to leave with."""
    sys.stdout.flush()
    if isinstance(error, GrammarError):
        print(error.text, file=sys.stderr)
        if error.hint and not error.text.startswith("Usage:"):
            print(f"xfrmi: {error.hint}", file=sys.stderr)
        return error.exit_code
    if error.errno in NOBODY_THERE:  # nothing was refused, so there is nothing that ip would say
        print(f"xfrmi: {error.detail}", file=sys.stderr)
        return REFUSED
    if error.extack:
        print(f"Error: {error.extack.rstrip('.')}.", file=sys.stderr)
    else:
        print(f"RTNETLINK answers: {error.strerror}", file=sys.stderr)
    if error.detail:
        print(f"xfrmi: {error.detail}", file=sys.stderr)
    return REFUSED
