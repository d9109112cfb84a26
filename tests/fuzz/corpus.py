"""The corpora: for each target a file of inputs that together reach all that has been reached, a line of hexadecimal
each, the shortest first. Text as text would be nicer to read, but much of it is none.

Each has reached something new when it was found (libFuzzer keeps no others, and makes them short). They are bounded, so
that the project can keep them and `make test` can try them all: the shortest are kept.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "corpora"
MAX_ENTRY = 1 << 11
"""Bytes of one input that is kept."""
MAX_BYTES = 24 << 10
"""Bytes of all inputs of a target that are kept: the longest are left out."""


def load(name: str) -> list[bytes]:
    """Empty for a target that has none yet."""
    try:
        text = (FOLDER / f"{name}.hex").read_text(encoding="ascii")
    except FileNotFoundError:
        return []
    return [bytes.fromhex(line) for line in text.splitlines()]


def save(name: str, entries: list[bytes]) -> int:
    """Write them, as far as there is room; the number written."""
    kept: list[bytes] = []
    room = MAX_BYTES
    for entry in sorted(set(entries), key=lambda entry: (len(entry), entry)):
        room -= len(entry)
        if room < 0 or len(entry) > MAX_ENTRY:
            break
        kept.append(entry)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.hex").write_text("".join(entry.hex() + "\n" for entry in kept), encoding="ascii")
    return len(kept)


def unpack(folder: Path, entries: list[bytes]) -> None:
    """A file for each, as libFuzzer wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, entry in enumerate(entries):
        (folder / f"kept-{number}").write_bytes(entry)
