"""What a killed daemon leaves its successor to tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.daemon.messages import STATE
from xfrmi.core.events import StateAdded, StateDeleted, StateExpired, StatesFlushed, StateUpdated
from xfrmi.daemon import state_file
from xfrmi.daemon.state_file import NAME, StateFile
from xfrmi.wire import netlink
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_event_msg import StateExpiry, decode_state_expiry_notice
from xfrmi.wire.xfrm_types import Mark, StateInfo

IPPROTO_AH, ANY = 51, 255


class Listener:
    def __init__(self, groups: int = Group.EXPIRE.bit) -> None:
        self.groups = groups
        self.heard: list[StateExpiry] = []

    def put(self, datagram: bytes, group: Group) -> None:
        assert group is Group.EXPIRE
        for message in netlink.split(datagram):
            assert message.type == XfrmMsg.EXPIRE
            self.heard.append(decode_state_expiry_notice(message))

    @property
    def spis(self) -> list[int]:
        assert all(expiry.hard for expiry in self.heard)
        return [expiry.info.spi for expiry in self.heard]


def opened(folder: Path) -> StateFile:
    return StateFile(str(folder), lambda line: None)


def state(spi: int, **more: object) -> StateInfo:
    return replace(STATE, spi=spi, **more)  # type: ignore[arg-type]


def told(file: StateFile, listener: Listener | None = None) -> list[int]:
    listener = listener or Listener()
    file.tell(listener)
    return listener.spis


def test_states_that_were_there_are_told_once_they_are_listened_to(tmp_path: Path) -> None:
    file = opened(tmp_path)
    six = StateInfo("2001:db8::1", "2001:db8::2", 7, if_id=9, reqid=3, mode=1, mark=Mark(5, 0xFF))
    for info in (state(1), state(2), state(3), state(4), six):
        file.note(StateAdded(info))
    file.note(StateDeleted(state(2)))
    file.note(StateExpired(state(3), False))
    file.note(StateExpired(state(4), True))
    file.note(StateUpdated(state(1)))
    assert told(file) == [], "it is news of the daemon before only"
    after = opened(tmp_path)  # the first was killed
    assert told(after, Listener(Group.SA.bit)) == []
    listener = Listener()
    assert told(after, listener) == [1, 3, 7]
    info = listener.heard[2].info
    assert (info.src, info.dst, info.if_id, info.reqid, info.mode, info.mark) == (
        six.src, six.dst, 9, 3, 1, Mark(5, 0xFF),
    )  # fmt: skip
    assert told(after) == [1, 3, 7], "others are told, too"
    assert told(opened(tmp_path)) == [], "the next daemon has nothing to add"


def test_what_nobody_was_told_is_told_by_the_next_but_one(tmp_path: Path) -> None:
    opened(tmp_path).note(StateAdded(state(1)))
    opened(tmp_path).note(StateAdded(state(2)))
    last = opened(tmp_path)
    last.note(StateAdded(state(1)))
    assert told(last) == [2], "the first is there again"


@pytest.mark.parametrize(("proto", "left"), [(0, []), (ANY, []), (STATE.proto, [2]), (IPPROTO_AH, [1])])
def test_flushed_states_are_not_lost(tmp_path: Path, proto: int, left: list[int]) -> None:
    file = opened(tmp_path)
    file.note(StateAdded(state(1)))
    file.note(StateAdded(state(2, proto=IPPROTO_AH)))
    file.note(StatesFlushed(proto))
    assert told(opened(tmp_path)) == left


def test_old_news_is_no_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "GRACE", -1.0)
    opened(tmp_path).note(StateAdded(state(1)))
    assert told(opened(tmp_path)) == []


def test_records_are_used_again(tmp_path: Path) -> None:
    file = opened(tmp_path)
    for spi in range(1, 100):
        file.note(StateAdded(state(spi)))
        file.note(StateAdded(state(spi + 1000)))
        file.note(StateDeleted(state(spi)))
        file.note(StateDeleted(state(spi + 1000)))
    assert (tmp_path / NAME).stat().st_size == 2 * 64


def test_no_key_is_written(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.note(StateAdded(STATE))
    assert STATE.aead is not None and STATE.aead.key
    assert STATE.aead.key not in (tmp_path / NAME).read_bytes()
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 64, b"\x32\1\2\0" * 16, b"x" * 200, bytes(1000)])
def test_a_file_of_garbage(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / NAME).write_bytes(garbage)
    file = opened(tmp_path)
    told(file)
    file.note(StateAdded(state(1)))
    assert 1 in told(opened(tmp_path))


def test_an_orderly_end(tmp_path: Path) -> None:
    """Who stays must be told also then; without states, or without anybody, no file stays."""
    file = opened(tmp_path)
    file.note(StateAdded(state(1)))
    file.close(forget=False)
    assert told(opened(tmp_path)) == [1]
    file = opened(tmp_path)
    file.close(forget=False)
    assert not (tmp_path / NAME).exists()
    file = opened(tmp_path)
    file.note(StateAdded(state(1)))
    file.close(forget=True)
    assert not (tmp_path / NAME).exists()
