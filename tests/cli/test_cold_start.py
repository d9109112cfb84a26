"""`xfrmi state list` is felt in a shell loop: it must not load what it does not need. No timing: modules decide."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.daemon.messages import STATE
from tests.daemon.server import runtime_directory, serving
from xfrmi.client import Client
from xfrmi.wire.link_types import LinkInfo

HEAVY = {
    "argparse", "asyncio", "cryptography", "ctypes", "email", "json", "logging", "numpy", "pytun", "pyroute2", "rich",
    "scapy", "shlex", "subprocess", "threading", "xfrmi.core", "xfrmi.lab", "xfrmi.daemon.main",
    "xfrmi.formats.grammar_policy", "xfrmi.formats.json_xfrm",
}  # fmt: skip

OF_OTHERS = {
    f"xfrmi.{name}"
    for name in (
        "formats.requests", "formats.requests_link", "formats.requests_policy", "formats.print_link",
        "formats.print_policy", "wire.link_msg", "wire.link_types", "wire.xfrm_msg", "wire.xfrm_event_msg",
        "wire.xfrm_policy_msg",
    )
}  # fmt: skip
"""What is about links, policies and events."""
OF_ADD = {f"xfrmi.formats.{name}" for name in ("grammar_algo", "grammar_parts", "grammar_state_words")}

MODULES = "import sys; from xfrmi.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"


@pytest.mark.parametrize(
    ("line", "unneeded"),
    [
        ("state list", HEAVY | OF_OTHERS | OF_ADD | {"xfrmi.wire.xfrm_info_msg"}),
        ("-s state list nokeys", HEAVY | OF_OTHERS),
        ("link show", HEAVY | {"xfrmi.formats.print_state", "xfrmi.formats.grammar_state"}),
        ("state count", HEAVY | OF_OTHERS | OF_ADD | {"xfrmi.formats.print_state"}),
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


def test_what_is_loaded_to_find_nobody() -> None:
    with runtime_directory():
        command = [sys.executable, "-c", MODULES, "state", "list"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no xfrmi daemon" in done.stderr
    assert set(done.stdout.split()) & (HEAVY | OF_OTHERS | OF_ADD) == set()


def test_what_exec_loads_for_its_supervisor() -> None:
    """It carries no packets: all that is the daemon's."""
    command = [sys.executable, "-c", "import sys, xfrmi.interpose.supervisor; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"asyncio", "cryptography", "numpy", "pyroute2", "rich", "xfrmi.core"} == set()
