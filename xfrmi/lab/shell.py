"""A shell in a node, whose prompt says where it is."""

from __future__ import annotations

import os
import shutil

from xfrmi.lab.running import Running

BASHRC = """\
[ -r ~/.bashrc ] && . ~/.bashrc
PS1='{node}@{lab}:\\w\\$ '
"""


def shell_command(running: Running, node: str) -> list[str]:
    """The user's shell where it is bash, whose start-up file is in the lab's directory; else sh."""
    running.node(node)
    shell = os.environ.get("SHELL", "")
    bash = shell if os.path.basename(shell) == "bash" else shutil.which("bash")
    if not bash:
        os.environ["PS1"] = f"{node}@{running.name}$ "
        return ["sh"]
    path = running.folder / node / "bashrc"
    path.write_text(BASHRC.format(node=node, lab=running.name))
    return [bash, "--rcfile", str(path)]
