"""The whole grammar: which object a line is about, monitors, batch lines; and nonsense, which is only ever refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfrmi.formats import requests
from xfrmi.formats.grammar import MAX_LINE, parse, split_line
from xfrmi.formats.tokens import GrammarError
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, AF_UNSPEC


@pytest.mark.parametrize("line", ["state", "sa", "s", "st list", "xfrm state", "ip xfrm state", "ip x s l", "xfrmi s"])
def test_a_line_about_states(line: str) -> None:
    assert parse(line.split()) == requests.ListStates(requests.StateFilter())


@pytest.mark.parametrize("line", ["policy", "p", "ip xfrm p s", "ip x pol"])
def test_a_line_about_policies(line: str) -> None:
    assert parse(line.split()) == requests.ListPolicies(requests.PolicyFilter())


def test_a_line_about_links() -> None:
    assert parse(["ip", "l"]) == parse(["link", "show"]) == requests.ShowLinks()


@pytest.mark.parametrize(
    ("line", "monitor"),
    [
        ("", requests.Monitor((1, 2, 3, 4, 5, 6, 7, 8))),
        ("all", requests.Monitor((1, 2, 3, 4, 5, 6, 7, 8))),
        ("a", requests.Monitor((1, 2, 3, 4, 5, 6, 7, 8), all_nsid=True)),
        ("n", requests.Monitor((1, 2, 3, 4, 5, 6, 7, 8), nokeys=True)),
        ("acquire expire", requests.Monitor((1, 2))),
        ("SA policy nokeys", requests.Monitor((3, 4), nokeys=True)),
        ("ae r all", requests.Monitor((5, 6))),
    ],
)
def test_monitor(line: str, monitor: requests.Monitor) -> None:
    """7.5; the abbreviations are those of ip, where `a` is all-nsid."""
    assert parse(["monitor", *line.split()]) == monitor


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], 'Command line is not complete. Try option "help"'),
        (["ip", "xfrm"], 'Command line is not complete. Try option "help"'),
        (["route"], 'Object "route" is unknown, try "xfrmi help".'),
        (["state", "lits"], 'Command "lits" is unknown, try "xfrmi state help".'),
        (["monitor", "sa"], 'Argument "sa" is unknown, try "xfrmi monitor help".'),
        ([""], 'Object "" is unknown, try "xfrmi help".'),
    ],
)
def test_what_is_no_object(words: list[str], text: str) -> None:
    with pytest.raises(GrammarError) as refused:
        parse(words)
    assert (refused.value.text, refused.value.exit_code) == (text, 255)


def test_monitor_help() -> None:
    with pytest.raises(GrammarError, match=r"^Usage: xfrmi monitor \[ nokeys \]"):
        parse(["monitor", "help"])


def test_a_line_of_a_batch_file() -> None:
    line = "xfrm state add enc 'cbc(aes)' \"\"  # a comment"
    assert split_line(line) == ["xfrm", "state", "add", "enc", "cbc(aes)", ""]
    assert split_line("  # nothing") == []
    with pytest.raises(GrammarError, match="No closing quotation") as refused:
        split_line("state add 'open")
    assert refused.value.exit_code == 1


def test_a_line_has_an_end() -> None:
    """One word of a megabyte would keep shlex busy for a minute."""
    assert split_line("#" * MAX_LINE) == []
    with pytest.raises(GrammarError, match="too long"):
        split_line("x" * (MAX_LINE + 1))


WORDS = [
    "add", "update", "allocspi", "get", "delete", "deleteall", "list", "count", "flush", "set", "setdefault",
    "getdefault", "show", "help", "src", "dst", "proto", "spi", "mode", "tunnel", "reqid", "if_id", "mark", "mask",
    "output-mark", "replay-window", "replay-seq", "flag", "esn", "af-unspec", "noecn", "localok", "extra-flag", "sel",
    "limit", "byte-hard", "encap", "espinudp", "coa", "ctx", "offload", "dev", "none", "dir", "in", "out", "fwd",
    "aead", "auth", "auth-trunc", "enc", "comp", "deflate", "seq", "min", "max", "tmpl", "level", "use", "ptype",
    "main", "action", "block", "accept", "priority", "index", "hthresh4", "nosock", "nokeys", "sport", "dport", "type",
    "code", "key", "tcp", "icmp", "gre", "esp", "ah", "hao", "ro", "any", "default", "name", "mtu", "up", "down",
    "netns", "external", "xfrm", "link", "on", "off", "arp", "alias", "lo", "192.0.2.1", "10.0.0.0/8", "::1", "::/0",
    "0", "1", "42", "0x2a", "128", "4096", "-1", "4294967296", "0x00112233", "", "\0", "/", "0x", "\ud800", "\udc80",
]  # fmt: skip


@given(
    st.sampled_from(["state", "policy", "link", "monitor"]),
    st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=24),
    st.sampled_from([AF_UNSPEC, AF_INET, AF_INET6]),
)
def test_nonsense_is_refused_or_understood(name: str, words: list[str], family: int) -> None:
    line = [name, *words]
    try:
        request = parse(line, family=family, ifindex_of=lambda device: int(device == "lo"))
    except GrammarError as error:
        assert error.text
        assert error.exit_code in (1, 2, 255)
        assert 0 <= error.position <= len(line)
        assert error.hint
    else:
        assert isinstance(request, requests.Request)


@given(st.lists(st.sampled_from(WORDS), max_size=20))
def test_nonsense_after_a_whole_state(words: list[str]) -> None:
    start = ["state", "add", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", "1", "enc", "x", "y"]
    try:
        made = parse([*start, *words])
    except GrammarError as error:
        assert error.position >= len(start) or error.exit_code == 1
    else:
        assert isinstance(made, requests.AddState)
        assert made.info.crypt is not None
