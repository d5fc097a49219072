"""The manifest's CSV, read and written a block of rows at a time; and the names of a store's rows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import manifest as manifests
from cache.errors import StoreCorrupt
from cache.manifest import (
    LABEL_COLUMNS,
    RATING_COLUMNS,
    SPLITS,
    TEXT_COLUMNS,
    TRANSCRIPT,
    Manifest,
    Ratings,
    RowNames,
    read_manifest,
    votes_of,
    votes_text,
    write_manifest,
)


def manifest_of(count: int) -> Manifest:
    texts = {name: [f"{name} {row % 3}" for row in range(count)] for name in TEXT_COLUMNS}
    texts["id"] = [f'u{row}, "quoted" ü\udcff' for row in range(count)]
    texts["gender"] = [""] * count
    labels = {name: np.random.default_rng(column).uniform(1, 7, count) for column, name in enumerate(LABEL_COLUMNS)}
    texts["split"] = [SPLITS[row % 3] for row in range(count)]
    labels["valence"][::2] = np.nan
    labels["arousal"] = np.arange(count) % 4 / 5 + 1
    return Manifest(Path("/audio"), **texts, **labels)


@pytest.mark.parametrize("count", [0, 1, 3, 7, 9])
def test_a_manifest_of_any_length_comes_back_to_the_last_bit(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_BLOCK_ROWS", 3)
    written = manifest_of(count)
    write_manifest(written, tmp_path / "m.csv")
    found = read_manifest(tmp_path / "m.csv", written.root)
    for name in TEXT_COLUMNS:
        assert getattr(found, name) == getattr(written, name)
    for name in LABEL_COLUMNS:
        assert getattr(found, name).tobytes() == getattr(written, name).tobytes()


def test_blocks_leave_no_seam_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_BLOCK_ROWS", 3)
    written = manifest_of(7)
    write_manifest(written, tmp_path / "m.csv")
    with open(tmp_path / "plain.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*TEXT_COLUMNS, *LABEL_COLUMNS))
        for row in range(7):
            labels = [float(getattr(written, name)[row]) for name in LABEL_COLUMNS]
            texts = [getattr(written, name)[row] for name in TEXT_COLUMNS]
            writer.writerow([*texts, *("" if np.isnan(label) else repr(label) for label in labels)])
    assert (tmp_path / "m.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()


def rated(manifest: Manifest) -> Manifest:
    std = np.random.default_rng(7).uniform(0, 2, (len(manifest), 3))
    std[1::2, 2] = np.nan
    count = np.arange(len(manifest)) % 3
    votes = [("happy:3|neutral:2", "", "so: so:1")[row % 3] for row in range(len(manifest))]
    return replace(manifest, ratings=Ratings(count, std, votes))


def test_what_the_raters_said_stands_in_columns_after_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_BLOCK_ROWS", 3)
    written = rated(manifest_of(7))
    write_manifest(written, tmp_path / "m.csv")
    with open(tmp_path / "m.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [*TEXT_COLUMNS, *LABEL_COLUMNS, *RATING_COLUMNS]
    assert [line["ratings"] for line in lines] == ["", "1", "2", "", "1", "2", ""]
    assert (lines[1]["dominance_std"], lines[3]["votes"]) == ("", "happy:3|neutral:2")
    found = read_manifest(tmp_path / "m.csv", written.root).ratings
    assert found is not None
    assert written.ratings is not None
    assert found.count.tolist() == written.ratings.count.tolist()
    assert found.std.tobytes() == written.ratings.std.tobytes()
    assert found.votes == written.ratings.votes
    error = found.standard_error()
    np.testing.assert_allclose(error[2], written.ratings.std[2] / np.sqrt(2))
    assert np.isnan(error[0]).all()


@pytest.mark.parametrize(
    ("old", "new"),
    [(":3|", ":0|"), (":3|", "|"), ("neutral:2", "happy:2"), (",2,", ",2.5,"), (",2,", ",-2,"), (",1,", ",inf,")],
)
def test_raters_that_were_edited_are_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "m.csv"
    write_manifest(rated(manifest_of(4)), path)
    text = path.read_text(errors="surrogateescape")
    assert old in text
    path.write_text(text.replace(old, new), errors="surrogateescape")
    with pytest.raises(StoreCorrupt, match=r"m\.csv: cannot be read"):
        read_manifest(path, Path())


def test_votes_are_read_as_they_are_written_the_most_first() -> None:
    assert votes_text({"sad": 1, "happy": 3, "angry": 1}) == "happy:3|angry:1|sad:1"
    assert votes_of("happy:3|angry:1") == {"happy": 3, "angry": 1}
    assert votes_of("") == {}


def test_a_category_on_many_rows_is_held_once(tmp_path: Path) -> None:
    write_manifest(manifest_of(9), tmp_path / "m.csv")
    found = read_manifest(tmp_path / "m.csv", Path())
    assert len(set(map(id, found.speaker))) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("id,audio", "audio,id"),
        lambda text: text.rsplit(",", 1)[0] + "\n",
        lambda text: text.replace("\n", ",more\n").replace("dominance,more", "dominance"),
        lambda text: text.replace("1.2", "one"),
        lambda text: text + '"' + "x" * 200_000,
    ],
    ids=["header", "a field less", "a field more in each row", "a label that is none", "an endless field"],
)
def test_a_manifest_that_was_edited_is_refused(tmp_path: Path, damage) -> None:
    path = tmp_path / "m.csv"
    write_manifest(manifest_of(4), path)
    path.write_text(damage(path.read_text(errors="surrogateescape")), errors="surrogateescape")
    with pytest.raises(StoreCorrupt, match=r"m\.csv: cannot be read"):
        read_manifest(path, Path())


def test_rows_of_splits_are_ascending_whatever_their_names() -> None:
    manifest = manifest_of(7)
    manifest.split[:] = ["dev", "train", "test1", "train", "dev", "test2", "train"]
    assert manifest.rows("train", "test2").tolist() == [1, 3, 5, 6]
    assert manifest.rows("test").tolist() == []


# what a file name read from the system may hold: any text, and bytes that are not UTF-8 as surrogates
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\udc80\udcff\udcc3")), max_size=8)


@settings(deadline=None)
@given(TEXTS)
def test_names_are_each_texts_bytes_one_after_the_other(texts: list[str]) -> None:
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    names = RowNames.of(texts)
    assert names.data == b"".join(encoded)
    assert [names[row] for row in range(len(names))] == encoded
    assert names.take(np.arange(len(texts))[::-1]) == encoded[::-1]
    assert names.texts() == [data.decode("utf-8", "surrogateescape") for data in encoded]


def test_the_same_letters_cut_elsewhere_are_other_names() -> None:
    assert RowNames.of(["ab", "c"]) == RowNames.of(["ab", "c"])
    assert RowNames.of(["ab", "c"]) != RowNames.of(["a", "bc"])
    assert RowNames.of([]) != RowNames.of([""])


@pytest.mark.parametrize("offsets", [[], [1, 3], [0, 2], [0, 2, 1, 3]])
def test_offsets_that_cut_no_names_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        RowNames(b"abc", np.array(offsets, dtype=np.int64))


@pytest.mark.parametrize("rated", [False, True])
def test_transcripts_are_the_last_column_and_come_back(
    rated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_BLOCK_ROWS", 3)
    plain = replace(manifest_of(7), ratings=Ratings.unknown(7) if rated else None)
    texts = ["yes, well", "", 'so "he" said', "ü 🎙", "", "no", "no"]
    write_manifest(plain, tmp_path / "plain.csv")
    write_manifest(replace(plain, transcript=texts), tmp_path / "m.csv")
    with open(tmp_path / "m.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = list(csv.reader(file))
    with open(tmp_path / "plain.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [line[:-1] for line in lines] == list(csv.reader(file))
    assert [line[-1] for line in lines] == [TRANSCRIPT, *texts]
    found = read_manifest(tmp_path / "m.csv", plain.root)
    assert found.transcript == texts
    assert (found.ratings is not None) == rated
    assert found.take(np.array([3, 0])).transcript == [texts[3], texts[0]]
    assert read_manifest(tmp_path / "plain.csv", plain.root).transcript is None
