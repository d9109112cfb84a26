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

from xfrmi.teach.explain import explain
from xfrmi.teach.explanation import Explanation
from xfrmi.teach.tables import Tables

__all__ = ["Explanation", "Tables", "explain"]
