"""The sub-commands that are programs of their own: the daemon and the labs. Only they pay for argparse."""

from __future__ import annotations

import argparse
import sys

from xfrmi.errors import XfrmError

MAX_WORKERS = 14
"""Each holds descriptors of every device."""


def daemon(words: list[str]) -> int:
    """`xfrmi daemon`."""
    parser = argparse.ArgumentParser(
        prog="xfrmi daemon",
        description="Emulate xfrm for this network namespace, in the foreground, until SIGTERM or SIGINT.",
        epilog="Interfaces stay when it stops, without carrier, so that nothing routed into them leaves in the clear.",
    )
    parser.add_argument("--remove-on-exit", action="store_true", help="delete the interfaces on a clean stop")
    parser.add_argument(
        "--kernel-quirks",
        action="store_true",
        help="do what Linux does also where it falls short of its own goals: no transport mode through an interface, "
        "small IPv6 packets lost on narrow paths, dev without effect (docs/deviations.md)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        choices=range(1, MAX_WORKERS + 1),
        help="processes that carry packets: with 2, one seals and one opens; states with `pcpu-num K` are worker K's, "
        "so that several may seal (RFC 9611). Default 1: the daemon itself",
    )
    parser.add_argument(
        "--while-used", action="store_true", help="end when the last program that `xfrmi exec` runs here has ended"
    )
    options = parser.parse_args(words)
    from xfrmi.daemon.main import run_daemon

    try:
        run_daemon(options.remove_on_exit, options.kernel_quirks, options.workers, options.while_used)
    except XfrmError as error:
        print(f"xfrmi: {error.detail or error}", file=sys.stderr)
        return 1
    return 0


def lab(words: list[str]) -> int:
    """`xfrmi lab demo`."""
    parser = argparse.ArgumentParser(prog="xfrmi lab", description="Topologies in network namespaces of their own.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="two hosts, a router, one screen of checks on real packets")
    parser.parse_args(words)
    try:
        from xfrmi.lab.demo import main
    except ModuleNotFoundError as error:
        print(f"xfrmi: labs need {error.name}; install it: pip install 'xfrmi[lab]'", file=sys.stderr)
        return 1
    return main()
