"""The printers where iproute2 6.1 cannot judge: newer fields, hidden keys, counts. The rest: test_iproute2."""

from __future__ import annotations

import pytest

from xfrmi.formats.print_policy import print_policy
from xfrmi.formats.print_stat import print_defaults, print_policy_count, print_stat, print_state_count
from xfrmi.formats.print_state import print_state
from xfrmi.formats.show import Show
from xfrmi.wire.xfrm_const import Dir, Mode, SaDir, XfrmStat
from xfrmi.wire.xfrm_info_msg import Defaults, SadInfo, SpdInfo
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateInfo

KEY = bytes(range(20))


def state(**fields: object) -> StateInfo:
    return StateInfo(src="192.0.2.1", dst="192.0.2.2", spi=1, **fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"dir": SaDir.OUT}, "\tdir out"),
        ({"dir": SaDir.IN}, "\tdir in"),
        ({"pcpu": 0}, "\tpcpu-num 0"),
        ({"offload": (2, 4)}, "\tcrypto offload parameters: dev if2 dir out mode packet"),
        ({"offload": (2, 2)}, "\tcrypto offload parameters: dev if2 dir in"),
        ({"mode": Mode.IPTFS}, "\tproto esp spi 0x00000001 reqid 0 mode iptfs"),
    ],
)
def test_what_newer_iproute2_prints(fields: dict[str, object], line: str) -> None:
    assert line in print_state(state(**fields)).splitlines()


def test_hidden_keys() -> None:
    info = state(
        aead=Algorithm("rfc4106(gcm(aes))", KEY, 128), crypt=Algorithm("cbc(aes)", KEY), comp=Algorithm("deflate", b"")
    )
    for stats in (0, 1):
        text = print_state(info, Show(stats=stats, nokeys=True))
        assert KEY.hex() not in text
        assert "\taead rfc4106(gcm(aes)) <<Keys hidden>> 128\n" in text
        assert "\tenc cbc(aes) <<Keys hidden>>\n\tcomp deflate <<Keys hidden>>\n" in text


def test_one_line() -> None:
    info = PolicyInfo(Selector.parse("::/0"), Dir.IN, if_id=42)
    line = "src ::/0 dst ::/0 \\\tdir in priority 0 ptype main \\\tif_id 0x2a\\\n"
    assert print_policy(info, Show(oneline=True)) == line


def test_stat_of_a_new_kernel() -> None:
    text = print_stat([7] * len(XfrmStat))
    assert text.count("\n") == 32
    assert text.endswith("XfrmInIptfsError        \t7\nXfrmOutNoQueueSpace     \t7\n")


def test_counts() -> None:
    """As captured from a 6.18 kernel with -s -s."""
    assert print_state_count(SadInfo(3, 8, 1048576), Show(stats=2)) == "\t SAD count 3 (buckets count 8 Max 1048576)\n"
    assert print_policy_count(SpdInfo(count_out=2), Show(stats=2)) == (
        "\t SPD IN  0 OUT 2 FWD 0 (Sock: IN 0 OUT 0 FWD 0)\n"
        "\t SPD buckets: count 7 Max 1048576\n"
        "\t SPD IPv4 thresholds: local 32 remote 32\n"
        "\t SPD IPv6 thresholds: local 128 remote 128\n"
    )


def test_defaults_that_no_kernel_sends() -> None:
    assert print_defaults(Defaults(0, 3, 1)) == "Default policies:\n in:  unspec\n fwd: unknown\n out: block\n"
