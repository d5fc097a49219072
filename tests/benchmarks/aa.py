"""A/A: how often are two trainings of one method called different? Before (lists, trials) and after (seeds, speakers).

    python -m tests.benchmarks.aa STORES RUN [--method emotionrankclap] [--seeds 40] [--draws 1000] [-e trials=10]

Trains the seeds into RUN (small_corpus; again resumes), evaluates them, and prints for every measure its mean, its std
over seeds beside the naive standard error std / sqrt(lists), and the share of rejections at .05, where 5 % are due:

- before: seed against seed, Wilcoxon's signed-rank test over lists or trials, all pairs of seeds (40 make 780);
- seeds: five seeds against five others, Welch's t;
- speakers: the same seeds by the test on other speech, where the split has five speakers or more.

Draws share the seeds they are of; what that does to the share is said in tests/evaluation/test_aa.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from cache.pairs import cached_pairs
from pipeline.core.config import EvaluateConfig
from pipeline.evaluation.evaluate import evaluate, evaluated
from pipeline.evaluation.order_tests import OrderTests
from pipeline.evaluation.recognition import zero_shot
from pipeline.evaluation.significance import ALPHA, SpeakerDraws, seed_tests, speaker_tests
from pipeline.evaluation.speakers import ordinality_draws
from pipeline.training.run_folder import Run
from pipeline.training.train import train

Values = NDArray[np.float64]
LISTS = {"ordinality": "taus", "word_norms": "taus", "alignment": "values"}  # of each test, within a seed
FIVE = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stores", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--method", default="emotionrankclap")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("-o", dest="training", action="append", default=[])
    parser.add_argument("-e", dest="evaluation", action="append", default=[])
    given = parser.parse_args()
    run = train(
        given.stores, method=given.method, training="small_corpus", seeds=given.seeds, overrides=given.training,
        out=given.run,
    )  # fmt: skip
    result = evaluated(run, run.stores(), overrides=given.evaluation) or evaluate(run, overrides=given.evaluation)
    resampled, speakers = speaker_draws(run, result)
    print(f"{given.method} on {result['stores']}: {result['utterances']} utterances of split {result['split']}, "
          f"{speakers or 'no'} speakers resampled, {len(run.seeds)} seeds, {given.draws} draws")  # fmt: skip
    print(f"{'':34}{'mean':>8}{'seeds':>8}{'naive':>8} | {'before':>8}{'seeds':>8}{'speakers':>10}")
    seeds = list(result["seeds"].values())
    for test, key in LISTS.items():
        for name in (name for name, entry in result.get(test, {}).items() if isinstance(entry, Mapping)):
            of_seeds = [seed[test][name] for seed in seeds]
            means = np.array([entry["mean"] for entry in of_seeds])
            naive = float(np.mean([entry["std"] / np.sqrt(len(entry[key])) for entry in of_seeds]))
            before = paired([entry[key] for entry in of_seeds])
            show(f"{test} {name}", means, naive, before, resampled.get((test, name)), speakers, given.draws)
    if run.stores().captions.classes and any(run.stores().manifest.emotion):
        recognised = zero_shot(run, split=result["split"], bootstrap=0)["seeds"].values()
        for name in ("war", "uar"):
            show(f"recognition {name}", np.array([seed[name] for seed in recognised]), None, None, None, 0, given.draws)


def show(
    measure: str, means: Values, naive: float | None, before: float | None, resampled: Values | None, speakers: int,
    draws: int,
) -> None:  # fmt: skip
    """One line: (S,) `means` a seed, and `resampled` (S, B) of each seed on every resample of speakers."""
    after, elsewhere = five_against_five(means, resampled, speakers, draws)
    shares = "".join(f"{'-':>8}" if share is None else f"{share:8.1%}" for share in (before, after))
    print(f"{measure:34}{means.mean():8.3f}{means.std(ddof=1):8.4f}" + (f"{naive:8.4f}" if naive else f"{'-':>8}")
          + f" | {shares}" + (f"{'-':>10}" if elsewhere is None else f"{elsewhere:10.1%}"))  # fmt: skip


def paired(lists: Sequence[Sequence[float]]) -> float:
    """The share of pairs of seeds that Wilcoxon's test over lists or trials calls different."""
    gaps = [np.round(np.subtract(one, two), 12) for one, two in combinations(lists, 2)]
    return float(np.mean([bool(gap.any()) and stats.wilcoxon(gap).pvalue < ALPHA for gap in gaps]))


def five_against_five(means: Values, resampled: Values | None, speakers: int, draws: int) -> tuple[float, float | None]:
    """The shares of draws of five against five other seeds that the tests over seeds, and over speakers, reject."""
    draw = np.random.default_rng(0)
    by_seed = by_speaker = 0
    for _ in range(draws):
        chosen = draw.permutation(len(means))[: 2 * FIVE]
        groups = {"one": chosen[:FIVE], "other": chosen[FIVE:]}
        by_seed += any(test.p < ALPHA for test in seed_tests({name: means[of] for name, of in groups.items()}))
        if resampled is not None:
            both = {name: SpeakerDraws(means[of], resampled[of].mean(0), speakers) for name, of in groups.items()}
            by_speaker += any(test.p < ALPHA for test in speaker_tests(both))
    return by_seed / draws, by_speaker / draws if resampled is not None else None


def speaker_draws(run: Run, result: Mapping[str, Any]) -> tuple[dict[tuple[str, str], Values], int]:
    """(S, B) of each order measure, seed by seed on every resample of the speakers, and how many speakers there are."""
    config, stores = EvaluateConfig(**result["settings"]), run.stores()
    pairs = cached_pairs(stores, result["split"], style=config.style)
    order = OrderTests(stores, pairs, config, torch.device("cpu"))
    found: dict[tuple[str, str], list[Values]] = {}
    resamples = order.resamples.get("ordinality")
    if resamples is None:
        return {}, 0
    for seed in run.seeds:
        heads = run.heads_for(stores, seed)
        with torch.no_grad():
            speech = heads.embed_speech(pairs.speech)
            prompts = {name: heads.embed_text(vectors) for name, vectors in order.vectors.items()}
        for name, resampled in order.resamples.items():
            nearest = order.tests[name].nearest(speech, prompts[name])
            for measure, draws in ordinality_draws(order.tests[name], nearest, resampled).items():
                found.setdefault((name, measure), []).append(draws)
    return {key: np.array(draws) for key, draws in found.items()}, resamples.speakers


if __name__ == "__main__":
    main()
