"""The Python face of a running daemon: the requests of `ip xfrm` and `ip link` as method calls.

    with Client() as client:
        client.add_link(LinkInfo(name="xfrm0", if_id=42))
        client.add_state(StateInfo(src="192.0.2.1", dst="192.0.2.2", spi=0x1000, mode=Mode.TUNNEL, reqid=1, if_id=42,
                                   aead=Algorithm("rfc4106(gcm(aes))", key, 128)))
        for state in client.states():
            print(format_address(state.dst), hex(state.spi))

Every refusal is an XfrmError with errno, extack (the kernel's phrase) and detail (one sentence of ours). All it speaks
is netlink over the daemon's Unix sockets; it imports nothing heavy.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from xfrmi.daemon import runtime
from xfrmi.dev.netns import OWN_NETNS, netns_path, open_netns
from xfrmi.errors import XfrmError
from xfrmi.wire import link_msg, netlink, xfrm_msg
from xfrmi.wire.link_types import LinkInfo
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Message
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_msg import Aevent, Defaults, Notice, SadInfo, SpdInfo, SpiRequest, StateFilter, Thresholds
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, StateId, StateInfo

Answer = TypeVar("Answer")


class Event(NamedTuple):
    """What a monitor hears: `type` says what happened to the thing in `notice` (NEWSA: added, DELSA: deleted...)."""

    type: XfrmMsg
    notice: Notice


class Client:
    """A connection to the daemon of a network namespace, made when it is first needed.

    `netns` names the namespace as `ip` does (name, pid or path), None is our own. Not for several threads at once.
    """

    def __init__(self, netns: str | int | None = None) -> None:
        self._netns = OWN_NETNS if netns is None else netns_path(netns)
        self._channels: dict[str, _Channel] = {}

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
        self._xfrm(XfrmMsg.NEWSA, xfrm_msg.encode_state(info))

    def update_state(self, info: StateInfo) -> None:
        """UPDSA: turn a larval state into a valid one, or change what may change of a valid one (3.3). ESRCH."""
        self._xfrm(XfrmMsg.UPDSA, xfrm_msg.encode_state(info))

    def delete_state(self, state: StateId | StateInfo) -> None:
        """DELSA. ESRCH."""
        self._xfrm(XfrmMsg.DELSA, xfrm_msg.encode_state_id(_state_id(state)))

    def state(self, state: StateId | StateInfo) -> StateInfo:
        """GETSA: one state as it is now. ESRCH."""
        return self._xfrm_reply(StateInfo, XfrmMsg.GETSA, xfrm_msg.encode_state_id(_state_id(state)))

    def states(self, wanted: StateFilter | None = None) -> Iterator[StateInfo]:
        """All states, or those of a filter, newest first, as they arrive."""
        body = xfrm_msg.encode_state_filter(wanted or StateFilter())
        return self._xfrm_dump(StateInfo, XfrmMsg.GETSA, body)

    def alloc_spi(self, info: StateInfo, low: int = 0x100, high: int = 0xFFFFFFFF) -> StateInfo:
        """ALLOCSPI: a larval state with a free SPI between `low` and `high`. ENOENT if there is none."""
        body = xfrm_msg.encode_alloc_spi(SpiRequest(info, low, high))
        return self._xfrm_reply(StateInfo, XfrmMsg.ALLOCSPI, body)

    def flush_states(self, proto: int = 0) -> None:
        """FLUSHSA: all states of a protocol, of all protocols if 0."""
        self._xfrm(XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(proto))

    def count_states(self) -> SadInfo:
        return self._xfrm_reply(SadInfo, XfrmMsg.GETSADINFO, xfrm_msg.encode_get_info())

    def replay(self, state: StateId | StateInfo) -> Aevent:
        """GETAE: sequence numbers, replay window and current lifetime. ESRCH."""
        body = xfrm_msg.encode_aevent(Aevent(_state_id(state)))
        return self._xfrm_reply(Aevent, XfrmMsg.GETAE, body)

    def set_replay(self, aevent: Aevent) -> None:
        """NEWAE: set sequence numbers, replay window, current lifetime or thresholds. ESRCH, EINVAL."""
        self._xfrm(XfrmMsg.NEWAE, xfrm_msg.encode_aevent(aevent), NLM_F_REPLACE)

    # Policies ----------------------------------------------------------------------------------------------------

    def add_policy(self, info: PolicyInfo) -> None:
        """NEWPOLICY. EEXIST if one differs in nothing but priority, action or templates (SPD-01, SPD-03)."""
        self._xfrm(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(info))

    def update_policy(self, info: PolicyInfo) -> None:
        """UPDPOLICY: replace, or create."""
        self._xfrm(XfrmMsg.UPDPOLICY, xfrm_msg.encode_policy(info))

    def delete_policy(self, policy: PolicyId | PolicyInfo) -> None:
        """DELPOLICY. ENOENT."""
        self._xfrm(XfrmMsg.DELPOLICY, xfrm_msg.encode_policy_id(_policy_id(policy)))

    def policy(self, policy: PolicyId | PolicyInfo) -> PolicyInfo:
        """GETPOLICY. ENOENT."""
        return self._xfrm_reply(PolicyInfo, XfrmMsg.GETPOLICY, xfrm_msg.encode_policy_id(_policy_id(policy)))

    def policies(self) -> Iterator[PolicyInfo]:
        """All policies, newest first, as they arrive."""
        return self._xfrm_dump(PolicyInfo, XfrmMsg.GETPOLICY, b"")

    def flush_policies(self, policy_type: int = 0) -> None:
        """FLUSHPOLICY: all policies of one PolicyType."""
        self._xfrm(XfrmMsg.FLUSHPOLICY, xfrm_msg.encode_flush_policies(policy_type))

    def count_policies(self) -> SpdInfo:
        return self._xfrm_reply(SpdInfo, XfrmMsg.GETSPDINFO, xfrm_msg.encode_get_info())

    def set_thresholds(self, thresholds: Thresholds) -> None:
        self._xfrm(XfrmMsg.NEWSPDINFO, xfrm_msg.encode_thresholds(thresholds))

    def defaults(self) -> Defaults:
        """What happens to packets without a policy."""
        return self._xfrm_reply(Defaults, XfrmMsg.GETDEFAULT, xfrm_msg.encode_defaults(Defaults()))

    def set_defaults(self, defaults: Defaults) -> None:
        self._xfrm(XfrmMsg.SETDEFAULT, xfrm_msg.encode_defaults(defaults))

    # Links -------------------------------------------------------------------------------------------------------

    def links(self) -> list[LinkInfo]:
        """The daemon's xfrm devices."""
        channel = self._channel(runtime.ROUTE_SOCKET)
        answers = channel.ask(link_msg.RTM_GETLINK, NLM_F_DUMP, link_msg.encode_link(LinkInfo()))
        return [link_msg.decode_link(answer) for answer in answers]

    def link(self, name: str) -> LinkInfo:
        """One xfrm device. ENODEV."""
        (answer,) = self._route(link_msg.RTM_GETLINK, LinkInfo(name=name))
        return link_msg.decode_link(answer)

    def add_link(self, info: LinkInfo, netns: str | int | None = None) -> None:
        """RTM_NEWLINK: `ip link add NAME type xfrm if_id N [dev LINK]`. EINVAL, EEXIST (1.1).

        With `netns` (as for Client) the device is moved there at once; what encrypts for it stays here (NS-02).
        """
        self._route(link_msg.RTM_NEWLINK, info, NLM_F_CREATE | NLM_F_EXCL, netns)

    def set_link(self, info: LinkInfo, netns: str | int | None = None) -> None:
        """Change the device of `info.ifindex`: name, mtu, flags under `change`, or with kind and if_id its key.

        With `netns` it also moves there. EINVAL, EEXIST (1.1), and what the kernel says of names, sizes, namespaces.
        """
        self._route(link_msg.RTM_NEWLINK, info, netns=netns)

    def delete_link(self, name: str) -> None:
        """RTM_DELLINK. Its states and policies stay (DEV-14). ENODEV."""
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
        import json

        with _connect(self._netns, runtime.JSON_SOCKET, socket.SOCK_STREAM) as connection:
            connection.sendall(json.dumps({"cmd": name} | arguments).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
        if not line:
            raise _hung_up()
        answer = json.loads(line)
        if "error" in answer:
            raise XfrmError(answer["errno"], detail=answer["error"])
        return answer["result"]

    def monitor(self, groups: Iterable[Group] = tuple(Group)) -> Iterator[Event]:
        """Events of these multicast groups, for ever, on a connection of its own; subscribed when this returns.

        Raises XfrmError ENOBUFS where events were lost because they were not read in time; going on is possible.
        """
        channel = _Channel(_connect(self._netns, runtime.XFRM_SOCKET, socket.SOCK_SEQPACKET))
        mask = sum({group.bit for group in groups})
        for _ in channel.ask(netlink.NLMSG_SUBSCRIBE, NLM_F_ACK, xfrm_msg.encode_subscription(mask)):
            pass
        return _Monitor(channel)

    # Plumbing ----------------------------------------------------------------------------------------------------

    def _channel(self, name: str) -> _Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(_connect(self._netns, name, socket.SOCK_SEQPACKET))
        return channel

    def _xfrm(self, kind: XfrmMsg, body: bytes, flags: int = 0) -> list[Message]:
        return list(self._channel(runtime.XFRM_SOCKET).ask(kind, NLM_F_ACK | flags, body))

    def _xfrm_reply(self, answer: type[Answer], kind: XfrmMsg, body: bytes) -> Answer:
        replies = [xfrm_msg.decode_notice(message) for message in self._xfrm(kind, body)]
        if len(replies) != 1 or not isinstance(replies[0], answer):
            raise XfrmError(errno.EPROTO, detail=f"the daemon answered {kind.name} with {replies!r}")
        return replies[0]

    def _xfrm_dump(self, entry: type[Answer], kind: XfrmMsg, body: bytes) -> Iterator[Answer]:
        for message in self._channel(runtime.XFRM_SOCKET).ask(kind, NLM_F_DUMP, body):
            value = xfrm_msg.decode_notice(message)
            if isinstance(value, entry):
                yield value

    def _route(self, kind: int, info: LinkInfo, flags: int = 0, netns: str | int | None = None) -> list[Message]:
        channel = self._channel(runtime.ROUTE_SOCKET)
        if netns is None:
            return list(channel.ask(kind, NLM_F_ACK | flags, link_msg.encode_link(info)))
        fd = open_netns(netns_path(netns))
        try:  # it goes along with the request, where the number counts such descriptors
            return list(channel.ask(kind, NLM_F_ACK | flags, link_msg.encode_link(replace(info, netns_fd=0)), (fd,)))
        finally:
            os.close(fd)


class _Channel:
    """netlink requests and their answers over one SEQPACKET connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sequence = itertools.count(1)

    def close(self) -> None:
        self._connection.close()

    def receive(self) -> Iterator[Message]:
        """The messages of the next datagram."""
        try:
            datagram = self._connection.recv(runtime.MAX_DATAGRAM)
        except ConnectionError:
            raise _hung_up() from None
        if not datagram:
            raise _hung_up()
        return netlink.split(datagram)

    def ask(self, kind: int, flags: int, body: bytes, fds: tuple[int, ...] = ()) -> Iterator[Message]:
        """Send one request; yield its answers up to the acknowledgement or the end of the dump. Raises its refusal."""
        sequence = next(self._sequence)
        request = netlink.message(kind, NLM_F_REQUEST | flags, sequence, 0, body)
        try:
            socket.send_fds(self._connection, [request], list(fds)) if fds else self._connection.send(request)
        except OSError as error:
            raise _hung_up() if isinstance(error, ConnectionError) else XfrmError(error.errno or errno.EIO) from None
        while True:
            for answer in self.receive():
                if answer.seq != sequence:  # of an earlier dump that nobody read to its end
                    continue
                if answer.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
                    netlink.raise_error(answer)
                    return
                yield answer


class _Monitor(Iterator[Event]):
    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._waiting: list[Message] = []

    def __next__(self) -> Event:
        while not self._waiting:
            self._waiting = list(self._channel.receive())
        message = self._waiting.pop(0)
        if message.type == netlink.NLMSG_ERROR:
            netlink.raise_error(message)
        return Event(XfrmMsg(message.type), xfrm_msg.decode_notice(message))

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


def _connect(netns: str, name: str, kind: int) -> socket.socket:
    directory = runtime.find_directory(netns)
    if directory is None:
        raise runtime.no_daemon(netns)
    connection = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    try:
        connection.connect(f"{directory}/{name}")
    except (ConnectionError, FileNotFoundError):
        connection.close()
        raise runtime.no_daemon(netns) from None
    except OSError as error:
        connection.close()
        raise XfrmError(error.errno or errno.EIO, detail=f"{directory}/{name}: {error.strerror}") from None
    return connection


def _hung_up() -> XfrmError:
    return XfrmError(errno.ECONNRESET, detail="the xfrmi daemon closed the connection")
