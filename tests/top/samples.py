"""Samples to draw, of nothing that runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from xfrmi.client.samples import Sample, StateView, Use
from xfrmi.wire.link_types import IFF_UP, LinkInfo, LinkStats
from xfrmi.wire.xfrm_const import XFRM_INF
from xfrmi.wire.xfrm_types import NO_LIMITS

NOW = 1_000_000.0

OUT = StateView(
    src=bytes([192, 0, 2, 1]), dst=bytes([198, 51, 100, 1]), spi=0x4201, proto=50, mark=0, mode=1, if_id=42, reqid=1,
    dir=2, larval=False, dying=False, esn=False, encap=False, algorithms=("rfc4106(gcm(aes))",),
    limits=tuple(None if limit == XFRM_INF else limit for limit in NO_LIMITS),
    bytes=3000, packets=30, add_time=int(NOW) - 100, use_time=int(NOW) - 90, late=0, replayed=0, unauthentic=0,
    sent=30, top=0, window=32, seen=0,
)  # fmt: skip
IN = replace(
    OUT, src=OUT.dst, dst=OUT.src, spi=0x4202, dir=1, sent=0, top=40, seen=0xFFFF_FFDF, bytes=4000, packets=39,
    replayed=2,
)  # fmt: skip
LARVAL = replace(
    OUT, spi=0, larval=True, algorithms=(), add_time=int(NOW) - 5, limits=(None, None, None, None, 0, 30, 0, 0)
)


def link(name: str = "ipsec0", if_id: int = 42, up: bool = True, **stats: int) -> LinkInfo:
    return LinkInfo(name=name, if_id=if_id, flags=IFF_UP if up else 0, stats=LinkStats(**stats))


def sample(
    *states: StateView,
    clock: float = 10.0,
    links: tuple[LinkInfo, ...] = (),
    larval: tuple[StateView, ...] = (),
    pid: int = 7,
    **stat: int,
) -> Sample:
    """Of a daemon that started ten minutes before NOW."""
    status: dict[str, Any] = {"pid": pid, "started": NOW - 600, "policies": 3}
    uses = tuple(Use(state.key, state.if_id, state.bytes, state.packets) for state in states)
    return Sample(clock, status, stat, links, uses, larval, len(larval), {state.key: state for state in states})
