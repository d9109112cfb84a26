"""Programs that speak netlink with structures of their own, as test suites for the kernel do."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.interpose.supervised import EXEC, daemon
from tests.netns import in_netns
from xfrmi.errors import XfrmError
from xfrmi.interpose.launch import carrier_numbers


def python(program: str) -> None:
    """It must end with the word "done"."""
    done = subprocess.run([*EXEC, "--", sys.executable, "-c", program], capture_output=True, text=True, timeout=40)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", ""), done


CONNECTED = """
import errno, os, socket, struct
class Netlink:
    def __init__(self, protocol):
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self.sock.connect((0, 0))
        self.pid = self.sock.getsockname()[0]
        assert self.pid, "connected, hence bound"
        self.seq = 1
    def send(self, kind, flags, body):
        self.seq += 1
        self.sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, self.seq, self.pid) + body)
    def ack(self, kind, flags, body):
        self.send(kind, flags | 5, body)
        data = self.sock.recv(65536)
        length, kind, _, seq, pid = struct.unpack_from("=IHHII", data)
        assert (kind, seq, pid) == (2, self.seq, self.pid)
        error = -struct.unpack_from("=i", data, 16)[0]
        if error:
            raise OSError(error, os.strerror(error))
def attr(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
route, xfrm = Netlink(0), Netlink(6)
linkinfo = attr(1, b"xfrm\\0") + attr(2, attr(2, struct.pack("=I", 42)) + attr(1, struct.pack("=I", 1)))
header = struct.pack("=BxHiII", 0, 0, 0, 0, 0)
new = header + attr(3, b"ipsec1\\0") + attr(18, linkinfo)
route.ack(16, 0x600, new)
try:
    route.ack(16, 0x600, new)
except OSError as error:
    assert error.errno == errno.EEXIST
index = socket.if_nametoindex("ipsec1")
route.ack(16, 0, struct.pack("=BxHiII", 0, 0, index, 1, 1))
route.send(18, 1, struct.pack("=BxHiII", 0, 0, index, 0, 0))
assert b"xfrm\\0" in route.sock.recv(65536)
for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
    address = bytes(range(1, size + 1)).ljust(16, b"\\0")
    sa = bytes(42) + struct.pack("=H", 0) + bytes(12)  # the selector of nothing
    sa += address + struct.pack("!I", 0x1234) + struct.pack("=B3x", 50) + address
    sa += struct.pack("=4Q", *[2**64 - 1] * 4) + bytes(32) + bytes(32) + bytes(12)
    sa += struct.pack("=IIHBBB7x", 0, 7, family, 1, 4, 0)
    aead = b"rfc4106(gcm(aes))".ljust(64, b"\\0") + struct.pack("=II", 160, 128) + bytes(20)
    assert len(sa) == 224, len(sa)
    xfrm.ack(16, 0x600, sa + attr(18, aead) + attr(31, struct.pack("=I", 42)))
xfrm.send(18, 0x301, b"")
kinds = []
while 3 not in kinds:
    data = xfrm.sock.recv(65536)
    while data:
        length, kind = struct.unpack_from("=IH", data)
        kinds.append(kind)
        data = data[length + 3 & ~3:]
assert kinds == [16, 16, 3], kinds
xfrm.ack(28, 0, bytes(8))
route.ack(17, 0, struct.pack("=BxHiII", 0, 0, index, 0, 0))
print("done")
"""


@in_netns
def test_sockets_that_are_connected_to_the_kernel() -> None:
    with daemon():
        python(CONNECTED)


EXACT = """
import socket, struct, subprocess
for number in (1, 2, 3):
    subprocess.run(["ip", "link", "add", f"ipsec{number}", "type", "xfrm", "if_id", str(number)], check=True)
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
sock.send(struct.pack("=IHHII", 32, 18, 0x301, 1, 0) + bytes(16))
names, kind = [], 0
while kind != 3:
    length = sock.recvmsg_into([bytearray()], 0, socket.MSG_PEEK | socket.MSG_TRUNC)[0]
    data = bytearray(length)
    assert sock.recv_into(data, length, socket.MSG_TRUNC) == length
    while data and kind != 3:
        size, kind = struct.unpack_from("=IH", data)
        names += [b"ipsec" in data[:size]] if kind == 16 else []
        data = data[size + 3 & ~3:]
assert names == [False, True, True, True], names
print("done")
"""


@in_netns
def test_a_program_that_has_room_for_exactly_what_was_announced() -> None:
    """systemd-networkd asks how long a message is and makes room for that. What the kernel says is longer."""
    with daemon():
        python(EXACT)


MANY = """
import socket, struct
sockets = [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6 * (number % 2)) for number in range(200)]
xfrm = sockets[1::2]
for number, sock in enumerate(xfrm):
    sock.send(struct.pack("=IHHII", 20, 35, 1, number, 0) + bytes(4))  # GETSADINFO
for number, sock in enumerate(xfrm):
    length, kind, _, seq = struct.unpack_from("=IHHI", sock.recv(4096))
    assert (kind, seq) == (34, number), (kind, seq)
print("done")
"""


@in_netns
def test_a_program_with_many_netlink_sockets() -> None:
    """A test suite keeps those of each test until the end."""
    with daemon():
        python(MANY)


@pytest.mark.parametrize(("limit", "count"), [(128, 64), (256, 128), (1024, 256), (1 << 20, 256)])
def test_numbers_for_such_sockets_fit_the_limit_of_open_files(limit: int, count: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, before[1]), before[1]))
        numbers = carrier_numbers()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (len(numbers), numbers.stop) == (count, min(limit, 1024))


def test_with_too_few_open_files_it_says_so() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (127, before[1]))
        with pytest.raises(XfrmError, match="ulimit -n 1024"):
            carrier_numbers()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


SOCKET_POLICY = """
import errno, socket, struct
policy = bytearray(168)
policy[160:162] = bytes([1, 0])  # out, allow
template = bytes(64)
for family, level, option in ((socket.AF_INET, 0, 17), (socket.AF_INET6, 41, 35)):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.setsockopt(level, option, bytes(policy))
        blocks = bytearray(policy)
        blocks[161] = 1
        for refused in (bytes(policy) + template, bytes(blocks)):
            try:
                s.setsockopt(level, option, refused)
            except OSError as error:
                assert error.errno == errno.EOPNOTSUPP, error
            else:
                raise AssertionError("accepted, and nobody would do it")
print("done")
"""


@in_netns
def test_a_policy_of_a_socket_is_not_promised_in_vain() -> None:
    """IKE daemons let their own packets through. A socket that demands IPsec must hear that it gets none."""
    with daemon():
        python(SOCKET_POLICY)
