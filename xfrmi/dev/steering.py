"""Which of several sockets an ESP packet arrives at: by its SPI, which classic BPF reads in the kernel.

A state's replay window is kept by one process, so every packet of one SPI has to arrive there. SPIs that are pinned go
where they are pinned to, all others to one place.

    raw sockets   the kernel gives each of them a copy: every one has a filter that lets only its own SPIs in
    UDP sockets   those of a port form a group (SO_REUSEPORT), and the program of the group picks one by its number,
                  which is the order in which they were bound
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence

from xfrmi.dev.socket_filter import (
    JEQ,
    LD_ABS,
    LD_IND,
    LDX_MSH,
    RET,
    SO_ATTACH_FILTER,
    SO_ATTACH_REUSEPORT_CBPF,
    Line,
    attach,
)
from xfrmi.wire.xfrm_const import AF_INET

MAX_PINNED = 2000
"""SPIs: two instructions each, of the 4096 that a program may have."""

_ALL = 0xFFFF_FFFF


def admit(fd: int, family: int, pins: Mapping[int, int], default: int, number: int | None) -> None:
    """Let into the raw ESP socket only SPIs that belong to socket `number`: those that `pins` has there and, if it is
    the `default`, all that are not pinned. None: nothing at all; the kernel goes on taking ESP for served."""
    load: Sequence[Line] = ((LD_ABS, 0, 0, 0),)
    if family == AF_INET:  # begins with the IP header
        load = ((LDX_MSH, 0, 0, 0), (LD_IND, 0, 0, 0))
    _attach(fd, SO_ATTACH_FILTER, [*load, *_choice(pins, default, lambda owner: _ALL if owner == number else 0)])


def spread(fd: int, pins: Mapping[int, int], default: int) -> None:
    """Give the group of UDP sockets to which this one belongs its program."""
    _attach(fd, SO_ATTACH_REUSEPORT_CBPF, [(LD_ABS, 0, 0, 0), *_choice(pins, default, lambda owner: owner)])


def let_join(fd: int) -> None:
    """Let other sockets be bound to the port of this one, which was alone until now."""
    with socket.socket(fileno=os.dup(fd)) as handle:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def drain(fd: int) -> None:
    """Forget what has arrived, after which `admit` has let nothing more in."""
    with socket.socket(fileno=os.dup(fd)) as handle, contextlib.suppress(BlockingIOError):
        while True:
            handle.recv(1)


def _choice(pins: Mapping[int, int], default: int, answer: Callable[[int], int]) -> list[Line]:
    """With the SPI in A: the answer for its owner. A packet too short to have one has the answer 0."""
    lines = []
    for spi, owner in pins.items():
        lines += [(JEQ, 0, 1, spi), (RET, 0, 0, answer(owner))]
    return [*lines, (RET, 0, 0, answer(default))]


def _attach(fd: int, option: int, lines: Sequence[Line]) -> None:
    with socket.socket(fileno=os.dup(fd)) as handle:
        attach(handle, option, lines)
