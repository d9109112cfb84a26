"""strongSwan's charon with its own ESP (plugin kernel-libipsec), in a namespace of a lab.

Everything it reads and writes lies in the folder of its node. Its log tells the ESP keys of what was negotiated: that
is how another implementation can take an end over.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.hosts import PEER, eventually
from xfrmi.lab.topology import Node

CHARON = Path("/usr/sbin/charon-systemd")
SWANCTL = Path("/usr/sbin/swanctl")
PACKAGES = "charon-systemd strongswan-swanctl libcharon-extra-plugins libstrongswan-extra-plugins"
PLUGINS = Path("/usr/lib/ipsec/plugins")
ALGORITHMS = "openssl gcrypt aes sha1 sha2 md5 hmac kdf xcbc cmac ctr ccm gcm chapoly curve25519 random nonce"
SETTINGS = """
charon-systemd {{
    load = {algorithms} kernel-libipsec kernel-netlink socket-default vici
    plugins {{
        vici {{
            socket = unix://{folder}/vici
        }}
    }}
    journal {{
        default = -1
    }}
    filelog {{
        log {{
            path = {folder}/charon.log
            flush_line = yes
            default = 1
            chd = 4
        }}
    }}
}}
swanctl {{
    load = random
}}
"""


def missing_charon() -> Path | None:
    """What of it is not installed."""
    needed = (CHARON, SWANCTL, PLUGINS / "libstrongswan-kernel-libipsec.so")
    return next((path for path in needed if not path.exists()), None)


def need_charon() -> None:
    """Skip loudly where it is not installed."""
    if path := missing_charon():
        pytest.skip(f"NO {path} (Debian: {PACKAGES}): LIBIPSEC NOT TESTED")


@dataclass
class Child:
    """One CHILD_SA as the log tells it: two states."""

    spis: dict[str, int] = field(default_factory=dict)
    """By direction, in and out."""
    keys: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"moon": {}, "sun": {}})
    """By sender: enc and auth."""


class Charon:
    def __init__(self, node: Node, config: str) -> None:
        """Start it; `config` is a whole swanctl.conf."""
        self._node = node
        self._log = node.folder / "charon.log"
        self._uri = f"unix://{node.folder}/vici"
        settings = node.folder / "strongswan.conf"
        settings.write_text(SETTINGS.format(algorithms=ALGORITHMS, folder=node.folder))
        (node.folder / "swanctl.conf").write_text(config)
        self._env = {**os.environ, "STRONGSWAN_CONF": str(settings)}
        with open(node.folder / "charon.out", "wb") as output:
            self.process = node.popen([str(CHARON)], stdout=output, stderr=subprocess.STDOUT, env=self._env)
        node.programs.append(self.process)

    def load(self) -> None:
        """Give it its connections; those that are to be started are."""
        eventually(
            (self._node.folder / "vici").exists,
            lambda: f"charon did not come up on {self._node.name}: {self.last_words()}",
        )
        self._swanctl("--load-all", "--file", str(self._node.folder / "swanctl.conf"))

    def _swanctl(self, *arguments: str) -> str:
        done = self._node.run([str(SWANCTL), *arguments, "--uri", self._uri], env=self._env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def counts(self) -> dict[int, tuple[int, int]]:
        """What its SAs have carried, by SPI: packets and bytes of inner packets."""
        return parse_counts(self._swanctl("--list-sas", "--raw"))

    def rekey(self, child: str) -> None:
        """Have it negotiate new keys for this one; that is all it is told, the answer comes when it comes."""
        self._swanctl("--rekey", "--child", child)

    def children(self, responder: str) -> list[tuple[str, Child]]:
        """What is established, in order, with the name of its configuration; its negotiation was answered there."""
        found: list[tuple[str, Child]] = []
        pending: dict[str, tuple[str, list[str]]] = {}
        for thread, line in self._lines():
            if match := re.fullmatch(r"CHILD_SA (\S+)\{\d+\} state change: (\S+) => (\S+)", line):
                if match[3] == "INSTALLING":
                    pending[thread] = match[1], []
                elif match[3] == "INSTALLED":
                    name, told = pending.pop(thread)
                    found.append((name, _child(told, responder)))
            elif thread in pending:
                pending[thread][1].append(line)
        return found

    def _lines(self) -> Iterator[tuple[str, str]]:
        """(thread, text) of what is about CHILD_SAs: "07[CHD] text"."""
        for line in self._log.read_text().splitlines():
            thread, group, text = line.partition("[CHD] ")
            if group:
                yield thread, text

    def last_words(self) -> str:
        files = (self._node.folder / name for name in ("charon.out", "charon.log"))
        return "\n".join("\n".join(path.read_text().splitlines()[-20:]) for path in files if path.exists())

    def kill(self) -> None:
        """Without a word to its peer."""
        self.process.kill()
        self.process.wait()
        self._node.programs.remove(self.process)


def parse_counts(told: str) -> dict[int, tuple[int, int]]:
    """By SPI: packets and bytes of inner packets, from `swanctl --list-sas --raw`."""
    found = {}
    for direction in ("in", "out"):
        pattern = rf"spi-{direction}=([0-9a-f]+) .*?bytes-{direction}=(\d+) packets-{direction}=(\d+)"
        for match in re.finditer(pattern, told):
            found[int(match[1], 16)] = int(match[3]), int(match[2])
    return found


def _child(lines: list[str], responder: str) -> Child:
    """From the lines between INSTALLING and INSTALLED: keys as hexadecimal dumps, then the two SAs."""
    roles = {"initiator": PEER[responder], "responder": responder}
    child = Child()
    purposes = {"encryption": "enc", "integrity": "auth"}
    key = bytearray()
    direction = ""
    for line in lines:
        if match := re.match(r"(encryption|integrity) (initiator|responder) key =>", line):
            key = bytearray()
            child.keys[roles[match[2]]][purposes[match[1]]] = key
        elif match := re.match(r" *\d+: ((?:[0-9A-F]{2} ){1,16})", line):
            key += bytes.fromhex(match[1])
        elif match := re.match(r"(?:adding|registering) (in|out)bound ESP SA", line):
            direction = match[1]
        elif match := re.match(r"  SPI 0x([0-9a-f]+),", line):
            child.spis[direction] = int(match[1], 16)
        else:
            key = bytearray()  # a dump of something else may follow
    return child
