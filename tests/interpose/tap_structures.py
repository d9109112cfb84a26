"""What tap_networks.py says to the kernel: netlink and the structures of linux/xfrm.h, made by hand."""

from __future__ import annotations

import os
import socket
import struct

NEWSA, DELSA, NEWPOLICY, DELPOLICY, UPDPOLICY, UPDSA, MIGRATE = 16, 17, 19, 20, 25, 26, 33
NEWLINK, DELLINK, GETLINK, GETROUTE = 16, 17, 18, 26
CREATE, IN, OUT, TUNNEL, AF_UNSPEC_FLAG = 0x600, 0, 1, 1, 32
AEAD, SET_MARK, SET_MASK, IF_ID, TMPL, MOVES = 18, 29, 30, 31, 5, 17
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
KEY, SALT, REQID = bytes(range(16)), b"salt", 7


def packed(address: str) -> bytes:
    return socket.inet_pton(FAMILY[6 if ":" in address else 4], address)


def version_of(address: str) -> int:
    return 6 if ":" in address else 4


def attr(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def attrs(data: bytes) -> dict[int, bytes]:
    """By their types as they are: a kernel flags none of those that are looked at here as nested."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind] = data[4:length]
        data = data[length + 3 & ~3 :]
    return found


class Netlink:
    def __init__(self, protocol: int) -> None:
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self.sock.connect((0, 0))
        self.seq = 0

    def request(self, kind: int, body: bytes, flags: int = 0, reply: bool = False) -> bytes:
        """The body of the reply, or that of the acknowledgement. OSError."""
        self.seq += 1
        flags |= 1 if reply else 5
        self.sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, self.seq, 0) + body)
        data = self.sock.recv(1 << 16)
        length, kind, _, seq = struct.unpack_from("=IHHI", data)
        assert seq == self.seq
        if kind == 2 and (number := -struct.unpack_from("=i", data, 16)[0]):
            raise OSError(number, os.strerror(number))
        return data[16:length]


def padded(address: str) -> bytes:
    return packed(address).ljust(16, b"\0")


def selector(version: int) -> bytes:
    return struct.pack("=40xHBBB3xII", FAMILY[version] if version else 0, 0, 0, 0, 0, 0)


UNLIMITED = struct.pack("=8Q", *[2**64 - 1] * 4, 0, 0, 0, 0)


def state(src: str, dst: str, spi: int) -> bytes:
    return (
        selector(0) + padded(dst) + struct.pack("!IB3x", spi, 50) + padded(src) + UNLIMITED + bytes(32 + 12)
        + struct.pack("=IIHBBB7x", 0, REQID, FAMILY[version_of(dst)], TUNNEL, 32, AF_UNSPEC_FLAG)
        + attr(AEAD, b"rfc4106(gcm(aes))".ljust(64, b"\0") + struct.pack("=II", 160, 128) + KEY + SALT)
    )  # fmt: skip


def state_id(dst: str, spi: int) -> bytes:
    return padded(dst) + struct.pack("!I", spi) + struct.pack("=HBx", FAMILY[version_of(dst)], 50)


def policy(direction: int, version: int, src: str, dst: str, spi: int, reqid: int = REQID) -> bytes:
    template = padded(dst) + struct.pack("!IB3x", spi, 50) + struct.pack("=H2x", FAMILY[version_of(dst)]) + padded(src)
    template += struct.pack("=IBBBxIII", reqid, TUNNEL, 0, 0, *[2**32 - 1] * 3)
    info = selector(version) + UNLIMITED + bytes(32) + struct.pack("=IIBBBB4x", 0, 0, direction, 0, 1, 0)
    return info + attr(TMPL, template)


def policy_id(direction: int, version: int) -> bytes:
    return selector(version) + struct.pack("=IB3x", 0, direction)


def move(old: tuple[str, str], new: tuple[str, str]) -> bytes:
    return attr(MOVES, b"".join(map(padded, (old[1], old[0], new[1], new[0]))) + struct.pack(
        "=BB2xIHH", 50, TUNNEL, REQID, FAMILY[version_of(old[0])], FAMILY[version_of(new[0])]
    ))  # fmt: skip


def u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=I", value))


def mib() -> dict[str, int]:
    with open("/proc/net/xfrm_stat") as file:
        return {name: int(value) for name, value in map(str.split, file)}
