"""Who may come in: whoever has the link that was printed, once; after that the page that it opened.

On a shared machine everybody may connect to a loopback address, and on anybody's machine every page of the web can make
a browser do so. So:

- The link holds a token behind its #, which browsers do not send and which the page takes out of the address bar at
  once. It buys one session and is worthless then, whoever has read it in a list of processes or in a history.
- The session's key is in the page's sessionStorage and goes along in a header. No cookie: cookies know no ports, and a
  browser would hand ours to any server of another user on this address. And no form or image of another site can
  set a header, so there is nothing to be forged across sites.
- Names other than ours in Host are refused (a name of somebody else's that was made to point here), and so is a
  foreign Origin.
- What is served without a session is the program of the page, which is as public as its source.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY_HEADER = b"authorization"
LOGIN = "/api/login"
MAX_BODY = 1 << 14
MAX_SESSIONS = 32
SECURITY = [
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     b"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]  # fmt: skip


class Keys:
    """One token that opens, and the sessions it and its predecessors have opened."""

    def __init__(self) -> None:
        self.token = ""
        self._sessions: list[str] = []
        self.renew()

    def renew(self) -> str:
        """A token for another link; the one before is worth nothing any more."""
        self.token = secrets.token_urlsafe(24)
        return self.token

    def enter(self, token: str) -> str | None:
        """The key of a new session, and the token is used up; None if it is not the one."""
        if not self.token or not secrets.compare_digest(token.encode(), self.token.encode()):
            return None
        self.token = ""
        key = secrets.token_urlsafe(24)
        self._sessions = [*self._sessions, key][-MAX_SESSIONS:]
        return key

    def admits(self, key: bytes) -> bool:
        matches = [secrets.compare_digest(key, session.encode()) for session in self._sessions]
        return any(matches)


class Door:
    """Around the application: it sees only requests that may be made."""

    def __init__(self, app: App, keys: Keys, port: int) -> None:
        self._app = app
        self._keys = keys
        self._hosts = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *SECURITY]
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await JSONResponse({"error": refusal}, 403)(scope, receive, send_safely)
            return
        await self._app(scope, receive, send_safely)

    def _refusal(self, scope: Scope) -> str:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value.lower() for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return "this server has another name: use the link that `xfrmi web` has printed"
        origins = [value for name, value in headers if name == b"origin"]
        if any(origin not in self._origins for origin in origins):
            return "a page of another site may not ask this"
        path = scope["path"]
        if not path.startswith("/api/") or path == LOGIN:
            return ""
        keys = [value for name, value in headers if name == KEY_HEADER]
        if len(keys) != 1 or not keys[0].startswith(b"Bearer ") or not self._keys.admits(keys[0][7:]):
            return "open the page with the link that `xfrmi web` has printed; each link opens it once"
        return ""
