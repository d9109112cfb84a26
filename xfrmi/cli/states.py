"""`xfrmi state`: the SAs of a daemon."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xfrmi.formats import requests_state as requests
from xfrmi.formats.grammar_state import parse_state

if TYPE_CHECKING:
    from xfrmi.cli.output import Output
    from xfrmi.client import Client
    from xfrmi.formats.tokens import Tokens
    from xfrmi.wire.xfrm_types import StateInfo


def run(client: Client, tokens: Tokens, output: Output) -> None:
    """The words after `state`. Raises GrammarError, XfrmError."""
    match parse_state(tokens):
        case requests.AddState(info, update):
            (client.update_state if update else client.add_state)(info)
        case requests.AllocSpi(wanted):
            _print([client.alloc_spi(wanted.info, wanted.min, wanted.max)], output)
        case requests.GetState(state_id):
            _print([client.state(state_id)], output)
        case requests.DeleteState(state_id):
            client.delete_state(state_id)
        case requests.ListStates(wanted_states, nokeys):
            _print(filter(wanted_states.matches, client.states()), output, nokeys)
        case requests.DeleteStates(wanted_states):
            for state in list(filter(wanted_states.matches, client.states())):
                client.delete_state(state)
        case requests.FlushStates(proto):
            client.flush_states(proto)
        case requests.CountStates():
            _print_count(client, output)


def _print(states: Iterable[StateInfo], output: Output, nokeys: bool = False) -> None:
    if output.json:
        from xfrmi.formats.json_xfrm import state_json

        output.list_json(states, state_json, nokeys)
    else:
        from xfrmi.formats.print_state import print_state

        output.texts(states, print_state, nokeys)


def _print_count(client: Client, output: Output) -> None:
    count = client.count_states()
    if output.json:
        from xfrmi.formats.json_xfrm import state_count_json

        output.print_json(state_count_json(count))
    else:
        from xfrmi.formats.print_stat import print_state_count

        sys.stdout.write(print_state_count(count, output.show()))
