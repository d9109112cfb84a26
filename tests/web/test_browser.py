"""The page in a real browser, as a person uses it: link, ping, both sides of a packet, a turned bit, a copy, new keys.

XFRMI_PICTURES names a folder for pictures of it (docs/pictures/make.sh).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.browser import Browser, chromium
from tests.web.lab import LAB, Web, web_beside
from xfrmi.lab.traffic import PATTERN

FIRST_LINK = ".link[data-link='0'] .wire"
TURNED = 70


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with web_beside(LAB, rootless=False) as web:
        yield web


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        browser.size(1280, 1320)
        yield browser


def picture(browser: Browser, name: str) -> None:
    if folder := os.environ.get("XFRMI_PICTURES"):
        browser.picture(Path(folder, name))


def counter(node: str, name: str) -> str:
    """An expression: its value, 0 while it is not shown."""
    return (
        f"Number(document.querySelector('#counters [data-counter=\"{node} {name}\"]')?.lastChild.textContent ?? 0)"
    )



def enter(web: Web, browser: Browser) -> None:
    browser.open("about:blank")
    browser.open(web.another_link())


def test_a_walk_through_the_page(web: Web, browser: Browser) -> None:
    enter(web, browser)
    browser.until("document.querySelectorAll('.node').length === 3 && document.querySelectorAll('.link').length === 2")
    assert browser.text("#lab-name") == "09-tampering"
    assert "Plaintext is visible" in browser.text("#visible") and "Keys are not" in browser.text("#visible")
    assert browser.js("document.querySelectorAll('.tunnel').length") == 2
    assert browser.text("#ping-to option:checked") == "10.8.0.2 (sun sealed0)"

    browser.click("#ping-start")
    browser.until("/[1-9] of [1-9]/.test(document.querySelector('#pings').innerText)")
    browser.click(FIRST_LINK)
    rows = "[...document.querySelectorAll('#list tr')]"
    browser.until(f"{rows}.filter(row => row.innerText.includes('delivered')).length > 4")
    assert "ESP 0x00000801" in browser.text("#list").replace("\xa0", " ")

    number = browser.until(f"{rows}.find(row => /echo request.*sun: delivered/s.test(row.innerText))?.dataset.id")
    browser.click(f"#list tr[data-id='{number}']")
    browser.until("document.querySelectorAll('.grid.wire td.byte').length >= 140")
    shown = "[...document.querySelectorAll('.grid.{} .text')].map(cell => cell.textContent).join('')"
    sentence = PATTERN[:40].decode()
    assert sentence in browser.js(shown.format("plain")) and sentence not in browser.js(shown.format("wire"))

    browser.click(f".grid.wire td[data-at='{TURNED}']")
    chosen = f"document.querySelectorAll('.chosen[data-at=\"{TURNED}\"]').length"
    browser.until(f"{chosen} === 4")  # on both sides, each with its text
    browser.until("/inner payload.*encrypted, authenticated/s.test(document.querySelector('.about').innerText)")
    browser.until("document.querySelector('#guess').innerText.includes('XfrmInStateProtoError')")
    before = browser.js(counter("sun", "XfrmInStateProtoError"))
    browser.click("#forge")
    browser.until("document.querySelector('#sent').innerText.includes('sun has dropped it: wrong ICV')")
    browser.until(f"{counter('sun', 'XfrmInStateProtoError')} === {before + 1}")
    browser.until("document.querySelector('.moved[data-counter=\"sun XfrmInStateProtoError\"]')?.innerText === '+1 1'")
    picture(browser, "web.png")

    browser.js("document.querySelectorAll('details').forEach(one => one.open = true)")
    steps = browser.text(".steps")
    assert "How sun received it" in steps and "XOR" in steps and "[object" not in browser.text("main")

    browser.click("#replay")
    browser.until("document.querySelector('#sent').innerText.includes('XfrmInStateSeqError rises')")
    browser.until(f"{counter('sun', 'XfrmInStateSeqError')} === 1")

    browser.click("#rekey-start")
    browser.until("document.querySelector('#rekey-answer').innerText.includes('becomes')")
    browser.until("document.querySelector('#rekey-answer').innerText.includes('The old states are gone')")
    browser.until("!document.querySelector('#counters').innerText.includes('0x00000801')")
    sent, answered = browser.js("document.querySelector('#pings b').innerText.match(/\\d+/g).map(Number)")[::-1]
    assert sent - answered <= 1  # one may be under way

    browser.click("#pings button")
    browser.until("!document.querySelector('#pings').innerText")
    assert browser.complaints == []


def test_with_the_keyboard(web: Web, browser: Browser) -> None:
    enter(web, browser)
    browser.until("document.querySelectorAll('.link').length === 2")
    browser.js("document.querySelector('.link').focus()")
    browser.key("Enter")
    browser.until("document.querySelector('#packets-where').innerText.includes('moon eth0')")
    browser.js("document.querySelector('#ping-start').focus()")
    browser.key("Enter")
    browser.until("document.querySelectorAll('#list tr').length > 2")
    browser.js("document.querySelector('#list tr').focus()")
    browser.key("ArrowDown")
    browser.key("Enter")
    browser.until("!!document.querySelector('.grid.wire')")
    browser.js("document.querySelector('.grid.wire').focus()")
    for _ in range(2):
        browser.key("ArrowDown")
    browser.key("Enter")
    browser.until("document.querySelector('#guess')?.innerText.includes('dropped')")
    browser.js("document.querySelector('#pings button').click()")
    assert browser.complaints == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (800, True)])
def test_nothing_sticks_out(web: Web, browser: Browser, width: int, dark: bool) -> None:
    browser.size(width, 1000, dark)
    enter(web, browser)
    browser.click(FIRST_LINK)
    browser.click("#ping-start")
    browser.until("document.querySelectorAll('#list tr').length > 2")
    browser.click("#list tr:last-child")
    browser.until("!!document.querySelector('.grid.wire')")
    assert browser.js("document.documentElement.scrollWidth") <= width
    for side in ("plain", "wire"):
        assert browser.js(f"document.querySelector('.grid.{side}').getBoundingClientRect().right") <= width
    browser.js("scrollTo(0, 0)")
    if dark:
        picture(browser, "web-dark.png")
    browser.js("document.querySelector('#pings button').click()")
    assert browser.complaints == []


def test_a_used_link(web: Web, browser: Browser) -> None:
    browser.size(1280, 1000)
    browser.open("about:blank")
    browser.open(web.link)
    browser.until("document.querySelector('#problem')?.innerText.includes('has been used')")
    assert browser.js("location.hash") == ""  # no token stays in the address bar, and so in no history
    assert all("403" in complaint for complaint in browser.complaints)
