"""`xfrmi lab`: topologies in network namespaces of their own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from xfrmi.lab.running import Running

FAILED = 1
SVG_WIDTH, DRAWING_WIDTH = 96, 110
"""Columns of a picture: most have as many, so that letters are of one size; some need more."""
NOT_FOUND, NOT_RUNNABLE = 127, 126
"""Exit statuses of a shell for a command that is not there, or is no program."""


def lab(words: list[str]) -> int:
    """`xfrmi lab ...`. The exit status; exec and shell become the program."""
    options = lab_parser().parse_args(words)
    try:
        from xfrmi.lab.plan import LabError
        from xfrmi.lab.preflight import Lacking

        try:
            return int(options.run(options))
        except (LabError, Lacking) as error:
            print(f"xfrmi: {error}", file=sys.stderr)
            return FAILED
    except ModuleNotFoundError as error:
        print(f"xfrmi: labs need {error.name}; install it: pip install 'xfrmi[lab]'", file=sys.stderr)
        return FAILED


def lab_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xfrmi lab",
        description="Topologies in network namespaces of their own: as root, or as an ordinary user.",
        epilog="Lab files are explained in docs/lab.md; examples/ has ready ones, each with a lesson.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text.replace("%", "%%"), description=text)
        made.set_defaults(run=run)
        return made

    def for_a_lab(name: str, run: object, text: str) -> argparse.ArgumentParser:
        made = command(name, run, text)
        made.add_argument("--lab", default="", metavar="NAME", help="which lab, where several are up")
        return made

    command("demo", _demo, "two hosts, a router, one screen of checks on real packets")
    up = command("up", _up, "build a lab; it stays until `down`")
    up.add_argument("--changeable", action="store_true", help="`lab link` may change each link, also plain cables")
    up.add_argument("file", help="lab file, or its folder")
    down = command("down", _down, "end a lab and everything in it, in whatever condition it is")
    down.add_argument("name", nargs="?", default="", help="which one, where several are up")
    down.add_argument("--all", action="store_true", help="every lab of this user")
    for name, run, text in (
        ("exec", _exec, "run a program in a node; its xfrm is that of the node's daemon"),
        ("shell", _shell, "a shell in a node"),
    ):
        made = for_a_lab(name, run, text)
        made.add_argument("--native", action="store_true", help="without xfrmi exec around it")
        made.add_argument("node", help="node")
        if name == "exec":
            made.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    watch = for_a_lab("watch", _watch, "the packets on a device of a node, a line each, while a command runs")
    watch.add_argument("-c", "--count", type=int, default=0, metavar="N", help="show no more than N")
    watch.add_argument("end", metavar="NODE:DEVICE")
    watch.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    nat = for_a_lab("nat", _nat, "what leaves a node by a device gets its address, as at a NAT")
    nat.add_argument("--port", type=int, metavar="N", help="UDP leaves from port N: a NAT that was switched off and on")
    nat.add_argument("end", metavar="NODE:DEVICE")
    link = for_a_lab("link", _link, "what a link does to packets, and changing it: loss 10% delay 20ms, clear, off, on")
    link.add_argument("end", metavar="LINK", help="one of its ends, moon:eth0, or its nodes, moon:sun")
    link.add_argument(
        "words", nargs="*", metavar="CHANGE",
        help="faults as in a lab file, each with its value; clear: none of them; off: the cable is pulled; on",
    )  # fmt: skip
    status = command("status", _status, "the labs that are up, their nodes, daemons, and links with their losses")
    status.add_argument("name", nargs="?", default="", help="one lab")
    status.add_argument("-j", "--json", action="store_true", help="as JSON")
    graph = for_a_lab("graph", _graph, "a drawing of a lab")
    graph.add_argument("file", nargs="?", default="", help="lab file or folder; else the lab that is up, as it is now")
    graph.add_argument("--format", choices=("text", "mermaid", "dot"), default="text", help="default: text")
    graph.add_argument("--svg", default="", metavar="FILE", help="the text as a picture, in colour")
    export = command("export", _export, "the same lab for another program")
    export.add_argument("--clab", action="store_true", required=True, help="for containerlab")
    export.add_argument("file", help="lab file, or its folder")
    export.add_argument("folder", help="where to write: a new or empty folder")
    return parser


def _demo(options: argparse.Namespace) -> int:
    from xfrmi.lab.demo import main

    return main()


def _up(options: argparse.Namespace) -> int:
    from xfrmi.lab.labfile import read_lab
    from xfrmi.lab.running import up

    plan = read_lab(options.file)
    if options.changeable:
        plan.links = [replace(link, changeable=True) for link in plan.links]
    running = up(plan, os.path.abspath(options.file))
    how = "rootless" if running.record.rootless else "as root"
    print(f'lab "{plan.name}" is up ({how}): {", ".join(plan.nodes)}')
    return 0


def _down(options: argparse.Namespace) -> int:
    from xfrmi.lab import registry
    from xfrmi.lab.running import down, down_from_inside

    here = os.environ.get(registry.LAB_FOLDER)
    folders = list(registry.folders()) if options.all else [registry.find(options.name)]
    for folder in sorted(folders, key=lambda folder: str(folder) == here):
        if str(folder) == here:
            print(f'lab "{folder.name}" goes down, and with it whatever runs in it, this shell too', flush=True)
            down_from_inside(folder)
        else:
            down(folder)
            print(f'lab "{folder.name}" is down')
    return 0


def _running(name: str) -> Running:
    from xfrmi.lab import registry
    from xfrmi.lab.running import Running

    return Running(registry.find(name))


def _command(words: list[str]) -> list[str]:
    return words[1:] if words[:1] == ["--"] else words


def _watch(options: argparse.Namespace) -> int:
    from xfrmi.lab.watch import watch

    def show(text: str) -> None:
        print(text, flush=True)

    node, _, device = options.end.partition(":")
    try:
        return watch(_running(options.lab), node, device, options.count, _command(options.words), show)
    except OSError as error:
        print(f"xfrmi: {error.filename or options.end}: {error.strerror}", file=sys.stderr)
        return FAILED


def _link(options: argparse.Namespace) -> int:
    from xfrmi.lab.link_change import words_to_change

    running = _running(options.lab)
    link, now = running.link(options.end), running.setting(options.end)
    if options.words:
        now = running.set_link(options.end, words_to_change(options.words, now))
    print(f"{link.name.replace(' ', ' -- ')}: {now.describe() or 'a plain cable'}")
    return 0


def _exec(options: argparse.Namespace) -> int:
    command = _command(options.words)
    if not command:
        print("xfrmi: which program? For example: xfrmi lab exec moon -- ip xfrm state", file=sys.stderr)
        return FAILED
    running = _running(options.lab)
    return _become(running, options.node, command, options.native)


def _shell(options: argparse.Namespace) -> int:
    from xfrmi.lab.shell import shell_command

    running = _running(options.lab)
    return _become(running, options.node, shell_command(running, options.node), options.native)


def _become(running: Running, node: str, command: Sequence[str], native: bool) -> int:
    """Be this program, in the node. Returns only if it cannot be started."""
    running.enter(node)
    os.environ.update(running.environment(node))
    try:
        if running.node(node).xfrm and running.record.supervised and not native:
            _supervised(command)
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"xfrmi: {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUNNABLE


def _supervised(command: Sequence[str]) -> None:
    """Under `xfrmi exec`, where this machine allows that; where not, it says why and returns."""
    from xfrmi.interpose.launch import Options, execute

    def say(text: str) -> None:
        print(f"xfrmi: {text}", file=sys.stderr, flush=True)

    try:
        execute(command, Options(), say)
    except XfrmError as error:
        say(f"without xfrmi exec, so `ip xfrm` is the kernel's here: {error.detail or error}")


def _nat(options: argparse.Namespace) -> int:
    from xfrmi.lab.nat import masquerade
    from xfrmi.lab.plan import LabError

    node, _, device = options.end.partition(":")
    if not device or not (options.port is None or 0 < options.port < 1 << 16):
        example = "xfrmi lab nat home:eth1 --port 10001"
        raise LabError(f"it takes NODE:DEVICE, and a port from 1 to 65535: {example}")
    _running(options.lab).enter(node)
    try:
        masquerade(device, options.port)
    except OSError as error:
        raise LabError(f"this machine makes no NAT: {error.strerror}") from None
    return 0


def _status(options: argparse.Namespace) -> int:
    from xfrmi.lab import registry
    from xfrmi.lab.colours import show
    from xfrmi.lab.status import as_json, describe

    folders = [registry.find(options.name)] if options.name else list(registry.folders())
    if options.json:
        print(as_json(folders))
    elif not folders:
        print("no lab is up")
    else:
        show("\n\n".join(describe(folder) for folder in folders))
    return 0


def _graph(options: argparse.Namespace) -> int:
    from xfrmi.cli.svg import write_svg
    from xfrmi.lab.colours import painted, show
    from xfrmi.lab.graph import DRAWINGS, text
    from xfrmi.lab.labfile import read_lab

    plan = read_lab(options.file) if options.file else _running(options.lab).plan()
    if options.svg:
        drawing = f"{text(plan, DRAWING_WIDTH)}\n"  # the last line of a picture has no room for underscores
        width = max(SVG_WIDTH, *map(len, drawing.splitlines()))
        write_svg(options.svg, painted(drawing, plan.nodes), width, f"xfrmi lab graph: {plan.name}")
    else:
        show(DRAWINGS[options.format](plan), plan.nodes)
    return 0


def _export(options: argparse.Namespace) -> int:
    from xfrmi.lab.clab import export
    from xfrmi.lab.labfile import read_lab

    for path in export(read_lab(options.file), options.folder):
        print(path)
    return 0
