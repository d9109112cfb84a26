"""A machine with systemd as its process 1, in the network namespace of a test's host (boot.sh).

Its programs are this machine's, xfrmi is the one under test; or those of a folder that XFRMI_PID1_ROOT names, made by
debootstrap for example, with whatever `xfrmi` is installed there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.hosts import eventually
from xfrmi.lab.topology import Node

ROOT = Path(os.environ.get("XFRMI_PID1_ROOT", "/"))
PROJECT = Path(__file__).parents[2]
TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "pivot_root": "util-linux", "sh": "dash"}
SYSTEMD = "lib/systemd/systemd"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = 60
"""To boot."""
PROBE = """set -e
mount -t tmpfs tmpfs /tmp
cd /tmp
mkdir groups lower upper work root
mount -t cgroup2 groups groups
mkdir groups/xfrmi-probe-$$
rmdir groups/xfrmi-probe-$$
mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work probe root
"""
"""What boot.sh cannot do without."""
XFRMI = f"""#!/bin/sh
export PYTHONPATH=/opt/xfrmi:/opt/packages
exec /opt/python/bin/python{sys.version_info[0]}.{sys.version_info[1]} -B -P -m xfrmi "$@"
"""
"""Homes are hidden from the unit, and who knows where this Python is and the packages are: they are in /opt there."""


def need_systemd() -> None:
    """Skip loudly where no such machine can be had."""
    missing = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    if not (ROOT / SYSTEMD).exists():
        missing.append("systemd")
    if missing:
        pytest.skip(f"NO systemd HERE TO BE PROCESS 1, NOT TESTED: apt install {' '.join(missing)}")
    if os.geteuid() or Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        pytest.skip("systemd AS PROCESS 1 TAKES root AND ITS CONTROL GROUPS, NOT TESTED")
    tried = subprocess.run(["unshare", "--mount", "sh", "-c", PROBE], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"NO cgroup2 OR NO overlay HERE, NOT TESTED: {tried.stderr.strip()}")


class Machine:
    """Booted, with the unit in place but not started."""

    def __init__(self, host: Node, unit: Path) -> None:
        self._host = host
        self._seen = 0
        self._folder = host.folder / "machine"
        units = self._folder / "etc/systemd/system"
        units.mkdir(parents=True)
        shutil.copy(unit, units)
        (self._folder / "run").symlink_to(host.folder)
        (self._folder / "bind.sh").write_text(self._binds())
        script = str(Path(__file__).with_name("boot.sh"))
        self._boot = host.start(["sh", script, str(self._folder), str(ROOT), host.name], "boot.log")
        self._pid = 0
        try:
            eventually(self._find, self.last_words, SECONDS)
            eventually(self._is_up, self.last_words, SECONDS)
        except BaseException:
            self.close()
            raise

    def _binds(self) -> str:
        if ROOT.resolve() != Path("/"):
            return ""
        (self._folder / "xfrmi").write_text(XFRMI)
        (self._folder / "xfrmi").chmod(0o755)
        places = {
            "opt/python": sys.base_prefix,
            "opt/xfrmi": PROJECT,
            "opt/packages": sysconfig.get_path("purelib"),
            "usr/local/bin/xfrmi": self._folder / "xfrmi",
        }
        return "".join(
            f"mkdir -p {os.path.dirname(place)}\n{'touch' if os.path.isfile(source) else 'mkdir -p'} {place}\n"
            f"mount --bind '{source}' {place}\n"
            for place, source in places.items()
        )

    def _find(self) -> bool:
        """Process 1 of the innermost tree, if it is one already. AssertionError if the script has ended."""
        assert self._boot.poll() is None, self.last_words()
        for pid in self._descent():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/exe").endswith("/systemd"):
                    self._pid = pid
                    return True
        return False

    def _descent(self) -> Iterator[int]:
        """The script, its child, the child of that, and so on."""
        pid = self._boot.pid
        with contextlib.suppress(OSError):  # they come and go
            while True:
                yield pid
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                if not children:
                    return
                pid = int(children[0])

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def run(self, *command: str, text: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """A program in there, to its end; `text` is what it reads."""
        enter = ("nsenter", f"--target={self._pid}", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net")
        done = subprocess.run(
            [*enter, "env", "-i", f"PATH={PATH}", *command], input=text, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", "--no-pager", *words, check=check)

    def shows(self, *names: str) -> list[str]:
        """Properties of the unit."""
        shown = self.systemctl("show", "xfrmi", f"--property={','.join(names)}").stdout
        found = dict(line.split("=", 1) for line in shown.splitlines())
        return [found[name] for name in names]

    def journal(self) -> list[str]:
        """What the programs of the unit have said since the mark."""
        return self._said("_SYSTEMD_UNIT=xfrmi.service")[self._seen :]

    def mark(self) -> None:
        """What they have said up to now is of no interest any more."""
        self._seen += len(self.journal())

    def whole_journal(self) -> list[str]:
        return self._said()

    def _said(self, *match: str) -> list[str]:
        return self.run("journalctl", "--no-pager", "--output=cat", *match, check=False).stdout.splitlines()

    def processes(self) -> list[str]:
        """Of the unit, by number."""
        (group,) = self.shows("ControlGroup")
        return self.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs").stdout.split() if group else []

    def last_words(self) -> str:
        return self._host.last_words("boot.log", lines=40)

    def close(self) -> None:
        """With process 1 all that runs there ends, and then the script clears up."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid or list(self._descent())[-1], signal.SIGKILL)
        self._boot.wait(20)
