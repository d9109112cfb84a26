"""Options in front of the object, as ip(8) reads them."""

from __future__ import annotations

import pytest

from tests.each import each
from xfrmi.cli.options import Options, read_options
from xfrmi.formats.tokens import USAGE, GrammarError
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6


@each(
    ("line", "options"),
    [
        ("", Options()),
        ("-4", Options(family=AF_INET)),
        ("-6", Options(family=AF_INET6)),
        ("-f inet6", Options(family=AF_INET6)),
        ("-family inet", Options(family=AF_INET)),
        ("-s", Options(stats=1)),
        ("-s -s", Options(stats=2)),
        ("-stat -stats -statistics", Options(stats=3)),
        ("-d", Options(details=True)),
        ("-details -o", Options(details=True, oneline=True)),
        ("-j", Options(json=True)),
        ("--json -p", Options(json=True, pretty=True)),
        ("-j -pretty", Options(json=True, pretty=True)),
        ("-n blue", Options(netns="blue")),
        ("--netns blue", Options(netns="blue")),
        ("-netns 17", Options(netns="17")),
        ("-b file", Options(batch="file")),
        ("-batch - -force", Options(batch="-", force=True)),
        ("-V", Options(version=True)),
        ("-Version", Options(version=True)),
        ("-h", Options(help=True)),
        ("-color=always", Options()),
    ],
)
def test_options(line: str, options: Options) -> None:
    words = [*line.split(), "state", "list", "-s"]
    assert read_options(words) == (options, ["state", "list", "-s"]), "what comes behind the object is not ours"


@pytest.mark.parametrize("line", ["-x", "--nosuch", "-family ax25", "-n", "-batch"])
def test_bad_options(line: str) -> None:
    with pytest.raises(GrammarError) as wrong:
        read_options(line.split())
    assert wrong.value.exit_code == USAGE
