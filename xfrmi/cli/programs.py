"""The sub-commands that are programs of their own: the daemon and `exec`. They and the labs pay for argparse."""

from __future__ import annotations

import argparse
import os
import sys

from xfrmi.errors import XfrmError

MAX_WORKERS = 14
"""Each holds descriptors of every device."""
EXTRA_CAPABILITIES = "sys_admin", "net_bind_service"


def daemon_parser() -> argparse.ArgumentParser:
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
        "--replace",
        action="store_true",
        help="take over from the daemon that serves here, if there is one: interfaces, states, clients, everything, "
        "without losing a packet. If that fails it goes on",
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="only have the daemon that serves here start its own command again with --replace, as SIGHUP does, and "
        "wait until the new process serves",
    )
    parser.add_argument(
        "--while-used", action="store_true", help="end when the last program that `xfrmi exec` runs here has ended"
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        choices=(*EXTRA_CAPABILITIES, "none"),
        help="a capability to keep after the start beside CAP_NET_ADMIN and CAP_NET_RAW: sys_admin to give orders to "
        "devices in other network namespaces, net_bind_service for UDP ports below 1024; none: not even those two, "
        "with interfaces as an earlier daemon has left them",
    )
    return parser


def daemon(words: list[str]) -> int:
    """`xfrmi daemon`."""
    parser = daemon_parser()
    options = parser.parse_args(words)
    if "none" in options.keep and len(options.keep) > 1:
        parser.error("--keep none stands alone")
    if options.reload:
        return _reload()
    for library in ("OPENBLAS", "MKL", "OMP"):
        os.environ[f"{library}_NUM_THREADS"] = "1"  # numpy's idle helpers would keep all capabilities, and take memory
    from xfrmi.daemon.main import KEPT, run_daemon

    keep = frozenset() if options.keep == ["none"] else KEPT | frozenset(options.keep)
    try:
        run_daemon(
            options.remove_on_exit, options.kernel_quirks, options.workers, options.while_used, keep, options.replace
        )
    except XfrmError as error:
        print(f"xfrmi: {error.detail or error}", file=sys.stderr)
        return 1
    return 0


def _reload() -> int:
    from xfrmi.client import Client
    from xfrmi.client.succession import succeed

    try:
        with Client() as client:
            print(f"pid {succeed(client)} serves now")
    except XfrmError as error:
        print(f"xfrmi: {error.detail or error}", file=sys.stderr)
        return 1
    return 0


def exec_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xfrmi exec",
        usage="xfrmi exec [-h] [-v] [--stay] -- COMMAND [ARGUMENT ...]",
        description="Run an unmodified program whose xfrm is the daemon's: ip xfrm, ip link add type xfrm, charon, "
        "a shell. With no daemon in this network namespace one is started.",
        epilog="It is no sandbox: a program that gets around it meets the kernel that is there (docs/exec.md).",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is intercepted, on standard error")
    parser.add_argument("--stay", action="store_true", help="a daemon that is started stays when the program ends")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def execute_program(words: list[str]) -> int:
    """`xfrmi exec`. Returns only if the program could not be started: 127 where there is none of that name, as a shell
    does."""
    parser = exec_parser()
    options = parser.parse_args(words)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("which program? For example: xfrmi exec -- ip xfrm state")
    from xfrmi.interpose.launch import Options, execute

    def say(text: str) -> None:
        print(f"xfrmi: {text}", file=sys.stderr, flush=True)

    try:
        execute(command, Options(options.stay, options.verbose), say)
    except XfrmError as error:
        say(error.detail or str(error))
        return 1
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126
    raise AssertionError("the program has begun")
