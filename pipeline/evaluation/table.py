"""Both tests as plain-text tables, with every convention spelled out underneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.ordinality import NULL_STD, null_standard_error

TESTS = {
    "ordinality": ("Ordinality (Kendall's tau, higher is better)", {"aoc": "AOC", "voc": "VOC"}),
    "alignment": (
        "Alignment (distance of speech and text, lower is better)",
        {"mmd": "MMD", "wasserstein": "Wasserstein", "sliced_wasserstein": "sliced Wasserstein"},
    ),
}
_DIGITS = {"ordinality": 3, "alignment": 4}
_NAME = "evaluation"


def evaluation_table(result: Mapping[str, Any]) -> str:
    """The tables of one evaluation (`{"ordinality": ..., "alignment": ...}`) or of several by name (seeds, methods).

    A cell is mean ± std (over lists or trials). A convention shared by all rows is given once, without a name.
    """
    rows = {_NAME: result} if TESTS.keys() & result.keys() else result
    return "\n\n".join(_test(test, rows) for test in TESTS if any(test in row for row in rows.values()))


def _test(test: str, rows: Mapping[str, Any]) -> str:
    title, columns = TESTS[test]
    present = {name: row[test] for name, row in rows.items() if test in row}
    lines = [["", *columns.values()]]
    lines += [[name, *(_cell(row.get(key), _DIGITS[test]) for key in columns)] for name, row in present.items()]
    if test == "ordinality":
        lines.append(["chance", *(_chance(present, key) for key in columns)])
    notes = [note for key, header in columns.items() for note in _notes(header, key, present)]
    if test == "ordinality":
        notes.append(
            f"chance: mean of lists in random order ± its standard error {NULL_STD:.4f} / sqrt(lists) (no std over "
            "lists), were lists independent; they share their utterances, so the true spread is larger"
        )
    return "\n".join([title, *_aligned(lines), *notes])


def _cell(entry: Mapping[str, Any] | None, digits: int) -> str:
    return f"{entry['mean']:.{digits}f} ± {entry['std']:.{digits}f}" if entry else "-"


def _chance(rows: Mapping[str, Any], key: str) -> str:
    lists = {len(row[key]["taus"]) for row in rows.values() if key in row}
    return f"{0:.3f} ± {null_standard_error(min(lists)):.3f}" if lists else "-"


def _notes(header: str, key: str, rows: Mapping[str, Any]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, row in rows.items():
        if key in row:
            names.setdefault(row[key]["convention"], []).append(name)
    if len(names) == 1:
        return [f"{header}: {convention}" for convention in names]
    return [f"{header} ({', '.join(of)}): {convention}" for convention, of in names.items()]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
        for cells in lines
    ]
