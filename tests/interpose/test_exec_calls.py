"""Every way to send and to receive, with its flags and options: one program, natively and supervised, says the same.

Natively it talks to this kernel's NETLINK_XFRM, which counts its states also where it has no ESP.
"""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from tests.interpose.supervised import EXEC, daemon
from tests.netns import in_netns

PROGRAM = '''
import array, ctypes, errno, os, select, socket, struct, threading, time
libc = ctypes.CDLL(None, use_errno=True)
SOL_NETLINK = 270
def request(seq, kind=35, flags=1, more=b""):
    body = struct.pack("=I", 0) + more
    return struct.pack("=IHHII", 16 + len(body), kind, flags, seq, 0) + body
def told(data):
    "(type, sequence number, flags) of each message; whether it is for us; its errno."
    found = []
    while len(data) >= 16:
        length, kind, flags, seq, pid = struct.unpack_from("=IHHII", data)
        error = struct.unpack_from("=i", data, 16)[0] if kind == 2 else None
        found.append((length, kind, seq, flags, pid == s.getsockname()[0], error))
        data = data[length + 3 & ~3:]
    return found
def tried(name, call, *arguments):
    try:
        result = call(*arguments)
    except OSError as error:
        result = errno.errorcode[error.errno]
    print(name, result, flush=True)
def fresh():
    global s
    s = socket.socket(16, 3, 6)
    s.bind((0, 0))
    return s
# Sending
fresh()
for number, send in enumerate((
    lambda r: s.send(r), lambda r: s.sendto(r, (0, 0)), lambda r: s.sendmsg([r[:7], r[7:]], [], 0, (0, 0)),
    lambda r: os.write(s.fileno(), r), lambda r: os.writev(s.fileno(), [r[:3], b"", r[3:]]), lambda r: s.sendall(r),
)):
    tried("send", send, request(number))
    print(told(s.recv(4096)))
tried("nothing", s.send, b"")
tried("short", s.send, b"x" * 15)
tried("no answer", s.recv, 100, socket.MSG_DONTWAIT)
tried("to somebody", s.sendto, request(1), (77777, 0))
tried("another family", libc.sendto, s.fileno(), b"x" * 20, 20, 0, struct.pack("=HHII", 2, 0, 0, 0), 12)
tried("a bad address", libc.send, s.fileno(), None, 20, 0)
print(errno.errorcode[ctypes.get_errno()])
tried("flags", s.send, request(1), socket.MSG_OOB)
# Receiving
for name, receive in (
    ("recv", lambda: s.recv(4096)), ("read", lambda: os.read(s.fileno(), 4096)),
    ("recvfrom", lambda: s.recvfrom(4096)), ("recvmsg", lambda: s.recvmsg(4096, 100)),
):
    s.send(request(1))
    got = receive()
    print(name, told(got if isinstance(got, bytes) else got[0]), got[1:] if isinstance(got, tuple) else "")
s.send(request(2))
one, two = bytearray(10), bytearray(4000)
tried("readv", os.readv, s.fileno(), [one, two])
s.send(request(2))
tried("peek", lambda: s.recvmsg(8, 0, socket.MSG_PEEK)[2:])
tried("peek trunc", lambda: s.recv_into(bytearray(8), 8, socket.MSG_PEEK | socket.MSG_TRUNC))
tried("peek nothing", lambda: s.recvmsg_into([], 0, socket.MSG_PEEK | socket.MSG_TRUNC))
tried("cut", lambda: s.recvmsg(8))
tried("gone", s.recv, 8, socket.MSG_DONTWAIT)
s.send(request(2))
tried("trunc", lambda: s.recv_into(bytearray(8), 8, socket.MSG_TRUNC))
tried("gone", s.recv, 8, socket.MSG_DONTWAIT)
s.send(request(2))
tried("empty read", os.read, s.fileno(), 0)
print(told(s.recv(4096)))
s.settimeout(0.05)
s.send(request(3, flags=5))
print(told(s.recv(4096)), told(s.recv(4096)))
s.setblocking(True)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@qq", 0, 50000))
began = time.monotonic()
tried("timeout", s.recv, 100)
print(0.04 < time.monotonic() - began < 3)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@qq", 0, 0))
# Several at once
class Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int), ("len", ctypes.c_uint)]
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]
def messages(buffers):
    vectors = (Vector * len(buffers))(*[Vector(ctypes.addressof(b), len(b)) for b in buffers])
    made = (Message * len(buffers))()
    for number in range(len(buffers)):
        made[number].iov = ctypes.addressof(vectors[number])
        made[number].iovlen = 1
    return made, vectors
for count in (1, 3):
    buffers = [ctypes.create_string_buffer(request(n), 20) for n in range(count)]
    made, keep = messages(buffers)
    print("sendmmsg", libc.sendmmsg(s.fileno(), made, count, 0), [m.len for m in made])
    buffers = [ctypes.create_string_buffer(4096) for n in range(5)]
    made, keep = messages(buffers)
    got = libc.recvmmsg(s.fileno(), made, 5, 0x10000, None)
    print("recvmmsg", got, [told(b.raw[:m.len]) for m, b in zip(made, buffers)])
    print(libc.recvmmsg(s.fileno(), made, 5, socket.MSG_DONTWAIT, None), errno.errorcode[ctypes.get_errno()])
print("none", libc.sendmmsg(s.fileno(), made, 0, 0))
# Waiting
p, e = select.poll(), select.epoll()
p.register(s, select.POLLIN | select.POLLOUT)
e.register(s, select.EPOLLIN | select.EPOLLET)
print([event for _, event in p.poll(0)], e.poll(0))
s.send(request(4))
print([event for _, event in p.poll(0)], [event for _, event in e.poll(0)], e.poll(0))
print(bool(select.select([s], [], [], 0)[0]))
s.recv(4096)
print([event for _, event in p.poll(0)])
def later():
    time.sleep(0.2)
    s.send(request(5))
threading.Thread(target=later).start()
print("blocking", told(s.recv(4096)))
# Options
for option in (10, 11, 12, 8):
    tried(f"option {option}", s.setsockopt, SOL_NETLINK, option, 1)
    tried("is", s.getsockopt, SOL_NETLINK, option)
def refused(flags=5):
    s.send(request(6, kind=16, flags=flags, more=bytes(4)))
    data = s.recv(4096)
    return told(data)[0][1:]
print("cap and ext ack", refused(), refused(1))
for option in (10, 11):
    s.setsockopt(SOL_NETLINK, option, 0)
# The rest of an answer is as if they were still on.
print("neither", refused()[4], refused(1)[4])
tried("unknown option", s.setsockopt, SOL_NETLINK, 99, 1)
tried("a group too high", s.setsockopt, SOL_NETLINK, 1, 99)
for group in (1, 2):
    tried("join", s.setsockopt, SOL_NETLINK, 1, group)
print(s.getsockname()[1], s.getpeername())
tried("leave", s.setsockopt, SOL_NETLINK, 2, 1)
print(s.getsockname()[1])
tried("bind again", s.bind, (0, 4))
print(s.getsockname()[1])
tried("another port", s.bind, (12345, 0))
tried("connect", s.connect, (0, 0))
other = socket.socket(16, 2, 6)
tried("autobind", other.send, request(1))
print(other.getsockname()[0] not in (0, s.getsockname()[0]), told(other.recv(4096))[0][:3])
tried("listen", s.listen)
tried("accept", s.accept)
tried("shutdown", s.shutdown, 2)
# Closed by another thread while one waits: it goes on waiting, as with any socket, for what comes by a copy.
fresh()
copy = socket.socket(16, 3, 6, fileno=os.dup(s.fileno()))
waited = []
t = threading.Thread(target=lambda: waited.append(len(libc.recv and os.read(s.fileno(), 4096))))
t.start()
time.sleep(0.2)
number = s.detach()
os.close(number)
time.sleep(0.1)
copy.send(request(7))
t.join(5)
print("closed while waiting", waited)
tried("afterwards", os.read, number, 1)
'''


def run(*front: str) -> list[str]:
    done = subprocess.run([*front, sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@in_netns
def test_every_call_does_what_it_does_natively() -> None:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6).close()
    except OSError as error:
        pytest.skip(f"THIS KERNEL HAS NO NETLINK_XFRM, NOTHING TO COMPARE WITH: {error}")
    native = run()
    with daemon():
        found = run(*EXEC, "--")
    assert found == native
