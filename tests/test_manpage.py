"""docs/xfrmi.8 has every command and every option, and nothing of yesterday."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from docs.manpage import FRONT, markdown, roff
from tests.lessons import ROOT
from xfrmi.cli import options
from xfrmi.cli.commands import OBJECTS, PROGRAMS, actions, parser_of, subcommands
from xfrmi.cli.usage_words import clauses

MANUAL = ROOT / "docs" / "xfrmi.8"


def text() -> str:
    """As it is read, more or less."""
    return MANUAL.read_text().replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")


def test_it_is_what_the_command_line_says_now() -> None:
    assert MANUAL.read_text() == roff(), "make man"


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_and_their_options(program: str) -> None:
    parsers = [parser_of(program)]
    parsers += subcommands(parsers[0]).values()
    for parser in parsers:
        _, _, section = text().partition(f'.SS "{parser.prog}"\n')
        section, _, _ = section.partition("\n.SS")
        assert section, parser.prog
        for action in actions(parser):
            for spelling in action.option_strings:
                if spelling not in ("-h", "--help"):
                    assert re.search(rf"^\.B .*{re.escape(spelling)}\b", section, re.MULTILINE), (parser.prog, spelling)


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_and_their_words(name: str) -> None:
    _, _, section = text().partition(f'.SS "xfrmi {name}"\n')
    section, _, _ = section.partition("\n.SS")
    words = set(re.findall(r"[\w-]+", section))
    for verb, clause in clauses(OBJECTS[name]).items():
        assert {*([verb] if verb else []), *clause.words} <= words


def test_options_in_front() -> None:
    told = {word for term in FRONT for word in re.findall(r"-[\w]+", term)}
    assert told == set(options.SPELLINGS)


def test_man_can_read_it() -> None:
    if shutil.which("man") is None:
        pytest.skip("NO man HERE, THE MANUAL PAGE IS NOT TESTED WITH IT")
    done = subprocess.run(["man", "-l", str(MANUAL)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--kernel-quirks" in re.sub(".\b", "", done.stdout).replace("\u2010", "-")


def test_the_site_has_the_same() -> None:
    assert markdown().count("```") == 2 * roff().count("\n.nf\n")
