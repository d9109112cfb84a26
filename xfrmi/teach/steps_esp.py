"""The steps of one state, sealing or opening: stages of core/esp.py, with the values they had for this packet."""

from __future__ import annotations

from xfrmi.core.algo_aead import AesGmac, CombinedMode
from xfrmi.core.algo_authenc import AuthEnc
from xfrmi.core.state import State
from xfrmi.teach.explanation import Step
from xfrmi.teach.layout import nonce
from xfrmi.teach.watch import Work, unwatched
from xfrmi.teach.wording import address, algorithms, keys, mode, protocol, state_title
from xfrmi.wire.xfrm_const import IPPROTO_BEETPH, IPPROTO_IPIP, IPPROTO_IPV6, Mode

WINDOW_SHOWN = 64


def sealing(work: Work, with_keys: bool) -> list[Step]:
    """From the header on."""
    state = work.state
    steps = [_move(work)]
    if work.number is None:
        return steps
    transform = state.transform
    steps.append(
        Step(
            "Sequence number",
            f"The next one of this state is {work.number}. No number is used twice (RFC 4303 3.3.3)."
            + (" With ESN its lower 32 bits travel, the upper half is only authenticated." if state.esn else ""),
            (("number", str(work.number)), ("travels", work.head[4:8].hex()), *_upper(work)),
        )
    )
    steps.append(_iv(work, with_keys))
    steps.append(_padding(work))
    steps.append(_protect(work, "Encrypt and authenticate", with_keys))
    if work.outer:
        words = f"Lengths and checksums of the outer header are written; the packet has {len(work.outer)} bytes."
        facts = (
            ("inner packet", f"{len(work.packet)} bytes"),
            ("outer packet", f"{len(work.outer)} bytes"),
            ("ICV", f"{work.icv.hex() or 'none'} ({transform.icv_len} bytes)"),
        )
        steps.append(Step("Finish", words, facts))
    return steps


def opening(work: Work, with_keys: bool) -> list[Step]:
    """From the replay window on."""
    steps = [_replay(work)]
    if work.authentic is None:
        return steps
    steps.append(_iv(work, with_keys))
    steps.append(_protect(work, "Check the ICV and decrypt", with_keys)._replace(failed=not work.authentic))
    if not work.authentic:
        return steps
    steps.append(_trailer(work))
    if work.committed:
        text = f"Only now, with the ICV right, the window remembers {work.number}: a forged packet never moves it."
        steps.append(Step("Remember the number", text))
    if work.next_header >= 0:
        steps.append(_unwrap(work))
    return steps


def state_facts(state: State, with_keys: bool) -> tuple[tuple[str, str], ...]:
    """What is to be known of a state before it works."""
    facts = [("state", state_title(state)), ("mode", mode(state.mode)), ("algorithms", algorithms(state.info))]
    if state.encap is not None:
        facts.append(("in UDP", f"port {state.encap.sport} to {state.encap.dport} (RFC 3948)"))
    if with_keys:
        facts += keys(state.info)
    return tuple(facts)


# Header -----------------------------------------------------------------------------------------------------------


def _move(work: Work) -> Step:
    state = work.state
    ends = f"{address(state.src)} > {address(state.dst)}"
    in_udp = " and a UDP header" if state.encap is not None else ""
    if state.mode == Mode.TUNNEL:
        text = f"Tunnel: the whole inner packet becomes payload, behind a new header {ends}{in_udp}."
    elif state.mode == Mode.TRANSPORT:
        text = f"Transport: the packet's own header stays in front{in_udp}; ESP goes between it and what it carried."
    else:
        text = f"BEET: the inner header goes, a header {ends} comes{in_udp}. The inner addresses are in the state."
        if work.next_header == IPPROTO_BEETPH:
            text += " The options of the inner header travel in a BEET pseudo header."
    facts = (
        ("payload", f"{len(work.payload)} of {len(work.packet)} bytes of the packet"),
        ("header", f"{len(work.header)} bytes"),
        ("next header", _next_header(work.next_header)),
    )
    return Step("Header", text, facts)


def _unwrap(work: Work) -> Step:
    state = work.state
    if state.mode == Mode.TUNNEL:
        text = "Tunnel: the outer header goes; what was inside is the packet."
    elif state.mode == Mode.TRANSPORT:
        text = "Transport: the outer header is the packet's own again, with protocol and length made right."
    else:
        text = "BEET: the inner header is made again, from the addresses in the state."
    facts = [("next header", _next_header(work.next_header)), ("payload", f"{len(work.payload)} bytes")]
    if work.packet:
        facts.append(("inner packet", f"{len(work.packet)} bytes"))
    return Step("Header", text, tuple(facts), failed=not work.packet)


def _next_header(number: int) -> str:
    meaning = {IPPROTO_IPIP: "an IPv4 packet", IPPROTO_IPV6: "an IPv6 packet", IPPROTO_BEETPH: "BEET pseudo header"}
    return f"{number}: {meaning.get(number) or protocol(number)}"


# Numbers ----------------------------------------------------------------------------------------------------------


def _upper(work: Work) -> tuple[tuple[str, str], ...]:
    return (("upper half", work.hi.hex()),) if work.hi else ()


def _replay(work: Work) -> Step:
    window, number = work.state.window, work.number or 0
    if not window.size:
        return Step("Replay window", f"Number {number}. This state has no replay window: every number is taken.")
    top, size = work.window_top, window.size
    if number >> 32 < top >> 32 and work.authentic is None:  # refused, and nobody has said which upper half it has
        number = top - (top - number & 0xFFFFFFFF)
    facts = [("number", str(number)), ("window", f"{size} numbers up to {top}"), ("seen", _bitmap(work, top - number))]
    behind = top - number
    refused = behind >= size or (behind >= 0 and bool(work.window_seen >> behind & 1)) or not number
    if not number:
        text = "Number 0 is never sent."
    elif behind < 0:
        text = f"Number {number} is {-behind} ahead of the highest one seen, {top}: new."
    elif behind >= size:
        text = f"Number {number} is {behind} behind the highest one seen, {top}; the window ends {size} back: too old."
    elif work.window_seen >> behind & 1:
        text = f"Number {number} has been seen already: replayed."
    else:
        text = f"Number {number} lies in the window and has not been seen: late, but new."
    return Step("Replay window", text, tuple(facts), failed=refused)


def _bitmap(work: Work, own: int) -> str:
    """The newest on the right: # seen, . not seen, the packet's own in brackets."""
    shown = min(work.state.window.size, WINDOW_SHOWN)
    marks = []
    for behind in reversed(range(shown)):
        mark = "#" if work.window_seen >> behind & 1 else "."
        marks.append(f"[{mark}]" if behind == own else mark)
    return "".join(marks)


def _iv(work: Work, with_keys: bool) -> Step:
    state = work.state
    transform = unwatched(state.transform)
    if not work.iv:
        return Step("IV", "This cipher needs none.")
    facts = [("IV", work.iv.hex())]
    if not isinstance(transform, CombinedMode):
        if not work.outer:
            return Step("IV", "As the peer has sent it.", tuple(facts))
        if transform.random_iv:
            return Step("IV", "Random, since nobody may foretell it (RFC 3602 section 3).", tuple(facts))
        text = "A counter, different in each packet. With the nonce in the key it makes the first counter block."
        return Step("IV", text, tuple(facts))
    text = "A counter, XORed with a random number of this state; never the same twice under one key."
    if not work.outer:
        text = "As the peer has sent it. With the salt, which is a part of the key, it is the nonce."
    whole = nonce(state, work.iv)
    salt = whole[: len(whole) - len(work.iv)].hex() if with_keys else "salt, from the key"
    facts.append(("nonce", f"{salt} | {work.iv.hex()} ({len(whole)} bytes)"))
    return Step("IV and nonce", text, tuple(facts))


# Padding ----------------------------------------------------------------------------------------------------------


def _padding(work: Work) -> Step:
    transform = work.state.transform
    pad_len = work.plaintext[-2]
    tfc = len(work.plaintext) - len(work.payload) - pad_len - 2
    text = f"With {pad_len} bytes of padding and two bytes behind it the payload fills a multiple of {transform.align}."
    if tfc:
        text = f"{tfc} zeros hide how long the payload is (TFC, RFC 4303 2.7). " + text
    return Step("Padding and trailer", text, _trailer_facts(work, tfc))


def _trailer(work: Work) -> Step:
    plaintext = work.plaintext
    if len(plaintext) < 2:
        return Step("Trailer", "There is no room for one.", failed=True)
    broken = plaintext[-2] + 2 > len(plaintext)
    text = "The last two bytes say how much padding there was, and what the payload is."
    if broken:
        text = f"The pad length, {plaintext[-2]}, is more than there is."
    return Step("Trailer", text, _trailer_facts(work, 0), failed=broken)


def _trailer_facts(work: Work, tfc: int) -> tuple[tuple[str, str], ...]:
    plaintext = work.plaintext
    pad_len = min(plaintext[-2], len(plaintext) - 2)
    facts = [("padding", plaintext[len(plaintext) - 2 - pad_len : -2].hex(" ") or "none")]
    if tfc:
        facts.insert(0, ("TFC padding", f"{tfc} zeros"))
    return (*facts, ("pad length", str(plaintext[-2])), ("next header", _next_header(plaintext[-1])))


# Cryptography -----------------------------------------------------------------------------------------------------


def _protect(work: Work, title: str, with_keys: bool) -> Step:
    state = work.state
    transform = unwatched(state.transform)
    facts = [("algorithms", algorithms(state.info))]
    if with_keys:
        facts += keys(state.info)
    if isinstance(transform, CombinedMode):
        aad = bytes(transform.aad(work.head, work.hi))
        parts = "SPI, upper half, lower half" if work.hi else "SPI, sequence number"
        if isinstance(transform, AesGmac):
            parts += ", IV and the payload, which is not encrypted"
        facts.append(("AAD", f"{aad.hex()} ({parts})"))
        text = "One algorithm encrypts the plaintext, and authenticates it together with the AAD."
    else:
        assert isinstance(transform, AuthEnc)
        over = "SPI, sequence number, IV, ciphertext" + (", upper half of the number" if work.hi else "")
        text = f"First encryption, then the ICV, over what travels: {over}."
        if not transform.icv_len:
            text = "Encryption only: nothing tells a changed packet from a right one."
    facts.append(("plaintext", f"{len(work.plaintext)} bytes") if work.plaintext else ("plaintext", "not opened"))
    facts.append(("ICV", work.icv.hex() or "none"))
    if work.authentic is False:
        text = "The ICV is not the one of these bytes under this key: changed on the way, forged, or another key."
    elif work.authentic:
        text += " The ICV is right." if transform.icv_len else ""
    return Step(title, text, tuple(facts))
