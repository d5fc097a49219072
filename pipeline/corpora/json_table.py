"""A label table as one JSON object keyed by name, as MSP-Podcast ships it beside the CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.corpora.tables import Report
from pipeline.json_text import NotJson, once, parse_json
from pipeline.regular_file import opened


def read_json_table(path: Path, key: str, report: Report) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line, record) for each entry of `{name: {field: value}}`; the name is the record's field `key`.

    An entry that stands twice is yielded twice (a dict would hide the first). Raises nothing: faults go to `report`.
    """
    with opened(path, "rb") as file:
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
            yield line, {**once(fields), key: name}
        except NotJson as error:
            report(line, path, f"entry {name[:60]!r}: {error}; expected each once")
