"""The sockets of a hand-over, of a daemon with workers or without; see worker_homes.py for what places and readers are.

The raw sockets of a family are told in the order of their places, and so are the UDP sockets of a port: of a daemon
without workers that is one each, or those that it was given itself, and it reads them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xfrmi.daemon import handover_format as told

if TYPE_CHECKING:
    from xfrmi.dev.underlay import Underlay

OPENER = 1
"""The worker that opens with all states that are for no processor, and reads what nobody else would."""


@dataclass(frozen=True)
class Given:
    """All but UDP."""

    esp: Mapping[int, Sequence[int]]
    """Descriptors by family."""
    readers: Sequence[int]
    """For which worker each was opened, of whatever daemon."""
    icmp: Mapping[int, int]
    """A descriptor by family."""
    pins: dict[int, int] = field(default_factory=dict)
    """SPI and the place at which it arrives."""
    default: int = 0
    """The place at which all others arrive."""
    ports: dict[tuple[int, int, str], list[int]] = field(default_factory=dict)
    """The same as `readers`, by family, port and address, of UDP sockets."""


def all_but_udp(given: Given) -> Iterator[tuple[told.Message, tuple[int, ...]]]:
    """As it is told."""
    for family, fds in given.esp.items():
        for fd, reader in zip(fds, given.readers, strict=False):
            yield told.EspSocket(family, reader), (fd,)
    for family, fd in given.icmp.items():
        yield told.IcmpSocket(family), (fd,)
    yield steered(given), ()


def steered(given: Given) -> told.Steered:
    return told.Steered(tuple(given.pins.items()), given.default)


def of_underlay(underlay: Underlay, given: Given | None) -> Given:
    """What a daemon without workers has, that was given this."""
    esp: dict[int, list[int]] = {}
    for family, fd in underlay.raw_sockets:
        esp.setdefault(family, []).append(fd)
    icmp = {errors.family: errors.fileno() for errors in underlay.icmp_errors}
    if given is None:
        return Given(esp, [OPENER], icmp)
    return Given(esp, given.readers, icmp, given.pins, given.default, given.ports)


def udp_of_underlay(underlay: Underlay, given: Given | None) -> Iterator[tuple[told.Port, int]]:
    """Its UDP sockets, as they are told, and descriptors."""
    left = {} if given is None else {port: iter(readers) for port, readers in given.ports.items()}
    for family, port, address, fd in underlay.udp_sockets:
        reader = next(left.get((family, port, address), iter(())), OPENER)
        yield told.Port(family, port, address, reader), fd


class SocketsHeard:
    """By who gets them."""

    def __init__(self) -> None:
        self._esp: dict[int, list[int]] = {}
        self._readers: dict[int, list[int]] = {}
        self._icmp: dict[int, int] = {}
        self._pins: dict[int, int] = {}
        self._default = 0
        self._ports: dict[tuple[int, int, str], list[int]] = {}

    def take_port(self, port: told.Port) -> None:
        self._ports.setdefault((port.family, port.port, port.address), []).append(port.reader)

    def take(self, message: told.EspSocket | told.IcmpSocket | told.Steered, fds: Sequence[int]) -> None:
        match message:
            case told.EspSocket(family, reader):
                self._esp.setdefault(family, []).extend(fds)
                self._readers.setdefault(family, []).append(reader)
            case told.IcmpSocket(family):
                (self._icmp[family],) = fds
            case told.Steered(pins, default):
                self._pins.clear()
                self._pins.update(pins)
                self._default = default

    @property
    def given(self) -> Given:
        """What has been told by now; `pins` and `ports` are those that will have been told last."""
        readers = max(self._readers.values(), key=len, default=[])
        return Given(self._esp, readers, self._icmp, self._pins, self._default, self._ports)
