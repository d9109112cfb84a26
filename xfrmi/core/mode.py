"""Modes: how an inner packet goes into an outer one and comes out again (sections 5.2 to 5.7).

 1  wrap     before encryption: the outer header as far as the inner packet determines it, and what to encrypt
 2  finish   after encryption: lengths and checksums, now that the whole outer packet is there
 3  unwrap   after decryption: the inner packet again

The mode and the outer family of a state never change, so the choice is made once, when the first packet comes, and
kept in `state.wrap_cache`; an update that replaces the ports of the encapsulation empties that.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Protocol

from xfrmi.core.mode_beet import Beet
from xfrmi.core.mode_transport import TransportIPv4, TransportIPv6
from xfrmi.core.mode_tunnel import TunnelOverIPv4, TunnelOverIPv6
from xfrmi.core.outer import Finish, Wrapped
from xfrmi.errors import XfrmError
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_const import AF_INET, Mode

if TYPE_CHECKING:
    from xfrmi.core.state import State


class Framing(Protocol):
    """What a mode does, bound to one state."""

    @property
    def finish(self) -> Finish:
        """finish(outer, header_len): complete a whole outer packet whose first bytes came from `wrap`, in place.

        Raises Drop(OUT_STATE_PROTO_ERROR) if it is longer than an IP packet can be (5.10).
        """

    def wrap(self, packet: Buffer) -> Wrapped:
        """Returns (outer header up to where ESP starts, payload to encrypt, ESP next header).

        The header is the caller's to extend; its lengths and checksums are not yet set. The payload may be a part of
        `packet`. Raises Drop(OUT_STATE_MODE_ERROR) for what the mode cannot carry: another family in transport mode,
        an IPv4 fragment in BEET, something that is no IP packet.
        """

    def unwrap(self, header: Buffer, payload: Buffer, next_header: int) -> Buffer:
        """The inner packet, from the outer header (as in wrap), the decrypted payload without trailer, and the ESP next
        header. Where nothing changes it is `payload` itself. Raises Drop(IN_STATE_MODE_ERROR) (5.1, 5.7).
        """


def framing_for(state: State) -> Framing:
    """Raises XfrmError(EPROTONOSUPPORT) for a mode that is none of tunnel, transport, beet."""
    over_ipv4 = state.family == AF_INET
    if state.mode == Mode.TUNNEL:
        return TunnelOverIPv4(state) if over_ipv4 else TunnelOverIPv6(state)
    if state.mode == Mode.TRANSPORT:
        return TransportIPv4(state) if over_ipv4 else TransportIPv6(state)
    if state.mode == Mode.BEET:
        return Beet(state)
    raise XfrmError(errno.EPROTONOSUPPORT, "Requested mode not found", f"mode {state.mode} carries no packets")


def framing(state: State) -> Framing:
    """The one of this state. Who seals or opens asks once."""
    chosen: Framing | None = state.wrap_cache
    if chosen is None:
        chosen = state.wrap_cache = framing_for(state)
    return chosen
