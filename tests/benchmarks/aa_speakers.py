"""Does the test on other speech hold its level? Two equally good methods, other speakers in every corpus.

    python -m tests.benchmarks.aa_speakers [--corpora 300]

A corpus has 8 or 24 speakers of 20 utterances. Both methods hear the same offset of each speaker and the same noise; of
its own each has either more noise (`utterances`) or an offset of each speaker as well (`speakers`), and nothing makes
one better. There is no variance over seeds, which in practice makes the test more careful. Printed are the shares of
corpora in which `speaker_tests` rejects at .05, and a normal p without the correction for few speakers would; and how
large the bootstrap's standard error is beside the true one, the std of the difference over corpora.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cache.captions import Prompt
from pipeline.evaluation.ordinality import VALUES, OrdinalityTest
from pipeline.evaluation.significance import ALPHA, MIN_UNITS, SpeakerDraws, speaker_tests
from pipeline.evaluation.speakers import ordinality_draws, resample_speakers
from tests.evaluation.oracles import nearest_of

GRID = [Prompt("dimensional", f"{v} {a}", v, a, 0) for v, a in itertools.product(VALUES.tolist(), VALUES.tolist())]
EACH, LISTS, RESAMPLES = 20, 28, 100
OWN_OFFSET = {"speakers": 0.5, "utterances": 0.0}  # std of what a method hears of each speaker alone
SEEDS = {"speakers": 1, "utterances": 2}

Methods = dict[str, dict[str, SpeakerDraws]]  # by measure and method


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpora", type=int, default=300)
    corpora = parser.parse_args().corpora
    print(f"{'speakers, own':24}{'':6}{'rejects':>9}{'normal p':>10}{'error / true':>14}")
    for speakers, own in itertools.product((8, 24), OWN_OFFSET):
        draw = np.random.default_rng(SEEDS[own])
        found = [corpus(speakers, own, draw) for _ in range(corpora)]
        for measure in ("aoc", "voc"):
            show(f"{speakers:<4}{own}", measure, [methods[measure] for methods in found])


def show(kind: str, measure: str, corpora: list[dict[str, SpeakerDraws]]) -> None:
    rejects, normal, differences, errors = 0, 0, [], []
    for methods in corpora:
        [test] = speaker_tests(methods)
        gaps = np.subtract(methods["one"].draws, methods["other"].draws)
        errors.append(gaps.std(ddof=1))
        differences.append(test.difference)
        rejects += test.p < ALPHA
        normal += 2 * stats.norm.sf(abs(test.difference) / errors[-1]) < ALPHA
    ratio = np.sqrt(np.mean(np.square(errors))) / np.std(differences)
    print(f"{kind:24}{measure:6}{rejects / len(corpora):9.1%}{normal / len(corpora):10.1%}{ratio:14.2f}", flush=True)


def corpus(speakers: int, own: str, draw: np.random.Generator) -> Methods:
    """AOC and VOC of both methods on one corpus, and on resamples of its speakers."""
    count, who = speakers * EACH, np.repeat(np.arange(speakers), EACH)
    labels = np.round(np.clip(draw.normal(4, 1.1, (count, 2)), 1, 7) * 5) / 5
    shared = draw.normal(0, 0.5, (speakers, 2))[who] + draw.normal(0, 0.6, (count, 2))
    test = OrdinalityTest(labels, GRID, LISTS)
    resamples = resample_speakers([f"s{speaker}" for speaker in who], draws=RESAMPLES, seed=0, at_least=14)
    assert resamples is not None
    methods: Methods = {"aoc": {}, "voc": {}}
    for name in ("one", "other"):
        heard = draw.normal(0, OWN_OFFSET[own], (speakers, 2))[who] + draw.normal(0, 0.6, (count, 2))
        nearest = nearest_of(nearness(test, labels + shared + heard))
        draws = ordinality_draws(test, nearest, resamples)
        for measure, found in test.measure(nearest).items():
            methods[measure][name] = SpeakerDraws([found["mean"]] * MIN_UNITS, draws[measure], speakers)
    return methods


def nearness(test: OrdinalityTest, heard: NDArray[np.float64]) -> NDArray[np.float32]:
    """(P, m) the negative distance of each prompt's point and of the point heard."""
    return -np.linalg.norm(test.prompt_points[:, None] - heard[None], axis=-1).astype(np.float32)


if __name__ == "__main__":
    main()
