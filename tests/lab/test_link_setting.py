"""Links that are changed while a lab is up: the words, what becomes of packets, and of the devices at the ends."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lab.test_one_way import frame, numbers
from tests.lab.test_up_down import LAB, Place, place
from tests.system.hosts import eventually
from xfrmi.lab.faults import Faults
from xfrmi.lab.labfile import read_lab
from xfrmi.lab.link_change import changed, words_to_change
from xfrmi.lab.link_setting import Setting, read_setting, write_setting
from xfrmi.lab.one_way import OneWay
from xfrmi.lab.plan import LabError, Plan
from xfrmi.lab.running import Running, up
from xfrmi.lab.status import as_json, describe

__all__ = ["place"]

SIOCGIFFLAGS, IFF_UP, IFF_RUNNING = 0x8913, 0x1, 0x40
SEND = f"""\
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    for number in range(20):
        one.sendto(bytes(100), ("192.0.2.2", 9))
    print(*struct.unpack("16xH", fcntl.ioctl(one, {SIOCGIFFLAGS}, b"eth0".ljust(18, bytes(1)))))
"""
"""Twenty datagrams, and then what the kernel says of the device."""


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ("loss 10% delay 20ms", Setting(Faults(loss=0.1, delay=0.02, rate=1e6))),
        ("off", Setting(Faults(loss=0.5, rate=1e6), on=False)),
        ("off on", Setting(Faults(loss=0.5, rate=1e6))),
        ("clear", Setting()),
        ("off clear", Setting()),
        ("clear blackhole 1400 seed 3", Setting(Faults(blackhole=1400, seed=3))),
        ("rate 0bit", Setting(Faults(loss=0.5))),
        ("", Setting(Faults(loss=0.5, rate=1e6))),
    ],
)
def test_words(words: str, setting: Setting) -> None:
    """What they do not name stays."""
    assert words_to_change(words.split(), Setting(Faults(loss=0.5, rate=1e6))) == setting


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("lss 10%", 'a link has no "lss"; did you mean "loss"?'),
        ("loss", "loss: its value was expected behind it"),
        ("loss 10", 'loss 10: a share of packets such as "5%" was expected'),
        ("delay 20ms off loss 101%", 'loss 101%: a share of packets from "0%" to "100%" was expected'),
        ("seed ten", "seed ten: a number"),
        ("mtu 1400", "ip link set DEVICE mtu N"),
    ],
)
def test_wrong_words(words: str, said: str) -> None:
    with pytest.raises(LabError) as caught:
        words_to_change(words.split(), Setting())
    assert said in str(caught.value)


def test_from_python() -> None:
    assert changed(Setting(), {"loss": "1%", "seed": 4}) == Setting(Faults(loss=0.01, seed=4))
    with pytest.raises(LabError, match='no "los"'):
        changed(Setting(), {"los": "1%"})


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "link.now"
    assert read_setting(path) is None
    write_setting(path, Setting(Faults(loss=0.1), on=False))
    assert read_setting(path) == Setting(Faults(loss=0.1), on=False)
    for bad in ("", "{}", "[]", '{"faults": {"lss": 1}, "on": true}'):
        path.write_text(bad)
        assert read_setting(path) is None


def test_what_is_under_way_arrives_in_order_and_no_later_than_what_leaves_now() -> None:
    way = OneWay(Faults(rate=8, delay=5), 1)
    for number in range(3):
        way.push(frame(number), 0.0)
    way.change(Faults(delay=0.5), 1, 1.0)
    way.push(frame(3), 1.0)
    assert way.pop(1.49) == []
    assert numbers(way.pop(1.5)) == [0, 1, 2, 3]
    way.change(Faults(loss=1.0), 1, 2.0)
    way.push(frame(4), 2.0)
    assert way.pop(9.0) == [] and way.counts.lost == 1


def test_a_pulled_cable_loses_what_is_in_it() -> None:
    way = OneWay(Faults(delay=1, reorder=1.0), 1)
    for number in range(3):
        way.push(frame(number), 0.0)
    way.forget()
    assert way.next_due is None and way.pop(99.0) == []


def test_another_seed_is_another_run_of_luck() -> None:
    def lost(seed: int) -> list[int]:
        way = OneWay(Faults(), 0)
        way.change(Faults(loss=0.5, seed=seed), seed, 0.0)
        for number in range(64):
            way.push(frame(number), 0.0)
        return numbers(way.pop(0.0))

    assert lost(1) == lost(1) != lost(2)


def sent(lab: Running) -> int:
    """Send twenty datagrams out of moon. The flags of its device."""
    done = lab.run("moon", sys.executable, "-c", SEND, native=True)
    assert done.returncode == 0 or "Network is unreachable" not in done.stderr, done.stderr
    return int(done.stdout)


def fares(lab: Running) -> dict[str, Any]:
    """The link, and moon's way beside it."""
    (link,) = json.loads(as_json([lab.folder]))[0]["links"]
    return {**link, "moon": (link["counts"] or {}).get("moon:eth0", {})}


def test_a_link_is_changed_while_the_lab_is_up(place: Place) -> None:
    """The command says what is in force; status and drawing say it too; packets fare accordingly."""
    with up(read_lab(place.file), str(place.file)) as lab:

        def comes_to(what: str, number: int) -> None:
            eventually(lambda: fares(lab)["moon"].get(what, 0) >= number, lambda: f"{what}: {fares(lab)}", 20)

        sent(lab)  # from now on it knows who has the address
        comes_to("carried", 20)
        changed_to = place.lab("link", "moon:sun", "loss", "100%", "delay", "0ms")
        assert changed_to == (0, "moon:eth0 -- sun:eth0: loss 100%\n", "")
        sent(lab)
        comes_to("lost", 20)
        assert "  moon:eth0 ── sun:eth0: loss 100%\n" in describe(lab.folder)

        assert lab.change_link("sun:eth0", on=False) == Setting(Faults(loss=1.0), on=False)
        assert fares(lab)["on"] is False
        before = fares(lab)["moon"]
        # The kernel takes up to a second to say so.
        eventually(lambda: sent(lab) & (IFF_UP | IFF_RUNNING) == IFF_UP, "it still has a carrier, or is down", 20)
        assert place.lab("graph")[1].count("╌ pulled ╌") == 1
        assert ": pulled\n" in describe(lab.folder)
        assert fares(lab)["moon"]["carried"] == before["carried"], "nothing has passed"

        assert lab.change_link("sun:eth0", on=True, loss="0%") == Setting()
        eventually(lambda: sent(lab) & IFF_RUNNING, "it has no carrier", 20)
        sent(lab)  # of those before some may have met a device that did not know yet
        comes_to("carried", before["carried"] + 20)
        assert lab.plan().links[0].pulled is False and not lab.plan().links[0].faults
    assert place.nothing_left()


def test_plain_cables_and_dead_ones(place: Place) -> None:
    """A plain cable is refused with the way to have another; nobody else's process is ever signalled."""
    place.file.write_text(LAB.replace('delay = "5ms"\n', ""))
    with up(read_lab(place.file), "lab.toml") as lab:
        with pytest.raises(LabError, match=r"xfrmi lab up --changeable lab\.toml"):
            lab.change_link("moon:eth0", loss="1%")
        with pytest.raises(LabError, match='no link "moon:eth1": an end as'):
            lab.change_link("moon:eth1", loss="1%")
    assert place.lab("up", "--changeable", str(place.file))[0] == 0
    lab = Running(place.runtime / "labs/trial")
    assert place.lab("link", "moon:eth0") == (0, "moon:eth0 -- sun:eth0: a plain cable\n", "")
    lab.change_link("moon:eth0", loss="1%")
    os.kill(lab.record.programs["link moon:eth0 sun:eth0"], signal.SIGKILL)
    eventually(lambda: "link moon:eth0 sun:eth0: has ended" in describe(lab.folder), "it lives on")
    with pytest.raises(LabError, match="has ended; take the lab down"):
        lab.change_link("moon:eth0", on=False)
    lab.down()
    assert place.nothing_left()


def test_in_a_plan() -> None:
    plan = Plan("trial")
    plan.node("moon")
    plan.node("sun")
    assert plan.link("moon:eth0", "sun:eth0", changeable=True).changeable
    assert not plan.link("moon:eth1", "sun:eth1").changeable


def test_the_flags_are_those_of_a_device() -> None:
    """SEND reads them as the kernel lays them out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        (flags,) = struct.unpack("16xH", fcntl.ioctl(one, SIOCGIFFLAGS, b"lo".ljust(18, bytes(1))))
    assert flags & 0x8, "lo is a loopback device"
