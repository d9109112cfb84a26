"""Lab files: a checked plan, or LabError. They stand in a folder of examples, with what may be named.

    text
"""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.registry import One
from xfrmi.lab.labfile import parse_lab
from xfrmi.lab.plan import LabError

MAX_LEN = 900
FILE = Path(__file__).parents[3] / "examples" / "01-two-hosts" / "lab.toml"


def seeds() -> list[bytes]:
    small = b"""[node.a]\naddress.eth0 = "192.0.2.1/30"\nnetdev = "ipsec0.netdev"\n[node.b]\nkind = "router"
[[link]]\nendpoints = ["a:eth0", "b:eth0"]\ndelay = "10ms"\nloss = "1%"\nmtu = 1400\n"""
    programs = b"""name = "x"\n[node.a]\noutside = "eth1"\nroute = ["default via 192.0.2.2"]\nrun = ["ping"]
[node.a.moved]\nipsec0 = "b"\n[node.b]\nxfrm = '''\nstate flush\n'''\n"""
    return [small, programs]


def make() -> One:
    return one


def one(data: bytes) -> None:
    try:
        plan = parse_lab(data, FILE)
    except LabError as error:
        assert str(error)
        return
    assert repr(plan)
