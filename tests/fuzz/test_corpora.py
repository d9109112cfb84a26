"""Every input that the fuzzer has kept, and every seed, is tried again: they reach all that has ever been reached."""

from __future__ import annotations

from tests.each import each
from tests.fuzz import corpus
from tests.fuzz.registry import TARGETS, target


@each("name", TARGETS)
def test_nothing_is_found_again(name: str) -> None:
    chosen = target(name)
    one = chosen.make()
    for entry in (*chosen.seeds(), *corpus.load(name)):
        try:
            one(entry)
        except Exception as error:
            error.add_note(f"{name}: {entry.hex()}")
            raise


@each("name", TARGETS)
def test_a_corpus_is_bounded(name: str) -> None:
    entries = corpus.load(name)
    assert entries, "python -m tests.fuzz --keep makes it"
    assert sum(map(len, entries)) <= corpus.MAX_BYTES
    assert all(len(entry) <= corpus.MAX_ENTRY for entry in entries)
