"""Label tables as streams: CSV, JSON lines and JSON objects, a record at a time, each fault reported with its line."""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import IO

from pipeline.core.errors import UsageError
from pipeline.core.files import NotJson, open_regular, parse_json, refuse_repeated_keys
from pipeline.data.corpora.label_names import closest

Record = dict[str, str]
Report = Callable[[int, Path, str], None]
AS_CSV = "or save it as CSV"  # where a format's library is not installed
_NAMED = 20  # columns that are not read
_UNDECODED = {  # encoding -> how bytes that are none of it are let through, and what they are then
    "utf-8-sig": ("surrogateescape", re.compile("[\udc80-\udcff]")),
    "utf-16": ("replace", re.compile("\ufffd")),
}
_UNSPOKEN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_SEP_LINE = re.compile(r'"?sep=([,;\t])"?')  # as Excel writes it


def collect(problems: list[str]) -> Report:
    """A report that adds `file:line: text` to `problems`."""
    return lambda line, file, text: problems.append(f"{file}:{line}: {text}")


@dataclass(frozen=True)
class TableColumns:
    """The columns that are read."""

    required: Sequence[str]
    optional: Sequence[str] = ()

    @property
    def known(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)


def read_csv(
    path: Path, columns: TableColumns, report: Report, notes: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, the known columns by name) of each record of a table with a header.

    Commas, semicolons or tabs separate it, in UTF-8 or, by its mark, in UTF-16; a line `sep=;` may come first. Columns
    are found by name, in any order. Those that are not read, empty rows and columns, and what was not a plain CSV, are
    told in `notes`.
    """
    rows = _csv_rows(path, report, _dialect(path, columns, notes))
    line, given = next(rows, (1, []))
    if given is None:
        return
    header = _without_empty_end(given)
    if header and len(given) > len(header):
        notes.append(f"{len(given) - len(header):,} empty columns at the end are left out")
    if not _check_header(header, columns, lambda text: report(line, path, text)):
        return
    notes += unused_notes([name for name in header if name and name not in columns.known], columns)
    used = [name for name in columns.known if name in header]
    pick = itemgetter(*(header.index(name) for name in used), 0)  # 0 twice or more: always a tuple
    header_line, empty = line, 0
    for line, fields in rows:
        if fields is None:
            continue
        if not any(map(str.strip, fields)):
            empty += 1
        elif len(fields) >= len(header) and not any(map(str.strip, fields[len(header) :])):
            yield line, dict(zip(used, pick(fields), strict=False))
        else:
            report(line, path, f"{len(fields)} fields; expected {len(header)}, as in the header")
    if line == header_line:
        report(line + 1, path, "no record after the header; expected one for each utterance")
    if empty:
        notes.append(f"{empty:,} empty rows are left out")


def _without_empty_end(header: Sequence[str]) -> list[str]:
    """The names of a header, less the empty ones at its end."""
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    return names


@dataclass(frozen=True)
class Dialect:
    """How a table is written."""

    separator: str
    encoding: str
    skipped: int  # lines before the header


_HEAD_BYTES = 1 << 16  # in which the header ends
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def _dialect(path: Path, columns: TableColumns, notes: list[str]) -> Dialect:
    """The dialect of `path`: by its byte order mark, its line `sep=`, or what its header is separated by."""
    with open_regular(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    encoding = _MARKS.get(head[:2], "utf-8-sig")
    lines = head.decode(encoding, errors="replace").splitlines()
    stated = _SEP_LINE.fullmatch(lines[0]) if lines else None
    skipped, separator = int(stated is not None), stated[1] if stated else ","
    first = next((line for line in lines[skipped:] if line.strip()), "")
    if not skipped:
        separator = max(_SEPARATORS, key=lambda each: (_names_in(first, each, columns.known), each == ","))
    written = [f"with {_SEPARATORS[separator]}"] if separator != "," else []
    written += ["in UTF-16"] if encoding == "utf-16" else []
    if written:
        notes.append(f"the table is read as written {' and '.join(written)}")
    return Dialect(separator, encoding, skipped)


def _names_in(header: str, separator: str, known: Sequence[str]) -> int:
    """How many names of a header are known when it is separated so; of no names in particular, how many there are."""
    names = [name.strip().strip('"') for name in header.split(separator)]
    return sum(name in known for name in names) if known else len(names)


def read_json_lines(path: Path, report: Report) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line, object) of each line of a JSON-lines file in UTF-8; blank lines are passed over."""
    line = 0
    with open_regular(path, "rb") as file:
        for line, raw in enumerate(file, start=1):
            if raw.isspace():
                continue
            try:
                entry = parse_json(raw)
                if not isinstance(entry, dict):
                    raise NotJson(f"a JSON {type(entry).__name__}")
            except NotJson as error:
                report(line, path, f"{error}; expected one JSON object per line")
            else:
                yield line, entry
    if not line:
        report(1, path, "empty; expected one JSON object per line")


def unused_notes(names: Sequence[str], columns: TableColumns) -> list[str]:
    """The notes about columns that are not read: the first few by name."""
    notes = [
        f"column {name[:60]!r} is not used{closest(name.strip().lower(), columns.known)}" for name in names[:_NAMED]
    ]
    rest = len(names) - len(notes)
    return [*notes, f"{rest:,} more columns are not used"] if rest else notes


def _csv_rows(path: Path, report: Report, dialect: Dialect) -> Iterator[tuple[int, list[str] | None]]:
    """Yield (first line, fields) of each record; None where it is not text, of which the first is reported."""
    undecoded: list[tuple[int, str]] = []
    reported = False
    line = 1 + dialect.skipped
    errors, pattern = _UNDECODED[dialect.encoding]
    with open_regular(path, newline="", encoding=dialect.encoding, errors=errors) as file:
        for _ in range(dialect.skipped):
            next(file, "")
        reader = csv.reader(_watched(file, undecoded, pattern, line), delimiter=dialect.separator, strict=True)
        try:
            for fields in reader:
                if undecoded and not reported:
                    number, text = undecoded[0]
                    report(number, path, _not_text(text, pattern))
                    reported = True
                if undecoded:
                    undecoded.clear()
                    yield line, None
                elif fields:
                    yield line, fields
                line = reader.line_num + 1 + dialect.skipped
        except csv.Error as error:
            report(line, path, f"not CSV ({error}), and nothing after it was read; expected balanced quotes")
            yield line, None


def _watched(file: IO[str], undecoded: list[tuple[int, str]], pattern: re.Pattern[str], first: int) -> Iterator[str]:
    for number, line in enumerate(file, start=first):
        if not line.isascii() and pattern.search(line):
            undecoded.append((number, line))
        yield line


def _not_text(line: str, pattern: re.Pattern[str]) -> str:
    """What is wrong with a line that is not text in UTF-8: the first byte, and what it is in Windows' own encoding."""
    match = pattern.search(line)
    if match is None or match[0] == "\ufffd":
        return "not UTF-16; expected text in UTF-8 or UTF-16"
    byte = match[0].encode("utf-8", "surrogateescape")
    letter = byte.decode("cp1252", "replace")
    windows = f", {letter!r} in Windows-1252" if letter != "\ufffd" else ""
    found = f"not UTF-8: byte 0x{byte.hex().upper()} at character {match.start() + 1}{windows}"
    return f"{found}; expected text in UTF-8 (save it as CSV UTF-8, or convert it: iconv -f CP1252 -t UTF-8)"


def _check_header(header: Sequence[str], columns: TableColumns, report: Callable[[str], None]) -> bool:
    if not any(header):
        report(f"empty; expected a header with {', '.join(columns.required)}")
        return False
    missing = [name for name in columns.required if name not in header]
    for name in missing:
        report(f"no column {name!r}{closest(name, header)}; expected {', '.join(columns.required)}")
    twice = sorted({name for name in columns.known if header.count(name) > 1})
    for name in twice:
        report(f"column {name!r} stands {header.count(name)} times; expected once")
    return not missing and not twice


def read_json_table(path: Path, key: str, report: Report) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line, record) for each entry of `{name: {field: value}}`; the name is the record's field `key`.

    An entry that stands twice is yielded twice (a dict would hide the first). Raises nothing: faults go to `report`.
    """
    with open_regular(path, "rb") as file:
        raw = file.read()
    try:
        entries = parse_json(raw, pairs=_Pairs)
    except NotJson as error:
        report(error.line, path, f"{error}; expected an object of objects")
    else:
        yield from _records(raw.decode("utf-8-sig"), entries, path, key, report)


class _Pairs(list[tuple[str, object]]):
    """A JSON object as its pairs, unlike a JSON array."""


def _records(
    text: str, entries: object, path: Path, key: str, report: Report
) -> Iterator[tuple[int, dict[str, object]]]:
    if not isinstance(entries, _Pairs) or not entries:
        report(1, path, "no entries; expected an object of objects keyed by file name")
        return
    line, position = 1, 0
    for name, fields in entries:
        found = text.find(f'"{name}"', position)  # the entries are in the order of the file
        if found < 0:  # a name written with escapes: the lines are lost from here on
            found = len(text)
        line, position = line + text.count("\n", position, found), found
        if not isinstance(fields, _Pairs):
            report(line, path, f"entry {name[:60]!r}: no object; expected the fields of an utterance")
            continue
        try:
            yield line, {**refuse_repeated_keys(fields), key: name}
        except NotJson as error:
            report(line, path, f"entry {name[:60]!r}: {error}; expected each once")


def read_any_columns(path: Path, report: Report, notes: list[str]) -> tuple[list[str], list[Record]]:
    """The header of a table and its records, all columns by name; see `read_csv` for what it may look like."""
    dialect = _dialect(path, TableColumns(()), notes)
    rows = _csv_rows(path, report, dialect)
    header = _without_empty_end(next(rows, (1, []))[1] or [])
    repeated = sorted({name for name in header if header.count(name) > 1})
    if not header or repeated:
        found = f"column {repeated[0]!r} twice" if repeated else "no header"
        raise UsageError(path, found, "a header of unique names", "Correct the table.")
    columns = TableColumns(tuple(name for name in header if name))
    records = list(read_csv(path, columns, report, []))
    return header, [record for _, record in records]


def plain_line(text: str) -> str:
    """A transcript on one line; control characters, and bytes that are not of its encoding, are spaces."""
    return " ".join(_UNSPOKEN.sub(" ", text).split())


def as_text(value: object) -> str:
    """A cell as a table of text has it; nothing for a list or an object."""
    if value is None or isinstance(value, list | dict | bytes):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def number_or_nan(value: object) -> float:
    """A cell's number; NaN where it is not one."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):  # the last: an integer of JSON beyond the floats
        return math.nan
