"""Many short cases as one test.

pytest and its workers spend five milliseconds of processor time on a test, for each worker that collects it again and
for what it reports; most cases with a table of algorithms or captures take less. Written as parametrize is:

    @each("fields", ALL.values(), ids=ALL)
    def test_there_and_back(fields: dict[str, Any]) -> None: ...

Every case is tried, whatever became of those before it, and each that fails is told with its id and its traceback. They
share the fixtures of the test. With XFRMI_EACH=1 each is a test of its own, as parametrize would have it: to run one
alone (`-k`, `--pdb`).
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

ALONE = bool(os.environ.get("XFRMI_EACH"))
TOLD = 10
"""Cases whose tracebacks are shown. Where more fail it is for the same reason."""

Test = Callable[..., None]


class Failures(ExceptionGroup[Exception]):
    """Of the cases of a test."""

    every: list[Exception]


def each(
    names: str | Sequence[str], cases: Iterable[Any], ids: Iterable[str] | Callable[[Any], object] | None = None
) -> Callable[[Test], Test]:
    """Decorator, with the arguments of pytest.mark.parametrize; several of them multiply."""
    cases = list(cases)
    if ALONE:
        return pytest.mark.parametrize(names, cases, ids=ids if callable(ids) or ids is None else list(ids))
    split = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    rows = [_row(case, len(split)) for case in cases]
    assert rows, "a test without cases cannot fail"
    named = map(_id, cases) if callable(ids) or ids is None else ids
    told = ids if callable(ids) else str
    labels = [label or "-".join(str(told(value)) for value in row) for label, row in zip(named, rows, strict=True)]

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def all_of_them(*args: Any, **kwargs: Any) -> None:
            failures: list[Exception] = []
            skipped: list[str] = []
            for label, row in zip(labels, rows, strict=True):
                try:
                    test(*args, **kwargs, **dict(zip(split, row, strict=True)))
                except Failures as several:  # of another `each`
                    failures += (_in_case(error, label) for error in several.every)
                except pytest.skip.Exception as skip:
                    skipped.append(f"{label}: {skip}")
                except pytest.fail.Exception as failure:
                    failures.append(_in_case(AssertionError(str(failure)).with_traceback(failure.__traceback__), label))
                except Exception as error:
                    failures.append(_in_case(error, label))
            if failures:
                names = ", ".join(_case(error) for error in failures)
                together = Failures(f"{len(failures)} failures: {names}", failures[:TOLD])
                together.every = failures
                raise together
            if skipped:
                pytest.skip(f"{len(skipped)} OF {len(rows)} CASES: {skipped[0]}")

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in split]
        assert len(left) + len(split) == len(signature.parameters), f"{test.__name__} has no {names}"
        all_of_them.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return all_of_them

    return decorate


PARAM = type(pytest.param())


def _row(case: Any, width: int) -> tuple[Any, ...]:
    if isinstance(case, PARAM):
        assert not case.marks, "a case that has marks is a test"
        return tuple(case.values)
    return (case,) if width == 1 else tuple(case)


def _id(case: Any) -> Any:
    return case.id if isinstance(case, PARAM) else None


def _in_case(error: Exception, label: str) -> Exception:
    error.add_note(f"case: {label}")
    return error


def _case(error: Exception) -> str:
    """With the id that pytest would have given it: the inner decorator's first."""
    return "-".join(note.removeprefix("case: ") for note in error.__notes__ if note.startswith("case: "))
