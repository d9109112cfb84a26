"""How host and guest talk: pickles with their length in front, over the two ends of a virtio serial port.

Both ends run the same interpreter, so whatever pickles may be said, exceptions included. What stays where it is, a
socket, travels as a reference: `name_of` says under which name the other end may speak of it, `named` finds it again.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import threading
from collections.abc import Callable
from typing import Any

LENGTH = struct.Struct("!I")


class Channel:
    """One end. `say` may be called by several threads, `hear` by one."""

    def __init__(self, fd: int, name_of: Callable[[Any], int | None], named: Callable[[int], Any]) -> None:
        self._fd = fd
        self._name_of = name_of
        self._named = named
        self._turn = threading.Lock()

    def say(self, message: Any) -> None:
        buffer = io.BytesIO()
        pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
        pickler.persistent_id = self._name_of  # type: ignore[method-assign]
        pickler.dump(message)
        rest = memoryview(LENGTH.pack(len(buffer.getbuffer())) + buffer.getvalue())
        with self._turn:
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def hear(self) -> Any:
        """The next message. EOFError when the other end is gone."""
        unpickler = pickle.Unpickler(io.BytesIO(self._read(LENGTH.unpack(self._read(LENGTH.size))[0])))
        unpickler.persistent_load = self._named  # type: ignore[method-assign]
        return unpickler.load()

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = os.read(self._fd, size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
