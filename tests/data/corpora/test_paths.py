"""Paths as other systems write them are read where they can mean one file only, and that is said."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems
from pipeline.data.corpora import read_corpus

COMPOSED = unicodedata.normalize("NFC", "caf\u00e9")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def read(folder: Path, audio: str, *there: str) -> Manifest:
    for name in there:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "m.csv").write_text(f"id,audio,split\nu1,{audio},train\n", encoding="utf-8")
    return read_corpus(CorpusConfig(manifest=folder / "m.csv"))


@pytest.mark.parametrize(
    ("given", "there", "how"),
    [
        (f"{COMPOSED}.wav", f"{DECOMPOSED}.wav", "another Unicode form"),
        (f"{DECOMPOSED}.wav", f"{COMPOSED}.wav", "another Unicode form"),
        (f"{COMPOSED}/a.wav", f"{DECOMPOSED}/a.wav", "another Unicode form"),
        ("in/u1.wav", "in/u1.WAV", "another ending or case"),
        ("U1.wav", "u1.wav", "another ending or case"),
        ("u1.wav", "u1.flac", "another ending or case"),
        (f"{COMPOSED}.wav", f"{DECOMPOSED}.flac", "another ending or case"),
        ("in\\deep\\u1.wav", "in/deep/u1.wav", "a Windows path or file:// address"),
    ],
)
def test_a_path_that_can_only_mean_one_file_is_read_as_that(given: str, there: str, how: str, tmp_path: Path) -> None:
    assert COMPOSED != DECOMPOSED
    manifest = read(tmp_path, given, there)
    assert manifest.audio == [there]
    assert manifest.path(0).is_file()
    (note,) = [note for note in manifest.notes if "in spite of" in note]
    assert note.startswith(f"1 audio paths are read in spite of {how}")


def test_a_file_address_is_its_path(tmp_path: Path) -> None:
    manifest = read(tmp_path, f"file://{tmp_path}/a%20b.wav", "a b.wav")
    assert manifest.path(0) == tmp_path / "a b.wav"


@pytest.mark.parametrize("there", [("u1.flac", "u1.mp3"), ("u1.txt",), ("u2.wav",), ("other/u1.wav",)])
def test_what_may_mean_two_files_or_none_is_refused(there: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ManyProblems, match="no such file under"):
        read(tmp_path, "u1.wav", *there)


def test_the_file_of_the_exact_name_comes_first(tmp_path: Path) -> None:
    assert read(tmp_path, "u1.wav", "u1.wav", "u1.flac", "U1.wav").audio == ["u1.wav"]
    assert read(tmp_path, "a\\b.wav", "a\\b.wav", "a/b.wav").audio == ["a\\b.wav"]


@pytest.mark.parametrize("given", ["..\\a.wav", "file:///etc/passwd", "file://"])
def test_another_spelling_leads_nowhere_else(given: str, tmp_path: Path) -> None:
    (tmp_path.parent / "a.wav").touch()
    with pytest.raises(ManyProblems):
        read(tmp_path, given)
