"""What a question costs in the page of `search-speech`, at 150,000 planted utterances: by HTTP, and seen in a Chromium.

    python -m tests.benchmarks.page [--stores FOLDER] [--rows 150000] [--rounds 9] [--picture FILE.png]

The utterances are planted (1024 wide), the sentences are encoded by the embedded encoder, the heads are random and 512
wide. The time in the browser is from Enter until the last hit is in the page and laid out. Medians with their range.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cache.stores import open_stores
from pipeline.core.config import TextConfig
from pipeline.extraction.encoders import load_encoder
from pipeline.inference.filters import UtteranceFilter
from pipeline.inference.search import SpeechIndex, embed_rows
from pipeline.inference.web.audio_clips import Clips
from pipeline.inference.web.search_page import SearchPage
from pipeline.training.heads import Heads
from tests.benchmarks.search import planted, speech
from tests.inference.web.conftest import Site, served
from tests.inference.web.test_browser import CHROMIUM, FLAGS

_FACTS = {"run": "-", "stores": "-", "method": "-", "style": "-", "heard": 10, "crop": "start", "played": 600}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=Path, help="keep the planted stores here and use them again")
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.stores or Path(scratch) / "stores"
        planted(folder, arguments.rows)
        with served(_page(folder)) as site:
            site.get("/about")
            by_http(site, arguments.rounds)
            if CHROMIUM:
                in_browser(site, arguments.rounds, Path(scratch) / "profile", arguments.picture)


def by_http(site: Site, rounds: int) -> None:
    filters: dict[str, list[str]] = {"split": ["test1", "dev"], "emotion": ["happy", "sad"]}
    report("about", [timed(lambda: site.get("/about")) for _ in range(rounds)])
    for top in (10, 50, 1000):
        for name, among in (("", {}), (", two filters", filters)):
            ask = partial(site.ask, top=top, **among)
            asked = [partial(ask, f"The person is speaking in way {number}.") for number in range(rounds)]
            report(f"ask, top {top}{name}", list(map(timed, asked)))
    point = "/sentence?valence=4&arousal=4"
    report("sentence of a point", [timed(lambda: site.get(point)) for _ in range(rounds)])


def in_browser(site: Site, rounds: int, profile: Path, picture: Path | None) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=FLAGS, viewport={"width": 1280, "height": 900}
        )
        page = context.pages[0]
        start = time.perf_counter()
        page.goto(site.url)
        page.wait_for_selector("#cloud-layer circle")
        print(f"  the page opened and drew the cloud in {1e3 * (time.perf_counter() - start):.0f} ms (n = 1)")
        for top in (10, 50, 1000):
            report(f"in the page, top {top}", [in_page(page, f"way {top} {n}", top) for n in range(rounds)])
        if picture:
            in_page(page, "The person is speaking with joy.", 50)
            page.screenshot(path=picture)
        context.close()


def in_page(page: Any, sentence: str, top: int) -> float:
    """Seconds from asking until the hits are laid out."""
    return float(page.evaluate(_ASK, [sentence, top])) / 1e3


_ASK = """([sentence, top]) => new Promise((done) => {
    const [list, start] = [document.querySelector("#hits"), performance.now()];
    new MutationObserver((_, observer) => {
        observer.disconnect();
        requestAnimationFrame(() => { list.getBoundingClientRect(); done(performance.now() - start); });
    }).observe(list, { childList: true });
    document.querySelector("#sentence").value = sentence;
    document.querySelector("#top").value = top;
    document.querySelector("#question").requestSubmit();
})"""


def _page(folder: Path) -> SearchPage:
    stores, encoder = open_stores(folder), load_encoder("text", TextConfig(), "cpu")
    heads = Heads(1024, encoder.dim, dim=512).requires_grad_(False)
    heads.initialise(0)
    manifest = stores.manifest
    found = embed_rows(stores.audio, np.arange(len(manifest)), speech(heads))
    embed = lambda sentence: np.asarray(heads.embed_text(encoder.encode([sentence])))  # noqa: E731
    index = SpeechIndex(manifest, UtteranceFilter(manifest), found, embed)
    count = {"manifest": len(manifest), "fitting": len(manifest), "among": {}, "top": 10}
    clips = Clips(manifest, found.rows, stores.audio.column("digest"), folder)
    return SearchPage(index, clips, _FACTS | count, np.zeros(len(manifest)))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(name: str, took: list[float]) -> None:
    low, high = 1e3 * min(took), 1e3 * max(took)
    print(f"  {name:<35} {1e3 * median(took):9.1f} ms ({low:.1f}-{high:.1f}, n = {len(took)})", flush=True)


if __name__ == "__main__":
    main()
