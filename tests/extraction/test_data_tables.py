"""A DataFrame or a Dataset is a corpus: understood, checked and refused as a manifest is; and stores give one back."""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pytest

from cache.stores import open_stores
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.corpora.make_manifest import table_manifest
from pipeline.extraction.extract import extract
from pipeline.extraction.plan import plan_extraction
from tests.speech import QUICK

pandas = pytest.importorskip("pandas", reason="pandas is not installed (extra pandas)")


@pytest.fixture(scope="module")
def frame(corpus: Path) -> Any:
    """The manifest of the small corpus, its audio by absolute paths."""
    table = pandas.read_csv(corpus, dtype={"id": str})
    return table.assign(audio=[str(corpus.parent / path) for path in table["audio"]])


class Dataset:
    """As much of a `datasets.Dataset` as is asked of one."""

    def __init__(self, rows: list[dict[str, Any]], **classes: list[str]) -> None:
        self.table = pyarrow.Table.from_pylist(rows)
        self.features = {name: SimpleNamespace() for name in self.table.column_names}
        self.features |= {name: SimpleNamespace(names=names) for name, names in classes.items()}

    def with_format(self, kind: str) -> Dataset:
        assert kind == "arrow"
        return self

    def iter(self, rows: int) -> Iterator[Any]:
        yield from self.table.to_batches(max_chunksize=rows)


def records(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_stores_of_a_data_frame_are_those_of_its_manifest(
    frame: Any, corpus: Path, stores: Path, tmp_path: Path
) -> None:
    counts = extract(frame, out=tmp_path, audio_root=corpus.parent, overrides=QUICK)
    assert counts["audio"] == {"rows": len(frame), "done": len(frame), "failed": 0, "pending": 0, "width": 384}
    mine, theirs = open_stores(tmp_path), open_stores(stores)
    assert (tmp_path / "manifest.csv").read_bytes() == (stores / "manifest.csv").read_bytes()
    assert np.array_equal(mine.speech(), theirs.speech())
    assert records(tmp_path / "table.csv")[0] == records(corpus)[0]
    assert (
        extract(frame, out=tmp_path, audio_root=corpus.parent, overrides=QUICK)["audio"] == counts["audio"]
    )  # resumes


def test_columns_by_other_names_are_recognised_and_what_was_understood_is_logged(
    frame: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = frame.rename(columns={"audio": "path", "emotion": "label", "speaker": "speaker_id"}).drop(columns="split")
    other = other.assign(extra=1, valence=other["valence"].where(other.index > 0)).drop(columns="id")
    with caplog.at_level(logging.INFO, "pipeline"):
        path, root = table_manifest(other, tmp_path)
    found = records(path)
    assert [row["emotion"] for row in found] == frame["emotion"].fillna("").tolist()
    assert root == Path(frame["audio"][0]).parent
    assert found[0]["id"] == Path(frame["audio"][0]).stem
    assert found[0]["valence"] == ""  # NaN
    assert {row["split"] for row in found} == {"train", "dev", "test"}
    said = "\n".join(caplog.messages)
    assert "audio is 'path'" in said
    assert "emotion is 'label'" in said
    assert "drawn by seed 0" in said
    assert "columns that are not used: extra" in said


def test_a_faulty_row_is_named_by_its_line_and_nothing_else_is_written(frame: Any, tmp_path: Path) -> None:
    wrong = frame.assign(valence=[9.5, *frame["valence"][1:]], split=[*frame["split"][:-1], "tset"])
    wrong.loc[2, "audio"] = str(tmp_path / "none.wav")
    with pytest.raises(ManyProblems) as caught:
        extract(wrong, out=tmp_path / "stores", audio_root="/", overrides=QUICK)
    lines = caught.value.problems
    assert any(line.startswith(f"{tmp_path}/stores/table.csv:2: valence") for line in lines)
    assert any("table.csv:4: audio" in line for line in lines)
    assert any(f"table.csv:{len(frame) + 1}: split 'tset'" in line for line in lines)
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["table.csv"]


def test_a_dry_run_of_a_data_frame_writes_nothing(frame: Any, tmp_path: Path) -> None:
    plan = plan_extraction(frame, out=tmp_path / "stores", overrides=QUICK)
    assert plan["utterances"] == frame["split"].value_counts().to_dict()
    assert not list(tmp_path.iterdir())


def test_relative_paths_are_of_the_audio_root_or_the_current_folder(
    frame: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = frame.assign(audio=pandas.read_csv(corpus)["audio"])
    assert table_manifest(table, tmp_path, corpus.parent)[1] == corpus.parent
    monkeypatch.chdir(corpus.parent)
    assert plan_extraction(table, out=tmp_path / "s", overrides=QUICK)["utterances"]["train"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop(columns="audio"), "the DataFrame: columns id, .*; expected a column of paths"),
        (lambda table: table.head(0), "the DataFrame: no rows; expected at least one"),
        (lambda table: table[["audio", "audio"]], "the DataFrame: column 'audio' twice; expected unique names"),
        (
            lambda table: Dataset([{"audio": {"path": None, "bytes": None}}]),
            "row 0, column audio: audio that is neither",
        ),
    ],
)
def test_a_table_that_cannot_be_a_corpus_is_a_line(change: Any, said: str, frame: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        extract(change(frame), out=tmp_path)
    assert not list(tmp_path.iterdir())


def dataset_rows(frame: Any, *, with_bytes: bool) -> list[dict[str, Any]]:
    """As the hub stores them: a struct of audio, an emotion by number."""
    rows = []
    for audio, emotion in zip(frame["audio"], frame["emotion"], strict=True):
        sound = (
            {"bytes": Path(audio).read_bytes(), "path": Path(audio).name}
            if with_bytes
            else {"bytes": None, "path": audio}
        )
        rows.append({"audio": sound, "emotion": sorted(set(frame["emotion"])).index(emotion)})
    return rows


@pytest.mark.parametrize("with_bytes", [True, False])
def test_a_dataset_gives_its_paths_or_its_bytes_as_files_and_its_classes_by_name(
    frame: Any, tmp_path: Path, with_bytes: bool
) -> None:
    frame = frame.assign(emotion=frame["emotion"].fillna("neutral"))
    names, rows = sorted(set(frame["emotion"])), dataset_rows(frame, with_bytes=with_bytes)
    half = len(rows) // 2
    splits = {"train": Dataset(rows[:half], emotion=names), "validation": Dataset(rows[half:], emotion=names)}
    path, root = table_manifest(splits, tmp_path)
    found = records(path)
    assert [row["emotion"] for row in found] == frame["emotion"].tolist()
    assert [row["split"] for row in found] == ["train"] * half + ["dev"] * (len(rows) - half)
    for row, audio in zip(found, frame["audio"], strict=True):
        assert (root / row["audio"]).read_bytes() == Path(audio).read_bytes()
    assert (root == tmp_path / "audio") is with_bytes


def test_a_class_number_without_a_name_stays_a_number(frame: Any, tmp_path: Path) -> None:
    frame = frame.assign(emotion=frame["emotion"].fillna("neutral"))
    rows = dataset_rows(frame, with_bytes=False)
    path, _ = table_manifest({"train": Dataset(rows, emotion=sorted(set(frame["emotion"]))[:1])}, tmp_path)
    found = [row["emotion"] for row in records(path)]
    named = [sorted(set(frame["emotion"]))[0] if not row["emotion"] else str(row["emotion"]) for row in rows]
    assert found == named
    assert any(name.isdigit() for name in found)


def test_stores_give_a_data_frame_whose_rows_are_those_of_their_vectors(stores: Path, frame: Any) -> None:
    opened = open_stores(stores)
    table = opened.table("test")
    assert len(table) == len(opened.speech("test"))
    chosen = frame[frame["split"] == "test"]
    assert table["id"].tolist() == chosen["id"].tolist()
    assert table["row"].tolist() == chosen.index.tolist()
    assert np.array_equal(table["valence"], chosen["valence"], equal_nan=True)
    assert len(opened.table()) == len(frame)


def test_without_pandas_stores_name_the_extra(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"pandas is not installed; .*'emotionrankclap\[pandas\]'"):
        open_stores(stores).table()


def test_the_library_datasets_itself_goes_in_and_out(frame: Any, stores: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    columns = {name: frame[name].tolist() for name in ("audio", "split", "valence", "arousal")}
    given = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
    path, root = table_manifest(given.select(range(3)), tmp_path)
    assert [str(root / row["audio"]) for row in records(path)] == frame["audio"].tolist()[:3]
    back = datasets.Dataset.from_pandas(open_stores(stores).table("test"))
    assert back["id"][:] == open_stores(stores).table("test")["id"].tolist()
