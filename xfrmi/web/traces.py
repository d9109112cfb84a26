"""What the daemons of a lab say of the packets they carry, for as long as somebody looks at packets."""

from __future__ import annotations

import asyncio
import contextlib
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
        """When this returns the daemons are tracing. XfrmError where one refuses or is not there."""
        for node in self._lab.with_daemons():
            reader = await self._subscribe(node)
            self._tasks.append(asyncio.create_task(self._read(node.name, reader)))

    async def _subscribe(self, node: HeldNode) -> asyncio.StreamReader:
        directory = runtime.find_directory(node.netns, node.base)
        if directory is None:
            raise runtime.no_daemon(node.name)
        try:
            reader, writer = await asyncio.open_unix_connection(f"{directory}/{runtime.JSON_SOCKET}", limit=MAX_LINE)
        except OSError:
            raise runtime.no_daemon(node.name) from None
        self._writers.append(writer)
        writer.write(b'{"cmd":"trace"}\n')
        answer = json.loads(await reader.readline() or b"{}")
        if "result" not in answer:
            raise XfrmError(answer.get("errno", 5), detail=f"{node.name}: {answer.get('error', 'its daemon hung up')}")
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
