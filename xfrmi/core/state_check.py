"""Is this a state the kernel would take? Its questions, in its order, with its errno and words (kernel-behaviour 7.4).

    1  addresses    family of the state, family and prefixes of its selector
    2  attributes   which algorithm attributes go with which protocol; tfcpad
    3  replay       the ESN attribute
    4  mode         is it one of a state
    5  direction    what an inbound or outbound state may not say (3.6)
    6  algorithms   do they exist (algo.attach)
    7  init         mode and selector family, protocol, keys, encapsulation
    8  window       does the replay window fit

What only a table can know (EEXIST, ESRCH) is the SAD's to answer. Lengths of attributes are the netlink codec's.
"""

from __future__ import annotations

import errno

from xfrmi.core.algo import attach, transform_for
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    IPPROTO_AH,
    IPPROTO_COMP,
    IPPROTO_DSTOPTS,
    IPPROTO_ESP,
    IPPROTO_ROUTING,
    REPLAY_ESN_MAX,
    SA_XFLAG_DONT_ENCAP_DSCP,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_AF_UNSPEC,
    STATE_DECAP_DSCP,
    STATE_ESN,
    STATE_ICMP,
    STATE_NOPMTUDISC,
    STATE_WILDRECV,
    UDP_ENCAP_ESPINUDP,
    Mode,
    SaDir,
)
from xfrmi.wire.xfrm_types import Selector, StateInfo

XFRM_OFFLOAD_PACKET = 4

_OUT_FLAGS = ((STATE_DECAP_DSCP, "DECAP_DSCP"), (STATE_ICMP, "ICMP"), (STATE_WILDRECV, "WILDRECV"))
_IN_EXTRA_FLAGS = ((SA_XFLAG_DONT_ENCAP_DSCP, "DONT_ENCAP_DSCP"), (SA_XFLAG_OSEQ_MAY_WRAP, "OSEQ_MAY_WRAP"))


def check_state(info: StateInfo) -> None:
    """Raises XfrmError with what NEWSA and UPDSA would answer; returns when `info` can become a State."""
    _check_addresses(info)
    _check_attributes(info)
    _check_replay(info)
    _check_mode(info)
    _check_direction(info)
    attach(info)
    _check_init(info)
    _check_window(info)


def _invalid(extack: str, detail: str = "") -> XfrmError:
    return XfrmError(errno.EINVAL, extack, detail)


# 1 addresses


def _check_addresses(info: StateInfo) -> None:
    if info.family not in (AF_INET, AF_INET6):
        raise _invalid("Invalid address family")
    _check_selector(info.selector)
    length = 4 if info.family == AF_INET else 16
    if len(info.dst) != length or len(info.src) not in (0, length):
        raise _invalid("", "source and destination are of the family of the state")


def _check_selector(selector: Selector) -> None:
    if selector.family not in (AF_UNSPEC, AF_INET, AF_INET6):
        raise _invalid("Invalid address family in selector")
    bits, name = (32, "IPv4") if selector.family == AF_INET else (128, "IPv6")
    if selector.family and max(selector.prefixlen_s, selector.prefixlen_d) > bits:
        raise _invalid(f"Invalid prefix length in selector (must be <= {bits} for {name})")


# 2 attributes


def _check_attributes(info: StateInfo) -> None:
    has_auth = bool(info.auth or info.auth_trunc)
    if info.proto == IPPROTO_ESP:
        if info.comp:
            raise _invalid("Invalid attribute for ESP: COMP")
        if not (has_auth or info.crypt or info.aead):
            raise _invalid("Missing required attribute for ESP: at least one of AUTH, AUTH_TRUNC, CRYPT, AEAD")
        if info.aead and (has_auth or info.crypt):
            raise _invalid("Invalid attribute combination for ESP: AEAD can't be used with AUTH, AUTH_TRUNC, CRYPT")
        if info.tfcpad and info.mode != Mode.TUNNEL:
            raise _invalid("TFC padding can only be used in tunnel mode")
    elif info.proto == IPPROTO_AH:
        if not has_auth:
            raise _invalid("Missing required attribute for AH: AUTH_TRUNC or AUTH")
        if info.aead or info.crypt or info.comp or info.tfcpad:
            raise _invalid("Invalid attributes for AH: AEAD, CRYPT, COMP, TFCPAD")
    elif info.proto == IPPROTO_COMP:
        if not info.comp:
            raise _invalid("Missing required attribute for COMP: COMP")
        if info.aead or has_auth or info.crypt or info.tfcpad:
            raise _invalid("Invalid attributes for COMP: AEAD, AUTH, AUTH_TRUNC, CRYPT, TFCPAD")
        if info.spi >= 0x10000:
            raise _invalid("SPI is too large for COMP (must be < 0x10000)")
    elif info.proto in (IPPROTO_DSTOPTS, IPPROTO_ROUTING):
        if info.comp or has_auth or info.aead or info.crypt or info.encap or info.sec_ctx or info.tfcpad:
            raise _invalid("Invalid attributes for DSTOPTS/ROUTING")
        if not info.coaddr:
            raise _invalid("Missing required COADDR attribute for DSTOPTS/ROUTING")
    else:
        raise _invalid("Unsupported protocol")


# 3 replay


def _check_replay(info: StateInfo) -> None:
    esn = info.replay_esn
    if esn is None:
        if info.flags & STATE_ESN:
            raise _invalid("Missing required attribute for ESN")
        return
    if len(esn.bitmap) > REPLAY_ESN_MAX // 32:
        raise _invalid("ESN bitmap length must be <= 128")
    if info.proto not in (IPPROTO_ESP, IPPROTO_AH):
        raise _invalid("ESN only supported for ESP and AH")
    if info.replay_window:
        raise _invalid("ESN not compatible with legacy replay_window")
    if info.dir == SaDir.OUT:
        if esn.replay_window:
            raise _invalid("Replay window should be 0 for output SA")
        if esn.seq or esn.seq_hi:
            raise _invalid("Replay seq and seq_hi should be 0 for output SA")
        _check_number(info, "oseq", esn.oseq, esn.oseq_hi, "output")
        if esn.bitmap:
            raise _invalid("Replay bmp_len should 0 for output SA")
    if info.dir == SaDir.IN:
        if esn.oseq or esn.oseq_hi:
            raise _invalid("Replay oseq and oseq_hi should be 0 for input SA")
        _check_number(info, "seq", esn.seq, esn.seq_hi, "input")


def _check_number(info: StateInfo, name: str, low: int, high: int, side: str) -> None:
    """A counter that starts at its end could never move."""
    if info.flags & STATE_ESN:
        if low == high == 0xFFFFFFFF:
            raise _invalid(f"Replay {name} and {name}_hi should be less than 0xFFFFFFFF for {side} SA")
    elif high:
        raise _invalid(f"Replay {name}_hi should be 0 in non-ESN mode for {side} SA")
    elif low == 0xFFFFFFFF:
        raise _invalid(f"Replay {name} should be less than 0xFFFFFFFF in non-ESN mode for {side} SA")


# 4 mode


def _check_mode(info: StateInfo) -> None:
    if info.mode not in (Mode.TRANSPORT, Mode.TUNNEL, Mode.ROUTEOPTIMIZATION, Mode.BEET, Mode.IPTFS):
        raise _invalid("Unsupported mode")
    if info.mode == Mode.IPTFS and info.proto != IPPROTO_ESP:
        raise _invalid("IP-TFS mode only supported with ESP")
    if info.mode == Mode.IPTFS and not info.dir:
        raise _invalid("IP-TFS mode requires in or out direction attribute")


# 5 direction


def _check_direction(info: StateInfo) -> None:
    if info.mtimer_thresh:
        if not info.encap:
            raise _invalid("MTIMER_THRESH attribute can only be set on ENCAP states")
        if info.dir == SaDir.OUT:
            raise _invalid("MTIMER_THRESH attribute should not be set on output SA")
    if info.dir == SaDir.OUT:
        for flag, name in _OUT_FLAGS:
            if info.flags & flag:
                raise _invalid(f"Flag {name} should not be set for output SA")
        if info.replay_window:
            raise _invalid("Replay window should be 0 for output SA")
        if info.replay and (info.replay.seq or info.replay.bitmap):
            raise _invalid("Replay seq and bitmap should be 0 for output SA")
    if info.dir == SaDir.IN:
        if info.flags & STATE_NOPMTUDISC:
            raise _invalid("Flag NOPMTUDISC should not be set for input SA")
        for flag, name in _IN_EXTRA_FLAGS:
            if info.extra_flags & flag:
                raise _invalid(f"Flag {name} should not be set for input SA")
    if info.pcpu is not None and not info.dir:
        raise _invalid("SA_PCPU only supported with SA_DIR")


# 7 init


def _check_init(info: StateInfo) -> None:
    if info.mode in (Mode.ROUTEOPTIMIZATION, Mode.IPTFS):
        raise _unsupported("Requested mode not found", f"{Mode(info.mode).name.lower()} mode is not offered here")
    if info.mode == Mode.TRANSPORT:
        if not info.selector.family and info.flags & STATE_AF_UNSPEC:
            raise _unsupported("Only tunnel modes can accommodate an AF_UNSPEC selector")
        if info.selector.family not in (AF_UNSPEC, info.family):
            raise _unsupported("Only tunnel modes can accommodate a change of family")
    if info.proto != IPPROTO_ESP:
        raise _unsupported("Requested type not found", f"protocol {info.proto} is not offered here, only esp is")
    transform_for(info)
    if info.encap is not None and info.encap.type != UDP_ENCAP_ESPINUDP:
        raise _invalid("Unsupported encapsulation type for ESP", "only espinudp is offered here")
    if info.nat_keepalive_interval:
        if info.dir != SaDir.OUT:
            raise _invalid("NAT keepalive is only supported for outbound SAs")
        if info.encap is None:
            raise _invalid("NAT keepalive is only supported for UDP encapsulation")
    if info.offload is not None and info.offload[1] & XFRM_OFFLOAD_PACKET:
        raise _invalid("", "no device here can do packet offload")


def _unsupported(extack: str, detail: str = "") -> XfrmError:
    return XfrmError(errno.EPROTONOSUPPORT, extack, detail)


# 8 window


def _check_window(info: StateInfo) -> None:
    esn = info.replay_esn
    if esn is None:
        return
    if esn.replay_window > 32 * len(esn.bitmap):
        raise _invalid("ESN replay window is too large for the chosen bitmap size")
    if info.flags & STATE_ESN and not esn.replay_window and info.dir != SaDir.OUT:
        raise _invalid("ESN replay window must be > 0")
