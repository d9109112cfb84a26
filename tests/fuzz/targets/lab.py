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
EVERYTHING = b"""name = "x"
about = "every key"
[node.a]
address.eth0 = "192.0.2.1/30"
netdev = "ipsec0.netdev"
xfrm = '''
link add ipsec1 type xfrm dev eth0 if_id 43
'''
moved.ipsec0 = "cell"
route = ["default via 192.0.2.2", "10.0.0.0/8 dev ipsec1"]
start = "sleep 9"
run = '''
ping -c 1 \\
192.0.2.2
'''
[node.cell]
address.ipsec0 = ["10.1.1.1/32", "fd00::1/64"]
[node.b]
kind = "nat"
outside = "eth1"
[node.c]
kind = "router"
[[link]]
endpoints = ["a:eth0", "b:eth0"]
delay = "10ms"
jitter = "1ms"
loss = "1%"
duplicate = "1%"
reorder = "2%"
corrupt = "0.1%"
rate = "1mbit"
mtu = 1400
changeable = true
[[link]]
endpoints = ["b:eth1", "c:eth0"]
"""


def seeds() -> list[bytes]:
    small = b"""[node.a]\naddress.eth0 = "192.0.2.1/30"\nnetdev = "ipsec0.netdev"\n[node.b]\nkind = "router"
[[link]]\nendpoints = ["a:eth0", "b:eth0"]\ndelay = "10ms"\nloss = "1%"\nmtu = 1400\n"""
    programs = b"""name = "x"\n[node.a]\noutside = "eth1"\nroute = ["default via 192.0.2.2"]\nrun = ["ping"]
[node.a.moved]\nipsec0 = "b"\n[node.b]\nxfrm = '''\nstate flush\n'''\n"""
    return [small, programs, EVERYTHING]


def make() -> One:
    return one


def one(data: bytes) -> None:
    try:
        plan = parse_lab(data, FILE)
    except LabError as error:
        assert str(error)
        return
    assert repr(plan)
