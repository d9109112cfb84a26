"""The text captures of a real kernel once more, this time printed by the very `ip` that printed them, under exec.

What tests/captures leaves out as "ip's, not xfrmi's" (addresses and routes on the device) is run here, too. Devices
that are no xfrm devices are made with pyroute2: this kernel may have no dummies.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.captures.files import TEXT, Vector, vectors
from tests.captures.test_text import Said, alike, other_device
from tests.interpose.supervised import EXEC, daemon, need_exec
from tests.netns import in_netns

VERSION = "iproute2-6.1.0"
LEFT_OUT = {
    r"ip link set \w+ address .*": "a TUN has no link layer address: the same refusal in other words",
    r"for f in .*/sys/class/net/.*|ls /sys/.*|ls /proc/sys/.*|cat /proc/net/dev": "files of the TUN",
    r"sysctl .*|dmesg.*": "the kernel's own",
    r"cat /proc/net/xfrm_stat": "counters of all that went before; read in test_exec_xfrm",
}


class Shell:
    """One supervised shell that runs line after line."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*EXEC, "--", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={"TZ": "UTC", "LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **_runtime()},
        )  # fmt: skip

    def run(self, line: str) -> Said:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"( {line} ) 2>&1; echo \"<END $?>\"\n")
        self._process.stdin.flush()
        text = ""
        while not (end := re.search(r"<END (\d+)>\n$", text)):
            piece = self._process.stdout.readline()
            assert piece, f"the shell has ended: {text}"
            text += piece
        return Said(int(end[1]), text[: end.start()])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


def _runtime() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("XFRMI") or name == "PYTHONPATH"}


@in_netns
def test_every_line_prints_what_it_prints_on_a_kernel() -> None:
    need_exec()
    version = subprocess.run(["ip", "-V"], capture_output=True, text=True, check=True).stdout
    if VERSION not in version:
        pytest.skip(f"ip IS NOT {VERSION}, ITS PRINTING IS NOT COMPARED: {version.strip()}")
    differ = []
    compared = 0
    with daemon():
        for name in ("eth0", "eth1"):
            other_device(f"ip link add {name} type dummy")
            other_device(f"ip link set {name} up")
        shell = Shell()
        assert shell.run("ip link add xfrm0 type xfrm dev eth0 if_id 42; ip link set xfrm0 up") == Said(0, "")
        for vector in vectors(TEXT):
            for line, expected, said in replay(vector, shell):
                compared += 1
                if alike(nobodys_choice(said), line) != alike(nobodys_choice(expected), line):
                    differ.append(f"{vector.id}: {line}\n  here:     {said}\n  captured: {expected}")
            shell.run("ip xfrm state flush; ip xfrm policy flush")
        shell.close()
    assert compared > 100
    assert not differ, "\n".join(differ)


def nobodys_choice(said: Said) -> Said:
    """Without the index of a device and the random address it gives itself."""
    output = re.sub(r"^\d+: ", "N: ", said.output)
    return said._replace(output=re.sub(r"fe80::[0-9a-f:]+", "fe80::RANDOM", output))


def replay(vector: Vector, shell: Shell) -> Iterator[tuple[str, Said, Said]]:
    """(line, what was captured, what is said here) of all that is compared."""
    others = {"lo", "eth0", "eth1"}
    for step in vector.data["steps"]:
        line = step["command"]
        if made := re.fullmatch(r"ip link add (\w+) .*type (?!xfrm)\w+.*", line):
            others.add(made[1])
        if any(re.fullmatch(pattern, line, re.DOTALL) for pattern in LEFT_OUT):
            continue
        if re.match(r"ip link (add|set|del)\b", line) and "xfrm" not in line and set(line.split()) & others:
            other_device(line)
            continue
        yield line, Said(step["rc"], step["output"]), shell.run(line)


