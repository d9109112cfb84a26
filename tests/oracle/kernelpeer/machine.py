"""The machine: qemu with a network card on a TAP device of ours, and what one says to the agent inside it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import select
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tests.oracle.kernelpeer import initramfs
from tests.oracle.kernelpeer.channel import Channel
from xfrmi.lab.topology import Node

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
BOOT_SECONDS = 90
"""Takes 5 where nothing else is done."""
ANSWER_SECONDS = 10.0

COMMAND_LINE = " ".join((
    "console=ttyS0 quiet panic=-1 reboot=t rdinit=/init net.ifnames=0",
    # Nobody attacks this kernel, and emulation makes work of whatever guards it.
    "mitigations=off nokaslr rodata=off audit=0 lsm=capability random.trust_cpu=on",
    "cryptomgr.notests no_timer_check tsc=reliable rcupdate.rcu_expedited=1",
))  # fmt: skip


def _clock() -> str:
    """How fast the time stamp counter is, which is the host's: on a busy machine a guest that measures it fails, and
    then stands still."""
    megahertz = re.search(r"cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text())
    return f" tsc_early_khz={float(megahertz[1]) * 1000:.0f}" if megahertz else ""


class Remote:
    """A socket of the guest. Its methods take and give what a socket's do; they wait in the guest, in a thread."""

    def __init__(self, machine: Machine, name: int) -> None:
        self._machine = machine
        self._name = name

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._machine.ask(self._name, method, *arguments, **options).result(
            ANSWER_SECONDS
        )

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Machine:
    """A booted kernel. Its eth0 is the TAP device `tap` on `node`."""

    def __init__(self, node: Node, tap: str, kernel: Path, programs: Iterable[str] = ()) -> None:
        """Boots, with these programs of this machine, too. TimeoutError or EOFError with the console's last lines if
        that comes to nothing."""
        self.console = node.folder / "console"
        self._card = _tap(node, tap)
        self._port, theirs = socket.socketpair()
        self._waiting: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        self._channel = Channel(self._port.fileno(), _name_of, lambda name: Remote(self, name))
        with tempfile.NamedTemporaryFile() as archive:
            archive.write(initramfs.build(kernel / "modules", programs))
            archive.flush()
            with theirs:
                fds = {"agent": theirs.fileno(), "card": self._card}
                self._program = subprocess.Popen(
                    _command(kernel / "vmlinux", archive.name, self.console, **fds),
                    pass_fds=fds.values(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                )  # fmt: skip
            if not select.select([self._port], [], [], BOOT_SECONDS)[0] or self._hear() != "ready":
                raise TimeoutError(f"the kernel did not come up:\n{self.last_words()}")
        threading.Thread(target=self._listen, daemon=True).start()

    def ask(self, name: int, method: str, *arguments: Any, **options: Any) -> Future[Any]:
        """Call a method of an object in the guest (agent.py); 0 is the guest itself."""
        number = next(self._numbers)
        answer: Future[Any] = Future()
        self._waiting[number] = answer
        self._channel.say((number, name, method, arguments, options))
        return answer

    def tell(self, method: str, *arguments: Any, **options: Any) -> Any:
        """The same to the guest itself, and wait for the answer."""
        return self.ask(0, method, *arguments, **options).result(ANSWER_SECONDS)

    def _hear(self) -> Any:
        try:
            return self._channel.hear()
        except (EOFError, OSError):
            raise EOFError(f"the kernel is gone:\n{self.last_words()}") from None

    def _listen(self) -> None:
        while True:
            try:
                number, result, error = self._hear()
            except EOFError as gone:
                for answer in self._waiting.values():
                    answer.set_exception(gone)
                return
            answer = self._waiting.pop(number)
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def last_words(self) -> str:
        """What the console showed, or qemu said."""
        with contextlib.suppress(OSError):
            if shown := self.console.read_text(errors="replace").splitlines()[-40:]:
                return "\n".join(shown)
        self._program.terminate()
        assert self._program.stderr is not None
        return self._program.stderr.read().decode()

    def close(self) -> None:
        self._program.kill()
        self._program.wait()
        self._port.close()
        os.close(self._card)


def _name_of(thing: Any) -> int | None:
    return thing._name if isinstance(thing, Remote) else None


def _tap(node: Node, name: str) -> int:
    """A TAP device on the node, and up; it lasts as long as the descriptor."""
    with node:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    node.up(name)
    return fd


def _command(kernel: Path, archive: str, console: Path, *, agent: int, card: int) -> list[str]:
    """A machine without a BIOS, disks or a PCI bus, everything on virtio: that boots fastest. No KVM is asked for.

    It ends with its parent, also when that is killed: left behind it would go on and on.
    """
    words = f"""
        setpriv --pdeathsig KILL
        qemu-system-x86_64 -M microvm,rtc=on,isa-serial=on,pcie=off,acpi=on -accel tcg,thread=single -cpu max -smp 1
        -m 256 -nodefaults -no-user-config -display none -no-reboot -global virtio-mmio.force-legacy=false
        -serial file:{console}
        -object rng-random,id=random,filename=/dev/urandom -device virtio-rng-device,rng=random
        -chardev socket,id=agent,fd={agent} -device virtio-serial-device -device virtserialport,chardev=agent
        -netdev tap,id=card,fd={card},vhost=off -device virtio-net-device,netdev=card
    """.split()
    return [*words, "-kernel", str(kernel), "-initrd", archive, "-append", COMMAND_LINE + _clock()]
