"""`xfrmi` from the command line to the printed line, against a real server: words, texts and exit codes of ip(8)."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.server import Server, runtime_directory, serving
from xfrmi.cli.commands import PROGRAMS, parser_of, subcommands
from xfrmi.cli.main import main, run_line
from xfrmi.cli.options import Options
from xfrmi.client import Client
from xfrmi.formats.grammar import split_line

KEY = "0x01080f161d242b323940474e555c636a71787f86"
STATE = (
    "src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x00003001 mode tunnel reqid 7 if_id 42 "
    f"aead 'rfc4106(gcm(aes))' {KEY} 128"
)
LISTED = f"""\
src 192.0.2.2 dst 192.0.2.1
	proto esp spi 0x00003001 reqid 7 mode tunnel
	replay-window 0 
	aead rfc4106(gcm(aes)) {KEY} 128
	anti-replay context: seq 0x0, oseq 0x0, bitmap 0x00000000
	if_id 0x2a
	sel src 0.0.0.0/0 dst 0.0.0.0/0 
"""  # noqa: W291  as ip prints it
TEMPLATE = "tmpl src 192.0.2.2 dst 192.0.2.1 proto esp mode tunnel reqid 7"
POLICY = f"src 0.0.0.0/0 dst 0.0.0.0/0 dir out if_id 42 {TEMPLATE}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


class Shell:
    """`shell("state list")` -> (exit status, stdout, stderr)."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, line: str, stdin: str = "") -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        status = main(split_line(line))
        out, err = self._capsys.readouterr()
        return status, out, err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch)


DONE = (0, "", "")


# States and policies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["state", "xfrm state", "x s", "s", "sa"])
def test_add_list_delete_as_people_type_it(server: Server, shell: Shell, form: str) -> None:
    """Abbreviations as in ip, and `xfrm` may stay where a pasted line has it."""
    assert shell(f"{form} add {STATE}") == DONE
    for verb in ("", " list", " ls", " show"):
        assert shell(form + verb) == (0, LISTED, "")
    assert shell(f"{form} get src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x3001") == (0, LISTED, "")
    assert shell(f"{form} del src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x3001") == DONE
    assert shell(form) == DONE


def test_refusals_read_as_ips_with_one_line_more(server: Server, shell: Shell) -> None:
    """The kernel's phrase if it has one, else what strerror says; then our sentence. Exit status 2."""
    shell(f"state add {STATE}")
    status, out, err = shell(f"state add {STATE}".replace("if_id 42", "if_id 43"))
    first, second = err.splitlines()
    assert (status, out, first) == (2, "", "RTNETLINK answers: File exists")
    assert second.startswith("xfrmi: ")
    assert "0x00003001" in second
    status, _, err = shell(f"state add {STATE}".replace("3001", "3002").replace("rfc4106(gcm(aes))", "nosuch"))
    assert (status, err.splitlines()[0]) == (2, "Error: Requested AEAD algorithm not found.")
    assert KEY[2:] not in err
    status, _, err = shell("state del src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x9998")
    assert (status, err.splitlines()[0]) == (2, "RTNETLINK answers: No such process")


def test_words_that_cannot_be_used(server: Server, shell: Shell) -> None:
    """255 for a wrong word, with its place; 1 for a line that lacks something."""
    status, _, err = shell("state add src 192.0.2.2 dst 192.0.2.1 proto esp spi what")
    assert status == 255
    assert 'argument "what" is wrong' in err
    assert "Word 10" in err
    assert shell("nonsense")[0] == 255
    status, _, err = shell("state add", stdin="")
    assert (status, err.splitlines()[0]) == (1, "Not enough information: ID is required")


def test_delete_all_that_match(server: Server, shell: Shell) -> None:
    shell(f"state add {STATE}")
    shell(f"state add {STATE}".replace("3001", "3002").replace("reqid 7", "reqid 8"))
    assert shell("state deleteall reqid 8") == DONE
    assert shell("state")[1] == LISTED
    assert shell("state flush") == DONE
    assert shell("state count") == (0, "\t SAD count 0\n", "")
    assert shell("-s state count") == (0, "\t SAD count 0 (buckets count 8 Max 1048576)\n", "")


def test_alloc_spi(server: Server, shell: Shell) -> None:
    status, out, _ = shell("state allocspi src 192.0.2.1 dst 192.0.2.2 proto esp min 0x500 max 0x500")
    assert status == 0
    assert "spi 0x00000500" in out


def test_policies(server: Server, shell: Shell) -> None:
    assert shell(f"policy add {POLICY}") == DONE
    assert shell(f"policy add {POLICY}")[0] == 2
    listed = (
        "src 0.0.0.0/0 dst 0.0.0.0/0 \n\tdir out priority 0 ptype main \n"
        "\ttmpl src 192.0.2.2 dst 192.0.2.1\n\t\tproto esp reqid 7 mode tunnel\n\tif_id 0x2a\n"
    )
    assert shell("policy") == (0, listed, "")
    assert shell("-6 policy") == DONE
    assert shell("policy list dir in") == DONE
    assert shell("policy get dir out if_id 42 src 0.0.0.0/0 dst 0.0.0.0/0") == (0, listed, "")
    assert shell("policy count") == (0, "\t SPD IN  0 OUT 1 FWD 0\n", "")
    status, _, err = shell("policy del dir out if_id 43 src 0.0.0.0/0 dst 0.0.0.0/0")
    assert (status, err.splitlines()[0]) == (2, "RTNETLINK answers: No such file or directory")
    assert shell("policy deleteall") == DONE
    assert shell("policy setdefault in block") == DONE
    assert shell("policy getdefault") == (0, "Default policies:\n in:  block\n fwd: accept\n out: accept\n", "")
    assert shell("policy set hthresh4 24 24") == DONE


@pytest.mark.parametrize("form", ["state add -", "state add", "xfrm state add -"])
def test_a_listing_is_replayed(server: Server, shell: Shell, form: str) -> None:
    """`xfrmi state add < <(ip xfrm state)`: order kept, so that the newest stays the newest."""
    shell(f"state add {STATE}".replace("3001", "3000"))
    shell(f"state add {STATE}")
    listing = shell("state")[1]
    shell("state flush")
    assert shell(form, stdin=listing) == DONE
    assert shell("state")[1] == listing


def test_a_listing_of_policies_is_replayed(server: Server, shell: Shell) -> None:
    shell(f"policy add {POLICY}")
    shell(f"policy add {POLICY} priority 9".replace("0.0.0.0/0", "10.0.0.0/8"))
    listing = shell("policy")[1]
    shell("policy flush")
    assert shell("policy add -", stdin=listing) == DONE
    assert shell("policy")[1] == listing


def test_a_listing_that_cannot_be_read_is_refused_whole(server: Server, shell: Shell) -> None:
    hidden = LISTED + LISTED.replace(KEY, "<<Keys hidden>>").replace("3001", "3002")
    status, _, err = shell("state add -", stdin=hidden)
    assert status == 2
    assert "line 11" in err
    assert shell("state") == DONE


def test_json(server: Server, shell: Shell) -> None:
    shell(f"state add {STATE}")
    shell(f"policy add {POLICY}")
    (state,) = json.loads(shell("-j state")[1])
    assert (state["spi"], state["if_id"]) == ("0x00003001", "0x2a")
    (policy,) = json.loads(shell("--json -p policy list")[1])
    assert policy["dir"] == "out"
    assert json.loads(shell("-j state count")[1])["count"] == 1


def test_stat(server: Server, shell: Shell) -> None:
    server.engine.stats[3] = 12
    lines = shell("stat")[1].splitlines()
    assert lines[0] == "XfrmInError             \t0"
    assert lines[3] == "XfrmInNoStates          \t12"
    assert len(lines) == 32
    assert json.loads(shell("-j stat")[1])["XfrmInNoStates"] == 12


def then_stop(server: Server, *lines: str) -> threading.Thread:
    """When somebody listens, run these lines, then end the daemon."""

    def act() -> None:
        while not server.events._subscribers:
            time.sleep(0.01)
        with Client() as client:
            for line in lines:
                run_line(client, Options(), split_line(line))
        server.stop()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_monitor(server: Server, shell: Shell) -> None:
    """What happens, as `ip xfrm monitor` prints it; the end of the daemon is the end of the monitor."""
    actor = then_stop(server, f"state add {STATE}", f"policy add {POLICY}", "state flush", "policy flush")
    status, out, err = shell("monitor SA policy nokeys")
    actor.join()
    assert status == 2
    assert err == "xfrmi: the xfrmi daemon closed the connection\n"
    assert out.startswith(LISTED.replace(KEY, "<<Keys hidden>>"))
    assert out.endswith("\tif_id 0x2a\nFlushed state proto 0\nFlushed policy ptype main \n")


def test_monitor_as_json(server: Server, shell: Shell) -> None:
    """One object a line."""
    actor = then_stop(server, f"state add {STATE}", "state flush")
    out = shell("-j monitor")[1]
    actor.join()
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["new", "flushed"]


# Links ---------------------------------------------------------------------------------------------------------------


def test_links(server: Server, shell: Shell) -> None:
    assert shell("link add ipsec0 type xfrm dev lo if_id 0x2a") == DONE
    shown = shell("-d link show ipsec0")[1].replace(",M-DOWN", "").splitlines()  # should `lo` be down here
    assert shown[0] == "100: ipsec0@lo: <NOARP> mtu 1500 qdisc noop state DOWN mode DEFAULT group default qlen 1000"
    assert "xfrm if_id 0x2a" in shown[2]
    assert shell("link set ipsec0 up mtu 1400 multicast on") == DONE
    assert "<MULTICAST,NOARP,UP,LOWER_UP" in shell("link")[1]
    assert shell("link set dev ipsec0 name ipsec1 txqueuelen 10") == DONE
    (link,) = json.loads(shell("-j -d link show dev ipsec1")[1])
    assert (link["ifname"], link["mtu"], link["txqlen"]) == ("ipsec1", 1400, 10)
    assert link["linkinfo"]["info_data"]["if_id"] == "0x2a"
    assert shell("link show type xfrm up")[1].startswith("100: ipsec1")
    assert shell("link show type vti") == DONE
    assert shell("link delete ipsec1") == DONE
    assert shell("link") == DONE


@pytest.mark.parametrize(
    ("line", "status", "text"),
    [
        ("link add x0 type xfrm", 2, "Error: if_id must be non zero."),
        ("link add x0 type xfrm if_id 0", 255, 'Error: argument "0" is wrong: if_id value is invalid'),
        ("link add x0 type xfrm dev nosuch0 if_id 7", 255, 'Cannot find device "nosuch0"'),
        ("link add x1 type xfrm if_id 42", 2, "RTNETLINK answers: File exists"),
        ("link add ipsec0 type xfrm if_id 8", 2, "RTNETLINK answers: File exists"),
        ("link set ipsec0 type xfrm dev lo if_id 42", 2, "RTNETLINK answers: Invalid argument"),
        ("link add x0 type xfrm if_id 5 external", 1, "xfrmi: both 'external' and if_id/link cannot be specified"),
        ("link add x0 type vti", 2, "Error: Unknown device type."),
        ("link del nosuch0", 1, 'Cannot find device "nosuch0"'),
        ("link set nosuch0 up", 1, 'Cannot find device "nosuch0"'),
        ("link show nosuch0", 1, 'Device "nosuch0" does not exist.'),
        ("link set ipsec0 netns nosuch", 2, "RTNETLINK answers: No such file or directory"),
    ],
)
def test_links_refused(server: Server, shell: Shell, line: str, status: int, text: str) -> None:
    """As a kernel and iproute2 6.1 answered the same lines (1.1)."""
    shell("link add ipsec0 type xfrm if_id 42")
    found, out, err = shell(line)
    assert (found, out, err.splitlines()[0]) == (status, "", text)


# Batches, help, nobody there -----------------------------------------------------------------------------------------


def test_batch(server: Server, shell: Shell, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text(
        f"# comments and empty lines\n\nlink add ipsec0 type xfrm if_id 42\nxfrm state add {STATE}\n"
        f"policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out if_id 42 \\\n  {TEMPLATE}\n"
    )
    assert shell(f"-batch {lines}") == DONE
    assert shell("state")[1] == LISTED
    assert len(list(server.engine.policies())) == 1


def test_batch_stops_at_the_first_failure_unless_forced(server: Server, shell: Shell, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text(f"state add {STATE}\nstate add {STATE}\nstate flush\nwhat\nlink add x0 type xfrm if_id 3\n")
    status, _, err = shell(f"-b {lines}")
    assert status == 1
    assert err.splitlines()[-1] == f"Command failed {lines}:2"
    assert shell("state")[1] == LISTED
    status, _, err = shell(f"-force -b {lines}")
    assert status == 1
    assert [line for line in err.splitlines() if line.startswith("Command failed")] == [
        f"Command failed {lines}:{number}" for number in (1, 2, 4)
    ]
    assert shell("state") == DONE
    assert [interface.name for interface in server.engine.interfaces] == ["x0"]


def test_a_batch_that_ends_in_a_backslash(server: Server, shell: Shell, tmp_path: Path) -> None:
    """It is an error as with ip; a comment ends where its line does."""
    lines = tmp_path / "lines"
    first = "# not this one \\\nlink add x0 type xfrm if_id 3 # nor this \\\n"
    lines.write_text(f"{first}link add x1 type xfrm \\\n  if_id 4 \\\n")
    status, _, err = shell(f"-b {lines}")
    assert status == 1
    assert err.splitlines()[0].endswith("Missing continuation line") and err.endswith(f"Command failed {lines}:4\n")
    assert [interface.name for interface in server.engine.interfaces] == ["x0"]


def test_batch_from_a_file_that_is_not_there(server: Server, shell: Shell) -> None:
    status, _, err = shell("-b /nosuch/file")
    assert (status, err) == (1, 'Cannot open file "/nosuch/file" for reading: No such file or directory\n')


@pytest.mark.parametrize("line", ["state list", "link", "stat", "monitor", "policy flush"])
def test_nobody_there(shell: Shell, line: str) -> None:
    """One sentence that says what to do."""
    with runtime_directory():
        status, out, err = shell(line)
    assert (status, out) == (2, "")
    (sentence,) = err.splitlines()
    assert sentence.startswith("xfrmi: no xfrmi daemon serves")
    assert '"xfrmi daemon"' in sentence


@pytest.mark.parametrize("words", ["help", "-h", "--help", "help nosuch"])
def test_help(shell: Shell, words: str) -> None:
    status, out, _ = shell(words)
    assert status == 0
    assert out.startswith("Usage: xfrmi [ OPTIONS ] OBJECT")


def test_without_words_the_usage_goes_to_stderr(shell: Shell) -> None:
    status, out, err = shell("")
    assert (status, out) == (255, "")
    assert err.startswith("Usage: xfrmi")


@pytest.mark.parametrize("words", ["help state", "state help", "help policy", "help link", "help monitor"])
def test_help_on_an_object(server: Server, shell: Shell, words: str) -> None:
    status, out, err = shell(words)
    assert status in (0, 255)
    assert f"Usage: xfrmi {words.replace('help', '').strip()}" in out + err


@pytest.mark.parametrize(("thing", "verb"), [("state", "add"), ("policy", "add"), ("link", "add"), ("link", "set")])
def test_examples_work_as_printed(server: Server, shell: Shell, thing: str, verb: str) -> None:
    """Every `xfrmi` line of `xfrmi help THING VERB` is accepted."""
    if (thing, verb) == ("link", "set"):
        shell("link add ipsec0 type xfrm dev lo if_id 42")
    status, out, _ = shell(f"help {thing} {verb}")
    assert status == 0
    here = {"\\\n": " ", "$(openssl rand -hex 20)": KEY[2:], "dev eth0": "dev lo", "netns blue": f"netns {os.getpid()}"}
    for theirs, ours in here.items():
        out = out.replace(theirs, ours)
    lines = [line.strip() for line in out.splitlines() if line.startswith("    xfrmi ")]
    assert lines
    for line in lines:
        assert shell(line.removeprefix("xfrmi ")) == DONE, line


def test_version(shell: Shell) -> None:
    status, out, _ = shell("-V")
    assert status == 0
    assert out.startswith("xfrmi utility, xfrmi-")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_of_programs(program: str) -> None:
    """A percent sign in it means something to argparse; from Python 3.14 on, as soon as the parser is made."""
    parser = parser_of(program)
    assert parser.format_help().startswith(f"usage: xfrmi {program}")
    for name, made in subcommands(parser).items():
        assert f"xfrmi {program} {name}" in made.format_help()
