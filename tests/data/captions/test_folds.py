"""Captions planned anew in folds: no test wording is trained on, and nothing is encoded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.captions import Captions
from cache.manifest import SPLITS, Manifest
from cache.pairs import cached_pairs
from cache.stores import Stores
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import UsageError
from pipeline.data.captions import Acoustics, CaptionSource, assign_captions
from pipeline.data.captions.dimensional import describe_point
from pipeline.data.captions.folds import captions_for_splits
from pipeline.evaluation.folds import speaker_folds
from pipeline.extraction.audio.praat import NAMES
from pipeline.training.train import train
from tests.data.captions.test_assign import corpora, corpus
from tests.data.captions.test_word_norms import made_up, norms_file
from tests.planted import plant
from tests.stage_two import SETTINGS

STYLES = ("dimensional", "template", "clap4emo", "acoustic", "file")
COMMON = ("template", "acoustic")


def speakers(count: int = 240) -> Manifest:
    draw = np.random.default_rng(0)
    manifest = corpus(draw.uniform(1, 7, count), draw.uniform(1, 7, count))
    speaker = [f"s{row % 8}" for row in range(count)]
    split = ["test1" if who in ("s6", "s7") else "dev" if who == "s5" else "train" for who in speaker]
    emotion = draw.choice(["angry", "sad", "contempt", "happy"], count).tolist()
    return replace(manifest, speaker=speaker, split=split, emotion=emotion, gender=["female", "male"] * (count // 2))


def captions_file(folder: Path, manifest: Manifest) -> Path:
    """A caption of every second utterance, a few of each emotion for all splits, and the text of a prompt."""
    lines = [{"id": name, "text": f"By its name, {name}."} for name in manifest.id[::2]]
    lines += [{"emotion": "angry", "text": f"Anger in general {number}."} for number in range(3)]
    lines += [{"id": "u1", "text": describe_point(3, 4, split="test", variant=2)}]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def assigned(folder: Path, manifest: Manifest, **settings: object) -> Captions:
    acoustics = Acoustics(NAMES, np.random.default_rng(1).integers(0, 9, (len(manifest), len(NAMES))).astype("f4"))
    files = (captions_file(folder, manifest),)
    config = CaptionsConfig.model_validate({"styles": STYLES, "files": files, **settings})
    return assign_captions(CaptionSource(manifest, acoustics), config)


def texts_of(captions: Captions, style: str, rows: np.ndarray) -> list[set[str]]:
    texts = captions.texts()
    links = captions.links(style, 240)
    return [{texts[j] for j in links.text[links.offsets[row] : links.offsets[row + 1]]} for row in rows.tolist()]


@pytest.mark.parametrize("fold", range(3))
def test_no_text_of_a_test_utterance_or_a_prompt_is_trained_on(fold: int, tmp_path: Path) -> None:
    manifest = speakers()
    captions = assigned(tmp_path, manifest, word_norms=norms_file(tmp_path, *made_up(30)))
    parts = speaker_folds(manifest, folds=3)[fold]
    planned = captions_for_splits(captions, manifest, parts.splits())
    assert planned.texts() == captions.texts()
    every = {style: texts_of(planned, style, np.arange(240)) for style in STYLES}
    held_back = {prompt.text for prompt in planned.prompts}
    held_back |= {text for style in STYLES for row in parts.test.tolist() for text in every[style][row]}
    for style in set(STYLES) - set(COMMON):
        for row in (*parts.train.tolist(), *parts.dev.tolist()):
            assert not every[style][row] & held_back, style
    assert not {text.text for text in planned.grid} & held_back
    for style in (*COMMON, "dimensional", "clap4emo"):  # a file's captions alone are left out
        before, after = (np.diff(each.links(style, 240).offsets).tolist() for each in (captions, planned))
        assert before == after, style
        assert set(before) == {1 if style in COMMON else 4}
    assert np.diff(planned.links("file", 240).offsets).sum() < np.diff(captions.links("file", 240).offsets).sum()
    for style in COMMON:
        assert planned.captions.of_style(style) == captions.captions.of_style(style)


@pytest.mark.parametrize("fold", range(3))
def test_the_grammars_captions_are_those_of_a_manifest_with_these_splits(fold: int, tmp_path: Path) -> None:
    manifest = speakers()
    split = speaker_folds(manifest, folds=3)[fold].splits()
    planned = captions_for_splits(assigned(tmp_path, manifest), manifest, split)
    anew = assigned(tmp_path, replace(manifest, split=split))
    for style in ("dimensional", "template"):
        assert planned.captions.of_style(style) == anew.captions.of_style(style)
    changed = [
        row for row, (a, b) in enumerate(zip(split, manifest.split, strict=True)) if ("test" in a) != ("test" in b)
    ]
    assert len(changed) > 50


@settings(deadline=None, max_examples=30)
@given(corpora, st.data())
def test_any_splits_are_as_if_they_were_the_manifests(manifest: Manifest, data: st.DataObject) -> None:
    split = data.draw(st.lists(st.sampled_from(SPLITS), min_size=len(manifest), max_size=len(manifest)))
    config = CaptionsConfig(styles=("dimensional",), per_utterance=2)
    captions = assign_captions(CaptionSource(manifest), config)
    planned = captions_for_splits(captions, manifest, split)
    assert planned == assign_captions(CaptionSource(replace(manifest, split=split)), config)
    assert planned.texts() == captions.texts()
    back = captions_for_splits(planned, manifest, manifest.split)
    assert back == captions
    assert back.texts() == captions.texts()


def test_clap4emo_changes_to_stored_captions_of_the_same_emotion_and_of_different_sentences(tmp_path: Path) -> None:
    manifest = speakers()
    captions = assigned(tmp_path, manifest)
    built_in = captions.captions.of_style("clap4emo")
    wording = {each.text: "test" in manifest.split[each.rows[0]] for each in built_in}
    emotions = {each.text: manifest.emotion[each.rows[0]] for each in built_in}
    fold = speaker_folds(manifest, folds=3)[1]
    planned = captions_for_splits(captions, manifest, fold.splits())
    again = captions_for_splits(captions, manifest, fold.splits())
    assert planned == again
    for row, texts in enumerate(texts_of(planned, "clap4emo", np.arange(240))):
        assert {wording[text] for text in texts} == {row in fold.test}
        assert {emotions[text] for text in texts} == {manifest.emotion[row]}
        assert len({text.split()[0] + text.split()[-1] for text in texts}) > 1
    other = ["train" if split == "test1" else split for split in manifest.split]
    kept = captions_for_splits(captions, manifest, [*other[:-1], "test"])  # few stored texts are enough for one
    assert np.diff(kept.links("clap4emo", 240).offsets).tolist() == [4] * 240


def test_without_stored_captions_of_the_other_wording_clap4emo_stays_and_what_is_shared_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = replace(speakers(), split=["train"] * 240)
    captions = assigned(tmp_path, manifest, styles=("clap4emo",))
    split = speaker_folds(manifest, folds=3)[0].splits()
    planned = captions_for_splits(captions, manifest, split)
    test = np.array([each == "test" for each in split])
    shared = dropped = 0
    for caption in captions.captions:
        rows = np.asarray(caption.rows)
        if test[rows].any() and not test[rows].all():
            shared, dropped = shared + 1, dropped + int((~test[rows]).sum())
    assert dropped
    assert len(planned.links("clap4emo", 240).text) == 240 * 4 - dropped
    (note,) = planned.notes
    assert note.startswith(
        f"captions in folds: {shared} clap4emo captions are prompts or describe test utterances too; "
    )
    assert f" training and development utterances ({dropped} times), " in note
    assert note in capsys.readouterr().err


def test_the_manifests_own_splits_change_nothing(tmp_path: Path) -> None:
    manifest = speakers()
    captions = assigned(tmp_path, manifest, styles=STYLES[:-1])
    planned = captions_for_splits(captions, manifest, manifest.split)
    assert planned == captions
    assert planned.notes == ()
    for style in STYLES[:-1]:
        ours, theirs = planned.links(style, 240), captions.links(style, 240)
        assert np.array_equal(ours.offsets, theirs.offsets)
        assert np.array_equal(ours.text, theirs.text)


def test_whole_grammar_texts_of_a_file_that_test_utterances_have_are_left_out(tmp_path: Path) -> None:
    manifest = speakers()
    path = tmp_path / "mine.jsonl"
    lines = [{"id": name, "style": "dimensional", "text": f"Voice {row % 40}."} for row, name in enumerate(manifest.id)]
    grid = [
        {"use": "grid", "style": "dimensional", "valence": 3, "arousal": 4, "text": f"Voice {row}."}
        for row in range(50)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *grid]))
    captions = assign_captions(CaptionSource(manifest), CaptionsConfig(styles=("dimensional",), files=(path,)))
    split = ["test" if row % 40 < 7 else "train" for row in range(240)]
    planned = captions_for_splits(captions, manifest, split)
    assert [text.text for text in planned.grid] == [f"Voice {row}." for row in range(7, 50)]
    assert planned.notes == (
        "captions in folds: 7 whole-grammar texts are left out: prompts, or texts of test utterances",
    )
    assert planned.texts() == captions.texts()


@pytest.mark.parametrize("lacking", [{"grid": False}, {"prompt_variants": 3}])
def test_a_sentence_that_is_not_stored_is_one_clear_refusal(lacking: dict[str, object], tmp_path: Path) -> None:
    manifest = speakers()
    captions = assigned(tmp_path, manifest, **lacking)
    with pytest.raises(
        UsageError, match=r"sentences that utterances need .*Run extract-features again with both"
    ) as caught:
        captions_for_splits(captions, manifest, ["test" if s == "train" else "train" for s in manifest.split])
    assert "\n" not in str(caught.value)
    assert captions_for_splits(captions, manifest, manifest.split).texts() == captions.texts()
    with pytest.raises(UsageError, match="3 splits; expected 240, one an utterance"):
        captions_for_splits(captions, manifest, ["train"] * 3)


# ---- the stores


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return plant(tmp_path / "s", {"train": 48, "dev": 16, "test": 16}, audio_width=6, text_width=5, grid=True)


def test_pairs_of_a_fold_have_the_vectors_of_their_new_captions(stores: Stores) -> None:
    split = [*["test"] * 20, *["train"] * 44, *["dev"] * 16]
    view = stores.with_splits(split, captions_for_splits(stores.captions, stores.manifest, split))
    assert view.captions is not stores.captions
    for part, wording in (("test", "test"), ("train", "train"), ("dev", "train")):
        pairs = cached_pairs(view, part, style="dimensional")
        assert pairs.offsets.diff().tolist() == [4] * split.count(part)
        for place, row in enumerate(pairs.rows.tolist()):
            point = stores.manifest.valence[row], stores.manifest.arousal[row]
            sentences = [describe_point(*point, split=wording, variant=variant) for variant in range(8)]
            vectors = stores.text.read(
                np.array([stores.text.ids.index(each) for each in sentences if each in stores.text.ids])
            )[0]
            mine = pairs.text[pairs.caption[pairs.offsets[place] : pairs.offsets[place + 1]]].numpy()
            assert {vector.tobytes() for vector in mine} <= {vector.tobytes() for vector in vectors}


def test_a_fold_of_the_manifests_own_splits_trains_the_same_heads(stores: Stores, tmp_path: Path) -> None:
    split = stores.manifest.split
    view = stores.with_splits(split, captions_for_splits(stores.captions, stores.manifest, split))
    runs = [
        train(each, out=tmp_path / name, overrides=SETTINGS, device="cpu")
        for name, each in (("a", stores), ("b", view))
    ]
    first, second = (sorted(run.folder.rglob("heads.safetensors")) for run in runs)
    assert first
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_captions_of_other_texts_are_refused(stores: Stores) -> None:
    split = stores.manifest.split
    with pytest.raises(UsageError, match="captions of other texts"):
        stores.with_splits(split, replace(stores.captions, grid=Captions().grid))
