"""The kernel to boot: Debian's package, downloaded and unpacked into a cache folder, never installed.

`python -m tests.oracle.kernelpeer.kernel` fetches it; tests only look whether it is there. Everything that the guest
runs besides (interpreter, `ip`, busybox) is a copy of what this machine has, see initramfs.py.
"""

from __future__ import annotations

import lzma
import platform
import re
import shutil
import subprocess
import zlib
from pathlib import Path

from tests.oracle import packages

META_PACKAGE = "linux-image-6.12-cloud-amd64"
"""Depends on the newest 6.12 of Debian 12: few drivers, so it boots quickly."""

WANTED = (
    "virtio_mmio", "virtio_net", "xfrm_user", "xfrm_interface", "esp4", "esp6", "tunnel4", "tunnel6", "xfrm4_tunnel",
    "xfrm6_tunnel", "authenc", "authencesn", "gcm", "ccm", "ghash_generic", "ghash_clmulni_intel", "aesni_intel",
    "chacha20poly1305", "chacha_x86_64", "chacha_generic", "poly1305_x86_64", "poly1305_generic", "echainiv", "seqiv",
    "crypto_null", "des_generic", "des3_ede_x86_64", "cmac", "xcbc", "sha1_ssse3", "sha256_ssse3", "sha512_ssse3",
    "rmd160", "camellia_generic", "cast5_generic", "blowfish_generic", "ah4", "ipcomp", "deflate", "veth", "bridge",
)  # fmt: skip
"""Modules, loaded at boot with what they depend on. Those that a kernel has built in are not missed."""

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "dash": "dash",
    "ldd": "libc-bin",
}
"""Programs that running the peer takes, and Debian's packages of them."""
FETCHING = {"apt-get": "apt", "dpkg-deb": "dpkg", "zstd": "zstd"}


def folder() -> Path:
    """Where the kernel is kept: `vmlinux`, and `modules` in the order in which they load. Another choice of them is
    another folder."""
    choice = zlib.crc32(" ".join(WANTED).encode())
    return packages.cache() / "xfrmi-kernelpeer" / f"{META_PACKAGE}-{choice:08x}"


def lacking() -> str:
    """Why no kernel can be booted here, with the line that mends it. Empty if one can."""
    if platform.machine() != "x86_64":
        return "the kernel peer is for x86-64 machines"
    missing = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    here = (folder() / "vmlinux").exists()
    if not here:
        missing += [package for program, package in FETCHING.items() if shutil.which(program) is None]
    if not missing and here:
        return ""
    install = f"apt install {' '.join(missing)} && " if missing else ""
    what = f"{', '.join(missing)} is not installed" if missing else "its kernel has not been downloaded"
    return f"{what}; mend it: {install}make kernel"


def fetch() -> Path:
    """Download and unpack the kernel unless it is there. Returns its folder. CalledProcessError, OSError."""
    place = folder()
    if (place / "vmlinux").exists():
        return place
    with packages.unpacked(place, _newest()) as work:
        (image,) = (work / "root/boot").glob("vmlinuz-*")
        ready = work / "ready"
        ready.mkdir()
        (ready / "vmlinux").write_bytes(vmlinux(image.read_bytes()))
        _keep_modules(work / "root/lib/modules", ready / "modules")
        ready.rename(place)
    return place


def _newest() -> str:
    shown = subprocess.run(["apt-cache", "depends", META_PACKAGE], check=True, capture_output=True, text=True)
    found = re.search(r"Depends: (linux-image-\S+)", shown.stdout)
    if found is None:
        raise OSError(f"apt knows no {META_PACKAGE}; try: apt-get update")
    return found[1]


def vmlinux(image: bytes) -> bytes:
    """The kernel inside a bzImage (Documentation/arch/x86/boot.rst); its own decompressor is slow in emulation."""
    setup_sectors = image[0x1F1] or 4
    offset, length = (int.from_bytes(image[at : at + 4], "little") for at in (0x248, 0x24C))
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(payload)
    # The last four bytes are the kernel's own length field, which zstd complains about after it has done its work.
    return subprocess.run(["zstd", "-dcq"], input=payload[:-4], check=True, stdout=subprocess.PIPE).stdout


def _keep_modules(tree: Path, target: Path) -> None:
    """Those wanted and what they depend on, unpacked, named by the order of loading."""
    target.mkdir()
    packed = {path.name.partition(".")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}
    done: list[str] = []

    def keep(name: str) -> None:
        if name in done or name not in packed:
            return
        data = packed[name].read_bytes()
        if packed[name].suffix == ".xz":
            data = lzma.decompress(data)
        depends = re.search(rb"\0depends=([^\0]*)\0", data)  # in .modinfo, what depmod reads too
        for other in (depends[1].decode() if depends else "").split(","):
            keep(other.replace("-", "_"))
        done.append(name)
        (target / f"{len(done):03}-{name}.ko").write_bytes(data)

    for name in WANTED:
        keep(name)


if __name__ == "__main__":
    packages.main(fetch, "no kernel could be fetched")
