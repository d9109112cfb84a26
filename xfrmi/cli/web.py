"""`xfrmi web`: a lab as a page in a browser on this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from xfrmi.errors import XfrmError

FAILED = 1
EPILOG = """\
The page draws the lab, shows plaintext and ciphertext of packets side by side, turns bits of them, sends them again,
rekeys tunnels, and shows counters as they move. It is on the loopback address only, and for whoever opens the printed
link first; Enter prints another one. Who has the page may do in the lab what you may (docs/web.md).

  xfrmi lab up examples/01-two-hosts
  xfrmi web"""


def web_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xfrmi web",
        description="Show a lab that is up as a page in a browser: packets, bytes, keys renewed, counters moving.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", default="", help="which lab, where several are up")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="of 127.0.0.1; default: one that is free")
    return parser


def web(words: list[str]) -> int:
    """The words after `web`. The exit status."""
    given = web_parser().parse_args(words)
    try:
        from xfrmi.lab import registry
        from xfrmi.lab.plan import LabError
        from xfrmi.lab.running import Running

        try:
            if registry.LAB_FOLDER in os.environ:
                raise LabError("a node of a lab has no way to a browser: start this outside of the lab")
            running = Running(registry.find(given.name))
            from xfrmi.web.stand import bind, settle

            listening = bind(given.port)
            settle(running)
            from xfrmi.web.server import serve  # heavy, and so not before that

            with contextlib.suppress(KeyboardInterrupt):
                serve(running, listening, _say)
        except LabError as error:
            return _failed(str(error))
    except ModuleNotFoundError as error:
        return _failed(f"the page needs {error.name}; install it: pip install 'xfrmi[web]'")
    except XfrmError as error:
        return _failed(error.detail or str(error))
    except OSError as error:
        where = f"127.0.0.1:{given.port}: " if given.port else ""
        return _failed(f"{where}{error.strerror or error}")
    return 0


def _failed(text: str) -> int:
    print(f"xfrmi: {text}", file=sys.stderr)
    return FAILED


def _say(text: str) -> None:
    print(text, flush=True)


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535, 0 for one that is free")
