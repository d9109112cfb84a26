"""The Python face of a running daemon: the requests of `ip xfrm` and `ip link` as method calls.

    with Client() as client:
        client.add_link(LinkInfo(name="xfrm0", if_id=42))
        client.add_state(StateInfo(src="192.0.2.1", dst="192.0.2.2", spi=0x1000, mode=Mode.TUNNEL, reqid=1, if_id=42,
                                   aead=Algorithm("rfc4106(gcm(aes))", key, 128)))
        for state in client.states():
            print(format_address(state.dst), hex(state.spi))

Every refusal is an XfrmError with errno, extack (the kernel's phrase) and detail (one sentence of ours). All it speaks
is netlink over the daemon's Unix sockets. It imports nothing heavy, and what states do not need not before it is used.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from xfrmi.client.channel import Channel, connect
from xfrmi.daemon import runtime
from xfrmi.dev.netns import OWN_NETNS, netns_path, open_netns
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire import xfrm_sa_msg as sa_msg
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Message
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, StateId, StateInfo

if TYPE_CHECKING:
    from xfrmi.client.packets import Packets
    from xfrmi.client.samples import Sampler
    from xfrmi.wire.link_types import LinkInfo
    from xfrmi.wire.xfrm_msg import Aevent, Defaults, Migration, Notice, SadInfo, SpdInfo, StateFilter, Thresholds

Answer = TypeVar("Answer")

_REPLIES = {
    XfrmMsg.GETSA: XfrmMsg.NEWSA,
    XfrmMsg.ALLOCSPI: XfrmMsg.NEWSA,
    XfrmMsg.GETAE: XfrmMsg.NEWAE,
    XfrmMsg.GETSADINFO: XfrmMsg.NEWSADINFO,
    XfrmMsg.GETPOLICY: XfrmMsg.NEWPOLICY,
    XfrmMsg.GETSPDINFO: XfrmMsg.NEWSPDINFO,
    XfrmMsg.GETDEFAULT: XfrmMsg.GETDEFAULT,
}
"""What a request is answered with (NL-06), also where it asks for a dump (NL-07)."""


class Event(NamedTuple):
    """What a monitor hears: `type` says what happened to the thing in `notice` (NEWSA: added, DELSA: deleted...)."""

    type: XfrmMsg
    notice: Notice


class Client:
    """A connection to the daemon of a network namespace, made when it is first needed.

    `netns` names the namespace as `ip` does (name, pid or path), None is our own. With `timeout` a daemon that is
    silent for so many seconds is an XfrmError ETIMEDOUT. `base` is its runtime directory, where that is not ours, as
    with a node of a lab. Not for several threads at once.
    """

    def __init__(
        self, netns: str | int | None = None, timeout: float | None = None, base: str | None = None
    ) -> None:
        self._netns = OWN_NETNS if netns is None else netns_path(netns)
        self._timeout = timeout
        self._base = base
        self._channels: dict[str, Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    # States ------------------------------------------------------------------------------------------------------

    def add_state(self, info: StateInfo) -> None:
        """NEWSA. EEXIST if the daemon has a state with this destination, SPI, protocol and mark."""
        self._xfrm(XfrmMsg.NEWSA, sa_msg.encode_state(info))

    def update_state(self, info: StateInfo) -> None:
        """UPDSA: turn a larval state into a valid one, or change what may change of a valid one (3.3). ESRCH."""
        self._xfrm(XfrmMsg.UPDSA, sa_msg.encode_state(info))

    def delete_state(self, state: StateId | StateInfo) -> None:
        """DELSA. ESRCH."""
        self._xfrm(XfrmMsg.DELSA, sa_msg.encode_state_id(_state_id(state)))

    def state(self, state: StateId | StateInfo) -> StateInfo:
        """GETSA: one state as it is now. ESRCH."""
        return self._xfrm_reply(sa_msg.decode_state_notice, XfrmMsg.GETSA, sa_msg.encode_state_id(_state_id(state)))

    def states(self, wanted: StateFilter | None = None) -> Iterator[StateInfo]:
        """All states, or those of a filter, newest first, as they arrive."""
        body = sa_msg.encode_state_filter(wanted) if wanted is not None else b""
        return self._xfrm_dump(sa_msg.decode_state_notice, XfrmMsg.GETSA, body)

    def alloc_spi(self, info: StateInfo, low: int = 0x100, high: int = 0xFFFFFFFF) -> StateInfo:
        """ALLOCSPI: a larval state with a free SPI between `low` and `high`. ENOENT if there is none."""
        body = sa_msg.encode_alloc_spi(sa_msg.SpiRequest(info, low, high))
        return self._xfrm_reply(sa_msg.decode_state_notice, XfrmMsg.ALLOCSPI, body)

    def flush_states(self, proto: int = 0) -> None:
        """FLUSHSA: all states of a protocol, of all protocols if 0."""
        self._xfrm(XfrmMsg.FLUSHSA, sa_msg.encode_flush_states(proto))

    def count_states(self) -> SadInfo:
        from xfrmi.wire import xfrm_info_msg as info_msg

        return self._xfrm_reply(info_msg.decode_sad_info, XfrmMsg.GETSADINFO, info_msg.encode_get_info())

    def replay(self, state: StateId | StateInfo) -> Aevent:
        """GETAE: sequence numbers, replay window and current lifetime. ESRCH."""
        from xfrmi.wire import xfrm_event_msg as event_msg

        body = event_msg.encode_aevent(event_msg.Aevent(_state_id(state)))
        return self._xfrm_reply(event_msg.decode_aevent_notice, XfrmMsg.GETAE, body)

    def set_replay(self, aevent: Aevent) -> None:
        """NEWAE: set sequence numbers, replay window, current lifetime or thresholds. ESRCH, EINVAL."""
        from xfrmi.wire import xfrm_event_msg as event_msg

        self._xfrm(XfrmMsg.NEWAE, event_msg.encode_aevent(aevent), NLM_F_REPLACE)

    def migrate(self, migration: Migration) -> None:
        """MIGRATE: templates of a policy, and states, get other addresses. ENOENT, ENODATA, EINVAL."""
        from xfrmi.wire import xfrm_migrate_msg as migrate_msg

        self._xfrm(XfrmMsg.MIGRATE, migrate_msg.encode_migration(migration))

    # Policies ----------------------------------------------------------------------------------------------------

    def add_policy(self, info: PolicyInfo) -> None:
        """NEWPOLICY. EEXIST if one differs in nothing but priority, action or templates (SPD-01, SPD-03)."""
        from xfrmi.wire import xfrm_policy_msg as policy_msg

        self._xfrm(XfrmMsg.NEWPOLICY, policy_msg.encode_policy(info))

    def update_policy(self, info: PolicyInfo) -> None:
        """UPDPOLICY: replace, or create."""
        from xfrmi.wire import xfrm_policy_msg as policy_msg

        self._xfrm(XfrmMsg.UPDPOLICY, policy_msg.encode_policy(info))

    def delete_policy(self, policy: PolicyId | PolicyInfo) -> None:
        """DELPOLICY. ENOENT."""
        from xfrmi.wire import xfrm_policy_msg as policy_msg

        self._xfrm(XfrmMsg.DELPOLICY, policy_msg.encode_policy_id(_policy_id(policy)))

    def policy(self, policy: PolicyId | PolicyInfo) -> PolicyInfo:
        """GETPOLICY. ENOENT."""
        from xfrmi.wire import xfrm_policy_msg as policy_msg

        body = policy_msg.encode_policy_id(_policy_id(policy))
        return self._xfrm_reply(policy_msg.decode_policy_notice, XfrmMsg.GETPOLICY, body)

    def policies(self) -> Iterator[PolicyInfo]:
        """All policies, newest first, as they arrive."""
        from xfrmi.wire import xfrm_policy_msg as policy_msg

        return self._xfrm_dump(policy_msg.decode_policy_notice, XfrmMsg.GETPOLICY, b"")

    def flush_policies(self, policy_type: int = 0) -> None:
        """FLUSHPOLICY: all policies of one PolicyType."""
        from xfrmi.wire import xfrm_policy_msg as policy_msg

        self._xfrm(XfrmMsg.FLUSHPOLICY, policy_msg.encode_flush_policies(policy_type))

    def count_policies(self) -> SpdInfo:
        from xfrmi.wire import xfrm_info_msg as info_msg

        return self._xfrm_reply(info_msg.decode_spd_info, XfrmMsg.GETSPDINFO, info_msg.encode_get_info())

    def set_thresholds(self, thresholds: Thresholds) -> None:
        from xfrmi.wire import xfrm_info_msg as info_msg

        self._xfrm(XfrmMsg.NEWSPDINFO, info_msg.encode_thresholds(thresholds))

    def defaults(self) -> Defaults:
        """What happens to packets without a policy."""
        from xfrmi.wire import xfrm_info_msg as info_msg

        body = info_msg.encode_defaults(info_msg.Defaults())
        return self._xfrm_reply(info_msg.decode_defaults, XfrmMsg.GETDEFAULT, body)

    def set_defaults(self, defaults: Defaults) -> None:
        from xfrmi.wire import xfrm_info_msg as info_msg

        self._xfrm(XfrmMsg.SETDEFAULT, info_msg.encode_defaults(defaults))

    # Links -------------------------------------------------------------------------------------------------------

    def links(self) -> list[LinkInfo]:
        """The daemon's xfrm devices."""
        from xfrmi.wire import link_msg
        from xfrmi.wire.link_types import LinkInfo

        channel = self._channel(runtime.ROUTE_SOCKET)
        answers = channel.ask(link_msg.RTM_GETLINK, NLM_F_DUMP, link_msg.encode_link(LinkInfo()))
        return [link_msg.decode_link(answer) for answer in answers]

    def link(self, name: str) -> LinkInfo:
        """One xfrm device. ENODEV."""
        from xfrmi.wire import link_msg
        from xfrmi.wire.link_types import LinkInfo

        (answer,) = self._route(link_msg.RTM_GETLINK, LinkInfo(name=name))
        return link_msg.decode_link(answer)

    def add_link(self, info: LinkInfo, netns: str | int | None = None) -> None:
        """RTM_NEWLINK: `ip link add NAME type xfrm if_id N [dev LINK]`. EINVAL, EEXIST (1.1).

        With `netns` (as for Client) the device is moved there at once; what encrypts for it stays here (NS-02).
        """
        from xfrmi.wire import link_msg

        self._route(link_msg.RTM_NEWLINK, info, NLM_F_CREATE | NLM_F_EXCL, netns)

    def set_link(self, info: LinkInfo, netns: str | int | None = None) -> None:
        """Change the device of `info.ifindex`: name, mtu, flags under `change`, or with kind and if_id its key.

        With `netns` it also moves there. EINVAL, EEXIST (1.1), and what the kernel says of names, sizes, namespaces.
        """
        from xfrmi.wire import link_msg

        self._route(link_msg.RTM_NEWLINK, info, netns=netns)

    def delete_link(self, name: str) -> None:
        """RTM_DELLINK. Its states and policies stay (DEV-14). ENODEV."""
        from xfrmi.wire import link_msg
        from xfrmi.wire.link_types import LinkInfo

        self._route(link_msg.RTM_DELLINK, LinkInfo(name=name))

    # What the kernel has no message for --------------------------------------------------------------------------

    def stat(self) -> dict[str, int]:
        """The lines of /proc/net/xfrm_stat, in order."""
        result: dict[str, int] = self.command("stat")
        return result

    def status(self) -> dict[str, Any]:
        """About the daemon itself: pid, version, interfaces, table sizes."""
        result: dict[str, Any] = self.command("status")
        return result

    def command(self, name: str, **arguments: Any) -> Any:
        """One request on the JSON socket."""
        from xfrmi.client.json_channel import JsonChannel

        with closing(JsonChannel(self._netns, self._timeout, self._base)) as channel:
            return channel.ask(name, **arguments)

    def monitor(self, groups: Iterable[Group] = tuple(Group)) -> Iterator[Event]:
        """Events of these multicast groups, for ever, on a connection of its own; subscribed when this returns.

        Raises XfrmError ENOBUFS where events were lost because they were not read in time; going on is possible.
        """
        from xfrmi.wire.xfrm_msg import encode_subscription

        channel = Channel(connect(self._netns, runtime.XFRM_SOCKET, socket.SOCK_SEQPACKET, base=self._base))
        body = encode_subscription(sum({group.bit for group in groups}))
        try:
            list(channel.ask(netlink.NLMSG_SUBSCRIBE, NLM_F_ACK, body))
        except XfrmError:
            channel.close()
            raise
        return _Monitor(channel)

    def packets(
        self,
        interface: str | None = None,
        direction: str | None = None,
        dropped: bool = False,
        spi: int | None = None,
    ) -> Packets:
        """Packets as the daemon carries them, in plaintext too, for ever; only those of an interface, of a direction
        ("in", "out"), with an SPI, or that are dropped, where that is said. ENODEV."""
        from xfrmi.client.packets import Packets

        wanted = {"interface": interface, "dir": direction, "dropped": dropped, "spi": spi}
        return Packets(self._netns, wanted, self._base)

    def sampler(self) -> Sampler:
        """Takes samples of counters and states, without keys, over a connection of its own."""
        from xfrmi.client.samples import Sampler

        return Sampler(self, self._netns, self._timeout, self._base)

    # Plumbing ----------------------------------------------------------------------------------------------------

    def _channel(self, name: str) -> Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Channel(
                connect(self._netns, name, socket.SOCK_SEQPACKET, self._timeout, self._base)
            )
        return channel

    def _xfrm(self, kind: XfrmMsg, body: bytes, flags: int = 0) -> list[Message]:
        return list(self._channel(runtime.XFRM_SOCKET).ask(kind, NLM_F_ACK | flags, body))

    def _xfrm_reply(self, decode: Callable[[Message], Answer], kind: XfrmMsg, body: bytes) -> Answer:
        replies = self._xfrm(kind, body)
        if [reply.type for reply in replies] != [_REPLIES[kind]]:
            types = [reply.type for reply in replies]
            raise XfrmError(errno.EPROTO, detail=f"the daemon answered {kind.name} with messages of types {types}")
        return decode(replies[0])

    def _xfrm_dump(self, decode: Callable[[Message], Answer], kind: XfrmMsg, body: bytes) -> Iterator[Answer]:
        for message in self._channel(runtime.XFRM_SOCKET).ask(kind, NLM_F_DUMP, body):
            if message.type == _REPLIES[kind]:
                yield decode(message)

    def _route(self, kind: int, info: LinkInfo, flags: int = 0, netns: str | int | None = None) -> list[Message]:
        from xfrmi.wire import link_msg

        channel = self._channel(runtime.ROUTE_SOCKET)
        if netns is None:
            return list(channel.ask(kind, NLM_F_ACK | flags, link_msg.encode_link(info)))
        fd = open_netns(netns_path(netns))
        try:  # it goes along with the request, where the number counts such descriptors
            return list(channel.ask(kind, NLM_F_ACK | flags, link_msg.encode_link(replace(info, netns_fd=0)), (fd,)))
        finally:
            os.close(fd)


class _Monitor(Iterator[Event]):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: deque[Message] = deque()

    def __next__(self) -> Event:
        from xfrmi.wire.xfrm_msg import decode_notice

        while not self._waiting:
            self._waiting.extend(self._channel.receive())
        message = self._waiting.popleft()
        if message.type == netlink.NLMSG_ERROR:
            netlink.raise_error(message)
        return Event(XfrmMsg(message.type), decode_notice(message))

    def __del__(self) -> None:
        self._channel.close()


def _state_id(state: StateId | StateInfo) -> StateId:
    if isinstance(state, StateId):
        return state
    return StateId(state.dst, state.spi, state.proto, state.family, state.mark, state.src)


def _policy_id(policy: PolicyId | PolicyInfo) -> PolicyId:
    if isinstance(policy, PolicyId):
        return policy
    return PolicyId(policy.selector, policy.dir, policy.if_id, 0, policy.mark, policy.type, policy.sec_ctx)
