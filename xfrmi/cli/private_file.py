"""Files that only their owner may read: they hold packets, and perhaps keys."""

from __future__ import annotations

import errno
import os
from typing import BinaryIO

from xfrmi.errors import XfrmError


def create(path: str) -> BinaryIO:
    """Create or overwrite, mode 0600 also where it exists already. Raises XfrmError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise XfrmError(error.errno or errno.EIO, detail=f"cannot write {path}: {error.strerror}") from None
    return os.fdopen(descriptor, "wb")


def create_directory(path: str) -> None:
    """Mode 0700. Raises XfrmError."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        os.chmod(path, 0o700)
    except OSError as error:
        raise XfrmError(error.errno or errno.EIO, detail=f"cannot make {path}: {error.strerror}") from None
