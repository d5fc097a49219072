"""Tables in memory as records of text: a pandas DataFrame, a `datasets.Dataset` or its DatasetDict.

    extract(pandas.read_csv("labels.csv"), out="stores/mine")
    extract(datasets.load_dataset("my/dataset"), out="stores/mine")

Neither library is imported here. A column of audio gives its paths; of recordings that it holds as bytes, as a dataset
of the Hugging Face hub does, files are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.core.errors import UsageError
from pipeline.data.corpora.label_names import canonical_split
from pipeline.data.corpora.label_tables import Record, as_text
from pipeline.data.corpora.parquet import unpacked

DataTable = Any  # a DataFrame, a Dataset, or Datasets by split
_BATCH_ROWS = 64  # of a Dataset, with their audio in memory at once


def is_table(value: object) -> bool:
    """Whether `value` is such a table."""
    parts = value.values() if isinstance(value, Mapping) else [value]
    return all((hasattr(part, "to_dict") and hasattr(part, "columns")) or _is_dataset(part) for part in parts)


def table_records(table: DataTable, into: Path, notes: list[str]) -> tuple[list[str], list[Record]]:
    """The header of `table` and its records, all columns by name; audio in bytes is written into the folder `into`.

    Raises UsageError for a column that stands twice, and for audio that is neither a path nor bytes.
    """
    if not isinstance(table, Mapping):
        rows = _rows(table)
    else:
        rows = (
            {"split": canonical_split(str(name)) or name} | row for name, part in table.items() for row in _rows(part)
        )
    numbered = ((f"row {number}", row) for number, row in enumerate(rows))
    first = next(numbered, None)
    if first is None:
        raise UsageError(table_name(table), "no rows", "at least one", "Pass a table with utterances.")
    sounds = [name for name, value in first[1].items() if isinstance(value, Mapping)]
    every = chain([first], numbered)
    if any(first[1][name].get("bytes") for name in sounds):
        records = list(unpacked(every, into))
        notes.append(f"the audio of {len(records):,} rows is in {into}")
    else:
        records = [_with_paths(where, row, sounds) for where, row in every]
    return list(records[0]), records


def table_name(table: DataTable) -> str:
    """What an error is about."""
    return f"the {type(table).__name__}"


def _is_dataset(value: object) -> bool:
    return hasattr(value, "with_format") and hasattr(value, "features")


def _rows(table: DataTable) -> Iterator[dict[str, Any]]:
    """Each row, its classes by name, nothing decoded."""
    if _is_dataset(table):
        classes = {name: of.names for name, of in table.features.items() if hasattr(of, "names")}
        for batch in table.with_format("arrow").iter(_BATCH_ROWS):
            for row in batch.to_pylist():
                named = {
                    name: of[row[name]] for name, of in classes.items() if row[name] is not None and row[name] >= 0
                }
                yield row | named
        return
    header = list(map(str, table.columns))
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        found = f"column {repeated[0]!r} twice"
        raise UsageError(table_name(table), found, "names that differ", "Rename a column.")
    present = table.astype(object).where(table.notna(), None)
    for values in present.itertuples(index=False, name=None):
        yield dict(zip(header, values, strict=True))


def _with_paths(where: str, row: Mapping[str, Any], sounds: list[str]) -> Record:
    paths = {name: row[name].get("path") or "" for name in sounds if row[name]}
    if empty := [name for name in sounds if row[name] and not paths[name]]:
        found, action = "audio that is neither a path nor bytes", "Cast it: cast_column(NAME, Audio(decode=False))."
        raise UsageError(f"{where}, column {empty[0]}", found, "one of the two", action)
    return {name: as_text(value) for name, value in ({**row, **paths}).items()}
