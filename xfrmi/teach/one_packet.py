"""`explain`: one packet, with these tables, through a scratch engine that is watched."""

from __future__ import annotations

import errno
import time

from xfrmi.client.packets import Record
from xfrmi.core.engine import Engine
from xfrmi.core.interface import Interface
from xfrmi.core.router import Router
from xfrmi.core.state import State
from xfrmi.errors import XfrmError
from xfrmi.teach.explanation import Explanation
from xfrmi.teach.receiver import Receiver
from xfrmi.teach.scratch import Everywhere, build, choose_interface, forget, mirror, with_new_keys
from xfrmi.teach.steps_in import explain_input, explain_plain
from xfrmi.teach.steps_out import explain_output
from xfrmi.teach.tables import Tables
from xfrmi.wire.esp import SEQ, SPI
from xfrmi.wire.ip import checksum, destination_of, ipv4_header_checksum, pseudo_header_sum, split_outer
from xfrmi.wire.link_types import XFRM_LINK_MTU
from xfrmi.wire.xfrm_const import IPPROTO_ESP, IPPROTO_UDP

OUT, IN = "out", "in"


def explain(
    packet: bytes,
    tables: Tables,
    *,
    direction: str | None = None,
    interface: str | None = None,
    router: Router | None = None,
    mtu: int = XFRM_LINK_MTU,
    forwarded: bool = False,
    keys: bool = False,
    now: float | None = None,
) -> Explanation:
    """What the engine does with `packet`, and why.

    `direction` is "out" for a packet that is routed into `interface`, "in" for an ESP packet from the wire; left out,
    it is "in" if a state of `tables` is the one for it. `interface` may be left out if there is only one. Routes are
    those of `router`, else there is one, with an MTU of `mtu`, and inner destinations are this host's unless
    `forwarded`. `keys` puts keys into the explanation, which then says so. `now` is Unix seconds.

    With the tables of a running daemon a packet on its way out is sealed under new keys (scratch.py). Raises XfrmError:
    EINVAL for what is no packet, ENODEV, and what is wrong with the tables.
    """
    if not packet:
        raise XfrmError(errno.EINVAL, detail="there is no packet to explain: it has 0 bytes")
    now = time.time() if now is None else now
    router = router if router is not None else Everywhere(mtu, not forwarded)
    if direction is None:
        direction = IN if state_for(packet, build(tables, router, now)) is not None else OUT
    made_up = direction == OUT and tables.live
    used = with_new_keys(tables) if made_up else tables
    engine = build(used, router, now)
    source = f", with the tables of {tables.source}" if tables.source else ""
    if direction == IN:
        found = Explanation(IN, "", f"An ESP packet as it would be received{source}.", keys=keys)
        explain_input(found, engine, packet, now)
        found.receiver = Receiver(lambda: build(used, router, now), packet, now)
        return found
    out = choose_interface(engine, interface, tables.source or "the tables")
    origin = f"A packet that nobody has sent{source}"
    if made_up:
        origin += ", sealed with keys drawn for this explanation: those in use never see a packet that is not sent"
    else:
        origin += ", sealed with their keys and an IV drawn for it"
    found = Explanation(OUT, out.name, origin + ".", keys=keys)
    explain_output(found, engine, out, packet, now)
    _add_peer(found, engine, out, now)
    return found


def explain_record(
    record: Record, tables: Tables, router: Router | None = None, *, keys: bool = False
) -> Explanation:
    """The same for a packet that passed: the bytes are those that went out, and nothing is sealed that was not.

    The tables are those of now; where they have changed since, the explanation says what they cannot explain. Raises
    XfrmError.
    """
    now = record.time
    router = router if router is not None else Everywhere(XFRM_LINK_MTU)
    when = time.strftime("%H:%M:%S", time.localtime(now))
    engine = build(tables, router, now)
    if record.direction == IN:
        found = Explanation(IN, record.interface, f"A packet that came at {when}, with the tables of now.", keys=keys)
        found.happened = True
        if record.outer:
            outer = _as_it_came(record.outer)
            explain_input(found, before(record, engine), outer, now)
            found.receiver = Receiver(lambda: before(record, build(tables, router, now)), outer, now)
        else:
            explain_plain(found, engine, record.inner, now)
    else:
        out = choose_interface(engine, record.interface, "the daemon")
        found = Explanation(OUT, out.name, f"A packet that went out at {when}, with the bytes it had.", keys=keys)
        found.happened = True
        explain_output(found, engine, out, record.inner, now, record.outer)
        _add_peer(found, engine, out, now)
    if (found.counter, found.reason) != (record.counter, record.reason):
        then = f"dropped ({record.counter or 'no counter'}): {record.reason}" if record.reason else "passed"
        found.origin += f" It was {then}; the steps end otherwise, as states, policies or routes have changed since."
    return found


def _add_peer(found: Explanation, engine: Engine, out: Interface, now: float) -> None:
    if found.on_wire is not None:
        found.receiver = Receiver(lambda: mirror(engine, out, now), found.on_wire.data, now)


def before(record: Record, engine: Engine) -> Engine:
    """`engine` as it was before the packet came."""
    if not record.reason and (state := state_for(record.outer, engine)) is not None:
        forget(state, int.from_bytes(split_outer(record.outer)[1][SEQ], "big"))
    return engine


def _as_it_came(outer: bytes) -> bytes:
    """With checksums. The headers of what comes out of a UDP socket are made up, and have 0 there (dev/udp.py); this
    host's IP and UDP, through which it came, have found good ones."""
    packet = bytearray(outer)
    ipv4 = packet[0] >> 4 == 4
    header_len = (packet[0] & 15) * 4 if ipv4 else 40
    if ipv4 and not any(packet[10:12]):
        packet[10:12] = ipv4_header_checksum(packet[:header_len]).to_bytes(2, "big")
    if not ipv4 and packet[6] == IPPROTO_UDP and not any(packet[46:48]):
        length = len(packet) - header_len
        total = checksum(packet[header_len:], pseudo_header_sum(packet[8:40], IPPROTO_UDP, length))
        packet[46:48] = (total or 0xFFFF).to_bytes(2, "big")
    return bytes(packet)


def state_for(packet: bytes, engine: Engine) -> State | None:
    """The one that would open it."""
    try:
        header, esp = split_outer(packet)
    except ValueError:
        return None
    return engine.sad.lookup_input(destination_of(header), int.from_bytes(esp[SPI], "big"), IPPROTO_ESP, 0)
