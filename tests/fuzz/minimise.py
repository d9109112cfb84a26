"""`python -m tests.fuzz.minimise NAME`: the corpus of the project, of what it has and of what `make fuzz` has learned:
as few and as short inputs as reach everything that all of them reach. Started by tests.fuzz --keep.

What an input reaches is what libFuzzer counts: edges, and how often, as a power of two. (libFuzzer's own -merge starts
processes of its own, which a fuzzer that is a Python module is not made for.)
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import atheris  # type: ignore[import-not-found]

from tests.fuzz import corpus
from tests.fuzz.loaded import loaded

Feature = tuple[int, int]

hits: list[int] = []
atheris._trace_branch = hits.append  # what instrumented code calls at each edge, with its number

chosen, one = loaded(sys.argv[1], guided=True)


def main(name: str, learned: Path) -> None:
    seeds, known = chosen.seeds(), {*corpus.load(name), *(path.read_bytes() for path in learned.glob("*"))}
    known = {entry for entry in known if len(entry) <= corpus.MAX_ENTRY}
    often = Counter(feature for seed in seeds for feature in features(seed))  # they are tried anyway
    kept: dict[bytes, set[Feature]] = {}
    for entry in sorted(known.difference(seeds), key=len):
        reached = features(entry)
        if any(feature not in often for feature in reached):
            kept[entry] = reached
            often.update(reached)
    for entry in reversed(list(kept)):  # what the longer ones reach as well
        if all(often[feature] > 1 for feature in kept[entry]):
            often.subtract(kept.pop(entry))
    print(f"{name}: {corpus.save(name, list(kept))} inputs of {len(known)}")


def features(entry: bytes) -> set[Feature]:
    hits.clear()
    one(entry)
    return {(edge, count.bit_length()) for edge, count in Counter(hits).items()}


if __name__ == "__main__":
    main(sys.argv[1], Path("build/fuzz") / sys.argv[1] / "corpus")
