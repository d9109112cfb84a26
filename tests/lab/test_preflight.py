"""What a machine may lack: the demo names it in one sentence with the line that mends it, and exits with 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import xfrmi.lab.demo  # noqa: F401  before the child gives up the right to read it
from tests.lacks import (
    closed_proc_sys,
    closed_tun,
    empty_dev_net,
    needs_root,
    no_more_user_namespaces,
    run_after,
    tun_without_driver,
)


@pytest.mark.parametrize(
    ("lose", "lack", "cure"),
    [
        pytest.param(empty_dev_net, "/dev/net/tun is missing", "mknod -m 0666 /dev/net/tun c 10 200", id="no tun"),
        pytest.param(
            closed_tun, "/dev/net/tun may not be opened by this user", "chmod 0666 /dev/net/tun", id="tun 0600",
            marks=needs_root,
        ),
        pytest.param(
            tun_without_driver, "/dev/net/tun does not work", "modprobe tun", id="no driver", marks=needs_root
        ),
        pytest.param(closed_proc_sys, "/proc/sys cannot be written", "mount -o remount,rw /proc/sys", id="read-only"),
        pytest.param(
            no_more_user_namespaces,
            "without CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN a user namespace is needed, and this machine makes none",
            "sudo sysctl -w user.max_user_namespaces=15000",
            id="no user namespaces",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_cure(lose: Callable[[], None], lack: str, cure: str, tmp_path: Path) -> None:
    status, out, err = run_after(lose, tmp_path, "lab", "demo")
    assert status == 1
    assert out == "", "nothing was begun"
    assert err.startswith(f"xfrmi: {lack}"), err
    assert cure in err
    assert err.count("\n") == 1, "one sentence"
