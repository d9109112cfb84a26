"""What the engine asks its tables while it works: written down, answered by the tables themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from xfrmi.core.engine import Engine
from xfrmi.core.policy import Policy
from xfrmi.core.state import State
from xfrmi.errors import Drop
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_types import Template


class PolicyQuestion(NamedTuple):
    """Which policies decide this flow?"""

    dir: int
    if_id: int
    flow: Flow
    mark: int
    ifindex: int
    answer: list[Policy]


class StateQuestion(NamedTuple):
    """Which state meets this template?"""

    template: Template
    policy: Policy
    flow: Flow
    src: bytes
    dst: bytes
    answer: State | None
    drop: Drop | None


class Asked:
    """Listens from now on."""

    def __init__(self, engine: Engine) -> None:
        self.policies: list[PolicyQuestion] = []
        self.states: list[StateQuestion] = []
        lookup_all, resolve = engine.spd.lookup_all, engine.sad.resolve

        def asked_policies(dir: int, if_id: int, flow: Flow, mark: int = 0, ifindex: int = 0) -> Sequence[Policy]:
            answer = lookup_all(dir, if_id, flow, mark, ifindex)
            self.policies.append(PolicyQuestion(dir, if_id, flow, mark, ifindex, answer))
            return answer

        def asked_state(template: Template, policy: Policy, flow: Flow, now: float, **ends: Any) -> State | None:
            src, dst = ends.get("src", b""), ends.get("dst", b"")
            try:
                answer = resolve(template, policy, flow, now, **ends)
            except Drop as drop:
                self.states.append(StateQuestion(template, policy, flow, src, dst, None, drop))
                raise
            self.states.append(StateQuestion(template, policy, flow, src, dst, answer, None))
            return answer

        engine.spd.lookup_all = asked_policies  # type: ignore[method-assign, assignment]
        engine.sad.resolve = asked_state  # type: ignore[method-assign]

    def clear(self) -> None:
        self.policies.clear()
        self.states.clear()
