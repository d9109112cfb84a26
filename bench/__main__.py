"""`make bench`: see everything.py.

First of all it becomes able to make network namespaces: what everything.py imports starts threads, and a process with
threads gets no user namespace, in which an ordinary user could make them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from xfrmi.lab.preflight import Lacking, prepare

if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])  # programs are started as modules of this folder
    lack = ""
    try:
        prepare()
    except Lacking as lacking:
        lack = str(lacking)

    from bench.everything import main

    sys.exit(main(lack))
