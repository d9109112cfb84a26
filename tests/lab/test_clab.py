"""What `lab export --clab` writes: containerlab's words and no others, and scripts that do set the nodes up.

containerlab itself is not here. What it takes is in tests/lab/test_clab_schema.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.lessons import LESSONS, ROOT
from tests.netns import in_netns, need_tun
from xfrmi.lab.clab import export, netem
from xfrmi.lab.faults import Faults
from xfrmi.lab.labfile import read_lab
from xfrmi.lab.plan import LabError, Plan
from xfrmi.lab.topology import Lab
from xfrmi.lab.traffic import ping

REFUSED = {"05-road-warrior": "/proc/sys", "06-namespace-split": "share a device", "10-mtu-black-hole": "netem"}


@pytest.mark.parametrize("folder", LESSONS, ids=lambda folder: folder.name)
def test_every_example_is_exported_or_refused(folder: Path, tmp_path: Path) -> None:
    plan, target = read_lab(folder), tmp_path / "out"
    if plan.name in REFUSED:
        with pytest.raises(LabError, match=REFUSED[plan.name]):
            export(plan, target)
        assert not target.exists()
        return
    export(plan, target)
    text = (target / f"{plan.name}.clab.yml").read_text()
    topology = yaml.safe_load(text)
    assert set(topology) == {"name", "topology"}
    assert set(topology["topology"]) == {"nodes", "links"}
    assert list(topology["topology"]["nodes"]) == list(plan.nodes)
    for name, node in topology["topology"]["nodes"].items():
        assert node["kind"] == "linux" and node["privileged"] is False and node["network-mode"] == "none"
        assert node["cap-add"] == ["NET_ADMIN", "NET_RAW"] and node["devices"] == ["/dev/net/tun"]
        assert ("sysctls" in node) == (plan.nodes[name].kind == "router")
        for bind in node["binds"]:
            assert (target / bind.partition(":")[0]).exists(), bind
        assert subprocess.run(["sh", "-n", target / name / "setup.sh"], check=False).returncode == 0
    ends = [[":".join(link.left), ":".join(link.right)] for link in plan.links]
    assert [link["endpoints"] for link in topology["topology"]["links"]] == ends
    keys = list(target.glob("*/node.xfrm"))
    assert keys and all(path.stat().st_mode & 0o077 == 0 for path in keys)


def test_it_does_not_write_over_anything(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(LabError, match="a new or empty folder was expected"):
        export(read_lab(LESSONS[0]), tmp_path)


def test_the_words_of_netem() -> None:
    faults = Faults(delay=0.02, jitter=0.001, loss=0.01, duplicate=0.5, corrupt=0.25, rate=1e7)
    assert netem(faults) == "delay 20ms 1ms loss 1% duplicate 50% corrupt 25% rate 10000000bit"
    assert netem(Faults(reorder=0.1)) == "delay 1ms reorder 10%", "nothing overtakes without a delay"


@in_netns
def the_scripts_set_the_nodes_up(folder: str) -> None:
    need_tun()
    plan = read_lab(ROOT / "examples/02-three-interfaces")
    export(plan, folder)
    with Lab() as lab:
        nodes = {name: lab.node(name) for name in plan.nodes}
        for link in plan.links:
            lab.link(nodes[link.left[0]], link.left[1], (), nodes[link.right[0]], link.right[1], ())
        nodes["internet"].forward()  # containerlab's part, by sysctls
        for name, node in nodes.items():
            script = (Path(folder) / name / "setup.sh").read_text()
            script = script.replace("/etc/xfrmi/node.xfrm", f"{folder}/{name}/node.xfrm")
            script = script.replace("/var/log/", f"{node.folder}/").replace("xfrmi -", f"{sys.executable} -m xfrmi -")
            script = script.replace("xfrmi daemon", f"{sys.executable} -m xfrmi daemon")
            script = script.replace("xfrmi stat", f"{sys.executable} -m xfrmi stat")
            done = node.run(["sh", "-c", script], env=node.env)
            assert done.returncode == 0, f"{name}: {done.stderr}"
        try:
            for inside in ("10.1.0.2", "10.2.0.2", "10.3.0.2"):
                assert len(ping(nodes["moon"], inside, 2)) == 2
        finally:
            for node in nodes.values():
                for lock in node.folder.glob("*/lock"):
                    subprocess.run(["kill", lock.read_text().strip()], check=False)


def test_the_scripts_set_the_nodes_up(tmp_path: Path) -> None:
    if shutil.which("ip") is None:
        pytest.skip("NO ip COMMAND HERE, THE SCRIPTS FOR containerlab ARE NOT TESTED")
    the_scripts_set_the_nodes_up(str(tmp_path / "out"))


def test_from_python() -> None:
    plan = Plan("small")
    plan.node("a", address={"eth1": ["192.0.2.1/30"]})
    plan.node("b", kind="router")
    plan.link("a:eth1", "b:eth1", delay="1ms")
    from xfrmi.lab.clab import topology

    assert yaml.safe_load(topology(plan))["topology"]["links"] == [{"endpoints": ["a:eth1", "b:eth1"]}]
