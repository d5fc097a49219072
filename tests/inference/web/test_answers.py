"""The page answers as the command line does, whoever asks, however many at once."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cache.errors import one_line
from cache.manifest import Manifest
from cache.stores import open_stores
from pipeline.data.captions.dimensional import describe_point
from pipeline.inference.filters import Filter, UtteranceFilter
from pipeline.inference.search import SpeechIndex
from pipeline.inference.web.audio_clips import ClipError
from pipeline.inference.web.search_page import SearchPage, SearchQuery, _thread_safe
from pipeline.training.run_folder import Run
from tests.evaluation.report.conftest import HOSTILE
from tests.inference.web.conftest import FAILED, SURROGATE, Site
from tests.stage_two import unlisted

SENTENCES = ["The person is speaking quietly.", "loud and angry", "café & <b>?q=1#%41", "悲しい"]


def _hits(hits: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{name: value for name, value in hit.items() if name not in ("row", "path", "seconds")} for hit in hits]


@pytest.mark.parametrize(
    "among", [{}, {"split": ["train", "test"]}, {"emotion": ["sad"], "speaker": ["s1", "s2", "s3"]}, {"split": ["dev"]}]
)
def test_hits_are_those_of_the_index_to_the_last_bit(
    among: dict[str, list[str]], site: Site, index: SpeechIndex
) -> None:
    for sentence in SENTENCES:
        answer = site.ask(sentence, 7, **among).json
        assert answer["asked"] == sentence
        assert _hits(answer["hits"]) == index.ask(sentence, among=Filter(**among), top=7)[0]
        assert answer["fit"] == int(index.columns.allowed(Filter(**among)).sum())
        for hit in answer["hits"]:
            assert index.manifest.id[hit["row"]] == hit["id"]
            assert index.manifest.audio[hit["row"]] == hit["path"]
            assert hit["seconds"] == round(
                min(site.page.facts["heard"], soundfile.info(index.root / hit["path"]).duration), 1
            )


def test_many_at_once_are_each_answered_as_alone(site: Site, index: SpeechIndex) -> None:
    """A tokenizer that two threads share without a lock says that it is already borrowed, or mixes their words."""
    asked = [f"{sentence} {number}" for sentence in SENTENCES for number in range(6)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(site.ask, asked))
    expected = index.ask(asked, top=5)
    assert [_hits(answer.json["hits"]) for answer in answers] == expected


def test_an_encoder_encodes_one_sentence_at_a_time(index: SpeechIndex) -> None:
    inside: list[str] = []
    most = []

    def embed(sentence: str) -> np.ndarray:
        inside.append(sentence)
        most.append(len(inside))
        time.sleep(0.005)
        inside.remove(sentence)
        return np.zeros((1, 1), np.float32)

    shared = _thread_safe(replace(index, embed=embed))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shared.embed, "abcdefgh"))
    assert most == 8 * [1]


def test_a_filter_that_nothing_fits_finds_nothing(site: Site) -> None:
    assert site.ask("calm", split=["dev"], speaker=["s0"], emotion=["happy"]).json == {
        "asked": "calm",
        "fit": 0,
        "hits": [],
    }


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("q=&top=5", "the sentence: empty"),
        ("q=%20%0A&top=5", "the sentence: empty"),
        ("top=5", "the sentence: empty"),
        ("q=%ff&top=5", "the query: not UTF-8"),
        ("q=%ed%b3%bf&top=5", "the query: not UTF-8"),  # half a character
        ("q=" + 2001 * "a" + "&top=5", "2,001 characters; expected at most 2,000"),
        ("q=a", "top: ''; expected a number from 1 to 1,000"),
        ("q=a&top=0", "top: '0'"),
        ("q=a&top=1001", "top: '1001'"),
        ("q=a&top=-1", "top: '-1'"),
        ("q=a&top=1e2", "top: '1e2'"),
        ("q=a&top=%D9%A3", "top: '٣'"),
        ("q=a&top=" + 5000 * "9", "top: '999"),
        ("q=a&q=b&top=5", "'q' twice"),
        ("q=a&top=5&path=/etc/passwd", "unknown 'path'"),
        ("q=a&top=5" + 300 * "&split=dev", "more than 200 parts"),
        ("q=a&top=5&emotion=hapy", "emotion 'hapy': not in the stores; "),
        ("q=a&top=5&emotion=", "emotion '': not in the stores; "),
    ],
)
def test_a_question_that_is_none_is_one_line(query: str, said: str, site: Site) -> None:
    answer = site.get(f"/ask?{query}")
    assert answer.status == 400
    assert said in answer.json["error"]
    assert answer.json["error"].isprintable()


def test_the_most_that_may_be_asked_is_answered(site: Site, index: SpeechIndex) -> None:
    answer = site.ask("😀" * 2000, 1000, split=["all"])  # twelve letters each in a URL
    assert len(answer.json["hits"]) == len(index.neighbours.rows) == 24


@pytest.mark.parametrize(("valence", "arousal", "levels"), [(1, 7, (1.0, 7.0)), (5.26, 2.24, (5.5, 2.0))])
def test_a_point_is_the_sentence_that_heads_are_trained_on(
    valence: float, arousal: float, levels: tuple[float, float], site: Site
) -> None:
    said = site.get(f"/sentence?valence={valence}&arousal={arousal}").json
    expected = describe_point(*levels, split="train", variant=0)
    assert said == {"sentence": expected, "valence": levels[0], "arousal": levels[1]}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("valence=4", "arousal: ''"),
        ("valence=x&arousal=4", "valence: 'x'"),
        ("valence=nan&arousal=4", "valence: nan"),
        ("valence=1e999&arousal=4", "valence: inf"),
        ("valence=4&arousal=7.1", "arousal: 7.1"),
        ("valence=4&arousal=0.4", "arousal: 0.4"),
    ],
)
def test_what_is_no_point_is_one_line(query: str, said: str, site: Site) -> None:
    answer = site.get(f"/sentence?{query}")
    assert (answer.status, answer.json["error"].startswith(said)) == (400, True)


def test_the_page_says_what_is_searched(site: Site, stores: Path, trained: Run) -> None:
    about = site.get("/about").json
    manifest = open_stores(stores).manifest
    assert about["run"] == str(trained.folder)
    assert about["stores"] == str(stores)
    assert (about["method"], about["style"]) == ("emotionrankclap", "dimensional")
    assert (about["searched"], about["fitting"], about["manifest"], about["labelled"]) == (24, 24, 24, 24)
    assert (about["heard"], about["crop"], about["played"], about["top"]) == (10.0, "start", 600.0, 10)
    assert about["hidden"] == 12  # those trained on
    assert about["fields"] == {
        "split": ["dev", "test", "train"],
        "speaker": [f"s{speaker}" for speaker in range(8)],
        "emotion": sorted(set(manifest.emotion) - {""}),
    }
    assert sum(count for *_, count in about["cloud"]) == 24
    points = {(v, a) for v, a, _ in about["cloud"]}
    assert points == {(round(v, 3), round(a, 3)) for v, a in zip(manifest.valence, manifest.arousal, strict=True)}


def test_a_page_hides_what_was_trained_on_until_its_split_is_ticked(site: Site, stores: Path, trained: Run) -> None:
    assert {hit["split"] for hit in site.ask("calm", 50).json["hits"]} == {"dev", "test"}
    ticked = site.ask("calm", 50, split=["train"]).json
    assert ticked["fit"] == len(ticked["hits"]) == 12
    assert all(hit["trained_on"] for hit in ticked["hits"])
    every = SearchPage.open(stores, trained, among=Filter(split=["all"]))
    assert (every.about["hidden"], len(every.answer(SearchQuery("calm", {}, 50))["hits"])) == (0, 24)


def test_a_page_of_a_filter_knows_nothing_else(stores: Path, trained: Run, index: SpeechIndex) -> None:
    among = Filter(split=["test"])
    page = SearchPage.open(stores, trained, among=among, top=3)
    assert page.about["among"] == {"split": ["test"]}
    assert (page.about["searched"], page.about["fitting"], page.about["top"]) == (6, 6, 3)
    assert page.about["fields"]["split"] == ["test"]
    assert page.clips.rows.tolist() == index.manifest.rows("test").tolist()


def test_stores_say_whether_their_audio_may_lie_outside(site: Site, stores: Path, trained: Run, tmp_path: Path) -> None:
    assert not site.page.clips.outside_root
    shutil.copytree(stores, tmp_path / "stores")
    config = tmp_path / "stores/config.yaml"
    config.write_text(config.read_text().replace("outside_root: false", "outside_root: true"))
    unlisted(tmp_path / "stores")
    page = SearchPage.open(tmp_path / "stores", trained, among=Filter(split=["dev"]))
    assert page.clips.outside_root
    assert page.clips.root == site.page.clips.root == site.page.index.root


def test_a_page_of_nothing_says_so(stores: Path, trained: Run) -> None:
    page = SearchPage.open(stores, trained, among=Filter(split=["dev"], speaker=["s0"], emotion=["happy"]))
    assert (page.about["searched"], page.about["labelled"], page.about["cloud"]) == (0, 0, [])
    assert page.answer(SearchQuery("calm", {}, 5)) == {"asked": "calm", "fit": 0, "hits": []}
    with pytest.raises(ClipError, match="row 0: not among the utterances searched"):
        page.clips.wav(0)


def test_a_cloud_is_a_sample_of_labelled_utterances(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = site.page.index.manifest
    monkeypatch.setattr("pipeline.inference.web.search_page.MAX_POINTS", 10)
    about = replace(site.page, facts={}).about
    assert (about["labelled"], about["drawn"]) == (24, 10)
    assert sum(count for *_, count in about["cloud"]) == 10
    assert {v for v, _, _ in about["cloud"]} <= set(manifest.valence.round(3).tolist())


def test_strange_names_are_printable_and_still_filter(odd: Site, odd_page: SearchPage) -> None:
    about = odd.get("/about").json
    assert one_line(HOSTILE) in about["fields"]["emotion"]
    assert one_line(SURROGATE) in about["fields"]["speaker"]
    assert about["labelled"] == 21  # of 23: one has no valence, one no arousal
    for name, row in ((HOSTILE, 0), (SURROGATE, 20)):
        answer = odd.ask("calm", 50, speaker=[one_line(name)]).json
        assert [(hit["row"], hit["id"], hit["speaker"]) for hit in answer["hits"]] == [(row, *2 * [one_line(name)])]
    everything = odd.ask("calm", 50, split=["all"])
    assert everything.json["fit"] == 23  # one of 24 failed
    assert {hit["row"] for hit in everything.json["hits"]} == {*range(24)} - {FAILED}
    assert [hit["valence"] for hit in everything.json["hits"] if hit["row"] == 21] == [None]
    assert everything.body.isascii()
    assert all(hit["path"].isprintable() and hit["audio"].isprintable() for hit in everything.json["hits"])


def test_values_that_are_shown_alike_are_one_choice(odd_page: SearchPage) -> None:
    first, second = "a\tb", "a\\tb"
    manifest: Manifest = odd_page.index.manifest.take(np.arange(24))
    manifest.speaker[0], manifest.speaker[1] = first, second
    index = replace(odd_page.index, manifest=manifest, columns=UtteranceFilter(manifest))
    page = replace(odd_page, index=index)
    answer = page.answer(SearchQuery("calm", {"speaker": [second]}, 5))
    assert {hit["row"] for hit in answer["hits"]} == {0, 1}
