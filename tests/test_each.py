"""`each`: no case is left out, and each that fails is told."""

from __future__ import annotations

import inspect

import pytest

from tests import each as module
from tests.each import TOLD, Failures, each


def test_every_case_is_tried_and_those_that_fail_are_told() -> None:
    tried: list[tuple[int, str]] = []

    @each("number", [1, 2, 3])
    @each(("word", "ends"), [pytest.param("one", "e", id="first"), pytest.param("two", "o", id="second")])
    def test(number: int, word: str, ends: str, fixture: str) -> None:
        assert fixture == "there"
        tried.append((number, word))
        assert (number, word) != (2, "one")
        assert word.endswith(ends)
        if (number, word) == (3, "two"):
            pytest.fail("three two")

    assert list(inspect.signature(test).parameters) == ["fixture"]
    with pytest.raises(Failures) as caught:
        test(fixture="there")
    assert tried == [(number, word) for number in (1, 2, 3) for word in ("one", "two")]
    assert caught.value.message == "2 failures: first-2, second-3"
    first, second = caught.value.exceptions
    assert "(2, 'one')" in str(first) and first.__notes__ == ["case: first", "case: 2"]
    assert str(second) == "three two" and second.__traceback__ is not None


def test_all_are_named_where_not_all_are_shown() -> None:
    @each("number", range(100), ids=lambda number: f"n{number}")
    def test(number: int) -> None:
        assert number < 0

    with pytest.raises(Failures) as caught:
        test()
    assert len(caught.value.exceptions) == TOLD
    assert caught.value.message == "100 failures: " + ", ".join(f"n{number}" for number in range(100))


def test_what_is_skipped_is_not_called_done() -> None:
    tried: list[int] = []

    @each("number", [1, 2, 3])
    def test(number: int) -> None:
        tried.append(number)
        if number == 2:
            pytest.skip("NO TWO HERE")

    with pytest.raises(pytest.skip.Exception, match="1 OF 3 CASES: 2: NO TWO HERE"):
        test()
    assert tried == [1, 2, 3]


def test_none_or_another_parameter_is_refused() -> None:
    with pytest.raises(AssertionError, match="without cases"):
        each("number", [])
    with pytest.raises(AssertionError, match="test has no number"):

        @each("number", [1])
        def test(word: str) -> None: ...


def test_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALONE", True)

    @each("number", [1, 2], ids=iter(["one", "two"]))
    def test(number: int) -> None: ...

    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    assert mark == pytest.mark.parametrize("number", [1, 2], ids=["one", "two"]).mark
