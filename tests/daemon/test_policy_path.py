"""Which policies without if_id take more than a table. What they do to packets: tests/system/test_policy_based.py."""

from __future__ import annotations

import errno

import pytest

from xfrmi.daemon.policy_filters import demands
from xfrmi.daemon.policy_path import refuse_with_workers
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import Action, Dir
from xfrmi.wire.xfrm_types import PolicyInfo, Selector, Template

ANY = Selector.parse("0.0.0.0/0")
PROTECTS = PolicyInfo(ANY, Dir.OUT, templates=(Template("192.0.2.1", "192.0.2.2"),))
BLOCKS = PolicyInfo(ANY, Dir.IN, action=Action.BLOCK)
PASSES = PolicyInfo(ANY, Dir.OUT)
ELSEWHERE = PolicyInfo(ANY, Dir.OUT, 42, PROTECTS.templates)


def test_demands() -> None:
    assert demands(PROTECTS) and demands(BLOCKS) and not demands(PASSES) and not demands(ELSEWHERE)


@pytest.mark.parametrize("info", [PROTECTS, BLOCKS])
def test_workers_carry_none(info: PolicyInfo) -> None:
    with pytest.raises(XfrmError, match="--workers") as refusal:
        refuse_with_workers(info)
    assert refusal.value.errno == errno.EOPNOTSUPP and "without workers" in refusal.value.extack


@pytest.mark.parametrize("info", [PASSES, ELSEWHERE])
def test_others_are_nobodys_business(info: PolicyInfo) -> None:
    refuse_with_workers(info)
