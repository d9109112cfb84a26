"""Labs that stay: up, used from other processes, down; and whatever goes wrong on the way, nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.lab.test_demo import stat_of, unusable
from tests.system.hosts import eventually
from xfrmi.lab.labfile import read_lab
from xfrmi.lab.plan import LabError, Plan
from xfrmi.lab.running import Running, up

LAB = """\
name = "trial"

[node.moon]
address.eth0 = "192.0.2.1/30"
netdev = '''
[NetDev]
Name=ipsec0
Kind=xfrm
[Xfrm]
InterfaceId=42
'''
xfrm = '''
state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1 mode tunnel if_id 42 \\
      aead 'rfc4106(gcm(aes))' 0x0123456789abcdef0123456789abcdef01234567 128
'''

[node.sun]
address.eth0 = "192.0.2.2/30"

[[link]]
endpoints = ["moon:eth0", "sun:eth0"]
delay = "5ms"
"""


class Place:
    """A runtime directory of its own, and the command."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "lab.toml"
        self.file.write_text(LAB)
        self.runtime = folder / "run"
        self.runtime.mkdir(0o700)
        self.env = {**os.environ, "XFRMI_RUNTIME_DIR": str(self.runtime)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "xfrmi", "lab", *words], env=self.env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def lab(self, *words: str) -> tuple[int, str, str]:
        done = forked.run(["lab", *words], self.env)
        return done.returncode, done.stdout, done.stderr

    def status(self) -> dict[str, Any]:
        (lab,) = json.loads(self.lab("status", "-j")[1])
        return dict(lab)

    def processes(self) -> list[int]:
        """Whose environment or command names the runtime directory."""
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                words = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if str(self.runtime).encode() in words and stat_of(pid):
                found.append(pid)
        return found

    def nothing_left(self) -> bool:
        eventually(lambda: not self.processes(), lambda: f"still running: {self.processes()}")
        return not self.labs()

    def labs(self) -> list[Path]:
        """Their folders, also those of labs that are no more."""
        labs = self.runtime / "labs"
        return list(labs.iterdir()) if labs.exists() else []


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if why := unusable():
        pytest.skip(f"NO LABS ON THIS MACHINE, NOT TESTED: {why}")
    with tempfile.TemporaryDirectory(prefix="xfrmi-", dir="/tmp") as name:  # not tmp_path: sockets do not fit below it
        place = Place(Path(name))
        monkeypatch.setenv("XFRMI_RUNTIME_DIR", str(place.runtime))
        yield place
        if place.labs():
            place.lab("down", "--all")


def test_up_exec_status_down(place: Place) -> None:
    status, out, err = place.lab("up", str(place.file))
    assert (status, err) == (0, "")
    assert out.startswith('lab "trial" is up (')
    assert place.lab("exec", "moon", "--", "sh", "-c", "echo $XFRMI_LAB_NODE; exit 7") == (7, "moon\n", "")
    assert "spi 0x00000001" in place.lab("exec", "--native", "moon", "--", sys.executable, "-m", "xfrmi", "state")[1]
    told = place.status()
    assert told["state"] == "up" and set(told["nodes"]) == {"moon", "sun"}
    assert all(program["runs"] for program in told["programs"].values())
    assert told["links"][0]["faults"] == "5ms"
    assert oct(os.stat(place.runtime / "labs/trial").st_mode & 0o777) == "0o700"
    assert place.lab("down") == (0, 'lab "trial" is down\n', "")
    assert place.nothing_left()
    assert place.lab("status") == (0, "no lab is up\n", "")


def test_wrong_words(place: Place) -> None:
    """Before there is a lab, and while there is one."""
    assert place.lab("exec", "moon", "--", "true")[2] == "xfrmi: no lab is up; bring one up: xfrmi lab up FILE\n"
    assert place.lab("down", "other")[2] == 'xfrmi: no lab "other" is up (up: none)\n'
    with up(read_lab(place.file)):
        again = place.lab("up", str(place.file))
        assert again[::2] == (1, 'xfrmi: a lab "trial" is up already; take it down with: xfrmi lab down trial\n')
        assert place.lab("exec", "mars", "--", "true")[::2] == (
            1, 'xfrmi: lab "trial" has no node "mars"; it has moon, sun\n',
        )  # fmt: skip
        assert place.lab("exec", "sun", "--", "no-such-program")[0] == 127
    assert place.nothing_left()


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("0x0123456789abcdef0123456789abcdef01234567 128", "0x0123 128", 13, "takes keys of 20, 28, 36 bytes"),
        ('"192.0.2.2/30"\n', '"192.0.2.2/30"\nroute = "default via 198.51.100.7"\n', 19, "route 0.0.0.0/0: "),
        ('"192.0.2.2/30"\n', '"192.0.2.2/30"\nrun = "true; false"\n', 19, "true; false: exit status 1"),
    ],
    ids=["the daemon", "the kernel", "a program"],
)
def test_what_is_refused_while_building(place: Place, old: str, new: str, line: int, said: str) -> None:
    """The line is named, and nothing is half-built."""
    assert old in LAB
    place.file.write_text(LAB.replace(old, new))
    status, out, err = place.lab("up", str(place.file))
    assert (status, out) == (1, "")
    assert err.startswith(f"xfrmi: {place.file}:{line}: "), err
    assert said in err
    assert place.nothing_left()


@pytest.mark.parametrize("delay", [0.3, 1.0])
def test_interrupted_while_building(place: Place, delay: float) -> None:
    begun = place.start("up", str(place.file))
    time.sleep(delay)
    begun.send_signal(signal.SIGINT)
    begun.communicate(timeout=30)
    if begun.returncode == 0:  # it was faster
        place.lab("down")
    assert place.nothing_left()


def test_who_brings_it_up_is_killed(place: Place) -> None:
    """The keeper either finishes or gives up; in neither case is there a lab that `down` cannot end."""
    begun = place.start("up", str(place.file))
    eventually(lambda: (place.runtime / "labs/trial/keeper.log").exists(), "it does not begin")
    begun.kill()
    begun.communicate()
    eventually(lambda: place.lab("down", "--all")[0] == 0 and not place.processes(), "it does not end", 20)
    assert place.nothing_left()


def test_the_keeper_is_killed(place: Place) -> None:
    """Daemons and links go with it; what somebody runs in a node goes with `down`, or with the next `up`."""
    for clean in (("down",), ("up", str(place.file))):
        lab = up(read_lab(place.file))
        program = lab.popen("sun", "sleep", "600")
        os.kill(lab.record.pid, signal.SIGKILL)
        eventually(lambda lab=lab: not any(map(stat_of, lab.record.programs.values())), "daemons live on")  # type: ignore[misc]
        assert "trial: down, its keeper has ended" in place.lab("status")[1]
        assert "clean up with: xfrmi lab down trial" in place.lab("exec", "sun", "--", "true")[2]
        with pytest.raises(LabError):
            Running(lab.folder)
        assert place.lab(*clean)[0] == 0
        assert program.wait(5) != 0
    assert place.lab("exec", "moon", "--", "true")[0] == 0, "the new one works"
    assert place.lab("down")[0] == 0
    assert place.nothing_left()


def test_too_deep_for_sockets(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XFRMI_RUNTIME_DIR", str(place.runtime / ("d" * 90)))
    with pytest.raises(LabError, match="too deep for control sockets"):
        up(read_lab(place.file))
    assert place.nothing_left()


def test_a_daemon_is_killed(place: Place) -> None:
    with up(read_lab(place.file)) as lab:
        os.kill(lab.record.programs["moon: xfrmi daemon"], signal.SIGKILL)
        eventually(lambda: "✗ moon: xfrmi daemon: has ended" in place.lab("status")[1], "nobody notices")
        assert "moon: xfrmi daemon ended with status -9" in (lab.folder / "keeper.log").read_text()
    assert place.nothing_left()


@pytest.mark.parametrize("node", ["moon", "sun"], ids=["under xfrmi exec", "plain"])
def test_down_from_inside(place: Place, node: str) -> None:
    """Also out of a shell that would go on: it ends with the lab."""
    up(read_lab(place.file))
    down = f"{sys.executable} -m xfrmi lab down; sleep 600"
    status, out, _ = place.lab("exec", node, "--", "sh", "-c", down)
    assert status != 0 and out.startswith('lab "trial" goes down, and with it whatever runs in it')
    assert place.nothing_left()


@pytest.mark.parametrize("again", [False, True], ids=["for good", "and another lab is there"])
def test_its_directory_is_taken_away(place: Place, again: bool) -> None:
    lab = up(read_lab(place.file))
    program = lab.popen("sun", "sleep", "600")
    shutil.rmtree(lab.folder)
    if again:
        with up(read_lab(place.file)) as other:
            eventually(lambda: not stat_of(lab.record.pid), "its keeper stays", 20)
            assert program.wait(5) != 0
            assert other.run("moon", "true").returncode == 0, "the other is as it was"
            assert all(program["runs"] for program in place.status()["programs"].values())
    assert place.nothing_left()


def test_a_keeper_that_ends_leaves_the_next_lab_alone(place: Place) -> None:
    """It has to wait for a program that does not listen; another lab of its name may be wanted meanwhile."""
    plan = Plan("trial")
    plan.node("moon")
    lab = up(plan)
    program = lab.popen("moon", "sh", "-c", "trap '' HUP; echo; while :; do sleep 1; done", stdout=subprocess.PIPE)
    assert program.stdout is not None and program.stdout.readline()
    os.kill(lab.record.pid, signal.SIGTERM)

    def is_up() -> bool:
        with suppress(LabError):
            up(plan)
            return True
        return False

    eventually(is_up, "no other lab can be brought up", 20)
    eventually(lambda: not stat_of(lab.record.pid), "its keeper stays", 20)
    Running(lab.folder).down()
    program.communicate()
    assert place.nothing_left()


def test_a_lab_of_another_version_is_a_lab(place: Place) -> None:
    """Whatever else its record says, and whatever of ours it does not: it is not taken for the rest of a crash."""
    with up(read_lab(place.file)) as lab:
        path = lab.folder / "lab.json"
        values = json.loads(path.read_text())
        values["colour"] = values["links"][0]["colour"] = values["nodes"]["moon"]["colour"] = "red"
        del values["programs"], values["links"][0]["counts"]
        path.write_text(json.dumps(values))
        assert "is up already" in place.lab("up", str(place.file))[2]
        assert place.status()["state"] == "up"
    assert place.nothing_left()


def test_who_hides_in_a_node_is_found(place: Place) -> None:
    """By the network namespace, if not by the environment; also one that ignores SIGHUP."""
    with up(read_lab(place.file)) as lab:
        hidden = lab.popen("sun", "env", "-i", "sh", "-c", "trap '' HUP; sleep 600 & wait", native=True)
        time.sleep(0.3)
    assert hidden.wait(5) != 0
    assert place.nothing_left()
