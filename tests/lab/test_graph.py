"""Drawings of labs."""

from __future__ import annotations

import pytest

from tests.lessons import LESSONS, ROOT
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


@pytest.mark.parametrize("drawing", DRAWINGS)
@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_every_node_and_tunnel_is_in_every_drawing(folder: str, drawing: str) -> None:
    plan = read_lab(folder)
    drawn = DRAWINGS[drawing](plan)
    for node in plan.nodes.values():
        assert node.name in drawn
        for addresses in node.addresses.values():
            assert all(address.word in drawn for address in addresses)
    assert drawn.count("if_id ") >= 1


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
