"""A soak of seconds: everything in it happens, and the books balance. And what is wrong is told."""

from __future__ import annotations

from collections import Counter

from bench.books import Side
from bench.memory import growth
from bench.soak import Found, losses, soaked
from tests.netns import in_netns, need_tun


@in_netns
def test_the_books_of_a_short_soak_balance() -> None:
    need_tun()
    found = soaked(2, count=2, flows=2, rate=200)
    assert [told for told in found.wrong() if "has grown" not in told] == []  # memory settles later than that
    assert found.sent > 50 and found.arrived > 50 and found.rekeyed >= 4


def test_what_is_wrong_is_told() -> None:
    slow, quick = [50.0] * 30, [50.0] * 20 + [60.0] * 10
    lost = {"full sockets": 4}
    found = Found(100, 90, 1, lost, (slow, quick), ([30, 30], [30, 31]), 5, 0, 0, {"larval states": 2, "faults": 0})
    assert found.wrong() == [
        "6 packets are unaccounted for", "1 packets arrived twice", "the daemon on sun has grown by 10.0 MB",
        "the daemon on sun had 30 descriptors, and has 31", "2 larval states",
    ]  # fmt: skip
    assert growth([1.0]) == 0


def test_losses_are_told_by_reason() -> None:
    side = Side(
        Counter(qdisc=1, tx_dropped=2, rx_dropped=4, rx_packets=9), Counter(tx_errors=8, rx_errors=16),
        Counter(XfrmInNoStates=32, XfrmOutNoStates=64), 128,
    )  # fmt: skip
    assert losses(side, Side()) == {
        "queue of the TUN": 3, "not sent: no state, or its limit": 8, "full sockets": 128, "TUN did not take it": 4,
        "XfrmInNoStates": 32,
    }  # fmt: skip
