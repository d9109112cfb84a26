"""xfrmi: Linux xfrm interfaces (route-based IPsec ESP) in userspace."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`xfrmi.explain`, loaded when somebody asks for it: the command must start quickly."""
    if name == "explain":
        from xfrmi.teach import explain

        return explain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
