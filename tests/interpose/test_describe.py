"""`--verbose`: what a line says, that it never says a key, and that nothing brings it down."""

from __future__ import annotations

import random
import re

import pytest

from tests.core.samples import state_info
from tests.daemon.messages import KEY, POLICY, STATE
from tests.daemon.test_against_kernel import SEEDS, spoiled
from tests.interpose.supervised import STATE as STATE_WORDS
from tests.interpose.supervised import daemon, run
from tests.netns import in_netns
from xfrmi.interpose.bpf import NETLINK_ROUTE, NETLINK_XFRM
from xfrmi.interpose.describe import describe
from xfrmi.wire import link_msg, netlink, xfrm_msg
from xfrmi.wire.link_types import LinkInfo
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_types import Algorithm


def line(kind: int, body: bytes = b"", flags: int = 0, protocol: int = NETLINK_XFRM, is_request: bool = True) -> str:
    datagram = netlink.message(kind, NLM_F_REQUEST * is_request | flags, 5, 0, body)
    (said,) = describe(protocol, memoryview(datagram), is_request)
    return said


def test_requests() -> None:
    assert line(XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE), NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE) == (
        "NEWSA seq 5 ACK|EXCL|CREATE  src 192.0.2.1 dst 192.0.2.2 spi 0x1001 proto esp mode tunnel reqid 7 "
        "if_id 0x2a selector {0.0.0.0/0 > 0.0.0.0/0} aead rfc4106(gcm(aes)) 160-bit key 128"
    )
    assert line(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(POLICY)) == (
        "NEWPOLICY seq 5  selector {10.0.0.0/8 > 10.1.0.0/16} dir out if_id 0x2a "
        "templates [src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel reqid 7] action allow"
    )
    assert line(XfrmMsg.GETSA, b"", NLM_F_DUMP) == "GETSA seq 5 DUMP"
    assert line(77).startswith("type 77 seq 5")


def test_answers() -> None:
    request = netlink.Message(XfrmMsg.NEWSA, 1, 5, 0, memoryview(b""))
    assert list(describe(NETLINK_XFRM, memoryview(netlink.ack(request)), False)) == ["ERROR seq 5  ok"]
    (said,) = describe(NETLINK_XFRM, memoryview(netlink.error(request, 17, "no room")), False)
    assert said == "ERROR seq 5  File exists: no room"
    dump = xfrm_msg.encode_state(STATE, reply=True)
    assert "spi 0x1001" in line(XfrmMsg.NEWSA, dump, is_request=False)


def test_links() -> None:
    body = link_msg.encode_link(LinkInfo("xfrm0", if_id=42, link=2, flags=1, change=1, mtu=1400))
    said = line(link_msg.RTM_NEWLINK, body, protocol=NETLINK_ROUTE)
    assert said == "NEWLINK seq 5  xfrm0 type xfrm if_id 0x2a link 2 mtu 1400 up"
    assert line(26, bytes(12), NLM_F_DUMP, NETLINK_ROUTE) == "GETROUTE seq 5 DUMP"


def test_keys_are_not_told() -> None:
    secret = b"secret-secret-16"
    for info in (
        state_info(aead=Algorithm("rfc4106(gcm(aes))", secret + b"salt", 128)),
        state_info(aead=None, crypt=Algorithm("cbc(aes)", secret), auth_trunc=Algorithm("hmac(sha1)", secret, 96)),
    ):
        for reply in (False, True):
            said = line(XfrmMsg.NEWSA, xfrm_msg.encode_state(info, reply=reply), is_request=not reply)
            assert "secret" not in said and secret.hex() not in said and "-bit key" in said


@pytest.mark.parametrize("seed", range(3))
def test_what_is_almost_right_is_told_somehow(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(2000):
        kind, body, flags = spoiled(rng, rng.choice(SEEDS))
        datagram = bytearray(netlink.message(kind, NLM_F_REQUEST | flags, 1, 0, body))
        for _ in range(rng.choice([0, 0, 1])):
            datagram[rng.randrange(len(datagram))] = rng.randrange(256)
        for protocol in (NETLINK_XFRM, NETLINK_ROUTE):
            for is_request in (False, True):
                for said in describe(protocol, memoryview(datagram), is_request):
                    assert said.isprintable()


@in_netns
def test_as_a_program_is_run() -> None:
    with daemon():
        told = run(f"ip xfrm state add {STATE_WORDS}; ip xfrm policy count; cat /proc/net/xfrm_stat", "-v")
        assert told.returncode == 0
        assert KEY.hex() not in told.stderr and "0123456789abcdef" not in told.stderr
        lines = [re.sub(r"^\d+ ", "", text) for text in told.stderr.splitlines()]
        for wanted in (
            r"ip   socket\(NETLINK_XFRM\) = 76[89]$",
            r"ip > NEWSA seq \d+ ACK  src 192.0.2.1 dst 192.0.2.2 spi",
            r"ip < ERROR seq \d+  ok",
        ):
            assert any(re.match(wanted, text) for text in lines), told.stderr
        assert "cat   open(xfrm_stat)" in lines
