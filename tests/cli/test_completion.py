"""What may come next, asked in Python and by the shells themselves."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.server import serving
from tests.each import each
from xfrmi.cli import main
from xfrmi.cli.commands import OBJECTS, PROGRAMS, parser_of
from xfrmi.cli.complete import COMMANDS, FILES, complete
from xfrmi.cli.completion import SCRIPTS
from xfrmi.cli.help import OVERVIEW
from xfrmi.cli.usage_words import clauses
from xfrmi.client import Client
from xfrmi.formats import grammar_link, grammar_policy, grammar_state
from xfrmi.wire.link_types import LinkInfo


def words(line: str) -> list[str]:
    """`line` ends where the cursor is: with a blank, or in the middle of a word."""
    return complete(line.split(" "))


def test_the_tables_have_what_main_runs() -> None:
    run = {
        node.value
        for node in ast.walk(ast.parse(Path(main.__file__).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isalpha()
    }
    in_help = set(re.findall(r"^ +xfrmi ([a-z]+)", OVERVIEW, re.MULTILINE))
    assert in_help == set(PROGRAMS)
    assert set(PROGRAMS) <= run
    for program in PROGRAMS:
        assert parser_of(program).prog == f"xfrmi {program}"
    assert f"OBJECT := {{ {' | '.join(OBJECTS)} }}" in OVERVIEW


@pytest.mark.parametrize(
    ("name", "grammar"), [("state", grammar_state), ("policy", grammar_policy), ("link", grammar_link)]
)
def test_verbs_are_those_of_the_grammar(name: str, grammar: object) -> None:
    verbs = {verb: parser for verb, parser in vars(grammar)["_VERBS"]}
    told = clauses(OBJECTS[name])
    assert set(told) <= set(verbs)
    assert {verbs[verb] for verb in told} == set(verbs.values()), "aliases apart, none is missing"


@each(
    ("line", "expected"),
    [
        ("st", ["stat", "state"]),
        ("state al", ["allocspi"]),
        ("state add mo", ["mode"]),
        ("state add proto esp mode t", ["transport", "tunnel"]),
        ("-s -n blue state add proto esp mode b", ["beet"]),
        ("s a encap espinudp 4500 4500 0.0.0.0 tf", ["tfcpad"]),
        ("state add aead mode ", []),
        ("xfrm policy list dir ", ["fwd", "in", "out"]),
        ("policy add limit byte-", ["byte-hard", "byte-soft"]),
        ("policy add tmpl lev", ["level"]),
        ("link add x type ", ["xfrm"]),
        ("monitor a", ["acquire", "aevent", "all", "all-nsid"]),
        ("lab gr", ["graph"]),
        ("lab graph --format m", ["mermaid"]),
        ("lab up ", [FILES]),
        ("lab link moon:eth0 lo", ["loss"]),
        ("lab link moon:eth0 loss 1% o", ["off", "on"]),
        ("lab exec moon -- ", [COMMANDS]),
        ("lab exec moon -- cat ", [FILES]),
        ("exec -- ", [COMMANDS]),
        ("explain -r ", [FILES]),
        ("explain --fl", ["--flip"]),
        ("trace ipsec0 --dr", ["--dropped"]),
        ("daemon --work", ["--workers"]),
        ("-b ", [FILES]),
        ("-ba ", [FILES]),
        ("-net blue stat", ["stat", "state"]),
        ("-js", ["-json"]),
        ("nothing of the kind ", []),
        ("help state al", ["allocspi"]),
        ("completion f", ["fish"]),
    ],
)
def test_what_comes_next(line: str, expected: list[str]) -> None:
    assert words(line) == expected


def test_names_of_this_moment() -> None:
    with serving():
        with Client() as client:
            client.add_link(LinkInfo(name="ipsec0", if_id=42))
        assert words("link show ip") == ["ipsec0"]
        assert words("trace ip") == ["ipsec0"]
        assert words("explain -i ") == ["ipsec0"]
        assert words("policy get if_id ") == ["0x2a"]
    assert words("link show ip") == [], "and without a daemon nothing is said"


def shell(name: str, script: str, tmp_path: Path) -> list[str]:
    if shutil.which(name) is None:
        pytest.skip(f"NO {name} HERE, ITS COMPLETION IS NOT TESTED")
    command = tmp_path / "xfrmi"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m xfrmi "$@"\n')
    command.chmod(0o755)
    (tmp_path / "script").write_text(SCRIPTS[name])
    (tmp_path / "a lab.toml").touch()
    root = Path(__file__).parents[2]
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(root), "HOME": str(tmp_path)}
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    done = subprocess.run([name, *flags, "-c", script], env=env, cwd=tmp_path, capture_output=True, text=True,
                          timeout=30, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


BASH = """
source script
complete -p xfrmi >/dev/null || exit
compopt() { echo compopt "$@"; }
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _xfrmi; printf '%s\\n' "${COMPREPLY[@]}"; }
"""


def test_bash(tmp_path: Path) -> None:
    assert shell("bash", BASH + "ask xfrmi state add mode t; ask xfrmi li", tmp_path) == ["transport", "tunnel", "link"]
    assert shell("bash", BASH + "ask xfrmi lab up ''", tmp_path)[0] == "compopt -o default"
    assert "printf" in shell("bash", BASH + "ask xfrmi exec -- printf", tmp_path)


def test_zsh(tmp_path: Path) -> None:
    stubs = "compdef() { }; compadd() { print -l -- ${(j: :)@} $found }; _files() { print files }; "
    ask = "source script; ask() { words=(\"$@\"); CURRENT=$#; _xfrmi }; "
    assert shell("zsh", stubs + ask + "ask xfrmi state add mode t", tmp_path) == ["-a found", "transport", "tunnel"]
    assert shell("zsh", stubs + ask + "ask xfrmi lab up ''", tmp_path) == ["files"]


def test_fish(tmp_path: Path) -> None:
    ask = "source script; complete -C "
    assert shell("fish", ask + "'xfrmi state add mode t'", tmp_path) == ["transport", "tunnel"]
    assert "lab.toml" in "".join(shell("fish", ask + "'xfrmi lab up '", tmp_path))
