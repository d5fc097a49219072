"""What is measured: the columns of each test, the rows of the table of other work, and what bounds each measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from pipeline.evaluation.retrieval import KS, TOLERANCE
from pipeline.evaluation.significance import Better

OF_TRANSCRIPTS = ("words", "voice")  # the bounds that only stores with transcripts have
# rows that no training made: last, never bold, marked or tested
BOUNDS = ("ceiling", *OF_TRANSCRIPTS, "labels", "chance")
FIELD_TESTS = ("retrieval", "readout", "speech_ordinality")  # that give each seed one number a measure


@dataclass(frozen=True)
class Column:
    """One measure: its key in a result, its header, its name and unit in full, which direction is better, its decimals.

    Without a better direction nothing of it is bold or tested.
    """

    key: str
    header: str
    full_name: str
    unit: str
    better: Better | None = "higher"
    digits: int = 3

    @property
    def name_in_full(self) -> str:
        """`AOC (arousal ordinal consistency)`."""
        return f"{self.header} ({self.full_name})"

    @property
    def legend(self) -> str:
        """`AOC: arousal ordinal consistency, Kendall's tau from -1 to 1; higher is better`."""
        direction = f"; {self.better} is better" if self.better else ""
        return f"{self.header}: {self.full_name}, {self.unit}{direction}"


_TAU = "Kendall's tau from -1 to 1"
_ORDER = (
    Column("aoc", "AOC", "arousal ordinal consistency", _TAU),
    Column("voc", "VOC", "valence ordinal consistency", _TAU),
)
_LOST = "by the caption grammar's prompts less that by rated words"
_LOSSES = (
    Column("aoc_loss", "AOC lost", f"AOC {_LOST}", "Kendall's tau", better=None),
    Column("voc_loss", "VOC lost", f"VOC {_LOST}", "Kendall's tau", better=None),
)
_distance = partial(Column, better="lower")
_MMD, _EXACT = "maximum mean discrepancy", "exact Wasserstein distance"
_SLICED = "mean Wasserstein distance of random projections"
_SQUARED, _OF_THE_SPACE = "in squared median distances", "in units of the space"
_SHARE = "from 0 to 1"
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "ordinality": ("Ordinality (Table 2 of the paper): Kendall's tau, higher is better", _ORDER),
    "word_norms": (
        "Ordinality by prompts of other hands (words that people rated): Kendall's tau, higher is better",
        (*_ORDER, *_LOSSES),
    ),
    "dominance": (
        "Order of dominance by rated words of one valence and arousal: Kendall's tau, higher is better",
        (Column("doc", "DOC", "dominance ordinal consistency", _TAU),),
    ),
    "alignment": (
        "Alignment (Table 1 of the paper): distance of speech and text, lower is better",
        (
            _distance("mmd_median", "MMD median", f"{_MMD}, kernel as wide as the median distance", "from 0 to √2"),
            _distance("wasserstein_relative", "W / median", _EXACT, "in median distances"),
            _distance("gap_centroid", "gap centroid", "squared distance of the centroids", _SQUARED),
            _distance("gap_covariance", "gap covariance", "squared Bures distance of the covariances", _SQUARED),
            _distance("gap_rest", "gap rest", "what both leave of the squared 2-Wasserstein", _SQUARED),
            _distance("mmd", "MMD", f"{_MMD}, kernel of fixed width", "from 0 to √2", digits=4),
            _distance("wasserstein", "Wasserstein", _EXACT, _OF_THE_SPACE, digits=4),
            _distance("sliced_wasserstein", "sliced Wasserstein", _SLICED, _OF_THE_SPACE, digits=4),
        ),
    ),
    "recognition": (
        "Zero-shot recognition, higher is better",
        (
            Column("war", "WAR", "weighted average recall", "a share of the utterances, from 0 to 1"),
            Column("uar", "UAR", "unweighted average recall", "the mean of the categories' recalls, from 0 to 1"),
        ),
    ),
    "retrieval": (
        "Retrieval between speech and text, higher is better",
        (
            Column("speech_to_text_r10", "R@10 of texts", "recall at 10, asked by speech", _SHARE),
            Column("text_to_speech_r10", "R@10 of speech", "recall at 10, asked by texts", _SHARE),
            Column("speech_to_text_map", "mAP of texts", "mean average precision, asked by speech", _SHARE),
            Column("text_to_speech_map", "mAP of speech", "mean average precision, asked by texts", _SHARE),
        ),
    ),
    "readout": (
        "Linear read-outs of speech, higher is better",
        (
            Column("valence_ccc", "CCC valence", "concordance correlation of valence", "from -1 to 1"),
            Column("arousal_ccc", "CCC arousal", "concordance correlation of arousal", "from -1 to 1"),
            Column("dominance_ccc", "CCC dominance", "concordance correlation of dominance", "from -1 to 1"),
            Column("category_uar", "UAR, probe", "unweighted average recall of a linear probe", _SHARE),
        ),
    ),
    "speech_ordinality": (
        "Order of speech alone: Kendall's tau, higher is better",
        (
            Column("valence_tau", "valence", "order by valence", _TAU),
            Column("arousal_tau", "arousal", "order by arousal", _TAU),
            Column("dominance_tau", "dominance", "order by dominance", _TAU),
            Column("plane_tau", "plane", "order by distance in the valence-arousal plane", _TAU),
        ),
    ),
}

ORDER_BOUNDS = {
    "ceiling": "what the speech vectors hold, ridge regressions from speech asked with each prompt's true point",
    "words": "what was said, ridge regressions from transcripts' vectors asked likewise",
    "voice": "how it was said, the ceiling of speech vectors less what a ridge regression from the words gives; "
    "of an utterance without a transcript both know the mean point",
    "labels": "what the utterances hold, their own labels asked likewise",
    "chance": "no order",
}
MEANINGS: dict[str, dict[str, str]] = {  # what each of `BOUNDS` is, by test
    "ordinality": ORDER_BOUNDS,
    "word_norms": ORDER_BOUNDS,
    "dominance": ORDER_BOUNDS,
    "recognition": {"ceiling": "ridge regressions from speech to a category each", "chance": "a blind guess"},
    "retrieval": {"chance": "candidates in random order"},
    "readout": {"ceiling": "the same of the frozen vectors", "chance": "no concordance; a blind guess of a category"},
    "speech_ordinality": {"ceiling": "the same of the frozen vectors, standardised", "chance": "no order"},
}


class FieldRow(NamedTuple):
    """One measure of one of `FIELD_TESTS` as other work reports it: a row of `field_table`."""

    test: str
    key: str
    text: str  # with the unit, where it has one
    digits: int
    scale: float = 1.0
    arrow: str = "↑"  # to its better side

    def number(self, value: float | None) -> str:
        """`-` where there is none."""
        return "-" if value is None else f"{self.scale * value:.{self.digits}f}"

    def measured(self, entry: Mapping[str, Any]) -> str:
        """The mean of a measure, ± the std over several seeds."""
        several = len(entry.get("seed_values", ())) > 1
        return self.number(entry.get("mean")) + (f" ± {self.number(entry['std'])}" if several else "")


def field_rows() -> Iterator[FieldRow]:
    """Every measure, in the order of the table."""
    for direction in ("speech to text", "text to speech"):
        key = direction.replace(" ", "_")
        for k in KS:
            found = "hit in the first place" if k == 1 else f"hit among the first {k}"
            yield FieldRow("retrieval", f"{key}_r{k}", f"{direction}, {found}, %", 1, 100)
        yield FieldRow("retrieval", f"{key}_median_rank", f"{direction}, rank of the first hit, median", 0, arrow="↓")
        yield FieldRow("retrieval", f"{key}_map", f"{direction}, mean average precision, %", 1, 100)
        near = f"{direction}, of the first {KS[-1]} within {TOLERANCE} of the label, %"
        yield FieldRow("retrieval", f"{key}_near_p{KS[-1]}", near, 1, 100)
    for name in ("valence", "arousal", "dominance"):
        yield FieldRow("readout", f"{name}_ccc", f"{name} by a linear read-out, concordance", 3)
    yield FieldRow("readout", "category_uar", "category by a linear probe, mean recall of the classes, %", 1, 100)
    for name in ("valence", "arousal", "dominance", "plane"):
        by = "valence and arousal" if name == "plane" else name
        yield FieldRow("speech_ordinality", f"{name}_tau", f"speech by itself ordered by {by}, Kendall's tau", 3)


def measure_names() -> dict[str, str]:
    """The measures of the table by key, spelt out; those in per cent without it, as evaluation.json has them."""
    return {row.key: row.text.removesuffix(", %") for row in field_rows()}
