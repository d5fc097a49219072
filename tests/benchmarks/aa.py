"""A/A: how often are two trainings of one method called different? Before (lists, trials) and after (seeds, speakers).

    python -m tests.benchmarks.aa STORES RUN [--method emotionrankclap] [--seeds 40] [--draws 1000] [-e trials=10]

Trains the seeds into RUN (small_corpus; again resumes), evaluates them, and prints for every measure the share of
rejections at .05, where 5 % are due:

- before: seed against seed, Wilcoxon's signed-rank test over lists or trials, all pairs of seeds;
- seeds: five seeds against five others, Welch's t, that many draws;
- speakers: the same ten seeds by the test on other speech, where the split has five speakers or more.

Draws of ten among N seeds share seeds; N of 40 or more keeps them apart enough.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.recognition import zero_shot
from pipeline.evaluation.significance import ALPHA, MIN_UNITS, SpeakerDraws, seed_tests, speaker_tests
from pipeline.training.train import train

Values = NDArray[np.float64]
LISTS = {"ordinality": "taus", "word_norms": "taus", "alignment": "values"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stores", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--method", default="emotionrankclap")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("-o", dest="training", action="append", default=[])
    parser.add_argument("-e", dest="evaluation", action="append", default=[])
    arguments = parser.parse_args()
    run = train(
        arguments.stores,
        method=arguments.method,
        training="small_corpus",
        seeds=arguments.seeds,
        overrides=arguments.training,
        out=arguments.run,
    )
    result = evaluate(run, overrides=arguments.evaluation)
    print(f"{arguments.method} on {result['stores']}, {result['utterances']} utterances, {arguments.seeds} seeds")
    print(f"{'measure':32}{'mean':>8}{'seeds':>8}{'naive':>8}{'before':>8}{'seeds':>8}{'speakers':>10}")
    for test, key in LISTS.items():
        for name in result.get(test, {}):
            if isinstance(result[test][name], Mapping):
                show(f"{test} {name}", [seed[test][name] for seed in result["seeds"].values()], key, arguments.draws)


def show(measure: str, seeds: Sequence[Mapping[str, Any]], key: str, draws: int) -> None:
    """One measure: its mean, std over seeds, naive standard error, and the shares of rejections."""
    means = np.array([seed["mean"] for seed in seeds])
    naive = np.mean([seed["std"] / np.sqrt(len(seed[key])) for seed in seeds])
    print(
        f"{measure:32}{means.mean():8.3f}{means.std(ddof=1):8.4f}{naive:8.4f}"
        f"{paired([seed[key] for seed in seeds]):8.1%}{five_against_five(means, draws):8.1%}"
    )


def paired(lists: Sequence[Sequence[float]]) -> float:
    """The share of pairs of seeds that Wilcoxon's test over lists or trials calls different."""
    gaps = [np.round(np.subtract(one, two), 12) for one, two in combinations(lists, 2)]
    return float(np.mean([gap.any() and stats.wilcoxon(gap).pvalue < ALPHA for gap in gaps]))
