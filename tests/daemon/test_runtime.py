"""Runtime directories: chosen alike by both ends, and refused when somebody else could have made them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from xfrmi.daemon import runtime
from xfrmi.dev.netns import netns_path
from xfrmi.errors import XfrmError


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XFRMI_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def test_directory_is_named_by_the_namespace_and_private(base: Path) -> None:
    directory = runtime.create_directory()
    assert directory == f"{base}/{os.stat('/proc/self/ns/net').st_ino}"
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700


def test_a_client_finds_a_directory_only_with_a_socket_in_it(base: Path) -> None:
    directory = runtime.create_directory()
    assert runtime.find_directory() is None
    Path(directory, runtime.XFRM_SOCKET).touch()
    assert runtime.find_directory() == directory


@pytest.mark.parametrize("spoil", ["mode", "link"])
def test_a_directory_that_others_may_enter_is_refused(base: Path, spoil: str) -> None:
    directory = Path(runtime.create_directory())
    (directory / runtime.XFRM_SOCKET).touch()
    if spoil == "mode":
        directory.chmod(0o755)
    else:
        directory.rename(base / "elsewhere")
        directory.symlink_to(base / "elsewhere")
    assert runtime.find_directory() is None
    with pytest.raises(XfrmError) as refused:
        runtime.create_directory()
    assert refused.value.errno == errno.EPERM
    assert "XFRMI_RUNTIME_DIR" in refused.value.detail


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_base_that_others_may_write_is_refused(base: Path, mode: int) -> None:
    """Whoever can rename what is in there could put a socket of his own between a look and a connection."""
    directory = Path(runtime.create_directory())
    (directory / runtime.XFRM_SOCKET).touch()
    base.chmod(mode)
    assert runtime.find_directory() is None
    with pytest.raises(XfrmError):
        runtime.create_directory()


def test_a_base_that_is_a_link_is_refused(base: Path) -> None:
    """Somebody else may have made /tmp/xfrmi-UID first."""
    directory = Path(runtime.create_directory())
    (directory / runtime.XFRM_SOCKET).touch()
    base.rename(base.with_name("elsewhere"))
    base.symlink_to(base.with_name("elsewhere"))
    assert runtime.find_directory() is None
    with pytest.raises(XfrmError):
        runtime.create_directory()


def test_who_may_not_look_is_told_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be a daemon, of root's: to say that there is none would be wrong."""
    assert runtime.no_daemon().detail == (
        'no xfrmi daemon serves this network namespace; start one there with "xfrmi daemon"'
    )
    base.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root would be let in
    told = runtime.no_daemon().detail
    assert told.startswith("no xfrmi daemon serves this network namespace that would answer this user")
    assert f"those of {base} answer its owner and root" in told


def test_candidates_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XFRMI_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert runtime.base_directories() == ["/run/xfrmi", "/run/user/1000/xfrmi", f"/tmp/xfrmi-{os.geteuid()}"]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime.base_directories() == ["/run/xfrmi", f"/tmp/xfrmi-{os.geteuid()}"]
    monkeypatch.setenv("XFRMI_RUNTIME_DIR", "/x")
    assert runtime.base_directories() == ["/x"]


def test_an_unknown_namespace_is_named(base: Path) -> None:
    with pytest.raises(XfrmError) as refused:
        runtime.find_directory(netns_path("no-such-namespace"))
    assert refused.value.errno == errno.ENOENT
    assert "no-such-namespace" in refused.value.detail
