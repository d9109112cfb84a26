"""T-24: what the host's own NETLINK_XFRM refuses, a daemon refuses with the same errno and in the same words.

The requests are those of tests/daemon/test_against_kernel.py, where all else that is answered and announced is compared
as well; here they go through a daemon's socket.
"""

from __future__ import annotations

import errno
import socket

from tests.daemon.test_against_kernel import FORM, LACKING, refusals
from tests.system.hosts import Hosts, at
from tests.system.stage import on_stage
from tests.wire.test_against_kernel import Kernel, recent, refusal
from xfrmi.client.channel import Channel, connect
from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import NLM_F_ACK
from xfrmi.wire.xfrm_attr import XfrmMsg

NO_ESP = {
    "Requested type not found",
    "Requested AEAD algorithm not found",
    "Requested AUTH algorithm not found",
    "Requested CRYPT algorithm not found",
}
"""What a kernel without ESP and its algorithms says to states that are otherwise in order."""
ROWS = {
    "dir 3": (errno.EINVAL, "Invalid policy direction"),
    "action 2": (errno.EINVAL, "Invalid policy action"),
    "share 9": (errno.EINVAL, "Invalid policy share"),
    "policy type 2": (errno.EINVAL, "Invalid policy type"),
    "selector family 0": (errno.EINVAL, "Invalid selector family"),
    "prefix length 33": (errno.EINVAL, "Invalid prefix length in selector (must be <= 32 for IPv4)"),
    "index of another direction": (errno.EINVAL, "Policy index doesn't match direction"),
    "template protocol": (errno.EINVAL, "Invalid XFRM protocol in template"),
    "template mode 6": (errno.EINVAL, "Mode in template must be < XFRM_MODE_MAX (6)"),
    "transport template of the other family": (errno.EINVAL, "Mode in template doesn't support a family change"),
    "optional tunnel template": (errno.EINVAL, "Mode in optional template not allowed in outbound policy"),
    "7 templates": (errno.EINVAL, "Template count must be <= XFRM_MAX_DEPTH (6)"),
    "attribute too short": (errno.ERANGE, "Attribute failed policy validation"),
    "policy there is": (errno.EEXIST, ""),
    "policy there is not": (errno.ENOENT, ""),
    "state there is not": (errno.ESRCH, ""),
    "NEWAE without REPLACE": (errno.EINVAL, "NLM_F_REPLACE flag is required"),
    "NEWAE without attributes": (errno.EINVAL, "Missing required attribute for AE"),
    "state of family 0": (errno.EINVAL, "Invalid address family"),
    "state protocol 17": (errno.EINVAL, "Unsupported protocol"),
    "state mode 3": (errno.EINVAL, "Unsupported mode"),
    "ESP without algorithm": (
        errno.EINVAL,
        "Missing required attribute for ESP: at least one of AUTH, AUTH_TRUNC, CRYPT, AEAD",
    ),
    "AEAD and CRYPT": (
        errno.EINVAL,
        "Invalid attribute combination for ESP: AEAD can't be used with AUTH, AUTH_TRUNC, CRYPT",
    ),
    "AH without AUTH": (errno.EINVAL, "Missing required attribute for AH: AUTH_TRUNC or AUTH"),
    "AH with CRYPT": (errno.EINVAL, "Invalid attributes for AH: AEAD, CRYPT, COMP, TFCPAD"),
    "ESP with COMP": (errno.EINVAL, "Invalid attribute for ESP: COMP"),
    "ESN without its attribute": (errno.EINVAL, "Missing required attribute for ESN"),
    "ESN and replay_window": (errno.EINVAL, "ESN not compatible with legacy replay_window"),
    "TFC padding in transport mode": (errno.EINVAL, "TFC padding can only be used in tunnel mode"),
    "IPTFS without direction": (errno.EINVAL, "IP-TFS mode requires in or out direction attribute"),
    "pcpu without direction": (errno.EINVAL, "SA_PCPU only supported with SA_DIR"),
    "direction 3": (errno.ERANGE, "integer out of range"),
    "out with a replay window": (errno.EINVAL, "Replay window should be 0 for output SA"),
    "in with nopmtudisc": (errno.EINVAL, "Flag NOPMTUDISC should not be set for input SA"),
    "MTIMER_THRESH without encapsulation": (errno.EINVAL, "MTIMER_THRESH attribute can only be set on ENCAP states"),
    "COMP SPI over 0xffff": (errno.EINVAL, "SPI is too large for COMP (must be < 0x10000)"),
    "ALLOCSPI min > max": (errno.EINVAL, "Invalid SPI range: min > max"),
    "ALLOCSPI of an unknown protocol": (errno.EINVAL, "Invalid protocol, must be one of AH, ESP, IPCOMP"),
    "ALLOCSPI none free": (errno.ENOENT, "No SPI available in the requested range"),
    "MIGRATE without its attribute": (errno.EINVAL, "Missing required MIGRATE attribute"),
}
"""The table of 7.4, as far as a kernel without ESP gets to it: each of these must have come up."""


@recent
@on_stage
def test_t24_errno_and_words(hosts: Hosts) -> None:
    """T-24: 7.4, NL-09."""
    with hosts.lab.node("kernel"):
        kernel = Kernel()
    with at(hosts.moon):
        daemon = Channel(connect("/proc/self/ns/net", "xfrm", socket.SOCK_SEQPACKET, timeout=5))
    seen = set()
    for kind, body, flags in refusals():
        theirs, ours = refusal(kernel, kind, body, flags), said_by(daemon, kind, body, flags)
        if theirs and theirs[0] in LACKING and theirs[1] in NO_ESP and kind in (XfrmMsg.NEWSA, XfrmMsg.UPDSA):
            flush = XfrmMsg.FLUSHSA, b"\0", NLM_F_ACK
            refusal(kernel, *flush)
            said_by(daemon, *flush)
        elif not (ours and ours[1] in FORM):
            assert worded(ours) == worded(theirs), f"type {kind:#x} flags {flags:#x} body {body.hex()}"
            seen.add(ours)
    daemon.close()
    assert {name for name, row in ROWS.items() if row not in seen} == set()


def said_by(daemon: Channel, kind: int, body: bytes, flags: int) -> tuple[int, str] | None:
    try:
        list(daemon.ask(kind, flags, body))
    except XfrmError as error:
        return error.errno, error.extack
    return None


def worded(answer: tuple[int, str] | None) -> tuple[int, str] | None:
    """Without a warning that is beside the answer."""
    return (answer[0], "") if answer and answer[1].startswith("bytes leftover") else answer
