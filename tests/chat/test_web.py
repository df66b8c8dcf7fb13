"""The web page in a real browser: what a person sees and does there."""

import shutil
import time
from collections.abc import Callable, Iterator
from os import geteuid
from typing import TYPE_CHECKING, Any

import pytest
from web_server import PATIENCE, Echo, Running, running, until

from jaxgpt.chat.decoding import Decoding
from jaxgpt.chat.engine import open_engine
from jaxgpt.chat.web_page import _Handlers

if TYPE_CHECKING:
    from conftest import TinyRun

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("the browser tests need chromium: apt-get install chromium", allow_module_level=True)
api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")

Open = Callable[[Running], "Page"]


class Page:
    """One browser page of its own session; every request it makes is noted in `elsewhere` or is to the server."""

    def __init__(self, browser: "api.Browser", site: Running):
        self.tab = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        self.tab.set_default_timeout(PATIENCE * 1000)
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        self.tab.on(
            "request", lambda request: None if request.url.startswith((site.url, "data:")) else self._note(request)
        )
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.tab.goto(site.url)
        self.box = self.tab.get_by_placeholder("Message to Bot")
        self.box.wait_for()

    def _note(self, request: "api.Request") -> None:
        self.elsewhere.append(request.url)

    def say(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def press(self, name: str) -> None:
        self.tab.get_by_role("button", name=name, exact=True).click()

    def turns(self) -> list[str]:
        return self.tab.locator("#conversation .message-row .message-content").all_inner_texts()

    def shows(self, *turns: str) -> None:
        """Waits until the conversation is these turns, and the page is ready for the next."""
        until(lambda: self.wait() and self.turns() == list(turns) and self.box.is_enabled())

    def wait(self) -> bool:
        self.tab.wait_for_timeout(20)  # time.sleep would stop playwright's own work
        return True


@pytest.fixture(scope="module")
def browser() -> Iterator["api.Browser"]:
    with api.sync_playwright() as playwright:
        root = ["--no-sandbox"] if geteuid() == 0 else []
        with playwright.chromium.launch(executable_path=CHROMIUM, args=root) as browser:
            yield browser


@pytest.fixture(scope="module")
def site() -> Iterator[Running[Echo]]:
    with running(Echo()) as site:
        yield site


@pytest.fixture
def open_page(browser: "api.Browser", site: Running[Echo]) -> Iterator[Open]:
    pages: list[Page] = []

    def open_page(of: Running) -> Page:
        pages.append(Page(browser, of))
        return pages[-1]

    yield open_page
    site.engine.go.set()
    for page in pages:
        page.tab.context.close()
        assert page.elsewhere == []
        assert page.errors == []


def test_a_trained_model_answers(tags_run: "TinyRun", open_page: Open) -> None:
    with running(open_engine("torch", tags_run.hf), Decoding(seed=3, max_new_tokens=9)) as site:
        page = open_page(site)
        page.say("hello")
        until(lambda: page.wait() and len(page.turns()) == 2 and page.box.is_enabled())
        [bot] = site.bots
        until(lambda: page.wait() and len(bot.turns) == 2)
        first = bot.turns[1].text
        assert first
        assert " ".join(page.turns()[1].split()) == " ".join(first.split())
        page.press("Retry")
        until(lambda: page.wait() and bot.turns[1].text != first and page.box.is_enabled())
        assert " ".join(page.turns()[1].split()) == " ".join(bot.turns[1].text.split())
        assert page.turns()[0] == bot.turns[0].text == "hello"


def test_the_reply_appears_piece_by_piece(site: Running[Echo], open_page: Open) -> None:
    page = open_page(site)
    assert page.tab.title() == page.tab.locator("#title h1").inner_text() == "runs/<mine>, format tags"
    site.engine.go.clear()
    page.say("first <b>things</b> **first**")
    until(lambda: page.wait() and page.turns() == ["first <b>things</b> **first**"])
    assert not page.box.is_enabled()
    seen = set()
    while not page.box.is_enabled():
        site.engine.let_one_through()
        page.wait()
        seen |= set(page.turns()[1:])
    whole = "attempt 0: first <b>things</b> **first**"
    assert all(whole.startswith(piece.rstrip()) for piece in seen)
    assert len(seen) > 3
    site.engine.go.set()
    page.shows("first <b>things</b> **first**", whole)
    name = page.tab.evaluate("getComputedStyle(document.querySelector('.user-row'), '::before').content")
    assert name == r'"Anna \"A\" ＜/style>"'


def test_retry_undo_and_clear(site: Running[Echo], open_page: Open) -> None:
    page = open_page(site)
    page.press("Retry")
    page.tab.get_by_text("There is no reply to try again").wait_for()
    page.say("one")
    page.shows("one", "attempt 0: one")
    page.say("two")
    page.shows("one", "attempt 0: one", "two", "attempt 0: two")
    page.box.fill("half a mess")
    page.press("Retry")
    page.shows("one", "attempt 0: one", "two", "attempt 1: two")
    assert page.box.input_value() == "half a mess"
    page.press("Undo")
    page.shows("one", "attempt 0: one")
    assert page.box.input_value() == "two"
    page.press("Clear")
    page.shows()
    assert site.bots[-1].turns == []
    page.say("three")
    page.shows("three", "attempt 0: three")


def test_a_message_sent_as_soon_as_the_box_is_free_is_answered(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = _Handlers.say

    def ends_late(self: _Handlers, *arguments: Any) -> Iterator[tuple[Any, ...]]:
        yield from say(self, *arguments)
        time.sleep(0.5)

    monkeypatch.setattr(_Handlers, "say", ends_late)
    with running(Echo()) as site:
        page = open_page(site)
        page.say("one")
        page.shows("one", "attempt 0: one")
        page.say("two")
        page.shows("one", "attempt 0: one", "two", "attempt 0: two")


def test_stop(site: Running[Echo], open_page: Open) -> None:
    page = open_page(site)
    page.say("one")
    page.shows("one", "attempt 0: one")
    site.engine.go.clear()
    second = "two" + " and two" * 300
    page.say(second)
    until(lambda: page.wait() and site.engine.running == 1)
    page.tab.get_by_test_id("stop-button").click()
    while site.engine.running:  # a token now and then, or the reply would be over before it is stopped
        site.engine.let_one_through()
        page.wait()
    page.shows("one", "attempt 0: one")
    assert page.box.input_value() == second
    assert [turn.text for turn in site.bots[-1].turns] == ["one", "attempt 0: one"]


def test_the_settings_reach_the_decoding(site: Running[Echo], open_page: Open) -> None:
    page = open_page(site)
    before = Decoding()
    for label, value in (("Temperature", "0.35"), ("Top-p", "0.5"), ("Top-k", "7"), ("Repetition penalty", "1.25")):
        field = page.tab.get_by_label(f"number input for {label}")
        assert float(field.input_value()) == getattr(before, label.lower().replace(" ", "_").replace("-", "_"))
        field.fill(value)
        field.blur()
    longest = page.tab.get_by_label("number input for Longest reply")
    assert longest.input_value() == "200"
    longest.fill("33")
    longest.blur()
    page.tab.get_by_label("Seed").fill("11")
    page.say("hello")
    page.shows("hello", "attempt 0: hello")
    decoding, limits = site.engine.asked[-1]
    assert decoding == Decoding(0.35, 7, 0.5, repetition_penalty=1.25, max_new_tokens=33, seed=11)
    assert limits.max_new_tokens == 33

    page.tab.get_by_label("Seed").fill("eleven")
    page.say("again")
    page.tab.get_by_text("Seed is 'eleven'; it must be a whole number").wait_for()
    page.shows("hello", "attempt 0: hello")
    assert page.box.input_value() == "again"


def test_two_pages_have_two_conversations(site: Running[Echo], open_page: Open) -> None:
    left, right = open_page(site), open_page(site)
    left.say("left")
    right.say("right")
    left.shows("left", "attempt 0: left")
    right.shows("right", "attempt 0: right")
    site.engine.go.clear()
    left.say("more left")
    right.say("more right")
    until(lambda: left.wait() and site.engine.running == 1)
    site.engine.go.set()
    right.shows("right", "attempt 0: right", "more right", "attempt 0: more right")
    left.shows("left", "attempt 0: left", "more left", "attempt 0: more left")
    assert site.engine.most == 1
    right.press("Clear")
    right.shows()
    left.press("Retry")
    left.shows("left", "attempt 0: left", "more left", "attempt 1: more left")
