"""Tables that may hold their audio in a column, as records of text: Parquet and Arrow files, and tables in memory.

    make-manifest my/dataset --out my/manifest.csv     # writes my/audio/*.wav once
    extract(pandas.read_csv("labels.csv"), out="stores/mine")
    extract(datasets.load_dataset("my/dataset"), out="stores/mine")

The Hugging Face hub's form: a column `audio` of structs {bytes, path}, files named by split
(`train-00000-of-00002.parquet`) or in folders so named (`train/data-00000-of-00001.arrow`), the names of classes in the
schema's metadata. A table in memory is a pandas DataFrame, a `datasets.Dataset` or its DatasetDict; neither library is
imported here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from cache.disk import make_folder, write_atomic
from pipeline.core.errors import UsageError, required_library
from pipeline.core.files import open_regular
from pipeline.data.corpora.label_names import canonical_split
from pipeline.data.corpora.locations import ENDINGS
from pipeline.data.corpora.tables import AS_CSV, Record, as_text

DataTable = Any  # a DataFrame, a Dataset, or Datasets by split
_BATCH_ROWS = 64  # with their audio in memory at once
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3", b"FORM": ".aiff"}


# ---- files


def arrow_files(folder: Path) -> list[Path]:
    """Every Parquet or Arrow file below `folder`, in order."""
    return sorted(path for ending in ("parquet", "arrow") for path in folder.rglob(f"*.{ending}"))


def read_parquet(path: Path, notes: list[str]) -> tuple[list[str], list[Record]]:
    """Its columns as text; of a column of audio the path. Raises UsageError."""
    records: list[Record] = []
    for row in _file_rows(path, notes):
        audio = {name: value["path"] for name, value in row.items() if isinstance(value, dict) and "path" in value}
        records.append({name: as_text(value) for name, value in (row | audio).items()})
    return (list(records[0]) if records else []), records


def unpack_audio(files: list[Path], into: Path, notes: list[str]) -> tuple[list[str], list[Record]]:
    """Write the audio of every row into the folder `into`, once; the other columns as text, with `audio` and `split`.

    Raises UsageError for a row without bytes, or a file that is not of Arrow.
    """
    splits = {path: _split_of(path) for path in files}
    named = len(set(splits.values())) > 1 and None not in splits.values()
    rows = (
        (f"{path}: row {number}", row | ({"split": splits[path] or ""} if named else {}))
        for path in files
        for number, row in enumerate(_file_rows(path, notes))
    )
    return _unpack(rows, into, notes)


def _file_rows(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Each row of a file, its classes by name."""
    modules = ("pyarrow", "pyarrow.parquet", "pyarrow.ipc")
    pyarrow, parquet, ipc = (required_library(name, "tables", path, AS_CSV) for name in modules)
    with open_regular(path, "rb") as file:
        try:
            if path.suffix == ".parquet":
                table = parquet.ParquetFile(file)
                schema, batches = table.schema_arrow, table.iter_batches(_BATCH_ROWS)
            else:
                stream = ipc.open_stream(file)
                schema, batches = stream.schema, iter(stream)
            names = _class_names(schema.metadata or {})
            for batch in batches:
                for row in batch.to_pylist():
                    yield _with_class_names(row, names)
        except pyarrow.ArrowException as error:
            found = f"cannot be read ({str(error).splitlines()[0][:100]})"
            raise UsageError(path, found, "a Parquet or Arrow file", "Download it again.") from None
    unnamed = [field.name for field in schema if str(field.type).startswith("int") and field.name not in names]
    if unnamed:
        notes.append(f"columns of numbers without names: {', '.join(unnamed)[:200]}")


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> the names of its classes, as `datasets` writes them."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: list(map(str, each["names"])) for name, each in features.items() if "names" in each}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _split_of(path: Path) -> str | None:
    """By the first word of its name, or its folder."""
    return canonical_split(path.stem.partition("-")[0]) or canonical_split(path.parent.name)


# ---- tables in memory


def is_table(value: object) -> bool:
    """Whether `value` is a table in memory."""
    parts = value.values() if isinstance(value, Mapping) else [value]
    return all((hasattr(part, "to_dict") and hasattr(part, "columns")) or _is_dataset(part) for part in parts)


def table_records(table: DataTable, into: Path, notes: list[str]) -> tuple[list[str], list[Record]]:
    """The header of `table` and its records, all columns by name; audio in bytes is written into the folder `into`.

    Raises UsageError for a column that stands twice, and for audio that is neither a path nor bytes.
    """
    if not isinstance(table, Mapping):
        rows = _table_rows(table)
    else:
        rows = (
            {"split": canonical_split(str(name)) or name} | row
            for name, part in table.items()
            for row in _table_rows(part)
        )
    numbered = ((f"row {number}", row) for number, row in enumerate(rows))
    first = next(numbered, None)
    if first is None:
        raise UsageError(table_name(table), "no rows", "at least one", "Pass a table with utterances.")
    sounds = [name for name, value in first[1].items() if isinstance(value, Mapping)]
    every = chain([first], numbered)
    if any(first[1][name].get("bytes") for name in sounds):
        return _unpack(every, into, notes)
    records = [_with_paths(where, row, sounds) for where, row in every]
    return list(records[0]), records


def table_name(table: DataTable) -> str:
    """What an error is about."""
    return f"the {type(table).__name__}"


def _is_dataset(value: object) -> bool:
    return hasattr(value, "with_format") and hasattr(value, "features")


def _table_rows(table: DataTable) -> Iterator[dict[str, Any]]:
    """Each row, its classes by name, nothing decoded."""
    if _is_dataset(table):
        classes = {name: of.names for name, of in table.features.items() if hasattr(of, "names")}
        for batch in table.with_format("arrow").iter(_BATCH_ROWS):
            for row in batch.to_pylist():
                yield _with_class_names(row, classes)
        return
    header = list(map(str, table.columns))
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        found = f"column {repeated[0]!r} twice"
        raise UsageError(table_name(table), found, "unique names", "Rename a column.")
    present = table.astype(object).where(table.notna(), None)
    for values in present.itertuples(index=False, name=None):
        yield dict(zip(header, values, strict=True))


def _with_paths(where: str, row: Mapping[str, Any], sounds: list[str]) -> Record:
    paths = {name: row[name].get("path") or "" for name in sounds if row[name]}
    if empty := [name for name in sounds if row[name] and not paths[name]]:
        found, action = "audio that is neither a path nor bytes", "Cast it: cast_column(NAME, Audio(decode=False))."
        raise UsageError(f"{where}, column {empty[0]}", found, "one of the two", action)
    return {name: as_text(value) for name, value in ({**row, **paths}).items()}


# ---- classes by name, and audio in a column


def _with_class_names(row: dict[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The row with the names of its classes, which it has by number; a number without a name stays."""
    numbers = {column: row[column] for column in names if isinstance(row.get(column), int)}
    return row | {column: names[column][of] for column, of in numbers.items() if 0 <= of < len(names[column])}


def _unpack(
    rows: Iterable[tuple[str, Mapping[str, Any]]], into: Path, notes: list[str]
) -> tuple[list[str], list[Record]]:
    """Each row, of which the first column of {bytes, path} becomes a file in the folder `into`, as text with `audio`.

    `rows` say where each of them stands. Raises UsageError for a row without bytes.
    """
    make_folder(into)
    used: set[str] = set()
    records: list[Record] = []
    for place, (where, row) in enumerate(rows):
        column = next((name for name, value in row.items() if isinstance(value, dict) and "bytes" in value), None)
        if column is None or not row[column]["bytes"]:
            action = "Name the folder of the audio, and this file with --labels."
            raise UsageError(where, "no bytes of audio", "a column of {bytes, path}", action)
        data: bytes = row[column]["bytes"]
        name = _file_name(row[column].get("path") or "", data)
        if name in used:
            name = f"{place:06}-{name}"
        used.add(name)
        if not (into / name).is_file() or (into / name).read_bytes() != data:
            write_atomic(into / name, [data])
        records.append({key: as_text(value) for key, value in row.items() if key != column} | {"audio": name})
    notes.append(f"the audio of {len(records):,} rows is in {into}")
    return (list(records[0]) if records else []), records


def _file_name(path: str, data: bytes) -> str:
    """The last part of `path`, with an ending that says what `data` are."""
    name = PurePosixPath(path.replace("\\", "/")).name
    name = "".join(letter for letter in name if letter.isprintable() and letter != "/").lstrip(".") or "clip"
    if name.lower().endswith(ENDINGS):
        return name
    return name + next((ending for magic, ending in _MAGIC.items() if data.startswith(magic)), ".wav")
