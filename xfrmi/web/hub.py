"""The pages that look on, and what happens for them: nothing without one, counters with one, packets if one wants them.

Everything a page is told is a JSON object with a "type" (docs/web.md). All in one event loop; only what may wait is
done by the lab's worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from xfrmi.client.packets import Record
from xfrmi.errors import XfrmError
from xfrmi.web.counters import counters
from xfrmi.web.detail import Details
from xfrmi.web.held import HeldLab
from xfrmi.web.packets import Log, Packet
from xfrmi.web.pings import Pings
from xfrmi.web.taps import Taps
from xfrmi.web.topology import topology
from xfrmi.web.traces import Traces

SAMPLE_SECONDS = 1.0
TOLD_SECONDS = 0.2
"""Of packets and pings, what comes in so short a time is told at once."""
GRACE_SECONDS = 3.0
"""A page that is loaded again is no page that has gone."""
QUEUED = 200
"""Messages for a page that does not read; then it is hung up on, and asks again."""
AT_ONCE = 60
"""Packets told at a time: the newest."""
HEARTBEAT_SECONDS = 15.0

Message = dict[str, Any]


class Page:
    def __init__(self, packets: bool) -> None:
        self.packets = packets
        self.queue: asyncio.Queue[Message | None] = asyncio.Queue(QUEUED + 1)

    def tell(self, message: Message) -> None:
        if self.queue.qsize() < QUEUED:
            self.queue.put_nowait(message)
        else:
            self.hang_up()

    def hang_up(self) -> None:
        """After what has been told."""
        if not self.queue.full():
            self.queue.put_nowait(None)


class Hub:
    def __init__(self, lab: HeldLab) -> None:
        self.lab = lab
        self.log = Log()
        self.details = Details(lab)
        self.pings = Pings(lab, self._pings_changed)
        self._taps = Taps(lab, self._seen)
        self._traces = Traces(lab, self._told, self._lost)
        self._pages: set[Page] = set()
        self._sampling: asyncio.Task[None] | None = None
        self._looking = False
        """At packets."""
        self._telling: asyncio.TimerHandle | None = None
        self._settling = asyncio.Lock()
        self._counters: Message = {}
        self._topology: Message = {}
        self._ping_news = False
        self._remembering: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._awaited: dict[int, asyncio.Future[tuple[str, Record]]] = {}
        self._closed = False

    # Pages -------------------------------------------------------------------------------------------------------

    async def stream(self, packets: bool) -> AsyncIterator[Message | None]:
        """What a page is told: all there is, then what changes. None every now and then, so that a page that has gone
        is noticed."""
        page = Page(packets)
        self._pages.add(page)
        try:
            problem = await self._settle()
            if problem:
                yield {"type": "problem", "text": problem}
            if not self._counters:
                await self._sample()
            yield {"type": "lab", "lab": self._topology}
            yield {"type": "counters", "nodes": self._counters}
            yield {"type": "pings", "pings": self.pings.as_list()}
            if packets:
                yield _packets(list(self.log)[-AT_ONCE:])
            while not self._closed:
                try:
                    message = await asyncio.wait_for(page.queue.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield None
                    continue
                if message is None:
                    return
                yield message
        finally:
            self._pages.discard(page)
            if not self._closed:
                asyncio.get_running_loop().call_later(GRACE_SECONDS, self._settle_soon)

    def tell(self, message: Message, packets: bool = False) -> None:
        """All pages, or those that look at packets."""
        for page in self._pages:
            if page.packets or not packets:
                page.tell(message)

    async def close(self) -> None:
        self._closed = True
        for page in self._pages:
            page.hang_up()
        await self._settle()

    def _settle_soon(self) -> None:
        if not self._closed:
            self._settled = asyncio.create_task(self._settle())

    async def _settle(self) -> str:
        """Begin what is wanted, end what is not. What could not be begun, in a sentence."""
        async with self._settling:
            wanted = bool(self._pages) and not self._closed
            if wanted and self._sampling is None:
                self._sampling = asyncio.create_task(self._keep_sampling())
            problem = ""
            looking = wanted and any(page.packets for page in self._pages)
            if looking and not self._looking:
                problem = await self._look()
            elif not looking and self._looking:
                self._look_away()
            if not wanted and self._sampling is not None:
                self._sampling.cancel()
                self._sampling = None
                self._counters = {}
                self.pings.end_all()
                await self.lab.work(self.lab.rest)
            return problem

    async def _look(self) -> str:
        problems = []
        try:
            await self._traces.begin()
        except XfrmError as error:
            problems.append(error.detail or str(error))
        try:
            await self._taps.begin()
        except OSError as error:
            problems.append(f"the links cannot be listened to: {error.strerror}")
        self._looking = True
        return "; ".join(problems)

    def _look_away(self) -> None:
        self._traces.end()
        self._taps.end()
        self._looking = False
        self.log.clear()
        self.details.forget()

    # Counters ----------------------------------------------------------------------------------------------------

    async def _keep_sampling(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            await self._sample()

    async def _sample(self) -> None:
        def look() -> tuple[Message, Message]:
            found = counters(self.lab)
            return found, topology(self.lab, found)

        try:
            counted, drawn = await self.lab.work(look)
        except (XfrmError, OSError) as error:
            self.tell({"type": "problem", "text": f"the lab cannot be looked at: {error}"})
            return
        if drawn != self._topology:
            self._topology = drawn
            self.tell({"type": "lab", "lab": drawn})
        if counted != self._counters:
            self._counters = counted
            self.tell({"type": "counters", "nodes": counted})

    # Packets -----------------------------------------------------------------------------------------------------

    def _told(self, node: str, record: Record) -> None:
        packet = self.log.told(node, record)
        self._tell_soon()
        use = node, packet.spi
        if packet.spi and use not in self._remembering and not self.details.knows(*use):
            self._remembering[use] = asyncio.create_task(self._remember(*use))
        if record.direction == "in" and (future := self._awaited.get(packet.number)) and not future.done():
            future.set_result((node, record))

    async def _remember(self, node: str, spi: int) -> None:
        with contextlib.suppress(XfrmError):
            await self.lab.work(self.details.remember, node, spi)
        del self._remembering[node, spi]

    def _seen(self, link: int, forward: bool, frame: bytes) -> None:
        if self.log.seen(link, forward, frame) is not None:
            self._tell_soon()

    def _lost(self, node: str, records: int) -> None:
        self.tell({"type": "note", "text": f"{records} packets of {node} are not shown: there were too many"}, True)

    def _pings_changed(self) -> None:
        self._ping_news = True
        self._tell_soon()

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TOLD_SECONDS, self._tell_news)

    def _tell_news(self) -> None:
        self._telling = None
        if changed := self.log.take_changed():
            self.tell(_packets(changed[-AT_ONCE:]), True)
        if self._ping_news:
            self._ping_news = False
            self.tell({"type": "pings", "pings": self.pings.as_list()})

    async def put_on_link(
        self, link: int, forward: bool, frame: bytes, esp: bytes, origin: str, seconds: float
    ) -> tuple[Packet, tuple[str, Record] | None]:
        """Send, and wait for what a daemon says of it, for so long. OSError."""
        packet = self.log.announce(esp, origin)
        self._tell_soon()
        answer = self._awaited[packet.number] = asyncio.get_running_loop().create_future()
        try:
            await self._taps.send(link, forward, frame)
            return packet, await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            return packet, None
        finally:
            del self._awaited[packet.number]


def _packets(packets: list[Packet]) -> Message:
    return {"type": "packets", "packets": [packet.summary() for packet in packets]}
