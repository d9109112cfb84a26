"""What a terminal would show, as a picture."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING

from xfrmi.cli.private_file import create

if TYPE_CHECKING:
    from rich.console import RenderableType


def write_svg(path: str, shown: RenderableType, width: int, title: str) -> None:
    """Mode 0600. Needs rich. Raises XfrmError."""
    from rich.console import Console

    console = Console(record=True, width=width, file=StringIO(), color_system="truecolor", force_terminal=True)
    console.print(shown, highlight=False)
    picture = console.export_svg(title=title)
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # nothing is loaded from elsewhere
    with create(path) as file:
        file.write(picture.encode())
