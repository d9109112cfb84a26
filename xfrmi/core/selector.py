"""Does a flow match a selector? (kernel-behaviour 2.1: prefixes, ports under masks, protocol, output device)

A selector is compared with flows of one family at a time, so it is turned into integers and masks once per family
and kept. Policies hold their Matcher; states, whose selectors are mostly alike, share them through a cache.
"""

from __future__ import annotations

from functools import lru_cache

from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import AF_INET
from xfrmi.wire.xfrm_types import Selector


def prefix_mask(prefixlen: int, bits: int) -> int:
    """The netmask of `prefixlen` in an address of `bits`, as an integer. Longer than the address is all of it."""
    return (1 << bits) - (1 << bits - min(prefixlen, bits))


def prefix_of(address: bytes, prefixlen: int, bits: int) -> int:
    """The bits of `address` that a prefix of that length compares, as an integer.

    The selector's address is a union of 16 bytes: one of the other family is read by its first bytes, zeros following.
    """
    return int.from_bytes(address.ljust(bits // 8, b"\0")[: bits // 8], "big") & prefix_mask(prefixlen, bits)


class Matcher:
    """One selector, ready to be compared with flows of `family`."""

    __slots__ = (
        "_anything", "_dmask", "_dport", "_dport_mask", "_dprefix", "_ifindex", "_proto", "_smask", "_sport",
        "_sport_mask", "_sprefix",
    )  # fmt: skip

    def __init__(self, selector: Selector, family: int) -> None:
        bits = 32 if family == AF_INET else 128
        self._smask = prefix_mask(selector.prefixlen_s, bits)
        self._dmask = prefix_mask(selector.prefixlen_d, bits)
        self._sprefix = prefix_of(selector.saddr, selector.prefixlen_s, bits)
        self._dprefix = prefix_of(selector.daddr, selector.prefixlen_d, bits)
        self._sport_mask = selector.sport_mask
        self._dport_mask = selector.dport_mask
        self._sport = selector.sport & selector.sport_mask
        self._dport = selector.dport & selector.dport_mask
        self._proto = selector.proto
        self._ifindex = selector.ifindex
        self._anything = not (
            self._smask or self._dmask or self._sport_mask or self._dport_mask or self._proto or self._ifindex
        )

    def matches(self, flow: Flow, ifindex: int = 0) -> bool:
        """Compare with `flow`, which leaves by device `ifindex`. Its family is taken to be the Matcher's."""
        return self._anything or (
            int.from_bytes(flow.daddr, "big") & self._dmask == self._dprefix
            and int.from_bytes(flow.saddr, "big") & self._smask == self._sprefix
            and flow.dport & self._dport_mask == self._dport
            and flow.sport & self._sport_mask == self._sport
            and (not self._proto or flow.proto == self._proto)
            and (not self._ifindex or ifindex == self._ifindex)
        )


@lru_cache(maxsize=1024)
def matcher(selector: Selector, family: int) -> Matcher:
    """The Matcher of a selector for flows of `family`, from a cache."""
    return Matcher(selector, family)


def selector_match(selector: Selector, flow: Flow, ifindex: int = 0) -> bool:
    """Does `flow`, leaving by device `ifindex`, match? The selector's own family is not asked (that is the caller's).

    So `0.0.0.0/0` matches IPv6 here.
    """
    return matcher(selector, flow.family).matches(flow, ifindex)
