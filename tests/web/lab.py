"""A lab that is up with `xfrmi web` beside it, as this user or as nobody; and who asks it, without a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.lab.test_demo import unusable
from tests.lessons import ROOT, environment
from tests.test_lessons import NOBODY, _may_run_python

LAB = ROOT / "examples" / "09-tampering"
SECONDS = 30.0
"""For anything at all, on a machine with other things to do."""


class Web:
    """`xfrmi web`, and the key of a session with it once `enter` has been called."""

    def __init__(self, env: dict[str, str], user: int | None, *words: str) -> None:
        self.env = env
        self._keyboard, terminal = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xfrmi", "web", *words], env=env, user=user, group=user,
            extra_groups=None if user is None else [], cwd="/", text=True,
            stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        os.close(terminal)
        self.said = self.key = ""
        self.read_link()
        self.read_line()  # about Enter and Ctrl-C

    def read_line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"xfrmi web ended: {self.said}"
        self.said += line
        return line

    def read_link(self) -> str:
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/#(\S+)", self.read_line())):
            pass
        self.link, self.port, self.token = found[0], int(found[1]), found[2]
        return self.link

    def another_link(self) -> str:
        os.write(self._keyboard, b"\n")
        return self.read_link()

    def ask(
        self, path: str, body: object = None, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        given = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, data, {**given, **(headers or {})})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        self.headers = dict(response.getheaders())
        kind = response.getheader("content-type") or ""
        return response.status, json.loads(text) if "json" in kind else text

    def enter(self) -> None:
        status, answer = self.ask("/api/login", {"token": self.token})
        assert status == 200
        self.key = answer["key"]

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        self.process.wait(SECONDS)
        self.process.stdout.close()
        os.close(self._keyboard)


class Page:
    """Hears what a page hears, until it is closed. `messages` holds the last of each type, `packets` all of them."""

    def __init__(self, web: Web, packets: bool = True) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.packets: dict[int, dict[str, Any]] = {}
        self._connection = HTTPConnection("127.0.0.1", web.port, timeout=SECONDS)
        key = {"Authorization": f"Bearer {web.key}"}
        self._connection.request("GET", f"/api/events?packets={packets:d}", headers=key)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.until(lambda: "packets" in self.messages if packets else "pings" in self.messages)

    def _read(self) -> None:
        try:
            while line := self._response.readline():
                if line.startswith(b"data: "):
                    self._hear(json.loads(line[6:]))
        except (OSError, ValueError, AttributeError):
            pass  # closed

    def _hear(self, message: dict[str, Any]) -> None:
        with self._news:
            self.messages[message["type"]] = message
            for packet in message["packets"] if message["type"] == "packets" else ():
                self.packets[packet["id"]] = packet
            self._news.notify_all()

    def until(self, holds: Callable[[], object]) -> None:
        with self._news:
            assert self._news.wait_for(holds, SECONDS), f"never so; last: {json.dumps(self.messages)[:2000]}"

    def counter(self, node: str, name: str) -> int:
        return int(self.messages["counters"]["nodes"][node]["xfrm_stat"][name])

    def close(self) -> None:
        sock = self._connection.sock or self._response.fp.raw._sock  # type: ignore[attr-defined]
        sock.shutdown(2)


@contextmanager
def web_beside(lab: Path, rootless: bool) -> Iterator[Web]:
    """Skips loudly where there can be no such lab."""
    pytest.importorskip("uvicorn", reason="NO uvicorn HERE, THE PAGE IS NOT TESTED")
    if why := unusable():
        pytest.skip(f"NO LABS ON THIS MACHINE, NOT TESTED: {why}")
    user = NOBODY if rootless else None
    if user is not None and os.geteuid() != 0:
        pytest.skip("the other run is rootless already")
    if user is not None and not _may_run_python(user):
        pytest.skip("NOBODY MAY NOT RUN PYTHON FROM HERE, ROOTLESS LABS NOT TESTED")
    with tempfile.TemporaryDirectory(prefix="xfrmi-", dir="/tmp") as folder:
        if user is not None:
            os.chown(folder, user, user)
        env = {**environment(Path(folder)), "HOME": "/tmp"}
        command = [sys.executable, "-m", "xfrmi", "lab"]
        options: dict[str, Any] = {"env": env, "cwd": "/", "user": user, "group": user}
        subprocess.run([*command, "up", str(lab)], check=True, **options, stdout=subprocess.DEVNULL)
        web = None
        try:
            web = Web(env, user)
            web.enter()
            yield web
        finally:
            if web is not None and web.process.poll() is None:
                web.end()
            subprocess.run([*command, "down", "--all"], **options, stdout=subprocess.DEVNULL, check=False)
