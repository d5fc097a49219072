"""Tables of Apache Arrow: Parquet files, and folders as `datasets` stores them, with their audio in a column.

    make-manifest my/dataset --out my/manifest.csv     # writes my/audio/*.wav once

The Hugging Face hub's form: a column `audio` of structs {bytes, path}, files named by split
(`train-00000-of-00002.parquet`) or in folders so named (`train/data-00000-of-00001.arrow`), the names of classes in the
schema's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from cache.disk import make_folder, write_atomic
from pipeline.core.errors import UsageError, required_library
from pipeline.core.files import open_regular
from pipeline.data.corpora.audio_files import ENDINGS
from pipeline.data.corpora.label_names import canonical_split
from pipeline.data.corpora.label_tables import AS_CSV, Record, as_text

_BATCH_ROWS = 64  # with their audio in memory at once
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3", b"FORM": ".aiff"}


def arrow_files(folder: Path) -> list[Path]:
    """Every Parquet or Arrow file below `folder`, in order."""
    return sorted(path for ending in ("parquet", "arrow") for path in folder.rglob(f"*.{ending}"))


def read_parquet(path: Path, notes: list[str]) -> tuple[list[str], list[Record]]:
    """Its columns as text; of a column of audio the path. Raises UsageError."""
    records: list[Record] = []
    for row in _rows(path, notes):
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
        for number, row in enumerate(_rows(path, notes))
    )
    records = list(unpacked(rows, into))
    notes.append(f"the audio of {len(records):,} rows is in {into}")
    return (list(records[0]) if records else []), records


def unpacked(rows: Iterable[tuple[str, Mapping[str, Any]]], into: Path) -> Iterator[Record]:
    """Each row, of which the first column of {bytes, path} becomes a file in the folder `into`, as text with `audio`.

    `rows` say where each of them stands. Raises UsageError for a row without bytes.
    """
    make_folder(into)
    used: set[str] = set()
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
        yield {key: as_text(value) for key, value in row.items() if key != column} | {"audio": name}


def _rows(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
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
                    yield row | {
                        column: of[row[column]]
                        for column, of in names.items()
                        if isinstance(row.get(column), int) and 0 <= row[column] < len(of)
                    }
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


def _file_name(path: str, data: bytes) -> str:
    """The last part of `path`, with an ending that says what `data` are."""
    name = PurePosixPath(path.replace("\\", "/")).name
    name = "".join(letter for letter in name if letter.isprintable() and letter != "/").lstrip(".") or "clip"
    if name.lower().endswith(ENDINGS):
        return name
    return name + next((ending for magic, ending in _MAGIC.items() if data.startswith(magic)), ".wav")
