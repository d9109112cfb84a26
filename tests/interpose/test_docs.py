"""docs/strongswan.md, typed line by line as it stands there, as root, in namespaces of the test's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interpose.strongswan import need_charon
from tests.interpose.supervised import need
from tests.lacks import own_mounts
from tests.netns import in_netns

PAGE = Path(__file__).parents[2] / "docs" / "strongswan.md"


@in_netns
def test_the_page_on_strongswan(tmp_path: Path) -> None:
    need_charon()
    need("bash", "ping")
    if os.getuid() != 0:
        pytest.skip("ip netns TAKES ROOT, THE PAGE IS NOT TESTED")
    own_mounts()
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)  # namespaces' names, daemons' sockets
    command = tmp_path / "bin" / "xfrmi"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m xfrmi "$@"\n')
    command.chmod(0o755)
    lines = "".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL))
    assert lines.count("/tmp/") > 10
    script = tmp_path / "typed"
    script.write_text(lines.replace("/tmp/", f"{tmp_path}/"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("XFRMI")},
        "PATH": f"{command.parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHONPATH": str(PAGE.parents[1]),
    }
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=50, env=environment)
    said = done.stdout + done.stderr
    assert "initiate completed successfully" in said, said
    assert "3 packets transmitted, 3 received" in said, said
    assert re.search(r"in  [0-9a-f]{8} .* 252 bytes, +3 packets", said), said
    assert "if_id 0x2a" in said, said
    assert subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout == ""
