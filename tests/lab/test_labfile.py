"""Lab files: what they may say, and that each mistake is told with its file, its line, and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from xfrmi.lab.labfile import read_lab
from xfrmi.lab.plan import LabError, Plan
from xfrmi.lab.toml_places import Places

GOOD = """\
name = "trial"
about = "for tests"

xfrm = '''
state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1 mode tunnel if_id 42 \\
      aead 'rfc4106(gcm(aes))' 0x0123456789abcdef0123456789abcdef01234567 128
'''

[node.moon]
address.eth0 = "192.0.2.1/30"
address.ipsec0 = ["10.0.0.1/30", "fd00::1/64"]
route = ["default via 192.0.2.2",
         "10.9.0.0/16 dev ipsec0 metric 5"]
netdev = '''
[NetDev]
Name=ipsec0
Kind=xfrm
[Xfrm]
InterfaceId=0x2a
'''
xfrm = '''
policy add src ::/0 dst ::/0 dir out if_id 42 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel
'''
run = '''
echo 1
'''

[node.sun]
kind = "router"
address.eth0 = "192.0.2.2/30"

[[link]]
endpoints = ["moon:eth0", "sun:eth0"]
delay = "20ms"
mtu = 1400
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "lab.toml"
    path.write_text(text)
    return path


def line_of(text: str, what: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if what in line)


def test_what_a_lab_file_says(tmp_path: Path) -> None:
    plan = read_lab(write(tmp_path, GOOD))
    assert (plan.name, plan.about, list(plan.nodes)) == ("trial", "for tests", ["moon", "sun"])
    moon, sun = plan.nodes.values()
    assert [word.word for word in moon.addresses["ipsec0"]] == ["10.0.0.1/30", "fd00::1/64"]
    assert [(route.destination, route.via, route.device, route.metric) for route, _ in moon.routes] == [
        ("0.0.0.0/0", "192.0.2.2", None, None),
        ("10.9.0.0/16", None, "ipsec0", 5),
    ]
    ((netdev, place),) = moon.interfaces
    assert (netdev.name, netdev.if_id, netdev.independent) == ("ipsec0", 42, False)
    assert place.line == line_of(GOOD, "[NetDev]")
    assert moon.has_xfrm and len(moon.xfrm) == 2, "its own lines and everybody's"
    assert not sun.has_xfrm and sun.kind == "router"
    (link,) = plan.links
    assert (link.left, link.right, link.mtu, link.faults.delay) == (("moon", "eth0"), ("sun", "eth0"), 1400, 0.02)


def test_a_folder_and_files_beside(tmp_path: Path) -> None:
    """A string of one line names a file; a lab without a name has its folder's."""
    folder = tmp_path / "some-lab"
    folder.mkdir()
    (folder / "a.netdev").write_text("[NetDev]\nName=a\nKind=xfrm\n[Xfrm]\nInterfaceId=1\nIndependent=yes\n")
    (folder / "a.xfrm").write_text("# nothing\n\nlink add b type xfrm if_id 7\n")
    write(folder, '[node.moon]\nnetdev = "a.netdev"\nxfrm = "a.xfrm"\naddress.b = "10.0.0.1/8"\n')
    plan = read_lab(folder)
    assert plan.name == "some-lab"
    assert [netdev.name for netdev, _ in plan.nodes["moon"].interfaces] == ["a"]


def test_a_line_is_not_so_long_that_reading_it_takes_forever(tmp_path: Path) -> None:
    """Of a megabyte of dots tomllib makes minutes (found by make fuzz)."""
    with pytest.raises(LabError, match=r"lab\.toml:2: a line has at most 16,384 characters, and this has 1,500,006"):
        read_lab(write(tmp_path, f"[node.a]\n[node{'.ab' * 500_000}]\n"))


@pytest.mark.parametrize(
    ("old", "new", "at", "said"),
    [
        ('name = "trial"', 'name = "Trial!"', "Trial!", '"Trial!" cannot name a lab'),
        ("about =", "abuot =", "abuot", 'a lab file has no "abuot"; did you mean "about"?'),
        ("[node.sun]", "[node.sun", "[node.sun", "this is no TOML"),
        ("mode tunnel if_id 42 \\", "mdoe tunnel if_id 42 \\", "mdoe", 'did you mean "mode"?'),
        ('kind = "router"', 'kind = "roter"', "roter", 'did you mean "router"?'),
        ('kind = "router"', "kind = 3", "kind = 3", '"host" or "router" or "nat" was expected'),
        ('"192.0.2.1/30"', '"192.0.2.1"', '"192.0.2.1"', "an address with the length of its prefix was expected"),
        ('"fd00::1/64"]', '"fd00::g/64"]', "fd00::g", "an address with the length of its prefix was expected"),
        ("address.ipsec0", "address.ipsec1", "ipsec1", 'moon has no device "ipsec1"; did you mean "ipsec0"?'),
        ("10.9.0.0/16 dev", "10.9.0.1/16 dev", "10.9.0.1/16", "a prefix whose host bits are 0 was expected"),
        ("dev ipsec0 metric 5", "dev ipsec7", "ipsec7", 'moon has no device "ipsec7"'),
        ("dev ipsec0 metric 5", "weight 3 dev ipsec0", "weight", '"weight" is not known here'),
        ("dev ipsec0 metric 5", "", '"10.9.0.0/16 "', "the way was expected"),
        ("Kind=xfrm", "Kind=vti", "Kind=vti", "only interfaces of Kind=xfrm"),
        ("InterfaceId=0x2a", "InterfaceId=0", "InterfaceId", "a number from 1 to 0xffffffff was expected"),
        ("InterfaceId=0x2a", "InterfaceID=42", "InterfaceID", 'did you mean "InterfaceId"?'),
        ("InterfaceId=0x2a", "Independent=yes", "[NetDev]", "lacks a section [Xfrm] with InterfaceId="),
        ("Name=ipsec0", "Name=eth0", "[NetDev]", 'moon has a device "eth0" already'),
        ("dir out if_id", "dir sideways if_id", "sideways", "sideways"),
        ('"moon:eth0", "sun:eth0"', '"moon:eth0", "mars:eth0"', "endpoints", 'there is no node "mars"'),
        ('"moon:eth0", "sun:eth0"', '"moon:eth0", "moon:eth0"', "endpoints", "is the end of a link already"),
        ('"moon:eth0", "sun:eth0"', '"moon:eth0"', "endpoints", "two of them"),
        ('"moon:eth0", "sun:eth0"', '"moon", "sun:eth0"', "endpoints", "a node and its device were expected"),
        ('delay = "20ms"', 'delay = "20"', "delay", 'a time such as "20ms"'),
        ('delay = "20ms"', 'dely = "20ms"', "dely", 'did you mean "delay"?'),
        ("mtu = 1400", 'mtu = "1400"', "mtu", "a number of bytes"),
        ("[[link]]", "[link]", "[link]", "[[link]], with two brackets"),
        ("run = '''\necho 1\n'''", "run = 3", "run = 3", "a string in quotes was expected"),
        ("xfrm = '''\npolicy", "xfrm = 'no.xfrm'\nstart = '''\npolicy", "no.xfrm", "a file beside"),
        ("[node.sun]", "moved.ipsec0 = 'mars'\n[node.sun]", "moved", "another node was expected"),
        ('kind = "router"', 'kind = "nat"', "[node.sun]", 'a NAT takes outside = "DEVICE"'),
        ('kind = "router"', 'kind = "router"\noutside = "eth0"', "[node.sun]", "belongs to nodes of kind"),
        ("proto esp mode tunnel\n", "proto esp mode tunnel \\\n", "policy add", "Missing continuation line"),
        ("echo 1\n", "echo 1 \\\n", "echo 1", "a backslash at the end, and no next line"),
        ("[node.sun]", "[node.Sun]", "[node.Sun]", '"Sun" cannot name a node'),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(tmp_path: Path, old: str, new: str, at: str, said: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    path = write(tmp_path, text)
    with pytest.raises(LabError) as caught:
        read_lab(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line_of(text, at)}: "), message
    assert said in message
    assert "01234567" not in message, "no keys"


def test_in_a_file_beside_the_line_is_that_file_s(tmp_path: Path) -> None:
    (tmp_path / "m.xfrm").write_text("\n\npolicy add dir up\n")
    path = write(tmp_path, '[node.moon]\nxfrm = "m.xfrm"\n')
    with pytest.raises(LabError, match=r"m\.xfrm:3: "):
        read_lab(path)


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff\xfe", "UTF-8 was expected"), (b"", "a lab has at least one node"), (None, "No such")]
)
def test_no_lab_file_at_all(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "lab.toml").write_bytes(content)
    with pytest.raises(LabError, match=said):
        read_lab(tmp_path)


def test_the_same_from_python() -> None:
    plan = Plan("trial")
    plan.node("moon", address={"eth0": ["192.0.2.1/30"]}, route=["default via 192.0.2.2"])
    plan.node("sun", kind="router")
    link = plan.link("moon:eth0", "sun:eth0", delay="20ms", loss="1%")
    assert (link.faults.delay, link.faults.loss) == (0.02, 0.01)
    with pytest.raises(LabError, match="an address with"):
        plan.node("mars", address={"eth0": ["192.0.2.9"]})
    with pytest.raises(LabError, match="such as"):
        plan.link("moon:eth1", "sun:eth1", delay=20)


def test_entries_of_a_long_list_are_found_in_order(tmp_path: Path) -> None:
    """Each in its line, also where one stands in several; what is written with escapes has the line of its key."""
    routes = [f"10.{number % 200}.0.0/16 dev eth0" for number in range(400)]
    lines = ",\n".join(f'"{route}"' for route in routes)
    path = write(tmp_path, f'[node.a]\nroute = [\n{lines},\n"10.0.0.\\u0030/8 dev eth0"]\n')
    with pytest.raises(LabError):
        read_lab(path)
    places = Places(path.read_text())
    found = places.lines([*routes, "10.0.0.0/8 dev eth0"], "node", "a", "route")
    assert found == [*range(3, 403), 2]
