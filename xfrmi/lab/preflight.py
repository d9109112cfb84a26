"""What a lab needs of the machine, checked before anything is built: each lack in one sentence, with its cure."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from xfrmi.lab.namespace import Namespace, become_root_in_user_namespace, sysctl

CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
"""By bit number."""
REMOUNT_PROC_SYS = "sudo mount -o remount,rw /proc/sys"


class Lacking(Exception):
    """The machine cannot run a lab; the text says what is missing, then the line that mends it."""

    def __init__(self, lack: str, cure: str) -> None:
        super().__init__(f"{lack}: {cure}")
        self.lack = lack
        self.cure = cure


def prepare() -> str:
    """Become able to build a lab: 'as root', or 'rootless, in a user namespace'. Raises Lacking.

    Must be called before any thread is started.
    """
    if sys.platform != "linux":
        raise Lacking("xfrmi works with TUN devices and network namespaces, which only Linux has", "run it on Linux")
    check_tun()
    how = "as root"
    missing = missing_capabilities({"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"})
    if missing:
        how = "rootless, in a user namespace"
        try:
            become_root_in_user_namespace()
        except OSError as error:
            raise no_user_namespace(error, f"without {', '.join(missing)} a user namespace is needed") from None
    try:
        namespace = Namespace()
    except OSError as error:
        raise Lacking(
            f"this machine makes no network namespaces ({error.strerror})",
            "run it as root (a container needs --cap-add SYS_ADMIN)",
        ) from None
    try:
        with namespace:
            sysctl("net.ipv4.ip_forward", 0)
    except OSError as error:
        raise Lacking(
            f"/proc/sys cannot be written ({error.strerror}), and a lab routes packets", REMOUNT_PROC_SYS
        ) from None
    finally:
        namespace.close()
    return how


def check_tun() -> None:
    """/dev/net/tun is there and may be opened. Raises Lacking."""
    path = "/dev/net/tun"
    if not os.path.exists(path):
        raise Lacking(
            f"{path} is missing",
            f"sudo modprobe tun; sudo mkdir -p /dev/net; sudo mknod -m 0666 {path} c 10 200   "
            f"(in a container: --device {path})",
        )
    try:
        os.close(os.open(path, os.O_RDWR))
    except PermissionError:
        raise Lacking(f"{path} may not be opened by this user", f"sudo chmod 0666 {path}") from None
    except OSError as error:
        raise Lacking(f"{path} does not work ({error.strerror})", "sudo modprobe tun") from None


def missing_capabilities(needed: Iterable[str]) -> list[str]:
    """Those that this process may not have in effect, in the order of their names."""
    with open("/proc/self/status", encoding="ascii") as status:
        permitted = next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))
    return [name for name in sorted(needed) if not permitted >> CAPABILITIES[name] & 1]


def no_user_namespace(error: OSError, why: str) -> Lacking:
    """The lack of a user namespace, with the knob that forbids it, as far as one can be found."""
    lack = f"{why}, and this machine makes none ({error.strerror})"
    knobs = {
        "/proc/sys/user/max_user_namespaces": ("0", "user.max_user_namespaces=15000"),
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "kernel.unprivileged_userns_clone=1"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for path, (bad, cure) in knobs.items():
        try:
            with open(path, encoding="ascii") as knob:
                if knob.read().strip() == bad:
                    return Lacking(lack, f"sudo sysctl -w {cure}")
        except OSError:
            continue
    return Lacking(lack, "sudo make demo")
