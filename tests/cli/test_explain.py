"""`xfrmi explain` without a daemon and without privileges: what it prints, writes, and says of bad input."""

from __future__ import annotations

import json
import re
import stat
import struct
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest

from tests.core.packets import udp
from xfrmi.cli.main import main

KEY = "0123456789abcdef0123456789abcdef01234567"
STATES = f"""\
# both directions
ip link add ipsec0 type xfrm if_id 42
ip xfrm state add src 192.0.2.1 dst 198.51.100.1 proto esp spi 0x1001 reqid 1 mode tunnel flag af-unspec \\
    if_id 42 replay-window 32 aead 'rfc4106(gcm(aes))' 0x{KEY} 128
ip xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out if_id 42 \\
    tmpl src 192.0.2.1 dst 198.51.100.1 proto esp reqid 1 mode tunnel
"""
RECEIVER = STATES.replace("dir out", "dir in")
LISTED = f"""\
src 192.0.2.1 dst 198.51.100.1
\tproto esp spi 0x00001001 reqid 1 mode tunnel
\treplay-window 32 flag af-unspec
\taead rfc4106(gcm(aes)) 0x{KEY} 128
\tanti-replay context: seq 0x0, oseq 0x7, bitmap 0x00000000
\tsel src 0.0.0.0/0 dst 0.0.0.0/0\x20
\tif_id 0x2a
src 0.0.0.0/0 dst 0.0.0.0/0\x20
\tdir out priority 0 ptype main\x20
\ttmpl src 192.0.2.1 dst 198.51.100.1
\t\tproto esp reqid 1 mode tunnel
\tif_id 0x2a
"""
PACKET = udp("10.1.0.1", "10.2.0.1", b"hello")


@pytest.fixture
def states(tmp_path: Path) -> str:
    path = tmp_path / "states.txt"
    path.write_text(STATES)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["explain", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_text(states: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--config", states, PACKET.hex(":"), "--flip", "60", "--flip", "8:0x80")
    assert (status, err) == (0, "")
    assert "keys are not shown" in out
    assert "| A  SPI 0x00001001" in out
    assert "6f 01 01 04 o..." in out
    assert "byte 60 (inner payload (udp))" in out
    assert "XfrmInStateProtoError +1" in out
    assert "the header checksum is wrong" in out
    assert "\x1b" not in out, "no colours where nobody sees them"
    assert KEY[:8] not in out


def test_keys_only_when_asked_for(states: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--json",)):
        _, without, _ = run(capsys, "--config", states, PACKET.hex(), *words)
        _, with_keys, _ = run(capsys, "--config", states, PACKET.hex(), "--keys", *words)
        assert KEY not in without and KEY[32:] not in without
        assert KEY in with_keys
        assert "KEYS ARE VISIBLE HERE" in with_keys
    page = tmp_path / "page.html"
    run(capsys, "--config", states, PACKET.hex(), "--html", str(page))
    assert KEY not in page.read_text() and KEY[32:] not in page.read_text()
    run(capsys, "--config", states, PACKET.hex(), "--html", str(page), "--keys")
    assert "KEYS ARE VISIBLE HERE" in page.read_text()


def test_a_page_is_complete_in_itself_and_private(
    states: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    page.touch(0o644)
    status, out, err = run(capsys, "--config", states, PACKET.hex(), "--html", str(page))
    assert (status, out) == (0, "")
    assert "keys are not shown" in err
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    text = page.read_text()
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import", text)
    seen: list[str] = []

    class Reader(HTMLParser):
        open_tags: ClassVar[list[str]] = []

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            if tag != "meta":
                self.open_tags.append(tag)
            seen.extend(value or "" for name, value in attributes if name == "title")

        def handle_endtag(self, tag: str) -> None:
            assert self.open_tags.pop() == tag

    reader = Reader()
    reader.feed(text)
    assert reader.open_tags == []
    assert "byte 20: SPI: 0x00001001" in seen
    assert [title for title in seen if title.startswith("byte 87: ICV")]


def test_a_picture(states: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "it.svg"
    status, out, err = run(capsys, "--config", states, PACKET.hex(), "--svg", str(path))
    assert (status, out) == (0, "")
    assert "keys are not shown" in err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    picture = path.read_text()
    assert picture.startswith("<svg")
    assert "url(http" not in picture.replace('url("http', "url(http")
    assert "0x00001001" in picture.replace("&#160;", " ")


def test_json_and_the_other_end(states: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What one explains as sent, the other explains as received: out of a capture, too."""
    _, out, _ = run(capsys, "--config", states, "out", PACKET.hex(), "--json")
    found = json.loads(out)
    assert found["verdict"] == "would be sent"
    outer = bytes.fromhex(found["sent"][0])
    (flips,) = (one for one in found["flips"] if one["field"] == "ICV")
    assert flips["outcomes"] == ["dropped by ESP: wrong ICV, XfrmInStateProtoError rises"]
    layout = found["packets"][-1]
    assert bytes.fromhex(layout["bytes"]) == outer
    assert b"".join(bytes.fromhex(field["bytes"]) for field in layout["fields"]) == outer

    receiver = tmp_path / "receiver.txt"
    receiver.write_text(RECEIVER)
    capture = tmp_path / "it.pcap"
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    capture.write_bytes(header + struct.pack("<IIII", 0, 0, len(outer), len(outer)) + outer)
    for words in ((outer.hex(),), ("-r", str(capture)), ("-r", str(capture), "-p", "1", "in")):
        _, out, _ = run(capsys, "--config", str(receiver), *words, "--json")
        came = json.loads(out)
        assert came["direction"] == "in"
        assert came["delivered"] == [PACKET.hex()]


def test_a_listing_of_a_real_gateway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "listed.txt"
    path.write_text(LISTED)
    status, out, err = run(capsys, "--config", str(path), PACKET.hex(), "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["verdict"] == "would be sent"
    assert found["interface"] == "if_id 0x2a"
    (step,) = (one for one in found["steps"] if one["title"] == "Sequence number")
    assert step["facts"]["number"] == "8"


def test_a_listing_of_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ip -o` ends each in a backslash, which leads nowhere."""
    path = tmp_path / "listed.txt"
    state, policy = LISTED.split("src 0.0.0.0/0 dst 0.0.0.0/0 \n\tdir")
    records = (state, f"src 0.0.0.0/0 dst 0.0.0.0/0 \n\tdir{policy}")
    path.write_text("".join(record.replace("\n", "\\") + "\n" for record in records))
    status, out, err = run(capsys, "--config", str(path), PACKET.hex(), "--json")
    assert (status, err, json.loads(out)["verdict"]) == (0, "", "would be sent")


def test_a_command_that_goes_on_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "states.txt"
    path.write_text("# a comment does not go on \\\n\nstate add src 192.0.2.1 \\\n    dst 192.0.2.2 \\\n")
    status, _, err = run(capsys, "--config", str(path), PACKET.hex())
    assert status == 1
    assert f"{path}, line 3: Missing continuation line" in err


BAD: dict[str, tuple[list[str], str]] = {
    "odd": (["450"], "3 hexadecimal digits are no whole bytes: one is missing"),
    "not hexadecimal": (["45zz"], "'z' at digit 3 is no hexadecimal digit"),
    "empty": ([""], "there is no packet to explain: it has 0 bytes"),
    "no such byte": ([PACKET.hex(), "--flip", "88"], "the packet has bytes 0 to 87, and no byte 88"),
    "no byte at all": ([PACKET.hex(), "--flip", "last"], '--flip last: the number of a byte goes here'),
    "no such mask": ([PACKET.hex(), "--flip", "1:256"], "a mask has 1 to 255, not 256"),
    "no such device": ([PACKET.hex(), "-i", "ipsec9"], 'there is no xfrm interface "ipsec9"'),
    "no packet": ([], "which packet?"),
    "two packets": ([PACKET.hex(), "-r", "x.pcap"], "one packet at a time"),
    "no such file": (["-r", "/nowhere.pcap"], "cannot read /nowhere.pcap: No such file or directory"),
    "cannot be written": ([PACKET.hex(), "--html", "/nowhere/x.html"], "cannot write /nowhere/x.html"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, states: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, text = BAD[name]
    status, out, err = run(capsys, "--config", states, *words)
    assert (status, out) == (1, "")
    assert err.startswith("xfrmi: ")
    assert text in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# states\nip xfrm state frob\n", 'line 2: Command "frob" is unknown'),
        ("ip link add x type xfrm if_id 1\nip xfrm state flush\n", "line 2: only what adds"),
        ("\n\nhello there\n", 'line 3: a record begins with "src"'),
        ("src 1.2.3.4 dst 1.2.3.5\n\tproto esp spi\n", "line 2"),
        ("ip link add a type xfrm if_id 1\nip link add b type xfrm if_id 1\n", "belongs to"),
        ("", "there is no xfrm interface"),
    ],
)
def test_bad_tables(text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    status, out, err = run(capsys, "--config", str(path), PACKET.hex())
    assert (status, out) == (1, "")
    assert complaint in err
    assert "Traceback" not in err


def test_from_python(states: str) -> None:
    import xfrmi
    from xfrmi.teach import Tables

    found = xfrmi.explain(PACKET, Tables.read(states))
    assert "Out through ipsec0" in found._repr_html_()
    assert "Would be sent." in found.text()
    assert str(found.flip(60)).endswith("XfrmInStateProtoError rises")
