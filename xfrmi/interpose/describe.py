"""netlink messages in one line each, for people: `xfrmi exec --verbose`. Keys are told by their length only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from xfrmi.errors import XfrmError
from xfrmi.formats import words
from xfrmi.interpose.bpf import NETLINK_XFRM
from xfrmi.wire import link_msg, netlink, xfrm_msg
from xfrmi.wire.address import format_address
from xfrmi.wire.link_types import IFF_UP, LinkInfo
from xfrmi.wire.netlink import Message
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import XFRM_INF
from xfrmi.wire.xfrm_types import Algorithm, Selector, StateInfo

ROUTE_TYPES = {
    16: "NEWLINK", 17: "DELLINK", 18: "GETLINK", 19: "SETLINK", 20: "NEWADDR", 21: "DELADDR", 22: "GETADDR",
    24: "NEWROUTE", 25: "DELROUTE", 26: "GETROUTE", 28: "NEWNEIGH", 29: "DELNEIGH", 30: "GETNEIGH", 32: "NEWRULE",
    33: "DELRULE", 34: "GETRULE", 36: "NEWQDISC", 38: "GETQDISC", 72: "NEWADDRLABEL", 73: "DELADDRLABEL",
    80: "NEWNETCONF", 82: "GETNETCONF", 88: "NEWNSID", 90: "GETNSID", 92: "NEWSTATS", 94: "GETSTATS",
}  # fmt: skip
"""rtnetlink; all but links are carried out natively."""
LINK_TYPES = (link_msg.RTM_NEWLINK, link_msg.RTM_DELLINK, link_msg.RTM_GETLINK, link_msg.RTM_SETLINK)
FLAGS = {0x2: "MULTI", 0x4: "ACK", 0x8: "ECHO"}
NEW_FLAGS = {0x100: "REPLACE", 0x200: "EXCL", 0x400: "CREATE", 0x800: "APPEND"}

_HEX = {"spi", "if_id", "flags", "extra_flags", "ealgos", "aalgos", "calgos", "index", "user"}
_TABLES = {"mode": words.MODES, "action": words.ACTIONS}
_ADDRESSES = {"src", "dst", "saddr", "daddr", "coaddr", "oa", "new_src", "old_src", "new_dst", "old_dst"}
_ALWAYS = {"proto", "mode", "dir", "action"}
_UNTOLD = {"family", "current", "stats", "bitmap", "sec_ctx"}


def describe(protocol: int, datagram: memoryview, is_request: bool) -> Iterator[str]:
    """A line for each message. What is none is told as that, unless it follows one: there the kernel ignores it."""
    count = 0
    try:
        for count, message in enumerate(netlink.split(datagram), 1):  # noqa: B007
            line = _describe(protocol, message, is_request)
            # Names are the sender's words, and this goes to a terminal.
            yield line if line.isprintable() else line.encode("unicode_escape").decode("ascii")
    except XfrmError as error:
        if not count:
            yield f"malformed: {error.detail}"


def _describe(protocol: int, message: Message, is_request: bool) -> str:
    head = f"{_type(protocol, message)} seq {message.seq}"
    flags = _flags(protocol, message, is_request)
    if flags:
        head += f" {flags}"
    try:
        content = _content(protocol, message, is_request)
    except (XfrmError, ValueError) as error:
        content = f"({error})"
    return f"{head}  {content}".rstrip()


def _type(protocol: int, message: Message) -> str:
    if message.type == netlink.NLMSG_ERROR:
        return "ERROR"
    if message.type in (netlink.NLMSG_DONE, netlink.NLMSG_NOOP):
        return "DONE" if message.type == netlink.NLMSG_DONE else "NOOP"
    if protocol == NETLINK_XFRM:
        return XfrmMsg(message.type).name if message.type in set(XfrmMsg) else f"type {message.type}"
    return ROUTE_TYPES.get(message.type, f"type {message.type}")


def _flags(protocol: int, message: Message, is_request: bool) -> str:
    names = [name for bit, name in FLAGS.items() if message.flags & bit]
    if is_request:
        # The same bits mean one thing of what asks and another of what makes.
        name = _type(protocol, message)
        if name.startswith("GET") and message.is_dump:
            names.append("DUMP")
        elif name.startswith("NEW"):
            names += [name for bit, name in NEW_FLAGS.items() if message.flags & bit]
    return "|".join(names)


def _content(protocol: int, message: Message, is_request: bool) -> str:
    if message.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
        try:
            netlink.raise_error(message)
        except XfrmError as refused:
            return f"{refused.strerror}{': ' + refused.extack if refused.extack else ''}"
        return "ok" if message.type == netlink.NLMSG_ERROR else ""
    if protocol != NETLINK_XFRM:
        return _link(link_msg.decode_link(message)) if message.type in LINK_TYPES else ""
    value = xfrm_msg.decode_request(message) if is_request else xfrm_msg.decode_notice(message)
    return str(value) if isinstance(value, int) else _values(value)


def _link(info: LinkInfo) -> str:
    told = [info.name, f"index {info.ifindex}" if info.ifindex else "", f"type {info.kind}" if info.kind else ""]
    if info.kind == "xfrm":
        told += ["external" if info.external else f"if_id {info.if_id or 0:#x}", f"link {info.link or 0}"]
    told.append(f"mtu {info.mtu}" if info.mtu is not None else "")
    if info.change & IFF_UP:
        told.append("up" if info.flags & IFF_UP else "down")
    return " ".join(filter(None, told))


def _values(value: Any) -> str:
    """The fields that say something, in the order of the type."""
    if value is None:
        return ""
    if isinstance(value, Algorithm):
        return f"{value.name} {len(value.key) * 8}-bit key{f' {value.bits}' if value.bits else ''}"
    if isinstance(value, Selector):
        return _selector(value)
    return " ".join(filter(None, (_field(value, name, content) for name, content in _fields(value))))


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Those that differ from their defaults, and what nobody should have to guess."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            content = getattr(value, field.name)
            if content != field.default or field.name in _ALWAYS:
                yield field.name, content
    else:
        for name in value._fields:
            content = getattr(value, name)
            if content != value._field_defaults.get(name):
                yield name, content


def _field(owner: Any, name: str, content: Any) -> str:
    if content is None or name in _UNTOLD:
        return ""
    if name in _ADDRESSES and isinstance(content, bytes):
        return f"{name} {format_address(content)}" if any(content) else ""
    if name == "proto":
        return f"proto {words.word(words.XFRM_PROTOS, content)}"
    if name == "dir":
        return _dir(owner, content)
    if name == "flags" and isinstance(owner, StateInfo):
        return f"flag {'|'.join(words.flag_words(words.STATE_FLAGS, content))}"
    if name in _TABLES:
        return f"{name} {words.word(_TABLES[name], content)}"
    if isinstance(content, bool):
        return name if content else ""
    if isinstance(content, int):
        if content == XFRM_INF:
            return ""
        return f"{name} {content:#x}" if name in _HEX else f"{name} {content}"
    if isinstance(content, bytes):
        return f"{name} {len(content)} bytes"
    if isinstance(content, tuple) and not hasattr(content, "_fields"):
        return f"{name} [{', '.join(_nested(entry) for entry in content)}]" if content else ""
    if isinstance(content, Algorithm):
        return f"{name} {_values(content)}"
    inner = _nested(content)
    return f"{name} {{{inner}}}" if inner else ""


def _dir(owner: Any, direction: int) -> str:
    """Of a policy, or of a state where 0 says nothing: two ways to count."""
    if not isinstance(owner, StateInfo):
        return f"dir {words.word(words.DIRS, direction)}"
    return f"dir {words.word(words.SA_DIRS, direction)}" if direction else ""


def _nested(content: Any) -> str:
    return str(content) if isinstance(content, int | str) else _values(content)


def _selector(selector: Selector) -> str:
    if not selector.saddr or not selector.daddr:
        return ""
    text = f"{format_address(selector.saddr)}/{selector.prefixlen_s} > "
    text += f"{format_address(selector.daddr)}/{selector.prefixlen_d}"
    return text + (f" {words.word(words.PROTOS, selector.proto)}" if selector.proto else "")


def protocol_name(protocol: int) -> str:
    return "NETLINK_XFRM" if protocol == NETLINK_XFRM else "NETLINK_ROUTE"


