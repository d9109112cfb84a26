"""Engines that are made to be looked at, and thrown away: of the tables given, of the peer that mirrors them, and
with keys nobody uses.

Sealing one more packet with the key and the numbers of a running state would spend a sequence number that is not
ours, or seal two packets under one nonce, which gives away what AES-GCM authenticates with. So a packet that was not
sent is sealed under a key that is drawn for it, of the same algorithm (`with_new_keys`), and one that was sent comes
out again as it went (`pin`): same number, same IV, same packet, so same bytes.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from xfrmi.core import esp
from xfrmi.core.engine import Engine
from xfrmi.core.interface import Interface
from xfrmi.core.replay import EsnWindow, Window
from xfrmi.core.router import Router, StaticRouter
from xfrmi.core.state import State
from xfrmi.daemon.policy_filters import demands
from xfrmi.errors import XfrmError
from xfrmi.teach.tables import Tables
from xfrmi.wire.esp import ESP_HEADER_LEN, SEQ
from xfrmi.wire.ip import Buffer, split_outer
from xfrmi.wire.link_types import XFRM_LINK_MTU, LinkInfo
from xfrmi.wire.xfrm_const import IPPROTO_ESP, Dir, Mode, SaDir
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateInfo, Template

_PEER_WINDOW = 32
"""Of the peer, where the sender's side of a state has none because it only sends."""


class Everywhere(StaticRouter):
    """All addresses are this host's, or none: files of states do not tell."""

    def __init__(self, mtu: int, here: bool = True) -> None:
        super().__init__(mtu)
        self.here = here

    def is_local(self, ifindex: int, address: bytes) -> bool:
        return self.here


def build(tables: Tables, router: Router, now: float) -> Engine:
    """An engine with these tables. Larval states are left out. Raises XfrmError as the requests would."""
    engine = Engine(router)
    for info in tables.states:
        if info.spi and (info.aead is not None or info.crypt is not None or info.auth is not None):
            engine.add_state(info, now)
    for policy in tables.policies:
        engine.add_policy(policy, now)
    for link in tables.links or links_of(tables.policies):
        interface = engine.add_interface(link.name, link.if_id or 0, link.link or 0, link.external)
        interface.ifindex = link.ifindex
        interface.mtu = link.mtu or XFRM_LINK_MTU
    if any(map(demands, tables.policies)):
        engine.interfaces.add_policy_based()
    return engine


def links_of(policies: Sequence[PolicyInfo]) -> list[LinkInfo]:
    """An xfrm device for each if_id of a policy."""
    if_ids = dict.fromkeys(policy.if_id for policy in policies if policy.if_id)
    return [LinkInfo(f"if_id {if_id:#x}", if_id=if_id) for if_id in if_ids]


def choose_interface(engine: Engine, name: str | None, where: str) -> Interface:
    """The one named, or the only one. Raises XfrmError ENODEV."""
    hidden = engine.interfaces.policy_based
    if name is not None:
        return hidden if hidden is not None and name == hidden.name else engine.interfaces[name]
    if hidden is not None and not len(engine.interfaces):
        return hidden
    if len(engine.interfaces) == 1:
        return next(iter(engine.interfaces))
    if not len(engine.interfaces):
        raise XfrmError(errno.ENODEV, detail=f"there is no xfrm interface, and no policy for one, in {where}")
    names = ", ".join(interface.name for interface in engine.interfaces)
    raise XfrmError(errno.ENODEV, detail=f'through which interface? Name it with "-i": {names}')


def with_new_keys(tables: Tables) -> Tables:
    """The same, but for the keys."""
    return replace(tables, states=tuple(map(_with_new_keys, tables.states)), live=False)


def _with_new_keys(info: StateInfo) -> StateInfo:
    def other(algorithm: Algorithm | None) -> Algorithm | None:
        return algorithm and algorithm._replace(key=secrets.token_bytes(len(algorithm.key)))

    return replace(
        info, aead=other(info.aead), crypt=other(info.crypt), auth=other(info.auth), auth_trunc=other(info.auth_trunc)
    )


def mirror(engine: Engine, interface: Interface, now: float) -> Engine:
    """The peer: what we send with it receives with, and what we demand on the way out it demands on the way in."""
    peer = Engine(Everywhere(XFRM_LINK_MTU))
    for state in engine.sad.dump():
        if state.dir != SaDir.IN:
            peer.sad.insert(other_end(state, state.sequence.last, now), now)
    for policy in reversed(engine.spd.dump()):
        if policy.dir == Dir.OUT and policy.if_id == interface.if_id:
            for direction in (Dir.IN, Dir.FWD):
                info = replace(policy.info, dir=direction, index=0, priority=policy.priority + 1)
                peer.spd.update(info, now)
            for nested in _of_packets_between(policy.info):
                peer.spd.update(nested, now)
    if interface.policy_based:
        peer.interfaces.add_policy_based()
    else:
        peer.add_interface(f"{interface.name} of the peer", interface.if_id)
    return peer


def _of_packets_between(info: PolicyInfo) -> Iterator[PolicyInfo]:
    """With tunnels in tunnels: what lets in the ESP packets that come out of the outer ones."""
    ends: Template | None = None
    for position, template in enumerate(info.templates):
        if template.mode == Mode.TRANSPORT:
            continue
        if ends is not None:
            bits = 8 * len(ends.src)
            selector = Selector(ends.family, ends.src, bits, ends.dst, bits, IPPROTO_ESP)
            yield PolicyInfo(selector, Dir.IN, info.if_id, info.templates[position:])
        ends = template


def other_end(state: State, last: int, now: float) -> State:
    """What opens what `state` seals, after it has received the number `last`. Its window is that of `state`; where that
    only sends, it has one of its own."""
    info = state.info
    size = state.window.size
    if state.dir == SaDir.OUT:
        info, size = replace(info, dir=SaDir.NONE, nat_keepalive_interval=0), size or _PEER_WINDOW
    other = State(info, now=now)
    other.window = EsnWindow(size or _PEER_WINDOW, last) if state.esn else Window(size, last)
    return other


def pin(states: Sequence[State], outer: Buffer, now: float) -> None:
    """Make `states`, innermost first, seal next as they did when `outer` came out. Their numbers are those of now, or
    later than then. Raises Drop, ValueError if they have not sealed this."""
    packet: Buffer = outer
    for state in reversed(states):
        header, packet_esp = split_outer(packet)
        seq = int.from_bytes(packet_esp[SEQ], "big")
        number = seq
        if state.esn:  # the upper half does not travel: the last number sent that ends like this
            last = state.sequence.last
            number = last - (last - seq & 0xFFFFFFFF) if last >= seq else seq
        iv = bytes(packet_esp[ESP_HEADER_LEN : ESP_HEADER_LEN + state.transform.iv_len])
        packet = esp.open(other_end(state, number - 1, now), header, packet_esp, now)
        state.sequence.last = number - 1
        state.iv_counter, state.iv_salt = 0, int.from_bytes(iv, "big")
        state.random = _always(iv)


def _always(iv: bytes) -> Callable[[int], bytes]:
    return lambda size: iv


def forget(state: State, seq: int) -> None:
    """Let the window of `state` be as it was before the number that ends in `seq` was received."""
    window = state.window
    number = window.top - (window.top - seq & 0xFFFFFFFF)
    if 0 <= number <= window.top:
        window.seen &= ~(1 << window.top - number)
