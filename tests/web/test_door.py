"""Who comes in: over real connections to the page's server, and the rules for tokens and sessions by themselves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.test_up_down import Place, place
from tests.system.hosts import eventually
from tests.web.lab import LAB, Page, Web, web_beside
from xfrmi.web.door import MAX_SESSIONS, Keys

__all__ = ["place"]


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with web_beside(LAB, rootless=False) as web:
        yield web


def stranger(web: Web, path: str, body: object = None, **headers: str) -> int:
    """Status for somebody without a session."""
    key, web.key = web.key, ""
    try:
        return web.ask(path, body, headers={name.replace("_", "-"): value for name, value in headers.items()})[0]
    finally:
        web.key = key


@pytest.mark.parametrize("path", ["/api/events", "/api/packets/1", "/api/pings", "/api/rekey", "/api/", "/api/nothing"])
def test_without_a_session(web: Web, path: str) -> None:
    assert stranger(web, path) == 403
    assert stranger(web, path, {}) == 403
    for key in ("Bearer ", "Bearer x", f"Bearer {web.token}", web.key, f"Basic {web.key}", f"bearer {web.key}"):
        assert stranger(web, path, Authorization=key) == 403
    assert stranger(web, path, Cookie=f"key={web.key}") == 403


def test_a_link_opens_once(web: Web) -> None:
    """The fixture has used it."""
    status, answer = web.ask("/api/login", {"token": web.token})
    assert status == 403 and "has been used" in answer["error"]


def test_other_names_are_refused(web: Web) -> None:
    port = web.port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1.evil:{port}", ""):
        status, answer = web.ask("/", headers={"Host": host})
        assert status == 403 and "another name" in answer["error"], host
    for host in (f"127.0.0.1:{web.port}", f"localhost:{web.port}", f"LOCALHOST:{web.port}"):
        assert web.ask("/", headers={"Host": host})[0] == 200


def test_other_origins_are_refused(web: Web) -> None:
    ping = {"node": "moon", "address": "10.8.0.2"}
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{web.port}", "http://127.0.0.1:1"):
        assert web.ask("/api/pings", ping, headers={"Origin": origin})[0] == 403
    status, answer = web.ask("/api/pings", ping, headers={"Origin": f"http://127.0.0.1:{web.port}"})
    assert status == 200
    assert web.ask(f"/api/pings/{answer['id']}", method="DELETE")[0] == 200


def test_only_the_loopback_address(web: Web) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    mine = [line.split()[1] for line in listening if line.split()[1].endswith(f":{web.port:04X}")]
    assert mine and set(mine) == {f"0100007F:{web.port:04X}"}


def test_what_a_browser_is_told(web: Web) -> None:
    for path in ("/", "/main.js", "/api/packets/1", "/nowhere"):
        web.ask(path)
        policy = web.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert web.headers["x-content-type-options"] == "nosniff"
        assert web.headers["referrer-policy"] == "no-referrer"
        assert web.headers["cache-control"] == "no-store"
        assert "server" not in web.headers and "set-cookie" not in web.headers


def test_nothing_of_the_lab_without_a_session(web: Web) -> None:
    _, text = web.ask("/")
    assert b"moon" not in text and LAB.name.encode() not in text


def test_a_request_that_is_none(web: Web) -> None:
    for data in (b"\0\1\2\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET " + b"a" * 100_000):
        with socket.create_connection(("127.0.0.1", web.port), 10) as connection:
            connection.sendall(data)
            if not data.endswith(b"a"):
                assert connection.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
    assert web.ask("/")[0] == 200


def test_nothing_is_logged_of_keys(web: Web) -> None:
    assert web.key not in web.said and web.said.count(web.token) == 1


def test_keys() -> None:
    keys = Keys()
    token = keys.token
    assert keys.enter("") is None and keys.enter(token[:-1]) is None and keys.enter("ä") is None
    first = keys.enter(token)
    assert first is not None and keys.admits(first.encode())
    assert keys.enter(token) is None and keys.enter("") is None
    another = keys.renew()
    stale, fresh = another, keys.renew()
    assert keys.enter(stale) is None
    second = keys.enter(fresh)
    assert second not in (None, first) and keys.admits(first.encode())
    assert not keys.admits(b"") and not keys.admits(token.encode())
    for _ in range(MAX_SESSIONS):
        keys.enter(keys.renew())
    assert not keys.admits(first.encode())


def test_it_lets_go(place: Place) -> None:
    """Nothing is heard for a page that has gone. Ctrl-C ends it while a page looks on, and so does the lab's end."""
    pytest.importorskip("uvicorn", reason="NO uvicorn HERE, THE PAGE IS NOT TESTED")
    assert place.lab("up", str(place.file))[2] == ""
    web = Web(place.env, None)
    web.enter()
    page = Page(web)
    descriptors = len(os.listdir(f"/proc/{web.process.pid}/fd"))
    page.close()
    eventually(lambda: len(os.listdir(f"/proc/{web.process.pid}/fd")) < descriptors - 2, lambda: "still listening")
    page = Page(web)
    page.until(lambda: page.messages["lab"]["lab"]["links"][0]["faults"] == "5ms")
    assert place.lab("link", "moon:eth0", "loss", "10%")[0] == 0
    page.until(lambda: "loss 10%" in page.messages["lab"]["lab"]["links"][0]["faults"])
    said = web.said
    web.end()
    assert (web.process.returncode, web.said) == (0, said)
    page.close()
    assert place.status()["state"] == "up"

    web = Web(place.env, None)
    web.enter()
    page = Page(web)
    assert place.lab("down")[0] == 0
    assert web.process.wait(20) == 0
    assert web.read_line() == 'lab "trial" is down\n'
    page.close()
    assert place.nothing_left()


def run(web: Web, *command: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, *command], env=web.env, cwd="/", capture_output=True, text=True)
    return done.returncode, done.stderr


def test_words(web: Web) -> None:
    command = "-m", "xfrmi", "web"
    assert run(web, *command, "mars") == (1, 'xfrmi: no lab "mars" is up (up: 09-tampering)\n')
    assert run(web, *command, "--port", "70000")[0] == 2
    assert run(web, *command, "--port", str(web.port)) == (1, f"xfrmi: 127.0.0.1:{web.port}: Address already in use\n")


def test_without_uvicorn(web: Web) -> None:
    blocked = "import sys; sys.modules['uvicorn'] = None; from xfrmi.cli.main import main; sys.exit(main(['web']))"
    assert run(web, "-c", blocked) == (1, "xfrmi: the page needs uvicorn; install it: pip install 'xfrmi[web]'\n")


def test_enter_prints_another_link(web: Web) -> None:
    old = web.another_link()
    new = web.another_link()
    assert old != new
    assert web.ask("/api/login", {"token": old.partition("#")[2]})[0] == 403
    assert web.ask("/api/login", {"token": web.token})[0] == 200
