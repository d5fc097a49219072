"""Which texts describe which utterances."""

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.captions import Captions, read_captions, write_captions_file
from cache.manifest import SPLITS, Manifest
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions import STYLES, Acoustics, CaptionSource
from pipeline.data.captions import assign_captions as assign_source
from pipeline.data.captions.category import category_words
from pipeline.data.captions.dimensional import describe_point
from pipeline.extraction.audio.praat import NAMES


def assign_captions(manifest: Manifest, config: CaptionsConfig) -> Captions:
    return assign_source(CaptionSource(manifest), config)


def corpus(valence, arousal, split=None, names=None):
    count = len(valence)
    blank = [""] * count
    return Manifest(
        root=Path("."),
        id=list(names or (f"u{i}" for i in range(count))),
        audio=[f"u{i}.wav" for i in range(count)],
        split=list(split or ["train"] * count),
        valence=np.asarray(valence, dtype=float),
        arousal=np.asarray(arousal, dtype=float),
        dominance=np.full(count, np.nan),
        emotion=blank,
        speaker=blank,
        gender=blank,
        intensity=blank,
        caption=blank,
    )


labels = st.floats(0.5, 7) | st.just(float("nan"))
corpora = st.lists(st.tuples(labels, labels, st.sampled_from(SPLITS)), max_size=40).map(
    lambda rows: corpus([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
)
configs = st.builds(
    CaptionsConfig, per_utterance=st.integers(1, 8), prompt_variants=st.integers(1, 8), seed=st.integers(0, 2**40)
)


def _texts_of(manifest, config, row):
    return [c.text for c in assign_captions(manifest, config).captions if row in c.rows]


@settings(deadline=None)
@given(corpora, configs)
def test_every_labelled_utterance_gets_its_paraphrases_at_its_own_level_and_template_split(manifest, config):
    found = assign_captions(manifest, config)
    for row in range(len(manifest)):
        v, a = manifest.valence[row], manifest.arousal[row]
        texts = [c.text for c in found.captions if row in c.rows]
        if np.isnan(v) or np.isnan(a):
            assert texts == []
            continue
        split = "test" if manifest.split[row].startswith("test") else "train"
        written = {describe_point(v, a, split=split, variant=k) for k in range(8)}
        assert len(texts) == len(set(texts)) == config.per_utterance
        assert set(texts) <= written


@settings(deadline=None)
@given(corpora, configs)
def test_a_text_appears_once_with_its_rows_ascending(manifest, config):
    captions = assign_captions(manifest, config).captions
    assert len({c.text for c in captions}) == len(captions)
    for caption in captions:
        assert caption.rows
        assert list(caption.rows) == sorted(set(caption.rows))


@settings(deadline=None)
@given(corpora, configs)
def test_captions_come_back_from_the_file_and_link_to_their_utterances(tmp_path_factory, manifest, config):
    found = assign_captions(manifest, config)
    path = tmp_path_factory.mktemp("captions") / "captions.jsonl"
    write_captions_file(found, path)
    back = read_captions(path)
    assert back == found
    texts, links = back.texts(), back.links("dimensional", len(manifest))
    for row in range(len(manifest)):
        linked = [texts[j] for j in links.text[links.offsets[row] : links.offsets[row + 1]]]
        assert linked == [c.text for c in found.captions if row in c.rows]


def test_the_prompts_are_the_whole_grid_of_the_ordinality_test_in_test_templates():
    prompts = assign_captions(corpus([], []), CaptionsConfig(prompt_variants=3)).prompts
    grid = [0.5 * step for step in range(1, 15)]
    assert {(p.valence, p.arousal, p.variant) for p in prompts} == {
        (v, a, k) for v in grid for a in grid for k in range(3)
    }
    assert len(prompts) == 14 * 14 * 3
    for p in prompts:
        assert p.style == "dimensional"
        assert p.text == describe_point(p.valence, p.arousal, split="test", variant=p.variant)


def test_the_whole_grammar_texts_are_every_training_sentence_and_never_a_prompt():
    found = assign_captions(corpus([4.1, 2], [3, 6], ["train", "test1"]), CaptionsConfig())
    values = [0.5 * step for step in range(1, 15)]
    points = [(v, a, k) for v in values for a in values for k in range(8)]
    assert sorted((g.valence, g.arousal, g.variant) for g in found.grid) == sorted(points)
    assert {g.style for g in found.grid} == {"dimensional"}
    for g in found.grid:
        assert g.text == describe_point(g.valence, g.arousal, split="train", variant=g.variant)
    texts = {g.text for g in found.grid}
    assert len(texts) == 1568
    assert not texts & {p.text for p in found.prompts}
    assert {c.text for c in found.captions if 0 in c.rows} <= texts
    assert not texts & {c.text for c in found.captions if 1 in c.rows}


def test_without_the_grid_nothing_else_changes():
    manifest = corpus([4.1, 2], [3, 6], ["train", "test1"])
    found, without = (assign_captions(manifest, CaptionsConfig(grid=grid)) for grid in (True, False))
    assert replace(found, grid=without.grid) == without
    assert not without.grid
    assert found.texts()[: len(without.texts())] == without.texts()


def test_an_utterance_keeps_its_paraphrases_when_the_manifest_grows_around_it():
    config = CaptionsConfig(per_utterance=2)
    alone = corpus([3.2], [5.1], names=["b"])
    among = corpus([1.0, 3.2, 6.0], [2.0, 5.1, 6.0], names=["a", "b", "c"])
    assert _texts_of(alone, config, 0) == _texts_of(among, config, 1)


def test_the_seed_changes_the_paraphrases_and_all_are_used_alike():
    manifest = corpus([4.0] * 4000, [4.0] * 4000)
    first, second = (assign_captions(manifest, CaptionsConfig(per_utterance=2, seed=seed)).captions for seed in (0, 1))
    assert [c.rows for c in first] != [c.rows for c in second]
    for caption in first:
        assert 850 < len(caption.rows) < 1150  # 1000 each, sd 27


def test_the_assignment_does_not_depend_on_the_hash_seed():
    code = (
        "import pickle, sys;"
        "from pipeline.core.config import CaptionsConfig;"
        "from pipeline.data.captions import CaptionSource, assign_captions;"
        "print(assign_captions(CaptionSource(pickle.load(sys.stdin.buffer)), CaptionsConfig()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).resolve().parents[3],
            env={**os.environ, "PYTHONHASHSEED": seed},
            input=pickle.dumps(corpus([1, 3.2, 6], [2, 5.1, 6])),
            capture_output=True,
            check=True,
        ).stdout.decode()
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "The person is speaking" in outputs.pop()


def test_a_label_off_the_scale_names_the_utterance_and_the_setting():
    with pytest.raises(UsageError, match=r"u1: arousal: 9 .*Set corpus.scale"):
        assign_captions(corpus([4, 4], [4, 9]), CaptionsConfig())


def test_the_assignment_for_the_papers_corpus_takes_about_a_second():
    from time import perf_counter

    draw = np.random.default_rng(0)
    manifest = corpus(draw.uniform(1, 7, 90_022), draw.uniform(1, 7, 90_022))
    start = perf_counter()
    assign_captions(manifest, CaptionsConfig())
    assert perf_counter() - start < 3  # measured: 0.14 s on two quiet cores


def test_another_style_plugs_in_by_its_name_and_an_unknown_one_is_a_usage_error(monkeypatch):
    config = CaptionsConfig.model_construct(styles=("other", "dimensional"), per_utterance=1, prompt_variants=1, seed=0)
    with pytest.raises(UsageError, match="other: no such style; expected dimensional"):
        assign_captions(corpus([4], [4]), config)
    monkeypatch.setitem(
        STYLES, "other", lambda source, config: STYLES["dimensional"](CaptionSource(source.manifest.head(0)), config)
    )
    assert len(assign_captions(corpus([4], [4]), config).prompts) == 2 * 14 * 14


def test_captions_of_a_file_take_the_place_of_the_built_in_and_keep_its_prompts(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"use":"caption","style":"dimensional","id":"u0","text":"The person is speaking as I say."}\n'
        '{"use":"caption","id":"u1","text":"A caption of my own."}\n'
    )
    manifest = corpus([4, 5], [4, 5])
    found = assign_captions(manifest, CaptionsConfig(files=(path,), styles=("dimensional", "file")))
    assert [(c.style, c.text, list(c.rows)) for c in found.captions] == [
        ("dimensional", "The person is speaking as I say.", [0]),
        ("file", "A caption of my own.", [1]),
    ]
    assert found.prompts == assign_captions(manifest, CaptionsConfig()).prompts
    assert found.grid == assign_captions(manifest, CaptionsConfig()).grid
    with pytest.raises(UsageError, match="no captions of style file"):
        assign_captions(manifest, CaptionsConfig(styles=("file",)))


def test_the_grid_of_a_file_takes_the_place_of_the_built_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"use":"caption","style":"dimensional","id":"u0","text":"The person is speaking as I say."}\n'
        '{"use":"grid","style":"dimensional","valence":6.5,"arousal":2,"text":"The person is speaking at ease."}\n'
        '{"use":"grid","style":"dimensional","valence":6.5,"arousal":2,"text":"A calm and happy voice."}\n'
        '{"use":"caption","id":"u0","text":"A caption of my own."}\n'
        '{"use":"grid","valence":1,"arousal":1.25,"text":"A flat voice."}\n'
    )
    config = CaptionsConfig(files=(path,), styles=("dimensional", "file"))
    found = assign_captions(corpus([4], [4]), config)
    assert list(found.grid) == [
        ("dimensional", "The person is speaking at ease.", 6.5, 2.0, 0),
        ("dimensional", "A calm and happy voice.", 6.5, 2.0, 1),
        ("file", "A flat voice.", 1.0, 1.25, 0),
    ]
    assert not assign_captions(corpus([4], [4]), config.model_copy(update={"grid": False})).grid


def test_the_shipped_words_write_the_captions_that_stores_of_earlier_versions_hold(tmp_path: Path) -> None:
    """Another word in `configs/captions/` is another text to encode: whoever means it changes the checksum."""
    draw = np.random.default_rng(0)
    manifest = corpus(draw.uniform(0.5, 7, 600), draw.uniform(0.5, 7, 600), ["train", "dev", "test1"] * 200)
    manifest = replace(manifest, emotion=list(category_words()["lexicon"]) * 50, gender=["female", "male", ""] * 200)
    source = CaptionSource(manifest, Acoustics(NAMES, draw.integers(0, 9, (600, len(NAMES))).astype(np.float32)))
    styles = ("dimensional", "template", "clap4emo", "acoustic")
    path = tmp_path / "captions.jsonl"
    write_captions_file(assign_source(source, CaptionsConfig(styles=styles, grid=False)), path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == "3308b0a666114021c9b827961dcc190b29420a109f31108d4e6b8740b173a19e"
    earlier = path.read_bytes()
    write_captions_file(assign_source(source, CaptionsConfig(styles=styles)), path)
    assert path.read_bytes().startswith(earlier)  # whole-grammar texts come last
    assert path.read_bytes().count(b'"use": "grid"') == 14 * 14 * 8
