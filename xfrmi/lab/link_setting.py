"""What a link does at the moment, and telling it to do something else while the lab is up.

    STEM.now       what it does: written by its process (`wire`) when it begins and after each change
    STEM.wanted    what it is to do: written here, read by that process when it gets SIGUSR1

Only links that have a process can change: those with faults, and those that were made `changeable`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from xfrmi.formats.tokens import suggestion
from xfrmi.lab.faults import Faults, parse_fault
from xfrmi.lab.plan import LabError

NOW, WANTED = ".now", ".wanted"
"""Behind the link's file name."""
CHANGE = signal.SIGUSR1
CHANGE_SECONDS = 10.0
OFF, ON, CLEAR = "off", "on", "clear"
FAULTS = [one.name for one in fields(Faults)]
WORDS = [*FAULTS, OFF, ON, CLEAR]


@dataclass(frozen=True)
class Setting:
    faults: Faults = field(default_factory=Faults)
    on: bool = True
    """Or the cable is pulled: nothing passes, and the devices at its ends have no carrier."""

    def describe(self) -> str:
        """'pulled', '20ms, loss 1%', or '' for a cable that does nothing to packets."""
        return self.faults.describe() if self.on else "pulled"


def read_setting(path: Path) -> Setting | None:
    """None if there is none."""
    try:
        values = json.loads(path.read_text())
        return Setting(Faults(**values["faults"]), bool(values["on"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_setting(path: Path, setting: Setting) -> None:
    """All of it or nothing: whoever reads meanwhile finds the old one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(asdict(setting)))
    new.rename(path)


def words_to_change(words: Sequence[str], now: Setting) -> Setting:
    """What ["loss", "10%", "delay", "20ms"] makes of a setting; what it does not name stays. Raises LabError."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in (ON, OFF):
            now = replace(now, on=word == ON)
        elif word == CLEAR:
            now = Setting()
        elif word == "mtu":
            raise LabError('mtu is of the devices, not of the link: xfrmi lab exec NODE -- ip link set DEVICE mtu N')
        elif word not in FAULTS:
            raise LabError(f'a link has no "{word}"; {suggestion(word, WORDS)}')
        elif not rest:
            raise LabError(f"{word}: its value was expected behind it")
        else:
            now = changed(now, {word: rest.pop(0)})
    return now


def changed(now: Setting, values: Mapping[str, object]) -> Setting:
    """With these faults, each as a lab file has it; digits do for a number. Raises LabError."""
    for name, value in values.items():
        if name not in FAULTS:
            raise LabError(f'a link has no "{name}"; {suggestion(name, FAULTS)}')
        number = name in ("blackhole", "seed") and isinstance(value, str) and value.isdecimal() and value.isascii()
        try:
            said = parse_fault(name, int(str(value)) if number else value)
        except ValueError as error:
            raise LabError(f"{name} {value}: {error} was expected") from None
        now = replace(now, faults=replace(now.faults, **{name: said}))  # type: ignore[arg-type]
    return now


def change(stem: Path, pid: int, wanted: Setting) -> None:
    """Have the link's process do this; returns when it does. LabError if it does not."""
    write_setting(stem.with_name(stem.name + WANTED), wanted)
    deadline = time.monotonic() + CHANGE_SECONDS
    rung = False
    while (now := read_setting(stem.with_name(stem.name + NOW))) != wanted:
        if now is not None and not rung:  # it has begun, so it hears
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, CHANGE)
            rung = True
        if time.monotonic() > deadline:
            raise LabError(f"link {stem.name} does not answer within {CHANGE_SECONDS:g} seconds")
        time.sleep(0.01)
