"""`xfrmi state add -`, `xfrmi policy add -`: what a real gateway lists, added to a daemon."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from xfrmi.cli.output import ifindex_of
from xfrmi.errors import XfrmError
from xfrmi.formats.listing import ListingError, parse_policies, parse_states
from xfrmi.formats.tokens import matches

if TYPE_CHECKING:
    from xfrmi.client import Client


def add_listed(client: Client, kind: str, text: str) -> None:
    """Add all of what `ip xfrm state` or `ip xfrm policy` printed, the oldest first. Raises XfrmError."""
    try:
        if matches(kind, "policy"):
            for policy in reversed(parse_policies(text, ifindex_of=ifindex_of)):
                client.add_policy(policy)
        else:
            for state in reversed(parse_states(text, ifindex_of=ifindex_of)):
                client.add_state(state)
    except ListingError as error:
        raise XfrmError(errno.EINVAL, detail=str(error)) from None
