"""The site: `make docs` builds it into build/site, with Sphinx. The sources are the pages as they lie in the tree.

The source directory is the root of the clone, so that every relative link means here what it means there.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

import xfrmi
from docs.manpage import markdown

project = "xfrmi"
author = "the xfrmi authors"
version = release = xfrmi.__version__
copyright = "the xfrmi authors, MIT licence"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/site/index"
include_patterns = ["README.md", "CHANGELOG.md", "SECURITY.md", "docs/**.md", "examples/**.md", "bench/README.md"]
exclude_patterns = [".*", "build", "dist", "tests", "docs/README.md", "**/__pycache__"]
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]  # for the options of the manual page
suppress_warnings = [
    "misc.highlighting_failure",  # hexadecimal and "..." in examples are no errors
    "ref.python",  # an annotation `bytes` is the type, whatever has a member of this name
]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_title = f"xfrmi {release}"
html_show_sourcelink = False
html_copy_source = False

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True}
maximum_signature_line_length = 88


def _as_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings here are plain text with `code` and indented blocks; Sphinx wants to be told which is which."""
    made: list[str] = []
    block = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ") and not line.lstrip().startswith(("-", "*"))
        if indented and not block and (number == 0 or not lines[number - 1].strip()):
            made += ["::", ""]
            block = True
        elif block and line.strip() and not indented:
            block = False
        if not block:
            parts = re.split(r"(`[^`]+`)", line)
            line = "".join(
                f"``{part.strip('`')}``" if at % 2 else re.sub(r"([*|\\]|_(?=\W|$))", r"\\\1", part)
                for at, part in enumerate(parts)
            )
        made.append(line)
    lines[:] = made


def _manual(app: Sphinx, page: str, source: list[str]) -> None:
    """man.md is only the place for it."""
    if page == "docs/site/man":
        source[0] = markdown()


def _entrance(app: Sphinx, exception: Exception | None) -> None:
    """Who opens the folder finds the first page."""
    if exception is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html"><title>xfrmi</title>\n'
        Path(app.outdir, "index.html").write_text(page)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", _as_rst)
    app.connect("source-read", _manual)
    app.connect("build-finished", _entrance)
