"""NETLINK_XFRM as a function: a datagram of requests and who sent it -> the datagrams that answer.

What a request may say is decided by the codec (form) and by the tables (7.4), which refuse before they change
anything; here the two are joined. Who may not configure the network may not ask either (NL-01).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from xfrmi.core.aevents import thresholds_of
from xfrmi.core.selector import prefix_of
from xfrmi.core.spd_check import check_policy
from xfrmi.daemon.credentials import Credentials, may_configure
from xfrmi.daemon.handler import Handler
from xfrmi.daemon.notices import aevent
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.netlink import Message
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import Dir
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, StateId, StateInfo

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.daemon.events import Events

Reply = tuple[XfrmMsg, bytes] | None
"""Type and body of what answers a request besides its acknowledgement."""

_MAX_TYPE = max(XfrmMsg)
IPSEC_PROTO_ANY = 255


class XfrmHandler(Handler):
    dumps = frozenset({XfrmMsg.GETSA, XfrmMsg.GETPOLICY})

    def __init__(
        self,
        engine: Engine,
        events: Events,
        clock: Callable[[], float] = time.time,
        prepare: Callable[[PolicyInfo], None] = lambda info: None,
        flushed: Callable[[], None] = lambda: None,
    ) -> None:
        """`prepare` is called before a policy is added, and may refuse it (XfrmError). `flushed` is called when all
        policies of a type were wanted away, even if there were none."""
        self._engine = engine
        self._prepare = prepare
        self._flushed = flushed
        self._events = events
        self._clock = clock
        self._actions: dict[int, Callable[[Any], Reply]] = {
            XfrmMsg.NEWSA: self._add_state,
            XfrmMsg.UPDSA: self._update_state,
            XfrmMsg.DELSA: self._delete_state,
            XfrmMsg.GETSA: self._get_state,
            XfrmMsg.ALLOCSPI: self._alloc_spi,
            XfrmMsg.FLUSHSA: self._flush_states,
            XfrmMsg.EXPIRE: self._expire_state,
            XfrmMsg.NEWAE: self._set_replay,
            XfrmMsg.GETAE: self._get_replay,
            XfrmMsg.GETSADINFO: self._count_states,
            XfrmMsg.NEWPOLICY: self._add_policy,
            XfrmMsg.UPDPOLICY: self._update_policy,
            XfrmMsg.DELPOLICY: self._delete_policy,
            XfrmMsg.GETPOLICY: self._get_policy,
            XfrmMsg.FLUSHPOLICY: self._flush_policies,
            XfrmMsg.POLEXPIRE: self._expire_policy,
            XfrmMsg.ACQUIRE: self._acquire,
            XfrmMsg.GETSPDINFO: self._count_policies,
            XfrmMsg.NEWSPDINFO: self._set_thresholds,
            XfrmMsg.SETDEFAULT: self._set_default,
            XfrmMsg.GETDEFAULT: self._get_default,
            XfrmMsg.MIGRATE: self._migrate,
        }

    def carry_out(self, request: Message, credentials: Credentials) -> Iterable[bytes]:
        if request.type > _MAX_TYPE:
            raise XfrmError(errno.EINVAL, detail=f"there is no xfrm message type {request.type:#x}")
        if not may_configure(credentials):
            raise XfrmError(errno.EPERM, detail=f"uid {credentials.uid} may not configure this daemon")
        if self.is_dump(request):
            return self._dump(request)
        value = xfrm_msg.decode_request(request)
        with self._events.caused_by(request):
            reply = self._actions[request.type](value)
        if reply is None:
            return ()
        kind, body = reply
        return (netlink.message(kind, 0, request.seq, request.pid, body),)

    def _dump(self, request: Message) -> Iterable[bytes]:
        """NL-07, NL-08. A filter that is wrong is told at the end of the dump."""
        if request.type == XfrmMsg.GETPOLICY:
            return self.dump(request, XfrmMsg.NEWPOLICY, self._policy_bodies())
        try:
            wanted = xfrm_msg.decode_state_filter(request)
        except XfrmError as failure:
            return (netlink.done(request, failure),)
        return self.dump(request, XfrmMsg.NEWSA, self._state_bodies(wanted))

    # States ------------------------------------------------------------------------------------------------------

    def _add_state(self, info: StateInfo) -> Reply:
        self._engine.add_state(info, self._clock())
        return None

    def _update_state(self, info: StateInfo) -> Reply:
        self._engine.update_state(info, self._clock())
        return None

    def _delete_state(self, state_id: StateId) -> Reply:
        self._engine.delete_state(state_id, self._clock())
        return None

    def _get_state(self, state_id: StateId) -> Reply:
        return XfrmMsg.NEWSA, xfrm_msg.encode_state(self._engine.get_state(state_id).snapshot(), reply=True)

    def _alloc_spi(self, wanted: xfrm_msg.SpiRequest) -> Reply:
        state = self._engine.alloc_spi(wanted.info, wanted.min, wanted.max, self._clock())
        return XfrmMsg.NEWSA, xfrm_msg.encode_state(state.snapshot(), reply=True)

    def _flush_states(self, proto: int) -> Reply:
        self._engine.flush_states(proto, self._clock())
        return None

    def _expire_state(self, expiry: xfrm_msg.StateExpiry) -> Reply:
        info = expiry.info
        state_id = StateId(info.dst, info.spi, info.proto, info.family, info.mark)
        self._engine.sad.expire(state_id, expiry.hard, self._clock())
        return None

    def _set_replay(self, wanted: xfrm_msg.Aevent) -> Reply:
        self._engine.sad.set_replay(
            wanted.id, wanted.replay, wanted.replay_esn, wanted.current, wanted.replay_thresh, wanted.etimer_thresh
        )
        return None

    def _get_replay(self, wanted: xfrm_msg.Aevent) -> Reply:
        state = self._engine.sad.find(wanted.id)
        told = aevent(state.snapshot(), wanted.flags, thresholds_of(state))
        return XfrmMsg.NEWAE, xfrm_msg.encode_aevent(told, reply=True)

    def _count_states(self, flags: int) -> Reply:
        return XfrmMsg.NEWSADINFO, xfrm_msg.encode_sad_info(self._engine.sad.counts(), flags)

    def _state_bodies(self, wanted: xfrm_msg.StateFilter) -> Iterator[bytes]:
        """All states of this moment, as they are when their turn comes; those that have gone by then are left out."""
        for state in self._engine.states():
            if state in self._engine.sad and _is_wanted(wanted, state.info):
                yield xfrm_msg.encode_state(state.snapshot(), reply=True)

    def _acquire(self, wanted: xfrm_msg.Acquire) -> Reply:
        self._engine.sad.acquire(wanted)
        return None

    # Policies ----------------------------------------------------------------------------------------------------

    def _add_policy(self, info: PolicyInfo) -> Reply:
        check_policy(info)  # what is wrong in itself is refused as such
        self._prepare(info)
        self._engine.add_policy(info, self._clock())
        return None

    def _update_policy(self, info: PolicyInfo) -> Reply:
        check_policy(info)
        self._prepare(info)
        self._engine.update_policy(info, self._clock())
        return None

    def _delete_policy(self, policy_id: PolicyId) -> Reply:
        self._engine.delete_policy(policy_id, self._clock())
        return None

    def _get_policy(self, policy_id: PolicyId) -> Reply:
        return XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(self._engine.get_policy(policy_id).snapshot())

    def _flush_policies(self, policy_type: int) -> Reply:
        self._engine.flush_policies(policy_type, self._clock())
        self._flushed()
        return None

    def _expire_policy(self, expiry: xfrm_msg.PolicyExpiry) -> Reply:
        info = expiry.info
        policy_id = PolicyId(info.selector, info.dir, info.if_id, info.index, info.mark, info.type, info.sec_ctx)
        self._engine.spd.expire(policy_id, expiry.hard, self._clock())
        return None

    def _count_policies(self, flags: int) -> Reply:
        return XfrmMsg.NEWSPDINFO, xfrm_msg.encode_spd_info(self._engine.spd.counts(), flags)

    def _set_thresholds(self, thresholds: xfrm_msg.Thresholds) -> Reply:
        self._engine.spd.set_thresholds(thresholds)
        return None

    def _set_default(self, defaults: xfrm_msg.Defaults) -> Reply:
        self._engine.spd.set_default(defaults.input, defaults.fwd, defaults.output)
        return None

    def _get_default(self, _: object) -> Reply:
        now = self._engine.spd.defaults
        defaults = xfrm_msg.Defaults(now[Dir.IN], now[Dir.FWD], now[Dir.OUT])
        return XfrmMsg.GETDEFAULT, xfrm_msg.encode_defaults(defaults)

    def _migrate(self, migration: xfrm_msg.Migration) -> Reply:
        self._engine.migrate(migration, self._clock())
        return None

    def _policy_bodies(self) -> Iterator[bytes]:
        for policy in self._engine.policies():
            if policy in self._engine.spd:
                yield xfrm_msg.encode_policy(policy.snapshot())


def _is_wanted(wanted: xfrm_msg.StateFilter, info: StateInfo) -> bool:
    """NL-08."""
    if wanted.proto not in (0, IPSEC_PROTO_ANY, info.proto):
        return False
    if not wanted.family:
        return True
    bits = len(info.dst) * 8
    return (
        wanted.family == info.family
        and prefix_of(info.src, wanted.prefixlen_s, bits) == prefix_of(wanted.src, wanted.prefixlen_s, bits)
        and prefix_of(info.dst, wanted.prefixlen_d, bits) == prefix_of(wanted.dst, wanted.prefixlen_d, bits)
    )

