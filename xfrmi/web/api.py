"""What the page may ask for. JSON both ways; what is refused is {"error": sentence}, with the kernel's errno and phrase
where it has one. docs/web.md lists it all.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from xfrmi.errors import XfrmError
from xfrmi.lab.plan import LabError
from xfrmi.web import rekey as rekeying
from xfrmi.web.door import MAX_BODY, Keys
from xfrmi.web.forge import copy_of, may_renumber, unused_number
from xfrmi.web.hub import Hub
from xfrmi.web.packets import Packet

STATIC = Path(__file__).parent / "static"
ANSWER_SECONDS = 1.5
"""A packet that was sent has arrived by then, or it does not."""

Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class Api:
    def __init__(self, hub: Hub, keys: Keys) -> None:
        self._hub = hub
        self._keys = keys
        self._tasks: set[asyncio.Task[None]] = set()

    def application(self) -> Starlette:
        def route(path: str, handler: Handler, method: str) -> Route:
            return Route(path, _told(handler), methods=[method])

        return Starlette(
            routes=[
                route("/api/login", self.login, "POST"),
                route("/api/events", self.events, "GET"),
                route("/api/packets/{id:int}", self.packet, "GET"),
                route("/api/packets/{id:int}/flip", self.flip, "GET"),
                route("/api/packets/{id:int}/send", self.send, "POST"),
                route("/api/pings", self.ping, "POST"),
                route("/api/pings/{id:int}", self.end_ping, "DELETE"),
                route("/api/rekey", self.rekey, "POST"),
                Mount("/", StaticFiles(directory=STATIC, html=True)),
            ],
            exception_handlers={HTTPException: _http_error},
        )

    async def login(self, request: Request) -> Response:
        """{"token"} -> {"key"}."""
        key = self._keys.enter(_text(await _body(request), "token"))
        if key is None:
            raise Refused("this link has been used, or is none: `xfrmi web` prints another one on Enter", 403)
        return JSONResponse({"key": key})

    async def events(self, request: Request) -> Response:
        """Server-sent events: each one line of JSON. With ?packets=1 packets, too."""

        async def lines() -> AsyncIterator[str]:
            async for message in self._hub.stream(request.query_params.get("packets") == "1"):
                yield ":\n\n" if message is None else f"data: {json.dumps(message, separators=(',', ':'))}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def packet(self, request: Request) -> Response:
        return JSONResponse(await self._hub.lab.work(self._hub.details.of, self._packet(request)))

    async def flip(self, request: Request) -> Response:
        """?offset=N&mask=M: what would happen."""
        packet = self._packet(request)
        offset, mask = _number(request.query_params, "offset"), _number(request.query_params, "mask", 1)
        return JSONResponse(await self._hub.lab.work(self._hub.details.flip, packet, offset, mask))

    async def send(self, request: Request) -> Response:
        """{} sends the packet again as it was; {"offset", "mask", "number": "same" or "unused"} a changed one."""
        packet = self._packet(request)
        body = await _body(request)
        offset = _number(body, "offset") if "offset" in body else None
        mask = _number(body, "mask", 1)
        wanted = body.get("number", "same")
        if wanted not in ("same", "unused"):
            raise Refused(f'"number" is "same" or "unused", not {wanted!r}')
        number = None
        if wanted == "unused" and may_renumber(packet):
            number = await self._hub.lab.work(unused_number, self._hub.lab, packet)
        copy = copy_of(packet, offset, mask, number)
        origin = "replayed" if offset is None and number is None else "forged"
        sent, answer = await self._hub.put_on_link(
            copy.link, copy.forward, copy.frame, copy.esp, f"{origin}: {copy.text}", ANSWER_SECONDS
        )
        found: dict[str, Any] = {"id": sent.number, "sent": copy.text, "answer": None}
        if answer is not None:
            node, record = answer
            found["answer"] = {
                "node": node, "interface": record.interface, "counter": record.counter, "reason": record.reason,
                "delivered": not record.reason,
            }  # fmt: skip
        return JSONResponse(found)

    async def ping(self, request: Request) -> Response:
        """{"node", "address", "interval": seconds}."""
        body = await _body(request)
        interval = body.get("interval", 1.0)
        if not isinstance(interval, int | float):
            raise Refused('"interval" is a number of seconds')
        ping = await self._hub.pings.begin(_text(body, "node"), _text(body, "address"), float(interval))
        return JSONResponse(ping.as_dict())

    async def end_ping(self, request: Request) -> Response:
        if not self._hub.pings.end(request.path_params["id"]):
            raise Refused("there is no such ping", 404)
        return JSONResponse({})

    async def rekey(self, request: Request) -> Response:
        """{"ends": [{"node", "if_id"}, {"node", "if_id"}]} -> the SPIs before and after."""
        body = await _body(request)
        ends = body.get("ends")
        if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, dict) for end in ends):
            raise Refused('"ends" are two, each with "node" and "if_id"')
        one, other = ((_text(end, "node"), _number(end, "if_id")) for end in ends)
        for node, _ in (one, other):
            if node not in self._hub.lab.nodes:
                raise Refused(f'there is no node "{node}"')
        done = await self._hub.lab.work(rekeying.rekey, self._hub.lab, one, other)
        self._tasks.add(task := asyncio.create_task(self._remove([old for old, _ in done])))
        task.add_done_callback(self._tasks.discard)
        return JSONResponse(
            {
                "old_states_stay": rekeying.OLD_STATES_STAY,
                "states": [
                    {"from": old.sender, "to": old.receiver, "old": old.sending.spi, "new": new.sending.spi}
                    for old, new in done
                ],
            }
        )

    async def _remove(self, old: list[rekeying.Pair]) -> None:
        await asyncio.sleep(rekeying.OLD_STATES_STAY)
        try:
            await self._hub.lab.work(rekeying.remove, self._hub.lab, old)
            self._hub.tell({"type": "note", "text": "The old states are gone: " + ", ".join(
                f"{pair.sending.spi:#x}" for pair in old)})  # fmt: skip
        except XfrmError as error:
            self._hub.tell({"type": "note", "text": f"The old states could not be removed: {error}"})

    def _packet(self, request: Request) -> Packet:
        packet = self._hub.log.get(request.path_params["id"])
        if packet is None:
            raise Refused("that packet is not kept any more: only the newest are, while somebody looks at packets", 404)
        return packet


def _told(handler: Handler) -> Handler:
    """With refusals as JSON."""

    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except Refused as error:
            return _error(str(error), error.status)
        except (LabError, ValueError, OverflowError) as error:
            return _error(str(error), 400)
        except XfrmError as error:
            return _error(error.detail or error.extack or error.strerror, 409, error.errno)
        except OSError as error:
            return _error(error.strerror or str(error), 409, error.errno)

    return answered


def _error(text: str, status: int, number: int | None = None) -> Response:
    found: dict[str, Any] = {"error": text}
    if number:
        found["errno"] = errno.errorcode.get(number, str(number))
        found["phrase"] = os.strerror(number)
    return JSONResponse(found, status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(f"{request.url.path}: {error.detail}", error.status_code)


async def _body(request: Request) -> dict[str, Any]:
    """A JSON object. Refused."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY:
            raise Refused(f"a request has at most {MAX_BODY} bytes", 413)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Refused("the request is no JSON") from None
    if not isinstance(found, dict):
        raise Refused("the request is no JSON object")
    return found


def _text(body: Any, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise Refused(f'"{name}" is missing, or no text')
    return value


def _number(values: Any, name: str, default: int | None = None) -> int:
    """Of JSON, or of a query."""
    value = values.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(f'"{name}" is missing, or no number')
    return value
