"""The sub-commands that are programs of their own: the daemon and the labs. Only they pay for argparse."""

from __future__ import annotations

import argparse
import sys

from xfrmi.errors import XfrmError


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
    options = parser.parse_args(words)
    from xfrmi.daemon.main import run_daemon

    try:
        run_daemon(options.remove_on_exit, options.kernel_quirks)
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
