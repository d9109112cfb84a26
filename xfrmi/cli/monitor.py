"""`xfrmi monitor`: what happens in a daemon, as it happens, until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import sys
from typing import TYPE_CHECKING

from xfrmi.errors import XfrmError
from xfrmi.formats.grammar_monitor import parse_monitor
from xfrmi.wire.xfrm_attr import Group

if TYPE_CHECKING:
    from xfrmi.cli.output import Output
    from xfrmi.client import Client, Event
    from xfrmi.formats.tokens import Tokens


def run(client: Client, tokens: Tokens, output: Output) -> None:
    """The words after `monitor`. Raises GrammarError, XfrmError."""
    request = parse_monitor(tokens)
    events = client.monitor(map(Group, request.groups))
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                event = next(events)
            except XfrmError as error:
                if error.errno != errno.ENOBUFS:  # some events are lost, the next ones are not
                    raise
                print(f"xfrmi: {error.detail or 'events were lost'}", file=sys.stderr)
                continue
            _print(event, output, request.nokeys)


def _print(event: Event, output: Output, nokeys: bool) -> None:
    show = output.show(nokeys)
    if output.json:
        from xfrmi.formats.json_event import notice_json

        output.print_json(notice_json(event.type, event.notice, show))
    else:
        from xfrmi.formats.print_monitor import print_notice

        sys.stdout.write(print_notice(event.type, event.notice, show))
    sys.stdout.flush()
