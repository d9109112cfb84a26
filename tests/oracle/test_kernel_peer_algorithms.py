"""A real kernel is asked for the same algorithms: what it refuses, with which words, and what it keeps (4, 7.4)."""

from __future__ import annotations

import re
from os import strerror

import pytest

from tests.oracle.kernelpeer.pair import Pair
from tests.stage import on_stage
from xfrmi.core.state import State
from xfrmi.errors import XfrmError
from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.print_state import print_state
from xfrmi.formats.requests import AddState

SPI = 0x1000
"""Of the first line; each has its own."""


def key(length: int) -> str:
    return f"0x{'a7' * length}" if length else '""'


GCM, CCM = "aead rfc4106(gcm(aes))", "aead rfc4309(ccm(aes))"
GMAC, CHACHA = "aead rfc4543(gcm(aes))", "aead rfc7539esp(chacha20,poly1305)"
CBC = f"enc cbc(aes) {key(16)}"
ESN = "replay-window 32 flag esn"

LINES = {
    "names": [
        f"enc aes {key(16)} auth sha1 {key(20)}",
        f"enc des3_ede {key(24)} auth md5 {key(16)}",
        f"enc cipher_null {key(0)} auth sha256 {key(32)}",
        f"enc cbc(aes) {key(32)} auth-trunc sha256 {key(32)} 128",
        f"{CBC} auth sha384 {key(48)}",
        f"{CBC} auth hmac(sha384) {key(48)}",
        f"{CBC} auth hmac(sha512) {key(64)}",
        f"{CBC} auth xcbc(aes) {key(16)}",
        f"{CBC} auth cmac(aes) {key(16)}",
        f"{CBC} auth digest_null {key(0)}",
        f"enc rfc3686(ctr(aes)) {key(20)} auth hmac(md5) {key(16)}",
        f"enc rfc3686 {key(20)}",
        f"enc ctr(aes) {key(20)}",
        f"enc nosuch {key(16)}",
        f"{CBC} auth nosuch {key(16)}",
        f"{CBC} auth-trunc nosuch {key(16)} 96",
        f"enc nosuch {key(16)} auth nosuch {key(16)}",
        f"aead nosuch {key(20)} 128",
        f"aead gcm(aes) {key(20)} 128",
        f"enc rfc4106(gcm(aes)) {key(20)}",
    ],
    "lengths of ICVs": [
        *(f"{CBC} auth-trunc hmac(sha1) {key(20)} {bits}" for bits in (0, 7, 8, 96, 100, 160, 161, 4096)),
        *(f"{CBC} auth-trunc digest_null {key(0)} {bits}" for bits in (0, 8)),
        *(f"{CBC} auth-trunc xcbc(aes) {key(16)} {bits}" for bits in (64, 128, 129)),
        *(f"{GCM} {key(20)} {bits}" for bits in (0, 32, 64, 96, 104, 128, 256)),
        *(f"{CCM} {key(19)} {bits}" for bits in (32, 64, 96, 128)),
        *(f"{GMAC} {key(20)} {bits}" for bits in (64, 96, 128)),
        *(f"{CHACHA} {key(36)} {bits}" for bits in (64, 128)),
    ],
    "keys of combined modes": [
        *(f"{GCM} {key(length)} 128" for length in (0, 3, 4, 16, 20, 24, 28, 32, 36, 40)),
        *(f"{CCM} {key(length)} 128" for length in (2, 3, 16, 19, 27, 35, 36)),
        *(f"{GMAC} {key(length)} 128" for length in (16, 20, 28, 36)),
        *(f"{CHACHA} {key(length)} 128" for length in (32, 35, 36, 37)),
    ],
    "keys of ciphers": [
        *(f"enc cbc(aes) {key(length)}" for length in (0, 15, 16, 17, 24, 32, 64)),
        *(f"enc rfc3686(ctr(aes)) {key(length)}" for length in (4, 16, 20, 28, 36)),
        *(f"enc cbc(des3_ede) {key(length)}" for length in (8, 16, 24)),
        *(f"enc cbc(des) {key(length)}" for length in (7, 8, 16)),
        *(f"enc ecb(cipher_null) {key(length)}" for length in (0, 1, 16)),
    ],
    "keys of what authenticates": [
        *(f"{CBC} auth hmac(sha256) {key(length)}" for length in (0, 1, 64, 65, 200)),
        *(f"{CBC} auth digest_null {key(length)}" for length in (1, 20)),
        *(f"{CBC} auth xcbc(aes) {key(length)}" for length in (0, 10, 24, 32, 40)),
        *(f"{CBC} auth cmac(aes) {key(length)}" for length in (0, 15, 24, 32, 40)),
    ],
    "short ICVs with ESN": [
        *(f"{CBC} auth-trunc hmac(sha1) {key(20)} {bits} {ESN}" for bits in (8, 24, 31, 32)),
        f"{CBC} auth digest_null {key(0)} {ESN}",
        f"{CBC} {ESN}",
    ],
    "weak keys of DES are as good as any other": [
        "enc cbc(des) 0x0101010101010101",
        f"enc cbc(des3_ede) 0x{'00' * 24}",
    ],
}


def state_line(number: int, words: str) -> str:
    return f"xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi {SPI + number:#x} mode tunnel if_id 42 {words}"


@on_stage
@pytest.mark.parametrize("about", LINES)
def test_7_4_algorithms_are_answered_as_by_a_kernel(kernel_pair: Pair, about: str) -> None:
    """Every line is taken or refused alike, with the same words; what was taken is shown alike."""
    machine = kernel_pair.sun.machine
    lines = [split_line(state_line(number, words)) for number, words in enumerate(LINES[about])]
    theirs = [machine.tell("run", "ip", *line)[2].strip() for line in lines]
    _, shown, _ = machine.tell("run", "ip", "xfrm", "state", "list")
    for record in re.split(r"(?m)^(?=src )", shown)[1:]:
        theirs[int(record.split("spi ")[1][:10], 16) - SPI] = record
    assert dict(zip(LINES[about], map(answer, lines), strict=True)) == dict(zip(LINES[about], theirs, strict=True))


def answer(line: list[str]) -> str:
    """Ours: the state, or why not."""
    request = parse(line)
    assert isinstance(request, AddState)
    try:
        return print_state(State(request.info).snapshot())
    except XfrmError as refusal:
        return f"Error: {refusal.extack}." if refusal.extack else f"RTNETLINK answers: {strerror(refusal.errno)}"
