"""MSP-Podcast as shipped, in miniature (F30)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.corpora import read_corpus
from pipeline.data.corpora.msp_podcast import EMOTIONS, PAPER, _compared
from tests.data.corpora.miniature import KEPT, transcript_of, write_miniature_msp, write_transcripts


def read(root: Path, **config: object) -> Manifest:
    return read_corpus(CorpusConfig(reader="msp_podcast", root=root, **config))


def problems(root: Path) -> list[str]:
    with pytest.raises(ManyProblems) as caught:
        read(root)
    return [line.removeprefix(f"{root}/") for line in caught.value.problems]


def edit(root: Path, old: str, new: str, name: str = "Labels/labels_consensus.csv") -> None:
    text = (root / name).read_text()
    assert text.count(old) >= 1
    (root / name).write_text(text.replace(old, new, 1))


def test_the_miniature_is_what_its_description_says(tmp_path: Path) -> None:
    rows = write_miniature_msp(tmp_path)
    clips = [soundfile.info(tmp_path / "Audios" / row["FileName"]) for row in rows]
    assert len(rows) == 36
    assert {(clip.samplerate, clip.channels, clip.subtype) for clip in clips} == {(16_000, 1, "PCM_16")}
    assert all(0.6 <= clip.duration <= 3 for clip in clips)
    assert all((5 * float(row["EmoVal"])) % 1 == pytest.approx(0, abs=1e-6) for row in rows)


@pytest.mark.parametrize("labels", ["csv", "json"])
@pytest.mark.parametrize("test3", ["partitions", "blank"])
def test_every_kept_turn_has_its_own_labels_and_file(tmp_path: Path, labels: str, test3: str) -> None:
    rows = {row["FileName"]: row for row in write_miniature_msp(tmp_path, labels=[labels], test3=test3)}
    manifest = read(tmp_path)
    assert Counter(manifest.split) == KEPT
    for index, name in enumerate(manifest.id):
        row = rows[f"{name}.wav"]
        shown = manifest.split[index] != "test3"
        assert manifest.path(index).is_file()
        assert manifest.emotion[index] == (EMOTIONS[row["EmoClass"]] if shown else "")
        for column, label in [
            ("EmoVal", manifest.valence),
            ("EmoAct", manifest.arousal),
            ("EmoDom", manifest.dominance),
        ]:
            np.testing.assert_equal(label[index], float(row[column]) if shown else np.nan)
        if shown:
            assert manifest.speaker[index] == row["SpkrID"].replace("Unknown", "")
            assert manifest.gender[index] == row["Gender"].lower().replace("unknown", "")


def test_x_and_o_are_dropped_and_counted(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    notes = read(tmp_path).notes
    assert "dropped 2 turns labelled O (other)" in notes
    assert "dropped 2 turns labelled X (no agreement)" in notes


def test_the_difference_from_the_papers_counts_is_said(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    (note,) = [note for note in read(tmp_path).notes if "paper" in note]
    assert note == (
        "not the paper's release 1.12 without X and O: train 14 against 90,022 (-90,008), "
        "dev 6 against 25,258 (-25,252), test1 6 against 34,963 (-34,957)"
    )
    assert _compared({**PAPER, "test2": 1}) == "splits are of the paper's sizes (release 1.12)"


def test_counts_are_taken_after_missing_audio_is_dropped(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    (tmp_path / "Audios" / "MSP-PODCAST_0001_0000.wav").unlink()
    assert problems(tmp_path)[0].startswith(
        "Labels/labels_consensus.csv:2: audio 'Audios/MSP-PODCAST_0001_0000.wav': no such file under"
    )
    notes = read(tmp_path, missing_audio="drop").notes
    assert any("train 13 against 90,022 (-90,009)" in note for note in notes)


def test_columns_are_found_by_name_and_not_by_position(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    before = read(tmp_path)
    path = tmp_path / "Labels" / "labels_consensus.csv"
    turned = [",".join(reversed(line.split(","))) for line in path.read_text().splitlines()]
    path.write_text("\n".join(turned))
    after = read(tmp_path)
    assert after.valence.tobytes() == before.valence.tobytes()
    assert after.speaker == before.speaker


def test_the_audio_folder_may_be_called_audio_and_partitions_lie_in_labels(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    (tmp_path / "Audios").rename(tmp_path / "Audio")
    (tmp_path / "Partitions.txt").rename(tmp_path / "Labels" / "Partitions.txt")
    manifest = read(tmp_path)
    assert manifest.audio[0].startswith("Audio/")
    assert manifest.split.count("test3") == 3


def test_partitions_may_have_the_name_of_the_releases_readme(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    (tmp_path / "Partitions.txt").rename(tmp_path / "Partition.txt")
    assert read(tmp_path).split.count("test3") == 3


def test_without_partitions_the_unlisted_audio_is_told(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    (tmp_path / "Partitions.txt").unlink()
    manifest = read(tmp_path)
    assert "test3" not in manifest.split
    assert "3 audio files are in no list: left out" in manifest.notes


def test_turns_of_partitions_without_labels_are_told_and_not_kept(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    with open(tmp_path / "Partitions.txt", "a") as file:
        file.write("\nTrain; MSP-PODCAST_9999_0001.wav\n")
    assert "1 turns of Partitions.txt have no labels and are not Test3: left out" in read(tmp_path).notes


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (",A,", ",Q,", ":2: EmoClass 'Q': unknown; expected A, S, H,"),
        (",A,", ",,", ":2: EmoClass '': unknown; expected A, S, H,"),
        (",Train", ",Trian", ":2: split 'Trian': unknown; did you mean 'train'?"),
        ("EmoVal", "EmoValence", ":1: no column 'EmoVal'; did you mean 'EmoValence'?; expected FileName,"),
        ("MSP-PODCAST_0001_0000.wav", "../up.wav", ":2: audio 'Audios/../up.wav': no such file"),
        ("MSP-PODCAST_0001_0000.wav", "../../up.wav", ":2: audio 'Audios/../../up.wav': leaves"),
        ("_0001_0000", "_0001_0001", ":3: id 'MSP-PODCAST_0001_0001': already at line 2;"),
    ],
)
def test_a_fault_of_the_labels_is_named_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    write_miniature_msp(tmp_path, labels=["csv"])
    edit(tmp_path, old, new)
    assert problems(tmp_path)[0].startswith(f"Labels/labels_consensus.csv{expected}")


def test_a_label_hidden_outside_test3_is_refused(tmp_path: Path) -> None:
    rows = write_miniature_msp(tmp_path, labels=["csv"])
    edit(tmp_path, f",A,{rows[0]['EmoAct']},", ",A,,")
    assert problems(tmp_path) == [
        "Labels/labels_consensus.csv:2: EmoAct: blank; expected 1 to 7 (only Test3 has hidden labels)"
    ]


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"a.wav": 3}', "[" * 100_000, '{"a": {"EmoClass": [[1]]}}'])
def test_a_broken_json_is_named_and_makes_no_traceback(tmp_path: Path, content: str) -> None:
    write_miniature_msp(tmp_path, labels=["json"])
    (tmp_path / "Labels" / "labels_consensus.json").write_text(content)
    assert problems(tmp_path)[0].startswith("Labels/labels_consensus.json:1: ")


def test_faults_of_the_json_name_the_line_of_their_entry(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path, labels=["json"])
    path = tmp_path / "Labels" / "labels_consensus.json"
    entries = json.loads(path.read_text())
    entries["MSP-PODCAST_0001_0003.wav"]["EmoVal"] = 9
    path.write_text(json.dumps(entries, indent=4))
    line = 1 + path.read_text().split("MSP-PODCAST_0001_0003.wav")[0].count("\n")
    assert problems(tmp_path) == [
        f"Labels/labels_consensus.json:{line}: valence 9: off the scale; expected 1 to 7, or nothing"
    ]


def test_an_entry_that_stands_twice_in_the_json_is_not_hidden(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path, labels=["json"])
    edit(tmp_path, "_0001_0001.wav", "_0001_0000.wav", "Labels/labels_consensus.json")
    assert "id 'MSP-PODCAST_0001_0000': already at line 2" in problems(tmp_path)[0]


def test_a_line_of_partitions_without_a_semicolon_or_with_a_strange_split_is_named(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    (tmp_path / "Partitions.txt").write_text("Test3 MSP-PODCAST_0005_0000.wav\nTset3; MSP-PODCAST_0005_0001.wav\n")
    assert [line.split("; expected")[0] for line in problems(tmp_path)] == [
        "Partitions.txt:1: 'Test3 MSP-PODCAST_0005_0000.wav': no semicolon",
        "Partitions.txt:2: split 'Tset3': unknown; did you mean 'test3'?",
    ]


def test_a_folder_that_is_no_release_names_every_path_tried(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path)
    for part in ("labels_consensus.csv", "labels_consensus.json", "--audio-root", "corpus.root"):
        assert part in str(caught.value)


@pytest.mark.parametrize("reader", ["msp_podcast", "iemocap", "ravdess", "emodb", "cremad"])
def test_a_corpus_without_a_root_asks_for_it(reader: str) -> None:
    with pytest.raises(UsageError, match=r"corpus\.root: not given .*--audio-root"):
        read_corpus(CorpusConfig(reader=reader))


def test_another_scale_than_the_corpuss_own_is_refused(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    with pytest.raises(UsageError, match=r"corpus\.scale: 1 to 5; expected 1 to 7, the scale of msp_podcast"):
        read(tmp_path, scale=(1, 5))


def test_partitions_that_contradict_the_labels_are_counted(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    lines = (tmp_path / "Partitions.txt").read_text().splitlines()
    moved = [line.replace("Train;", "Test1;") if n < 2 else line for n, line in enumerate(lines)]
    (tmp_path / "Partitions.txt").write_text("\n".join(moved) + "\n")
    manifest = read(tmp_path)
    (warning,) = [note for note in manifest.notes if "Partitions.txt contradicts" in note]
    assert warning.startswith(
        "WARNING: Partitions.txt contradicts Split_Set for 2 turns (2 test1 there and train here)"
    )
    assert manifest.split.count("train") == KEPT["train"]


def test_test3_turns_labelled_x_are_kept_without_labels(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path, labels=("csv",), test3="blank")
    path = tmp_path / "Labels/labels_consensus.csv"
    lines = path.read_text().splitlines()
    hidden = [n for n, line in enumerate(lines) if line.endswith("Test3")]
    lines[hidden[0]] = lines[hidden[0]].replace(".wav,,", ".wav,X,")
    assert lines[hidden[0]].split(",")[1] == "X"
    path.write_text("\n".join(lines) + "\n")
    manifest = read(tmp_path)
    assert manifest.split.count("test3") == KEPT["test3"]
    assert manifest.emotion[manifest.id.index(lines[hidden[0]].split(".wav")[0])] == ""


def test_the_audio_may_lie_in_a_folder_of_another_name(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    (tmp_path / "Audios").rename(tmp_path / "wavs")
    with pytest.raises(UsageError, match=r"no audio folder; in it are Labels, Partitions\.txt, wavs; expected one of"):
        read(tmp_path)
    manifest = read_corpus(CorpusConfig(reader="msp_podcast", root=tmp_path, audio_dir="wavs"))
    assert len(manifest) == sum(KEPT.values())
    assert manifest.path(0).is_file()


def test_a_release_converted_to_flac_is_read_with_a_note(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    expected = read(tmp_path)
    for path in (tmp_path / "Audios").iterdir():
        path.rename(path.with_suffix(".flac"))
    manifest = read(tmp_path)
    assert manifest.id == expected.id
    assert manifest.audio == [name.replace(".wav", ".flac") for name in expected.audio]
    assert [note for note in manifest.notes if "in spite of another ending or case" in note]


def test_an_archive_unpacked_into_itself_is_named(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    (tmp_path / "Labels").rename(tmp_path / "inner")
    (tmp_path / "Labels").mkdir()
    (tmp_path / "inner").rename(tmp_path / "Labels/Labels")
    with pytest.raises(UsageError, match=r"no labels file; Labels/Labels/labels_consensus\.csv is there"):
        read(tmp_path)


def test_transcripts_are_read_when_asked_for_and_those_that_are_not_there_are_counted(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    write_transcripts(tmp_path)
    assert read(tmp_path).transcript is None
    manifest = read(tmp_path, transcripts=True)
    assert manifest.transcript == [transcript_of(name) for name in manifest.id]
    (tmp_path / "Transcripts" / f"{manifest.id[0]}.txt").unlink()
    (tmp_path / "Transcripts" / f"{manifest.id[7]}.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9 \r\n\r\nau lait\n")
    found = read(tmp_path, transcripts=True, keep=("happy", "angry", "neutral"))
    known = dict(zip(found.id, found.transcript or [], strict=True))
    assert known[manifest.id[0]] == ""
    assert known[manifest.id[7]] == "caf\ufffd au lait"
    note = f"transcripts: 1 of {len(manifest):,} turns have no file in {tmp_path / 'Transcripts'}"
    assert note in found.notes


def test_transcripts_that_are_nowhere_are_one_error(tmp_path: Path) -> None:
    write_miniature_msp(tmp_path)
    with pytest.raises(UsageError, match="no folder of transcripts"):
        read(tmp_path, transcripts=True)
    with pytest.raises(ValueError, match="transcripts is for reader msp_podcast"):
        CorpusConfig(reader="iemocap", root=tmp_path, transcripts=True)
