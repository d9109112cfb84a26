"""iproute2 itself prints what we print: messages of ours, multicast to a real `ip xfrm monitor` (and back).

Root may multicast on a netlink socket, so nothing has to be in any kernel table: states with keys, counters and
windows, and events that take a packet to happen, are printed as well as policies. The values are random, within what
a kernel could say.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.formats.captures import utc_time
from tests.netns import in_netns
from tests.wire.test_against_kernel import Kernel
from xfrmi.core.engine import Engine
from xfrmi.errors import XfrmError
from xfrmi.formats.print_monitor import print_notice
from xfrmi.formats.print_policy import print_policy
from xfrmi.formats.print_state import print_state
from xfrmi.formats.show import Show
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, XFRM_INF
from xfrmi.wire.xfrm_msg import (
    Acquire,
    Aevent,
    Defaults,
    Mapping,
    Migration,
    Move,
    PolicyExpiry,
    SpiRequest,
    StateExpiry,
)
from xfrmi.wire.xfrm_types import (
    Algorithm,
    Current,
    Encap,
    Limits,
    Mark,
    PolicyInfo,
    Replay,
    ReplayEsn,
    Selector,
    StateId,
    StateInfo,
    StateStats,
    Template,
)

NETLINK_XFRM = 6
VERSION = "iproute2-6.1"
ROUND = 120
"""Messages of one run."""
END = "Flushed state proto 77"
"""What is printed for the message that ends a run."""

Notice = tuple[int, Any, bytes]
"""Type, value, body."""


def need_ip() -> None:
    if shutil.which("ip") is None:
        pytest.skip("NO ip COMMAND HERE, ITS PRINTING IS NOT COMPARED")
    version = subprocess.run(["ip", "-V"], capture_output=True, text=True, check=True).stdout
    if VERSION not in version:
        pytest.skip(f"ip IS NOT {VERSION}, ITS PRINTING IS NOT COMPARED: {version.strip()}")


def printed_by_ip(notices: list[Notice], *options: str) -> list[str]:
    """What `ip OPTIONS xfrm monitor` says to each of the messages."""
    environment = os.environ | {"TZ": "UTC", "LC_ALL": "C"}
    with subprocess.Popen(
        ["ip", *options, "xfrm", "monitor"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as monitor, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_XFRM) as sender:
        sender.bind((0, 0))
        assert monitor.stdout is not None
        texts = []
        try:
            _wait_for_listener()
            for kind, _, body in notices:
                _multicast(sender, kind, body)
                _multicast(sender, XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(77))
                text = b""
                while END.encode() not in text:
                    piece = os.read(monitor.stdout.fileno(), 1 << 16)
                    assert piece, f"ip has ended: {text.decode()}"
                    text += piece
                texts.append(text.decode().partition(END)[0])
        finally:
            monitor.terminate()
    return texts


def _multicast(sender: socket.socket, kind: int, body: bytes) -> None:
    own_port = sender.getsockname()[0]  # beside the group a message always has an addressee: not the kernel
    sender.sendto(netlink.message(kind, 0, 0, 0, body), (own_port, Group.SA.bit))
    sender.recv(1 << 17)


def _wait_for_listener() -> None:
    """Until somebody listens to all groups of NETLINK_XFRM."""
    while not re.search(r" 6 +\d+ +ffffffff ", Path("/proc/net/netlink").read_text()):
        time.sleep(0.01)


# Random values that a kernel could report


class Values:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pick = self.rng.choice

    def number(self, bits: int = 32) -> int:
        return self.pick([0, 1, self.rng.getrandbits(8), self.rng.getrandbits(bits), (1 << bits) - 1])

    def address(self, family: int) -> bytes:
        size = 4 if family == AF_INET else 16
        documented = b"\xc0\0\2\1" if family == AF_INET else b"\x20\x01\x0d\xb8".ljust(15, b"\0") + b"\1"
        return self.pick([bytes(size), self.rng.randbytes(size), documented])

    def family(self) -> int:
        return self.pick([AF_INET, AF_INET6])

    def selector(self, family: int | None = None) -> Selector:
        family = family or self.family()
        bits = 32 if family == AF_INET else 128
        ports = [self.pick([(0, 0), (self.number(16), 0xFFFF), (self.number(16), self.number(16))]) for _ in range(2)]
        return Selector(
            family, self.address(family), self.rng.randrange(bits + 1), self.address(family),
            self.rng.randrange(bits + 1), self.pick([0, 1, 6, 17, 58, 132, 33, 135, 47, 50, 4, 200]), *ports[0],
            *ports[1], self.pick([0, 0, 1]), self.pick([0, 0, 1000]),
        )  # fmt: skip

    def limits(self) -> Limits:
        sizes = [self.pick([XFRM_INF, self.number(64)]) for _ in range(4)]
        return self.pick([Limits(), Limits(*sizes, *(self.number() for _ in range(4)))])

    def current(self) -> Current:
        return Current(self.number(64), self.number(64), self.number(31), self.number(31))

    def mark(self) -> Mark:
        return self.pick([Mark(), Mark(self.number(), self.number())])

    def algorithm(self, *names: str, bits: int = 0) -> Algorithm:
        return Algorithm(self.pick(names), self.rng.randbytes(self.pick([0, 1, 16, 20, 36])), bits)

    def maybe(self, value: Callable[[], Any]) -> Any:
        return value() if self.rng.random() < 0.4 else None

    def state(self) -> StateInfo:
        family = self.family()
        kind = self.pick(["aead", "auth", "comp", "none"])
        auth = self.algorithm("hmac(sha1)", "hmac(sha256)", "cmac(aes)", "digest_null", bits=self.pick([96, 128, 256]))
        esn = self.maybe(self.replay_esn)
        return StateInfo(
            src=self.address(family), dst=self.address(family), spi=self.number(),
            proto=self.pick([50, 51, 108, 60, 43, 50, 50]), mode=self.rng.randrange(5), reqid=self.number(),
            if_id=self.number(), family=family,
            selector=self.pick([self.selector(), self.selector(family), Selector(family, bytes(16), 0, bytes(16))]),
            flags=self.number(8), extra_flags=self.pick([0, self.rng.randrange(8)]),
            replay_window=self.pick([0, 32, 255]),
            aead=self.algorithm("rfc4106(gcm(aes))", "rfc7539esp(chacha20,poly1305)", bits=self.pick([64, 128]))
            if kind == "aead" else None,
            auth=Algorithm(auth.name, auth.key) if kind == "auth" else None,
            auth_trunc=auth if kind == "auth" else None,
            crypt=self.algorithm("cbc(aes)", "ecb(cipher_null)") if kind == "auth" and self.pick([0, 1]) else None,
            comp=Algorithm("deflate", b"") if kind == "comp" else None,
            encap=self.maybe(
                lambda: Encap(self.pick([1, 2, 7, 9]), self.number(16), self.number(16), self.address(family))
            ),
            mark=self.mark(), set_mark=self.maybe(lambda: Mark(self.number(), self.number())),
            tfcpad=self.number(), replay=None if esn else Replay(self.number(), self.number(), self.number()),
            replay_esn=esn, limits=self.limits(), current=self.current(),
            stats=StateStats(self.number(), self.number(), self.number()), seq=self.number(),
            coaddr=self.maybe(lambda: self.address(family)), lastused=self.number(31),
            offload=self.maybe(lambda: (1, self.rng.randrange(4))),
            mtimer_thresh=self.number(), nat_keepalive_interval=self.number(),
        )  # fmt: skip

    def replay_esn(self) -> ReplayEsn:
        words = tuple(self.rng.getrandbits(32) for _ in range(self.pick([0, 1, 4, 9])))
        return ReplayEsn(words, *(self.number() for _ in range(5)))

    def template(self) -> Template:
        family = self.family()
        return Template(
            self.address(family), self.address(family), self.number(), self.pick([50, 51, 108, 43, 60, 255, 0]),
            self.rng.randrange(5), self.number(), self.pick([0, 1, 2]), family, self.rng.randrange(4),
            *(self.pick([0xFFFFFFFF, self.number()]) for _ in range(3)),
        )  # fmt: skip

    def policy(self) -> PolicyInfo:
        return PolicyInfo(
            self.selector(), self.rng.randrange(3), self.number(),
            tuple(self.template() for _ in range(self.pick([0, 1, 1, 2, 6]))), self.rng.randrange(2), self.number(),
            self.mark(), self.number(), self.rng.randrange(8), self.rng.randrange(4), self.rng.randrange(2),
            self.limits(), self.current(),
        )  # fmt: skip

    def notices(self, count: int) -> Iterator[Notice]:
        makers = [self._state, self._policy, self._expiries, self._aevent, self._acquire, self._mapping, self._others]
        for _ in range(count):
            yield self.pick(makers)()

    def _state(self) -> Notice:
        info = self.state()
        kind = self.pick([XfrmMsg.NEWSA, XfrmMsg.UPDSA, XfrmMsg.DELSA])
        body = xfrm_msg.encode_state_deleted(info) if kind == XfrmMsg.DELSA else xfrm_msg.encode_state(info, reply=True)
        return kind, info, body

    def _policy(self) -> Notice:
        info = self.policy()
        kind = self.pick([XfrmMsg.NEWPOLICY, XfrmMsg.UPDPOLICY, XfrmMsg.DELPOLICY])
        encode = xfrm_msg.encode_policy_deleted if kind == XfrmMsg.DELPOLICY else xfrm_msg.encode_policy
        return kind, info, encode(info)

    def _expiries(self) -> Notice:
        hard = self.pick([False, True])
        if self.pick([0, 1]):
            policy = PolicyExpiry(self.policy(), hard)
            return XfrmMsg.POLEXPIRE, policy, xfrm_msg.encode_policy_expiry(policy)
        state = StateExpiry(self.state(), hard)
        return XfrmMsg.EXPIRE, state, xfrm_msg.encode_state_expiry(state, reply=True)

    def _aevent(self) -> Notice:
        family = self.family()
        name = StateId(self.address(family), self.number(), self.pick([50, 51, 108]), family, self.mark())
        event = Aevent(
            name, self.address(family), self.number(), self.pick([16, 32, 64, 48, 0, 0x7F]), Replay(1, 2, 3),
            current=self.current(), if_id=self.number(),
        )  # fmt: skip
        return XfrmMsg.NEWAE, event, xfrm_msg.encode_aevent(event, reply=True)

    def _acquire(self) -> Notice:
        policy = self.policy()
        family = self.family()
        event = Acquire(
            self.address(family), self.address(family), self.selector(policy.selector.family), policy, self.number(),
            self.number(), self.pick([50, 51, 108]), self.number(), self.number(), self.number(),
        )  # fmt: skip
        return XfrmMsg.ACQUIRE, event, xfrm_msg.encode_acquire(event)

    def _mapping(self) -> Notice:
        family = self.family()
        name = StateId(self.address(family), self.number(), 50, family)
        event = Mapping(
            name, self.number(), self.address(family), self.number(16), self.address(family), self.number(16)
        )  # fmt: skip
        return XfrmMsg.MAPPING, event, xfrm_msg.encode_mapping(event)

    def _others(self) -> Notice:
        what = self.rng.randrange(4)
        if what == 0:
            proto = self.pick([0, 50, 51, 108])
            return XfrmMsg.FLUSHSA, proto, xfrm_msg.encode_flush_states(proto)
        if what == 1:
            kind = self.rng.randrange(2)
            return XfrmMsg.FLUSHPOLICY, kind, xfrm_msg.encode_flush_policies(kind)
        if what == 2:
            defaults = Defaults(*(self.pick([1, 2]) for _ in range(3)))
            return XfrmMsg.GETDEFAULT, defaults, xfrm_msg.encode_defaults(defaults)
        family = self.family()
        moves = tuple(Move(*(self.address(AF_INET) for _ in range(4))) for _ in range(self.pick([1, 3])))
        migration = Migration(self.selector(family), 1, moves)
        return XfrmMsg.MIGRATE, migration, xfrm_msg.encode_migration_notice(migration)


OPTIONS = [((), {}), (("-s",), {"stats": 1}), (("-o",), {"oneline": True}), (("-s", "-s"), {"stats": 2})]


def shows(**shown: Any) -> Show:
    names = {0: "*", 1: "lo"}
    return Show(localtime=utc_time, ifname=lambda index: names.get(index, f"if{index}"), **shown)


@pytest.mark.parametrize("options, shown", OPTIONS, ids=lambda value: "".join(value))
@in_netns
def test_7_9_events_are_printed_as_ip_prints_them(options: tuple[str, ...], shown: dict[str, Any]) -> None:
    need_ip()
    notices = list(Values(len(options)).notices(ROUND))
    show = shows(**shown)
    for (kind, value, body), theirs in zip(notices, printed_by_ip(notices, *options), strict=True):
        message = netlink.Message(kind, 0, 0, 0, memoryview(body))
        assert print_notice(kind, xfrm_msg.decode_notice(message), show) == theirs, (kind, value)


@pytest.mark.parametrize("options, shown", OPTIONS, ids=lambda value: "".join(value))
@in_netns
def test_7_9_tables_are_listed_as_ip_lists_the_kernels(options: tuple[str, ...], shown: dict[str, Any]) -> None:
    """The same random policies and larval states, in the kernel's tables and in ours."""
    need_ip()
    kernel, engine, values = Kernel(), Engine(), Values(7)
    for number in range(40):
        policy = replace(values.policy(), index=0, current=Current())
        limits = policy.limits._replace(soft_add=0, hard_add=10**6, soft_use=0, hard_use=0)
        policy = replace(policy, limits=limits)
        with suppress(XfrmError):
            engine.add_policy(policy, time.time())
        with suppress(XfrmError):
            kernel.ask(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(policy))
        wanted = replace(values.state(), proto=50, dir=0, pcpu=None)
        engine.alloc_spi(wanted, number + 1, number + 1, time.time())
        kernel.ask(XfrmMsg.ALLOCSPI, xfrm_msg.encode_alloc_spi(SpiRequest(wanted, number + 1, number + 1)))
    assert len(engine.spd) > 10 and len(engine.sad) == 40
    show = shows(**shown)
    ours = [print_policy(policy.snapshot(), show) for policy in engine.policies()]
    assert timeless("".join(ours)) == timeless(listed("policy", *options))
    ours = [print_state(state.snapshot(), show) for state in engine.states()]
    assert timeless("".join(ours)) == timeless(listed("state", *options))


def timeless(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "some day", text)


def listed(what: str, *options: str) -> str:
    environment = os.environ | {"TZ": "UTC", "LC_ALL": "C"}
    command = ["ip", *options, "xfrm", what]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
