"""The pages: no link leads nowhere (or to a folder, which is no page of the site), the short lessons print what they
show, and the site leaves out no page."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.each import each
from tests.lessons import LESSONS, ROOT, differs, environment, run, steps

SITE = ROOT / "docs" / "site"
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s[^)]*)?\)")
HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
TREE = re.compile(r"^```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "bench").glob("*.md"), *(ROOT / "docs").rglob("*.md"),
                 *(ROOT / "examples").rglob("*.md")]
)  # fmt: skip
SHORT_LESSONS = sorted((ROOT / "docs" / "lessons").glob("*.md"))


def anchors(page: Path) -> set[str]:
    """As the forges and MyST make them of headings."""
    text = FENCE.sub("", page.read_text())
    plain = (re.sub(r"[`*]", "", LINK.sub(lambda link: link[0].split("]")[0].strip("!["), title))
             for title in HEADING.findall(text))  # fmt: skip
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def dead_links(page: Path) -> list[str]:
    dead = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue  # of the world outside, which a test without network cannot ask
        there = (page.parent / path).resolve() if path else page
        outside = path and not there.is_relative_to(ROOT)
        if not there.is_file() or outside or (anchor and anchor not in anchors(there)):
            dead.append(target)
    return dead


@each("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    assert not dead_links(page)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n[x](nowhere.md) [y](#a-b-c) [z](#d) ![p](no.png)\n```\n[code](not-a-link)\n```\n")
    assert dead_links(page) == ["nowhere.md", "#d", "no.png"]


@pytest.mark.parametrize("page", SHORT_LESSONS, ids=lambda page: page.name)
def test_short_lesson(page: Path, tmp_path: Path) -> None:
    lesson = steps(page)
    assert [step for step in lesson if step.shown], "a lesson shows something"
    for step in lesson:
        done = run(step, environment(tmp_path))
        wrong = differs(step, done.returncode, done.stdout)
        assert not wrong, f"{page.name}:{step.line}: $ {step.command}\n{wrong}"


def test_every_page_is_on_the_site() -> None:
    """docs/README.md is the list for those who read in the tree; the site has its navigation instead."""
    named = {
        Path(os.path.normpath(SITE / f"{line.split('<')[-1].rstrip('>')}.md"))
        for block in TREE.findall((SITE / "index.md").read_text())
        for line in block.splitlines()
    }
    assert named == {*PAGES} - {ROOT / "docs" / "README.md", SITE / "index.md"}


def test_pictures_are_made_by_the_script() -> None:
    """Each picture that a page shows is one that docs/pictures/make.sh makes."""
    script = (ROOT / "docs" / "pictures" / "make.sh").read_text()
    labs = " ".join(f"docs/pictures/lab-{folder.name}.svg" for folder in LESSONS)
    script = script.replace("docs/pictures/lab-$lab.svg", labs)
    shown = {Path(target).name for page in PAGES for target in LINK.findall(page.read_text()) if "pictures/" in target}
    assert shown
    assert not {name for name in shown if f"docs/pictures/{name}" not in script}


