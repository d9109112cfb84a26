"""core.spd and core.policy: kernel-behaviour 2.2, 2.3, 2.7."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from tests.core.samples import NOW, fails, flow, new_spd, policy_info, template
from tests.each import each
from xfrmi.core import events
from xfrmi.core.policy import Policy
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_TCP, Action, Default, Dir, PolicyType
from xfrmi.wire.xfrm_info_msg import SpdInfo, Thresholds
from xfrmi.wire.xfrm_types import Limits, Mark, PolicyId, PolicyInfo, Selector

FLOW = flow("10.0.0.1", "10.9.1.2")


def id_of(info: PolicyInfo) -> PolicyId:
    return PolicyId(info.selector, info.dir, info.if_id, 0, info.mark, info.type)


def test_SPD_01_an_identical_policy_is_refused_and_nothing_changes() -> None:
    spd, log = new_spd()
    first = spd.insert(policy_info("10.0.0.0/8", priority=5), NOW)
    log.take()
    generation = spd.generation
    with fails(errno.EEXIST) as caught:
        spd.insert(policy_info("10.0.0.0/8", priority=5, templates=(template(),)), NOW)
    assert "index 1 and priority 5" in caught.value.detail
    assert spd.dump() == [first]
    assert (log, spd.generation) == ([], generation)


@pytest.mark.parametrize(
    "difference",
    [{"if_id": 1}, {"mark": Mark(1, 0xFF)}, {"dir": Dir.IN}, {"type": PolicyType.SUB}, {"sport": 5}, {"ifindex": 2}],
    ids=str,
)
def test_SPD_02_if_id_mark_dir_type_and_selector_tell_policies_apart(difference: dict[str, Any]) -> None:
    spd, _ = new_spd()
    spd.insert(policy_info("10.0.0.0/8"), NOW)
    spd.insert(policy_info("10.0.0.0/8", **difference), NOW)
    assert len(spd) == 2


def test_SPD_03_priority_is_not_part_of_the_identity() -> None:
    spd, _ = new_spd()
    spd.insert(policy_info("10.0.0.0/8", priority=1), NOW)
    with fails(errno.EEXIST):
        spd.insert(policy_info("10.0.0.0/8", priority=2), NOW)


def test_SPD_04_update_keeps_the_index_and_becomes_the_newest_of_the_dump() -> None:
    spd, log = new_spd()
    old = spd.insert(policy_info("10.0.0.0/8", priority=1), NOW)
    other = spd.insert(policy_info("11.0.0.0/8"), NOW)
    new = spd.update(policy_info("10.0.0.0/8", priority=2, templates=(template(),), index=0x1001), NOW + 5)
    assert new.index == old.index
    assert spd.dump() == [new, other]
    assert (new.priority, new.templates, new.add_time) == (2, (template(),), int(NOW + 5))
    assert log[-1] == events.PolicyUpdated(new.snapshot())
    assert spd.counts().count_out == 2


def test_SPD_05_update_of_nothing_creates() -> None:
    spd, log = new_spd()
    policy = spd.update(policy_info("10.0.0.0/8"), NOW)
    assert spd.dump() == [policy]
    assert log == [events.PolicyUpdated(policy.snapshot())]


def test_SPD_06_host_bits_make_another_policy() -> None:
    spd, _ = new_spd()
    spd.insert(policy_info("10.0.0.0/8"), NOW)
    kept = spd.insert(policy_info("10.0.0.1/8"), NOW)
    assert kept.snapshot().selector.saddr == bytes((10, 0, 0, 1))


def test_SPD_07_a_mark_is_stored_masked_and_has_to_be_named_so() -> None:
    spd, _ = new_spd()
    policy = spd.insert(policy_info("10.0.0.0/8", mark=Mark(0x15, 0xF0)), NOW)
    assert policy.snapshot().mark == Mark(0x10, 0xF0)
    with fails(errno.EEXIST):
        spd.insert(policy_info("10.0.0.0/8", mark=Mark(0x1F, 0xF0)), NOW)
    with fails(errno.ENOENT) as caught:
        spd.delete(id_of(policy_info("10.0.0.0/8", mark=Mark(0x15, 0xF0))), NOW)
    assert "0x10 mask 0xf0" in caught.value.detail
    assert spd.delete(id_of(policy_info("10.0.0.0/8", mark=Mark(0x10, 0xF0))), NOW) is policy


@pytest.mark.parametrize(
    "wrong",
    [
        PolicyId(Selector.parse("10.0.0.0/9"), Dir.OUT, 7),
        PolicyId(Selector.parse("10.0.0.0/8"), Dir.OUT, 0),
        PolicyId(Selector.parse("10.0.0.0/8"), Dir.IN, 7),
        PolicyId(Selector.parse("10.0.0.0/8"), Dir.OUT, 7, type=PolicyType.SUB),
        PolicyId(dir=Dir.IN, if_id=7, index=1),
        PolicyId(dir=Dir.OUT, if_id=8, index=1),
        PolicyId(dir=Dir.OUT, if_id=7, index=1, mark=Mark(1, 1)),
        PolicyId(dir=Dir.OUT, if_id=7, index=1, type=PolicyType.SUB),
        PolicyId(dir=Dir.OUT, if_id=7, index=9),
    ],
)
def test_SPD_08_the_whole_identity_has_to_be_right(wrong: PolicyId) -> None:
    spd, _ = new_spd()
    spd.insert(policy_info("10.0.0.0/8", if_id=7), NOW)
    for request in (spd.get, lambda policy_id: spd.delete(policy_id, NOW)):
        with fails(errno.ENOENT):
            request(wrong)
    assert len(spd) == 1


def test_SPD_08_an_index_makes_the_selector_unnecessary() -> None:
    spd, log = new_spd()
    policy = spd.insert(policy_info("10.0.0.0/8", if_id=7), NOW)
    named = PolicyId(Selector.parse("9.9.9.9/9"), Dir.OUT, 7, index=1)
    assert spd.get(named) is policy
    assert spd.delete(named, NOW) is policy
    assert log[-1] == events.PolicyDeleted(policy.snapshot(), by_index=True)


def test_SPD_09_indexes_step_by_eight_over_all_directions() -> None:
    # As captured: out, out, in, fwd, out.
    spd, _ = new_spd()
    directions = (Dir.OUT, Dir.OUT, Dir.IN, Dir.FWD, Dir.OUT)
    indexes = [spd.insert(policy_info(f"10.{n}.0.0/16", dir=d), NOW).index for n, d in enumerate(directions)]
    assert indexes == [1, 9, 16, 26, 33]


def test_SPD_09_index_0_is_never_given() -> None:
    spd, _ = new_spd()
    indexes = [spd.insert(policy_info(f"10.{n}.0.0/16", dir=Dir.IN), NOW).index for n in range(3)]
    assert indexes == [8, 16, 24]


def test_SPD_10_a_wanted_index_is_given_if_free() -> None:
    spd, _ = new_spd()
    assert spd.insert(policy_info("10.0.0.0/16", index=0x2001), NOW).index == 0x2001
    assert spd.insert(policy_info("10.1.0.0/16", index=0x2001), NOW).index == 1
    assert spd.insert(policy_info("10.2.0.0/16", index=9), NOW).index == 9
    assert spd.insert(policy_info("10.3.0.0/16"), NOW).index == 17  # the generator steps over the one that is taken
    with fails(errno.EINVAL):
        spd.insert(policy_info("10.4.0.0/16", index=8), NOW)


def test_SPD_11_dump_is_newest_first_whatever_the_direction_and_type() -> None:
    spd, _ = new_spd()
    policies = [
        spd.insert(policy_info("10.0.0.0/8", dir=direction, type=kind, priority=9 - direction), NOW)
        for kind in (PolicyType.MAIN, PolicyType.SUB)
        for direction in Dir
    ]
    assert spd.dump() == policies[::-1]


def test_SPD_12_flush_takes_one_type_and_an_empty_one_is_silent() -> None:
    spd, log = new_spd()
    spd.insert(policy_info("10.0.0.0/8"), NOW)
    spd.insert(policy_info("11.0.0.0/8", dir=Dir.IN), NOW)
    sub = spd.insert(policy_info("10.0.0.0/8", type=PolicyType.SUB), NOW)
    log.take()
    assert spd.flush(PolicyType.MAIN, NOW) == 2
    assert log.take() == [events.PoliciesFlushed(PolicyType.MAIN)]
    assert spd.flush(PolicyType.MAIN, NOW) == 0
    assert log == []
    assert spd.dump() == [sub]
    assert (spd.counts().count_in, spd.counts().count_out) == (0, 1)
    with fails(errno.EINVAL):
        spd.flush(2, NOW)


def test_SPD_20_lowest_priority_number_wins() -> None:
    spd, _ = new_spd()
    spd.insert(policy_info("", "10.9.1.2/32", priority=2), NOW)
    lowest = spd.insert(policy_info("", "10.0.0.0/8", priority=1), NOW)
    assert spd.lookup(Dir.OUT, 0, FLOW) is lowest


PREFIXES = ("0.0.0.0/0", "10.0.0.0/8", "10.9.1.0/24", "10.9.1.2/32")


@each("younger", PREFIXES)
@each("older", PREFIXES)
def test_SPD_21_oldest_wins_on_equal_priority(older: str, younger: str) -> None:
    spd, _ = new_spd()
    oldest = spd.insert(policy_info("", older), NOW)
    spd.insert(policy_info("", younger, proto=FLOW.proto), NOW)
    assert spd.lookup(Dir.OUT, 0, FLOW) is oldest


def test_SPD_21_an_update_of_equal_priority_keeps_its_place_another_priority_loses_it() -> None:
    # As a Linux 6.18 does.
    spd, _ = new_spd()
    spd.insert(policy_info("", "10.9.1.0/24"), NOW)
    second = spd.insert(policy_info("", "10.9.0.0/16"), NOW)
    updated = spd.update(policy_info("", "10.9.1.0/24", action=Action.BLOCK), NOW)
    assert spd.lookup(Dir.OUT, 0, FLOW) is updated
    spd.update(policy_info("", "10.9.1.0/24", priority=5), NOW)
    assert spd.lookup(Dir.OUT, 0, FLOW) is second
    spd.update(policy_info("", "10.9.1.0/24"), NOW)
    assert spd.lookup(Dir.OUT, 0, FLOW) is second


def test_SPD_22_thresholds_are_stored_and_change_nothing() -> None:
    spd, _ = new_spd()
    oldest = spd.insert(policy_info("", "10.9.0.0/16"), NOW)
    spd.insert(policy_info("10.0.0.1", "10.9.1.2"), NOW)
    spd.set_thresholds(Thresholds((0, 0), None))
    assert (spd.counts().ipv4, spd.counts().ipv6) == ((0, 0), (128, 128))
    assert spd.lookup(Dir.OUT, 0, FLOW) is oldest


def test_SPD_23_a_sub_policy_that_allows_is_joined_by_the_main_one() -> None:
    spd, _ = new_spd()
    main = spd.insert(policy_info("10.0.0.0/8"), NOW)
    assert spd.lookup_all(Dir.OUT, 0, FLOW) == [main]
    sub = spd.insert(policy_info("10.0.0.0/8", type=PolicyType.SUB, priority=9), NOW)
    assert spd.lookup_all(Dir.OUT, 0, FLOW) == [sub, main]
    blocking = spd.update(policy_info("10.0.0.0/8", type=PolicyType.SUB, action=Action.BLOCK), NOW)
    assert spd.lookup_all(Dir.OUT, 0, FLOW) == [blocking]
    assert spd.lookup_all(Dir.IN, 0, FLOW) == []
    spd.flush(PolicyType.MAIN, NOW)
    allowing = spd.update(policy_info("10.0.0.0/8", type=PolicyType.SUB), NOW)
    assert spd.lookup_all(Dir.OUT, 0, FLOW) == [allowing]


def test_lookup_asks_for_direction_if_id_family_mark_and_device() -> None:
    spd, _ = new_spd()
    policy = spd.insert(policy_info("10.0.0.0/8", if_id=7, mark=Mark(0x10, 0xF0), ifindex=3), NOW)
    assert spd.lookup(Dir.OUT, 7, FLOW, 0x12, 3) is policy
    assert spd.lookup(Dir.IN, 7, FLOW, 0x12, 3) is None
    assert spd.lookup(Dir.OUT, 0, FLOW, 0x12, 3) is None
    assert spd.lookup(Dir.OUT, 7, FLOW, 0x22, 3) is None
    assert spd.lookup(Dir.OUT, 7, FLOW, 0x12, 4) is None


def test_a_policy_never_matches_the_other_family() -> None:
    spd, _ = new_spd()
    spd.insert(policy_info("0.0.0.0/0"), NOW)
    assert spd.lookup(Dir.OUT, 0, flow("::1", "::2")) is None
    for_ipv6 = spd.insert(policy_info("::/0"), NOW)
    assert spd.lookup(Dir.OUT, 0, flow("::1", "::2")) is for_ipv6


def test_policies_of_the_same_prefixes_are_tried_in_order() -> None:
    spd, _ = new_spd()
    tcp = spd.insert(policy_info("10.0.0.0/8", proto=IPPROTO_TCP, priority=1), NOW)
    late = spd.insert(policy_info("10.0.0.0/8", priority=3), NOW)
    dns = spd.insert(policy_info("10.0.0.0/8", dport=53, priority=2), NOW)
    assert spd.lookup(Dir.OUT, 0, flow(proto=IPPROTO_TCP)) is tcp
    assert spd.lookup(Dir.OUT, 0, flow()) is dns
    assert spd.lookup(Dir.OUT, 0, flow(dport=54)) is late


def test_an_omitted_address_is_the_any_address() -> None:
    spd, _ = new_spd()
    spd.insert(PolicyInfo(Selector(AF_INET6), Dir.OUT), NOW)
    named = PolicyId(Selector(AF_INET6, bytes(16), 0, bytes(16), 0), Dir.OUT)
    assert spd.get(named).selector.saddr == bytes(16)
    assert spd.get(PolicyId(Selector(AF_INET6), Dir.OUT)) is spd.get(named)
    assert spd.lookup(Dir.OUT, 0, flow("::1", "::2")) is not None
    with fails(errno.ENOENT):
        spd.get(PolicyId(Selector(AF_INET), Dir.OUT))


def test_events_of_a_policy() -> None:
    spd, log = new_spd()
    info = policy_info("10.0.0.0/8", if_id=7)
    policy = spd.insert(info, NOW)
    assert log.take() == [events.PolicyAdded(policy.snapshot())]
    spd.delete(id_of(info), NOW)
    assert log.take() == [events.PolicyDeleted(policy.snapshot(), by_index=False)]


def test_a_dump_shows_share_any_and_times() -> None:
    spd, _ = new_spd()
    policy = spd.insert(policy_info("10.0.0.0/8", share=3, flags=5), NOW)
    policy.use_time = int(NOW) + 2
    shown = policy.snapshot()
    assert (shown.share, shown.flags, shown.index) == (0, 5, 1)
    assert (shown.current.add_time, shown.current.use_time) == (int(NOW), int(NOW) + 2)


def test_generation_changes_with_every_change() -> None:
    spd, _ = new_spd()
    seen = {spd.generation}
    for change in (
        lambda: spd.insert(policy_info("10.0.0.0/8"), NOW),
        lambda: spd.update(policy_info("10.0.0.0/8"), NOW),
        lambda: spd.delete(id_of(policy_info("10.0.0.0/8")), NOW),
        lambda: spd.set_default(1, 0, 0),
    ):
        change()
        assert spd.generation not in seen
        seen.add(spd.generation)


# Defaults (2.7)


def test_defaults_change_only_where_block_or_accept_is_said() -> None:
    spd, log = new_spd()
    assert spd.defaults == [Default.ACCEPT] * 3
    spd.set_default(7, 7, 7)
    assert spd.defaults == [Default.ACCEPT] * 3
    spd.set_default(Default.BLOCK, Default.UNSPEC, Default.BLOCK)
    assert (spd.defaults[Dir.IN], spd.defaults[Dir.FWD], spd.defaults[Dir.OUT]) == (1, 2, 1)
    spd.set_default(Default.ACCEPT, Default.BLOCK, 3)
    assert log == [
        events.DefaultChanged(2, 2, 2),
        events.DefaultChanged(1, 2, 1),
        events.DefaultChanged(2, 1, 1),
    ]


# Time limits (2.7)


def expiries(spd: Any, log: Any, until: float) -> list[tuple[float, bool]]:
    """(seconds since NOW, hard) of what expires when everything is looked at in time."""
    seen = []
    while (deadline := spd.next_deadline()) is not None and deadline <= NOW + until:
        spd.tick(deadline)
        seen += [(deadline - NOW, event.hard) for event in log.take()]
    return seen


def timed(**limits: int) -> tuple[Any, Any, Policy]:
    spd, log = new_spd()
    policy = spd.insert(policy_info("10.0.0.0/8", limits=Limits(**limits)), NOW)
    log.take()
    return spd, log, policy


def test_soft_1_hard_3_expire_after_1_and_3_seconds() -> None:
    spd, log, _ = timed(soft_add=1, hard_add=3)
    assert expiries(spd, log, 60) == [(1, False), (3, True)]
    assert spd.dump() == []
    assert spd.next_deadline() is None


def test_hard_expiry_has_no_delete_event_and_takes_the_policy_out_of_lookup() -> None:
    spd, log, policy = timed(hard_add=1)
    generation = spd.generation
    spd.tick(NOW + 1)
    assert log == [events.PolicyExpired(policy.snapshot(), hard=True)]
    assert spd.lookup(Dir.OUT, 0, flow()) is None
    assert spd.generation != generation


def test_Q15_soft_expiry_repeats_every_30_seconds() -> None:
    spd, log, _ = timed(soft_add=5)
    assert expiries(spd, log, 70) == [(5, False), (35, False), (65, False)]


def test_use_counts_from_insertion_until_the_first_use() -> None:
    spd, log, policy = timed(hard_use=10)
    assert expiries(spd, log, 8) == []
    policy.use_time = int(NOW) + 8
    assert expiries(spd, log, 60) == [(18, True)]
    spd, log, _ = timed(hard_use=10)
    assert expiries(spd, log, 60) == [(10, True)]


def test_Q16_byte_and_packet_limits_are_stored_and_never_enforced() -> None:
    spd, _, policy = timed(hard_bytes=0, hard_packets=0, soft_bytes=0)
    assert policy.snapshot().limits.hard_bytes == 0
    assert spd.next_deadline() is None


def test_update_restarts_the_clock_and_deletion_stops_it() -> None:
    spd, log, _ = timed(hard_add=3)
    spd.update(policy_info("10.0.0.0/8", limits=Limits(hard_add=3)), NOW + 2)
    log.take()
    assert expiries(spd, log, 60) == [(5, True)]
    spd, log, _ = timed(hard_add=3)
    spd.delete(id_of(policy_info("10.0.0.0/8")), NOW)
    assert spd.next_deadline() is None


@pytest.mark.parametrize("hard", [False, True])
def test_expiry_by_request(hard: bool) -> None:
    spd, log, policy = timed()
    named = id_of(policy_info("10.0.0.0/8"))
    spd.expire(named, hard, NOW)
    assert log == [events.PolicyExpired(policy.snapshot(), hard)]
    assert len(spd) == (0 if hard else 1)
    if hard:
        with fails(errno.ENOENT):
            spd.expire(named, hard, NOW)


# Size (SPD-25)


def test_counts_and_buckets() -> None:
    spd, _ = new_spd()
    assert spd.counts() == SpdInfo()
    for number in range(8):
        spd.insert(policy_info(f"10.{number}.0.0/16", dir=(Dir.OUT, Dir.IN, Dir.FWD)[number % 3]), NOW)
    assert spd.counts() == SpdInfo(3, 3, 2, buckets=15)


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[Policy]:
    """The policies that lookups have compared with a flow."""
    compared: list[Policy] = []
    original = Policy.matches

    def matches(policy: Policy, *arguments: Any) -> bool:
        compared.append(policy)
        return original(policy, *arguments)

    monkeypatch.setattr(Policy, "matches", matches)
    return compared


def test_SPD_25_10000_if_ids_do_not_slow_each_other(comparisons: list[Policy]) -> None:
    spd, _ = new_spd()
    for if_id in range(1, 5001):
        spd.insert(policy_info("0.0.0.0/0", if_id=if_id), NOW)
        spd.insert(policy_info("0.0.0.0/0", if_id=if_id, dir=Dir.IN), NOW)
    assert len(spd) == 10_000
    for if_id in (1, 2500, 5000):
        found = spd.lookup(Dir.OUT, if_id, FLOW)
        assert found is not None
        assert found.if_id == if_id
    assert len(comparisons) == 3
    assert spd.lookup(Dir.OUT, 5001, FLOW) is None
    assert len(comparisons) == 3


def test_a_bin_of_thousands_compares_one_policy_for_each_pair_of_prefix_lengths(comparisons: list[Policy]) -> None:
    spd, _ = new_spd()
    for number in range(4000):
        spd.insert(policy_info("", f"10.{number >> 8}.{number & 255}.0/24", priority=number), NOW)
    anything = spd.insert(policy_info("0.0.0.0/0", priority=2000), NOW)
    early, late = flow(dst="10.3.7.9"), flow(dst="10.15.7.9")
    assert getattr(spd.lookup(Dir.OUT, 0, early), "priority", None) == 3 * 256 + 7
    assert spd.lookup(Dir.OUT, 0, late) is anything
    assert len(comparisons) <= 4


def test_bins_come_and_go_with_their_policies() -> None:
    spd, _ = new_spd()
    infos = [policy_info(f"10.{n}.0.0/16", if_id=n % 3) for n in range(9)]
    for info in infos:
        spd.insert(info, NOW)
    for info in infos[::-1]:
        assert spd.lookup(Dir.OUT, info.if_id, flow(f"10.{infos.index(info)}.0.1")) is not None
        spd.delete(id_of(info), NOW)
        assert spd.lookup(Dir.OUT, info.if_id, flow(f"10.{infos.index(info)}.0.1")) is None
    assert (len(spd), spd._bins, spd._by_index) == (0, {}, {})
