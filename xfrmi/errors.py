"""The two ways things go wrong, told apart by type.

`XfrmError` is a control failure: somebody asked for something and gets the kernel's errno and phrase back.
`Drop` is the end of one packet: it names the counter that rises, and is caught where that counter lives.
Neither ever carries key material.
"""

from __future__ import annotations

import errno as _errno
import os

from xfrmi.wire.xfrm_const import XfrmStat


class XfrmError(Exception):
    """A refused request.

    `errno` is the kernel's error number (positive), `extack` the kernel's extended-ack text (may be empty, as in
    the kernel: most refusals have none), `detail` one sentence of ours that names the token or the colliding object.
    """

    def __init__(self, errno: int, extack: str = "", detail: str = "") -> None:
        self.errno = errno
        self.extack = extack
        self.detail = detail
        super().__init__(errno, extack, detail)

    @property
    def strerror(self) -> str:
        return os.strerror(self.errno)

    def __str__(self) -> str:
        name = _errno.errorcode.get(self.errno, str(self.errno))
        text = self.extack or self.strerror
        return f"{text} [{name}]" + (f": {self.detail}" if self.detail else "")


class Drop(Exception):
    """One packet ends here.

    `stat` is the XfrmStat that rises (None where the kernel counts nothing), `reason` a short text for tracing.
    Raised anew for each packet (a shared instance would keep the traceback's buffers alive).
    """

    def __init__(self, stat: XfrmStat | None, reason: str) -> None:
        self.stat = stat
        self.reason = reason
        super().__init__(stat, reason)
