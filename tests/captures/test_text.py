"""Text captures: the same command lines, given to `xfrmi` with a daemon of its own, print the same and exit the same.

What begins with `ip xfrm` and what is about an xfrm device goes to xfrmi; other devices are made with ip(8) itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.captures.files import TEXT, Vector, vectors
from tests.captures.listed import not_xfrmis
from tests.captures.machine import without_dates
from tests.each import each
from tests.iproute import ip
from tests.netns import in_netns, need_tun
from xfrmi.cli.main import main
from xfrmi.formats.grammar import split_line
from xfrmi.formats.listing import parse_stat
from xfrmi.formats.print_link import print_link
from xfrmi.formats.print_stat import print_stat
from xfrmi.formats.show import Show
from xfrmi.wire.link_types import LinkInfo, LinkStats

VECTORS = list(vectors(TEXT))
RECEIVED = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "rx_missed_errors", "multicast")
SENT = ("tx_bytes", "tx_packets", "tx_errors", "tx_dropped", "tx_carrier_errors", "collisions")
"""The columns of `ip -s link`."""
DATED = ' | sed "s/add .*/add DATE/"'
ROW = re.compile(r"(?m)^ {4}(?:RX|TX)(?: errors)?:[^\n]*\n([ \d]+)")


class Said(NamedTuple):
    rc: int
    output: str


@in_netns
def test_every_line_prints_what_ip_prints() -> None:
    need_tun()
    differ = []
    with a_daemon():
        for name in ("eth0", "eth1"):
            other_device(f"ip link add {name} type dummy")
            other_device(f"ip link set {name} up")
        assert run("ip link add xfrm0 type xfrm dev eth0 if_id 42").rc == 0
        assert run("ip link set xfrm0 up").rc == 0
        for vector in VECTORS:
            differ += [f"{vector.id}: {said}" for said in replay(vector)]
            run("ip xfrm state flush")
            run("ip xfrm policy flush")
    assert not differ, "\n".join(differ)


@contextlib.contextmanager
def a_daemon() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="xfrmi-") as base:
        os.environ["XFRMI_RUNTIME_DIR"] = base
        daemon = subprocess.Popen([sys.executable, "-m", "xfrmi", "daemon", "--remove-on-exit"], stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 20
            while run("ip xfrm state count").rc:
                assert daemon.poll() is None and time.monotonic() < deadline, daemon.communicate()[1].decode()
                time.sleep(0.05)
            yield
        finally:
            daemon.terminate()
            daemon.communicate()


def other_device(line: str) -> None:
    """One command about a device that is none of xfrmi's. One end of a cable does for a dummy."""
    if made := re.fullmatch(r"ip link add (\w+)(?: mtu (\d+))? type dummy", line):
        ip(f"link add {made[1]} type veth peer name {made[1]}x")
        if made[2]:
            ip(f"link set {made[1]} mtu {made[2]}")
    else:
        ip(line.removeprefix("ip "))


def run(line: str) -> Said:
    """One command line of ip, as xfrmi says it; the sentence that xfrmi adds to a refusal is left out."""
    out, err = io.StringIO(), io.StringIO()
    words = [word for word in split_line(line)[1:] if word != "xfrm" or "type" in line]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        rc = main(words)
    refusal = err.getvalue().splitlines(keepends=True)[:1]
    return Said(rc, out.getvalue() + "".join(refusal))


def replay(vector: Vector) -> Iterator[str]:
    """What came out different."""
    others = {"lo", "eth0", "eth1"}
    for step in vector.data["steps"]:
        expected = Said(step["rc"], step["output"])
        line = step["command"]
        if made := re.fullmatch(r"ip link add (\w+) .*type (?!xfrm)\w+.*", line):
            others.add(made[1])
        if line == "cat /proc/net/xfrm_stat":
            if print_stat(parse_stat(expected.output)) != expected.output:
                yield f"{line} is printed otherwise"
        elif not_xfrmis(line):
            continue
        elif re.match(r"ip link (add|set|del)\b", line) and "xfrm" not in line and set(line.split()) & others:
            other_device(line)
        else:
            parts = line.removesuffix(DATED).split("; ")
            said = [run(part) for part in parts]
            ours = Said(said[-1].rc, "".join(output for _, output in said))
            if line.endswith(DATED):
                ours = ours._replace(output=re.sub("add .*", "add DATE", ours.output))
            if alike(ours, line) != alike(expected, line):
                yield f"{line}\n  xfrmi: {ours}\n  ip:    {expected}"


def alike(said: Said, line: str) -> Any:
    """Without what is the kernel's choice: dates, and the index of a device; counters of all that went before."""
    output = said.output
    if line.startswith("ip -d -j"):
        shown = json.loads(output)
        for link in shown:
            link["ifindex"] = 0
        return said.rc, json.dumps(shown, separators=(",", ":"))
    if "link show" in line:
        output = re.sub(r"^\d+: ", "N: ", output)
        output = ROW.sub(lambda row: re.sub(r"\d+", "N", re.sub(r" +", " ", row[0])), output)
    return said.rc, re.sub(r"index \d+", "index N", without_dates(output))


@each("vector", VECTORS, ids=lambda vector: vector.id)
def test_counters_stand_in_the_same_columns(vector: Vector) -> None:
    """`ip -s link show`: the numbers of the capture, printed."""
    for step in vector.data["steps"]:
        if not re.match(r"ip (-d )?-s link show", step["command"]):
            continue
        shown = [(row[0], [int(n) for n in row[1].split()]) for row in ROW.finditer(step["output"])]
        if not shown:
            continue
        (_, received), (_, transmitted) = shown
        stats = LinkStats(**dict(zip(RECEIVED, received, strict=True)), **dict(zip(SENT, transmitted, strict=True)))
        printed = print_link(LinkInfo("xfrm0", 3, stats=stats), Show(stats=1, ifname=str))
        assert [row[0] for row in ROW.finditer(printed)] == [row for row, _ in shown]
