"""Creating, changing and deleting interfaces: rules DEV-01 to DEV-16 (kernel-behaviour 1.1)."""

from __future__ import annotations

import errno

import pytest

from xfrmi.core import Engine
from xfrmi.core.interface import Interfaces
from xfrmi.errors import XfrmError


def refused(call: object, *args: object, **kwargs: object) -> XfrmError:
    with pytest.raises(XfrmError) as caught:
        call(*args, **kwargs)  # type: ignore[operator]
    return caught.value


@pytest.fixture
def table() -> Interfaces:
    table = Interfaces()
    table.add("xfrm0", 7, link=2)
    return table


def test_DEV_01_if_id_zero_is_refused(table: Interfaces) -> None:
    error = refused(table.add, "xfrm1", 0)
    assert (error.errno, error.extack) == (errno.EINVAL, "if_id must be non zero")
    assert len(table) == 1


@pytest.mark.parametrize("link", [0, 2, 3])
def test_DEV_02_the_if_id_alone_is_the_key(table: Interfaces, link: int) -> None:
    error = refused(table.add, "xfrm1", 7, link=link)
    assert error.errno == errno.EEXIST
    assert '"xfrm0"' in error.detail and "0x7" in error.detail


def test_DEV_03_external_takes_neither_link_nor_if_id(table: Interfaces) -> None:
    for options in ({"if_id": 5}, {"if_id": 0, "link": 2}):
        error = refused(table.add, "xfrm1", external=True, **options)
        assert (error.errno, error.extack) == (errno.EINVAL, "link and if_id must be zero")


def test_DEV_04_one_external_device(table: Interfaces) -> None:
    table.add("any0", 0, external=True)
    assert refused(table.add, "any1", 0, external=True).errno == errno.EEXIST


def test_DEV_05_dev_is_optional(table: Interfaces) -> None:
    assert table.add("xfrm1", 8).link == 0


def test_DEV_06_dev_need_not_exist(table: Interfaces) -> None:
    """Nobody looks: the number is kept and shown, now and if the device is there one day."""
    assert table.add("xfrm1", 8, link=4711).link == 4711
    table.change(table["xfrm1"], 9, link=4711)
    assert table["xfrm1"].if_id == 9


def test_DEV_16_any_number_of_devices() -> None:
    """Each found by its own if_id; and a device is up by itself, whatever its `dev` does."""
    table = Interfaces()
    made = [table.add(f"xfrm{if_id}", if_id, link=2) for if_id in range(1, 1001)]
    assert all(table.for_state(interface.if_id) is interface for interface in made)
    assert len(table) == 1000


def test_a_name_is_taken_once(table: Interfaces) -> None:
    assert refused(table.add, "xfrm0", 8).errno == errno.EEXIST


@pytest.mark.parametrize(
    ("rule", "options", "number", "phrase"),
    [
        ("DEV-08", {"if_id": 0, "link": 2}, errno.EINVAL, "if_id must be non zero"),
        ("DEV-08 before DEV-11", {"if_id": 0, "external": True}, errno.EINVAL, "if_id must be non zero"),
        ("DEV-09 another link", {"if_id": 9, "link": 3}, errno.EINVAL, ""),
        ("DEV-09 an omitted one counts as none", {"if_id": 9}, errno.EINVAL, ""),
        ("DEV-09 also for the same if_id", {"if_id": 7}, errno.EINVAL, ""),
        ("DEV-10", {"if_id": 8, "link": 2}, errno.EEXIST, ""),
        ("DEV-10 before DEV-09", {"if_id": 8, "link": 3}, errno.EEXIST, ""),
        ("DEV-11", {"if_id": 9, "link": 2, "external": True}, errno.EINVAL, "collect_md can't be changed"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("DEV") else "",
)
def test_DEV_08_to_11_changes_that_are_refused(
    table: Interfaces, rule: str, options: dict[str, int], number: int, phrase: str
) -> None:
    table.add("xfrm1", 8, link=2)
    xfrm0 = table["xfrm0"]
    error = refused(table.change, xfrm0, **options)
    assert (error.errno, error.extack) == (number, phrase)
    assert (xfrm0.if_id, xfrm0.link, xfrm0.external) == (7, 2, False)
    assert table.for_state(7) is xfrm0


def test_DEV_13_an_external_device_stays_so(table: Interfaces) -> None:
    """Kernels before 6.16 let it have an if_id, and freed it twice in the end."""
    any0 = table.add("any0", 0, external=True)
    assert refused(table.change, any0, 9).extack == "collect_md can't be changed"
    assert (any0.if_id, any0.external) == (0, True)
    assert table.for_state(10) is any0, "for everybody who has no device"
    assert table.add("xfrm1", 9).if_id == 9
    table.remove(any0)
    assert table.for_state(10) is None


def test_DEV_12_a_new_if_id_is_found_at_once(table: Interfaces) -> None:
    xfrm0 = table["xfrm0"]
    table.change(xfrm0, 9, link=2)
    assert table.for_state(9) is xfrm0 and table.for_state(7) is None
    assert table.add("xfrm1", 7).if_id == 7


def test_RX_04_07_device_for_a_state(table: Interfaces) -> None:
    xfrm0 = table["xfrm0"]
    assert table.for_state(7) is xfrm0
    assert table.for_state(0) is None and table.for_state(8) is None
    external = table.add("any0", 0, external=True)
    assert table.for_state(8) is external and table.for_state(0) is external
    xfrm0.up = False
    assert table.for_state(7) is external
    external.up = False
    assert table.for_state(7) is None


def test_DEV_14_rename_and_delete() -> None:
    engine = Engine()
    engine.add_interface("xfrm0", 7)
    engine.interfaces.rename(engine.interfaces["xfrm0"], "ipsec0")
    assert refused(engine.delete_interface, "xfrm0").errno == errno.ENODEV
    engine.delete_interface("ipsec0")
    assert len(engine.interfaces) == 0
    assert engine.add_interface("xfrm0", 7).if_id == 7
