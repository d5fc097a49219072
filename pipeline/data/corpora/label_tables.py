"""Tables of labels that are not a manifest, as a header and records of text: CSV, spreadsheets, JSON lines, Parquet.

    make-manifest my/recordings --labels my/labels.xlsx
    make-manifest downloads/cafe --labels EmoBox/data/cafe/fold_1     # a fold of EmoBox

EmoBox (Ma et al., Interspeech 2024) holds 32 corpora in one form: JSON lines with `key`, `wav` and `emo` in a folder a
fold, and above them `label_map.json`, which says what each `emo` stands for.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from pipeline.core.errors import ManyProblems, UsageError, required_library
from pipeline.core.files import NotJson, open_regular, parse_json
from pipeline.data.corpora.data_tables import read_parquet
from pipeline.data.corpora.tables import AS_CSV, Record, as_text, collect, read_any_columns, read_json_lines

_UNREAD = (".xls", ".ods", ".numbers")
_LABEL_MAPS = ("label_map.json", "label_dict.json")  # the second is EMOVO's
_DEV_SHARE = 0.2  # of a fold's training set, where it has no development set; EmoBox draws as many


def read_label_table(path: Path, notes: list[str], seed: int = 0) -> tuple[list[str], list[Record]]:
    """The header of the table in `path` and its records, all columns by name.

    A folder is a fold of EmoBox; its development set is drawn by `seed` where it has none. Raises UsageError, also for
    a format whose library is not installed, and ManyProblems with every faulty line.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        return _with_header(_emobox_fold(path, notes, seed))
    if ending in (".xlsx", ".xlsm"):
        return _spreadsheet(path, notes)
    if ending == ".jsonl":
        return _with_header(_with_label_map(path.parent, _json_lines(path), notes))
    if ending == ".parquet":
        return read_parquet(path, notes)
    if ending in _UNREAD:
        raise UsageError(path, "a spreadsheet", "CSV or .xlsx", "Save it as CSV (UTF-8) and name that file.")
    problems: list[str] = []
    found = read_any_columns(path, collect(problems), notes)
    if problems:
        raise ManyProblems(path, problems, "Correct the table.")
    return found


def _with_header(records: Iterable[Record]) -> tuple[list[str], list[Record]]:
    """Records with the names of all; what one lacks is empty."""
    records = list(records)
    header = list(dict.fromkeys(name for record in records for name in record))
    return header, [{name: record.get(name, "") for name in header} for record in records]


def _spreadsheet(path: Path, notes: list[str]) -> tuple[list[str], list[Record]]:
    openpyxl = required_library("openpyxl", "tables", path, AS_CSV)
    try:
        with open_regular(path, "rb") as file:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            names = book.sheetnames
            rows = [list(map(as_text, row)) for row in book[names[0]].iter_rows(values_only=True)]
    except UsageError:
        raise
    except Exception as error:  # openpyxl raises what the zip or the XML happens to break
        found = f"cannot be read ({str(error)[:100] or type(error).__name__})"
        raise UsageError(path, found, "an Excel workbook (.xlsx)", "Save it again, or as CSV.") from error
    if len(names) > 1:
        notes.append(f"WARNING: of {len(names)} sheets the first is read, {names[0]!r}")
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    header = [cell.strip() for cell in rows[0]] if rows else []
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if not any(header) or repeated:
        found = f"column {repeated[0]!r} twice" if repeated else "no header"
        raise UsageError(path, found, "a header of unique names", "Correct the table.")
    return [name for name in header if name], [
        {name: cell for name, cell in zip(header, row, strict=False) if name} for row in rows[1:]
    ]


def _json_lines(path: Path) -> list[Record]:
    problems: list[str] = []
    entries = read_json_lines(path, collect(problems))
    records = [{name: as_text(value) for name, value in entry.items()} for _, entry in entries]
    if problems:
        raise ManyProblems(path, problems, "Correct the table.")
    if any(record.get("start_time") for record in records):  # EmoBox's PAVOQUE
        found = "utterances that are stretches of longer files (start_time, end_time)"
        raise UsageError(path, found, "a file for each", "Cut the files first, and name the pieces.")
    return records


def _emobox_fold(folder: Path, notes: list[str], seed: int) -> list[Record]:
    """The lines of `NAME_{train,valid,test}_fold_K.jsonl`, each with its split."""
    files = {split: sorted(folder.glob(f"*_{split}_fold_*.jsonl")) for split in ("train", "valid", "test")}
    if not files["train"] or not files["test"]:
        expected = "a fold of EmoBox: NAME_train_fold_K.jsonl and NAME_test_fold_K.jsonl"
        raise UsageError(folder, "a folder without them", expected, "Name a table, or such a folder.")
    records = [
        record | {"split": split} for split, paths in files.items() for path in paths for record in _json_lines(path)
    ]
    if not files["valid"]:
        training = [place for place, record in enumerate(records) if record["split"] == "train"]
        drawn = random.Random(seed).sample(training, round(_DEV_SHARE * len(training)))
        for place in drawn:
            records[place]["split"] = "dev"
        notes.append(f"EmoBox's fold has no development set: {len(drawn):,} training utterances, drawn by seed {seed}")
    return _with_label_map(folder.parent, records, notes)


def _with_label_map(folder: Path, records: list[Record], notes: list[str]) -> list[Record]:
    """EmoBox's records with the emotions that the map in `folder` names; other records as they are."""
    path = next((folder / name for name in _LABEL_MAPS if (folder / name).is_file()), None)
    if path is None or not all("emo" in record for record in records):
        return records
    with open_regular(path, "rb") as file:
        try:
            names = parse_json(file.read())
        except NotJson as error:
            raise UsageError(path, str(error), "an object of emotions", "Download it again.") from None
    if not isinstance(names, dict):
        raise UsageError(path, "not an object", "an object of emotions", "Download it again.")
    if unnamed := sorted({record["emo"] for record in records} - names.keys()):
        notes.append(f"{path} has no name for {', '.join(unnamed)[:200]}: kept as they are")
    return [record | {"emo": str(names.get(record["emo"], record["emo"]))} for record in records]
