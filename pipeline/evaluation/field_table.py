"""Retrieval, read-outs and order of speech alone as one table, a row a measure, as other work reports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pipeline.evaluation.cells import BOUNDS
from pipeline.evaluation.retrieval import KS, TOLERANCE

FIELD_TESTS = ("retrieval", "readout", "speech_ordinality")  # that give each seed one number a measure


class _Row(NamedTuple):
    test: str
    key: str
    text: str
    digits: int
    scale: float = 1.0
    arrow: str = "↑"

    def number(self, value: float | None) -> str:
        return "-" if value is None else f"{self.scale * value:.{self.digits}f}"

    def measured(self, entry: Mapping[str, Any]) -> str:
        """The mean of a measure, ± the std over several seeds."""
        several = len(entry.get("seed_values", ())) > 1
        return self.number(entry.get("mean")) + (f" ± {self.number(entry['std'])}" if several else "")


def _rows() -> Iterator[_Row]:
    for direction in ("speech to text", "text to speech"):
        key = direction.replace(" ", "_")
        for k in KS:
            found = "hit in the first place" if k == 1 else f"hit among the first {k}"
            yield _Row("retrieval", f"{key}_r{k}", f"{direction}, {found}, %", 1, 100)
        yield _Row("retrieval", f"{key}_median_rank", f"{direction}, rank of the first hit, median", 0, arrow="↓")
        yield _Row("retrieval", f"{key}_map", f"{direction}, mean average precision, %", 1, 100)
        near = f"{direction}, of the first {KS[-1]} within {TOLERANCE} of the label, %"
        yield _Row("retrieval", f"{key}_near_p{KS[-1]}", near, 1, 100)
    for name in ("valence", "arousal", "dominance"):
        yield _Row("readout", f"{name}_ccc", f"{name} by a linear read-out, concordance", 3)
    yield _Row("readout", "category_uar", "category by a linear probe, mean recall of the classes, %", 1, 100)
    for name in ("valence", "arousal", "dominance", "plane"):
        by = "valence and arousal" if name == "plane" else name
        yield _Row("speech_ordinality", f"{name}_tau", f"speech by itself ordered by {by}, Kendall's tau", 3)


def measure_names() -> dict[str, str]:
    """The measures of the table by key, spelt out; those in per cent without it, as evaluation.json has them."""
    return {row.key: row.text.removesuffix(", %") for row in _rows()}


@dataclass(frozen=True)
class FieldTable:
    """Evaluations by name, as `evaluate` returns them, and the reference rows; a `table_formats.Listing`.

    A cell is the mean over seeds, with the std of several; the conventions are those of the first evaluation.
    """

    results: Mapping[str, Mapping[str, Any]]
    name: str = "field"
    title: str = "Retrieval, linear read-out and order of speech alone, as other work reports them"

    @property
    def methods(self) -> list[str]:
        """The evaluations that have such figures, no reference row."""
        return [name for name, result in self.results.items() if name not in BOUNDS and result.get("retrieval")]

    def headers(self) -> list[str]:
        return ["measure", *self.methods, *(["frozen vectors"] if self._frozen else []), "chance"]

    @property
    def _frozen(self) -> dict[str, Any]:
        """Of the speech encoder's vectors, by measure."""
        ceiling = self.results.get("ceiling", {})
        return {**ceiling.get("readout", {}), **ceiling.get("speech_ordinality", {})}

    def cells(self, bold: Callable[[str], str]) -> list[list[str]]:
        """A row a measure that an evaluation has, the evaluations' own figures in `bold`; `-` where there is none."""
        rows, numbers = [], {text: number for number, text in enumerate(self.conventions, 1)}
        for row in _rows():
            entries = self._entries(row)
            if any(entries):
                mark = numbers[next(filter(None, entries))["convention"]]
                frozen = [row.measured(self._frozen.get(row.key, {}))] if self._frozen else []
                chance = next((entry["chance"] for entry in entries if "chance" in entry), None)
                own = [bold(row.measured(entry)) for entry in entries]
                rows.append([f"{row.text} {row.arrow} [{mark}]", *own, *frozen, row.number(chance)])
        return rows

    def _entries(self, row: _Row) -> list[Mapping[str, Any]]:
        return [self.results[name].get(row.test, {}).get(row.key, {}) for name in self.methods]

    @cached_property
    def conventions(self) -> tuple[str, ...]:
        """Each once, in the order of the rows."""
        found = [next(filter(None, entries), None) for entries in map(self._entries, _rows())]
        return tuple(dict.fromkeys(entry["convention"] for entry in found if entry))

    @property
    def notes(self) -> list[str]:
        """What a hit is, what is read out, and where the conventions are."""
        notes = [
            "a hit: a caption of this utterance; of a text, any utterance that it describes; of equally similar ones "
            "hits come last",
            "↑: higher is better; ↓: lower is better",
            "figures are means over seeds, ± their std where there are several",
            "chance: the mean of candidates in random order, or of a blind guess of the category",
        ]
        if any(self.results[name].get("readout") for name in self.methods):
            notes.append(
                "read-out: ridge regression fitted on the training split, its penalty chosen on the development split; "
                "frozen vectors: the same from the speech encoder's vectors"
            )
        if any(self.results[name].get("speech_ordinality") for name in self.methods):
            notes.append(
                "speech by itself: Kendall's tau-b of the distances of labels and of speech from an utterance, mean "
                "over utterances, 1 where the nearer label is the nearer vector throughout; frozen vectors standardised"
            )
        return notes
