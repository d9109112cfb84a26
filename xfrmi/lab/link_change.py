"""Telling a link to do something else while the lab is up: in the words of `xfrmi lab link`, or by name from Python."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from xfrmi.formats.tokens import suggestion
from xfrmi.lab.faults import Faults, parse_fault
from xfrmi.lab.link_setting import CHANGE, NOW, WANTED, Setting, read_setting, write_setting
from xfrmi.lab.plan import LabError

CHANGE_SECONDS = 10.0
OFF, ON, CLEAR = "off", "on", "clear"
FAULTS = [one.name for one in fields(Faults)]
WORDS = [*FAULTS, OFF, ON, CLEAR]


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
