"""Two samples and a time -> the lines of the screen. No I/O, no clock."""

from __future__ import annotations

from rich.text import Text

from xfrmi.client.samples import Sample, StateKey
from xfrmi.top.drawing import duration, shortened, si
from xfrmi.top.selection import Comparison, Drop, Rate, in_order, larval_of, wanted_if_ids
from xfrmi.top.state_lines import larval_line, state_lines
from xfrmi.top.view import View
from xfrmi.wire.link_types import IFF_UP, LinkInfo

MIN_WIDTH = 60
MAX_LARVAL = 3
DROP_WIDTH = 40

HELP = """\
  q          quit (so does Ctrl-C)
  s          sort states by the next of: rate, bytes, spi, if_id, newest first
  f          show one interface: type a part of its name, or an if_id, and Enter; with nothing typed, all
  ↑ ↓ j k    scroll by a state; Page Up, Page Down, Home, End
  ?          this help; any key leads back

  Interfaces: what the device has received (in) and sent (out), inner packets.
  Drops: counters of /proc/net/xfrm_stat and of the devices that have risen, and how fast they do.
  States: rates are of payload. "seq" is the last number sent, "top" the highest accepted. A replay window is drawn
  number by number, the oldest left: █ seen, · not seen; a large one eight numbers a character. Bars are limits: what
  is used up of the hard one, ┃ where the soft one is. A state past its soft limit is DYING and is to be replaced.
  Keys are not shown, and not even asked for."""


def picture(
    before: Sample | None, now: Sample, at: float, view: View, width: int, height: int | None, trouble: str = ""
) -> list[Text]:
    """At most `height` lines of at most `width` columns; None: as many as it takes. `at` is in Unix seconds.

    `trouble` is a sentence about why `now` is not of now.
    """
    width = max(width, MIN_WIDTH)
    if_ids = wanted_if_ids(view.filter, now.links)
    rates = Comparison(before, now)
    lines = [_title(now, at, width, trouble)]
    if view.help:
        lines += [Text(line) for line in HELP.split("\n")]
    else:
        lines += _interfaces(now, rates, if_ids, width, height)
        lines += _drops(rates.drops(if_ids), width, height)
        lines += _larval(now, if_ids, at, width)
        lines += _states(now, rates, if_ids, view, at, width, None if height is None else height - len(lines) - 1)
    if height is not None:
        lines = lines[: height - 1]
        lines += [Text()] * (height - 1 - len(lines)) + [_footer(view)]
    for line in lines:
        line.truncate(width)
        line.no_wrap, line.overflow = True, "crop"  # in a terminal that is narrower still
    return lines


def _title(now: Sample, at: float, width: int, trouble: str) -> Text:
    if trouble:
        return Text(f"xfrmi top  {trouble}".ljust(width), "bold white on red")
    left = "xfrmi top"
    if (pid := now.status.get("pid")) is not None:
        left += f"  daemon {pid}"
    if started := now.status.get("started"):
        left += f"  up {duration(at - started)}"
    states = len(now.uses) + now.larval_count
    right = f"interfaces {len(now.links)}  states {states}  policies {now.status.get('policies', 0)}"
    return Text(f"{left}{right:>{max(1, width - len(left))}}", "bold reverse")


def _interfaces(
    now: Sample, rates: Comparison, if_ids: frozenset[int] | None, width: int, height: int | None
) -> list[Text]:
    links = [link for link in now.links if if_ids is None or link.if_id in if_ids]
    found = {link.name: rates.link(link) for link in links}
    links.sort(key=lambda link: (-sum(rate.bits for rate in found[link.name] if rate is not None), link.name))
    room = len(links) if height is None else max(2, height // 6)
    shown = links if len(links) <= room else links[: room - 1]
    head = f"{'INTERFACE':<18}{'IF_ID':>10}{'IN pkt/s':>13}{'bit/s':>9}{'OUT pkt/s':>13}{'bit/s':>9}"
    lines = [Text(head, "bold")]
    lines += [_interface(link, *found[link.name]) for link in shown]
    if len(shown) < len(links):
        lines.append(Text(f"… {len(links) - len(shown)} more", "dim"))
    return lines


def _interface(link: LinkInfo, received: Rate | None, sent: Rate | None) -> Text:
    up = bool(link.flags & IFF_UP)
    line = Text().append(f"{link.name + ('' if up else ' (down)'):<18.18}", "cyan" if up else "dim")
    line.append(f"{link.if_id or 0:>#10x}")
    for rate in (received, sent):
        moving = rate is not None and rate.packets > 0
        packets, bits = ("-", "-") if rate is None else (si(rate.packets), si(rate.bits))
        line.append(f"{packets:>13}{bits:>9}", "bold" if moving else "dim")
    return line


def _drops(drops: list[Drop], width: int, height: int | None) -> list[Text]:
    if not drops:
        return [Text("DROPS  none", "bold")]
    columns = max(1, width // DROP_WIDTH)
    room = len(drops) if height is None else max(2, height // 8) * columns
    shown = drops[:room]
    rest = f", {len(drops) - room} more" if len(drops) > room else ""
    lines = [Text(f"DROPS  counter, in all, a second{rest}", "bold")]
    for start in range(0, len(shown), columns):
        line = Text()
        for drop in shown[start : start + columns]:
            rate = "-" if drop.rate is None else si(drop.rate)
            name = shortened(drop.name, DROP_WIDTH - 17)
            text = f"{name:<{DROP_WIDTH - 17}}{si(drop.total):>7}{rate + '/s':>8}  "
            line.append(text, "red" if drop.rate else "")
        line.rstrip()
        lines.append(line)
    return lines


def _larval(now: Sample, if_ids: frozenset[int] | None, at: float, width: int) -> list[Text]:
    larval = larval_of(now, if_ids)
    if not larval:
        return []
    count = now.larval_count if if_ids is None else len(larval)
    lines = [Text(f"ACQUIRES  {count} larval, waiting for keys", "bold")]
    return lines + [larval_line(state, at, _name(now, state.if_id), width) for state in larval[:MAX_LARVAL]]


def _states(
    now: Sample,
    rates: Comparison,
    if_ids: frozenset[int] | None,
    view: View,
    at: float,
    width: int,
    height: int | None,
) -> list[Text]:
    order = in_order(now, rates, view.sort, if_ids)
    view = view.clamped(len(order))
    body: list[Text] = []
    shown = 0
    for use in order[view.first : None if height is None else view.first + height]:
        if (state := now.states.get(use.key)) is None:
            continue  # it has just gone
        lines = state_lines(state, rates.state(use), at, _name(now, use.if_id), width)
        if height is not None and shown and len(body) + len(lines) > height - 1:
            break
        body += lines
        shown += 1
    which = f"  {view.first + 1}-{view.first + shown} of {len(order)}, sorted: {view.sort}" if order else "  none"
    if view.filter:
        which += f", only {view.filter}"
    return [Text(f"STATES{which}", "bold"), *body]


def _name(now: Sample, if_id: int) -> str:
    """What a state belongs to."""
    if not if_id:
        return "no if_id"
    return next((link.name for link in now.links if link.if_id == if_id), f"if_id {if_id:#x}")


def _footer(view: View) -> Text:
    if view.typing is not None:
        return Text(f"interface or if_id: {view.typing}_   (Enter: show it, nothing: all, Esc: as before)", "bold")
    if view.help:
        return Text("any key: back   q quit", "reverse")
    return Text("q quit   s sort   f filter   ↑↓ scroll   ? help", "reverse")


def asked(before: Sample | None, now: Sample, view: View, height: int | None) -> tuple[View, list[StateKey]]:
    """The states whose details a picture of this height may show; and the view, scrolled no further than there are."""
    order = in_order(now, Comparison(before, now), view.sort, wanted_if_ids(view.filter, now.links))
    view = view.clamped(len(order))
    last = None if height is None else view.first + height // 2
    return view, [use.key for use in order[view.first : last]]
