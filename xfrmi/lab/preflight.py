"""What a lab needs of the machine, checked before anything is built: each lack in one sentence, with its cure."""

from __future__ import annotations

import os
import sys

from xfrmi.lab.namespace import Namespace, become_root_in_user_namespace, sysctl

CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN = 12, 13, 21


class Lacking(Exception):
    """The machine cannot run a lab; the text says what is missing and how to mend it."""


def prepare() -> str:
    """Become able to build a lab: 'as root', or 'rootless, in a user namespace'. Raises Lacking.

    Must be called before any thread is started.
    """
    if sys.platform != "linux":
        raise Lacking("xfrmi needs Linux: it works with TUN devices and network namespaces")
    check_tun()
    how = "as root"
    missing = _missing_capabilities()
    if missing:
        how = "rootless, in a user namespace"
        try:
            become_root_in_user_namespace()
        except OSError as error:
            raise Lacking(_no_user_namespace(error, missing)) from None
    try:
        namespace = Namespace()
    except OSError as error:
        raise Lacking(
            f"this machine makes no network namespaces ({error.strerror}); a container needs: --cap-add SYS_ADMIN"
        ) from None
    try:
        with namespace:
            sysctl("net.ipv4.ip_forward", 0)
    except OSError as error:
        raise Lacking(
            f"/proc/sys cannot be written ({error.strerror}), and a lab routes packets; "
            "in a container: mount -o remount,rw /proc/sys"
        ) from None
    finally:
        namespace.close()
    return how


def check_tun() -> None:
    """/dev/net/tun is there and may be opened. Raises Lacking."""
    path = "/dev/net/tun"
    if not os.path.exists(path):
        raise Lacking(
            f"{path} is missing; make it: sudo modprobe tun; sudo mkdir -p /dev/net; "
            f"sudo mknod -m 0666 {path} c 10 200   (in a container: --device {path})"
        )
    try:
        os.close(os.open(path, os.O_RDWR))
    except PermissionError:
        raise Lacking(f"{path} may not be opened by this user; allow it: sudo chmod 0666 {path}") from None
    except OSError as error:
        raise Lacking(f"{path} does not work ({error.strerror}); load its driver: sudo modprobe tun") from None


def _missing_capabilities() -> list[str]:
    """The capabilities a lab needs that this process does not have in effect."""
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    needed = {"CAP_NET_ADMIN": CAP_NET_ADMIN, "CAP_NET_RAW": CAP_NET_RAW, "CAP_SYS_ADMIN": CAP_SYS_ADMIN}
    return [name for name, bit in needed.items() if not effective >> bit & 1]


def _no_user_namespace(error: OSError, missing: list[str]) -> str:
    lack = f"without {', '.join(missing)} a user namespace is needed, and this machine makes none ({error.strerror})"
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
                    return f"{lack}; allow it: sudo sysctl {cure}"
        except OSError:
            continue
    return f"{lack}; run it as root instead: sudo make demo"
