"""systemd.netdev files that describe xfrm interfaces: what systemd.netdev(5) says about Kind=xfrm, and no other kind.

    [NetDev]
    Name=ipsec0
    Kind=xfrm

    [Xfrm]
    InterfaceId=42
    Independent=yes

A text may hold several, each from its [NetDev] on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xfrmi.formats.numbers import parse_number
from xfrmi.formats.tokens import suggestion
from xfrmi.wire.link_types import MAX_NAME, is_device_name

_KEYS: Final = {
    "NetDev": ("Name", "Kind", "MTUBytes", "Description"),
    "Xfrm": ("InterfaceId", "Independent"),
}
_BOOLEANS: Final = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False,
                    "off": False}  # fmt: skip


class NetdevError(Exception):
    """`line` (from 1) of the text, and what is wrong there with what was expected."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


@dataclass(frozen=True)
class NetDev:
    """One interface."""

    name: str
    if_id: int
    independent: bool = False
    """Bound to no underlying device."""
    mtu: int | None = None
    line: int = 1
    """Where its [NetDev] stands."""


class _Draft:
    def __init__(self, line: int) -> None:
        self.line = line
        self.values: dict[str, tuple[str, int]] = {}
        """Key -> value and its line."""

    def finish(self) -> NetDev:
        name, at = self._value("Name", "the name of the interface, such as Name=ipsec0")
        if not is_device_name(name):
            raise NetdevError(at, f'Name={name} cannot name a device: 1 to {MAX_NAME} letters, without "/" and blanks')
        kind, at = self._value("Kind", "Kind=xfrm")
        if kind != "xfrm":
            raise NetdevError(at, f"Kind={kind}: only interfaces of Kind=xfrm are made here")
        text, at = self._value("InterfaceId", "a section [Xfrm] with InterfaceId=, a number from 1 to 0xffffffff")
        if_id = parse_number(text, 32)
        if not if_id:
            raise NetdevError(at, f"InterfaceId={text}: a number from 1 to 0xffffffff was expected, decimal or 0x")
        text, at = self.values.get("Independent", ("no", 0))
        independent = _BOOLEANS.get(text.lower())
        if independent is None:
            raise NetdevError(at, f"Independent={text}: yes or no was expected")
        return NetDev(name, if_id, independent, self._mtu(), self.line)

    def _mtu(self) -> int | None:
        if "MTUBytes" not in self.values:
            return None
        text, at = self.values["MTUBytes"]
        mtu = parse_number(text, 16)
        if not mtu:
            raise NetdevError(at, f"MTUBytes={text}: a number of bytes was expected, such as 1400")
        return mtu

    def _value(self, key: str, expected: str) -> tuple[str, int]:
        if key not in self.values:
            raise NetdevError(self.line, f"this interface lacks {expected}")
        return self.values[key]


def parse_netdevs(text: str) -> list[NetDev]:
    """The interfaces in the order they stand. Raises NetdevError."""
    drafts: list[_Draft] = []
    section = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            section = line.strip("[]")
            if section not in _KEYS or not line.endswith("]"):
                raise NetdevError(number, f"{line}: [NetDev] or [Xfrm] was expected")
            if section == "NetDev":
                drafts.append(_Draft(number))
            elif not drafts:
                raise NetdevError(number, "[Xfrm] comes after the [NetDev] it belongs to")
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not section or not equals:
            raise NetdevError(number, f'"{line}": a section such as [NetDev], or Key=value in one, was expected')
        if key not in _KEYS[section]:
            raise NetdevError(number, f"[{section}] has no {key}= here; {suggestion(key, _KEYS[section])}")
        drafts[-1].values[key] = value, number
    return [draft.finish() for draft in drafts]
