"""Libreswan's pluto under exec, with the kernel interface it always has, and `ipsec-interface` instead of policies.

Debian's package cannot be installed beside strongSwan, so it is downloaded with the libraries it needs and unpacked
into a cache folder: `python -m tests.oracle.pluto`. Tests only look whether it is there.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.interpose.strongswan import EXEC, eventually
from tests.interpose.supervised import need_exec
from tests.lacks import own_mounts
from tests.netns import need_tun
from tests.oracle import packages
from xfrmi.lab.topology import Node

PACKAGES = (
    "libreswan", "libnss3", "libnss3-tools", "libnspr4", "libldns3", "libunbound8", "libevent-core-2.1-7",
    "libevent-pthreads-2.1-7", "libcurl3-nss", "libldap-2.5-0", "libcap-ng0", "libaudit1",
)  # fmt: skip
CONFIG = """
config setup
    logfile={folder}/pluto.log
    virtual-private=

conn net
    authby=secret
    ikev2=insist
    left={own}
    leftid=@{name}
    leftsubnet={subnet}
    leftupdown=%disabled
    right={other}
    rightid=@{peer}
    rightsubnet={subnet}
    ike=aes_gcm128-sha2;dh31
    esp=aes_gcm128
    {more}
"""


def folder() -> Path:
    """Where it is unpacked."""
    return packages.cache() / "xfrmi-libreswan"


def fetch() -> Path:
    """Download and unpack it unless it is there. CalledProcessError, OSError."""
    place = folder()
    if not place.exists():
        with packages.unpacked(place, *PACKAGES) as work:
            (work / "root").rename(place)
    return place


def libraries() -> dict[str, str]:
    """The environment in which it finds what was unpacked with it."""
    return {**os.environ, "LD_LIBRARY_PATH": str(next(folder().glob("usr/lib/*-linux-gnu")))}


def need_pluto() -> None:
    need_exec()
    need_tun()
    if not (folder() / "usr/libexec/ipsec/pluto").exists():
        pytest.skip("LIBRESWAN IS NOT TESTED: its package has not been downloaded; mend it: make libreswan")
    command = [str(folder() / "usr/libexec/ipsec/pluto"), "--version"]
    trial = subprocess.run(command, env=libraries(), capture_output=True)
    if trial.returncode:
        pytest.skip(f"LIBRESWAN IS NOT TESTED: {trial.stderr.decode().strip()}; mend it: apt install what has that")
    own_mounts()  # it starts its helper by a path that is compiled in
    subprocess.run(["mount", "--bind", str(folder() / "usr/libexec"), "/usr/libexec"], check=True)


class Pluto:
    """One end."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name = node.name
        self._programs = folder() / "usr/libexec/ipsec"
        self._run_folder = node.folder / "pluto"
        self.env = {**libraries(), **node.env}

    def launch(self, own: str, other: str, peer: str, subnet: str, more: str) -> None:
        """Start pluto and load the connection `net`; `more` are lines of it."""
        place = self._run_folder
        place.mkdir()
        config = CONFIG.format(
            folder=place, own=own, other=other, name=self.name, peer=peer, subnet=subnet, more=more
        )
        (place / "ipsec.conf").write_text(config)
        (place / "ipsec.secrets").write_text(f'@{self.name} @{peer} : PSK "not very secret"\n')
        (place / "nss").mkdir()
        certutil = folder() / "usr/bin/certutil"
        self._do([str(certutil), "-N", "-d", f"sql:{place}/nss", "--empty-password"])
        command = [
            *EXEC, str(self._programs / "pluto"), "--nofork", "--config", f"{place}/ipsec.conf",
            "--nssdir", f"{place}/nss", "--secretsfile", f"{place}/ipsec.secrets", "--rundir", str(place),
            "--ipsecdir", str(place), "--no-dnssec", "--logfile", f"{place}/pluto.log",
        ]  # fmt: skip
        with open(place / "out", "wb") as out:
            self.process = self.node.popen(command, stdout=out, stderr=subprocess.STDOUT, env=self.env)
        self.node.programs.append(self.process)
        eventually((place / "pluto.ctl").exists, self.last_words)
        self.whack("--listen")
        self._do([
            str(self._programs / "addconn"), "--config", f"{place}/ipsec.conf",
            "--ctlsocket", f"{place}/pluto.ctl", "net",
        ])  # fmt: skip

    def whack(self, *arguments: str) -> str:
        return self._do([str(self._programs / "whack"), "--rundir", str(self._run_folder), *arguments])

    def run(self, command: str) -> str:
        """A line of shell, under exec."""
        return self._do([*EXEC, "sh", "-c", command])

    def counts(self) -> dict[str, int]:
        """Bytes that the tunnel has carried, by direction: in and out."""
        found = re.search(r"inBytes=(\d+), outBytes=(\d+)", self.whack("--trafficstatus"))
        return {"in": int(found[1]), "out": int(found[2])} if found else {}

    def stop(self) -> None:
        self.node.stop(self.process)

    def last_words(self) -> str:
        paths = [self._run_folder / "out", self._run_folder / "pluto.log", *self.node.folder.glob("4*.log")]
        texts = (path.read_text(errors="replace").splitlines()[-50:] for path in paths if path.exists())
        return "\n".join([f"--- {self.name}", *("\n".join(lines) for lines in texts)])

    def _do(self, command: list[str]) -> str:
        done = self.node.run(command, env=self.env)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.last_words()}"
        return done.stdout + done.stderr


if __name__ == "__main__":
    packages.main(fetch, "libreswan could not be fetched")
