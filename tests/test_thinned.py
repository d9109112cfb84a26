"""What has fewer cases in `make test` is what `make properties` runs: every test that thins is marked."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.examples import SHARE, TAKEN, examples, some

TESTS = Path(__file__).parent


def thins(test: ast.FunctionDef) -> bool:
    """Does it ask for `some`, or for a range of examples? (Others are hypothesis's settings.)"""
    calls = [node for node in ast.walk(test) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    names = {call.func.id for call in calls}  # type: ignore[attr-defined]
    ranges = {ast.unparse(call) for call in calls if call.func.id == "range"}  # type: ignore[attr-defined]
    return "some" in names or any("examples(" in text for text in ranges)


def test_what_thins_is_marked() -> None:
    found = 0
    for path in TESTS.rglob("test_*.py"):
        if path == Path(__file__) or "tests.examples import" not in (text := path.read_text()):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and thins(node):
                found += 1
                marked = any(ast.unparse(decorator) == "thinned" for decorator in node.decorator_list)
                assert marked, f"{path}: {node.name} has fewer cases in make test, and make properties would not run it"
    assert found > 5


def test_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XFRMI_EXAMPLES", raising=False)
    assert some(range(10)) == [0, 2, 5, 7]
    assert len(some(range(1000))) == examples(1000) == SHARE * 1000
    for width in (8, 16):
        assert {at % width for at in some(range(8 * 20))} == set(range(width)), "each bit of a field has its turn"
    assert len(TAKEN) == 2
    monkeypatch.setenv("XFRMI_EXAMPLES", "2")
    assert some(range(10)) == list(range(10))
    assert examples(10) == 20
