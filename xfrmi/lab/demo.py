"""`make demo`: two hosts, a router between them, and one question asked in many ways: does only ESP leave?

Every line on the screen is a check that was made just now on real packets; the exit status is 0 only if each held.
What the hosts are told is what one would type with `ip` on a kernel that has all this: see demo_hosts.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import CoroutineType, FrameType

from xfrmi.lab import demo_checks as checks
from xfrmi.lab.demo_hosts import Hosts, build
from xfrmi.lab.preflight import Lacking, prepare
from xfrmi.lab.screen import Screen
from xfrmi.lab.topology import Lab

PICTURE = """\
   ╭─ moon ───────╮                                            ╭──────── sun ─╮
   │       ipsec0 ┊┄┄┄ 10.0.42.0/30 fd00:42::/64, if_id 42 ┄┄┄┄┊ ipsec0       │
   │       ipsec1 ┊┄┄┄ 10.0.43.0/30 fd00:43::/64, if_id 43 ┄┄┄┄┊ ipsec1       │
   │         eth0 ├────────────────┤ internet ├────────────────┤ eth0         │
   ╰─── 192.0.2.1 ╯                                            ╰ 198.51.100.1 ╯"""

CHECKS: tuple[tuple[str, str, Callable[[Hosts], checks.Result]], ...] = (
    ("ping", "echo requests through ipsec0", checks.ping_both_families),
    ("tcp", "a transfer in each family, hashed at both ends", checks.transfers),
    ("on the wire", "looking through the capture", checks.only_esp_on_the_wire),
    ("if_id 43", "a second interface between the same endpoints", checks.second_interface),
    ("rekey", "new keys in the middle of a transfer", checks.rekey),
    ("tampered", "a forged packet towards sun", checks.tampered),
    ("replayed", "a genuine packet, twice", checks.replayed),
)


INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupted(BaseException):
    """Not an Exception: no check may take it for its own failure."""


class Interrupt:
    """The signal handler: raises once, at once, and remembers it.

    Python drops an exception that a handler raises inside a callback of its own (after a fork, in a finalizer), so
    the demo also asks between its checks.
    """

    def __init__(self) -> None:
        self._asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for again in INTERRUPTS:  # cleaning up is not interrupted
            signal.signal(again, signal.SIG_IGN)
        self._asked = True
        raise _Interrupted

    def check(self) -> None:
        if self._asked:
            raise _Interrupted

    def tell_dropped(self, dropped: sys.UnraisableHookArgs) -> None:
        """What Python had to drop, on stderr as always; except the interrupt, which is not lost, and what comes of it:
        a netlink request that it ended halfway is a coroutine that fails once more when it is collected."""
        if dropped.exc_type is not _Interrupted and not (self._asked and isinstance(dropped.object, CoroutineType)):
            sys.__unraisablehook__(dropped)


def main() -> int:
    """Run the demo. Exit status: 0 all held, 1 something did not or the machine lacks something, 130 interrupted."""
    interrupt = Interrupt()
    sys.unraisablehook = interrupt.tell_dropped
    screen = Screen()
    try:
        how = prepare()
        # Held back for the moment in which there is a lab already and nobody yet who would clear it away.
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        for number in INTERRUPTS:
            signal.signal(number, interrupt)
        with Lab() as lab:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
            return _show(screen, lab, how, interrupt)
    except Lacking as lack:
        screen.clear()
        print(f"xfrmi: {lack}", file=sys.stderr)
        return 1
    except _Interrupted:
        screen.clear()
        print("xfrmi: interrupted; everything is cleaned up", file=sys.stderr)
        return 130


def _show(screen: Screen, lab: Lab, how: str, interrupt: Interrupt) -> int:
    screen.title("xfrmi: xfrm interfaces in userspace. Real packets, own namespaces, nothing of yours touched.")
    screen.line(PICTURE)
    screen.dim(f"   {how}; kernel {os.uname().release}; tunnel mode, AES-GCM-128")
    screen.line()
    screen.begin("hosts", "three namespaces, two daemons, keys")
    try:
        hosts = build(lab)
    except Exception as error:  # of sockets, of netlink, of a daemon's start
        screen.end("hosts", False, str(error))
        return 1
    interrupt.check()
    screen.end("hosts", True, f"two daemons, {hosts.objects} interfaces, states and policies in place")
    with hosts.tap:
        for name, doing, check in CHECKS:
            screen.begin(name, doing)
            try:
                held, *evidence = check(hosts)
            except Exception as error:  # what cannot be shown has not held
                held, evidence = False, [f"{type(error).__name__}: {error}"]
            interrupt.check()
            screen.end(name, bool(held), *map(str, evidence))
    screen.line()
    if screen.failures:
        screen.line(screen.paint(f"  {screen.failures} of {len(CHECKS)} did not hold", "\x1b[31m"))
        for host in (hosts.moon, hosts.sun):
            words = host.last_words()
            if words:
                screen.line(f"  {host.name}'s daemon said:\n{words}")
        return 1
    screen.line(f"  All held, in {screen.seconds:.0f} s. Next: docs/ and examples/, or `xfrmi help`.")
    return 0
