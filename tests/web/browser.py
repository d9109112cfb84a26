"""A headless Chromium, driven over its DevTools protocol; and everything it complains of."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 30.0
COMPLAINTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded", "Runtime.consoleAPICalled")
KEYS = {"Enter": "\r", "ArrowDown": "", "ArrowRight": "", "Tab": ""}
CODES = {"Enter": 13, "ArrowDown": 40, "ArrowRight": 39, "Tab": 9}


class Browser:
    """One tab."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._number = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Audits"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=SECONDS))
            if message.get("method") in COMPLAINTS:
                self.complaints.append(json.dumps(message["params"])[:500])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])

    def size(self, width: int, height: int, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def js(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """What it is, once it is something."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if value := self.js(expression):
                return value
            time.sleep(0.05)
        text = self.js("document.body.innerText")
        raise AssertionError(f"never: {expression}\ncomplaints: {self.complaints}\nthe page says:\n{text}")

    def text(self, selector: str) -> str:
        return str(self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of it, once it is there."""
        x, y = self.until(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); if (!one) return null;"
            "one.scrollIntoView({block: 'nearest'}); const box = one.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2] })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name, text=KEYS[name] if kind == "keyDown" else "",
                windowsVirtualKeyCode=CODES[name],
            )  # fmt: skip

    def picture(self, path: Path) -> None:
        """What is in the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Skips loudly without one."""
    client = pytest.importorskip("websockets.sync.client", reason="NO websockets HERE, THE PAGE IS NOT TESTED")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("NO chromium HERE, THE PAGE IS NOT TESTED (Debian: chromium)")
    with tempfile.TemporaryDirectory(prefix="xfrmi-chromium-", ignore_cleanup_errors=True) as folder:
        said = Path(folder, "said")
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        with said.open("w") as output:
            process = subprocess.Popen(
                [program, "--headless", *sandbox, "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0",
                 "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={folder}/profile", "about:blank"],
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            with client.connect(_address_of_tab(process, said), max_size=None) as connection:
                yield Browser(connection)
        finally:
            process.terminate()
            process.wait(SECONDS)


def _address_of_tab(process: subprocess.Popen[bytes], said: Path) -> str:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        if port := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", said.read_text()):
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/json", timeout=SECONDS) as answer:
                tabs = json.load(answer)
            return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        time.sleep(0.05)
    pytest.skip(f"CHROMIUM DOES NOT START HERE, THE PAGE IS NOT TESTED: {said.read_text()[-300:]}")
