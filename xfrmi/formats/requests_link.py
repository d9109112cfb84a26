"""What a `link` command asks for."""

from __future__ import annotations

from dataclasses import dataclass

from xfrmi.wire.link_types import LinkInfo


@dataclass(frozen=True, slots=True)
class AddLink:
    info: LinkInfo
    netns: str = ""
    """Name or process id of the network namespace where the device shall live; empty for here."""


@dataclass(frozen=True, slots=True)
class SetLink:
    device: str
    info: LinkInfo
    """Only what changes: `name` is the new name, flags under `change`, `kind` is empty without `type`."""
    netns: str = ""


@dataclass(frozen=True, slots=True)
class DeleteLink:
    device: str


@dataclass(frozen=True, slots=True)
class ShowLinks:
    device: str = ""
    """Empty for all."""
    up: bool = False
    """Only devices that are up."""
    kind: str = ""
    """Only devices of this kind."""


LinkRequest = AddLink | SetLink | DeleteLink | ShowLinks
