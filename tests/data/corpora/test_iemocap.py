"""IEMOCAP as shipped, in miniature (F31)."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.corpora import read_corpus
from tests.data.corpora.miniature_iemocap import turn, write_dialog


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dialog(
        tmp_path,
        "Ses01F_impro01",
        turn("Ses01F_impro01_F000", "neu", "1.0000, 3.0000, 5.0000"),
        turn("Ses01F_impro01_M001", "fru"),
    )
    write_dialog(tmp_path, "Ses02M_script01_1b", turn("Ses02M_script01_1b_F003", "exc", "4.0000, 4.5000, 3.5000"))
    write_dialog(tmp_path, "Ses03F_impro02", turn("Ses03F_impro02_M000", "xxx"), turn("Ses03F_impro02_M001", "hap"))
    write_dialog(tmp_path, "Ses04F_impro02", turn("Ses04F_impro02_M000", "oth"), turn("Ses04F_impro02_M001", "sur"))
    write_dialog(tmp_path, "Ses05M_impro02", turn("Ses05M_impro02_F000", "dis"))
    return tmp_path


def read(root: Path, **config: object) -> Manifest:
    return read_corpus(CorpusConfig(reader="iemocap", root=root, **config))


def test_turns_are_read_with_split_speaker_gender_and_labels_on_seven(root: Path) -> None:
    manifest = read(root)
    assert manifest.id[:3] == ["Ses01F_impro01_F000", "Ses01F_impro01_M001", "Ses02M_script01_1b_F003"]
    assert manifest.split == ["train", "train", "train", "train", "dev", "test"]
    assert manifest.emotion == ["neutral", "frustrated", "excited", "happy", "surprised", "disgust"]
    assert manifest.speaker == ["Ses01F", "Ses01M", "Ses02F", "Ses03M", "Ses04M", "Ses05F"]
    assert manifest.gender == ["female", "male", "female", "male", "male", "female"]
    assert (manifest.valence[0], manifest.arousal[0], manifest.dominance[0]) == (1.0, 4.0, 7.0)
    assert all(manifest.path(row).is_file() for row in range(len(manifest)))


def test_categories_are_merged_and_the_rest_left_out_in_order_and_told(root: Path) -> None:
    whole, found = read(root), read(root, merge={"excited": "happy"}, keep=["happy", "neutral", "disgust"])
    kept = [0, 2, 3, 5]
    assert found.emotion == ["neutral", "happy", "happy", "disgust"]
    for column in ("id", "audio", "split", "speaker", "gender"):
        assert getattr(found, column) == [getattr(whole, column)[row] for row in kept]
    for column in ("valence", "arousal", "dominance"):
        assert getattr(found, column).tobytes() == getattr(whole, column)[kept].tobytes()
    assert "1 excited utterances count as happy" in found.notes
    assert "kept 4 of 6 utterances; dropped 1 frustrated, 1 surprised" in found.notes
    assert read(root, merge={"excited": "joyful"}).emotion[2] == "joyful"  # a name of one's own, where all are kept


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"merge": {"exited": "happy"}}, "corpus.merge: unknown 'exited'; did you mean 'excited'?; expected one of "),
        ({"keep": ["hapy"]}, "corpus.keep: unknown 'hapy'; did you mean 'happy'?; expected one of disgust, excited, "),
        ({"merge": {"excited": "happy"}, "keep": ["excited"]}, "corpus.keep: unknown 'excited'"),
        ({"merge": {"excited": "hapy"}, "keep": ["happy"]}, "corpus.merge: unknown 'hapy'; did you mean 'happy'?"),
    ],
)
def test_a_category_that_no_utterance_has_is_refused_in_one_line_with_a_hint(
    root: Path, config: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(root, **config)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_no_speaker_is_in_two_splits(root: Path) -> None:
    manifest = read(root)
    pairs = set(zip(manifest.speaker, manifest.split, strict=True))
    assert len(pairs) == len(set(manifest.speaker))


def test_turns_without_agreement_are_dropped_and_counted(root: Path) -> None:
    notes = read(root).notes
    assert "dropped 1 turns labelled xxx (no agreement)" in notes
    assert "dropped 1 turns labelled oth (other)" in notes


def test_the_releases_means_half_a_point_off_the_scale_are_clipped_and_told(root: Path) -> None:
    write_dialog(root, "Ses05F_impro07", turn("Ses05F_impro07_M003", "hap", "5.5000, 3.0000, 0.5000"))
    manifest = read(root)
    row = manifest.id.index("Ses05F_impro07_M003")
    assert (manifest.valence[row], manifest.dominance[row]) == (7.0, 1.0)
    assert "2 labels half a point off the scale were clipped to it" in manifest.notes


def test_faulty_lines_are_all_named(root: Path) -> None:
    path = write_dialog(
        root,
        "Ses05F_impro08",
        turn("Ses05F_impro08_M000", "hop"),
        "[6.29 - 8.23] Ses05F_impro08_M001 hap [1, 2, 3]\n",
        turn("Ses05F_impro08_M002", "hap", "6.0000, x, 1.0000"),
    )
    with pytest.raises(ManyProblems) as caught:
        read(root)
    assert [line.removeprefix(f"{path}:").split("; expected")[0] for line in caught.value.problems] == [
        "3: label 'hop': unknown",
        "7: no turn",
        "8: valence '6.0000': off the scale",
        "8: arousal 'x': not a number",
    ]


def test_hidden_files_of_a_mac_are_passed_over(root: Path) -> None:
    folder = root / "Session1" / "dialog" / "EmoEvaluation"
    (folder / "._Ses01F_impro01.txt").write_bytes(b"[\x00\xff not a dialog")
    (folder / "Categorical").mkdir()
    assert len(read(root)) == 6


def test_a_session_that_is_not_there_is_told(root: Path) -> None:
    (root / "Session3" / "dialog").rename(root / "Session3" / "gone")
    assert "Session3/dialog/EmoEvaluation is not there" in read(root).notes


def test_no_session_at_all_names_every_path_tried(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no session; .*; expected one of .*Session1/dialog.*Session5/dialog.*--audio-root"
    ):
        read(tmp_path)


def test_the_scale_is_one_to_five_and_no_other(root: Path) -> None:
    assert read(root, scale=(1, 5)).arousal[0] == 4.0
    with pytest.raises(UsageError, match=r"corpus\.scale: 1 to 7; expected 1 to 5, .*corpus\.scale=\[1,5\]"):
        read(root, scale=(1, 7))
