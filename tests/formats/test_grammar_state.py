"""`state` commands beyond what iproute2 6.1 can judge (test_iproute2), and what is deliberately ours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.each import each
from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.requests import (
    AddState,
    AllocSpi,
    CountStates,
    DeleteState,
    DeleteStates,
    FlushStates,
    GetState,
    ListStates,
    StateFilter,
)
from xfrmi.formats.tokens import GrammarError
from xfrmi.wire import netlink
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, Mode, SaDir
from xfrmi.wire.xfrm_sa_msg import decode_state, encode_state
from xfrmi.wire.xfrm_types import Algorithm, Mark, ReplayEsn, Selector, StateInfo

ID = "src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000"
KEY = "000102030405060708090a0b0c0d0e0f10111213"
GCM = f"aead 'rfc4106(gcm(aes))' 0x{KEY} 128"
DEVICES = {"lo": 1, "eth0": 2}


def request(line: str, **options: Any) -> Any:
    return parse(split_line(f"state {line}"), ifindex_of=lambda name: DEVICES.get(name, 0), **options)


def added(options: str) -> StateInfo:
    made = request(f"add {ID} {GCM} {options}")
    assert isinstance(made, AddState)
    return made.info


def refusal(line: str, **options: Any) -> GrammarError:
    with pytest.raises(GrammarError) as refused:
        request(line, **options)
    return refused.value


def test_the_state_of_the_house() -> None:
    assert request(f"add {ID} {GCM} mode tunnel reqid 7 if_id 42 replay-window 128") == AddState(
        StateInfo(
            src="192.0.2.1", dst="192.0.2.2", spi=0x1000, mode=Mode.TUNNEL, reqid=7, if_id=42,
            aead=Algorithm("rfc4106(gcm(aes))", bytes.fromhex(KEY), 128),
            replay_esn=ReplayEsn(bitmap=(0, 0, 0, 0), replay_window=128),
        )
    )  # fmt: skip


@each(
    ("options", "field", "value"),
    [
        ("dir in", "dir", SaDir.IN),
        ("dir out", "dir", SaDir.OUT),
        ("pcpu-num 3", "pcpu", 3),
        ("pcpu 0", "pcpu", 0),
        ("mode iptfs", "mode", Mode.IPTFS),
        ("nat-keepalive-interval 20", "nat_keepalive_interval", 20),
        ("mtimer-thresh 5", "mtimer_thresh", 5),
        ("set-mark 5", "set_mark", Mark(5, 0xFFFFFFFF)),
        ("set-mark 5 mask 0xf", "set_mark", Mark(5, 0xF)),
        ("offload crypto dev eth0 dir out", "offload", (2, 0)),
        ("offload packet dev eth0 dir out", "offload", (2, 4)),
        ("offload packet dev eth0 dir in", "offload", (2, 6)),
        ("offload dir in", "offload", (0, 2)),
    ],
)
def test_words_that_iproute2_6_1_does_not_know(options: str, field: str, value: object) -> None:
    assert getattr(added(options), field) == value


def test_a_selector_does_not_bind_the_family_of_the_ends() -> None:
    info = request(f"add sel src 2001:db8::/32 dst ::/0 mode tunnel {ID} {GCM}").info
    assert (info.family, info.selector.family) == (AF_INET, AF_INET6)


def test_the_selector_of_a_state_without_one() -> None:
    """2.5: the any-selector of its own family, unless af-unspec leaves the family open (3.5)."""
    assert added("").selector == Selector.parse("0.0.0.0/0", "0.0.0.0/0")
    assert added("flag af-unspec").selector == Selector()
    assert added("sel proto tcp dport 80").selector == Selector.parse("0.0.0.0/0", proto=6, dport=80)


def test_keys() -> None:
    def key(text: str) -> bytes:
        made = request(f"add {ID} enc x {text}")
        assert made.info.crypt is not None
        return bytes(made.info.crypt.key)

    assert key("0x123") == b"\x01\x23"
    assert key("secret") == b"secret"
    assert key("''") == b""
    assert key("0x" + "ab" * 512) == b"\xab" * 512


@pytest.mark.parametrize("key", [f"0x{KEY}zz", "0x00 11", "0x" + "ab" * 513, "k" * 513, f"0x{KEY}\u0661"])
def test_a_wrong_key_is_refused_without_showing_it(key: str) -> None:
    words = ["state", "add", *ID.split(), "enc", "cbc(aes)", key]
    with pytest.raises(GrammarError, match="ALGO-KEYMAT value") as refused:
        parse(words)
    error = refused.value
    assert error.position == len(words) - 1
    assert key not in f"{error!r}{error}{error.hint}{error.text}{error.args}"
    assert error.__context__ is None or error.__suppress_context__


@pytest.mark.parametrize("line", ["add {}", "add " + ID + " {}", "add " + ID + " " + GCM + " {}", "list {}", "{}"])
def test_a_key_out_of_place_is_not_shown(line: str) -> None:
    error = refusal(line.format(f"0x{KEY}"))
    assert KEY not in f"{error!r}{error.hint}"
    assert "0x..." in error.text + error.hint


def test_an_error_names_the_word_its_place_and_the_way_out() -> None:
    error = refusal(f"add {ID} {GCM} replay-windw 32")
    assert error.text == 'Error: argument "replay-windw" is wrong: unknown'
    assert (error.exit_code, error.position) == (255, 14)
    assert error.hint == 'Word 15: did you mean "replay-window"?'

    error = refusal(f"add {ID} {GCM} mode tunel")
    assert error.hint == "Word 16: one of transport, tunnel, ro, in_trigger, beet, iptfs goes here."

    error = refusal(f"add {ID} {GCM} mode")
    assert error.hint == 'transport or tunnel or ro or in_trigger or beet or iptfs goes after "mode".'
    assert error.position == 15


def test_abbreviated_verbs() -> None:
    assert isinstance(request(f"a {ID} {GCM}"), AddState)
    assert request(f"u {ID} {GCM}").update
    assert isinstance(request(f"al {ID.removesuffix(' spi 0x1000')}"), AllocSpi)
    assert isinstance(request(f"d {ID}"), DeleteState)
    assert isinstance(request(f"g {ID}"), GetState)
    for line in ("deletea", "dela", "delall"):
        assert isinstance(request(line), DeleteStates)
    for line in ("", "l", "s", "show", "lst"):
        assert isinstance(request(line), ListStates)
    assert request("f") == FlushStates()
    assert request("c") == CountStates()


@pytest.mark.parametrize("line", ["get", "delete", "get mark 5"])
def test_a_state_must_be_named(line: str) -> None:
    """ip asks the kernel, whose answer is Invalid argument."""
    error = refusal(line)
    assert (error.text, error.exit_code) == ("Not enough information: ID is required", 1)


def test_help_and_unknown_verbs() -> None:
    error = refusal("help")
    assert error.exit_code == 255
    assert error.text.startswith("Usage: xfrmi state { add | update } ID ALGO")
    assert refusal("updaet").hint == 'Word 2: did you mean "update"?'


def test_filter() -> None:
    made = request("list nokeys src 192.0.2.0/24 proto esp mode tunnel reqid 7 flag noecn esn")
    assert made.nokeys
    assert made.filter == StateFilter(
        src=pack_address("192.0.2.0"), src_bits=24, proto=50, mode=Mode.TUNNEL, reqid=7, flags=0x81
    )


@each(
    ("line", "found"),
    [
        ("", True),
        ("src 192.0.2.1", True),
        ("src 192.0.2.9", False),
        ("src 192.0.2.9/28", True),
        ("dst 192.0.2.0/0", True),
        ("src 2001:db8::/32", False),
        ("src ::/1", False),
        ("proto esp spi 0x1000", True),
        ("spi 0", False),
        ("proto ah", False),
        ("mode transport", False),
        ("reqid 7", True),
        ("reqid 0", False),
        ("flag noecn icmp", True),
        ("flag esn", False),
    ],
)
def test_what_a_filter_finds(line: str, found: bool) -> None:
    info = added("mode tunnel reqid 7 flag icmp")
    assert request(f"list {line}").filter.matches(info) is found


def test_a_filter_by_family() -> None:
    info = added("")
    assert request("list", family=AF_INET).filter.matches(info)
    assert not request("list", family=AF_INET6).filter.matches(info)


def test_a_name_that_is_no_text() -> None:
    """Bytes that are no UTF-8 come from a command line as surrogates: the daemon gets a name that it does not know."""
    info = request(f"add {ID} aead 'rfc\udcd8' 0x{KEY} 128").info
    (message,) = netlink.split(netlink.message(XfrmMsg.NEWSA, 0, 0, 0, encode_state(info)))
    assert decode_state(message).aead.name == "rfc?"


@pytest.mark.parametrize("line", ["state add ctx {}", "policy add dir out ctx {}"])
def test_a_security_context_has_an_end(line: str) -> None:
    parse(f"state add {ID} {GCM} ctx {'x' * 255}".replace("'", "").split())
    with pytest.raises(GrammarError, match="ctx value is invalid") as refused:
        parse(line.format("x" * 256).split())
    assert "at most 255 bytes" in refused.value.hint
