"""Several folders of stores as one: each row, caption and label is its own folder's."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.errors import StoreMismatch, UsageError
from cache.pairs import cached_pairs
from cache.stores import Stores, open_joint, open_stores
from pipeline.evaluation.evaluate import evaluate
from pipeline.training.run_folder import open_run
from pipeline.training.train import resolve_training, train
from pipeline.training.training_data import load_training_data, shuffled
from tests.planted import plant, with_transcripts

QUICK = ["width=8", "batch_size=8", "epochs=2", "threads=1"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Stores]:
    folder = tmp_path_factory.mktemp("two")
    return [
        plant(folder / "large", {"train": 120, "dev": 30, "test1": 30}, audio_width=8, text_width=8, seed=1),
        plant(folder / "small", {"train": 24, "dev": 30, "test1": 20}, audio_width=8, text_width=8, seed=2),
    ]


def test_pairs_are_those_of_each_folder_one_after_the_other(two: list[Stores]) -> None:
    joint = open_joint([each.folder for each in two])
    together = cached_pairs(joint, "train", style="dimensional")
    apart = [cached_pairs(each, "train", style="dimensional") for each in two]
    assert torch.equal(together.speech, torch.cat([each.speech for each in apart]))
    assert torch.equal(together.labels.nan_to_num(), torch.cat([each.labels for each in apart]).nan_to_num())
    captioned = captions_of(joint)
    assert captioned == [words for each in two for words in captions_of(each)]
    assert len(set(joint.captions.texts())) == len(joint.text) == len(joint.captions.texts())


def test_raters_of_one_folder_are_kept_beside_those_of_none(two: list[Stores], tmp_path: Path) -> None:
    rated = plant(tmp_path / "rated", {"train": 10, "dev": 5}, audio_width=8, text_width=8, raters=True)
    ratings, own = open_joint([two[1].folder, rated.folder]).manifest.ratings, rated.manifest.ratings
    assert ratings is not None
    assert own is not None
    first = len(two[1].manifest)
    assert ratings.count.tolist() == [0] * first + own.count.tolist()
    assert ratings.votes == [""] * first + own.votes
    np.testing.assert_array_equal(ratings.std, np.concatenate([np.full((first, 3), np.nan), own.std]))
    assert open_joint([each.folder for each in two]).manifest.ratings is None


def captions_of(stores: Stores) -> list[list[str]]:
    """The captions of each utterance."""
    links, texts = stores.captions.links("dimensional", len(stores.manifest)), stores.captions.texts()
    return [[texts[row] for row in links.text[start:stop].tolist()] for start, stop in pairwise(links.offsets.tolist())]


def test_names_of_speakers_and_utterances_are_kept_apart(two: list[Stores]) -> None:
    views = []
    for each in two:
        view = copy.copy(each)
        view.manifest = replace(each.manifest, speaker=["anna", "", "bert"] * (len(each.manifest) // 3 + 1))
        view.manifest = replace(view.manifest, speaker=view.manifest.speaker[: len(each.manifest)])
        views.append(view)
    manifest = open_joint(views).manifest
    assert len(set(manifest.id)) == len(manifest) == sum(len(each.manifest) for each in two)
    assert set(manifest.speaker) == {"", "large/anna", "large/bert", "small/anna", "small/bert"}


def test_balanced_batches_hold_as_many_of_each(two: list[Stores]) -> None:
    config = resolve_training("emotionrankclap", overrides=[*QUICK, "balance=corpus"])
    joint = open_joint([each.folder for each in two])
    data = load_training_data(joint, config, torch.device("cpu"))
    order = shuffled(data.pairs, torch.Generator().manual_seed(0))
    assert len(order) == len(data.pairs) == 144
    assert data.pairs.corpus is not None
    for batch in order.split(8):
        assert data.pairs.corpus[batch].bincount().tolist() == [4, 4]
    counts = Counter(order.tolist())
    assert all(counts[row] == 3 for row in range(120, 144))  # 72 of 24
    assert max(counts[row] for row in range(120)) == 1
    dev = shuffled(data.dev, torch.Generator().manual_seed(0))
    assert sorted(dev.tolist()) == list(range(60))  # each once


def test_heads_of_both_are_asked_about_each_and_about_both(two: list[Stores], tmp_path: Path) -> None:
    folders = [each.folder for each in two]
    run = train(folders, overrides=[*QUICK, "balance=corpus"], out=tmp_path / "run")
    assert run.about["stores"] == [str(folder.resolve()) for folder in folders]
    asked = ["trials=1", "lists=2", "bootstrap=0"]
    counts = [evaluate(run, stores=each, overrides=asked)["utterances"] for each in (*folders, None)]
    assert counts == [30, 20, 50]
    assert open_run(tmp_path / "run").stores().folders == tuple(folders)
    again = train(folders, overrides=[*QUICK, "balance=corpus"], out=tmp_path / "run")
    assert again.seeds == [0]


def test_joint_rows_read_as_their_own_from_disk_too(two: list[Stores], tmp_path: Path) -> None:
    folders = [each.folder for each in two]
    heads = [
        train(folders, overrides=[*QUICK, f"memory={memory}", "shuffle_seed=0"], out=tmp_path / memory).heads()
        for memory in ("resident", "disk")
    ]
    assert heads[0].input_dims == heads[1].input_dims
    joint = open_joint(folders)
    config = resolve_training("emotionrankclap", overrides=QUICK)
    kept, on_disk = (load_training_data(joint, config, torch.device("cpu"), resident=each) for each in (True, False))
    places = torch.tensor([130, 2, 143, 0, 77])
    assert on_disk.pairs.disk is not None
    assert torch.equal(on_disk.pairs.disk.read(places), kept.pairs.speech[places])
    rows = np.array([170, 3, 200, 0, 181])
    values, done = joint.audio.read(rows)
    assert done.all()
    for row, value in zip(rows.tolist(), values, strict=True):
        part, own = (two[0], row) if row < 180 else (two[1], row - 180)
        assert (value == part.audio.read(np.array([own]))[0][0]).all()
    assert (joint.audio.column("crc")[:180] == two[0].audio.column("crc")).all()


def test_what_cannot_be_joined_is_refused(two: list[Stores], tmp_path: Path) -> None:
    other = plant(tmp_path / "other", {"train": 20, "dev": 5, "test1": 5}, audio_width=4, text_width=8)
    with pytest.raises(UsageError, match="given twice"):
        open_joint([two[0].folder, two[0].folder])
    with pytest.raises(UsageError, match="balance: corpus, with one folder"):
        train(two[0], overrides=[*QUICK, "balance=corpus"], out=tmp_path / "run")
    other.audio.fingerprint = other.audio.fingerprint | {"encoder": {"encoder": "another"}}
    with pytest.raises(
        StoreMismatch, match='encoder: the first stores have "planted", these "another"; expected the same'
    ):
        open_joint([two[0], other])
    assert open_joint([two[0].folder]).folders == open_stores(two[0].folder).folders


def test_transcripts_are_joined_where_every_folder_has_them(two: list[Stores], tmp_path: Path) -> None:
    parts = []
    for part in two:
        shutil.copytree(part.folder, tmp_path / part.folder.name)
        parts.append(with_transcripts(open_stores(tmp_path / part.folder.name), labels_in="words", without=[3]))
    joint = open_joint([part.folder for part in parts])
    assert joint.words is not None
    values, done = joint.words.read(np.arange(len(joint.manifest)))
    each = [part.words.read(np.arange(len(part.manifest))) for part in parts if part.words]
    assert np.array_equal(values, np.concatenate([one for one, _ in each]))
    assert np.flatnonzero(~done).tolist() == [3, len(parts[0].manifest) + 3]
    assert joint.with_splits(joint.manifest.split).words is joint.words
    half = open_joint([parts[0].folder, two[1].folder])
    assert half.words is None
    assert half.manifest.transcript == [*(parts[0].manifest.transcript or []), *[""] * len(two[1].manifest)]
