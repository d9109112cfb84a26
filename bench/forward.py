"""A tunnel without encryption: what TUN and UDP offloads alone cost a Python program. The floor "no crypto".

    python -m bench.forward DEVICE PORT OWN PEER

A frame from the TUN (virtio_net_hdr and up to GSO_MAX_SIZE bytes of packet) goes out in one `sendmsg` that the kernel
cuts into datagrams (UDP_SEGMENT), comes back together (UDP_GRO), and is written to the TUN as it is. There are no
headers to make, no checksums, no sequence numbers, nothing a packet: no tunnel that does its work can be cheaper.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

from xfrmi.dev.sockets import enlarge_buffers
from xfrmi.dev.tun import Tun

UDP_SEGMENT, UDP_GRO = 103, 104
DATAGRAM = 1440
"""Bytes of payload of each datagram but the last."""
GSO_MAX_SIZE = 60_000
"""What the device is to be told: a frame fits into one `sendmsg` then."""
MTU = 1420
LENGTH = struct.Struct("!I")
"""Before each frame: that all of it is there."""


def main(device: str, port: int, own: str, peer: str) -> None:
    held = Tun(device)  # gone with its last reference
    tun = held.fileno()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((own, port))
    sock.connect((peer, port))
    sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    enlarge_buffers(sock)
    segment = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", DATAGRAM))]
    memory = memoryview(bytearray(1 << 17))
    frame = memory[LENGTH.size :]
    ready = select.epoll()
    ready.register(tun, select.EPOLLIN)
    ready.register(sock, select.EPOLLIN)
    while True:
        for fd, _ in ready.poll():
            try:
                if fd == tun:
                    size = LENGTH.size + os.readv(tun, (frame,))
                    LENGTH.pack_into(memory, 0, size)
                    sock.sendmsg((memory[:size],), segment if size > DATAGRAM else ())
                else:
                    size = sock.recv_into(memory)
                    if size > LENGTH.size and LENGTH.unpack_from(memory)[0] == size:
                        os.writev(tun, (memory[LENGTH.size : size],))
            except OSError:
                continue  # lost, as on any network: a full buffer, a device not up yet, a peer not there yet


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
