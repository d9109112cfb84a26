"""Something costly for many tests: it is built once, in a child process, which plays the tests one by one.

    @pytest.fixture(scope="package")
    def hosts():
        with Stage(two_hosts, clean) as stage:
            yield stage

    @on_stage
    def test_echo(hosts: Hosts) -> None: ...
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from tests.netns import enter_netns, outcome, settle

SECONDS = 60
"""For one test."""

T = TypeVar("T")
_plays: dict[str, Callable[..., object]] = {}
"""By name: the child was forked when all of them were known."""


def on_stage(test: Callable[..., object]) -> Callable[..., None]:
    """Decorator: the first parameter names a fixture that is a Stage; inside, the test gets what was built there."""
    name = f"{test.__module__}.{test.__qualname__}"
    fixture = next(iter(inspect.signature(test).parameters))
    _plays[name] = test

    @functools.wraps(test)
    def run(**kwargs: Any) -> None:
        settle(*kwargs.pop(fixture).play(name, **kwargs))

    return run


class Stage(Generic[T]):
    """The child, from the first test on; a new one after a test that killed it."""

    def __init__(
        self,
        build: Callable[[], AbstractContextManager[T]],
        clean: Callable[[T], None],
        last_words: Callable[[T], str],
        seconds: int = SECONDS,
    ) -> None:
        """`build` in a network namespace of its own, in so many seconds; `clean` before each test; `last_words` belong
        to a failure."""
        self._build, self._clean, self._last_words, self._seconds = build, clean, last_words, seconds
        self._pid = 0
        self._link: Connection

    def __enter__(self) -> Stage[T]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            self._wait()

    def play(self, name: str, **kwargs: Any) -> tuple[str, str]:
        """Run one test there: how it ended, and the words for it."""
        if not self._pid:
            self._start()
        try:
            self._link.send((name, kwargs))
            return self._link.recv()
        except (EOFError, ConnectionError):
            status = self._wait()
            return "fail", f"the process with what was built ended with wait status {status}"

    def _start(self) -> None:
        self._link, theirs = multiprocessing.Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._link.close()
            self._be_the_stage(theirs)
        theirs.close()

    def _wait(self) -> int:
        self._link.close()
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return status

    def _be_the_stage(self, link: Connection) -> None:
        """The child: build, play what is asked for until nobody asks any more."""

        def play_all() -> None:
            signal.alarm(self._seconds)
            enter_netns()
            with self._build() as built:
                signal.alarm(0)
                while request := _next(link):
                    name, kwargs = request
                    signal.alarm(SECONDS)
                    played = self._play(built, functools.partial(_plays[name], built, **kwargs))
                    signal.alarm(0)  # until somebody asks again any time may pass
                    link.send(played)

        verdict, text = outcome(play_all)
        signal.alarm(0)
        if verdict != "pass":  # nothing was built: every test comes out like that, however late it asks
            while _next(link):
                link.send((verdict, text))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def _play(self, built: T, test: Callable[[], object]) -> tuple[str, str]:
        def from_the_start() -> None:
            self._clean(built)
            test()

        verdict, text = outcome(from_the_start)
        return verdict, f"{text}\n{self._last_words(built)}" if verdict == "fail" else text


def _next(link: Connection) -> tuple[str, dict[str, Any]] | None:
    try:
        return link.recv()  # type: ignore[no-any-return]
    except EOFError:
        return None
