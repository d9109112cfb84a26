"""`xfrmi link`: the xfrm devices of a daemon."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.errors import XfrmError
from xfrmi.formats import requests_link as requests
from xfrmi.formats.grammar_link import parse_link
from xfrmi.formats.tokens import INCOMPLETE, GrammarError
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
            with _named(f'Cannot find device "{device}"', tokens):
                ifindex = client.link(device).ifindex
            client.set_link(replace(info, ifindex=ifindex), netns or None)
        case requests.DeleteLink(device):
            with _named(f'Cannot find device "{device}"', tokens):
                client.delete_link(device)
        case requests.ShowLinks() as request:
            with _named(f'Device "{request.device}" does not exist.', tokens):
                links = _wanted(client, request)
            _print(links, output)


@contextmanager
def _named(text: str, tokens: Tokens) -> Iterator[None]:
    """ip looks a device up by its name before it asks for anything: `text` is what it says where there is none."""
    try:
        yield
    except XfrmError as error:
        if error.errno != errno.ENODEV:
            raise
        raise GrammarError(text, INCOMPLETE, position=len(tokens.words) - 1, hint=error.detail) from None


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
