"""What a link does to packets, in the words of a lab file: delay = "20ms", loss = "1%", rate = "10mbit"."""

from __future__ import annotations

from dataclasses import dataclass, fields

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


@dataclass(frozen=True)
class Faults:
    """Each direction of a link does this by itself. Chances are of 0 to 1, per packet, and independent."""

    delay: float = 0.0
    """Seconds, one way."""
    jitter: float = 0.0
    """Seconds that the delay varies by, up and down, evenly; packets stay in order all the same."""
    loss: float = 0.0
    duplicate: float = 0.0
    """Arrives twice, the copy right behind."""
    reorder: float = 0.0
    """Arrives behind the next one."""
    corrupt: float = 0.0
    """One bit turned, behind the IP header: what is in there is then judged by whoever the packet is for."""
    rate: float = 0.0
    """Bits of frames per second; 0 is as fast as it goes."""
    blackhole: int = 0
    """IP packets longer than so many bytes vanish, and nobody is told; 0: none do."""
    seed: int = 0
    """Makes a run repeatable."""

    def __bool__(self) -> bool:
        """Whether there is anything that a plain cable does not do."""
        return any(getattr(self, field.name) for field in fields(self) if field.name != "seed")

    def describe(self) -> str:
        """'20ms, loss 1%', as short as a drawing needs it."""
        parts = [_short(self.delay, _SECONDS)] if self.delay else []
        parts += [f"±{_short(self.jitter, _SECONDS)}"] if self.jitter else []
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            if chance := getattr(self, name):
                parts.append(f"{name} {chance * 100:g}%")
        parts += [_short(self.rate, _BITS)] if self.rate else []
        parts += [f"blackhole {self.blackhole}"] if self.blackhole else []
        return ", ".join(parts)


def parse_fault(name: str, value: object) -> float | int:
    """One field of Faults as a lab file writes it. ValueError with what was expected."""
    if name in ("delay", "jitter"):
        return _quantity(value, _SECONDS, 'a time such as "20ms" or "0.5s"')
    if name == "rate":
        return _quantity(value, _BITS, 'a rate such as "10mbit" or "500kbit"')
    if name in ("blackhole", "seed"):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError("a number, without quotes")
        return value
    chance = _quantity(value, {"%": 0.01}, 'a share of packets such as "5%"')
    if chance > 1:
        raise ValueError('a share of packets from "0%" to "100%"')
    return chance


def _quantity(value: object, units: dict[str, float], expected: str) -> float:
    if not isinstance(value, str):
        raise ValueError(expected)
    for unit in sorted(units, key=len, reverse=True):
        if value.endswith(unit):
            number = value.removesuffix(unit).strip()
            if number.replace(".", "", 1).isdecimal() and number.isascii():
                return float(number) * units[unit]
    raise ValueError(expected)


def _short(value: float, units: dict[str, float]) -> str:
    fitting = [unit for unit, size in units.items() if size <= value * 1.0001] or list(units)[:1]
    unit = max(fitting, key=lambda unit: units[unit])
    return f"{value / units[unit]:g}{unit}"
