"""SPD and SAD against the NETLINK_XFRM of the kernel we run on: the same requests get the same answers.

Everything happens in a network namespace of its own. Policies behave alike down to index and order; of states only
the larval ones can be compared, since not every kernel has ESP to install valid ones.
"""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.core.samples import NOW, fixed_random, policy_info, state_id, state_info, template
from tests.core.test_spd_check import ACCEPTED, REFUSED, WIDE4
from tests.netns import in_netns
from xfrmi.core.sad import Sad
from xfrmi.core.spd import Spd
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, Message
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import Dir
from xfrmi.wire.xfrm_types import Mark, PolicyId, PolicyInfo

NETLINK_XFRM = 6
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
NLMSG_ERROR, NLMSG_DONE = 2, 3


class Kernel:
    """A socket to the real thing."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM)
        except OSError as error:
            pytest.skip(f"THIS KERNEL HAS NO NETLINK_XFRM, NOT COMPARED: {error}")
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.settimeout(5)

    def ask(self, kind: XfrmMsg, body: bytes, flags: int = NLM_F_ACK) -> list[Message]:
        """The messages that answer; raises XfrmError for a refusal."""
        self._socket.send(netlink.message(kind, NLM_F_REQUEST | flags, 1, 0, body))
        answers = []
        while True:
            for answer in netlink.split(self._socket.recv(1 << 16)):
                if answer.type == NLMSG_ERROR:
                    netlink.raise_error(answer)
                    return answers
                if answer.type == NLMSG_DONE:
                    return answers
                answers.append(answer)

    def policies(self) -> list[str]:
        """The dump, message by message."""
        return [
            _without(_POLICY_CURRENT, bytes(answer.body)) for answer in self.ask(XfrmMsg.GETPOLICY, b"", NLM_F_DUMP)
        ]

    def states(self) -> list[str]:
        return [_without(_STATE_CURRENT, bytes(answer.body)) for answer in self.ask(XfrmMsg.GETSA, b"", NLM_F_DUMP)]


_POLICY_CURRENT, _STATE_CURRENT = slice(120, 152), slice(160, 192)
"""Where xfrm_userpolicy_info and xfrm_usersa_info have times, which differ."""


def _without(times: slice, body: bytes) -> str:
    return (body[: times.start] + body[times.stop :]).hex()


def policies_of(spd: Spd) -> list[str]:
    return [_without(_POLICY_CURRENT, xfrm_msg.encode_policy(policy.snapshot())) for policy in spd.dump()]


def states_of(sad: Sad) -> list[str]:
    return [_without(_STATE_CURRENT, xfrm_msg.encode_state(s.snapshot(), reply=True)) for s in sad.dump()]


def answer_of(request: Callable[..., object], *arguments: Any) -> tuple[int, str]:
    """(errno, phrase) of a refusal; (0, "") of a success."""
    try:
        request(*arguments)
    except XfrmError as refusal:
        return refusal.errno, refusal.extack
    return 0, ""


def compare(ours: list[str], theirs: list[str], request: object) -> None:
    """Fail at the first entry that differs."""
    for our, their in itertools.zip_longest(ours, theirs):
        if our != their:
            pytest.fail(f"after {request}\nours   {our}\ntheirs {their}")


def policy_steps(rng: random.Random, count: int) -> Iterator[tuple[XfrmMsg, Any]]:
    """Requests that often meet each other."""
    for _ in range(count):
        mark = rng.choice([Mark(), Mark(), Mark(0x10, 0xF0), Mark(0x15, 0xF0)])
        info = policy_info(
            rng.choice(["10.0.0.0/8", "10.0.0.1/8", "0.0.0.0/0", "2001:db8::/32"]),
            dir=rng.choice([*Dir, Dir.OUT, Dir.IN]),
            if_id=rng.choice([0, 0, 7]),
            mark=mark,
            type=rng.choice([0, 0, 0, 1]),
            priority=rng.randrange(3),
            index=rng.choice([0, 0, 0, 0, 9, 0x1001, 0x1000, 0x1002, 17]),
            share=rng.choice([0, 0, 0, 3, 4]),
            flags=rng.randrange(4),
            proto=rng.choice([0, 0, 17]),
            dport=rng.choice([None, None, 53]),
            templates=rng.choice([(), (template(),), (template(mode=0),), (template(),) * 7]),
        )
        named = PolicyId(info.selector, info.dir, info.if_id, 0, mark, info.type)
        by_index = replace(named, index=rng.choice([1, 8, 9, 16, 17, 25, 26, 0x1001]))
        yield rng.choice(
            [
                (XfrmMsg.NEWPOLICY, info),
                (XfrmMsg.NEWPOLICY, info),
                (XfrmMsg.NEWPOLICY, info),
                (XfrmMsg.UPDPOLICY, info),
                (XfrmMsg.UPDPOLICY, info),
                (XfrmMsg.DELPOLICY, named),
                (XfrmMsg.DELPOLICY, by_index),
                (XfrmMsg.GETPOLICY, named),
                (XfrmMsg.GETPOLICY, by_index),
                *([(XfrmMsg.FLUSHPOLICY, rng.choice([0, 1, 2]))] if rng.random() < 0.2 else []),
            ]
        )


POLICY_BODIES: dict[XfrmMsg, Callable[[Any], bytes]] = {
    XfrmMsg.NEWPOLICY: xfrm_msg.encode_policy,
    XfrmMsg.UPDPOLICY: xfrm_msg.encode_policy,
    XfrmMsg.DELPOLICY: xfrm_msg.encode_policy_id,
    XfrmMsg.GETPOLICY: xfrm_msg.encode_policy_id,
    XfrmMsg.FLUSHPOLICY: xfrm_msg.encode_flush_policies,
}


def policy_actions(spd: Spd) -> dict[XfrmMsg, Callable[[Any], object]]:
    return {
        XfrmMsg.NEWPOLICY: lambda info: spd.insert(info, NOW),
        XfrmMsg.UPDPOLICY: lambda info: spd.update(info, NOW),
        XfrmMsg.DELPOLICY: lambda named: spd.delete(named, NOW),
        XfrmMsg.GETPOLICY: spd.get,
        XfrmMsg.FLUSHPOLICY: lambda kind: spd.flush(kind, NOW),
    }


@pytest.mark.parametrize("seed", range(8))
@in_netns
def test_policies_live_as_in_the_kernel(seed: int) -> None:
    kernel, spd = Kernel(), Spd(lambda _: None)
    actions = policy_actions(spd)
    for kind, argument in policy_steps(random.Random(seed), 150):
        theirs = answer_of(kernel.ask, kind, POLICY_BODIES[kind](argument))
        assert answer_of(actions[kind], argument) == theirs, (kind, argument)
        compare(policies_of(spd), kernel.policies(), (kind, argument))


@in_netns
def test_7_4_policies_are_refused_in_the_same_words() -> None:
    kernel = Kernel()
    for fields in [*(fields for _, fields in REFUSED), *ACCEPTED]:
        info = PolicyInfo(**{"selector": WIDE4} | fields)
        spd = Spd(lambda _: None)
        theirs = answer_of(kernel.ask, XfrmMsg.UPDPOLICY, xfrm_msg.encode_policy(info))
        assert answer_of(spd.update, info, NOW) == theirs, fields


def state_steps(rng: random.Random, count: int) -> Iterator[tuple[XfrmMsg, Any]]:
    for _ in range(count):
        spi = rng.randrange(4)
        high = spi + (0 if rng.random() < 0.9 else -1)
        mark = rng.choice([Mark(), Mark(), Mark(1, 1), Mark(0x11, 0xF0)])
        info = replace(
            state_info(0),
            aead=None,
            proto=rng.choice([50, 50, 50, 51, 108, 17]),
            reqid=rng.choice([7, 8]),
            mode=rng.choice([0, 1]),
            if_id=rng.choice([0, 7]),
            mark=mark,
            dir=rng.choice([0, 0, 1, 2]),
            seq=rng.choice([0, 0, 5]),
        )
        named = state_id(spi, proto=rng.choice([50, 50, 51]), mark=mark)
        yield rng.choice(
            [
                (XfrmMsg.ALLOCSPI, xfrm_msg.SpiRequest(info, spi, max(high, 0))),
                (XfrmMsg.ALLOCSPI, xfrm_msg.SpiRequest(info, spi, max(high, 0))),
                (XfrmMsg.DELSA, named),
                (XfrmMsg.GETSA, named),
                (XfrmMsg.EXPIRE, xfrm_msg.StateExpiry(replace(info, spi=spi), True)),
                *([(XfrmMsg.FLUSHSA, rng.choice([0, 50, 51, 255]))] if rng.random() < 0.2 else []),
            ]
        )


STATE_BODIES: dict[XfrmMsg, Callable[[Any], bytes]] = {
    XfrmMsg.ALLOCSPI: xfrm_msg.encode_alloc_spi,
    XfrmMsg.DELSA: xfrm_msg.encode_state_id,
    XfrmMsg.GETSA: xfrm_msg.encode_state_id,
    XfrmMsg.EXPIRE: xfrm_msg.encode_state_expiry,
    XfrmMsg.FLUSHSA: xfrm_msg.encode_flush_states,
}


def state_actions(sad: Sad) -> dict[XfrmMsg, Callable[[Any], object]]:
    return {
        XfrmMsg.ALLOCSPI: lambda wanted: sad.alloc_spi(wanted.info, wanted.min, wanted.max, NOW),
        XfrmMsg.DELSA: lambda named: sad.delete(named, NOW),
        XfrmMsg.GETSA: sad.get,
        XfrmMsg.EXPIRE: lambda e: sad.expire(state_id(e.info.spi, proto=e.info.proto, mark=e.info.mark), e.hard, NOW),
        XfrmMsg.FLUSHSA: lambda proto: sad.flush(proto, NOW),
    }


@pytest.mark.parametrize("seed", range(8))
@in_netns
def test_larval_states_live_as_in_the_kernel(seed: int) -> None:
    kernel, sad = Kernel(), Sad(lambda _: None, fixed_random)
    actions = state_actions(sad)
    for kind, argument in state_steps(random.Random(seed), 150):
        theirs = answer_of(kernel.ask, kind, STATE_BODIES[kind](argument))
        assert answer_of(actions[kind], argument) == theirs, (kind, argument)
        compare(states_of(sad), kernel.states(), (kind, argument))
