"""Folds: every utterance tested once, no speaker on both sides, development data never from the test speakers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from cache.captions import ClassPrompt
from cache.manifest import Manifest
from pipeline.core.errors import UsageError
from pipeline.data.captions.category import category_words, class_prompts
from pipeline.evaluation.folds import leave_one_speaker_out, session_folds, speaker_folds
from pipeline.evaluation.recognition import IEMOCAP_CLASSES, IEMOCAP_MERGE, pooled_recognition, recognition


def manifest_of(ids: list[str], speakers: list[str], emotions: list[str] | None = None) -> Manifest:
    blank, none = [""] * len(ids), np.full(len(ids), np.nan)
    return Manifest(
        root=Path("."),
        id=ids,
        audio=[f"{name}.wav" for name in ids],
        split=["train"] * len(ids),
        valence=none,
        arousal=none,
        dominance=none,
        emotion=emotions or blank,
        speaker=speakers,
        gender=blank,
        intensity=blank,
        caption=blank,
    )


def iemocap(turns: int = 40) -> Manifest:
    """Five sessions of two speakers; the first letter of a turn says who wore the markers, not who speaks (F31)."""
    emotions = ("angry", "happy", "excited", "neutral", "sad", "frustrated", "fearful")
    drawn = np.random.default_rng(0)
    ids, speakers, felt = [], [], []
    for session in range(1, 6):
        for turn in range(turns + session):
            letter = "FM"[turn % 2]
            ids.append(f"Ses0{session}{'FM'[turn // 2 % 2]}_impro01_{letter}{turn:03}")
            speakers.append(f"Ses0{session}{letter}")
            felt.append(emotions[drawn.integers(len(emotions))])
    return manifest_of(ids, speakers, felt)


def some_corpus(sizes: list[int]) -> Manifest:
    speakers = [f"s{i}" for i, size in enumerate(sizes) for _ in range(size)]
    order = np.random.default_rng(1).permutation(len(speakers))
    return manifest_of([f"u{i}" for i in order], [speakers[i] for i in order])


def assert_sound(manifest: Manifest, folds: list) -> None:
    count = len(manifest)
    assert sorted(row for fold in folds for row in fold.test) == list(range(count))
    for fold in folds:
        parts = (fold.train, fold.dev, fold.test)
        assert sorted(np.concatenate(parts)) == list(range(count))
        assert all(len(part) and (np.diff(part) > 0).all() for part in parts)
        train, dev, test = ({manifest.speaker[row] for row in part} for part in parts)
        assert not train & dev
        assert not train & test
        assert not dev & test


def test_one_session_is_left_out_at_a_time() -> None:
    manifest = iemocap()
    folds = session_folds(manifest)
    assert_sound(manifest, folds)
    assert [fold.name for fold in folds] == ["Ses01", "Ses02", "Ses03", "Ses04", "Ses05"]
    for fold, dev in zip(folds, ["Ses02", "Ses03", "Ses04", "Ses05", "Ses01"], strict=True):
        assert {manifest.speaker[row] for row in fold.test} == {f"{fold.name}F", f"{fold.name}M"}
        assert {manifest.speaker[row][:5] for row in fold.dev} == {dev}
        assert len({manifest.speaker[row][:5] for row in fold.train}) == 3


def test_the_session_is_read_from_the_id_where_there_is_no_speaker() -> None:
    known, manifest = session_folds(iemocap()), iemocap()
    manifest.speaker[:] = [""] * len(manifest)
    for one, other in zip(session_folds(manifest), known, strict=True):
        assert one.name == other.name
        assert all(np.array_equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


def test_another_corpus_has_no_sessions() -> None:
    with pytest.raises(UsageError, match=r"1 utterances have no session, the first u0; .*--folds speaker"):
        session_folds(manifest_of(["Ses01F_a", "u0"], ["", "s"]))
    with pytest.raises(UsageError, match="2 sessions; expected at least 3"):
        session_folds(manifest_of(["Ses01F_a", "Ses02F_a"], ["", ""]))


@pytest.mark.parametrize("count", [3, 5, 12])
def test_speaker_folds_are_disjoint_and_equal_in_size(count: int) -> None:
    manifest = some_corpus([40, 7, 12, 12, 3, 30, 21, 9, 9, 5, 1, 17])
    folds = speaker_folds(manifest, folds=count, seed=0)
    assert_sound(manifest, folds)
    assert len(folds) == len({fold.name for fold in folds}) == count
    if count == 3:
        assert max(len(f.test) for f in folds) - min(len(f.test) for f in folds) <= 2


def test_speaker_folds_repeat_with_their_seed_and_change_with_it() -> None:
    manifest = some_corpus([10] * 20)

    def tests(seed: int) -> list[list[int]]:
        return [fold.test.tolist() for fold in speaker_folds(manifest, folds=5, seed=seed)]

    assert tests(0) == tests(0)
    assert tests(0) != tests(1)
    assert {len(test) for test in tests(0)} == {40}


def test_a_speaker_keeps_its_fold_whatever_the_order_of_the_manifest() -> None:
    one = some_corpus([5, 9, 2, 7, 7, 1])
    turned = manifest_of(one.id[::-1], one.speaker[::-1])
    for a, b in zip(speaker_folds(one, folds=3), speaker_folds(turned, folds=3), strict=True):
        assert {one.id[row] for row in a.test} == {turned.id[row] for row in b.test}


def test_each_speaker_is_left_out_once_in_the_order_of_names_whatever_the_names_are() -> None:
    sizes = [3, 1, 7, 2, 5, 4, 1, 1, 2, 2, 6]
    manifest = some_corpus(sizes)
    manifest.speaker[:] = [{"s3": "../up", "s4": "a/b", "s5": "S1"}.get(name, name) for name in manifest.speaker]
    folds = leave_one_speaker_out(manifest)
    assert_sound(manifest, folds)
    names = sorted(set(manifest.speaker))
    assert [{manifest.speaker[row] for row in fold.test} for fold in folds] == [{name} for name in names]
    assert [{manifest.speaker[row] for row in fold.dev} for fold in folds] == [
        {name} for name in [*names[1:], names[0]]
    ]
    assert [fold.name for fold in folds] == [f"fold{k:02}" for k in range(1, 12)]


def test_unknown_speakers_and_too_few_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1 of 4 utterances have no speaker"):
        leave_one_speaker_out(manifest_of(list("abcd"), ["s", "", "t", "u"]))
    with pytest.raises(UsageError, match=r"2 speakers; expected at least 3"):
        leave_one_speaker_out(some_corpus([2, 2]))
    with pytest.raises(UsageError, match=r"1 of 4 utterances have no speaker"):
        speaker_folds(manifest_of(list("abcd"), ["s", "", "t", "u"]), folds=3)
    with pytest.raises(UsageError, match=r"--folds 3: the corpus has 2 speakers; expected at least 3"):
        speaker_folds(some_corpus([1, 1]), folds=3)
    for few in (2, 0, -1):
        with pytest.raises(UsageError, match=f"--folds {few}: too few folds; expected at least 3"):
            speaker_folds(some_corpus([1, 1, 1]), folds=few)


def test_iemocap_in_five_folds_and_four_classes_equals_scikit_learn_over_the_pooled_folds() -> None:
    manifest = iemocap()
    prompts: list[ClassPrompt] = class_prompts(category_words()["lexicon"])
    drawn = np.random.default_rng(7)
    vectors = drawn.standard_normal((len(prompts), 8))
    of = {p.emotion: row for row, p in enumerate(prompts) if p.template == prompts[0].template}
    found, truth, predicted = [], [], []
    for fold in session_folds(manifest):
        emotions = [manifest.emotion[row] for row in fold.test]
        speech = vectors[[of[IEMOCAP_MERGE.get(e, e)] for e in emotions]] + 2 * drawn.standard_normal(
            (len(emotions), 8)
        )
        found.append(
            recognition(
                torch.tensor(speech),
                emotions,
                prompts=prompts,
                vectors=torch.tensor(vectors),
                classes=IEMOCAP_CLASSES,
                merge=IEMOCAP_MERGE,
            ).summary()
        )
        for x, emotion in zip(speech, emotions, strict=True):
            counted = "happy" if emotion == "excited" else emotion
            if counted in ("angry", "happy", "neutral", "sad"):
                truth.append(counted)
                predicted.append(
                    max(("angry", "happy", "neutral", "sad"), key=lambda name: float(x @ vectors[of[name]]))
                )
    pooled = pooled_recognition(found)
    assert len(found) == 5
    assert pooled["classes"] == ["angry", "happy", "neutral", "sad"]
    assert pooled["n"] == len(truth)
    assert pooled["left_out"] == len(manifest) - len(truth) > 0
    assert pooled["war"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    assert pooled["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
    assert 0.3 < pooled["uar"] < 0.99
    assert pooled["war"] != pytest.approx(pooled["uar"])
