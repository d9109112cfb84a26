"""core.state_check: what NEWSA refuses, in the kernel's order and words (7.4, 3.6, 3.7)."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from tests.each import each
from xfrmi.core.state import State
from xfrmi.core.state_check import check_state
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import (
    AF_INET6,
    SA_XFLAG_DONT_ENCAP_DSCP,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_AF_UNSPEC,
    STATE_DECAP_DSCP,
    STATE_ESN,
    STATE_ICMP,
    STATE_NOPMTUDISC,
    STATE_WILDRECV,
    Mode,
    SaDir,
)
from xfrmi.wire.xfrm_types import Algorithm, Encap, Replay, ReplayEsn, Selector, StateInfo

AEAD = Algorithm("rfc4106(gcm(aes))", bytes(20), 128)
AUTH = Algorithm("hmac(sha256)", bytes(32))
CRYPT = Algorithm("cbc(aes)", bytes(16))
COMP = Algorithm("deflate", b"")

INVAL, NOSYS, NOPROTO = errno.EINVAL, errno.ENOSYS, errno.EPROTONOSUPPORT
MAX = 0xFFFFFFFF


def request(**fields: Any) -> StateInfo:
    usual: dict[str, Any] = {"src": "192.0.2.1", "dst": "192.0.2.2", "spi": 0x1000, "mode": Mode.TUNNEL, "aead": AEAD}
    return StateInfo(**usual | fields)


def esn(window: int = 32, words: int = 1, flags: int = STATE_ESN, dir: int = 0, **numbers: int) -> dict[str, Any]:
    return {"flags": flags, "dir": dir, "replay_esn": ReplayEsn((0,) * words, replay_window=window, **numbers)}


REFUSED = [
    # 1 addresses
    (replace(request(), family=17), INVAL, "Invalid address family"),
    (request(selector=Selector(family=7)), INVAL, "Invalid address family in selector"),
    (
        request(selector=Selector(2, bytes(4), 33, bytes(4))),
        INVAL,
        "Invalid prefix length in selector (must be <= 32 for IPv4)",
    ),
    (
        request(selector=Selector(AF_INET6, bytes(16), 0, bytes(16), 129)),
        INVAL,
        "Invalid prefix length in selector (must be <= 128 for IPv6)",
    ),
    (request(src="2001:db8::1"), INVAL, ""),
    # 2 attributes
    (request(proto=17), INVAL, "Unsupported protocol"),
    (request(comp=COMP), INVAL, "Invalid attribute for ESP: COMP"),
    (
        request(aead=None),
        INVAL,
        "Missing required attribute for ESP: at least one of AUTH, AUTH_TRUNC, CRYPT, AEAD",
    ),
    (
        request(auth=AUTH),
        INVAL,
        "Invalid attribute combination for ESP: AEAD can't be used with AUTH, AUTH_TRUNC, CRYPT",
    ),
    (
        request(crypt=CRYPT),
        INVAL,
        "Invalid attribute combination for ESP: AEAD can't be used with AUTH, AUTH_TRUNC, CRYPT",
    ),
    (request(mode=Mode.TRANSPORT, tfcpad=100), INVAL, "TFC padding can only be used in tunnel mode"),
    (request(proto=51), INVAL, "Missing required attribute for AH: AUTH_TRUNC or AUTH"),
    (request(proto=51, auth=AUTH), INVAL, "Invalid attributes for AH: AEAD, CRYPT, COMP, TFCPAD"),
    (request(proto=108), INVAL, "Missing required attribute for COMP: COMP"),
    (request(proto=108, comp=COMP), INVAL, "Invalid attributes for COMP: AEAD, AUTH, AUTH_TRUNC, CRYPT, TFCPAD"),
    (
        request(proto=108, comp=COMP, aead=None, spi=0x10000),
        INVAL,
        "SPI is too large for COMP (must be < 0x10000)",
    ),
    (request(proto=43), INVAL, "Invalid attributes for DSTOPTS/ROUTING"),
    (request(proto=43, aead=None), INVAL, "Missing required COADDR attribute for DSTOPTS/ROUTING"),
    # 3 replay
    (request(flags=STATE_ESN), INVAL, "Missing required attribute for ESN"),
    (request(**esn(words=129)), INVAL, "ESN bitmap length must be <= 128"),
    (request(**esn(), proto=108, aead=None, comp=COMP), INVAL, "ESN only supported for ESP and AH"),
    (request(**esn(), replay_window=32), INVAL, "ESN not compatible with legacy replay_window"),
    (request(**esn(dir=SaDir.OUT)), INVAL, "Replay window should be 0 for output SA"),
    (request(**esn(0, dir=SaDir.OUT, seq=1)), INVAL, "Replay seq and seq_hi should be 0 for output SA"),
    (request(**esn(0, dir=SaDir.OUT)), INVAL, "Replay bmp_len should 0 for output SA"),
    (
        request(**esn(0, 0, 0, SaDir.OUT, oseq_hi=1)),
        INVAL,
        "Replay oseq_hi should be 0 in non-ESN mode for output SA",
    ),
    (
        request(**esn(0, 0, 0, SaDir.OUT, oseq=MAX)),
        INVAL,
        "Replay oseq should be less than 0xFFFFFFFF in non-ESN mode for output SA",
    ),
    (
        request(**esn(0, 0, dir=SaDir.OUT, oseq=MAX, oseq_hi=MAX)),
        INVAL,
        "Replay oseq and oseq_hi should be less than 0xFFFFFFFF for output SA",
    ),
    (request(**esn(dir=SaDir.IN, oseq=1)), INVAL, "Replay oseq and oseq_hi should be 0 for input SA"),
    (
        request(**esn(dir=SaDir.IN, flags=0, seq=MAX)),
        INVAL,
        "Replay seq should be less than 0xFFFFFFFF in non-ESN mode for input SA",
    ),
    # 4 mode
    (request(mode=Mode.IN_TRIGGER), INVAL, "Unsupported mode"),
    (request(mode=9), INVAL, "Unsupported mode"),
    (request(mode=Mode.IPTFS), INVAL, "IP-TFS mode requires in or out direction attribute"),
    (request(mode=Mode.IPTFS, proto=51, aead=None, auth=AUTH), INVAL, "IP-TFS mode only supported with ESP"),
    # 5 direction
    (request(mtimer_thresh=5), INVAL, "MTIMER_THRESH attribute can only be set on ENCAP states"),
    (
        request(mtimer_thresh=5, encap=Encap(), dir=SaDir.OUT),
        INVAL,
        "MTIMER_THRESH attribute should not be set on output SA",
    ),
    (request(dir=SaDir.OUT, flags=STATE_DECAP_DSCP), INVAL, "Flag DECAP_DSCP should not be set for output SA"),
    (request(dir=SaDir.OUT, flags=STATE_ICMP), INVAL, "Flag ICMP should not be set for output SA"),
    (request(dir=SaDir.OUT, flags=STATE_WILDRECV), INVAL, "Flag WILDRECV should not be set for output SA"),
    (request(dir=SaDir.OUT, replay_window=32), INVAL, "Replay window should be 0 for output SA"),
    (request(dir=SaDir.OUT, replay=Replay(seq=1)), INVAL, "Replay seq and bitmap should be 0 for output SA"),
    (request(dir=SaDir.OUT, replay=Replay(bitmap=1)), INVAL, "Replay seq and bitmap should be 0 for output SA"),
    (request(dir=SaDir.IN, flags=STATE_NOPMTUDISC), INVAL, "Flag NOPMTUDISC should not be set for input SA"),
    (
        request(dir=SaDir.IN, extra_flags=SA_XFLAG_DONT_ENCAP_DSCP),
        INVAL,
        "Flag DONT_ENCAP_DSCP should not be set for input SA",
    ),
    (
        request(dir=SaDir.IN, extra_flags=SA_XFLAG_OSEQ_MAY_WRAP),
        INVAL,
        "Flag OSEQ_MAY_WRAP should not be set for input SA",
    ),
    (request(pcpu=0), INVAL, "SA_PCPU only supported with SA_DIR"),
    # 6 algorithms
    (request(aead=AEAD._replace(bits=120)), NOSYS, "Requested AEAD algorithm not found"),
    (request(aead=None, auth=AUTH, crypt=CRYPT._replace(name="twofish")), NOSYS, "Requested CRYPT algorithm not found"),
    (request(aead=None, auth=Algorithm("sha3", b""), crypt=CRYPT), NOSYS, "Requested AUTH algorithm not found"),
    (request(proto=51, aead=None, auth=Algorithm("sha", b"")), NOSYS, "Requested AUTH algorithm not found"),
    # 7 init
    (request(mode=Mode.ROUTEOPTIMIZATION), NOPROTO, "Requested mode not found"),
    (request(mode=Mode.IPTFS, dir=SaDir.IN), NOPROTO, "Requested mode not found"),
    (
        request(mode=Mode.TRANSPORT, selector=Selector.parse("::/0", "::/0")),
        NOPROTO,
        "Only tunnel modes can accommodate a change of family",
    ),
    (
        request(mode=Mode.TRANSPORT, flags=STATE_AF_UNSPEC),
        NOPROTO,
        "Only tunnel modes can accommodate an AF_UNSPEC selector",
    ),
    (request(proto=43, aead=None, coaddr=bytes(16)), NOPROTO, "Requested type not found"),
    (
        request(aead=AEAD._replace(key=bytes(21))),
        INVAL,
        "Kernel was unable to initialize cryptographic operations",
    ),
    (request(encap=Encap(1)), INVAL, "Unsupported encapsulation type for ESP"),
    (request(encap=Encap(7)), INVAL, "Unsupported encapsulation type for ESP"),
    (request(encap=Encap(), nat_keepalive_interval=20), INVAL, "NAT keepalive is only supported for outbound SAs"),
    (
        request(dir=SaDir.OUT, nat_keepalive_interval=20),
        INVAL,
        "NAT keepalive is only supported for UDP encapsulation",
    ),
    (request(offload=(2, 4)), INVAL, ""),
    # 8 window
    (request(**esn(33)), INVAL, "ESN replay window is too large for the chosen bitmap size"),
    (request(**esn(0)), INVAL, "ESN replay window must be > 0"),
    (request(**esn(0, dir=SaDir.IN)), INVAL, "ESN replay window must be > 0"),
]


@each(("info", "number", "extack"), REFUSED)
def test_refused(info: StateInfo, number: int, extack: str) -> None:
    for build in (check_state, State):
        with pytest.raises(XfrmError) as caught:
            build(info)
        assert (caught.value.errno, caught.value.extack) == (number, extack)


ACCEPTED = [
    request(),
    request(spi=0),
    request(src=b""),
    request(mode=Mode.TRANSPORT),
    request(mode=Mode.BEET, selector=Selector.parse("198.51.100.1/32", "198.51.100.2/32")),
    request(mode=Mode.BEET, selector=Selector.parse("2001:db8::1/128", "2001:db8::2/128")),
    request(selector=Selector.parse("::/0", "::/0")),
    request(flags=STATE_AF_UNSPEC),
    request(replay_window=255),
    request(tfcpad=1400),
    request(**esn(32)),
    request(**esn(33, 2, flags=0)),
    request(**esn(4096, 128)),
    request(**esn(0, 0, flags=0)),
    request(**esn(0, 0, dir=SaDir.OUT, oseq=5, oseq_hi=1)),
    request(**esn(32, 1, dir=SaDir.IN, seq=5, seq_hi=1)),
    request(dir=SaDir.OUT, flags=STATE_NOPMTUDISC, extra_flags=SA_XFLAG_OSEQ_MAY_WRAP),
    request(dir=SaDir.IN, flags=STATE_DECAP_DSCP | STATE_ICMP | STATE_WILDRECV, replay_window=32),
    request(dir=SaDir.IN, encap=Encap(), mtimer_thresh=60),
    request(dir=SaDir.OUT, encap=Encap(), nat_keepalive_interval=20),
    request(dir=SaDir.OUT, pcpu=0),
    request(offload=(2, 0)),
]


@each("info", ACCEPTED)
def test_accepted(info: StateInfo) -> None:
    check_state(info)
    assert State(info).spi == info.spi


def test_the_first_of_several_faults_is_told() -> None:
    """The order of 7.4: put every fault in, then mend them from the front; each answer is the next stage's."""
    faults: list[tuple[dict[str, Any], str]] = [
        ({"selector": Selector(family=7)}, "Invalid address family in selector"),
        ({"comp": COMP}, "Invalid attribute for ESP: COMP"),
        ({"replay_window": 32}, "ESN not compatible with legacy replay_window"),
        ({"mode": 9}, "Unsupported mode"),
        ({"mtimer_thresh": 3}, "MTIMER_THRESH attribute can only be set on ENCAP states"),
        ({"aead": AEAD._replace(name="nosuch", key=b"")}, "Requested AEAD algorithm not found"),
        ({"aead": AEAD._replace(key=b"")}, "Kernel was unable to initialize cryptographic operations"),
        (esn(33), "ESN replay window is too large for the chosen bitmap size"),
    ]
    for first in range(len(faults)):
        fields: dict[str, Any] = esn(32)
        for fault, _ in reversed(faults[first:]):
            fields |= fault
        with pytest.raises(XfrmError) as caught:
            check_state(request(**fields))
        assert caught.value.extack == faults[first][1]
    check_state(request(**esn(32)))
