"""One script of `ip` commands, run in a kernel with xfrm interfaces and under `xfrmi exec`: line by line the same.

What has to differ is made equal first (`nobodys_choice`); what differs for a reason is listed, with the reason
(DIFFERS), and a line that is listed and no longer differs fails, too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from tests.interpose.supervised import EXEC, need, need_exec
from tests.oracle.kernelpeer.machine import Machine
from tests.stage import on_stage

SCRIPT = Path(__file__).parent / "ip_script.sh"
GUEST_SECONDS = 300

LOCAL_KERNEL = "the kernel's own answer, which is a newer one here"
DIFFERS: dict[str, str] = {
    r"ip link set x1 link-netnsid 3": LOCAL_KERNEL,
    r"cat /proc/net/xfrm_stat": "two lines of newer kernels, which those have whose daemon this is",
    r"cat /sys/class/net/x0/.*": "files of the TUN",
    r"ip xfrm state add .* proto (ah|comp) .*": "xfrmi does ESP, and refuses the rest",
    r"ip xfrm state add .* ctx .*": "a label is kept and listed; a kernel without SELinux forgets it",
    r"sleep .*; cat mon": "an announcement of a link that says nothing new is not repeated",
}
"""Lines (patterns) and why they are not the same."""


CHOICES = (
    (r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", "MAC"),
    (r"fe80::[0-9a-f:]+", "fe80::RANDOM"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE"),
    (r"Terminated *\n", ""),  # the shell's, if it comes to it
)
"""What is another one at each run, and what is written instead."""


class Said(NamedTuple):
    rc: int
    output: str
    complaint: str


def steps() -> list[str]:
    return [line for line in SCRIPT.read_text().splitlines() if line and not line.startswith("#")]


def program() -> str:
    """The script, each step with its number and what became of it behind it."""
    lines = ["mkdir -p /run/netns"]
    for number, step in enumerate(steps()):
        lines.append(f"{{ {step}\n}} >out 2>err; echo \"<END {number} $?>\" >>err; cat out; echo '<ERR>'; cat err")
    return "\n".join(lines) + "\n"


def heard(text: str) -> list[Said]:
    found = re.findall(r"(.*?)<ERR>\n(.*?)<END (\d+) (\d+)>\n", text, re.DOTALL)
    assert [int(number) for _, _, number, _ in found] == list(range(len(steps()))), text[-2000:]
    return [Said(int(rc), output, complaint) for output, complaint, _, rc in found]


def in_kernel(machine: Machine) -> Future[Any]:
    script = "mkdir -p /tmp/w; cd /tmp/w; mount -t sysfs sys /sys\n" + program()
    environment = "export TZ=UTC LC_ALL=C\n"
    return machine.ask(0, "run", "unshare", "-n", "-m", "dash", text=environment + script)


def under_exec() -> list[Said]:
    with tempfile.TemporaryDirectory(prefix="xfrmi-") as base:
        script = "mkdir w; cd w; mount -t tmpfs run /run; mount -t sysfs sys /sys\n" + program()
        done = subprocess.run(
            ["unshare", "-n", "-m", *EXEC, "--", "dash"], input=script, capture_output=True, text=True,
            timeout=GUEST_SECONDS, cwd=base,
            env=os.environ | {"TZ": "UTC", "LC_ALL": "C", "XFRMI_RUNTIME_DIR": f"{base}/run"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not os.path.exists(f"{base}/run/exec.log"), Path(f"{base}/run/exec.log").read_text()
        return heard(done.stdout)


def nobodys_choice(said: Said) -> Said:
    """Without what is another one at each run: indices, random addresses, times."""

    def alike(text: str) -> str:
        for pattern, instead in CHOICES:
            text = re.sub(pattern, instead, text)
        return text

    return Said(said.rc, alike(said.output), alike(said.complaint))


@on_stage
def test_every_line_is_as_in_a_kernel(booted: Machine) -> None:
    need_exec()
    need("dash")
    signal.alarm(2 * GUEST_SECONDS)  # more than other tests have
    running = in_kernel(booted)
    found = under_exec()
    status, output, complaint = running.result(GUEST_SECONDS)
    assert status == 0, complaint
    expected = heard(output)
    if where := os.environ.get("XFRMI_KEEP"):
        for name, all_said in (("kernel", expected), ("exec", found)):
            with open(f"{where}/{name}", "w") as file:
                for step, said in zip(steps(), all_said, strict=True):
                    file.write(f"$ {step}\n{said.output}{said.complaint}= {said.rc}\n")
    differ, reasons = [], set()
    for step, there, here in zip(steps(), map(nobodys_choice, expected), map(nobodys_choice, found), strict=True):
        if here != there:
            reason = next((pattern for pattern in DIFFERS if re.fullmatch(pattern, step)), None)
            reasons.add(reason)
            if reason is None:
                differ.append(f"{step}\n  here:   {here}\n  kernel: {there}")
    assert not differ, f"{len(differ)} differ\n" + "\n".join(differ)
    assert reasons == set(DIFFERS), "these no longer differ"
