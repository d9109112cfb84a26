"""States as `ip [-s] xfrm state [nokeys]` prints them, byte for byte (iproute2 6.1).

What newer iproute2 prints and 6.1 does not know is printed as the newer one does: `mode packet` of an offload,
`dir in`, `pcpu-num 1`, `mode iptfs`. Fields that no iproute2 prints: mtimer_thresh, nat_keepalive_interval.
"""

from __future__ import annotations

from xfrmi.formats import words
from xfrmi.formats.print_parts import (
    address,
    bits8,
    context_line,
    id_lines,
    if_id_line,
    is_any,
    lifetime_lines,
    mark_line,
    selector_line,
)
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_types import Algorithm, Encap, Replay, ReplayEsn, StateInfo

_WORDS_A_LINE = 8
_IPSEC = (k.IPPROTO_ESP, k.IPPROTO_AH, k.IPPROTO_COMP)


def print_state(info: StateInfo, show: Show = PLAIN) -> str:
    """One state, newline at the end. Keys are in it unless `show.nokeys`."""
    return show.record(state_lines(info, show))


def state_lines(info: StateInfo, show: Show) -> str:
    """The lines of one state, without regard to -o."""
    text = id_lines(
        info.src, info.dst, proto=info.proto, spi=info.spi, reqid=info.reqid, mode=info.mode, family=info.family,
        prefix="", show=show, force_spi=info.proto in _IPSEC,
    )  # fmt: skip
    text += _window_line(info, show)
    text += _attribute_lines(info, show)
    if not is_any(info.selector):
        text += "\tsel " + selector_line(info.selector, info.family, show)
    if show.stats:
        text += lifetime_lines(info.limits, info.current, "\t", show)
        stats = info.stats
        text += f"\tstats:\n\t  replay-window {stats.replay_window} replay {stats.replay} "
        text += f"failed {stats.integrity_failed}\n"
    return text + context_line(info.sec_ctx)


def _window_line(info: StateInfo, show: Show) -> str:
    """replay-window N [seq] [flag ...]: ip leaves no blank before extra_flag, and shows it with -s only."""
    line = f"\treplay-window {info.replay_window} "
    if show.stats:
        # ip's own mixture: 0x and decimal digits.
        line += f"seq 0x{info.seq:08d} "
    if show.stats or info.flags:
        line += "flag " + " ".join(words.flag_words(words.STATE_FLAGS, info.flags))
    if show.stats and info.extra_flags:
        line += "extra_flag " + " ".join(words.flag_words(words.EXTRA_FLAGS, info.extra_flags))
    return f"{line} {bits8(info.flags)}\n" if show.stats else f"{line}\n"


def _attribute_lines(info: StateInfo, show: Show) -> str:
    text = mark_line(info.mark, info.set_mark)
    if info.auth_trunc is not None:
        text += _algorithm_line("auth-trunc", info.auth_trunc, show, with_bits=True)
    elif info.auth is not None:
        text += _algorithm_line("auth", info.auth, show)
    if info.aead is not None:
        text += _algorithm_line("aead", info.aead, show, with_bits=True)
    if info.crypt is not None:
        text += _algorithm_line("enc", info.crypt, show)
    if info.comp is not None:
        text += _algorithm_line("comp", info.comp, show)
    if info.encap is not None:
        text += _encap_line(info.encap, info.family)
    if info.coaddr is not None:
        text += f"\tcoa {address(info.family, info.coaddr)}\n"
    if info.lastused:
        text += f"\tlastused {show.time(info.lastused)}\n"
    if info.replay is not None:
        text += _replay_line(info.replay)
    if info.replay_esn is not None:
        text += _esn_lines(info.replay_esn)
    if info.offload is not None:
        text += _offload_line(info.offload, show)
    text += if_id_line(info.if_id, "\t")
    if info.tfcpad:
        text += f"\ttfcpad {info.tfcpad}\n"
    if info.dir:
        text += f"\tdir {words.word(words.SA_DIRS, info.dir)}\n"
    if info.pcpu is not None:
        text += f"\tpcpu-num {info.pcpu}\n"
    return text


def _algorithm_line(word: str, algorithm: Algorithm, show: Show, *, with_bits: bool = False) -> str:
    line = f"\t{word} {algorithm.name} "
    if show.nokeys:
        line += "<<Keys hidden>>"
    elif algorithm.key:
        line += f"0x{algorithm.key.hex()}"
        if show.stats:
            line += f" ({len(algorithm.key) * 8} bits)"
    return f"{line} {algorithm.bits}\n" if with_bits else f"{line}\n"


def _encap_line(encap: Encap, family: int) -> str:
    kind = words.word(words.ENCAP_TYPES, encap.type)
    return f"\tencap type {kind} sport {encap.sport} dport {encap.dport} addr {address(family, encap.oa)}\n"


def _replay_line(replay: Replay) -> str:
    counters = f"seq 0x{replay.seq:x}, oseq 0x{replay.oseq:x}"
    return f"\tanti-replay context: {counters}, bitmap 0x{replay.bitmap:08x}\n"


def _esn_lines(esn: ReplayEsn) -> str:
    """Bitmap words from the last to the first, eight a line."""
    lines = [
        "anti-replay esn context:",
        f" seq-hi 0x{esn.seq_hi:x}, seq 0x{esn.seq:x}, oseq-hi 0x{esn.oseq_hi:x}, oseq 0x{esn.oseq:x}",
        f" replay_window {esn.replay_window}, bitmap-length {len(esn.bitmap)}",
    ]
    texts = [f"{word:08x} " for word in reversed(esn.bitmap)]
    lines += [" " + "".join(texts[at : at + _WORDS_A_LINE]) for at in range(0, len(texts), _WORDS_A_LINE)]
    return "".join(f"\t{line}\n" for line in lines)


def _offload_line(offload: tuple[int, int], show: Show) -> str:
    ifindex, flags = offload
    line = f"\tcrypto offload parameters: dev {show.ifname(ifindex)} dir {'in' if flags & words.OFFLOAD_IN else 'out'}"
    return f"{line} mode packet\n" if flags & words.OFFLOAD_PACKET else f"{line}\n"
