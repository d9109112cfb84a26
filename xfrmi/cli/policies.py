"""`xfrmi policy`: the policies of a daemon, and what happens where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xfrmi.formats import requests_policy as requests
from xfrmi.formats.grammar_policy import parse_policy

if TYPE_CHECKING:
    from xfrmi.cli.output import Output
    from xfrmi.client import Client
    from xfrmi.formats.tokens import Tokens
    from xfrmi.wire.xfrm_types import PolicyInfo


def run(client: Client, tokens: Tokens, output: Output) -> None:
    """The words after `policy`. Raises GrammarError, XfrmError."""
    match parse_policy(tokens):
        case requests.AddPolicy(info, update):
            (client.update_policy if update else client.add_policy)(info)
        case requests.GetPolicy(policy_id):
            _print([client.policy(policy_id)], output)
        case requests.DeletePolicy(policy_id):
            client.delete_policy(policy_id)
        case requests.ListPolicies(wanted_policies):
            _print(filter(wanted_policies.matches, client.policies()), output)
        case requests.DeletePolicies(wanted_policies):
            for policy in list(filter(wanted_policies.matches, client.policies())):
                client.delete_policy(policy)
        case requests.FlushPolicies(policy_type):
            client.flush_policies(policy_type)
        case requests.SetThresholds(thresholds):
            client.set_thresholds(thresholds)
        case requests.SetDefaults(defaults):
            client.set_defaults(defaults)
        case requests.CountPolicies():
            _print_count(client, output)
        case requests.GetDefaults():
            _print_defaults(client, output)


def _print(policies: Iterable[PolicyInfo], output: Output) -> None:
    if output.json:
        from xfrmi.formats.json_xfrm import policy_json

        output.list_json(policies, policy_json)
    else:
        from xfrmi.formats.print_policy import print_policy

        output.texts(policies, print_policy)


def _print_count(client: Client, output: Output) -> None:
    count = client.count_policies()
    if output.json:
        from xfrmi.formats.json_xfrm import policy_count_json

        output.print_json(policy_count_json(count))
    else:
        from xfrmi.formats.print_stat import print_policy_count

        sys.stdout.write(print_policy_count(count, output.show()))


def _print_defaults(client: Client, output: Output) -> None:
    defaults = client.defaults()
    if output.json:
        from xfrmi.formats.json_xfrm import defaults_json

        output.print_json(dict(defaults_json(defaults)))
    else:
        from xfrmi.formats.print_stat import print_defaults

        sys.stdout.write(print_defaults(defaults))
