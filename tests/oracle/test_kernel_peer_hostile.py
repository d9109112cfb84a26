"""Requests that were spoiled at random, given to a kernel that has everything and to us: the same errno refuses them.

We know what kernels after 6.12 know, too: requests with attributes of theirs are left out.
"""

from __future__ import annotations

import random
import signal
import struct

from tests.daemon.messages import ROOT, answers
from tests.daemon.test_against_kernel import FORM, SEEDS, shown, spoiled
from tests.oracle.kernelpeer.machine import Machine
from tests.stage import on_stage
from xfrmi.core.engine import Engine
from xfrmi.daemon.events import Events
from xfrmi.daemon.xfrm_handler import XfrmHandler
from xfrmi.wire import netlink
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_REQUEST
from xfrmi.wire.xfrm_attr import XfrmMsg

NETLINK_XFRM = 6
FIRST_NEWER, LAST_NEWER = 34, 48
COUNT = 3000
SECONDS = 240


def requests(rng: random.Random) -> list[bytes]:
    """Each alone with an empty table: what one has done must not hide what another does."""
    made = []
    while len(made) < 3 * COUNT:
        kind, body, flags = spoiled(rng, rng.choice(SEEDS))
        if is_newer(body):
            continue
        made.append((kind, flags & ~netlink.NLM_F_DUMP | NLM_F_ACK, body))
        made += [(XfrmMsg.FLUSHSA, NLM_F_ACK, b"\0"), (XfrmMsg.FLUSHPOLICY, NLM_F_ACK, b"")]
    return [
        netlink.message(kind, NLM_F_REQUEST | flags, number + 1, 0, body)
        for number, (kind, flags, body) in enumerate(made)
    ]


def is_newer(body: bytes) -> bool:
    """Is there anything in it that may be such an attribute?"""
    at = range(0, len(body) - 3, 4)
    return any(
        FIRST_NEWER <= kind & 0x3FFF < LAST_NEWER and 4 <= length <= len(body) - offset
        for offset in at
        for length, kind in (struct.unpack_from("=HH", body, offset),)
    )


def ending(messages: list[netlink.Message]) -> tuple[int, str]:
    _, _, number, phrase = shown(messages, lambda message: None)[-1]  # type: ignore[misc]
    return number, phrase  # type: ignore[return-value]


@on_stage
def test_the_same_refusals(booted: Machine) -> None:
    signal.alarm(SECONDS)
    asked = requests(random.Random(20261))
    conversation = booted.ask(0, "converse", NETLINK_XFRM, asked)
    engine = Engine()
    handle = XfrmHandler(engine, Events(engine)).handle
    ours = [ending(answers(handle, request, ROOT)) for request in asked]
    theirs = [
        ending([message for datagram in datagrams for message in netlink.split(datagram)])
        for datagrams in conversation.result(SECONDS)
    ]
    differ = [
        f"{request[4:6].hex()} {request[16:].hex()}\n  here {our}, kernel {their}"
        for request, our, their in zip(asked, ours, theirs, strict=True)
        if our[0] != their[0] and our[1] not in FORM and "XFRM_MODE_MAX" not in their[1]
    ]
    assert sum(1 for number, _ in theirs if number) > COUNT / 4, "most are good for something"
    assert not differ, f"{len(differ)} of {COUNT}\n" + "\n".join(differ[:20])
