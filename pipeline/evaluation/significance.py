"""Is one method better than another by more than its lists or trials vary? Two-tailed paired tests, Holm-corrected.

The tests are scipy's; Holm's correction is by hand, since scipy has corrections of the false discovery rate only.

A pair is the same list (or trial) and the same seed under two methods. **The p values are optimistic.** The lists of
one evaluation retrieve from the same utterances with neighbouring prompts, trials draw from the same utterances, and
seeds share their training data: the differences are not independent, as both tests suppose, so there is less evidence
than their number suggests. Choosing the best method on the same figures that test it adds to that. A small p says that
the difference is stable over these lists and seeds, not that it holds on other speech.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pipeline.core.errors import UsageError

Test = Literal["wilcoxon", "t"]
Better = Literal["higher", "lower"]
DIGITS = 12  # differences are rounded to these decimals: equal ones must tie, and float noise must not separate them
CAUTION = (
    "lists and trials share utterances and seeds share training data, so the pairs are not independent and the p "
    "values are optimistic"
)


def mean_and_std(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """`{"mean", "std"}` of (n,) values; the std is the sample's (n - 1), 0 for one value."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


@dataclass(frozen=True)
class PairedTest:
    """One comparison: `difference` is the mean of `method` - `baseline` over n pairs; `corrected` is Holm's p."""

    method: str
    baseline: str
    difference: float
    p: float
    corrected: float
    n: int


def paired_tests(
    values: Mapping[str, ArrayLike],
    *,
    baseline: str | None = None,
    test: Test = "wilcoxon",
    better: Better = "higher",
) -> list[PairedTest]:
    """Every other method against `baseline`, or against the best by mean (the first of equals) where none is named.

    Args:
        values: for each method its (n,) values, in one order: entry i is the same list (or trial) and seed throughout.
        baseline: the method that all others are tested against.
        test: Wilcoxon's signed-rank test (pairs without a difference dropped) or Student's paired t.
        better: which direction makes the best.

    Returns:
        A test per other method, in their order; the correction is over these. Where no pair differs p is 1, and so it
        is in the t test where all pairs differ by the same, which leaves no variance to test against.

    Raises:
        UsageError: no such baseline, lengths that differ, fewer than two pairs, a value that is not finite.
    """
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}
    _refuse_unpaired(columns)
    sign = 1 if better == "higher" else -1
    against = baseline if baseline is not None else max(columns, key=lambda name: sign * float(columns[name].mean()))
    if against not in columns:
        raise UsageError("significance", f"no method {against!r}", ", ".join(columns), "Name one of them.")
    others = [name for name in columns if name != against]
    gaps = [np.round(columns[name] - columns[against], DIGITS) for name in others]
    raw = [_p_value(gap, test) for gap in gaps]
    return [
        PairedTest(name, against, float((columns[name] - columns[against]).mean()), p, float(corrected), len(gap))
        for name, gap, p, corrected in zip(others, gaps, raw, holm(raw), strict=True)
    ]


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979): (m,) corrected p, in the order given.

    The smallest p is multiplied by m, the next by m - 1 and so on; none may fall below one before it, or exceed 1.
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    stepped = raw[order] * np.arange(len(raw), 0, -1)
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected


def _p_value(gaps: NDArray[np.float64], test: Test) -> float:
    """Two-tailed p of (n,) paired differences."""
    if not gaps.any() or (test == "t" and np.ptp(gaps) == 0):
        return 1.0
    outcome = stats.wilcoxon(gaps) if test == "wilcoxon" else stats.ttest_1samp(gaps, 0.0)
    return float(outcome.pvalue)


def _refuse_unpaired(columns: Mapping[str, NDArray[np.float64]]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or min(lengths.values()) < 2:
        found = ", ".join(f"{n} values of {name}" for name, n in lengths.items()) or "no methods"
        raise UsageError(
            "significance",
            found,
            "two or more of each, as many of one method as of the other",
            "Evaluate every method with the same lists, trials and seeds.",
        )
    wrong = [name for name, column in columns.items() if not np.isfinite(column).all()]
    if wrong:
        raise UsageError("significance", f"values not finite in {', '.join(wrong)}", "numbers", "Evaluate them again.")
