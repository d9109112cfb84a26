"""`xfrmi trace`, `capture` and `explain -i` on real packets between two daemons: what they say is what was sent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat as modes
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.hosts import PORT, Hosts, Tunnel, at, eventually, tell
from tests.system.stage import on_stage
from xfrmi.client.packets import Lost, Packets, Record
from xfrmi.dev.router import KernelRouter
from xfrmi.lab.namespace import xfrmi_command
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import ping, tcp_transfer
from xfrmi.lab.wiretap import ETH_HEADER_LEN
from xfrmi.teach import Tables
from xfrmi.teach.one_packet import explain_record

TUNNEL = Tunnel("ipsec0", 42)
TSHARK = shutil.which("tshark")


class Listener:
    """Records of one host, read as they come."""

    def __init__(self, packets: Packets) -> None:
        self.records: list[Record] = []
        self.lost = 0
        self._packets = packets
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for record in self._packets:
                if isinstance(record, Lost):
                    self.lost += record.records
                else:
                    self.records.append(record)
        except Exception:  # closed
            return

    def of(self, direction: str) -> list[Record]:
        return [record for record in self.records if record.direction == direction]


@contextmanager
def listening(host: Node, **wanted: object) -> Iterator[Listener]:
    with at(host) as client:
        packets = client.packets(**wanted)  # type: ignore[arg-type]
    yield Listener(packets)
    packets._channel._connection.shutdown(socket.SHUT_RDWR)


def send_again(hosts: Hosts, frame: bytes) -> None:
    with hosts.router, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((PORT["sun"], 0))
        out.send(frame)


@on_stage
def test_records_are_what_passed(hosts: Hosts) -> None:
    """Both ends tell the same bytes, the cable had them, and explained they come out again as they were."""
    hosts.set_up(TUNNEL)
    hosts.clear()
    with listening(hosts.moon) as moon, listening(hosts.sun, interface="ipsec0", direction="in") as sun:
        for family in (4, 6):
            assert len(ping(hosts.moon, TUNNEL.address("sun", family), 3)) == 3
        eventually(lambda: len(moon.of("out")) >= 6 and len(sun.records) >= 6, "packets are missing")
    assert not sun.of("out")
    out, came = moon.of("out"), sun.of("in")
    assert [record.inner for record in came] == [record.inner for record in out]
    frames = [frame[ETH_HEADER_LEN:] for frame in hosts.esp()]
    for mine, theirs in zip(out, came, strict=True):
        assert mine.outer[-40:] == theirs.outer[-40:], "the TTL has changed on the way, and what the kernel fills in"
        assert any(frame.endswith(mine.outer[20:]) for frame in frames)
        assert not mine.reason and not theirs.reason
    with at(hosts.moon) as client:
        tables = Tables.of(client)
        for record in out:
            found = explain_record(record, tables, KernelRouter())
            assert found.sent == (record.outer,), found.text()
            assert not found.keys
            assert TUNNEL.keys["moon"] not in json.dumps(found.as_dict()) + found.html()
    with at(hosts.sun) as client:
        tables = Tables.of(client)
        for record in came:
            found = explain_record(record, tables, KernelRouter())
            assert found.delivered == (record.inner,), found.text()


@on_stage
def test_a_stream_of_super_packets(hosts: Hosts) -> None:
    """Segments are told one by one, with what they became; the stream arrives whole."""
    hosts.set_up(TUNNEL)
    with listening(hosts.moon, direction="out") as moon:
        done = tcp_transfer(hosts.moon, hosts.sun, TUNNEL.address("sun", 4), 1 << 20)
        assert done.intact
        eventually(lambda: sum(len(record.inner) for record in moon.records) > 1 << 20, "packets are missing")
    assert not moon.lost
    with at(hosts.moon) as client:
        tables = Tables.of(client)
    sent = [record for record in moon.records if not record.reason]
    for record in sent[:40]:
        assert explain_record(record, tables).sent == (record.outer,)


@on_stage
def test_drops_are_told_with_their_reasons(hosts: Hosts) -> None:
    hosts.set_up(TUNNEL)
    hosts.clear()
    with listening(hosts.sun, dropped=True) as sun, listening(hosts.moon, dropped=True) as moon:
        assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 1)) == 1
        frame = hosts.esp()[0]
        send_again(hosts, frame)
        touched = bytearray(frame)
        touched[-1] ^= 1
        touched[ETH_HEADER_LEN + 27] ^= 0x40  # a number that is new
        send_again(hosts, bytes(touched))
        unknown = bytearray(frame)
        unknown[ETH_HEADER_LEN + 23] ^= 0x80
        send_again(hosts, bytes(unknown))
        eventually(lambda: len(sun.records) >= 3, "drops are missing")
        tell(hosts.moon, "state flush")
        ping(hosts.moon, TUNNEL.address("sun", 4), 1, timeout=0.1)
        eventually(lambda: len(moon.records) >= 1, "a drop is missing")
    assert [(one.interface, one.counter, one.reason) for one in sun.records] == [
        ("ipsec0", "XfrmInStateSeqError", "replayed"),
        ("ipsec0", "XfrmInStateProtoError", "wrong ICV"),
        ("", "XfrmInNoStates", "no state with this destination and SPI"),
    ]
    assert (moon.records[0].direction, moon.records[0].counter) == ("out", "XfrmOutNoStates")
    with at(hosts.sun) as client:
        tables = Tables.of(client)
    for record in sun.records:
        found = explain_record(record, tables)
        assert (found.counter, found.reason) == (record.counter, record.reason)


@on_stage
def test_commands(hosts: Hosts) -> None:
    hosts.set_up(TUNNEL)
    trace = hosts.moon.start(xfrmi_command("trace", "ipsec0", "out", "-c", "2", "-v"), "trace.log")
    explain = hosts.moon.start(xfrmi_command("explain", "-i", "ipsec0", "out", "--flip", "60", "--json"), "explain.log")

    def both_done() -> bool:
        ping(hosts.moon, TUNNEL.address("sun", 4), 1)
        return trace.poll() is not None and explain.poll() is not None

    eventually(both_done, lambda: (hosts.moon.folder / "trace.log").read_text(), seconds=15)
    text = (hosts.moon.folder / "trace.log").read_text()
    assert trace.returncode == 0, text
    assert "ipsec0 out | icmp 10.0.42.1 > 10.0.42.2 type 8" in text
    assert "spi 0x2a01 seq" in text
    assert "keys are not shown" in text
    assert TUNNEL.keys["moon"] not in text
    found = json.loads((hosts.moon.folder / "explain.log").read_text())
    assert found["verdict"] == "sent"
    assert found["flipped"][0]["counters"] == {"XfrmInStateProtoError": 1, "rx_errors": 1, "rx_dropped": 1}
    wrong = hosts.moon.xfrmi("trace", "ipsec9")
    assert (wrong.returncode, wrong.stderr) == (1, 'xfrmi: there is no xfrm interface "ipsec9"\n')


@pytest.mark.parametrize("family", [4, 6])
@on_stage
def test_capture(hosts: Hosts, family: int) -> None:
    """tshark reads both sides and the comments, decrypts with the keys beside the file, and finds every ICV right."""
    if TSHARK is None:
        pytest.skip("TSHARK IS NOT INSTALLED, NOT TESTED")
    hosts.set_up(TUNNEL)
    hosts.clear()
    path = hosts.sun.folder / f"both{family}.pcapng"
    command = xfrmi_command("capture", "-i", "ipsec0", "-w", str(path), "--keys", "-c", "7")
    capture = hosts.sun.start(command, "capture.log")
    eventually(lambda: path.exists() and path.stat().st_size > 0, "nothing is captured")
    assert len(ping(hosts.moon, TUNNEL.address("sun", family), 3)) == 3
    frame = next(one for one in hosts.esp() if one[ETH_HEADER_LEN + 22 : ETH_HEADER_LEN + 24] == b"\x2a\x01")
    send_again(hosts, frame)
    assert capture.wait(10) == 0, (hosts.sun.folder / "capture.log").read_text()
    log = (hosts.sun.folder / "capture.log").read_text()
    assert "KEYS ARE IN THESE FILES" in log
    folder = Path(f"{path}.wireshark")
    assert {modes.S_IMODE(one.stat().st_mode) for one in (path, *folder.iterdir())} == {0o600}
    assert modes.S_IMODE(folder.stat().st_mode) == 0o700

    fields = ["frame.interface_name", "frame.comment", "_ws.col.Protocol", "esp.icv_good", "esp.sequence"]
    words = [word for name in fields for word in ("-e", name)]
    done = subprocess.run(
        [TSHARK, "-n", "-r", str(path), "-T", "fields", "-E", "separator=|", *words],
        capture_output=True, text=True, env={**os.environ, "WIRESHARK_CONFIG_DIR": str(folder), "LC_ALL": "C"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["underlay", "ipsec0", "ipsec0", "underlay"] * 3 + ["underlay"]
    icmp = "ICMP" if family == 4 else "ICMPv6"
    assert [row[2] for row in rows] == [icmp] * 13, "each is decrypted to the end"
    assert all(row[3] in ("1", "True") for row in rows if row[0] == "underlay")
    assert [row[1] for row in rows] == [""] * 12 + ["dropped: XfrmInStateSeqError: replayed"]

    told = hosts.sun.xfrmi("explain", "-r", str(path), "-p", "13", "in")
    assert "has been seen already" in told.stdout, told.stderr
    strange = hosts.sun.xfrmi("explain", "-r", str(path), "-p", "99", "in")
    assert (strange.returncode, strange.stderr) == (
        1, f"xfrmi: {path}: packet 99 is none of IP, or not there; the last one is 13\n",
    )  # fmt: skip
