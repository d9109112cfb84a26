"""One packet through ESP, step by step, byte by byte: what happened to it, and why (docs/explain.md).

    >>> from xfrmi.teach import Tables, explain
    >>> tables = Tables.read("states.txt")
    >>> explanation = explain(packet, tables)      # in a notebook it shows itself
    >>> print(explanation.text())
    >>> print(explanation.flip(40))

Every step is the engine's own: packets go through an Engine made of the same tables, whose states are watched while it
works (watch.py), and why one policy or state was taken and others were not is asked of the functions that chose
(choices.py). No number, IV or window of a running daemon is touched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xfrmi.teach.explanation import Explanation as Explanation
    from xfrmi.teach.one_packet import explain as explain
    from xfrmi.teach.tables import Tables as Tables

__all__ = ["Explanation", "Tables", "explain"]


def __getattr__(name: str) -> Any:
    """Loaded when it is asked for: a line of `xfrmi trace` needs words of here, and no engine."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Explanation": "explanation", "Tables": "tables", "explain": "one_packet"}[name]
    return getattr(import_module(f"{__name__}.{module}"), name)
