"""What a `link` command asks for."""

from __future__ import annotations

from typing import NamedTuple

from xfrmi.wire.link_types import LinkInfo


class AddLink(NamedTuple):
    info: LinkInfo
    netns: str = ""
    """Name or process id of the network namespace where the device shall live; empty for here."""


class SetLink(NamedTuple):
    device: str
    info: LinkInfo
    """Only what changes: `name` is the new name, flags under `change`, `kind` is empty without `type`."""
    netns: str = ""


class DeleteLink(NamedTuple):
    device: str


class ShowLinks(NamedTuple):
    device: str = ""
    """Empty for all."""
    up: bool = False
    """Only devices that are up."""
    kind: str = ""
    """Only devices of this kind."""


LinkRequest = AddLink | SetLink | DeleteLink | ShowLinks
