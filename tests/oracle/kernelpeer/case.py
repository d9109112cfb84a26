"""One way to be connected: algorithm, mode, families, encapsulation, sequence numbers; and the lines that set it up."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tests.oracle.kernelpeer.pair import DEVICE, ENCAP_PORT, IF_ID, NUMBER, inner
from tests.system.hosts import ANY, FULL, OUTER, PEER

MODES = {
    "tunnel": ((4, 4), (6, 4), (4, 6), (6, 6)),
    "transport": ((4, 4), (6, 6)),
    "beet": ((4, 4), (6, 4), (4, 6), (6, 6)),
}
"""(inner, outer) families that each can have."""


@dataclass(frozen=True)
class Algorithm:
    """Names as `ip xfrm` takes them, sizes of keys in bytes, of ICVs in bits."""

    cipher: str
    key: int
    icv: int = 0
    auth: str = ""
    auth_key: int = 0

    def words(self, seed: str) -> str:
        if not self.auth and self.icv:
            return f"aead {self.cipher} {_key(seed, self.key)} {self.icv}"
        auth = f"auth-trunc {self.auth} {_key('auth' + seed, self.auth_key)} {self.icv} " if self.icv else ""
        return f"{auth}enc {self.cipher} {_key(seed, self.key)}"

    def __str__(self) -> str:
        if not self.auth:
            return f"{self.cipher}-{self.key * 8}-{self.icv}"
        return f"{self.cipher}-{self.key * 8}-{self.auth}-{self.icv}"


def _key(seed: str, size: int) -> str:
    return "0x" + hashlib.shake_128(seed.encode()).hexdigest(size) if size else '""'


@dataclass(frozen=True)
class Case:
    algorithm: Algorithm
    mode: str
    inner: int
    outer: int
    encap: bool = False
    esn: bool = False
    window: int = 32
    more: str = ""
    """Further words for both states."""
    if_id: int = IF_ID

    def __str__(self) -> str:
        words = [str(self.algorithm), self.mode, f"{self.inner}in{self.outer}"]
        words += ["udp"] * self.encap + ["esn"] * self.esn + [f"w{self.window}"]
        return "-".join([*words, *self.more.split()])

    def address(self, name: str) -> str:
        """Where `name` is reached through this: in transport mode there is no other address than the outer."""
        return OUTER[name, self.inner] if self.mode == "transport" else inner(name, self.inner, self.if_id)

    def lines(self, name: str) -> str:
        """All that one end is told. A kernel sends no transport mode through an xfrm interface (TX-10), so there the
        policies are those of no interface; on our side what goes to the peer is routed into the device."""
        lines = "".join(self.state_line(sender, name) for sender in PEER) + self.policy_lines(name)
        if self.mode == "transport" and name == "moon":
            peer = OUTER["sun", self.outer]
            lines += f"route add {peer}/{FULL[self.outer]} dev {DEVICE} src {OUTER['moon', self.outer]}\n"
        return lines

    def unroute(self) -> str:
        """What moon must be told at the end."""
        return f"route del {OUTER['sun', self.outer]}/{FULL[self.outer]} dev {DEVICE}\n" * (self.mode == "transport")

    def spi(self, sender: str, generation: int = 0) -> int:
        """The last digit says whose it is."""
        return self.if_id * 0x100 + 0x10 * generation + NUMBER[sender]

    def state_line(self, sender: str, name: str, verb: str = "add", more: str = "", generation: int = 0) -> str:
        """The state for what `sender` sends, as `name` is told it."""
        receiver = PEER[sender]
        words = [
            f"xfrm state {verb} src {OUTER[sender, self.outer]} dst {OUTER[receiver, self.outer]} proto esp",
            f"spi {self.spi(sender, generation):#x} reqid {self.if_id} mode {self.mode} replay-window {self.window}",
            self._flags(),
            self.algorithm.words(f"{sender}{generation}"),
            self._if_id(name),
        ]
        if self.mode == "beet":
            ends = ((word, self.address(end)) for word, end in (("src", sender), ("dst", receiver)))
            words.append("sel " + " ".join(f"{word} {address}/{FULL[self.inner]}" for word, address in ends))
        if self.encap:
            words.append(f"encap espinudp {ENCAP_PORT} {ENCAP_PORT} 0.0.0.0")
        return " ".join([*words, self.more, more]) + "\n"

    def _flags(self) -> str:
        flags = ["af-unspec"] * (self.mode == "tunnel") + ["esn"] * self.esn
        return f"flag {' flag '.join(flags)}" if flags else ""

    def _if_id(self, name: str) -> str:
        return "" if self.mode == "transport" and name == "sun" else f"if_id {self.if_id}"

    def policy_lines(self, name: str) -> str:
        lines = ""
        if self.mode == "transport" and self.encap and name == "sun":
            # What a key manager does for its socket: the datagrams around ESP must not be asked for ESP themselves.
            lines = f"xfrm policy add src {ANY[self.outer]} dst {ANY[self.outer]} proto udp dport {ENCAP_PORT} dir in\n"
        for direction, sender in (("out", name), ("in", PEER[name])):
            receiver = PEER[sender]
            source, target = OUTER[sender, self.outer], OUTER[receiver, self.outer]
            selector = f"src {ANY[self.inner]} dst {ANY[self.inner]}"
            if self.mode != "tunnel":
                full = FULL[self.inner]
                selector = f"src {self.address(sender)}/{full} dst {self.address(receiver)}/{full}"
            lines += (
                f"xfrm policy add {selector} dir {direction} {self._if_id(name)} "
                f"tmpl src {source} dst {target} proto esp reqid {self.if_id} mode {self.mode}\n"
            )
        return lines
