"""`xfrmi capture`: both sides of xfrm interfaces in one pcapng file, drops with their reasons, keys where asked for."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO

from xfrmi.cli.options import Options
from xfrmi.cli.private_file import create, create_directory
from xfrmi.client.packets import Lost, Record
from xfrmi.errors import XfrmError
from xfrmi.formats import pcapng
from xfrmi.formats.esp_sa import esp_sa_line, esp_sa_lines
from xfrmi.wire.link_types import POLICY_BASED

if TYPE_CHECKING:
    from xfrmi.client import Client

OUTER = "underlay"
"""The interface in the file that has the ESP packets."""

PREFERENCES = "esp.enable_encryption_decode: TRUE\nesp.enable_authentication_check: TRUE\n"

EPILOG = """\
Each xfrm interface is one interface in the file (its plaintext), `underlay` another one (the ESP packets). A packet
that died has a comment with the counter and the reason. With --keys the file has the keys in a secrets block, and
beside it is a folder FILE.wireshark with Wireshark's table of keys: FILES WITH KEYS OPEN EVERYTHING THEY HOLD.

  xfrmi capture -i ipsec0 -w ipsec0.pcapng --keys
  xfrmi capture -i xfrmi-policy -w all.pcapng      what meets policies without if_id, on any device
  WIRESHARK_CONFIG_DIR=ipsec0.pcapng.wireshark wireshark ipsec0.pcapng"""


def capture_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xfrmi capture",
        description="Record packets inside and outside, until Ctrl-C.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-i", "--interface", metavar="DEV", help="only this interface; all otherwise")
    parser.add_argument("-w", "--write", metavar="FILE", required=True, help="mode 0600")
    parser.add_argument("-c", "--count", type=int, help="end after so many packets")
    parser.add_argument("--dropped", action="store_true", help="only what dies")
    parser.add_argument("--keys", action="store_true", help="with the keys, so that it can be decrypted")
    return parser


def capture(options: Options, words: list[str]) -> int:
    """The words after `capture`."""
    given = capture_parser().parse_args(words)
    try:
        return _record(given)
    except XfrmError as error:
        print(f"xfrmi: {error.detail or error}", file=sys.stderr)
        return 1


def _record(given: argparse.Namespace) -> int:
    from xfrmi.client import Client

    signal.signal(signal.SIGTERM, _interrupt)
    with Client() as client, contextlib.ExitStack() as resources:
        packets = client.packets(given.interface, None, given.dropped)
        resources.callback(packets.close)
        file = resources.enter_context(create(given.write))
        writer = Writer(file, given.interface)
        keys = Keys(client, f"{given.write}.wireshark") if given.keys else None
        if keys is not None:
            print("xfrmi: KEYS ARE IN THESE FILES: whoever has them can read what they hold", file=sys.stderr)
            file.write(keys.block())
        print(f"xfrmi: capturing to {given.write} (Ctrl-C ends this)", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            for record in packets:
                if isinstance(record, Lost):
                    writer.lost += record.records
                    continue
                if keys is not None and keys.are_new(record):
                    file.write(keys.block())
                writer.add(record)
                file.flush()
                if given.count is not None and writer.packets >= given.count:
                    break
        lost = f", {writer.lost} lost: written too slowly" if writer.lost else ""
        print(f"xfrmi: {writer.packets} packets, {writer.dropped} of them dropped{lost}", file=sys.stderr)
        if keys is not None:
            print(keys.advice(given.write), file=sys.stderr)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Writer:
    """Records into a file. Interfaces are described when they first have a packet; the ESP side is number 0."""

    def __init__(self, file: BinaryIO, interface: str | None) -> None:
        self._file = file
        self._numbers: dict[str, int] = {OUTER: 0}
        self.packets = self.dropped = self.lost = 0
        file.write(pcapng.section("xfrmi capture"))
        file.write(pcapng.interface(OUTER, "ESP, as it leaves and arrives"))
        if interface is not None:
            self._number(interface)
        file.flush()

    def add(self, record: Record) -> None:
        when = round(record.time * 1e9)
        direction = pcapng.OUTBOUND if record.direction == "out" else pcapng.INBOUND
        comments = []
        if record.reason:
            self.dropped += 1
            comments = [f"dropped: {record.counter or 'no xfrm counter'}: {record.reason}"]
        inner, outer = (self._number(record.interface), record.inner), (0, record.outer)
        # In the order in which the packet was the one and the other.
        for number, data in (inner, outer) if record.direction == "out" else (outer, inner):
            if data:
                self._file.write(pcapng.packet(number, when, data, direction, comments))
        self.packets += 1

    def _number(self, name: str) -> int:
        number = self._numbers.get(name or OUTER)
        if number is None:
            number = self._numbers[name] = len(self._numbers)
            what = "policies without if_id" if name == POLICY_BASED else "xfrm interface"
            self._file.write(pcapng.interface(name, f"{what}: what is inside"))
        return number


class Keys:
    """The keys of the daemon's states: in a folder that Wireshark reads, and as blocks in the file."""

    def __init__(self, client: Client, folder: str) -> None:
        self._client = client
        self._folder = folder
        self._known: set[tuple[bytes, int]] = set()
        self._asked = 0.0
        self._table: dict[str, None] = {}
        self._fresh = ""
        self.strange = 0
        create_directory(folder)
        with create(os.path.join(folder, "preferences")) as file:
            file.write(PREFERENCES.encode())
        self._ask()

    def are_new(self, record: Record) -> bool:
        """Was a state added since? Asked for at most once a second."""
        key = _key_of(record.outer)
        if key is None or key in self._known or time.monotonic() - self._asked < 1:
            return False
        self._ask()
        return bool(self._fresh)

    def block(self) -> bytes:
        """What has come since the last time, for the capture file."""
        fresh, self._fresh = self._fresh, ""
        return pcapng.secrets(pcapng.SECRETS_ESP, fresh.encode()) if fresh else b""

    def advice(self, path: str) -> str:
        """How to open it."""
        text = f"xfrmi: to see it decrypted: WIRESHARK_CONFIG_DIR={self._folder} wireshark {path}"
        if self.strange:
            text += f"\nxfrmi: of {self.strange} states Wireshark does not know the algorithms: they stay encrypted"
        return text

    def _ask(self) -> None:
        self._asked = time.monotonic()
        states = list(self._client.states())
        self._known |= {(state.dst, state.spi) for state in states}
        lines = [esp_sa_line(state) for state in states]
        self.strange = lines.count(None)
        new = {
            line: state
            for line, state in zip(lines, states, strict=True)
            if line is not None and line not in self._table
        }
        self._table.update(dict.fromkeys(new))
        self._fresh, _ = esp_sa_lines(new.values(), whole=True)
        with create(os.path.join(self._folder, "esp_sa")) as file:
            file.write("".join(f"{line}\n" for line in self._table).encode())


def _key_of(outer: bytes) -> tuple[bytes, int] | None:
    from xfrmi.wire.ip import destination_of, split_outer

    try:
        header, esp = split_outer(outer)
    except ValueError:
        return None
    return destination_of(header), int.from_bytes(esp[:4], "big")
