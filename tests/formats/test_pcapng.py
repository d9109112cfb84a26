"""Capture files: what is written is read again, by tshark too; what others write is read; what is broken is refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.packets import udp
from tests.each import each
from xfrmi.formats import pcapng

PACKET = udp("10.0.0.1", "10.0.0.2", b"hello")
OTHER = udp("fd00::1", "fd00::2", b"hello")
TSHARK = shutil.which("tshark")


def file() -> bytes:
    return b"".join(
        (
            pcapng.section("a test", "of all kinds of blocks"),
            pcapng.interface("outside", "an underlay"),
            pcapng.secrets(pcapng.SECRETS_ESP, b"odd"),
            pcapng.interface("inside"),
            pcapng.packet(1, 1_700_000_000_123_456_789, PACKET, pcapng.OUTBOUND),
            pcapng.packet(0, 1_700_000_001_000_000_001, OTHER, pcapng.INBOUND, ["dropped: ünknown", "and"]),
        )
    )


def test_read_again() -> None:
    assert list(pcapng.read_packets(file())) == [(1, "inside", PACKET), (2, "outside", OTHER)]


@pytest.mark.skipif(TSHARK is None, reason="TSHARK IS NOT INSTALLED, NOT TESTED")
def test_read_by_tshark(tmp_path: Path) -> None:
    path = tmp_path / "it.pcapng"
    path.write_bytes(file())
    assert TSHARK is not None
    env = {**os.environ, "WIRESHARK_CONFIG_DIR": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run([TSHARK, "-n", "-r", str(path), "-T", "json"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    frames = [entry["_source"]["layers"] for entry in json.loads(done.stdout)]
    assert [frame["frame"]["frame.interface_id_tree"]["frame.interface_name"] for frame in frames] == [
        "inside", "outside",
    ]  # fmt: skip
    assert frames[0]["frame"]["frame.time_epoch"] == "1700000000.123456789"
    assert "dropped: ünknown" in done.stdout


@each("order", ["<", ">"])
@each(
    ("linktype", "header"),
    [
        (101, b""), (228, b""), (1, bytes(12) + b"\x08\x00"), (1, bytes(12) + b"\x81\x00\0\1\x08\x00"),
        (113, bytes(14) + b"\x08\x00"), (276, b"\x08\x00" + bytes(18)),
    ],
)  # fmt: skip
def test_classic_pcap(order: str, linktype: int, header: bytes) -> None:
    frame = header + PACKET
    arp = bytes(12) + b"\x08\x06" + bytes(28) if linktype == 1 else b""
    frames = [frame, arp, frame] if arp else [frame, frame]
    data = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)
    data += b"".join(struct.pack(f"{order}IIII", 0, 0, len(one), len(one)) + one for one in frames)
    found = list(pcapng.read_packets(data))
    assert [one.data for one in found] == [PACKET, PACKET]
    assert found[-1].number == len(frames), "counted as Wireshark does"


@pytest.mark.parametrize("length", [0, 3, 20, 40])
def test_no_capture_file(length: int) -> None:
    with pytest.raises(ValueError, match="neither pcap nor pcapng"):
        list(pcapng.read_packets(b"src 10.0.0.1 dst 10.0.0.2 proto esp spi 1"[:length]))


def test_cut_off() -> None:
    whole = file()
    with pytest.raises(ValueError, match="impossible length"):
        list(pcapng.read_packets(whole[:-1]))
    classic = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101) + struct.pack("<IIII", 0, 0, 999, 999)
    with pytest.raises(ValueError, match="999 bytes"):
        list(pcapng.read_packets(classic))


@given(st.integers(0, len(file()) - 1), st.integers(0, 255), st.booleans())
def test_hostile(at: int, byte: int, cut: bool) -> None:
    data = bytearray(file())
    data[at] = byte
    try:
        list(pcapng.read_packets(bytes(data[:at] if cut else data)))
    except ValueError:
        return
