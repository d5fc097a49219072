"""How often the interval of resampled test speakers holds the true value, in simulated corpora (no store, no heads).

    OMP_NUM_THREADS=1 python -m tests.benchmarks.speakers [--corpora 300] [--draws 200]

A corpus is S speakers with 0.5 to 1.5 times as many utterances each; every speaker has emotions of their own and is
heard with an offset of their own. The true value is the mean AOC of all corpora of one kind: what another sample of as
many speakers is expected to give. `copies` is the product's bootstrap; in `once` an utterance is retrieved once in a
list however often its speaker is drawn.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from numpy.typing import NDArray

from cache.captions import Prompt
from pipeline.data.corpora.acted import nominal_points
from pipeline.evaluation.ordinality import STEPS, VALUES, OrdinalityTest
from pipeline.evaluation.speakers import ordinality_draws, resample_speakers
from tests.evaluation.oracles import nearest_of

Values = NDArray[np.float64]
PROMPTS = [Prompt("dimensional", f"{v} {a}", v, a, 0) for v, a in itertools.product(VALUES.tolist(), repeat=2)]
# speakers, utterances a speaker, labels, std of a speaker's offset
KINDS = (
    (8, 30, "rated", 0.4),
    (15, 45, "rated", 0.4),
    (24, 60, "nominal", 0.4),
    (40, 25, "rated", 0.4),
    (10, 50, "nominal", 0.6),
    (15, 45, "rated", 1.0),
)


def corpus(
    draw: np.random.Generator, speakers: int, each: int, labels: str, offset: float
) -> tuple[list[str], Values, Values]:
    """Speakers, labels (n, 2), and points as the encoder hears them (n, 2)."""
    speaker = np.repeat(np.arange(speakers), draw.integers(each // 2, each * 3 // 2 + 1, speakers))
    count = len(speaker)
    truth = np.clip(draw.normal(4, 1.1, (count, 2)) + draw.normal(0, 0.5, (speakers, 2))[speaker], 1, 7)
    if labels == "nominal":
        points = np.array(list(nominal_points().values()))
        truth = rated = points[draw.integers(0, len(points), count)]
    else:
        rated = np.clip(np.round((truth + draw.normal(0, 0.36, (count, 2))) * 5) / 5, 1, 7)
    heard = truth + draw.normal(0, offset, (speakers, 2))[speaker] + draw.normal(0, 1.2, (count, 2))
    return [f"s{i}" for i in speaker], rated, heard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=int, default=300)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    print("speakers  utterances  labels   offset  true AOC  form    holds it  std of draws / of corpora")
    for kind in KINDS:
        draw = np.random.default_rng(0)
        measured: list[float] = []
        drawn: dict[str, list[Values]] = {"copies": [], "once": []}
        for number in range(options.corpora):
            speakers, labels, heard = corpus(draw, *kind)
            test = OrdinalityTest(labels, PROMPTS, lists=STEPS)
            test.lists = {"aoc": test.lists["aoc"]}
            nearest = nearest_of(-((test.prompt_points[:, None] - heard) ** 2).sum(-1).astype(np.float32))
            measured.append(test.measure(nearest)["aoc"]["mean"])
            resamples = resample_speakers(speakers, draws=options.draws, seed=number, at_least=STEPS)
            assert resamples is not None
            drawn["copies"].append(ordinality_draws(test, nearest, resamples)["aoc"])
            once = resamples._replace(counts=np.minimum(resamples.counts, 1))
            enough = [len(resamples.rows[counts[resamples.speaker] > 0]) >= STEPS for counts in once.counts]
            drawn["once"].append(ordinality_draws(test, nearest, once._replace(counts=once.counts[enough]))["aoc"])
        true = np.mean(measured)
        for form, values in drawn.items():
            bounds = [np.percentile(each, (2.5, 97.5)) for each in values]
            holds = np.mean([low <= true <= high for low, high in bounds])
            ratio = np.mean([each.std(ddof=1) for each in values]) / np.std(measured, ddof=1)
            corpora = f"{kind[0]:8}  {kind[1]:10}  {kind[2]:7}  {kind[3]:6.1f}"
            print(f"{corpora}  {true:8.3f}  {form:6}  {holds:8.3f}  {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
