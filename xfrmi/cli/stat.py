"""`xfrmi stat`: the counters, in the format of /proc/net/xfrm_stat."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xfrmi.cli.output import Output
    from xfrmi.client import Client


def print_counters(client: Client, output: Output) -> None:
    counters = client.stat()
    if output.json:
        output.print_json(counters)
    else:
        from xfrmi.formats.print_stat import print_stat

        sys.stdout.write(print_stat(list(counters.values())))
