"""`xfrmi metrics`: counters for Prometheus, printed or into a file for node_exporter's textfile collector."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile

from xfrmi.errors import XfrmError

EPILOG = """\
Counters of /proc/net/xfrm_stat have the names of node_exporter's xfrm collector (node_xfrm_...), which has to be off
then, as it is by default. Put into a timer, this feeds node_exporter's textfile collector:

  xfrmi metrics -w /var/lib/prometheus/node-exporter/xfrmi.prom

examples/grafana.json is a dashboard for them."""


def metrics_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xfrmi metrics",
        description="Counters in Prometheus's text format.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-w", "--write", metavar="FILE", help="replace this file, at once and as a whole")
    parser.add_argument("--spi", action="store_true", help="the SPI as a label: a time series more with each rekeying")
    return parser


def metrics(words: list[str]) -> int:
    """The words after `metrics`."""
    given = metrics_parser().parse_args(words)
    try:
        text = _text(given.spi)
        if given.write is None:
            sys.stdout.write(text)
        else:
            _replace(given.write, text)
    except XfrmError as error:
        print(f"xfrmi: {error.detail or error}", file=sys.stderr)
        return 1
    return 0


def _text(with_spi: bool) -> str:
    from xfrmi.client import Client
    from xfrmi.formats.metrics import exposition, link_metrics, stat_metrics, state_metrics

    with Client() as client:
        found = stat_metrics(client.stat()) + link_metrics(client.links())
        return exposition(found + state_metrics(list(client.states()), with_spi))


def _replace(path: str, text: str) -> None:
    """Who reads meanwhile sees the old file or the new one. It holds no keys, and others read it."""
    folder = os.path.dirname(path) or "."
    try:
        descriptor, temporary = tempfile.mkstemp(".tmp", "xfrmi-", folder)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise XfrmError(error.errno or errno.EIO, detail=f"cannot write {path}: {error.strerror}") from None
