"""What the daemons of a lab say of the packets they carry, for as long as somebody looks at packets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
from collections.abc import Callable

from xfrmi.client.packets import Lost, Record, read_record
from xfrmi.daemon import runtime
from xfrmi.errors import XfrmError
from xfrmi.web.held import HeldLab, HeldNode

MAX_LINE = 1 << 20
"""Bytes of one record: two packets of 64 KiB, in base 64."""


class Traces:
    def __init__(self, lab: HeldLab, told: Callable[[str, Record], None], lost: Callable[[str, int], None]) -> None:
        """`told` gets the name of a node and what its daemon carried, `lost` how many records were not read in time."""
        self._lab = lab
        self._told, self._lost = told, lost
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def begin(self) -> None:
        """When this returns the daemons are tracing. XfrmError that names those that are not."""
        refusals = []
        for node in self._lab.with_daemons():
            try:
                reader = await self._subscribe(node)
            except XfrmError as error:
                refusals.append(error)
            else:
                self._tasks.append(asyncio.create_task(self._read(node.name, reader)))
        if refusals:
            raise XfrmError(refusals[0].errno, detail="; ".join(error.detail for error in refusals))

    async def _subscribe(self, node: HeldNode) -> asyncio.StreamReader:
        directory = runtime.find_directory(node.netns, node.base)
        if directory is None:
            raise _silent(node)
        try:
            reader, writer = await asyncio.open_unix_connection(f"{directory}/{runtime.JSON_SOCKET}", limit=MAX_LINE)
        except OSError:
            raise _silent(node) from None
        self._writers.append(writer)
        writer.write(b'{"cmd":"trace"}\n')
        answer = json.loads(await reader.readline() or b"{}")
        if "result" not in answer:
            why = answer.get("error", "its daemon hung up")
            raise XfrmError(answer.get("errno", errno.EIO), detail=f"{node.name}: {why}")
        return reader

    async def _read(self, node: str, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                record = read_record(json.loads(line))
                if isinstance(record, Lost):
                    self._lost(node, record.records)
                else:
                    self._told(node, record)

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.close()
        self._tasks.clear()
        self._writers.clear()


def _silent(node: HeldNode) -> XfrmError:
    return XfrmError(errno.ECONNREFUSED, detail=f"{node.name} has no daemon any more: its packets are not told")
