"""The guest's root file system: a few programs of this machine, the kernel's modules, the agent. Made at every boot.

The format is cpio's "newc" (Documentation/driver-api/early-userspace/buffer-format.rst), simple enough to write here.
"""

from __future__ import annotations

import marshal
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from pathlib import Path

HERE = Path(__file__).parent
AGENT = ("agent.py", "channel.py")
APPLETS = (
    "sh", "mount", "insmod", "mkdir", "cat", "ls", "dmesg", "sleep", "sysctl", "unshare", "grep", "head", "env", "rm",
    "tail",
)  # fmt: skip

INIT = """#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /modules/*; do insmod $module; done
exec {python} -I -S /agent/agent.py
"""

PROTOCOLS = "icmp 1\ntcp 6\nudp 17\ngre 47\nesp 50\nah 51\nipv6-icmp 58\n"
"""/etc/protocols: so `ip xfrm` knows their names."""


class Archive:
    """A growing cpio archive; folders are made as files need them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def add(self, path: str, data: bytes, mode: int = 0o100755) -> None:
        """`path` without the leading slash; a symbolic link has mode 0o120777 and its target as data."""
        if path in self._names:
            return
        self._names.add(path)
        if parent := path.rpartition("/")[0]:
            self.add(parent, b"", 0o040755)
        fields = (len(self._names), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path) + 1, 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + path.encode() + b"\0"
        self._parts += [header, bytes(-len(header) % 4), data, bytes(-len(data) % 4)]

    def file(self, source: Path | str, path: str | None = None) -> None:
        """A copy of a file of ours, in the same place unless another is given."""
        self.add((path or str(source)).lstrip("/"), Path(source).read_bytes())

    def link(self, path: str, target: str) -> None:
        self.add(path, target.encode(), 0o120777)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", b"", 0)
        return b"".join(self._parts)


def build(modules: Path, programs: Iterable[str] = ()) -> bytes:
    """The whole archive; `programs` and libraries, beside those that every guest has, come to where they are here.
    CalledProcessError or OSError if one cannot be copied."""
    archive = Archive()
    python = os.path.realpath(sys.executable)
    archive.add("init", INIT.format(python=python).encode())
    for name in ("dev", "proc", "sys", "tmp", "run"):
        archive.add(name, b"", 0o040755)
    archive.add("etc/protocols", PROTOCOLS.encode())
    archive.file(_program("busybox"), "bin/busybox")
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    for name in ("ip", "dash"):  # busybox's own shell prefers its own `ip`
        _add_program(archive, _program(name), f"bin/{name}")
    _add_program(archive, python, python)
    for program in programs:
        _add_program(archive, program, program)
    for source in _imports(python):
        if source.endswith(".so"):
            _add_program(archive, source, source)
        else:
            archive.add(f"{source}c".lstrip("/"), _bytecode(source))
    for name in AGENT:
        archive.file(HERE / name, f"agent/{name}")
    for module in sorted(modules.iterdir()):
        archive.file(module, f"modules/{module.name}")
    return archive.finish()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return found


def _add_program(archive: Archive, source: str, path: str) -> None:
    """A program or library, and the shared libraries it is linked with, where it looks for them."""
    archive.file(source, path)
    listed = subprocess.run(["ldd", source], capture_output=True, text=True).stdout
    for library in re.findall(r"(?:=>\s*|^\s*)(/\S+)", listed, re.MULTILINE):
        archive.file(library)


def _imports(python: str) -> Iterator[str]:
    """The files that the interpreter loads for the agent: the agent's imports as it answers them here."""
    # encodings: for the names of files; the rest is found by importing.
    program = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import agent, os, encodings.ascii;"
        "print(*{f for m in sys.modules.values() if (f := getattr(m, '__file__', None))}, sep='\\n')"
    )
    listed = subprocess.run([python, "-I", "-S", "-B", "-c", program], check=True, capture_output=True, text=True)
    return (line for line in listed.stdout.splitlines() if not line.startswith(str(HERE)))


def _bytecode(source: str) -> bytes:
    """Compiling takes long in emulation; a .pyc beside no .py is taken as it is, whatever its date."""
    code = SourceFileLoader("module", source).get_code("module")
    return MAGIC_NUMBER + bytes(12) + marshal.dumps(code)
