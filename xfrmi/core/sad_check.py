"""What the SAD refuses, in the kernel's words, with a sentence of ours that names the state in the way (7.4)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from xfrmi.core.state import KM_ACQ, State
from xfrmi.errors import XfrmError
from xfrmi.wire.address import format_address
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP
from xfrmi.wire.xfrm_types import Mark, ReplayEsn, StateId, StateInfo

IPSEC_PROTOCOLS = (IPPROTO_AH, IPPROTO_ESP, IPPROTO_COMP)
IPSEC_PROTO_ANY = 255
COMP_SPI_MAX = 0xFFFF


def duplicate(old: State) -> XfrmError:
    """EEXIST: `old` has the key already (3.1)."""
    where = _key(old.dst, old.spi)
    if old.km == KM_ACQ:
        return XfrmError(
            errno.EEXIST, detail=f"a larval SA with {where} waits to be completed: after allocspi comes update, not add"
        )
    return XfrmError(
        errno.EEXIST,
        detail=f"an SA with {where} exists already (reqid {old.reqid}, if_id {old.if_id:#x}); the key is destination, "
        f"spi, protocol and mark: neither source nor if_id tell two apart",
    )


def _key(daddr: bytes, spi: int) -> str:
    """Requests may name a family of addresses that nobody has."""
    return f"spi {spi:#010x} towards {format_address(daddr) if daddr else 'no IP address'}"


def no_state(number: int, daddr: bytes, spi: int, proto: int, mark: Mark) -> XfrmError:
    """ESRCH or, where the kernel says so, ENOENT: nothing has the key."""
    detail = f"no SA of protocol {proto} with {_key(daddr, spi)}"
    if mark.mask:
        detail += f" and mark {mark.value:#x} mask {mark.mask:#x}"
    return XfrmError(number, detail=detail)


def check_id(state_id: StateId) -> None:
    """A protocol without SPIs would be looked up by its source address, which then has to be there (3.1)."""
    if state_id.proto not in (*IPSEC_PROTOCOLS, IPSEC_PROTO_ANY) and not state_id.src:
        detail = f"protocol {state_id.proto} has no spi: its SAs are named by their source address"
        raise XfrmError(errno.EINVAL, detail=detail)


def check_spi_request(info: StateInfo, low: int, high: int) -> None:
    """ALLOCSPI; raises XfrmError EINVAL. (The kernel takes families without addresses, too, for states that nobody
    can name again.)"""
    proto = info.proto
    if proto not in IPSEC_PROTOCOLS:
        raise XfrmError(errno.EINVAL, "Invalid protocol, must be one of AH, ESP, IPCOMP", f"it is {proto}")
    if proto == IPPROTO_COMP and high > COMP_SPI_MAX:
        raise XfrmError(errno.EINVAL, "IPCOMP SPI must be <= 65535", f"the range ends at {high:#x}")
    if low > high:
        raise XfrmError(errno.EINVAL, "Invalid SPI range: min > max", f"{low:#x} > {high:#x}")
    if info.family not in (AF_INET, AF_INET6):
        raise XfrmError(errno.EINVAL, "Invalid address family", f"it is {info.family}")


def check_cpu(pcpu: int | None, cpus: Callable[[], int], number: int) -> None:
    """Is there such a processor? Raises XfrmError `number`: ERANGE, where ALLOCSPI and ACQUIRE have EINVAL (3.8)."""
    if pcpu is not None and pcpu >= cpus():
        raise XfrmError(number, "pCPU number too big", f"they are numbered 0 to {cpus() - 1}; {pcpu} is none")


def check_esn_update(old: ReplayEsn, new: ReplayEsn) -> None:
    """NEWAE cannot resize a window; raises XfrmError EINVAL."""
    if len(new.bitmap) != len(old.bitmap):
        raise XfrmError(
            errno.EINVAL,
            "New ESN size doesn't match the existing SA's ESN size",
            f"{len(new.bitmap)} words of bitmap, not {len(old.bitmap)}",
        )
    if new.replay_window > 32 * len(new.bitmap):
        raise XfrmError(errno.EINVAL, "ESN replay window is longer than the bitmap")
