"""xfrm devices as `ip [-d] [-s [-s]] [-o] link show` prints them, byte for byte (iproute2 6.1, section 1.3).

What LinkInfo does not hold is what every xfrm device has: section 1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire.link_types import (
    IFF_LOWER_UP,
    IFF_RUNNING,
    IFF_UP,
    XFRM_LINK_MAX_MTU,
    XFRM_LINK_MIN_MTU,
    XFRM_LINK_MTU,
    XFRM_LINK_QLEN,
    LinkInfo,
    LinkStats,
)

FLAGS: Final = {
    0x8: "LOOPBACK",
    0x2: "BROADCAST",
    0x10: "POINTOPOINT",
    0x1000: "MULTICAST",
    0x80: "NOARP",
    0x200: "ALLMULTI",
    0x100: "PROMISC",
    0x400: "MASTER",
    0x800: "SLAVE",
    0x4: "DEBUG",
    0x8000: "DYNAMIC",
    0x4000: "AUTOMEDIA",
    0x2000: "PORTSEL",
    0x20: "NOTRAILERS",
    IFF_UP: "UP",
    IFF_LOWER_UP: "LOWER_UP",
    0x20000: "DORMANT",
    0x40000: "ECHO",
}
"""In print order; IFF_RUNNING shows as the absence of NO-CARRIER."""
OPERSTATES: Final = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
OPER_DOWN: Final = 2

DETAILS: Final = {
    "numtxqueues": 1,
    "numrxqueues": 1,
    "gso_max_size": 65536,
    "gso_max_segs": 65535,
    "tso_max_size": 65536,
    "tso_max_segs": 65535,
    "gro_max_size": 65536,
}
"""What -d shows at the end of its line."""

_COLUMNS: Final = (10, 7, 6, 7, 7, 7, 10, 9)
"""Least widths of the counters of a line."""
_ALWAYS: Final = 6
"""How many of them are always there."""


def print_link(info: LinkInfo, show: Show = PLAIN) -> str:
    """One device, newline at the end."""
    text = f"{info.ifindex}: {info.name}@{lower_name(info, show) or 'NONE'}: <{','.join(flag_names(info, show))}> "
    text += f"mtu {mtu(info)} qdisc {qdisc(info)} state {OPERSTATES[operstate(info)]} mode DEFAULT group default "
    text += f"qlen {txqlen(info)}\n    link/none "
    if show.details:
        text += f" promiscuity 0  allmulti 0 minmtu {XFRM_LINK_MIN_MTU} maxmtu {XFRM_LINK_MAX_MTU} \n"
        kind = "external" if info.external else f"if_id {_hash_hex(info.if_id or 0)}"
        text += f"    {info.kind} {kind} addrgenmode {addrgenmode(info)} "
        text += "".join(f"{name} {value} " for name, value in DETAILS.items())
    text += "\n"
    if info.alias:
        text += f"    alias {info.alias}\n"
    if show.stats:
        text += _stats_lines(info.stats or LinkStats(), show)
    return text.removesuffix("\n").replace("\n", "\\") + "\n" if show.oneline else text


# What a device shows, for the text above and the JSON of json_link.


def lower_name(info: LinkInfo, show: Show) -> str:
    """Name of the underlying device, empty for none."""
    return (info.link_name or show.ifname(info.link)) if info.link else ""


def flag_names(info: LinkInfo, show: Show) -> list[str]:
    """M-DOWN: the underlying device is down, which does not bring this one down (DEV-16)."""
    names = [name for bit, name in FLAGS.items() if info.flags & bit]
    if info.flags & IFF_UP and not info.flags & (IFF_RUNNING | IFF_LOWER_UP):
        names.insert(0, "NO-CARRIER")
    if rest := info.flags & ~(IFF_RUNNING | sum(FLAGS)):
        names.append(f"{rest:x}")
    if info.link and not show.is_up(info.link):
        names.append("M-DOWN")
    return names


def mtu(info: LinkInfo) -> int:
    return XFRM_LINK_MTU if info.mtu is None else info.mtu


def txqlen(info: LinkInfo) -> int:
    return XFRM_LINK_QLEN if info.txqlen is None else info.txqlen


def qdisc(info: LinkInfo) -> str:
    return "noqueue" if info.flags & IFF_UP else "noop"


def operstate(info: LinkInfo) -> int:
    return info.operstate if info.flags & IFF_UP and info.operstate < len(OPERSTATES) else OPER_DOWN


def addrgenmode(info: LinkInfo) -> str:
    """IPv6 leaves EUI-64 when the device first comes up, because ARPHRD_NONE has none (1.2)."""
    return "random" if info.flags & IFF_UP else "eui64"


def _hash_hex(number: int) -> str:
    """C's %#x."""
    return hex(number) if number else "0"


def _stats_lines(stats: LinkStats, show: Show) -> str:
    """Counters under their names; a wide number widens its column in every line."""
    lines = [_Line("RX", ("bytes", "packets", "errors", "dropped", "missed", "mcast", "compressed"), (
        stats.rx_bytes, stats.rx_packets, stats.rx_errors, stats.rx_dropped, stats.rx_missed_errors, stats.multicast,
        stats.rx_compressed,
    )), _Line("RX errors", ("", "length", "crc", "frame", "fifo", "overrun", "nohandler", "otherhost"), (
        0, stats.rx_length_errors, stats.rx_crc_errors, stats.rx_frame_errors, stats.rx_fifo_errors,
        stats.rx_over_errors, stats.rx_nohandler, stats.rx_otherhost_dropped,
    )), _Line("TX", ("bytes", "packets", "errors", "dropped", "carrier", "collsns", "compressed"), (
        stats.tx_bytes, stats.tx_packets, stats.tx_errors, stats.tx_dropped, stats.tx_carrier_errors,
        stats.collisions, stats.tx_compressed,
    )), _Line("TX errors", ("", "aborted", "fifo", "window", "heartbt", "transns"), (
        0, stats.tx_aborted_errors, stats.tx_fifo_errors, stats.tx_window_errors, stats.tx_heartbeat_errors, 0,
    ))]  # fmt: skip
    if show.stats == 1:
        lines = [line for line in lines if not line.is_detail]
    columns = zip_longest(*(line.sizing for line in lines), fillvalue=0)
    widths = [max(least, *map(len, map(str, column))) for least, column in zip(_COLUMNS, columns, strict=False)]
    return "".join(line.text(widths) for line in lines)


class _Line(NamedTuple):
    title: str
    names: tuple[str, ...]
    numbers: tuple[int, ...]
    """The first stands under the title."""

    @property
    def sizing(self) -> tuple[int, ...]:
        """The numbers by the column that they widen: those of TX errors widen, in ip 6.1, the next one's."""
        return (0, *self.numbers) if self.title == "TX errors" else self.numbers

    @property
    def is_detail(self) -> bool:
        return not self.names[0]

    def text(self, widths: Sequence[int]) -> str:
        cells = list(zip(self.names, self.numbers, widths, strict=False))
        # The last columns are there only when they have something to say.
        shown = cells[:_ALWAYS] + [cell for cell in cells[_ALWAYS:] if cell[1]]
        heads = [f"    {self.title}:{shown[0][0].rjust(widths[0] - len(self.title) - 1)}"]
        heads += [name.rjust(width) for name, _, width in shown[1:]]
        row = "".join(f"{number:>{width}} " for _, number, width in shown[1:])
        if self.is_detail:
            return f"{' '.join(heads)}\n{' ' * (widths[0] + 5)}{row}\n"
        if len(shown) == _ALWAYS:
            heads.append(" " * widths[_ALWAYS])
        return f"{' '.join(heads)}\n    {shown[0][1]:>{widths[0]}} {row}\n"
