"""`xfrmi link`: the xfrm devices of a daemon."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xfrmi.formats import requests as r
from xfrmi.formats.show import Show
from xfrmi.wire.link_types import IFF_UP, LinkInfo

if TYPE_CHECKING:
    from xfrmi.client import Client

PrintJson = Callable[[Any], None]


def carry_out(client: Client, request: r.LinkRequest, show: Show, print_json: PrintJson | None) -> None:
    """Do one link request. `print_json` is given where --json was asked for. Raises XfrmError."""
    match request:
        case r.AddLink(info, netns):
            client.add_link(info, netns or None)
        case r.SetLink(device, info, netns):
            client.set_link(replace(info, ifindex=client.link(device).ifindex), netns or None)
        case r.DeleteLink(device):
            client.delete_link(device)
        case r.ShowLinks():
            _print_links(_wanted(client, request), show, print_json)


def _wanted(client: Client, request: r.ShowLinks) -> list[LinkInfo]:
    if request.device:
        return [client.link(request.device)]
    return [
        link
        for link in client.links()
        if (not request.up or link.flags & IFF_UP) and request.kind in ("", link.kind)
    ]


def _print_links(links: list[LinkInfo], show: Show, print_json: PrintJson | None) -> None:
    if print_json is not None:
        from xfrmi.formats.json_link import link_json

        print_json([link_json(link, show) for link in links])
        return
    from xfrmi.formats.print_link import print_link

    for link in links:
        sys.stdout.write(print_link(link, show))
