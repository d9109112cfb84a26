"""Routes as `ip route add` takes them: "default via 192.0.2.2", "10.2.0.0/16 dev ipsec0", "blackhole ::/0"."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

TYPES = ("unicast", "blackhole", "unreachable", "prohibit")


@dataclass(frozen=True)
class Route:
    destination: str
    via: str | None = None
    device: str | None = None
    source: str | None = None
    metric: int | None = None
    mtu: int | None = None
    kind: str = "unicast"

    @property
    def version(self) -> int:
        return ipaddress.ip_network(self.destination).version


def parse_route(text: str) -> Route:
    """ValueError with what was expected."""
    words = text.split()
    kind = words.pop(0) if words and words[0] in TYPES else "unicast"
    if not words:
        raise ValueError('a destination was expected, such as "default" or "10.2.0.0/16"')
    destination, *rest = words
    if len(rest) % 2:
        raise ValueError(f'"{rest[-1]}" has no value')
    values = dict(zip(rest[::2], rest[1::2], strict=True))
    if unknown := set(values) - {"via", "dev", "src", "metric", "mtu"}:
        raise ValueError(f'"{sorted(unknown)[0]}" is not known here: via, dev, src, metric or mtu was expected')
    via, device = values.get("via"), values.get("dev")
    if kind == "unicast" and via is None and device is None:
        raise ValueError('the way was expected: "via ADDRESS", "dev DEVICE", or both')
    for address in (via, values.get("src")):
        if address is not None:
            _valid(ipaddress.ip_address, address, "an address")
    if destination == "default":
        destination = "::/0" if via and ":" in via else "0.0.0.0/0"
    network = str(_valid(ipaddress.ip_network, destination, "a prefix whose host bits are 0"))
    return Route(network, via, device, values.get("src"), _number(values, "metric"), _number(values, "mtu"), kind)


def _valid(parse: object, text: str, expected: str) -> object:
    try:
        return parse(text)  # type: ignore[operator]
    except ValueError:
        raise ValueError(f'"{text}": {expected} was expected') from None


def _number(values: dict[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise ValueError(f'"{name} {text}": a number was expected')
    return int(text)
