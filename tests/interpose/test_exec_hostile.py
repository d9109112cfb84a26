"""Bytes that no program would send, through exec: the same answers as the handler gives, and nobody falls over."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.daemon.test_against_kernel import SEEDS, spoiled
from tests.interpose.supervised import EXEC, daemon, output
from tests.netns import in_netns
from xfrmi.wire import netlink
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_REQUEST

SENDS = """
import errno, pickle, socket, struct, sys
requests, own = pickle.load(open(sys.argv[1], "rb")), {}
for protocol in (6, 0):
    s = own[protocol] = socket.socket(16, 3, protocol)
    s.bind((0, 0))
    s.settimeout(10)
def drain(s):
    s.setblocking(False)
    try:
        while s.recv(1 << 18):
            pass
    except BlockingIOError:
        pass
    s.settimeout(10)
for number, (protocol, request) in enumerate(requests):
    s = own[protocol]
    try:
        s.send(request)
    except OSError as error:
        assert error.errno in (errno.EMSGSIZE, errno.ENODATA, errno.EINVAL, errno.ENOBUFS), error
    # A request in order after it, and answered: nothing is stuck.
    if number % 20 == 0:
        drain(own[6])
        own[6].send(struct.pack("=IHHIII", 20, 35, 1, 7000000 + number, 0, 0))
        while struct.unpack_from("=8xI", own[6].recv(1 << 18))[0] != 7000000 + number:
            pass
    elif number % 20 == 10:
        drain(own[0])
print("done")
"""


@in_netns
def test_whatever_is_sent_the_next_request_is_answered() -> None:
    rng = random.Random(5)
    requests: list[tuple[int, bytes]] = [(6, b""), (6, b"\0" * 15), (6, bytes(1 << 17)), (6, b"\xff" * 5000)]
    link = b"\0" * 16 + b"\x08\0\x03\0xfrm" + b"\0" + b"\x0c\0\x12\x80\x09\0\x01\0xfrm\0"
    for _ in range(1500):
        kind, body, _ = spoiled(rng, rng.choice(SEEDS))
        datagram = bytearray(netlink.message(kind, NLM_F_REQUEST | NLM_F_ACK, rng.getrandbits(16), 0, body))
        if rng.random() < 0.3:
            datagram[rng.randrange(16)] = rng.randrange(256)
        requests.append((6, bytes(datagram) * rng.choice([1, 1, 3])))
    for _ in range(500):
        body = bytearray(link)
        for _ in range(rng.choice([1, 2, 4])):
            body[rng.randrange(16, len(body))] = rng.randrange(256)
        flags = NLM_F_REQUEST | rng.choice([0, NLM_F_ACK, 0x600, 0x300])
        requests.append((0, netlink.message(rng.choice([16, 18, 19]), flags, rng.getrandbits(16), 0, bytes(body))))
    rng.shuffle(requests)
    with daemon(), tempfile.NamedTemporaryFile() as file:
        pickle.dump(requests, file)
        file.flush()
        done = subprocess.run(
            [*EXEC, "--", sys.executable, "-c", SENDS, file.name], capture_output=True, text=True, timeout=50
        )
        faults = Path(os.environ["XFRMI_RUNTIME_DIR"], "exec.log")
        told = faults.read_text() if faults.exists() else ""
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", ""), told + done.stderr
        assert output("ip xfrm state count").startswith("\t SAD count ")
