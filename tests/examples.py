"""How many examples hypothesis tries: a share of them in `make test`, all of them and more in `make properties`.

    @settings(max_examples=examples(200))
"""

from __future__ import annotations

import os

SHARE = 0.4
"""Of what a test would like to have. Each run tries others, so what one run does not find another does; but for CI,
where hypothesis tries the same each time, and `make properties` all of them."""


def examples(count: int) -> int:
    """`count` times $XFRMI_EXAMPLES, and SHARE of it where that is not set."""
    return max(round(count * float(os.environ.get("XFRMI_EXAMPLES", SHARE))), 1)
