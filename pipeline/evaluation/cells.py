"""What a table of methods is made of: rows of methods, and cells that know how they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.core.files import csv_text
from pipeline.evaluation.measures import Column
from pipeline.evaluation.significance import Better, MethodDifference, mean_interval
from pipeline.evaluation.table_formats import Bold, TextTable, table_latex, table_markdown

MARK, SPEECH_MARK = "†", "‡"
_ARROWS: dict[Better | None, str] = {"higher": " ↑", "lower": " ↓", None: ""}


@dataclass(frozen=True)
class SpeakerSpread:
    """The same measure on resamples of the split's n speakers: their std, and 2.5 and 97.5 % of the `draws`."""

    n: int
    std: float
    low: float
    high: float
    draws: Sequence[float] = field(repr=False)
    left_out: int = 0  # utterances of unknown speakers


@dataclass(frozen=True)
class FoldSpread:
    """The same measure fold by fold, each the mean over seeds; empty for a figure of all folds together."""

    std: float | None = None
    values: Sequence[float] = ()  # (k,)
    interval: tuple[float, float] | None = None  # 95 %, of the mean on other speech


@dataclass(frozen=True)
class Cell:
    """One measure of one method: mean ± std over seeds, what else is known of its spread, and how it stands.

    `std` is None where there is one seed. `list_std` is over the lists or trials within a seed: no error of the mean.
    How it moves with the speech is known by resamples of `speakers` or, in a cross-validation, by `folds`.
    `chance_range`, of chance alone, holds 95 % of what a seed's figure would be. The tests are of this method less the
    best one: over seeds, and over speakers (and seeds) or folds.
    """

    mean: float
    std: float | None = None
    seed_values: Sequence[float] = ()
    list_std: float | None = None
    speakers: SpeakerSpread | None = None
    convention: str = ""
    folds: FoldSpread | None = None
    chance_range: tuple[float, float] | None = None
    best: bool = False
    seed_test: MethodDifference | None = None
    speech_test: MethodDifference | None = None
    worse: bool = False  # another training of the best is better on this test set, or on these folds
    worse_on_other_speech: bool = False

    def text(self, digits: int) -> str:
        """`0.552 ± 0.012`, in folds `0.552 ± 0.031 (0.007)`, and the marks; of chance `-0.180 to 0.180`."""
        if self.chance_range:
            return range_text(self.chance_range, digits)
        folds = "" if self.folds is None or self.folds.std is None else f" ± {self.folds.std:.{digits}f}"
        seeds = "" if self.std is None else f"{self.std:.{digits}f}"
        if seeds:
            seeds = f" ± {seeds}" if self.folds is None else f" ({seeds})"
        return f"{self.mean:.{digits}f}{folds}{seeds} {self.marks}".rstrip()

    @property
    def marks(self) -> str:
        """† and ‡, or "" where nothing is known to be better."""
        return MARK * self.worse + SPEECH_MARK * self.worse_on_other_speech

    @property
    def speech_unit(self) -> str:
        """What is drawn anew where this is tested on other speech."""
        return "speakers" if self.folds is None else "folds"

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval of the mean over seeds; None for one seed."""
        return mean_interval(self.seed_values) if len(self.seed_values) > 1 else None

    @property
    def elsewhere(self) -> tuple[float, float] | None:
        """Other speech: 95 % of the resamples of speakers, by these trainings, or the interval of the mean of folds."""
        if self.folds:
            return self.folds.interval
        return (self.speakers.low, self.speakers.high) if self.speakers else None

    def as_json(self) -> dict[str, Any]:
        """The cell in full precision, the tests against the best with it (None where there is none).

        `low` and `high` are `interval`, in folds `elsewhere`, and of chance `chance_range`; `speakers_low` and
        `speakers_high` are `elsewhere`, `seeds_low` and `seeds_high` `interval`; the intervals of the difference from
        the best are of its tests over seeds and over speakers or folds.
        """
        test = self.seed_test or self.speech_test
        return {
            "mean": self.mean,
            **(self._spread_over_seeds() if self.folds is None else self._spread_over_folds(self.folds)),
            "best": self.best,
            "worse": self.worse,
            "worse_on_other_speech": self.worse_on_other_speech,
            "against": test.other if test else None,
            "difference": test.difference if test else None,
            **_difference_fields("seeds", self.seed_test),
            **_difference_fields(self.speech_unit, self.speech_test),
        }

    def _spread_over_seeds(self) -> dict[str, Any]:
        low, high = self.interval or self.chance_range or (None, None)
        speakers_low, speakers_high = self.elsewhere or (None, None)
        return {
            "std": self.std,
            "seeds": len(self.seed_values) or None,
            "low": low,
            "high": high,
            "list_std": self.list_std,
            "speakers": self.speakers.n if self.speakers else None,
            "speakers_std": self.speakers.std if self.speakers else None,
            "speakers_low": speakers_low,
            "speakers_high": speakers_high,
        }

    def _spread_over_folds(self, folds: FoldSpread) -> dict[str, Any]:
        low, high = self.elsewhere or self.chance_range or (None, None)
        seeds_low, seeds_high = self.interval or (None, None)
        return {
            "fold_std": folds.std,
            "seed_std": self.std,
            "low": low,
            "high": high,
            "seeds_low": seeds_low,
            "seeds_high": seeds_high,
        }


def range_text(limits: tuple[float, float], digits: int) -> str:
    """`-0.180 to 0.180`."""
    return " to ".join(f"{limit:.{digits}f}" for limit in limits)


def _difference_fields(unit: str, test: MethodDifference | None) -> dict[str, float | None]:
    """The interval of a difference and its p, by names that begin with the `unit` of the test."""
    return {
        f"{unit}_difference_low": test.low if test else None,
        f"{unit}_difference_high": test.high if test else None,
        f"{unit}_p": test.p if test else None,
        f"{unit}_p_corrected": test.corrected if test else None,
    }


ColumnTests = Mapping[str, Sequence[MethodDifference]]  # every pair of methods: by "seeds", and "speakers" or "folds"


@dataclass(frozen=True)
class Table:
    """One test of all methods: `rows[method][column.key]`, absent where it was not run; `BOUNDS` come last.

    `conventions` are the footnotes [1], [2] ... that `notes` refer to.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Mapping[str, Mapping[str, Cell]]
    notes: tuple[str, ...]
    tests: Mapping[str, ColumnTests] = field(default_factory=dict)  # by key of a column
    conventions: tuple[str, ...] = ()

    def texts(self) -> TextTable:
        """The methods' names and their cells, the best in bold, † and ‡ where one is worse; arrows to better sides."""

        def text(column: Column, cell: Cell | None) -> str:
            if cell is None:
                return "-"
            return Bold(cell.text(column.digits)) if cell.best else cell.text(column.digits)

        headers = ["method", *(f"{column.header}{_ARROWS[column.better]}" for column in self.columns)]
        rows = [
            [name, *(text(column, row.get(column.key)) for column in self.columns)] for name, row in self.rows.items()
        ]
        return TextTable(self.name, self.title, headers, rows, self.notes, self.conventions)

    def as_json(self) -> dict[str, Any]:
        """`{"title", "measures", "rows": {method: {measure: {...}}}, "tests": {measure: {unit: [...]}}, ...}`.

        `measures` has the name in full and the better direction of each; the notes and the conventions come last.
        """
        return {
            "title": self.title,
            "measures": {column.key: {"name": column.name_in_full, "better": column.better} for column in self.columns},
            "rows": {name: {key: cell.as_json() for key, cell in row.items()} for name, row in self.rows.items()},
            "tests": {
                key: {unit: [asdict(test) for test in tests] for unit, tests in of_column.items()}
                for key, of_column in self.tests.items()
            },
            "notes": list(self.notes),
            "conventions": list(self.conventions),
        }


@dataclass(frozen=True)
class Comparison:
    """Tables of several methods, with every convention in their notes."""

    tables: tuple[Table, ...]

    def markdown(self, *, conventions: bool = True) -> str:
        """GitHub's tables, the notes and, where asked, the conventions as a list below each."""
        return "\n\n".join(table_markdown(table.texts(), conventions=conventions) for table in self.tables) + "\n"

    def latex(self) -> str:
        """A `table` float for each; needs `\\usepackage{booktabs}`."""
        return "\n\n".join(table_latex(table.texts()) for table in self.tables) + "\n"

    def csv(self) -> str:
        """One line per table, method and measure, in full precision, with the tests against the best."""
        found = [
            [table.name, method, key, *cell.as_json().values()]
            for table in self.tables
            for method, row in table.rows.items()
            for key, cell in row.items()
        ]
        return csv_text(["table", "method", "measure", *Cell(0.0).as_json()], found)

    def as_json(self) -> dict[str, Any]:
        """`Table.as_json` by name, for `json.dumps`."""
        return {table.name: table.as_json() for table in self.tables}
