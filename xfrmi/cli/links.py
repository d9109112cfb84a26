"""`xfrmi link`: the xfrm devices of a daemon."""

from __future__ import annotations

import os
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
            client.add_link(info)
            if netns:
                move(client.link(info.name), netns)
        case r.SetLink(device, info, netns):
            link = client.link(device)
            if info != LinkInfo(kind=info.kind) or info.kind:
                client.set_link(replace(info, ifindex=link.ifindex))
            if netns:
                move(link, netns)
        case r.DeleteLink(device):
            client.delete_link(device)
        case r.ShowLinks():
            _print_links(_wanted(client, request), show, print_json)


def move(link: LinkInfo, netns: str) -> None:
    """Into the namespace of a process or with a name; the states it uses stay where they are (NS-02)."""
    from xfrmi.daemon.runtime import netns_path
    from xfrmi.dev.netns import open_netns
    from xfrmi.dev.rtnl import Rtnl

    fd = open_netns(netns_path(netns))
    rtnl = Rtnl()
    try:
        rtnl.set_link(link.ifindex, netns_fd=fd)
    finally:
        rtnl.close()
        os.close(fd)


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
