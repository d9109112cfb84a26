"""What a daemon has done up to a moment, for who looks on: what `xfrmi top` shows and compares.

Keys are neither asked for nor sent. Of all states only what orders them comes along (`uses`); the rest is asked of
those that somebody wants to see.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from xfrmi.client.json_channel import JsonChannel

if TYPE_CHECKING:
    from xfrmi.client import Client
    from xfrmi.wire.link_types import LinkInfo

NAMES_AT_ONCE = 400
"""A request has at most 64 KiB."""


class StateKey(NamedTuple):
    """What tells states apart in the kernel's tables."""

    dst: str
    """In hexadecimal."""
    spi: int
    proto: int
    mark: int


class Use(NamedTuple):
    """How much a state has been used."""

    key: StateKey
    if_id: int
    bytes: int
    """Of payload."""
    packets: int


@dataclass(frozen=True)
class StateView:
    """One state without its keys. Field names as in xfrmi.wire.xfrm_types where they mean the same."""

    src: bytes
    dst: bytes
    spi: int
    proto: int
    mark: int
    mode: int
    if_id: int
    reqid: int
    dir: int
    larval: bool
    """Nobody has keyed it yet."""
    dying: bool
    """Its soft limit has been reached."""
    esn: bool
    encap: bool
    """ESP in UDP."""
    algorithms: tuple[str, ...]
    limits: tuple[int | None, ...]
    """As xfrm_types.Limits; None is no limit of bytes or packets, 0 none of seconds."""
    bytes: int
    packets: int
    add_time: int
    """Unix seconds, as use_time; that is 0 before the first packet."""
    use_time: int
    late: int
    """Packets dropped as behind the window."""
    replayed: int
    unauthentic: int
    sent: int
    """The last sequence number sent."""
    top: int
    """The highest one accepted."""
    window: int
    """How many numbers the replay window remembers, 0: none."""
    seen: int
    """Bit d is set if number top - d was seen."""

    @property
    def key(self) -> StateKey:
        return StateKey(self.dst.hex(), self.spi, self.proto, self.mark)


@dataclass(frozen=True)
class Sample:
    clock: float
    """Monotonic seconds, for rates."""
    status: Mapping[str, Any]
    """As Client.status."""
    stat: Mapping[str, int]
    """As Client.stat."""
    links: tuple[LinkInfo, ...]
    uses: tuple[Use, ...]
    """Of all states but larval ones, the newest first."""
    larval: tuple[StateView, ...] = ()
    """The newest of them."""
    larval_count: int = 0
    states: Mapping[StateKey, StateView] = field(default_factory=dict)
    """Those that were asked for and were still there."""


class Sampler:
    """Takes samples of one daemon, over connections that stay open. Raises XfrmError when it has gone."""

    def __init__(self, client: Client, netns: str, timeout: float | None, base: str | None = None) -> None:
        """See Client.sampler."""
        self._client = client
        self._channel = JsonChannel(netns, timeout, base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def sample(self) -> Sample:
        """Everything but the details of states."""
        status, stat = self._channel.ask("status"), self._channel.ask("stat")
        links = tuple(self._client.links())
        uses = tuple(
            Use(StateKey(*use[:4]), *use[4:]) for line in self._stream() for use in line["uses"]
        )  # fmt: skip
        return Sample(time.monotonic(), status, stat, links, uses)

    def with_details(self, sample: Sample, keys: Iterable[StateKey]) -> Sample:
        """The same with these states and the larval ones in full."""
        names = list(keys)
        larval: list[StateView] = []
        count = 0
        found: dict[StateKey, StateView] = {}
        for start in range(0, len(names) or 1, NAMES_AT_ONCE):
            larval.clear()
            for line in self._stream(of=names[start : start + NAMES_AT_ONCE]):
                count = line.get("larval", count)
                for row in line["states"]:
                    state = _state(row)
                    if state.larval:
                        larval.append(state)
                    else:
                        found[state.key] = state
        return replace(sample, larval=tuple(larval), larval_count=count, states={**sample.states, **found})

    def _stream(self, **arguments: object) -> Iterator[dict[str, Any]]:
        self._channel.ask("states", **arguments)
        while not (line := self._channel.line()).get("end"):
            yield line


def _state(row: Mapping[str, Any]) -> StateView:
    return StateView(
        **{
            **row,
            "src": bytes.fromhex(row["src"]),
            "dst": bytes.fromhex(row["dst"]),
            "algorithms": tuple(row["algorithms"]),
            "limits": tuple(row["limits"]),
            "seen": int(row["seen"], 16),
        }
    )
