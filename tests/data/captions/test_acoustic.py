"""Acoustic captions: labels, levels from the training split, phrases joined by "and"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.captions import read_captions, write_captions_file
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig, ExtractConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import UsageError
from pipeline.data.captions import Acoustics, CaptionSource
from pipeline.data.captions.acoustic import assign_acoustic
from pipeline.extraction.audio.praat import NAMES

CONFIG = CaptionsConfig()


def manifest(split, emotion=None, gender=None):
    count = len(split)
    blank, absent = [""] * count, np.full(count, np.nan)
    return Manifest(
        root=Path("."), id=[f"u{i}" for i in range(count)], audio=[f"{i}.wav" for i in range(count)], split=list(split),
        valence=absent, arousal=absent, dominance=absent, emotion=list(emotion or blank), speaker=blank,
        gender=list(gender or blank), intensity=blank, caption=blank,
    )  # fmt: skip


def assigned(values, split=None, *, names=("pitch_mean",), config=CONFIG, **labels):
    values = np.asarray(values, dtype=np.float32).reshape(-1, len(names))
    corpus = manifest(split or ["train"] * len(values), **labels)
    return assign_acoustic(CaptionSource(corpus, Acoustics(tuple(names), values)), config)


def texts(*arguments, **options):
    """row -> its captions"""
    found = {}
    for caption in assigned(*arguments, **options).captions:
        for row in caption.rows:
            found.setdefault(row, []).append(caption.text)
    return found


def words(*arguments, **options):
    """The first word of each row's only caption."""
    found = texts(*arguments, **options)
    assert all(len(captions) == 1 for captions in found.values())
    return [found[row][0].split()[0] for row in sorted(found)]


def test_three_tenths_are_low_and_three_tenths_high_the_boundaries_with_them():
    values = np.arange(11.0)  # the quantiles are 3 and 7
    expected = ["low"] * 4 + ["normal"] * 3 + ["high"] * 4
    assert words(values) == expected
    assert words(values[::-1]) == expected[::-1]


def test_another_configs_quantiles_move_the_boundaries():
    config = CaptionsConfig(quantiles=(0.1, 0.5))
    assert words(np.arange(11.0), config=config) == ["low"] * 2 + ["normal"] * 3 + ["high"] * 6


def test_every_feature_has_its_phrase_and_and_joins_them():
    values = np.arange(11.0)[:, None] + np.zeros((11, len(NAMES)))
    values[:, NAMES.index("jitter_local")] *= -1
    found = texts(values, names=NAMES)
    assert found[10] == [
        "high pitch and high pitch variation and high intensity and low jitter and high shimmer"
        " and high articulation rate and long duration"
    ]
    assert found[0] == [
        "low pitch and low pitch variation and low intensity and high jitter and low shimmer"
        " and low articulation rate and short duration"
    ]
    assert all(phrase.startswith("normal ") for phrase in found[5][0].split(" and "))


FIVE = {"emotion": ["angry", "disgust", "", "sad", ""], "gender": ["female", "", "male", "female", ""]}


def only_texts(config=CONFIG, split=None, **labels):
    """The only caption of each of five utterances, whose voices are all alike."""
    found = texts(np.zeros(5), split, config=config, **labels)
    assert all(len(captions) == 1 for captions in found.values())
    return [found[row][0] for row in range(5)]


def test_the_emotion_and_the_gender_come_before_the_voice_and_the_unknown_is_left_out():
    assert only_texts(**FIVE) == [
        "emotion is angry and speaker is female and normal pitch",
        "emotion is disgust and normal pitch",
        "speaker is male and normal pitch",
        "emotion is sad and speaker is female and normal pitch",
        "normal pitch",
    ]


@pytest.mark.parametrize(
    ("labels", "first"),
    [
        ((), "normal pitch"),
        (("emotion",), "emotion is angry and normal pitch"),
        (("gender",), "speaker is female and normal pitch"),
        (("gender", "emotion"), "speaker is female and emotion is angry and normal pitch"),
        (("emotion", "emotion"), "emotion is angry and normal pitch"),
    ],
)
def test_a_config_chooses_the_labels_and_their_order(labels, first):
    assert only_texts(CaptionsConfig(acoustic_labels=labels), **FIVE)[0] == first


def test_without_labels_a_caption_is_the_voice_alone():
    config = CaptionsConfig(acoustic_labels=())
    assert only_texts(config, **FIVE) == only_texts(config) == only_texts() == ["normal pitch"] * 5


def test_captions_of_every_split_carry_the_label():
    split = ["train", "dev", "test", "test1", "test3"]
    assert only_texts(split=split, emotion=["sad"] * 5) == ["emotion is sad and normal pitch"] * 5


def test_utterances_share_a_caption_only_if_labels_and_voice_agree():
    emotion, gender = ["sad", "sad", "sad", "angry", "sad"], ["male", "male", "female", "male", "male"]
    captions = assigned([0.0, 0.0, 0.0, 0.0, 9.0], emotion=emotion, gender=gender).captions
    assert sorted(list(caption.rows) for caption in captions) == [[0, 1], [2], [3], [4]]


def test_labels_move_no_quantile():
    values = np.random.default_rng(0).normal(size=30)
    labelled = texts(values, emotion=["happy", "sad", ""] * 10, gender=["male", "female"] * 15)
    assert {row: found[0].split(" and ")[-1] for row, found in labelled.items()} == {
        row: found[0] for row, found in texts(values).items()
    }


def test_only_an_emotion_and_a_gender_can_be_said():
    with pytest.raises(UsageError, match=r"acoustic_labels\.0 = 'speaker'"):
        load_config(ExtractConfig, None, ["captions.acoustic_labels=[speaker]"], kind="corpora")


@pytest.mark.parametrize("other", ["dev", "test", "test1", "test3"])
def test_quantiles_come_from_training_utterances_alone(other):
    draw = np.random.default_rng(0)
    split = ["train", other] * 30
    values = draw.normal(size=(60, 3))
    changed = np.where(np.array(split)[:, None] == "train", values, 100 * draw.normal(size=(60, 3)))
    names = ("pitch_mean", "jitter_local", "duration")
    before, after = (texts(each, split, names=names) for each in (values, changed))
    assert {row: before[row] for row in range(0, 60, 2)} == {row: after[row] for row in range(0, 60, 2)}
    assert before != after  # the others' own captions did change


def test_a_training_utterance_that_is_not_done_moves_no_quantile_and_has_no_caption():
    whole = texts(np.arange(11.0))
    nan = np.nan
    assert texts([*np.arange(11.0), nan, nan, nan]) == whole
    partly = np.array([*[[v, v] for v in np.arange(11.0)], [1e6, nan], [nan, -1e6]])
    found = texts(partly, names=("pitch_mean", "duration"))
    assert sorted(found) == list(range(11))
    assert [found[row][0].split()[0] for row in range(11)] == [whole[row][0].split()[0] for row in range(11)]


def test_a_feature_that_never_changes_is_normal():
    assert words(np.full(9, 2.5)) == ["normal"] * 9
    assert words(np.zeros(1)) == ["normal"]
    mostly = [0.0] * 9 + [1.0]  # both quantiles are 0, as of jitter in a corpus of whispers
    assert words(mostly) == ["normal"] * 9 + ["high"]


def test_values_at_a_crowded_end_keep_their_name():
    cropped = [1.0, 2.0, 3.0, 4.0, 5.0, *[10.0] * 5]  # durations that the crop cut off
    assert words(cropped, names=("duration",)) == ["short"] * 3 + ["normal"] * 2 + ["long"] * 5


features = st.floats(-1e6, 1e6, width=32) | st.just(float("nan"))
rows = st.lists(st.tuples(st.lists(features, min_size=3, max_size=3), st.sampled_from(["train", "dev", "test"])))


@given(rows)
def test_every_utterance_that_is_done_has_one_caption_and_texts_are_distinct(table):
    table = [([1.0, 2.0, 3.0], "train"), *table]
    values = np.array([row for row, _ in table])
    captions = assigned(
        values, [split for _, split in table], names=("pitch_mean", "jitter_local", "duration")
    ).captions
    assert sorted(row for c in captions for row in c.rows) == np.flatnonzero(np.isfinite(values).all(1)).tolist()
    assert len({c.text for c in captions}) == len(captions)
    assert all(c.style == "acoustic" and list(c.rows) == sorted(c.rows) for c in captions)


def test_captions_come_back_from_the_file(tmp_path):
    made = assigned(np.random.default_rng(0).normal(size=(40, 7)), names=NAMES)
    write_captions_file(made, tmp_path / "captions.jsonl")
    assert read_captions(tmp_path / "captions.jsonl") == made


def test_without_features_the_error_says_what_to_run():
    with pytest.raises(UsageError, match="no acoustic features"):
        assign_acoustic(CaptionSource(manifest(["train"])), CONFIG)


@pytest.mark.parametrize(("values", "split"), [([1.0, 2.0], ["test", "dev"]), ([np.nan, 1.0], ["train", "dev"])])
def test_without_a_training_utterance_nothing_is_fitted(values, split):
    with pytest.raises(UsageError, match="no training utterance"):
        assigned(values, split)
