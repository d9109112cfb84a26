"""States, policies, counters and defaults as plain dicts for --json. ip(8) has no JSON for xfrm, so this is ours.

Stable: keys are iproute2's words; a key is there when what it stands for is set, and never changes its type. As in
iproute2's own JSON, what ip prints in hex is a string in hex ("spi": "0x00001000", "if_id": "0x2a", "key": "0x..."),
everything else that counts is a number. Times are Unix seconds, an absent limit or time has no key.

state   src dst proto spi reqid mode replay_window flags extra_flags mark{value,mask} output_mark{value,mask}
        auth auth_trunc aead enc comp{name,key,bits} encap{type,sport,dport,addr} coa lastused
        anti_replay{seq,oseq,bitmap} anti_replay_esn{seq_hi,seq,oseq_hi,oseq,replay_window,bitmap[]}
        offload{dev,dir,mode} if_id tfcpad dir pcpu_num nat_keepalive_interval mtimer_thresh sel{} security_context
        seq lifetime_config{} lifetime_current{} stats{replay_window,replay,failed}
sel     src dst (with prefix length) proto sport dport type code key dev uid
policy  sel{} dir action index priority ptype share flags socket mark{} tmpl[] if_id security_context
        lifetime_config{} lifetime_current{}
tmpl    src dst proto spi reqid mode level share enc_mask auth_mask comp_mask

Keys are hidden with `Show(nokeys=True)`: no "key" then. -s makes no difference, everything is always there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xfrmi.formats import words
from xfrmi.formats.print_parts import address, is_any
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_info_msg import Defaults, SadInfo, SpdInfo
from xfrmi.wire.xfrm_types import Algorithm, Current, Encap, Limits, Mark, PolicyInfo, Selector, StateInfo, Template

Json = dict[str, Any]
_SOCKET_DIRS = 3


def state_json(info: StateInfo, show: Show = PLAIN) -> Json:
    result: Json = {
        "src": address(info.family, info.src),
        "dst": address(info.family, info.dst),
        "proto": words.word(words.XFRM_PROTOS, info.proto),
        "spi": f"0x{info.spi:08x}",
        "reqid": info.reqid,
        "mode": words.word(words.MODES, info.mode),
        "replay_window": info.replay_window,
        "flags": words.flag_words(words.STATE_FLAGS, info.flags),
        "extra_flags": words.flag_words(words.EXTRA_FLAGS, info.extra_flags),
    }
    if info.mark.value or info.mark.mask:
        result["mark"] = _mark(info.mark)
    if info.set_mark is not None:
        result["output_mark"] = _mark(info.set_mark)
    # The kernel dumps a truncated authentication twice; like ip, show it once.
    auth = info.auth if info.auth_trunc is None else None
    algorithms = {"auth": auth, "auth_trunc": info.auth_trunc, "aead": info.aead, "enc": info.crypt, "comp": info.comp}
    result |= {word: _algorithm(found, show) for word, found in algorithms.items() if found is not None}
    result |= _state_options(info, show)
    if not is_any(info.selector):
        result["sel"] = selector_json(info.selector, info.family, show)
    result["seq"] = info.seq
    result["lifetime_config"] = _limits(info.limits)
    result["lifetime_current"] = _current(info.current)
    stats = info.stats
    result["stats"] = {
        "replay_window": stats.replay_window,
        "replay": stats.replay,
        "failed": stats.integrity_failed,
    }
    return result


def _state_options(info: StateInfo, show: Show) -> Json:
    """What a state may have, in the order of its listing."""
    result: Json = {}
    if (encap := info.encap) is not None:
        result["encap"] = encap_json(encap, info.family)
    if info.coaddr is not None:
        result["coa"] = address(info.family, info.coaddr)
    if info.lastused:
        result["lastused"] = info.lastused
    if (replay := info.replay) is not None:
        result["anti_replay"] = {"seq": replay.seq, "oseq": replay.oseq, "bitmap": f"0x{replay.bitmap:08x}"}
    if (esn := info.replay_esn) is not None:
        result["anti_replay_esn"] = {
            "seq_hi": esn.seq_hi,
            "seq": esn.seq,
            "oseq_hi": esn.oseq_hi,
            "oseq": esn.oseq,
            "replay_window": esn.replay_window,
            "bitmap": [f"0x{word:08x}" for word in esn.bitmap],
        }
    if info.offload is not None:
        ifindex, flags = info.offload
        result["offload"] = {
            "dev": show.ifname(ifindex),
            "dir": "in" if flags & words.OFFLOAD_IN else "out",
            "mode": "packet" if flags & words.OFFLOAD_PACKET else "crypto",
        }
    if info.dir:
        result["dir"] = words.word(words.SA_DIRS, info.dir)
    numbers = {
        "tfcpad": info.tfcpad,
        "pcpu_num": info.pcpu,
        "nat_keepalive_interval": info.nat_keepalive_interval,
        "mtimer_thresh": info.mtimer_thresh,
    }
    result |= {name: number for name, number in numbers.items() if number or (name == "pcpu_num" and number == 0)}
    return result | _common(info.if_id, info.sec_ctx)


def encap_json(encap: Encap, family: int) -> Json:
    return {
        "type": words.word(words.ENCAP_TYPES, encap.type),
        "sport": encap.sport,
        "dport": encap.dport,
        "addr": address(family, encap.oa),
    }


def policy_json(info: PolicyInfo, show: Show = PLAIN) -> Json:
    of_socket = info.dir >= _SOCKET_DIRS
    result: Json = {
        "sel": selector_json(info.selector, k.AF_INET, show),
        "dir": words.word(words.DIRS, info.dir - _SOCKET_DIRS if of_socket else info.dir),
        "action": words.word(words.ACTIONS, info.action),
        "index": info.index,
        "priority": info.priority,
        "ptype": words.word(words.POLICY_TYPES, info.type),
        "share": words.word(words.SHARES, info.share),
        "flags": words.flag_words(words.POLICY_FLAGS, info.flags),
    }
    if of_socket:
        result["socket"] = True
    if info.mark.value or info.mark.mask:
        result["mark"] = _mark(info.mark)
    result["tmpl"] = [_template(template) for template in info.templates]
    result |= _common(info.if_id, info.sec_ctx)
    result["lifetime_config"] = _limits(info.limits)
    result["lifetime_current"] = _current(info.current)
    return result


def _template(template: Template) -> Json:
    return {
        "src": address(template.family, template.src),
        "dst": address(template.family, template.dst),
        "proto": words.word(words.XFRM_PROTOS, template.proto),
        "spi": f"0x{template.spi:08x}",
        "reqid": template.reqid,
        "mode": words.word(words.MODES, template.mode),
        "level": words.word(words.LEVELS, template.optional),
        "share": words.word(words.SHARES, template.share),
        "enc_mask": f"0x{template.ealgos:08x}",
        "auth_mask": f"0x{template.aalgos:08x}",
        "comp_mask": f"0x{template.calgos:08x}",
    }


def stat_json(stats: Sequence[int]) -> dict[str, int]:
    """Counters by the names of /proc/net/xfrm_stat; `stats` is indexed by XfrmStat."""
    return {stat.label: stats[stat] for stat in k.XfrmStat if stat < len(stats)}


def state_count_json(info: SadInfo) -> Json:
    return {"count": info.count, "buckets": info.buckets, "max_buckets": info.max_buckets}


def policy_count_json(info: SpdInfo) -> Json:
    return {
        "in": info.count_in,
        "out": info.count_out,
        "fwd": info.count_fwd,
        "socket": {"in": info.socket_in, "out": info.socket_out, "fwd": info.socket_fwd},
        "buckets": info.buckets,
        "max_buckets": info.max_buckets,
        "hthresh4": {"local": info.ipv4[0], "remote": info.ipv4[1]},
        "hthresh6": {"local": info.ipv6[0], "remote": info.ipv6[1]},
    }


def defaults_json(defaults: Defaults) -> dict[str, str]:
    pairs = {"in": defaults.input, "fwd": defaults.fwd, "out": defaults.output}
    return {name: "block" if value == k.Default.BLOCK else "accept" for name, value in pairs.items()}


def selector_json(sel: Selector, family: int, show: Show) -> Json:
    family = sel.family or family
    result: Json = {
        "src": f"{address(family, sel.saddr)}/{sel.prefixlen_s}",
        "dst": f"{address(family, sel.daddr)}/{sel.prefixlen_d}",
    }
    if sel.proto:
        result["proto"] = words.word(words.PROTOS, sel.proto)
    if sel.proto == k.IPPROTO_GRE and (sel.sport_mask or sel.dport_mask):
        result["key"] = sel.sport << 16 | sel.dport
    else:
        by_type = sel.proto in (k.IPPROTO_ICMP, k.IPPROTO_ICMPV6, k.IPPROTO_MH)
        if sel.sport_mask:
            result["type" if by_type else "sport"] = sel.sport
        if sel.dport_mask:
            result["code" if by_type else "dport"] = sel.dport
    if sel.ifindex:
        result["dev"] = show.ifname(sel.ifindex)
    if sel.user:
        result["uid"] = sel.user
    return result


def _algorithm(algorithm: Algorithm, show: Show) -> Json:
    result: Json = {"name": algorithm.name}
    if not show.nokeys:
        result["key"] = f"0x{algorithm.key.hex()}"
    if algorithm.bits:
        result["bits"] = algorithm.bits
    return result


def _mark(mark: Mark) -> dict[str, str]:
    return {"value": f"{mark.value:#x}", "mask": f"{mark.mask:#x}"}


def _common(if_id: int, sec_ctx: bytes | None) -> Json:
    result: Json = {}
    if if_id:
        result["if_id"] = f"{if_id:#x}"
    if sec_ctx is not None:
        result["security_context"] = words.sec_ctx_text(sec_ctx)
    return result


def _limits(limits: Limits) -> dict[str, int]:
    """By the words of `limit`; one that limits nothing is left out."""
    sizes = {
        "byte_soft": limits.soft_bytes,
        "byte_hard": limits.hard_bytes,
        "packet_soft": limits.soft_packets,
        "packet_hard": limits.hard_packets,
    }
    times = {
        "time_soft": limits.soft_add,
        "time_hard": limits.hard_add,
        "time_use_soft": limits.soft_use,
        "time_use_hard": limits.hard_use,
    }
    result = {name: size for name, size in sizes.items() if size != k.XFRM_INF}
    return result | {name: seconds for name, seconds in times.items() if seconds}


def _current(current: Current) -> dict[str, int]:
    result = {"bytes": current.bytes, "packets": current.packets}
    times = {"add_time": current.add_time, "use_time": current.use_time}
    return result | {name: seconds for name, seconds in times.items() if seconds}
