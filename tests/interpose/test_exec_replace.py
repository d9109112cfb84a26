"""Supervised programs while their daemon is replaced by another process: they do not notice."""

from __future__ import annotations

import subprocess
import sys

from tests.interpose.supervised import EXEC, STATE, daemon
from tests.netns import in_netns
from tests.system.hosts import eventually
from xfrmi.client import Client


@in_netns
def test_a_shell_and_a_monitor_go_on() -> None:
    with daemon() as process:
        shell = subprocess.Popen([*EXEC, "--", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        monitor = subprocess.Popen([*EXEC, "--", "ip", "xfrm", "monitor"], stdout=subprocess.PIPE, text=True)
        assert shell.stdin is not None and shell.stdout is not None and monitor.stdout is not None

        def order(line: str, last: str) -> None:
            assert shell.stdin is not None and shell.stdout is not None
            shell.stdin.write(f"{line}; echo done\n")
            shell.stdin.flush()
            seen = shell.stdout.readline()
            while not seen.startswith("done"):
                assert last == "" or last in seen or seen.startswith(("\t", "src")), seen
                seen = shell.stdout.readline()

        order(f"ip xfrm state add {STATE}", "")
        with Client() as client:
            successor = subprocess.Popen([sys.executable, "-m", "xfrmi", "daemon", "--replace", "--remove-on-exit"])
            try:
                assert process.wait(30) == 0
                eventually(lambda: client.status()["pid"] == successor.pid, "somebody else serves", 30)
                order("ip xfrm state", "0x00001001")
                order(f"ip xfrm state add {STATE.replace('0x1001', '0x1002')}", "")
                assert {state.spi for state in client.states()} == {0x1001, 0x1002}
                heard = ""
                while "0x00001002" not in heard:
                    line = monitor.stdout.readline()
                    assert line, heard
                    heard += line
            finally:
                monitor.terminate()
                shell.stdin.close()
                assert shell.wait(10) == 0
                monitor.wait(10)
                successor.terminate()
                assert successor.wait(10) == 0
