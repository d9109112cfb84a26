"""Two hosts, each with Debian's charon-systemd under exec, with its ordinary kernel-netlink plugin: nobody told it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interpose.supervised import need_exec
from tests.netns import need_tun
from xfrmi.lab.topology import Lab, Node

CHARON, SWANCTL = Path("/usr/sbin/charon-systemd"), Path("/usr/sbin/swanctl")
ALGORITHMS = "openssl gcrypt aes sha1 sha2 md5 hmac kdf gcm ctr ccm curve25519 random nonce pem pkcs1 x509 pubkey"
SETTINGS = """
charon-systemd {{
    load = {algorithms} kernel-netlink socket-default vici updown
    plugins {{
        vici {{
            socket = unix://{folder}/vici
        }}
    }}
    journal {{
        default = -1
    }}
    filelog {{
        log {{
            path = {folder}/charon.log
            flush_line = yes
            default = 1
            knl = 2
        }}
    }}
    {settings}
}}
swanctl {{
    load = random pem pkcs1 x509 pubkey openssl
}}
"""
ADDRESS = {"moon": "192.0.2.1", "sun": "192.0.2.2"}
INNER = {"moon": "10.0.42.1", "sun": "10.0.42.2"}
PEER = {"moon": "sun", "sun": "moon"}
CONNECTION = """
connections {{
    net {{
        local_addrs = {own}
        remote_addrs = {other}
        version = 2
        proposals = aes128gcm16-prfsha256-x25519
        {ike}
        local {{
            {auth}
            id = {id}
        }}
        remote {{
            {peer_auth}
            id = {peer_id}
        }}
        children {{
            net {{
                if_id_in = {if_id}
                if_id_out = {if_id}
                local_ts = {local}
                remote_ts = {remote}
                esp_proposals = aes128gcm16-x25519
                {child}
            }}
        }}
    }}
}}
secrets {{
    ike {{
        secret = "not very secret"
    }}
}}
"""
EXEC = [sys.executable, "-m", "xfrmi", "exec", "--"]


def connection(
    own: str, other: str, own_id: str, peer_id: str, auth: str = "auth = psk", peer_auth: str = "auth = psk", *,
    ike: str = "", child: str = "", if_id: str = "42", selector: str = "10.0.42.0/24", remote_selector: str = "",
) -> str:  # fmt: skip
    """A whole swanctl.conf with the connection `net` and its child `net`; `ike` and `child` are lines of theirs."""
    return CONNECTION.format(
        own=own, other=other, id=own_id, peer_id=peer_id, auth=auth, peer_auth=peer_auth,
        ike=ike, child=child, if_id=if_id, local=selector, remote=remote_selector or selector,
    )  # fmt: skip


def need_charon() -> None:
    need_exec()
    need_tun()
    for path in (CHARON, SWANCTL):
        if not path.exists():
            pytest.skip(f"NO {path} (Debian: charon-systemd strongswan-swanctl): NO IKE DAEMON TESTED UNDER exec")


def eventually(true: Callable[[], object], what: Callable[[], str], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


class Host:
    """One end."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name = node.name
        self.charon: subprocess.Popen[str] | None = None
        self.more_env: dict[str, str] = {}
        """For charon."""

    def start(self, settings: str = "", **how: Any) -> None:
        """Start charon, with more `settings`, and the connection that is described."""
        self.launch(self.connection(**how), settings)

    def connection(
        self,
        ike: str = "",
        child: str = "",
        dynamic: bool = False,
        nets: tuple[str, str] = ("10.0.42.0/24", "10.0.42.0/24"),
        remote: str = "",
        if_id: str = "42",
        certificates: dict[str, bytes] | None = None,
    ) -> str:
        """A swanctl.conf for this end; `ike` and `child` go into the connection. The traffic is between `nets`, this
        end's first, or `dynamic`: between the hosts. `certificates` are files by name: NAME.key, NAME.crt and ca.crt.
        """
        folder = self.node.folder
        peer = PEER[self.name]
        auth = peer_auth = "auth = psk"
        own_id, peer_id = self.name, peer
        if certificates is not None:
            for place, name in (("x509", f"{self.name}.crt"), ("x509ca", "ca.crt"), ("private", f"{self.name}.key")):
                (folder / place).mkdir(exist_ok=True)
                (folder / place / name).write_bytes(certificates[name])
            auth, peer_auth = f"auth = pubkey\n certs = {self.name}.crt", "auth = pubkey"
            own_id, peer_id = f'"C=CH, CN={self.name}"', f'"C=CH, CN={peer}"'
        own = ADDRESS[self.name] if remote == "" else "%any"
        other = remote if remote and self.name == "sun" else ADDRESS[peer]
        local, peers = ("dynamic", "dynamic") if dynamic else nets
        return connection(
            own, other, own_id, peer_id, auth, peer_auth,
            ike=ike, child=child, if_id=if_id, selector=local, remote_selector=peers,
        )  # fmt: skip

    def launch(self, config: str, settings: str = "") -> None:
        """Start charon with a whole swanctl.conf."""
        folder = self.node.folder
        text = SETTINGS.format(algorithms=ALGORITHMS, folder=folder, settings=settings)
        (folder / "strongswan.conf").write_text(text)
        (folder / "swanctl.conf").write_text(config)
        self.relaunch()

    def relaunch(self) -> None:
        """Start it as it was started before."""
        folder = self.node.folder
        (folder / "vici").unlink(missing_ok=True)
        env = {**self.node.env, "STRONGSWAN_CONF": str(folder / "strongswan.conf"), "SWANCTL_DIR": str(folder)}
        env |= self.more_env
        with open(folder / "charon.out", "ab") as out:
            self.charon = self.node.popen([*EXEC, str(CHARON)], stdout=out, stderr=subprocess.STDOUT, env=env)
        self.node.programs.append(self.charon)
        eventually((folder / "vici").exists, self.last_words)
        self.swanctl("--load-all", "--file", str(folder / "swanctl.conf"))

    def reload(self, config: str) -> None:
        """Another swanctl.conf, for the charon that runs."""
        (self.node.folder / "swanctl.conf").write_text(config)
        self.swanctl("--load-all", "--file", str(self.node.folder / "swanctl.conf"))

    def stop(self, signal: str = "TERM") -> None:
        """Or with KILL: without a word to its peer."""
        assert self.charon is not None
        if signal == "KILL":
            self.charon.kill()
        self.node.stop(self.charon)

    def swanctl(self, *arguments: str, check: bool = True) -> str:
        folder = self.node.folder
        env = {**self.node.env, "STRONGSWAN_CONF": str(folder / "strongswan.conf"), "SWANCTL_DIR": str(folder)}
        uri = f"unix://{self.node.folder}/vici"
        done = self.node.run([str(SWANCTL), *arguments, "--uri", uri], env=env)
        assert not check or done.returncode == 0, done.stdout + done.stderr + self.last_words()
        return done.stdout + done.stderr

    def run(self, command: str) -> str:
        """A line of shell on this host, under exec."""
        done = self.node.run([*EXEC, "sh", "-c", command], env=self.node.env)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}{self.last_words()}"
        return done.stdout

    def link(self) -> None:
        """The xfrm device with key 42, as one makes it for strongSwan, and its address."""
        self.run(
            "ip link add ipsec0 type xfrm dev eth0 if_id 42 && ip link set ipsec0 up && "
            f"ip address add {INNER[self.name]}/24 dev ipsec0"
        )

    def ping(self, count: int = 3, size: int = 56, address: str = "") -> int:
        """How many of so many echoes through the tunnel were answered."""
        to = address or INNER[PEER[self.name]]
        done = self.node.run(["ping", "-c", str(count), "-i", "0.05", "-W", "2", "-s", str(size), to])
        match = re.search(r"(\d+) received", done.stdout)
        return int(match[1]) if match else 0

    def log(self) -> str:
        path = self.node.folder / "charon.log"
        return path.read_text() if path.exists() else ""

    def last_words(self) -> str:
        parts = [f"--- {self.name}"]
        for name in ("charon.out", "charon.log", "exec.log"):
            path = self.node.folder / name
            if path.exists():
                parts += [f"-- {name}", *path.read_text(errors="replace").splitlines()[-25:]]
        parts += [path.read_text() for path in self.node.folder.glob("4*.log")]
        return "\n".join(parts)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    need_charon()
    with Lab() as lab:
        moon, sun = lab.node("moon"), lab.node("sun")
        lab.link(moon, "eth0", ["192.0.2.1/24"], sun, "eth0", ["192.0.2.2/24"])
        hosts = Host(moon), Host(sun)
        try:
            yield hosts
        except AssertionError as error:
            error.add_note("\n".join(host.last_words() for host in hosts))
            raise
        for host in hosts:
            faults = host.node.folder / "exec.log"
            assert not faults.exists(), faults.read_text()
            if host.charon is not None and host.charon.poll() is None:
                host.stop()


def carried(listing: str) -> dict[str, tuple[int, int, int]]:
    """By direction, (SPI, bytes, packets) of the CHILD_SA in what `swanctl --list-sas` prints."""
    found = re.findall(r"  (in |out) +([0-9a-f]{8}).*?, +(\d+) bytes, +(\d+) packets", listing)
    return {direction.strip(): (int(spi, 16), int(size), int(packets)) for direction, spi, size, packets in found}


def counters(host: Host) -> dict[str, tuple[int, int]]:
    """By direction, bytes and packets of the CHILD_SA."""
    found = carried(host.swanctl("--list-sas"))
    return {direction: (size, packets) for direction, (_, size, packets) in found.items()}


def make_certificates(*names: str) -> dict[str, bytes]:
    """A certificate authority and what it has signed, as files."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def subject(name: str) -> x509.Name:
        country, common = NameOID.COUNTRY_NAME, NameOID.COMMON_NAME
        return x509.Name([x509.NameAttribute(country, "CH"), x509.NameAttribute(common, name)])

    ca_key = ec.generate_private_key(ec.SECP256R1())
    files = {}
    for name in ("ca", *names):
        key = ca_key if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject(name))
            .issuer_name(subject("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        files[f"{name}.crt"] = certificate.public_bytes(serialization.Encoding.PEM)
        files[f"{name}.key"] = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    return files
