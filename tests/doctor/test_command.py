"""`xfrmi doctor` as a user meets it: one line a check, what is lacking first, or JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.doctor.doctor import by_check
from tests.lacks import no_capabilities, run_after
from tests.netns import in_netns, sysctl
from xfrmi.cli.main import main
from xfrmi.doctor import examine

NAMES = {
    "python", "tun", "rights", "container", "kernel", "states", "policies", "rp_filter", "linkdown", "forwarding",
    "underlay", "firewall", "udp 4500", "place", "daemon", "exec",
}  # fmt: skip


def test_one_line_a_check_and_the_worst_first(tmp_path: Path) -> None:
    status, out, err = run_after(no_capabilities, tmp_path, "doctor")
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert all(re.match(r"[✗!✓] .{10} \S", line) for line in lines)
    assert {line[2:12].strip() for line in lines} == NAMES
    marks = "".join(line[0] for line in lines)
    assert re.fullmatch("✗+!*✓+", marks)
    assert lines[0].startswith("✗ rights     no CAP_NET_ADMIN and CAP_NET_RAW here")


def test_an_ordinary_user_gets_an_answer_to_everything(tmp_path: Path) -> None:
    """What the kernel tells only root is said to be unknown, with the line that finds out."""
    _, out, _ = run_after(no_capabilities, tmp_path, "doctor", "-j")
    checks = by_check(out)
    assert set(checks) == NAMES
    for name in ("states", "policies"):
        assert checks[name]["text"] == "the kernel does not tell (Operation not permitted)"
        assert checks[name]["cure"] == "sudo xfrmi doctor"


@in_netns
def test_warnings_alone_prevent_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sysctl("net.ipv4.conf.all.rp_filter", 1)
    status = main(["doctor"])
    out = capsys.readouterr().out
    assert "! rp_filter" in out
    assert status == int("✗" in out)


def test_json_in_either_place(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for words in (["-j", "doctor"], ["doctor", "-j"], ["-j", "-p", "doctor"]):
        main(words)
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] == told[2]
    assert all(set(entry) == {"check", "status", "text", "cure"} for entry in told[0])
    assert len(told[0]) == len(examine.CHECKS) == len(NAMES)


def test_words_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "who"]) == 255
    assert "takes no words" in capsys.readouterr().err
