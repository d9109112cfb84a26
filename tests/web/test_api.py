"""What the page may ask for, asked without a page: every action moves the counter that it should, on a real lab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.lab import LAB, Page, Web, web_beside
from xfrmi.lab.traffic import PATTERN

SEALED, OPEN = "10.8.0.2", "10.9.0.2"
"""sun, through AES-GCM and through a cipher without authentication (examples/09-tampering)."""
TURNED = 70
"""A byte of the payload."""


@pytest.fixture(scope="module", params=[False, True], ids=["as it is", "rootless"])
def web(request: pytest.FixtureRequest) -> Iterator[Web]:
    with web_beside(LAB, request.param) as web:
        yield web


@pytest.fixture
def page(web: Web) -> Iterator[Page]:
    page = Page(web)
    yield page
    page.close()


def pinged(web: Web, page: Page, address: str) -> dict[str, Any]:
    """A packet that moon has sent there and sun has opened. The pinging has ended."""
    before = max(page.packets, default=0)
    status, ping = web.ask("/api/pings", {"node": "moon", "address": address, "interval": 0.05})
    assert status == 200

    def through() -> dict[str, Any] | None:
        for number, packet in page.packets.items():
            by_moon = packet["sealed"] and packet["sealed"]["node"] == "moon"
            if number > before and by_moon and len(packet["links"]) == 2 and packet["opened"]:
                return packet
        return None

    page.until(through)
    assert web.ask(f"/api/pings/{ping['id']}", method="DELETE")[0] == 200
    page.until(lambda: not page.messages["pings"]["pings"])
    found = through()
    assert found is not None
    return found


def test_the_lab_is_told(page: Page) -> None:
    lab = page.messages["lab"]["lab"]
    assert [node["name"] for node in lab["nodes"]] == ["moon", "internet", "sun"]
    assert [(link["left"], link["right"]) for link in lab["links"]] == [
        (["moon", "eth0"], ["internet", "eth0"]), (["internet", "eth1"], ["sun", "eth0"]),
    ]  # fmt: skip
    moon = {device["name"]: device for device in lab["nodes"][0]["devices"]}
    assert moon["sealed0"] == {"name": "sealed0", "addresses": ["10.8.0.1/30"], "xfrm": {"node": "moon", "if_id": 8}}
    assert moon["eth0"]["xfrm"] is None
    assert [[(end["node"], end["interface"]) for end in tunnel["ends"]] for tunnel in lab["tunnels"]] == [
        [("moon", "sealed0"), ("sun", "sealed0")], [("moon", "open0"), ("sun", "open0")],
    ]  # fmt: skip
    directions = {state["spi"]: state["direction"] for state in page.messages["counters"]["nodes"]["moon"]["states"]}
    assert (directions[0x801], directions[0x802]) == ("out", "in")


def test_both_sides_of_a_packet(web: Web, page: Page) -> None:
    packet = pinged(web, page, SEALED)
    assert packet["inner"] == "echo request 10.8.0.1 → 10.8.0.2"
    assert packet["outer"] == "192.0.2.1 → 198.51.100.1"
    assert packet["links"] == [{"link": 0, "forward": True}, {"link": 1, "forward": True}]
    assert packet["opened"] == [{"node": "sun", "interface": "sealed0", "counter": "", "reason": ""}]
    status, found = web.ask(f"/api/packets/{packet['id']}")
    assert status == 200
    wire, plain = bytes.fromhex(found["wire"]["bytes"]), bytes.fromhex(found["wire"]["plain"])
    assert PATTERN[:40] in plain and PATTERN[:40] not in wire
    at = found["wire"]["plain_at"]
    assert plain.startswith(bytes.fromhex(found["inner"]["bytes"])) and len(plain) == len(wire) - at - 16
    fields = found["wire"]["fields"]
    assert [field["start"] for field in fields[1:]] == [field["end"] for field in fields[:-1]]
    assert fields[-1]["end"] == len(wire)
    (target,) = (field for field in fields if field["name"] == "inner destination address")
    assert (target["text"], plain[target["start"] - at : target["end"] - at]) == (SEALED, bytes([10, 8, 0, 2]))
    assert [(side["node"], side["direction"]) for side in found["sides"]] == [("moon", "out"), ("sun", "in")]
    assert all(side["keys"] == "keys are not shown" for side in found["sides"])


def test_no_key_is_told(web: Web, page: Page) -> None:
    told = json.dumps(web.ask(f"/api/packets/{pinged(web, page, SEALED)['id']}")[1]) + json.dumps(page.messages)
    assert "0x801" in told
    for key in ("29e0a505df6e08f63a35672e50424a36", "73ed977e", "571c87f8f732e4852d2f846eae20e71f"):
        assert key not in told.lower()


def test_a_turned_bit(web: Web, page: Page) -> None:
    packet = pinged(web, page, SEALED)
    status, guess = web.ask(f"/api/packets/{packet['id']}/flip?offset={TURNED}&mask=128")
    assert status == 200
    assert guess["counters"]["XfrmInStateProtoError"] == 1 and not guess["delivered"]
    before = page.counter("sun", "XfrmInStateProtoError")
    body = {"offset": TURNED, "mask": 128, "number": "unused"}
    status, done = web.ask(f"/api/packets/{packet['id']}/send", body)
    assert status == 200
    assert done["answer"] == {
        "node": "sun", "interface": "sealed0", "counter": "XfrmInStateProtoError", "reason": "wrong ICV",
        "delivered": False,
    }  # fmt: skip
    page.until(lambda: page.counter("sun", "XfrmInStateProtoError") == before + 1)
    page.until(lambda: done["id"] in page.packets and page.packets[done["id"]]["opened"])
    assert page.packets[done["id"]]["origin"].startswith("forged: number")


def test_a_turned_bit_under_its_own_number(web: Web, page: Page) -> None:
    packet = pinged(web, page, SEALED)
    status, done = web.ask(f"/api/packets/{packet['id']}/send", {"offset": TURNED})
    assert (status, done["answer"]["counter"]) == (200, "XfrmInStateSeqError")


def test_a_turned_bit_that_nobody_notices(web: Web, page: Page) -> None:
    packet = pinged(web, page, OPEN)
    status, done = web.ask(f"/api/packets/{packet['id']}/send", {"offset": TURNED, "number": "unused"})
    assert status == 200 and done["answer"]["delivered"]


def test_a_replay(web: Web, page: Page) -> None:
    packet = pinged(web, page, SEALED)
    before = page.counter("sun", "XfrmInStateSeqError")
    status, done = web.ask(f"/api/packets/{packet['id']}/send", {})
    assert status == 200
    assert (done["sent"], done["answer"]["counter"]) == ("unchanged", "XfrmInStateSeqError")
    page.until(lambda: page.counter("sun", "XfrmInStateSeqError") == before + 1)


def test_new_keys_and_nothing_lost(web: Web, page: Page) -> None:
    old = pinged(web, page, SEALED)
    _, ping = web.ask("/api/pings", {"node": "moon", "address": SEALED, "interval": 0.02})
    ends = [{"node": "moon", "if_id": 8}, {"node": "sun", "if_id": 8}]
    status, done = web.ask("/api/rekey", {"ends": ends})
    assert status == 200
    assert sorted((one["from"], one["to"]) for one in done["states"]) == [("moon", "sun"), ("sun", "moon")]
    new = {one["new"] for one in done["states"]}

    def spis(node: str) -> set[int]:
        return {state["spi"] for state in page.messages["counters"]["nodes"][node]["states"] if state["if_id"] == 8}

    page.until(lambda: spis("moon") == new == spis("sun"))
    page.until(lambda: any(packet["esp"] and packet["esp"]["spi"] in new for packet in page.packets.values()))
    assert web.ask(f"/api/pings/{ping['id']}", method="DELETE")[0] == 200
    for node in ("moon", "sun"):
        assert page.counter(node, "XfrmInNoStates") == 0
        assert not any(state["unauthentic"] for state in page.messages["counters"]["nodes"][node]["states"]
                       if state["spi"] in new)  # fmt: skip
    status, found = web.ask(f"/api/packets/{old['id']}")  # sealed with keys that are gone, and explained all the same
    assert status == 200 and found["sides"][1]["verdict"] == "delivered through sealed0"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/packets/999999", None, 404, "not kept any more"),
        ("/api/packets/x", None, 404, "Not Found"),
        ("/api/pings", {"node": "moon", "address": "nowhere", "interval": 1}, 400, "'nowhere' is no address"),
        ("/api/pings", {"node": "mars", "address": SEALED, "interval": 1}, 400, 'no node "mars"'),
        ("/api/pings", {"node": "moon", "address": SEALED, "interval": 0}, 400, "0.01 to 60 seconds"),
        ("/api/pings", {"node": "moon", "address": SEALED, "interval": "soon"}, 400, '"interval" is a number'),
        ("/api/pings", {"node": "moon", "address": SEALED, "interval": 1 << 1025}, 400, "too large"),
        ("/api/pings", {"node": 1}, 400, '"node" is missing'),
        ("/api/pings", b"{", 400, "no JSON"),
        ("/api/pings", b"[" * 5000, 400, "no JSON"),
        ("/api/pings", b"[]", 400, "no JSON object"),
        ("/api/pings", b" " * 20000, 413, "at most"),
        ("/api/rekey", {"ends": 3}, 400, '"ends" are two'),
        ("/api/rekey", {"ends": [{"node": "mars", "if_id": 8}, {"node": "sun", "if_id": 8}]}, 400, 'no node "mars"'),
        ("/api/rekey", {"ends": [{"node": "moon", "if_id": 77}, {"node": "sun", "if_id": 8}]}, 409, "share no state"),
        ("/api/rekey", {"ends": [{"node": "internet", "if_id": 8}, {"node": "sun", "if_id": 8}]}, 409, "no daemon"),
        ("/api/login", {"token": "guessed"}, 403, "has been used, or is none"),
        ("/../pyproject.toml", None, 404, "Not Found"),
    ],
)
def test_what_is_refused(web: Web, path: str, body: object, status: int, said: str) -> None:
    got, answer = web.ask(path, body)
    assert (got, said in answer["error"]) == (status, True), answer
    if got == 409:
        assert (answer["errno"], answer["phrase"]) == ("ESRCH", "No such process")


def test_refused_turns(web: Web, page: Page) -> None:
    number = pinged(web, page, SEALED)["id"]
    for query in ("offset=140", "offset=-1", "offset=1&mask=0", "offset=1&mask=256", "", "offset=99999999999999999999"):
        status, answer = web.ask(f"/api/packets/{number}/flip?{query}")
        assert status == 400 and answer["error"]
    for body in ({"offset": 140}, {"offset": 1, "mask": 0}, {"offset": "x"}, {"number": "mine"}, {"offset": True}):
        status, answer = web.ask(f"/api/packets/{number}/send", body)
        assert status == 400 and answer["error"]
