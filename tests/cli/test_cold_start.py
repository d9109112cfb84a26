"""`xfrmi state list` is felt in a shell loop: it must not load what it does not need. No timing: modules decide."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.daemon.messages import STATE
from tests.daemon.server import serving
from xfrmi.client import Client
from xfrmi.wire.link_types import LinkInfo

HEAVY = {
    "argparse", "asyncio", "cryptography", "ctypes", "email", "json", "logging", "numpy", "pytun", "pyroute2", "rich",
    "scapy", "shlex", "subprocess", "threading", "xfrmi.core", "xfrmi.lab", "xfrmi.daemon.main",
    "xfrmi.formats.grammar_policy", "xfrmi.formats.json_xfrm",
}  # fmt: skip

MODULES = "import sys; from xfrmi.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"


@pytest.mark.parametrize(
    ("line", "unneeded"),
    [
        ("state list", HEAVY | {"xfrmi.formats.print_policy", "xfrmi.formats.print_link"}),
        ("-s state list nokeys", HEAVY),
        ("link show", HEAVY | {"xfrmi.formats.print_state", "xfrmi.formats.grammar_state"}),
        ("state count", HEAVY | {"xfrmi.formats.print_state"}),
    ],
)
def test_what_is_loaded(line: str, unneeded: set[str]) -> None:
    with serving():
        with Client() as client:
            client.add_state(STATE)
            client.add_link(LinkInfo(name="ipsec0", if_id=42))
        command = [sys.executable, "-c", MODULES, *line.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    *printed, modules = done.stdout.splitlines()
    assert printed, "it did its work"
    loaded = set(modules.split())
    assert loaded & unneeded == set()
