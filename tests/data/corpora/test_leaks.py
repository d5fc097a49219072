"""What a test would hear again is counted, said, and refused under --strict: voices, recordings and sentences."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems
from pipeline.data.corpora import read_corpus
from pipeline.extraction.extract import extract
from pipeline.extraction.status import status_of, status_table
from tests.speech import QUICK, write_corpus


def read(folder: Path, *rows: str, head: str = "id,audio,split,speaker") -> Manifest:
    for number in range(len(rows)):
        (folder / f"u{number}.wav").touch()
    lines = [f"u{i},u{i}.wav,{row}" for i, row in enumerate(rows)]
    (folder / "m.csv").write_text("\n".join([head, *lines]) + "\n")
    return read_corpus(CorpusConfig(manifest=folder / "m.csv"))


def test_a_speaker_in_train_development_and_test_is_counted_and_said(tmp_path: Path) -> None:
    rows = ["train,anna", "dev,anna", "test,anna", "train,ben", "dev,cem", "test,cem", "train,"]
    manifest = read(tmp_path, *rows)
    by_hand = {name for name in ("anna", "ben", "cem") if len({r.split(",")[0] for r in rows if r.endswith(name)}) > 1}
    assert by_hand == {"anna", "cem"}
    (leak,) = manifest.leaks
    assert leak.startswith("2 speakers stand in more than one split, with 5 utterances")
    assert leak.endswith("anna in train and dev and test, cem in dev and test")
    assert f"WARNING: {leak}" in manifest.notes


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("train,anna", "dev,anna", "test,ben"), "1 speakers stand in more than one split, with 2 utterances"),
        (("train, anna", "test2,anna ", "dev,ben"), "anna in train and test"),
        (("Train,7", "VALIDATION,7", "train,8", "test,8"), "7 in train and dev, 8 in train and test"),
    ],
)
def test_a_speaker_in_any_two_parts_is_counted_and_said(rows: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (leak,) = read(tmp_path, *rows).leaks
    assert said in leak


def test_speakers_of_two_test_sets_and_unknown_speakers_do_not_leak(tmp_path: Path) -> None:
    manifest = read(tmp_path, "test1,anna", "test2,anna", "train,Unknown", "test1,nan", "dev,")
    assert manifest.leaks == []
    assert "3 utterances have no speaker: whose voice they are is not known" in manifest.notes


def test_a_recording_in_two_splits_leaks(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "m.csv").write_text("id,audio,split\nu1,a.wav,train\nu2,./a.wav,test\n")
    (leak,) = read_corpus(CorpusConfig(manifest=tmp_path / "m.csv")).leaks
    assert leak.startswith("1 audio files stand in two splits")


def test_a_sentence_that_training_and_test_speak_leaks(tmp_path: Path) -> None:
    head = "id,audio,split,speaker,sentence"
    rows = ("train,a,Kids are talking", "test,b,kids are talking", "test,c,Dogs are sitting", "dev,d,Dogs are sitting")
    (leak,) = read(tmp_path, *rows, head=head).leaks
    assert leak.startswith("1 sentences are spoken in training and in a test, by 2 utterances")
    assert read(tmp_path, *rows[2:], head=head).leaks == []


def test_strict_refuses_a_leak_before_anything_is_written(tmp_path: Path) -> None:
    read(tmp_path, "train,anna", "test,anna")
    with pytest.raises(ManyProblems, match="1 speakers stand in more than one split") as caught:
        extract(tmp_path / "m.csv", out=tmp_path / "s", strict=True)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "s").exists()


def test_the_stores_say_which_speakers_leak(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "c", 8)
    manifest.write_text(manifest.read_text().replace(",s3,", ",s2,"))
    extract(manifest, out=tmp_path / "s", overrides=QUICK)
    status = status_of(tmp_path / "s")
    assert status["shared_speakers"] == {"s2": ["dev", "test"]}
    assert "speakers: 1 are in more than one split, which leaks (s2)" in status_table(status)


def test_equal_bytes_in_two_splits_are_refused_by_strict_at_the_end(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from pipeline.commands.extract_features import main

    manifest = write_corpus(tmp_path / "c", 8)
    shutil.copy(tmp_path / "c/audio/u00.wav", tmp_path / "c/audio/u03.wav")
    options = [word for each in QUICK for word in ("-o", each)]
    ended = CliRunner().invoke(main, [str(manifest), "--out", str(tmp_path / "s"), *options, "--strict"])
    assert ended.exit_code == 3
    assert "1 recordings in more than one split" in ended.stderr
