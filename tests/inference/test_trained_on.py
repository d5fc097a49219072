"""Hits are from what a run was not trained on, unless a split is named; those that it was trained on are marked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cache.stores import open_stores
from pipeline.core.errors import StoreCorrupt
from pipeline.inference.filters import Filter, write_trained_on
from pipeline.inference.search import SpeechIndex, search
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.stage_two import unlisted

pytestmark = pytest.mark.usefixtures("encoders_loaded_once")


def test_what_was_trained_on_is_found_only_where_its_split_is_named(
    index: SpeechIndex, stores: Path, trained: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = open_stores(stores).manifest
    every = {split: {manifest.id[row] for row in manifest.rows(split)} for split in ("train", "dev", "test")}
    for split, expected in (
        (None, every["dev"] | every["test"]),
        ("all", every["train"] | every["dev"] | every["test"]),
        (["all", "test"], every["train"] | every["dev"] | every["test"]),
        ("train", every["train"]),
        (["train", "test"], every["train"] | every["test"]),
    ):
        [hits] = search(trained, "calm", split=split, top=50)
        assert {hit["id"] for hit in hits} == expected
        assert {hit["id"] for hit in hits if hit["trained_on"]} == expected & every["train"]
        among = Filter(split=[split] if isinstance(split, str) else split or ())
        [same] = index.ask("calm", among=among, top=50)
        rounded = [hit | {"similarity": pytest.approx(hit["similarity"])} for hit in hits]  # projected in other blocks
        assert same == rounded
    assert "were trained on all" not in capfd.readouterr().err


def test_where_only_the_training_split_fits_that_is_said(
    stores: Path, trained: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = open_stores(stores).manifest
    names = {split: {manifest.speaker[row] for row in manifest.rows(split)} for split in ("train", "dev", "test")}
    heard = min(names["train"] - names["dev"] - names["test"])
    assert search(trained, "calm", speaker=heard) == [[]]
    assert capfd.readouterr().err.count("no result: the heads were trained on all 3 matching utterances; ") == 1
    assert len(search(trained, "calm", speaker=heard, split="all")[0]) == 3


def test_other_stores_were_trained_on_only_where_the_recordings_are_the_same(
    stores: Path, trained: Run, tmp_path: Path
) -> None:
    copy = shutil.copytree(stores, tmp_path / "stores")
    lines = (copy / "manifest.csv").read_text().splitlines()
    moved = [line.replace(",train,", ",test,").replace("audio/u00.wav", "audio/other.wav") for line in lines]
    (copy / "manifest.csv").write_text("\n".join(moved) + "\n")
    unlisted(copy)
    [hits] = search(trained, "calm", stores=copy, split="all", top=50)
    manifest = open_stores(stores).manifest
    assert {hit["id"] for hit in hits if hit["trained_on"]} == {manifest.id[r] for r in manifest.rows("train")} - {
        "u00"
    }


def test_stores_that_were_moved_are_those_the_run_was_trained_from(stores: Path, trained: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(trained.folder, tmp_path / "run"))
    text = (run.folder / "run.json").read_text()
    (run.folder / "run.json").write_text(text.replace(str(stores.resolve()), "/gone/stores"))
    unlisted(run.folder)
    [hits] = search(run, "calm", stores=stores, top=50)
    assert {hit["split"] for hit in hits} == {"dev", "test"}


def test_a_fold_run_knows_what_its_fold_trained_on(stores: Path, trained: Run, tmp_path: Path) -> None:
    opened = open_stores(stores)
    view = opened.with_splits([("test", "dev", "train")[row % 3] for row in range(len(opened.manifest))])
    run = train(view, method=trained.config, out=tmp_path / "run")
    write_trained_on(run, view)
    expected = {opened.manifest.id[row] for row in range(2, 24, 3)}
    [hits] = search(run, "calm", split="all", top=50)
    assert {hit["id"] for hit in hits if hit["trained_on"]} == expected
    assert not expected & {hit["id"] for hit in search(run, "calm", top=50)[0]}
    train(opened, method=trained.config, out=tmp_path / "run", fresh=True)  # the folder's run is no fold's now
    assert {hit["split"] for hit in search(tmp_path / "run", "calm", top=50)[0]} == {"dev", "test"}
    (run.folder / "trained_on.json").write_text("[]")
    with pytest.raises(StoreCorrupt, match=r"trained_on\.json"):
        search(run, "calm")
