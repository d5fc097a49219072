"""The figures that the paper reports, for reference beside one's own (F12, F13)."""

from __future__ import annotations

from pipeline.evaluation.comparison import TABLES
from pipeline.evaluation.rendering import Cell, Comparison, Table

NOTE = (
    "the paper's own figures, for reference: MSP-Podcast 1.12, WavLM-large and DistilRoBERTa encoders, captions by "
    "OpenAI o1; kernel width, estimator and solver not stated. Other data, encoders or conventions give other numbers: "
    "not to be compared with the tables above"
)
Figures = dict[str, dict[str, tuple[float, float]]]  # method: measure: (mean, std)

TABLE_1: Figures = {
    "CLAP-SCE (A-V)": {"mmd": (0.096, 0.002), "wasserstein": (0.180, 0.003)},
    "SupConCLAP (A-V)": {"mmd": (0.4436, 0.003), "wasserstein": (0.4172, 0.003)},
    "EmotionRankCLAP": {"mmd": (0.087, 0.001), "wasserstein": (0.065, 0.007)},
}
TABLE_2: Figures = {
    "CLAP-template": {"aoc": (0.171, 0.26), "voc": (0.466, 0.14)},
    "CLAP4Emo": {"aoc": (0.284, 0.20), "voc": (0.533, 0.14)},
    "ParaCLAP": {"aoc": (0.283, 0.20), "voc": (0.217, 0.20)},
    "CLAP-SCE (A-V)": {"aoc": (0.492, 0.15), "voc": (0.505, 0.13)},
    "SupConCLAP (A-V)": {"aoc": (0.346, 0.19), "voc": (0.530, 0.15)},
    "EmotionRankCLAP": {"aoc": (0.552, 0.12), "voc": (0.616, 0.13)},
}


def paper_tables() -> Comparison:
    """Tables 1 and 2 as the paper prints them (mean ± std over 30 trials, over 100 lists), labelled as the paper's."""
    return Comparison((_table("alignment", TABLE_1), _table("ordinality", TABLE_2)))


def _table(name: str, figures: Figures) -> Table:
    title, columns = TABLES[name]
    present = tuple(column for column in columns if all(column.key in row for row in figures.values()))
    edge = {c.key: (max if c.better == "higher" else min)(row[c.key][0] for row in figures.values()) for c in present}
    rows = {
        method: {key: Cell(mean, std, best=mean == edge[key]) for key, (mean, std) in row.items()}
        for method, row in figures.items()
    }
    return Table(f"paper_{name}", f"The paper's figures, not ours. {title}", present, rows, (NOTE,))
