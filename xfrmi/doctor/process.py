"""What this process is allowed and made of: Python and its packages, /dev/net/tun, capabilities, the container."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import platform
import re
import shlex
import sys
from importlib import metadata

from xfrmi import __version__
from xfrmi.dev.netns import open_netns
from xfrmi.doctor.finding import Finding, lack, ok, warning
from xfrmi.doctor.machine import Machine
from xfrmi.errors import XfrmError
from xfrmi.lab.namespace import become_root_in_user_namespace
from xfrmi.lab.preflight import REMOUNT_PROC_SYS, Lacking, check_tun, missing_capabilities, no_user_namespace

PACKAGES = {"cryptography": "cryptography.hazmat.primitives.ciphers.aead", "numpy": "numpy", "python-pytun": "pytun"}
"""What the daemon imports of each distribution: a package for another Python is found, but cannot be imported."""

NS_GET_USERNS = 0xB701
_REQUIREMENT = re.compile(r"([\w.-]+)\s*>=\s*([\d.]+)")


def python(machine: Machine) -> Finding:
    """The packages of the daemon are there, load into this Python, and are new enough."""
    wanted = _requirements()
    found = []
    for name, module in PACKAGES.items():
        install = f"{shlex.quote(sys.executable)} -m pip install --upgrade {shlex.quote(name + wanted.get(name, ''))}"
        try:
            importlib.import_module(module)
            version = metadata.version(name)
        except ModuleNotFoundError:
            return lack("python", f"the package {name} is missing in Python {platform.python_version()}", install)
        except ImportError as error:
            text = f"the package {name} does not load into Python {platform.python_version()} ({error})"
            return lack("python", text, install.replace("--upgrade", "--force-reinstall"))
        if _numbers(version) < _numbers(wanted.get(name, "")):
            return lack("python", f"{name} is {version}, and {wanted[name].removeprefix('>=')} is needed", install)
        found.append(f"{name} {version}")
    return ok("python", f"xfrmi {__version__}, Python {platform.python_version()}, {', '.join(found)}")


def _requirements() -> dict[str, str]:
    """'cryptography' -> '>=47', as far as xfrmi is installed and knows."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        lines = (line for line in metadata.requires("xfrmi") or [] if "extra ==" not in line)
        return {match[1]: f">={match[2]}" for line in lines if (match := _REQUIREMENT.match(line))}
    return {}


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def tun(machine: Machine) -> Finding:
    try:
        check_tun()
    except Lacking as lacking:
        return lack("tun", lacking.lack, lacking.cure)
    return ok("tun", "/dev/net/tun opens")


def rights(machine: Machine) -> Finding:
    """CAP_NET_ADMIN makes TUN devices, CAP_NET_RAW opens sockets for protocol 50: in *this* network namespace."""
    missing = missing_capabilities({"CAP_NET_ADMIN", "CAP_NET_RAW"})
    if not missing and _owns_netns():
        return ok("rights", "CAP_NET_ADMIN and CAP_NET_RAW in this network namespace")
    text = f"no {' and '.join(missing)} here" if missing else "this network namespace belongs to another user namespace"
    if machine.container:
        return lack("rights", text, "start the container with --cap-add NET_ADMIN --cap-add NET_RAW")
    error = _user_namespace_refused()
    if error is not None:
        text = no_user_namespace(error, f"{text}; for labs a user namespace would do").lack
    else:
        text += "; for labs a user namespace does: unshare -Urn, or xfrmi lab demo"
    return lack("rights", text, "sudo xfrmi daemon")


def _owns_netns() -> bool:
    """Do our capabilities count in our network namespace? Not if that belongs to a user namespace around ours."""
    try:
        fd = open_netns()
    except XfrmError:
        return False
    try:
        os.close(fcntl.ioctl(fd, NS_GET_USERNS))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _user_namespace_refused() -> OSError | None:
    """Try it, in a child."""
    child = os.fork()
    if not child:
        try:
            become_root_in_user_namespace()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    number = os.waitstatus_to_exitcode(status)
    return OSError(number, os.strerror(number)) if number else None


def container(machine: Machine) -> Finding:
    """What a container keeps from xfrmi besides devices and capabilities: writing the settings of devices."""
    where = f"in a container ({machine.container})" if machine.container else "none"
    if os.statvfs("/proc/sys").f_flag & os.ST_RDONLY:
        text = f"{where}; /proc/sys cannot be written, so settings of devices stay as they are"
        return warning("container", text, REMOUNT_PROC_SYS)
    return ok("container", where)
