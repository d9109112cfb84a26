"""Packet filter rules for as long as a block runs. Needs the `nft` command (Debian package nftables)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from xfrmi.lab.topology import Node

RAW = -300
"""The priority of rules that see packets first."""


def need_nft() -> None:
    """Skip loudly where there is no `nft`, or no nf_tables in the kernel."""
    if shutil.which("nft") is None:
        pytest.skip("NO nft COMMAND HERE (Debian package nftables), NETFILTER NOT TESTED")
    tried = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"nft DOES NOT WORK HERE, NETFILTER NOT TESTED: {tried.stderr.strip()}")


@contextmanager
def rule(hook: str, what: str, host: Node | None = None, kind: str = "filter") -> Iterator[None]:
    """One rule of both families in this hook (prerouting, input, output, postrouting), on this host, or here. `kind`
    is "filter" or "nat"."""
    chain = f"type {kind} hook {hook} priority {RAW if hook == 'prerouting' else 0};"
    lines = "add table inet xfrmi", f"add chain inet xfrmi c {{ {chain} }}", f"add rule inet xfrmi c {what}"
    made = _nft(host, "; ".join(lines))
    assert made.returncode == 0, made.stderr
    try:
        yield
    finally:
        _nft(host, "delete table inet xfrmi")


def _nft(host: Node | None, line: str) -> subprocess.CompletedProcess[str]:
    command = ["nft", line]
    return host.run(command) if host else subprocess.run(command, capture_output=True, text=True)
