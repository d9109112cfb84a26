"""Who is asking. The kernel vouches for it (SO_PEERCRED, SCM_CREDENTIALS); what the datagram says proves nothing."""

from __future__ import annotations

import os
from typing import NamedTuple


class Credentials(NamedTuple):
    pid: int
    uid: int
    gid: int
    fds: tuple[int, ...] = ()
    """Descriptors that came with the request; a descriptor number in the request is an index into them."""


def may_configure(credentials: Credentials) -> bool:
    """NL-01, as far as it can be told from outside: the daemon's own user, or root of its user namespace."""
    return credentials.uid in (0, os.geteuid())
