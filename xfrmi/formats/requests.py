"""What a command line asks for, as values: the output of the grammar, the input of whoever carries requests out.

A request that changes or names something holds the xfrm value itself. Here they all are; a program that must start
quickly imports the module of the object it is about.
"""

from __future__ import annotations

from xfrmi.formats.grammar_monitor import Monitor
from xfrmi.formats.requests_link import AddLink, DeleteLink, LinkRequest, SetLink, ShowLinks
from xfrmi.formats.requests_policy import (
    AddPolicy,
    CountPolicies,
    DeletePolicies,
    DeletePolicy,
    FlushPolicies,
    GetDefaults,
    GetPolicy,
    ListPolicies,
    PolicyFilter,
    PolicyRequest,
    SetDefaults,
    SetThresholds,
)
from xfrmi.formats.requests_state import (
    AddState,
    AllocSpi,
    CountStates,
    DeleteState,
    DeleteStates,
    FlushStates,
    GetState,
    ListStates,
    StateFilter,
    StateRequest,
)

__all__ = [
    "AddLink",
    "AddPolicy",
    "AddState",
    "AllocSpi",
    "CountPolicies",
    "CountStates",
    "DeleteLink",
    "DeletePolicies",
    "DeletePolicy",
    "DeleteState",
    "DeleteStates",
    "FlushPolicies",
    "FlushStates",
    "GetDefaults",
    "GetPolicy",
    "GetState",
    "LinkRequest",
    "ListPolicies",
    "ListStates",
    "Monitor",
    "PolicyFilter",
    "PolicyRequest",
    "Request",
    "SetDefaults",
    "SetLink",
    "SetThresholds",
    "ShowLinks",
    "StateFilter",
    "StateRequest",
]

Request = StateRequest | PolicyRequest | LinkRequest | Monitor
