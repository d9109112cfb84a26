"""What runs in the guest: it opens sockets, calls their methods and runs programs when told to, each in a thread.

A request is (number, object, method, arguments); the answer (number, result, exception). Object 0 is the `Guest`; the
others are the sockets it has opened, so that a test can use a socket of the guest as if it were one of its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # -I leaves it out

from channel import Channel


class Guest:
    """What can be asked of the machine itself."""

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return socket.socket(family, kind, protocol)

    def run(self, *command: str, text: str = "") -> tuple[int, str, str]:
        """(exit status, stdout, stderr) of a program."""
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def converse(self, protocol: int, requests: list[bytes]) -> list[list[bytes]]:
        """Netlink requests that want acknowledgements, one after the other; the datagrams that answer each."""
        answers = []
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as asking:
            asking.bind((0, 0))
            asking.setsockopt(270, 11, 1)  # SOL_NETLINK, NETLINK_EXT_ACK
            asking.settimeout(5)
            for request in requests:
                asking.send(request)
                answers.append([asking.recv(65536)])
                while int.from_bytes(answers[-1][-1][4:6], sys.byteorder) not in (2, 3):  # NLMSG_ERROR, NLMSG_DONE
                    answers[-1].append(asking.recv(65536))
        return answers

    def read(self, path: str) -> str:
        with open(path) as file:
            return file.read()

    def write(self, path: str, text: str) -> None:
        with open(path, "w") as file:
            file.write(text)


class Agent:
    def __init__(self) -> None:
        self._objects: dict[int, Any] = {0: Guest()}
        self._names = {id(self._objects[0]): 0}
        self._next = 1
        self._naming = threading.Lock()
        self._channel = Channel(_open_port(), self._name_of, self._objects.__getitem__)

    def serve(self) -> None:
        self._channel.say("ready")
        while True:
            threading.Thread(target=self._answer, args=self._channel.hear(), daemon=True).start()

    def _answer(self, number: int, name: int, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        try:
            answer = (number, getattr(self._objects[name], method)(*arguments, **options), None)
        except Exception as error:
            answer = (number, None, error)
        self._channel.say(answer)
        if method == "close":
            with self._naming:
                del self._names[id(self._objects[name])]  # first: once it is gone, its id may be that of a new one
                del self._objects[name]

    def _name_of(self, thing: Any) -> int | None:
        """Sockets stay here."""
        if not isinstance(thing, socket.socket):
            return None
        with self._naming:
            if id(thing) not in self._names:
                self._names[id(thing)] = self._next
                self._objects[self._next] = thing
                self._next += 1
            return self._names[id(thing)]


def _open_port() -> int:
    """It appears a moment after its driver."""
    while not (found := [name for name in os.listdir("/dev") if name.startswith("vport")]):
        time.sleep(0.01)
    return os.open(f"/dev/{found[0]}", os.O_RDWR)


if __name__ == "__main__":
    Agent().serve()
