"""Short ways to say flows, states and policies in the tests of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from xfrmi.core.events import Event
from xfrmi.core.policy import Policy
from xfrmi.core.sad import Sad
from xfrmi.core.spd import Spd
from xfrmi.errors import Drop, XfrmError
from xfrmi.wire.address import family_of, pack_address
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import IPPROTO_UDP, Dir, Mode, XfrmStat
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateId, StateInfo, Template

GCM = Algorithm("rfc4106(gcm(aes))", bytes(range(20)), 128)

NOW = 1_700_000_000.5

US, PEER = "192.0.2.1", "192.0.2.2"


@contextmanager
def fails(number: int, extack: str | None = None) -> Iterator[pytest.ExceptionInfo[XfrmError]]:
    """What runs inside is refused with this errno, and these words of the kernel."""
    with pytest.raises(XfrmError) as caught:
        yield caught
    assert caught.value.errno == number
    assert extack is None or caught.value.extack == extack


@contextmanager
def drops(stat: XfrmStat) -> Iterator[None]:
    """What runs inside drops its packet and names this counter."""
    with pytest.raises(Drop) as caught:
        yield
    assert caught.value.stat == stat


def flow(
    src: str = "10.0.0.1", dst: str = "10.1.0.1", proto: int = IPPROTO_UDP, sport: int = 1000, dport: int = 53
) -> Flow:
    saddr, daddr = pack_address(src), pack_address(dst)
    return Flow(family_of(saddr), saddr, daddr, proto, sport, dport, True)


def state_info(spi: int = 0x1000, **fields: Any) -> StateInfo:
    """An outbound tunnel from US to PEER with reqid 7, as far as `fields` do not say otherwise."""
    return StateInfo(**{"src": US, "dst": PEER, "spi": spi, "mode": Mode.TUNNEL, "reqid": 7, "aead": GCM} | fields)


def state_id(spi: int = 0x1000, dst: str = PEER, **fields: Any) -> StateId:
    return StateId(pack_address(dst), spi, **fields)


def template(**fields: Any) -> Template:
    """What a state of state_info meets."""
    return Template(**{"src": US, "dst": PEER, "reqid": 7} | fields)


def policy_info(src: str = "", dst: str = "", **fields: Any) -> PolicyInfo:
    """A policy for `src` -> `dst`; fields of the selector have their own names."""
    of_selector = {name: fields.pop(name) for name in ("proto", "sport", "dport", "ifindex") if name in fields}
    return PolicyInfo(Selector.parse(src, dst, **of_selector), **{"dir": Dir.OUT} | fields)


class Log(list[Event]):
    """An event sink that remembers."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def take(self) -> list[Event]:
        """What came since the last time."""
        taken = list(self)
        self.clear()
        return taken


def fixed_random(size: int) -> bytes:
    """The same number every time: a test that allocates SPIs knows which."""
    return bytes(size)


def new_sad(**config: Any) -> tuple[Sad, Log]:
    log = Log()
    return Sad(log, fixed_random, **config), log


def new_spd() -> tuple[Spd, Log]:
    log = Log()
    return Spd(log), log


def out_policy(**fields: Any) -> Policy:
    """The policy of `template`, outside of any SPD."""
    return Policy(policy_info(**{"templates": (template(),)} | fields))
