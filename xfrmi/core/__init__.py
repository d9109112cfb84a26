"""The emulator, sans-IO: tables, modes, ESP and the walks through them. Needs no root and no network."""

from xfrmi.core.engine import Engine
from xfrmi.core.interface import Interface
from xfrmi.core.policy import Policy
from xfrmi.core.state import State
from xfrmi.wire.xfrm_types import Algorithm, PolicyId, PolicyInfo, Selector, StateId, StateInfo, Template

__all__ = [
    "Algorithm",
    "Engine",
    "Interface",
    "Policy",
    "PolicyId",
    "PolicyInfo",
    "Selector",
    "State",
    "StateId",
    "StateInfo",
    "Template",
]
