"""An IKE daemon on either end: charon with xfrmi under exec on moon, charon with its kernel on sun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.interpose.strongswan import ALGORITHMS, CHARON, SETTINGS, SWANCTL, Host, connection, need_charon
from tests.oracle.kernelpeer.pair import Pair, pair
from tests.oracle.libipsec.charon import PLUGINS
from tests.system.hosts import OUTER, eventually

FOLDER = "/run/charon"
SETTINGS_PATH, CONFIG_PATH, LOG = f"{FOLDER}/strongswan.conf", f"{FOLDER}/swanctl.conf", f"{FOLDER}/charon.log"
START = f"STRONGSWAN_CONF={SETTINGS_PATH} {CHARON} > {FOLDER}/out 2>&1 < /dev/null & echo $!"


def programs() -> Iterator[str]:
    """What charon and swanctl are on this machine, with what they load by themselves."""
    yield from (str(CHARON), str(SWANCTL))
    for name in (*ALGORITHMS.split(), "kernel-netlink", "socket-default", "vici", "updown"):
        yield str(PLUGINS / f"libstrongswan-{name}.so")
    yield from map(str, Path("/lib").glob("*-linux-gnu/libgcc_s.so.1"))  # which libc loads where a thread is cancelled


class GuestCharon:
    """Charon in the guest: what Host is in a namespace."""

    name = "sun"

    def __init__(self, built: Pair) -> None:
        self._machine = built.sun.machine

    def launch(self, config: str, settings: str = "") -> None:
        self._sh(f"mkdir -p {FOLDER}")
        text = SETTINGS.format(algorithms=ALGORITHMS, folder=FOLDER, settings=settings)
        self._machine.tell("write", SETTINGS_PATH, text)
        self._machine.tell("write", CONFIG_PATH, config)
        self.relaunch()

    def relaunch(self) -> None:
        self._sh(f"rm -f {FOLDER}/vici")
        self._pid = self._sh(START).strip()
        eventually(lambda: "vici" in self._sh(f"ls {FOLDER}"), self.last_words, 20)
        self.swanctl("--load-all", "--file", CONFIG_PATH)

    def stop(self, signal: str = "TERM") -> None:
        self._sh(f"kill -{signal} {self._pid}; while [ -e /proc/{self._pid}/exe ]; do sleep 0.1; done")

    def swanctl(self, *arguments: str) -> str:
        command = ("env", f"STRONGSWAN_CONF={SETTINGS_PATH}", str(SWANCTL), *arguments, "--uri", f"unix://{FOLDER}/vici")
        status, said, complaint = self._machine.tell("run", "/bin/busybox", *command)
        assert status == 0, said + complaint + self.last_words()
        return str(said)

    def last_words(self) -> str:
        return self._sh(f"cat {FOLDER}/out; tail -n 40 {LOG}")

    def _sh(self, script: str) -> str:
        _, said, complaint = self._machine.tell("run", "/bin/sh", "-c", script)
        return str(said) + str(complaint)


@dataclass
class IkePair:
    pair: Pair
    moon: Host
    sun: GuestCharon

    @property
    def ends(self) -> tuple[Host, GuestCharon]:
        return self.moon, self.sun

    @contextmanager
    def started(self, outer: int = 4, ike: str = "", child: str = "", settings: str = "") -> Iterator[None]:
        """Both charons, with one connection that nobody has initiated yet. In the end they have gone."""
        for end, other in ((self.moon, "sun"), (self.sun, "moon")):
            addresses = OUTER[end.name, outer], OUTER[other, outer]
            config = connection(*addresses, end.name, other, ike=ike, child=child, selector="0.0.0.0/0, ::/0")
            end.launch(config, settings)
        try:
            yield
        except BaseException:
            print(self.last_words())
            raise
        finally:
            for end in self.ends:
                end.stop()

    def last_words(self) -> str:
        return f"{self.moon.last_words()}\nthe kernel's charon said:\n{self.sun.last_words()}"


@contextmanager
def ike_pair() -> Iterator[IkePair]:
    need_charon()
    with pair(programs(), encap=False) as built:
        yield IkePair(built, Host(built.moon.node), GuestCharon(built))
