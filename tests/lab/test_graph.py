"""Drawings of labs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.each import each
from tests.lessons import LESSONS, ROOT
from xfrmi.cli.labs import lab
from xfrmi.lab.colours import painted
from xfrmi.lab.faults import Faults
from xfrmi.lab.graph import DRAWINGS, dot, mermaid, text
from xfrmi.lab.labfile import read_lab
from xfrmi.lab.plan import Plan


def test_a_chain_is_drawn_in_a_row() -> None:
    drawing = text(read_lab(ROOT / "examples/01-two-hosts"), 100).splitlines()
    assert drawing[1].count("╭") == drawing[-2].count("╰") == 3
    assert "├─── 10ms ───┤" in drawing[2]
    assert drawing[-1] == "moon ipsec0 ┄┄┄ if_id 42 ┄┄┄ ipsec0 sun"
    boxes = drawing[1:-1]
    for at, corner in enumerate(boxes[0]):
        if corner in "╭╮":
            assert all(row[at] in "│├┤╭╮╰╯" for row in boxes), "straight sides"


def test_what_does_not_fit_is_listed() -> None:
    drawing = text(read_lab(ROOT / "examples/01-two-hosts"), 60)
    assert "├─ eth0 192.0.2.1/30 ──── internet eth0" in drawing
    assert "└─ eth1 198.51.100.2/30 ── 10ms ── sun eth0" in drawing


@each("drawing", DRAWINGS)
@each("folder", LESSONS, ids=lambda folder: folder.name)
def test_every_node_and_tunnel_is_in_every_drawing(folder: str, drawing: str) -> None:
    plan = read_lab(folder)
    drawn = DRAWINGS[drawing](plan)
    for node in plan.nodes.values():
        assert node.name in drawn
        for addresses in node.addresses.values():
            assert all(address.word in drawn for address in addresses)
    assert drawn.count("if_id ") >= 1


def test_a_pulled_cable() -> None:
    plan = read_lab(ROOT / "examples/01-two-hosts")
    plan.links[0] = replace(plan.links[0], pulled=True)
    for width, count in ((100, 1), (60, 2)):
        drawing = text(plan, width)
        assert drawing.count("╌ pulled ╌") == count and drawing.count("10ms") == count
    assert "---|pulled|" in mermaid(plan) and '[label="pulled"]' in dot(plan)


def test_colours_change_no_letter() -> None:
    """On a terminal, and in a picture."""
    plan = read_lab(ROOT / "examples/11-bgp")
    plan.links[0] = replace(plan.links[0], pulled=True, faults=Faults(loss=0.5))
    found = painted(text(plan, 100), plan.nodes)
    assert found.plain == text(plan, 100)
    styles = {found.plain[span.start : span.end].strip(): str(span.style) for span in found.spans}
    assert styles["hub"] == "bold green" and styles["╌╌ pulled ╌╌"] == "bold red"


@pytest.mark.parametrize("terminal", [True, False])
def test_where_a_person_is_looking(terminal: bool) -> None:
    command = [sys.executable, "-m", "xfrmi", "lab", "graph", str(ROOT / "examples/01-two-hosts")]
    env = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    ours, theirs = os.openpty() if terminal else os.pipe()
    with subprocess.Popen(command, stdout=theirs, env=env):
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # so a terminal says that nobody is left on the other side
            while piece := os.read(ours, 65536):
                said += piece
    os.close(ours)
    assert (b"\x1b[" in said) is terminal
    shown = re.sub(r"\x1b\[[\d;]*m|\r", "", said.decode())
    assert shown == text(read_lab(ROOT / "examples/01-two-hosts"), 100) + "\n"


def test_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "lab.svg"
    assert lab(["graph", str(ROOT / "examples/01-two-hosts"), "--svg", str(path)]) == 0
    picture = path.read_text()
    assert picture.startswith("<svg") and "moon" in picture
    assert "http://" not in picture.replace("http://www.w3.org", "")


def test_a_circle_and_a_lone_node() -> None:
    plan = Plan("odd")
    for name in ("a", "b", "c", "alone"):
        plan.node(name)
    for left, right in (("a:x", "b:y"), ("b:x", "c:y"), ("c:x", "a:y")):
        plan.link(left, right, loss="5%")
    drawn = text(plan, 200)
    assert "├─ x ── loss 5% ── b y" in drawn and "alone" in drawn
    assert mermaid(plan).count("---|loss 5%|") == 3
    assert dot(plan).count(" -- ") == 3
