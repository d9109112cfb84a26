"""`xfrmi link`: the xfrm devices of a daemon."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.formats import requests_link as requests
from xfrmi.formats.grammar_link import parse_link
from xfrmi.wire.link_types import IFF_UP, LinkInfo

if TYPE_CHECKING:
    from xfrmi.cli.output import Output
    from xfrmi.client import Client
    from xfrmi.formats.tokens import Tokens


def run(client: Client, tokens: Tokens, output: Output) -> None:
    """The words after `link`. Raises GrammarError, XfrmError."""
    match parse_link(tokens):
        case requests.AddLink(info, netns):
            client.add_link(info, netns or None)
        case requests.SetLink(device, info, netns):
            client.set_link(replace(info, ifindex=client.link(device).ifindex), netns or None)
        case requests.DeleteLink(device):
            client.delete_link(device)
        case requests.ShowLinks() as request:
            _print(_wanted(client, request), output)


def _wanted(client: Client, request: requests.ShowLinks) -> list[LinkInfo]:
    if request.device:
        return [client.link(request.device)]
    return [
        link
        for link in client.links()
        if (not request.up or link.flags & IFF_UP) and request.kind in ("", link.kind)
    ]


def _print(links: list[LinkInfo], output: Output) -> None:
    if output.json:
        from xfrmi.formats.json_link import link_json

        output.list_json(links, link_json)
    else:
        from xfrmi.formats.print_link import print_link

        output.texts(links, print_link)
