"""Sentences find utterances, recordings find captions."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.captions import Caption, Captions, write_captions_file
from cache.reader import Store
from cache.stores import open_stores
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing
from pipeline.core.config import TextConfig
from pipeline.core.errors import EmotionRankError, StoreMismatch, UsageError
from pipeline.extraction.encoders import load_encoder
from pipeline.inference.filters import Filter, UtteranceFilter
from pipeline.inference.search import CaptionIndex, NearestNeighbours, SpeechIndex, describe, embed_rows, search
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.stage_two import SETTINGS, small_stores, unlisted

pytestmark = pytest.mark.usefixtures("encoders_loaded_once")
SENTENCES = ["The person is speaking quietly.", "The person is speaking with joy."]
ROWS = 40


def _unit(count: int, width: int = 24, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _naive(
    asked: np.ndarray, found: NearestNeighbours, top: int, allowed: np.ndarray | None = None
) -> list[tuple[int, float]]:
    """Every cosine exactly summed in float64, row by row; the largest first, of equals the lower row."""
    cosines = []
    for row, vector in zip(found.rows.tolist(), found.vectors.tolist(), strict=True):
        if allowed is None or allowed[row]:
            cosines.append((row, math.fsum(a * b for a, b in zip(asked.tolist(), vector, strict=True))))
    return sorted(cosines, key=lambda near: (-near[1], near[0]))[:top]


def _same(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    near = np.allclose([cosine for _, cosine in found], [cosine for _, cosine in expected], rtol=0, atol=1e-12)
    return [row for row, _ in found] == [row for row, _ in expected] and near


@pytest.mark.parametrize("top", [1, 2, 7, 299, 300, 1000])
def test_the_ranking_is_that_of_a_loop_in_float64(top: int) -> None:
    found = NearestNeighbours(np.arange(0, 600, 2), _unit(300))
    allowed = np.random.default_rng(1).random(600) < 0.4
    for among in (None, allowed, np.ones(600, bool), np.zeros(600, bool)):
        asked = _unit(35, seed=2)  # more than are asked in one product
        for one, nearest in zip(asked, found.nearest(asked, top, among), strict=True):
            assert _same(nearest, _naive(one, found, top, among))


@pytest.mark.parametrize("top", [1, 3, 10])
def test_rows_closer_than_float32_can_tell_are_ranked_as_in_float64(top: int) -> None:
    asked = _unit(1)
    vectors = np.repeat(asked, 500, axis=0) + 1e-7 * np.random.default_rng(3).standard_normal((500, 24))
    found = NearestNeighbours(np.arange(500), vectors.astype(np.float32))
    in_float32 = np.argsort(-(asked @ found.vectors.T)[0], kind="stable")[:top].tolist()
    expected = _naive(asked[0], found, top)
    assert in_float32 != [row for row, _ in expected]
    assert _same(found.nearest(asked, top)[0], expected)


@pytest.mark.parametrize("width", [3, 24, 511])
def test_of_equal_rows_the_lower_come_first(width: int) -> None:
    few = _unit(5, width)
    found = NearestNeighbours(np.arange(1000), np.tile(few, (200, 1)))
    nearest = found.nearest(few[:1], 7)[0]
    assert [row for row, _ in nearest] == [0, 5, 10, 15, 20, 25, 30]


def test_an_answer_does_not_depend_on_what_else_is_asked() -> None:
    found, asked = NearestNeighbours(np.arange(3000), _unit(3000)), _unit(20, seed=1)
    together = found.nearest(asked, 9)
    assert together == [found.nearest(one[None], 9)[0] for one in asked]


def test_a_question_without_a_direction_finds_nothing() -> None:
    asked = np.stack([np.zeros(24, np.float32), np.full(24, np.nan, np.float32), _unit(1)[0]])
    assert [len(hits) for hits in NearestNeighbours(np.arange(9), _unit(9)).nearest(asked, 3)] == [0, 0, 3]


def test_no_hits_at_all_cannot_be_asked_for() -> None:
    with pytest.raises(UsageError, match="top 0"):
        NearestNeighbours(np.arange(9), _unit(9)).nearest(_unit(1), 0)


def _spotty_store(path: Path, vectors: np.ndarray, failed: int, pending: int) -> Store:
    ids = [f"u{row}" for row in range(len(vectors))]
    rows = StoreRows(ids, np.zeros((len(ids), 2), np.int64), np.zeros(len(ids), np.int64))
    store, _ = open_for_writing(StoreSpec(path, "audio", rows, dim=vectors.shape[1], dtype="<f4", fingerprint={}))
    with StoreWriter(store) as writer:
        for row, vector in enumerate(vectors):
            if row == failed:
                writer.fail(row, "silent", bytes(16))
            elif row != pending:
                writer.commit(row, vector, bytes(16))
    return store


def test_rows_that_failed_or_wait_or_have_no_direction_are_never_hits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.inference.search.BLOCK_ROWS", 7)  # blocks that end in the middle
    vectors = np.abs(_unit(ROWS, 6))
    vectors[11] = -2  # the heads' ReLU makes zeros of it, and their bias no zeros of a row that is not done
    store = _spotty_store(tmp_path / "audio.h5", vectors, failed=3, pending=20)
    wanted = np.arange(1, ROWS)
    found = embed_rows(store, wanted, lambda v: torch.nn.functional.normalize((v + 1).relu(), dim=1).numpy())
    assert found.rows.tolist() == [row for row in range(1, ROWS) if row not in (3, 11, 20)]
    expected = (vectors + 1) / np.linalg.norm(vectors + 1, axis=1, keepdims=True)
    assert np.allclose(found.vectors, expected[found.rows], atol=1e-6)
    assert len(found.nearest(_unit(1, 6), ROWS)[0]) == ROWS - 4


def test_no_rows_are_an_empty_index(tmp_path: Path) -> None:
    store = _spotty_store(tmp_path / "audio.h5", _unit(4), failed=0, pending=1)
    found = embed_rows(store, np.arange(0), lambda v: v.numpy())
    assert found.nearest(_unit(2), 5) == [[], []]


def test_filters_keep_any_value_of_every_field_named(stores: Path) -> None:
    manifest = open_stores(stores).manifest
    among = Filter(split=["train", "test"], speaker=["s1", "s2"], emotion=["angry", "happy", "sad"])
    expected = [
        manifest.split[row] in among.split
        and manifest.speaker[row] in among.speaker
        and manifest.emotion[row] in among.emotion
        for row in range(len(manifest))
    ]
    assert 0 < sum(expected) < 12
    assert UtteranceFilter(manifest).allowed(among).tolist() == expected
    assert UtteranceFilter(manifest).allowed(Filter()).all()


@pytest.mark.parametrize(
    ("among", "said"),
    [
        (Filter(emotion=["hapy"]), "emotion 'hapy': not in the stores; expected one of angry, "),
        (Filter(emotion=["hapy"]), ". Did you mean 'happy'?"),
        (Filter(split=["tset"]), "'tset': not in the stores; expected one of dev, test, train. Did you mean 'test'?"),
        (Filter(speaker=["s1", "nobody"]), "speaker 'nobody': not in the stores; expected one of s0, s1, s2, s3, s4"),
        (Filter(emotion=[""]), "emotion '': not in the stores; expected one of "),
        (Filter(split=["x"], emotion=["y"]), "emotion 'y': not in the stores"),
        (Filter(split=["x"], emotion=["y"]), "the filter: 2 problems"),
    ],
)
def test_a_value_that_no_utterance_has_is_refused(among: Filter, said: str, index: SpeechIndex) -> None:
    with pytest.raises(UsageError) as error:
        index.ask(SENTENCES, among=among)
    assert said in str(error.value)


def test_hits_are_the_nearest_utterances_with_their_labels(stores: Path, trained: Run) -> None:
    found = search(trained, SENTENCES, top=3, split="test")
    opened, heads = open_stores(stores), trained.heads()
    rows = opened.manifest.rows("test")
    asked = heads.embed_text(load_encoder("text", TextConfig(), "cpu").encode(SENTENCES))
    similarity = asked @ heads.embed_speech(torch.tensor(opened.speech("test"))).T
    for sentence, hits in enumerate(found):
        nearest = similarity[sentence].argsort(descending=True)[:3]
        assert [hit["id"] for hit in hits] == [opened.manifest.id[rows[place]] for place in nearest.tolist()]
        assert np.allclose([hit["similarity"] for hit in hits], similarity[sentence][nearest].detach(), atol=1e-6)
        for hit in hits:
            row = opened.manifest.id.index(hit["id"])
            for name in ("valence", "arousal", "emotion", "speaker", "split"):
                assert hit[name] == getattr(opened.manifest, name)[row]
            assert Path(hit["audio"]).is_file()
            assert Path(hit["audio"]).stem == hit["id"]


def test_one_sentence_is_a_list_of_one(trained: Run, index: SpeechIndex) -> None:
    assert search(trained, SENTENCES[0], emotion=("sad", "calm")) == search(
        trained, SENTENCES[:1], emotion=["calm", "sad"]
    )
    assert index.ask(SENTENCES[0]) == index.ask(SENTENCES)[:1]


def test_a_filter_when_asked_finds_what_one_when_opened_finds(index: SpeechIndex, stores: Path, trained: Run) -> None:
    manifest = open_stores(stores).manifest
    speakers = sorted({manifest.speaker[row] for row in manifest.rows("train")})[:2]
    among = Filter(speaker=speakers, split=["train"])
    asked = index.ask(SENTENCES, among=among, top=50)
    opened = SpeechIndex.open(stores, trained, among=among).ask(SENTENCES, top=50)
    assert [[hit["id"] for hit in hits] for hits in asked] == [[hit["id"] for hit in hits] for hits in opened]
    assert {hit["speaker"] for hits in asked for hit in hits} == set(speakers)


def test_a_label_that_is_not_there_is_none(index: SpeechIndex) -> None:
    manifest = index.manifest.take(np.arange(len(index.manifest)))
    manifest.valence[:] = np.nan
    blank = SpeechIndex(manifest, index.columns, index.neighbours, index.embed)
    hit = blank.ask(SENTENCES[0])[0][0]
    assert hit["valence"] is None
    assert hit["arousal"] > 0


@pytest.mark.parametrize(
    ("sentences", "said"),
    [
        ([], "the sentence: empty"),
        ("", "the sentence: empty"),
        (["a", " \n"], "sentence 2 of 2: empty"),
        (["b\udcff"], "the sentence: not UTF-8"),
    ],
)
def test_what_is_no_sentence_is_refused(sentences: list[str] | str, said: str, trained: Run) -> None:
    with pytest.raises(UsageError, match=said):
        search(trained, sentences)


def test_a_recording_of_the_corpus_is_what_its_row_is(stores: Path, trained: Run, index: SpeechIndex) -> None:
    captions = CaptionIndex.open(stores, trained)
    for row in (0, 5, 23):
        asked = captions.embed(Path(index.root or "") / index.manifest.audio[row])
        assert np.allclose(asked[0], index.neighbours.vectors[row], atol=1e-5)


def test_a_recording_finds_the_nearest_captions_and_their_style(stores: Path, trained: Run) -> None:
    opened, heads = open_stores(stores), trained.heads()
    path = Path(search(trained, SENTENCES[0])[0][0]["audio"])
    row = [Path(audio).name for audio in opened.manifest.audio].index(path.name)
    style_of = {caption.text: caption.style for caption in opened.captions.captions}
    texts = opened.captions.texts()
    rows = np.array([row for row, text in enumerate(texts) if text in style_of])
    speech, _ = opened.audio.read(np.array([row]))
    asked = heads.embed_speech(torch.tensor(speech))
    similarity = (asked @ heads.embed_text(torch.tensor(opened.text.read(rows)[0])).T)[0]
    nearest = similarity.argsort(descending=True)[:4]
    hits = describe(trained, path, top=4)[0]
    assert [hit["text"] for hit in hits] == [texts[rows[place]] for place in nearest.tolist()]
    assert np.allclose([hit["similarity"] for hit in hits], similarity[nearest].detach(), atol=1e-5)
    assert [hit["style"] for hit in hits] == [style_of[hit["text"]] for hit in hits]
    everything = describe(trained, [path, path], top=10_000)
    assert {hit["text"] for hit in everything[1]} == style_of.keys()  # no prompt among them


def test_a_text_of_two_styles_is_one_hit(stores: Path, trained: Run, tmp_path: Path) -> None:
    shutil.copytree(stores, tmp_path / "stores")
    captions = open_stores(stores).captions
    first = captions.captions[0]
    twice = Captions.of(
        [first, Caption("other", first.text, [0]), *captions.captions[1:]], captions.prompts, captions.classes
    )
    write_captions_file(twice, tmp_path / "stores/captions.jsonl")
    unlisted(tmp_path / "stores")
    index = CaptionIndex.open(tmp_path / "stores", trained)
    hits = index.ask([search(trained, SENTENCES[0])[0][0]["audio"]], top=10_000)[0]
    assert [hit["style"] for hit in hits if hit["text"] == first.text] == [f"{first.style}, other"]


@pytest.mark.parametrize(
    ("setting", "other", "asked", "said"),
    [
        ("max_tokens: 512", "max_tokens: 8", "sentence", "another text encoder .*max_tokens"),
        ("crop: start", "crop: center", "recording", "another audio encoder .audio.crop"),
        ("layers: all", "layers: [0, 1]", "recording", "another audio encoder .encoder.layers"),
    ],
)
def test_an_encoder_that_made_other_vectors_is_refused(
    setting: str, other: str, asked: str, said: str, stores: Path, trained: Run, tmp_path: Path
) -> None:
    shutil.copytree(stores, tmp_path / "stores")
    config = tmp_path / "stores/config.yaml"
    text = config.read_text()
    assert setting in text
    config.write_text(text.replace(setting, other))
    unlisted(tmp_path / "stores")
    with pytest.raises(StoreMismatch, match=said) as error:
        search(trained, SENTENCES, stores=tmp_path / "stores") if asked == "sentence" else describe(
            trained, "any.wav", stores=tmp_path / "stores"
        )
    assert error.value.exit_code == 4


def test_a_run_of_other_vectors_as_wide_as_these_is_refused(stores: Path, trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    about = json.loads((tmp_path / "run/run.json").read_text())
    about["fingerprint"]["audio"]["decoding"]["crop"] = "center"
    (tmp_path / "run/run.json").write_text(json.dumps(about))
    unlisted(tmp_path / "run")
    for ask in (search, describe):
        with pytest.raises(StoreMismatch, match=r"audio\.crop") as error:
            ask(tmp_path / "run", "calm", stores=stores)
        assert error.value.exit_code == 4


def test_a_run_of_other_stores_is_refused(stores: Path, tmp_path: Path) -> None:
    other = train(small_stores(tmp_path / "stores"), overrides=SETTINGS, out=tmp_path / "run")
    for ask in (search, describe):
        with pytest.raises(StoreMismatch) as error:
            ask(other, "calm", stores=stores)
        assert error.value.exit_code == 4


def test_stores_without_a_config_are_refused_in_a_line(tmp_path: Path) -> None:
    """Planted stores have none: which encoder made them cannot be known."""
    other = train(small_stores(tmp_path / "stores"), overrides=SETTINGS, out=tmp_path / "run")
    with pytest.raises(EmotionRankError, match=r"config\.yaml"):
        search(other, "calm")


def test_stores_that_are_not_there_are_refused(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        search(trained, "calm", stores=tmp_path / "nothing")
