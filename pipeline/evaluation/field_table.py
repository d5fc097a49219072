"""Retrieval, read-outs and order of speech alone as one table, a row a measure, as other work reports them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.evaluation.cells import BOUNDS
from pipeline.evaluation.retrieval import KS, TOLERANCE
from pipeline.evaluation.table_formats import Bold, TextTable

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


def field_table(results: Mapping[str, Mapping[str, Any]]) -> TextTable | None:
    """Of evaluations by name, as `evaluate` returns them, and the reference rows; None where none has such figures.

    A cell is the mean over seeds, with the std of several; the conventions are those of the first evaluation.
    """
    methods = {name: of for name, of in results.items() if name not in BOUNDS and of.get("retrieval")}
    if not methods:
        return None
    ceiling = results.get("ceiling", {})
    frozen = {**ceiling.get("readout", {}), **ceiling.get("speech_ordinality", {})}
    rows: list[list[str]] = []
    conventions: dict[str, int] = {}  # each once, with its number
    for row in _rows():
        entries = [of.get(row.test, {}).get(row.key, {}) for of in methods.values()]
        first = next(filter(None, entries), None)
        if first is None:
            continue
        number = conventions.setdefault(first["convention"], len(conventions) + 1)
        own = [Bold(row.measured(entry)) for entry in entries]
        of_frozen = [row.measured(frozen.get(row.key, {}))] if frozen else []
        chance = next((entry["chance"] for entry in entries if "chance" in entry), None)
        rows.append([f"{row.text} {row.arrow} [{number}]", *own, *of_frozen, row.number(chance)])
    notes = [
        "a hit: a caption of this utterance; of a text, any utterance that it describes; of equally similar ones hits "
        "come last",
        "↑: higher is better; ↓: lower is better",
        "figures are means over seeds, ± their std where there are several",
        "chance: the mean of candidates in random order, or of a blind guess of the category",
    ]
    if any(of.get("readout") for of in methods.values()):
        notes.append(
            "read-out: ridge regression fitted on the training split, its penalty chosen on the development split; "
            "frozen vectors: the same from the speech encoder's vectors"
        )
    if any(of.get("speech_ordinality") for of in methods.values()):
        notes.append(
            "speech by itself: Kendall's tau-b of the distances of labels and of speech from an utterance, mean over "
            "utterances, 1 where the nearer label is the nearer vector throughout; frozen vectors standardised"
        )
    title = "Retrieval, linear read-out and order of speech alone, as other work reports them"
    headers = ["measure", *methods, *(["frozen vectors"] if frozen else []), "chance"]
    return TextTable("field", title, headers, rows, notes, tuple(conventions))
