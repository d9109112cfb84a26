"""What a link does at the moment, and what it is to do.

    STEM.now       what it does: written by its process (`wire`) when it begins and after each change
    STEM.wanted    what it is to do: written by `link_change`, read by that process when it gets SIGUSR1

Only links that have a process can change: those with faults, and those that were made `changeable`. Each such process
imports this module, so it does without what reads lab files.
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path

from xfrmi.lab.faults import Faults

NOW, WANTED = ".now", ".wanted"
"""Behind the link's file name."""
CHANGE = signal.SIGUSR1


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


def setting_now(folder: Path, stem: str) -> Setting | None:
    """What the link with these files in a lab's folder does. None if it has no process, or that has not begun."""
    return read_setting(folder / f"{stem}{NOW}") if stem else None


def write_setting(path: Path, setting: Setting) -> None:
    """All of it or nothing: whoever reads meanwhile finds the old one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(asdict(setting)))
    new.rename(path)
