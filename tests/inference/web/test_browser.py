"""The page in a real Chromium: asked, heard, clicked, and fetching nothing from elsewhere.

pytest -m browser     (pip install 'emotionrankclap[browser]', and a Chromium on the PATH)
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from cache.errors import one_line
from pipeline.data.captions.dimensional import describe_point
from pipeline.inference.filters import Filter
from pipeline.inference.search import SpeechIndex
from tests.evaluation.report.conftest import HOSTILE
from tests.inference.web.conftest import UNPLAYABLE, Site

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]
SENTENCE = "The person is speaking with joy."


class Tab:
    """A tab of the browser, and what happened in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))

    def open(self, site: Site, query: str = "") -> None:
        self.page.goto(f"{site.url}{query}")
        self.until("document.querySelector('#facts').children.length > 0")
        self.settled()

    def ask(self, sentence: str) -> list[str]:
        self.page.fill("#sentence", sentence)
        self.page.press("#sentence", "Enter")
        return self.ids()

    def until(self, expression: str) -> None:
        """Waits; the page's own policy forbids the driver's way to, which evaluates text."""
        end = time.monotonic() + 10
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(20)

    def settled(self) -> None:
        self.until("!/^(Loading|Searching)/.test(document.querySelector('#status').textContent)")

    def ids(self) -> list[str]:
        self.settled()
        return self.page.locator(".hit .id").all_text_contents()

    def place(self, valence: float, arousal: float) -> tuple[float, float]:
        """Where a point of the plane is on the screen, by the lines of its axes from 1 to 7."""
        lines = self.page.eval_on_selector_all(
            "#plane .grid",
            "all => all.map(line => line.getBoundingClientRect()).map(box => [box.width, box.x, box.y])",
        )
        across = sorted(x for width, x, _ in lines if width < 2)
        up = sorted((y for width, _, y in lines if width > 2), reverse=True)
        assert len(across) == len(up) == 7
        return across[0] + (valence - 1) * (across[6] - across[0]) / 6, up[0] + (arousal - 1) * (up[6] - up[0]) / 6

    def middle(self, selector: str) -> tuple[float, float]:
        box = self.page.locator(selector).first.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra browser)")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    with playwright.sync_playwright() as driver:
        folder = tmp_path_factory.mktemp("profile")
        view = {"width": 1280, "height": 900}
        context = driver.chromium.launch_persistent_context(
            folder, executable_path=CHROMIUM, headless=True, args=FLAGS, viewport=view
        )
        context.set_default_timeout(10_000)
        yield context
        context.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    """After each test: nothing was asked of another address, and nothing was complained of."""
    tab = Tab(browser.new_page())
    yield tab
    tab.page.close()
    elsewhere = [url for url in tab.requested if not re.match(r"(http://127\.0\.0\.1:\d+/|data:,$)", url)]
    assert elsewhere == []
    assert tab.complaints == []


def _ids(index: SpeechIndex, sentence: str, among: Filter | None = None, top: int = 10) -> list[str]:
    return [hit["id"] for hit in index.ask(sentence, among=among, top=top)[0]]


def test_enter_shows_the_hits_of_the_index(tab: Tab, site: Site, index: SpeechIndex) -> None:
    tab.open(site)
    assert tab.page.text_content("#status") == "Nothing asked yet."
    assert tab.ask(SENTENCE) == _ids(index, SENTENCE)
    hits = index.ask(SENTENCE, top=10)[0]
    shown = tab.page.locator(".hit .similarity").all_text_contents()
    assert [text for text in shown if text[0].isdigit()] == [f"{hit['similarity']:.3f}" for hit in hits]
    for hit, line in zip(hits, tab.page.locator(".hit .facts").all_text_contents(), strict=True):
        assert f"valence {hit['valence']:g}arousal {hit['arousal']:g}{hit['emotion']}{hit['speaker']}" in line
    hidden = " Those trained on are left out: tick their split."
    assert tab.page.text_content("#status") == f"“{SENTENCE}”: the nearest 10 of 12 utterances that fit.{hidden}"
    assert tab.page.title() == f"{SENTENCE} – Search speech"
    assert tab.page.get_attribute("#hits-part", "aria-busy") == "false"


def test_a_hit_is_heard_whole_and_can_be_sought_in(tab: Tab, site: Site, corpus: Path) -> None:
    tab.open(site)
    name = tab.ask(SENTENCE)[2]
    audio = "document.querySelectorAll('audio')[2]"
    assert tab.page.evaluate(f"{audio}.readyState") == 0
    assert not [url for url in tab.requested if "/audio/" in url]  # nothing before it is asked for
    tab.page.evaluate(f"{audio}.play()")
    tab.until(f"{audio}.readyState >= 2 && {audio}.currentTime > 0.05")
    frames, rate = soundfile.info(corpus.parent / f"audio/{name}.wav").frames, 16_000
    assert tab.page.evaluate(f"{audio}.duration") == pytest.approx(frames / rate, abs=1e-3)
    tab.until(f"{audio}.ended")
    tab.page.evaluate(f"{audio}.currentTime = 0.2")
    tab.until(f"!{audio}.seeking")
    assert tab.page.evaluate(f"{audio}.currentTime") == pytest.approx(0.2, abs=0.02)
    playing = "[...document.querySelectorAll('audio')].map((audio, place) => audio.paused ? '' : place).join('')"
    for other in (0, 1):  # one at a time
        tab.page.evaluate(f"(a => {{ a.loop = true; return a.play(); }})(document.querySelectorAll('audio')[{other}])")
        tab.until(f"{playing} === '{other}'")


def test_what_cannot_be_played_says_why(tab: Tab, odd: Site) -> None:
    tab.open(odd, "?q=calm&top=50")
    row = tab.page.locator("audio[src='audio/8']")
    row.evaluate("audio => audio.play().catch(() => 0)")
    why = tab.page.locator("li:has(audio[src='audio/8']) .why")
    why.wait_for()
    assert UNPLAYABLE[8] in why.text_content()
    assert all("404" in said for said in tab.complaints)  # the browser's own lines
    tab.complaints.clear()


def test_a_click_on_the_plane_asks_that_point(tab: Tab, site: Site, index: SpeechIndex) -> None:
    tab.open(site)
    where = tab.place(5.6, 2.1)
    tab.page.mouse.click(*where)
    tab.page.wait_for_selector(".hit")
    sentence = describe_point(5.5, 2.0, split="train", variant=0)
    assert tab.page.input_value("#sentence") == sentence
    assert tab.ids() == _ids(index, sentence)
    assert tab.middle("#asked") == pytest.approx(where, abs=1)
    assert float(tab.page.input_value("#valence")) == pytest.approx(5.6, abs=0.02)
    assert float(tab.page.input_value("#arousal")) == pytest.approx(2.1, abs=0.02)
    tab.page.reload()
    tab.page.wait_for_selector(".hit")
    assert tab.ids() == _ids(index, sentence)
    assert tab.middle("#asked") == pytest.approx(where, abs=1)
    assert tab.ask(SENTENCE) == _ids(index, SENTENCE)  # a sentence of one's own is no point
    assert tab.page.locator("#asked").count() == 0


def test_a_click_beside_the_scale_asks_its_edge(tab: Tab, site: Site, index: SpeechIndex) -> None:
    tab.open(site)
    tab.page.mouse.click(*tab.place(7.3, 0.8))
    tab.page.wait_for_selector(".hit")
    assert (tab.page.input_value("#valence"), tab.page.input_value("#arousal")) == ("7", "1")
    assert tab.ids() == _ids(index, describe_point(7.0, 1.0, split="train", variant=0))


def test_the_plane_can_be_asked_by_keys_alone(tab: Tab, site: Site, index: SpeechIndex) -> None:
    tab.open(site)
    tab.page.focus("#valence")
    for keys in ("1.2", "Tab", "6.9", "Enter"):
        if keys[0].isdigit():
            tab.page.keyboard.press("Control+a")
            tab.page.keyboard.type(keys)
        else:
            tab.page.keyboard.press(keys)
    tab.page.wait_for_selector(".hit")
    sentence = describe_point(1.0, 7.0, split="train", variant=0)
    assert tab.ids() == _ids(index, sentence)
    assert tab.middle("#asked") == pytest.approx(tab.place(1.2, 6.9), abs=1)


def test_dots_lie_where_the_labels_say(tab: Tab, site: Site, index: SpeechIndex) -> None:
    tab.open(site)
    tab.ask(SENTENCE)
    hits = index.ask(SENTENCE, top=10)[0]
    dots = tab.page.eval_on_selector_all(
        "#hit-layer > .dot",
        "all => all.map(d => d.getBoundingClientRect()).map(b => [b.x + b.width/2, b.y + b.height/2])",
    )
    for hit, dot in zip(hits, dots, strict=True):
        assert dot == pytest.approx(tab.place(hit["valence"], hit["arousal"]), abs=1)


def test_a_number_and_its_row_light_each_other(tab: Tab, site: Site) -> None:
    tab.open(site)
    tab.ask(SENTENCE)
    tab.page.hover("#hit-4")
    assert tab.page.locator(".badge.lit").get_attribute("href") == "#hit-4"
    tab.page.hover(".badge[href='#hit-7']")
    assert tab.page.locator(".hit.lit").get_attribute("id") == "hit-7"
    address = tab.page.url
    tab.page.locator(".badge[href='#hit-9']").focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "hit-9"
    assert tab.page.locator("#hit-9").evaluate("li => li.getBoundingClientRect().bottom <= innerHeight + 1")
    tab.page.click(".badge[href='#hit-2']")
    assert tab.page.evaluate("document.activeElement.id") == "hit-2"
    assert tab.page.url == address
    assert (tab.page.input_value("#sentence"), tab.page.locator("#asked").count()) == (SENTENCE, 0)


def test_numbers_cover_no_other_and_many_at_a_point_are_counted(tab: Tab, odd: Site, index: SpeechIndex) -> None:
    tab.open(odd, "?q=calm&top=50")
    badges = tab.page.eval_on_selector_all(
        ".badge circle", "all => all.map(b => b.getBoundingClientRect()).map(b => [b.x + b.width/2, b.y + b.height/2])"
    )
    assert len(badges) == 12 + 7
    for place, (x, y) in enumerate(badges):
        assert all((x - a) ** 2 + (y - b) ** 2 > 20**2 for a, b in badges[:place])
    hits = odd.ask("calm", 50).json["hits"]
    here = [rank for rank, hit in enumerate(hits, 1) if (hit["valence"], hit["arousal"]) == (3.0, 5.0)]
    assert len(here) == 9
    more = tab.page.locator(".badge", has_text="+3")
    assert more.get_attribute("aria-label") == f"Hits {', '.join(map(str, here[6:]))}"
    tab.page.hover(f"#hit-{here[8]}")
    assert tab.page.locator(".badge.lit").text_content().endswith("+3")
    tab.page.hover(f"#hit-{here[5]}")
    assert tab.page.locator(".badge.lit text").text_content() == str(here[5])


def test_filters_ask_again(tab: Tab, site: Site, index: SpeechIndex) -> None:
    tab.open(site)
    tab.ask(SENTENCE)
    tab.page.check("#emotion input[value=sad]")
    tab.page.check("#emotion input[value=angry]")
    tab.page.fill("#speaker", "s1")
    tab.page.press("#speaker", "Enter")
    tab.until("document.querySelectorAll('.hit').length < 10")
    among = Filter(emotion=["sad", "angry"], speaker=["s1"])
    assert tab.ids() == _ids(index, SENTENCE, among)
    tab.page.fill("#speaker", "s9")
    tab.page.press("#speaker", "Enter")
    tab.page.wait_for_selector("#error:not([hidden])")
    assert "speaker 's9': not in the stores" in tab.page.text_content("#error")
    assert tab.ids() == []
    assert all("400" in said for said in tab.complaints)
    tab.complaints.clear()


def test_back_and_a_shared_address_ask_again(tab: Tab, site: Site, index: SpeechIndex) -> None:
    tab.open(site, "?q=calm&top=3&emotion=sad&split=train")
    among = Filter(emotion=["sad"], split=["train"])
    assert tab.ids() == _ids(index, "calm", among, 3)
    assert tab.page.is_checked("#emotion input[value=sad]")
    tab.page.uncheck("#emotion input[value=sad]")
    tab.page.uncheck("#split input[value=train]")
    tab.until("location.search === '?q=calm&top=3'")
    assert tab.ask("loud") == _ids(index, "loud", top=3)
    for _ in range(3):
        tab.page.go_back()
    tab.until("document.title.startsWith('calm')")
    tab.until("document.querySelector('#status').textContent.includes(' of 3 ')")
    assert tab.ids() == _ids(index, "calm", among, 3)


def test_hostile_names_are_text(tab: Tab, odd: Site) -> None:
    tab.open(odd, "?q=calm&top=50")
    said = one_line(HOSTILE)
    assert said in tab.ids()
    assert said in tab.page.locator("#emotion label").all_text_contents()
    assert said in tab.page.eval_on_selector_all("#speakers option", "all => all.map(option => option.value)")
    assert tab.page.locator("img, main script, iframe, li b").count() == 0
    tab.page.locator("#emotion label", has_text="script").locator("input").check()
    tab.until("document.querySelectorAll('.hit').length === 1")
    assert tab.ids() == [said]
    tab.page.reload()
    tab.page.wait_for_selector(".hit")
    assert tab.ids() == [said]


def test_what_has_no_labels_is_listed_and_said_not_to_be_on_the_plane(tab: Tab, odd: Site) -> None:
    tab.open(odd, "?q=calm&top=50")
    name = odd.page.index.manifest.id[21]
    row = tab.page.locator("li", has=tab.page.locator(".id", has_text=re.compile(f"^{name}$")))
    assert "not on the plane" in row.text_content()
    assert "2 without both labels: listed, not on the plane" in tab.page.text_content("#status")
    assert tab.page.locator("#hit-layer > .dot").count() == 21


@pytest.mark.parametrize("width", [1280, 420, 320])
def test_nothing_is_wider_than_the_window(width: int, tab: Tab, odd: Site) -> None:
    tab.page.set_viewport_size({"width": width, "height": 800})
    tab.open(odd, "?q=calm&top=50")
    assert tab.page.locator(".hit").count() == 23
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    assert width == 1280 or tab.middle(".hit")[1] < tab.middle("#plane")[1]  # hits first where one stands below


def test_a_player_says_its_length_before_anything_is_fetched(tab: Tab, site: Site) -> None:
    tab.open(site, "?q=calm&top=5&split=train")
    hits = site.ask("calm", 5, split=["train"]).json["hits"]
    assert tab.page.locator(".player .length").all_text_contents() == [f"{hit['seconds']:.1f} s" for hit in hits]
    assert tab.page.locator(".hit .trained").count() == 5
    assert not [url for url in tab.requested if "/audio/" in url]


def test_an_answer_that_comes_late_does_not_replace_the_last(tab: Tab, site: Site, index: SpeechIndex) -> None:
    tab.open(site)
    late: list[Any] = []
    tab.page.route("**/ask?q=calm&*", lambda route: late.append((route, route.fetch())))
    tab.page.fill("#sentence", "calm")
    tab.page.press("#sentence", "Enter")
    while not late:
        tab.page.wait_for_timeout(20)
    assert tab.ask(SENTENCE) == _ids(index, SENTENCE)
    late[0][0].fulfill(response=late[0][1])
    tab.page.wait_for_timeout(300)
    assert tab.ids() == _ids(index, SENTENCE) != _ids(index, "calm")


def test_a_server_that_is_gone_is_said(tab: Tab, site: Site) -> None:
    tab.open(site)
    tab.page.route("**/ask?*", lambda route: route.abort())
    tab.ask(SENTENCE)
    assert tab.page.text_content("#error") == "The server does not answer: was it stopped?"
    tab.complaints.clear()
