"""What single raters said: MSP-Podcast's detailed labels in both layouts, IEMOCAP's evaluators, manifest columns."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cache.manifest import Manifest, Ratings, read_manifest, write_manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems
from pipeline.data.corpora import read_corpus
from pipeline.data.corpora.msp_podcast import EMOTIONS, _single_ratings
from tests.data.corpora.miniature import VOTES, rated_turns, write_detailed_labels, write_miniature_msp
from tests.data.corpora.miniature_iemocap import write_dialog

LAYOUTS = ("field", "columns")


def read(root: Path, reader: str = "msp_podcast", **config: object) -> Manifest:
    return read_corpus(CorpusConfig(reader=reader, root=root, **config))


def rated(root: Path, layout: str) -> None:
    write_miniature_msp(root)
    write_detailed_labels(root, layout)


def ratings_of(manifest: Manifest) -> Ratings:
    assert manifest.ratings is not None
    return manifest.ratings


@pytest.mark.parametrize("layout", LAYOUTS)
def test_number_std_and_votes_of_every_turn_are_those_of_its_raters(tmp_path: Path, layout: str) -> None:
    rated(tmp_path, layout)
    manifest = read(tmp_path)
    turns = {row["FileName"][:-4]: (row, given) for row, given in rated_turns(np.random.default_rng(0))}
    found = ratings_of(manifest)
    for index, name in enumerate(manifest.id):
        row, given = turns[name]
        if row["Split_Set"] == "Test3":
            assert (found.count[index], found.votes[index]) == (0, "")
            assert np.isnan(found.std[index]).all()
            continue
        assert found.count[index] == 5
        np.testing.assert_allclose(found.std[index], given.std(axis=0, ddof=1), rtol=1e-14)
        labels = [manifest.valence[index], manifest.arousal[index], manifest.dominance[index]]
        np.testing.assert_allclose(labels, given.mean(axis=0), rtol=1e-14)
        own = EMOTIONS[row["EmoClass"]]
        other = "sad" if own == "neutral" else "neutral"
        assert found.votes[index] == "|".join([f"{own}:3", *sorted((f"{other}:1", "other:1"))])
        np.testing.assert_allclose(found.standard_error()[index], given.std(axis=0, ddof=1) / 5**0.5, rtol=1e-14)
    assert not any("WARNING: labels_detailed" in note for note in manifest.notes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_consensus_recomputed_from_the_ratings_is_that_of_the_labels_file(tmp_path: Path, layout: str) -> None:
    rated(tmp_path, layout)
    tally = _single_ratings(tmp_path / "Labels" / "labels_detailed.csv")
    with open(tmp_path / "Labels" / "labels_consensus.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 33
    letters = {name: letter for letter, name in EMOTIONS.items()} | {"other": "O"}
    for row in rows:
        mean = [round(value, 6) for value in tally.mean(row["FileName"])]
        assert mean == [float(row[column]) for column in ("EmoVal", "EmoAct", "EmoDom")]
        votes = Counter(tally.votes(row["FileName"])).most_common(2)
        assert row["EmoClass"] == ("X" if votes[0][1] == votes[1][1] else letters[votes[0][0]])


def test_a_store_manifest_keeps_what_the_raters_said_to_the_last_bit(tmp_path: Path) -> None:
    rated(tmp_path, "field")
    written = read(tmp_path)
    write_manifest(written, tmp_path / "m.csv")
    found, given = ratings_of(read_manifest(tmp_path / "m.csv", tmp_path)), ratings_of(written)
    assert found.count.tobytes() == given.count.tobytes()
    assert found.std.tobytes() == given.std.tobytes()
    assert found.votes == given.votes
    assert ratings_of(written.take(np.array([5, 2]))).votes == [given.votes[5], given.votes[2]]


def test_turns_the_raters_disagree_on_stay_when_asked_with_their_votes_and_no_emotion(tmp_path: Path) -> None:
    rated(tmp_path, "columns")
    manifest = read(tmp_path, keep_undecided=True)
    assert "kept without an emotion: 2 turns labelled O (other)" in manifest.notes
    assert "kept without an emotion: 2 turns labelled X (no agreement)" in manifest.notes
    assert len(manifest) == 36
    turns = {row["FileName"][:-4]: row for row, _ in rated_turns(np.random.default_rng(0))}
    undecided = [index for index, name in enumerate(manifest.id) if turns[name]["EmoClass"] in "XO"]
    assert len(undecided) == 4
    for index in undecided:
        row = turns[manifest.id[index]]
        assert manifest.emotion[index] == ""
        assert manifest.valence[index] == float(row["EmoVal"])
        expected = {"X": "happy:2|sad:2|other:1", "O": "other:3|neutral:2"}[row["EmoClass"]]
        assert ratings_of(manifest).votes[index] == expected
    assert not {manifest.id[index] for index in undecided} & set(read(tmp_path).id)


def test_a_mean_that_is_not_the_label_is_counted_and_the_label_is_used(tmp_path: Path) -> None:
    rated(tmp_path, "columns")
    path = tmp_path / "Labels" / "labels_consensus.csv"
    lines = path.read_text().splitlines()
    fields = lines[1].split(",")
    was, fields[3] = float(fields[3]), "6.9"
    path.write_text("\n".join([lines[0], ",".join(fields), *lines[2:]]))
    manifest = read(tmp_path)
    (note,) = [note for note in manifest.notes if "mean is not the label" in note]
    assert note == (
        "WARNING: labels_detailed.csv: the ratings' mean is not the label for 1 turns "
        f"(first: {fields[0]}, valence {was:.4g} against 6.9): the label is used"
    )
    assert manifest.valence[0] == 6.9


def test_a_rating_that_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    rated(tmp_path, "field")
    path = tmp_path / "Labels" / "labels_detailed.csv"
    text = path.read_text().replace("A:", "B:", 1)
    path.write_text(text + "MSP-PODCAST_0001_0000.wav,WORKER9; Sad; Sad; A:two; V:1; D:1;\n")
    manifest = read(tmp_path)
    (note,) = [note for note in manifest.notes if "cannot be read" in note]
    assert note.startswith("WARNING: labels_detailed.csv: 2 ratings cannot be read (first: 'WORKER00000000; Angry;")
    assert ratings_of(manifest).count[0] == 4


def test_a_turn_without_ratings_is_told(tmp_path: Path) -> None:
    rated(tmp_path, "columns")
    path = tmp_path / "Labels" / "labels_detailed.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "0001_0000" not in line))
    manifest = read(tmp_path)
    assert "1 turns have labels and no ratings" in manifest.notes
    assert ratings_of(manifest).count[:2].tolist() == [0, 5]


def test_without_detailed_labels_nobody_is_known(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    assert read(tmp_path).ratings is None


def evaluations(label: str, mean: str, *lines: str) -> str:
    return f"[6.2901 - 8.2357]\tSes01F_impro01_F000\t{label}\t[{mean}]\n" + "".join(f"{line}\n" for line in lines)


SAID = (
    "C-E2:\tNeutral;\t()",
    "C-E3:\tFrustration; Anger;\t()",
    "C-E4:\tNeutral;\t(a bit; tired)",
    "C-F1:\tHappiness;\t(curious)",
    "A-E3:\tval 3; act 2; dom  2;\t()",
    "A-E4:\tval 2; act 3; dom  3;\t(mildly aggravated but staying polite, attitude)",
    "A-F1:\tval 5; act 5; dom  5;\t()",
)


def test_iemocaps_evaluators_are_counted_and_the_speakers_own_ratings_are_not(tmp_path: Path) -> None:
    turn = evaluations("neu", "2.5000, 2.5000, 2.5000", *SAID)
    write_dialog(tmp_path, "Ses01F_impro01", turn)
    manifest = read(tmp_path, "iemocap")
    found = ratings_of(manifest)
    assert found.count.tolist() == [2]
    assert found.votes == ["neutral:2|angry:1|frustrated:1"]
    given = np.array([[3, 2, 2], [2, 3, 3]])
    np.testing.assert_allclose(found.std[0], given.std(axis=0, ddof=1) * 6 / 4, rtol=1e-14)  # 1-5 to 1-7
    assert manifest.valence.tolist() == [1 + 1.5 / 4 * 6]
    assert not any("WARNING: the ratings' mean" in note for note in manifest.notes)


def test_iemocaps_undecided_turns_stay_when_asked(tmp_path: Path) -> None:
    write_dialog(tmp_path, "Ses01F_impro01", evaluations("xxx", "2.5000, 2.5000, 2.5000", *SAID))
    manifest = read(tmp_path, "iemocap", keep_undecided=True)
    assert (manifest.emotion, manifest.arousal.tolist()) == ([""], [1 + 1.5 / 4 * 6])
    assert "kept without an emotion: 1 turns labelled xxx (no agreement)" in manifest.notes


def test_a_blank_attribute_is_missing_and_other_evaluators_count(tmp_path: Path) -> None:
    lines = ["A-E1:\tval 3; act 2; dom  ;\t()", "A-E2:\tval 5; act 2; dom  2;\t()", "A-E3:\tval x; act 1; dom 1;\t()"]
    write_dialog(tmp_path, "Ses01F_impro01", evaluations("neu", "4.0000, 2.0000, 2.0000", *lines))
    manifest = read(tmp_path, "iemocap")
    found = ratings_of(manifest)
    assert found.count.tolist() == [2]
    np.testing.assert_allclose(found.std[0], [2**0.5 * 1.5, 0, np.nan])
    assert any("1 ratings cannot be read (first: Ses01F_impro01_F000, 'A-E3:" in note for note in manifest.notes)


def manifest_of(root: Path, *rows: dict[str, object]) -> Path:
    for name in ("a", "b"):
        (root / f"{name}.wav").touch()
    path = root / "m.jsonl"
    own = [{"id": name, "audio": f"{name}.wav", "split": "train"} for name in ("a", "b")]
    path.write_text("".join(json.dumps({**one, **row}) + "\n" for one, row in zip(own, rows, strict=False)))
    return path


def test_a_manifests_columns_are_read_and_stds_are_scaled_with_their_label(tmp_path: Path) -> None:
    first = {
        "valence": 2,
        "arousal": 3,
        "ratings": 3,
        "valence_std": 1.0,
        "arousal_std": "0,5",
        "votes": "joy:2|Sadness:1",
    }
    path = manifest_of(tmp_path, first, {"valence": 4, "arousal": 3, "votes": "-", "ratings": ""})
    scale = {"valence": (1, 5), "arousal": (1, 7)}
    manifest = read_corpus(CorpusConfig(manifest=path, scale=scale))
    found = ratings_of(manifest)
    assert found.count.tolist() == [3, 0]
    np.testing.assert_allclose(found.std[0], [1.5, 0.5, np.nan])
    assert found.votes == ["happy:2|sad:1", ""]
    assert np.isnan(found.standard_error()[1]).all()
    kept = read_corpus(CorpusConfig(manifest=path, scale=scale, spellings="as_given"))
    assert ratings_of(kept).votes[0] == "joy:2|Sadness:1"


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("ratings", 2.5, "ratings 2.5: not a count; expected a number of raters"),
        ("ratings", -1, "ratings -1: expected a number from 0 on"),
        ("valence_std", "wide", "valence_std 'wide': expected a number from 0 on"),
        ("ratings", 10**400, "ratings 1000"),  # an integer beyond the floats
        ("votes", "happy", "votes 'happy': expected raters by category, such as happy:3|neutral:2"),
        ("votes", "happy:1|happy:2", "votes 'happy:1|happy:2': expected raters by category"),
        ("votes", {"happy": 3}, "votes {'happy': 3}: a dict; expected text like"),
    ],
)
def test_a_fault_of_the_raters_columns_is_named_with_its_line(
    tmp_path: Path, column: str, value: object, found: str
) -> None:
    path = manifest_of(tmp_path, {}, {column: value})
    with pytest.raises(ManyProblems) as caught:
        read_corpus(CorpusConfig(manifest=path))
    assert caught.value.problems[0].startswith(f"{path}:2: {found}")


def test_merged_categories_are_merged_among_the_votes_too(tmp_path: Path) -> None:
    one = {"emotion": "excited", "votes": "excited:2|happy:1|sad:1"}
    path = manifest_of(tmp_path, one, {"emotion": "happy"})
    manifest = read_corpus(CorpusConfig(manifest=path, merge={"excited": "happy"}))
    assert ratings_of(manifest).votes == ["happy:3|sad:1", ""]


def test_the_miniatures_votes_are_of_five_raters_each() -> None:
    assert {len(votes) for votes in VOTES.values()} == {5}
