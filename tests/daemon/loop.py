"""A loop that is run by hand."""

from __future__ import annotations

from xfrmi.daemon.loop import Loop


def turn(loop: Loop) -> None:
    """Everything that is readable or writable now has its turn, once."""
    loop._running = True
    loop.run(lambda now: loop.stop(), lambda: loop.clock())
