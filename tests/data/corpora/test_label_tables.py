"""Tables that are not CSV, and audio inside tables: the same manifest as of a CSV and files."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile

from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.corpora import read_corpus
from pipeline.data.corpora.make_manifest import make_manifest as make
from tests.speech import tone

HEADER = ["File Name", "Valence", "Arousal", "Category", "Speaker"]
ROWS = [
    [
        f"u{number:02}.wav",
        2 + number % 4 + 0.25,
        6.0 - number % 5,
        ("Joy", "sad", "ANGRY")[number % 3],
        f"s{number % 4}",
    ]
    for number in range(12)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    for row in ROWS:
        (tmp_path / "audio" / str(row[0])).touch()
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *ROWS])
    return tmp_path


def made(folder: Path, table: str) -> tuple[bytes, dict[str, Any]]:
    found = make(folder / "audio", labels=folder / table, out=folder / "m.csv")
    return (folder / "m.csv").read_bytes(), found


def test_a_spreadsheet_is_read_as_its_csv(folder: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [HEADER, *ROWS, [None] * 5]:
        book.active.append(row)
    book.save(folder / "labels.xlsx")
    of_csv, of_book = made(folder, "labels.csv")[0], made(folder, "labels.xlsx")
    rows = [list(csv.DictReader(io.StringIO(text.decode()))) for text in (of_csv, of_book[0])]
    for one, other in zip(*rows, strict=True):
        assert {name: one[name] for name in one if name != "arousal"} == {n: other[n] for n in other if n != "arousal"}
        assert float(one["arousal"]) == float(other["arousal"])  # 6.0 in the CSV, 6 in the sheet
    assert not [note for note in of_book[1]["notes"] if "sheet" in note]
    book.create_sheet("notes")
    book.save(folder / "labels.xlsx")
    assert "WARNING: of 2 sheets the first is read, 'Sheet'" in made(folder, "labels.xlsx")[1]["notes"]


@pytest.mark.parametrize("rows", [[], [[None, None]], [["file", "file"], ["u00.wav", "x"]]])
def test_a_spreadsheet_without_a_header_is_refused(rows: list[list[str | None]], folder: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(folder / "labels.xlsx")
    with pytest.raises(UsageError, match=r"no header|column 'file' twice"):
        made(folder, "labels.xlsx")


def test_what_only_looks_like_a_spreadsheet_is_one_line(folder: Path) -> None:
    pytest.importorskip("openpyxl")
    (folder / "labels.xlsx").write_bytes(b"no zip")
    with pytest.raises(UsageError, match=r"labels\.xlsx: cannot be read"):
        made(folder, "labels.xlsx")


@pytest.mark.parametrize(("ending", "library"), [("xlsx", "openpyxl"), ("parquet", "pyarrow")])
def test_a_missing_library_is_named_with_its_extra(
    ending: str, library: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / f"labels.{ending}").touch()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf"{library} is not installed; expected the extra tables"):
        made(folder, f"labels.{ending}")


@pytest.mark.parametrize("ending", ["xls", "ods"])
def test_other_spreadsheets_are_refused(ending: str, folder: Path) -> None:
    (folder / f"labels.{ending}").touch()
    with pytest.raises(UsageError, match=r"a spreadsheet; expected CSV or \.xlsx"):
        made(folder, f"labels.{ending}")


def test_json_lines_are_read_as_their_csv(folder: Path) -> None:
    lines = [json.dumps(dict(zip(HEADER, row, strict=True))) for row in ROWS]
    (folder / "labels.jsonl").write_text("\n".join(lines))
    expected, found = made(folder, "labels.csv")[0], made(folder, "labels.jsonl")[0]
    assert found == expected.replace(b".0,", b",")
    (folder / "labels.jsonl").write_text("\n".join([*lines, "{"]))
    with pytest.raises(ManyProblems, match=r"labels\.jsonl:13: "):
        made(folder, "labels.jsonl")


# EmoBox


def emobox(root: Path, *, valid: bool, emo: Sequence[str] = "cjt") -> list[str]:
    """A corpus as EmoBox writes it: names that repeat in folders of emotions, labels by letters, a map of them."""
    folder = root / "data/tiny/fold_1"
    folder.mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    clips = []
    for number in range(30):
        letter = emo[number % len(emo)]
        clip = f"{('anna', 'ben')[number % 2]}/{letter}/{number // 2:02}.wav"
        (root / "downloads/tiny" / clip).parent.mkdir(parents=True, exist_ok=True)
        (root / "downloads/tiny" / clip).touch()
        clips.append(clip)
        entry = {
            "key": f"tiny-{number}", "dataset": "tiny", "wav": f"downloads/tiny/{clip}", "type": "raw",
            "sample_rate": 16000, "num_frame": 8000.0, "task": "category", "length": 0.5, "emo": letter, "channel": 1,
        }  # fmt: skip
        split = "test" if number >= 24 else "valid" if valid and number >= 20 else "train"
        lines[split].append(json.dumps(entry))
    for split, entries in lines.items():
        if entries:
            (folder / f"tiny_{split}_fold_1.jsonl").write_text("\n".join(entries) + "\n")
    (folder.parent / "tiny.jsonl").write_text("\n".join(line for each in lines.values() for line in each) + "\n")
    (folder.parent / "label_map.json").write_text(json.dumps({"c": "Angry", "j": "Happy", "t": "Sad", "p": "Fear"}))
    return clips


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize("root", ["downloads/tiny", ".", "downloads"])
def test_a_fold_of_emobox_is_a_manifest(valid: bool, root: str, tmp_path: Path) -> None:
    clips = emobox(tmp_path, valid=valid)
    found = make(tmp_path / root, labels=tmp_path / "data/tiny/fold_1", out=tmp_path / "m.csv")
    manifest = read_corpus(CorpusConfig(manifest=tmp_path / "m.csv", root=tmp_path / root))
    by_id = dict(zip(manifest.id, zip(manifest.audio, manifest.emotion, manifest.split, strict=True), strict=True))
    assert by_id.keys() == {f"tiny-{number}" for number in range(30)}
    for number, clip in enumerate(clips):
        audio, emotion, split = by_id[f"tiny-{number}"]
        assert (tmp_path / root / audio).samefile(tmp_path / "downloads/tiny" / clip)
        assert emotion == {"c": "angry", "j": "happy", "t": "sad"}[clip.split("/")[1]]
        if number >= 24:
            assert split == "test"
        elif valid:
            assert split == ("dev" if number >= 20 else "train")
    assert manifest.split.count("dev") == (4 if valid else 5)  # a fifth of 24
    assert set(manifest.speaker) == {""}  # folders of emotions are nobody
    assert ("EmoBox's fold has no development set" in " ".join(found["notes"])) == (not valid)


def test_all_of_a_corpus_of_emobox_is_split_by_the_seed(tmp_path: Path) -> None:
    emobox(tmp_path, valid=False)
    found = make(tmp_path / "downloads", labels=tmp_path / "data/tiny/tiny.jsonl", out=tmp_path / "m.csv")
    manifest = read_corpus(CorpusConfig(manifest=tmp_path / "m.csv", root=tmp_path / "downloads"))
    assert (len(manifest), set(manifest.emotion)) == (30, {"angry", "happy", "sad"})
    assert found["utterances"].keys() == {"train", "dev", "test"}


def test_an_emotion_that_the_map_does_not_name_is_kept_and_said(tmp_path: Path) -> None:
    """EmoBox's EmoDB has words in its lines and letters in its map."""
    emobox(tmp_path, valid=True, emo=["c", "neutral"])
    notes = make(tmp_path / "downloads", labels=tmp_path / "data/tiny/fold_1")["notes"]
    assert f"{tmp_path / 'data/tiny/label_map.json'} has no name for neutral: kept as they are" in notes
    manifest = read_corpus(CorpusConfig(manifest=tmp_path / "downloads/manifest.csv"))
    assert set(manifest.emotion) == {"angry", "neutral"}


def test_the_map_may_be_a_dict(tmp_path: Path) -> None:
    emobox(tmp_path, valid=True)
    (tmp_path / "data/tiny/label_map.json").rename(tmp_path / "data/tiny/label_dict.json")
    make(tmp_path / "downloads", labels=tmp_path / "data/tiny/fold_1")
    manifest = read_corpus(CorpusConfig(manifest=tmp_path / "downloads/manifest.csv"))
    assert set(manifest.emotion) == {"angry", "happy", "sad"}


def test_stretches_of_longer_files_are_refused(tmp_path: Path) -> None:
    emobox(tmp_path, valid=True)
    path = tmp_path / "data/tiny/fold_1/tiny_test_fold_1.jsonl"
    path.write_text(path.read_text().replace('"channel": 1', '"channel": 1, "start_time": 0.5, "end_time": 1.5'))
    with pytest.raises(UsageError, match="stretches of longer files"):
        make(tmp_path / "downloads", labels=tmp_path / "data/tiny/fold_1")


def test_what_is_no_fold_of_emobox_is_refused(tmp_path: Path) -> None:
    emobox(tmp_path, valid=True)
    (tmp_path / "data/tiny/label_map.json").write_text("[]")
    with pytest.raises(UsageError, match=r"label_map\.json: not an object"):
        make(tmp_path / "downloads", labels=tmp_path / "data/tiny/fold_1")
    with pytest.raises(UsageError, match="a folder without them; expected a fold of EmoBox"):
        make(tmp_path / "downloads", labels=tmp_path / "data/tiny")


# Parquet and Arrow


def wav_bytes(number: int, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(0.3, pitch=100 + 10 * number), 16_000, format=kind)
    return file.getvalue()


def dataset(pyarrow: Any, rows: list[int], *, path: str = "clip{}.wav", features: bool = True) -> Any:
    """Rows as `datasets` stores them: audio in a struct, an emotion as the number of its class."""
    table = pyarrow.table(
        {
            "audio": [{"bytes": wav_bytes(row), "path": path.format(row)} for row in rows],
            "label": pyarrow.array([row % 3 for row in rows], pyarrow.int64()),
            "speaker_id": [f"s{row % 5}" for row in rows],
            "valence": [1.5 + row % 5 for row in rows],
        }
    )
    names = {"info": {"features": {"label": {"names": ["anger", "joy", "sadness"], "_type": "ClassLabel"}}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(names)} if features else {})


def test_audio_in_parquet_files_is_written_out_once(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parts = {
        "train-00000-of-00002": range(0, 4),
        "train-00001-of-00002": range(4, 8),
        "validation-00000-of-00001": range(8, 10),
    }
    parts["test-00000-of-00001"] = range(10, 12)
    (tmp_path / "set/data").mkdir(parents=True)
    for name, rows in parts.items():
        parquet.write_table(dataset(pyarrow, list(rows)), tmp_path / f"set/data/{name}.parquet")
    found = make(tmp_path / "set", out=tmp_path / "out/m.csv")
    manifest = read_corpus(CorpusConfig(manifest=tmp_path / "out/m.csv"))
    assert manifest.audio == [f"audio/clip{row}.wav" for row in (10, 11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)]
    for place, audio in enumerate(manifest.audio):
        row = int(audio.removeprefix("audio/clip").removesuffix(".wav"))
        assert (tmp_path / "out" / audio).read_bytes() == wav_bytes(row)
        assert manifest.emotion[place] == ("angry", "happy", "sad")[row % 3]
        assert manifest.speaker[place] == f"s{row % 5}"
        assert manifest.valence[place] == 1.5 + row % 5
        assert manifest.split[place] == ("train" if row < 8 else "dev" if row < 10 else "test")
    assert found["next"] == f"extract-features {tmp_path}/out/m.csv --out stores/set"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/audio").iterdir()}
    make(tmp_path / "set", out=tmp_path / "out/m.csv")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out/audio").iterdir()} == before


def test_a_folder_of_arrow_files_is_read_likewise(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    for split, rows in {"train": [0, 1, 2, 3], "test": [4, 5]}.items():
        (tmp_path / "set" / split).mkdir(parents=True)
        table = dataset(pyarrow, rows, path="same.wav")  # one name for all
        with pyarrow.ipc.new_stream(tmp_path / f"set/{split}/data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table)
    make(tmp_path / "set")
    manifest = read_corpus(CorpusConfig(manifest=tmp_path / "set/manifest.csv"))
    assert len(set(manifest.audio)) == 6
    assert {(tmp_path / "set" / audio).read_bytes() for audio in manifest.audio} == {wav_bytes(row) for row in range(6)}
    assert manifest.split.count("train") == 4
    assert manifest.split.count("test") == 2


@pytest.mark.parametrize("path", ["../../out.wav", "/etc/passwd", "..", "", "a\nb\\c.wav"])
def test_a_path_in_a_table_never_leaves_the_folder(path: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "x/set").mkdir(parents=True)
    parquet.write_table(dataset(pyarrow, [0, 1], path=path), tmp_path / "x/set/a.parquet")
    make(tmp_path / "x/set", out=tmp_path / "x/m.csv")
    written = sorted(file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".parquet")
    assert [file.parent for file in written] == [tmp_path / "x/audio"] * 2 + [tmp_path / "x"]
    assert all(file.suffix in (".wav", ".csv") for file in written)


def test_numbers_of_classes_without_names_are_pointed_out(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "set").mkdir()
    parquet.write_table(dataset(pyarrow, list(range(6)), features=False), tmp_path / "set/a.parquet")
    assert "columns of numbers without names: label" in make(tmp_path / "set")["notes"]


def test_a_parquet_of_paths_is_a_table_of_labels(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {name: [row[place] for row in ROWS] for place, name in enumerate(HEADER)}
    parquet.write_table(pyarrow.table(columns), folder / "labels.parquet")
    assert made(folder, "labels.parquet")[0] == made(folder, "labels.csv")[0].replace(b".0,", b",")
    (folder / "set").mkdir()
    parquet.write_table(pyarrow.table(columns), folder / "set/labels.parquet")
    with pytest.raises(UsageError, match="row 0: no bytes of audio"):
        make(folder / "set")


def test_what_only_looks_like_parquet_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("a.parquet", "b.arrow"):
        (tmp_path / name[0]).mkdir()
        (tmp_path / name[0] / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UsageError, match="cannot be read"):
            make(tmp_path / name[0])
