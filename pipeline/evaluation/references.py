"""What a figure can be at most and by chance: rows that stand under the methods of a table.

ceiling   what the speech vectors hold: ridge regressions from speech, asked with each prompt's true point
words     what was said: ridge regressions from the transcripts' vectors, where the stores have them, asked likewise
voice     how it was said: the ceiling of the speech vectors less what a ridge regression from the words gives of them
labels    what the utterances hold: their own labels, asked likewise; raters' noise and gaps in the plane keep it from 1
chance    what no order at all gives
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from cache.captions import CLASS_TEMPLATE, ClassPrompt
from cache.pairs import CachedPairs, OnDisk, cached_pairs
from cache.reader import Store
from cache.stores import Stores
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import UsageError
from pipeline.core.resources import pick_device
from pipeline.evaluation.evaluate import split_of
from pipeline.evaluation.measures import BOUNDS
from pipeline.evaluation.order_tests import OrderTests, Result
from pipeline.evaluation.ordinality import NearestUtterances, OrdinalityTest
from pipeline.evaluation.pooling import figures_over_seeds, pooled
from pipeline.evaluation.readout import ReadOut
from pipeline.evaluation.recognition import FACTS, blind_guess, recognition, recognition_over_seeds
from pipeline.evaluation.significance import mean_and_std
from pipeline.evaluation.speakers import kendall_taus
from pipeline.evaluation.speech_ordinality import SpeechOrdinalityTest
from pipeline.training.ridge import CENTRE, PENALTIES, Plane, fit_plane
from pipeline.training.standardisation import std_and_mean_on_disk
from pipeline.training.train import resolve_training
from pipeline.training.training_data import TrainingData, load_training_data

log = logging.getLogger(__name__)

SHUFFLES = 500  # of the labels, for the std of chance
_DECIMALS = 6  # of squared distances
_BLOCK_ROWS = 2**13  # of speech vectors in float64 at once
_RULE = "the highest of {count} ridge regressions from speech to a category"


def reference_results(
    stores: Stores,
    *,
    split: str | None = None,
    config: EvaluateConfig | None = None,
    classes: Sequence[str] | None = None,
    device: str = "auto",
) -> dict[str, Result]:
    """The results of `BOUNDS` on `split` of `stores`, in the form of an evaluation's.

        reference_results(stores, split="test")["ceiling"]["ordinality"]["aoc"]["mean"]

    Args:
        stores: the ridges are fitted on their train split; its dev split chooses the penalties.
        split: the test split, where none is named that of `config`.
        config: of the evaluation that these stand beside: style, lists, bootstrap and seed.
        classes: of the recognition; without them those of the split.
        device: of the regressions.

    Returns:
        For each of `BOUNDS` (words and voice where the stores have transcripts) a result with `method`, `split`,
        `utterances`, `ordinality`, `word_norms` where the stores have rated words, of the ceiling `readout` of the
        frozen vectors and `speech_ordinality` of the same, standardised by those drawn, and, of ceiling and chance,
        `recognition` where they have class prompts and emotions in all three splits. Measures are as
        `pipeline.evaluation.pooling.over_seeds` has them, of one seed, since nothing is drawn; those of chance have
        their std over shuffled labels and no interval. There is no alignment.

    Raises:
        UsageError: a split, its labels or the prompts are missing.
    """
    config, chosen = config or EvaluateConfig(), pick_device(device)
    name = split_of(stores, split or config.split)
    pairs = cached_pairs(stores, name, style=config.style, device=chosen)
    order = OrderTests(stores, pairs, config, chosen)
    ridge = resolve_training("ridge_own_captions", overrides=[f"style={config.style}"])  # its text side is not fitted
    data = load_training_data(stores, ridge, chosen, resident=False)  # as quick, and no vectors in memory
    plane = fit_plane(data.speech_chunks(data.pairs), data.speech_chunks(data.dev))
    log.info(f"ceiling: ridge regression from speech, {_fit(plane)}")
    points = {"ceiling": CENTRE + _predicted(plane, data, pairs.speech), "labels": pairs.labels.cpu().numpy()}
    if "dominance" in order.tests:
        points["ceiling"] = _with_dominance(points["ceiling"], data, pairs)
    points |= _words_and_voice(stores, data, pairs)
    results: dict[str, Result] = {"chance": {}}
    for bound, speech in points.items():
        asked = {of: test for of, test in order.tests.items() if test.prompt_points.shape[1] <= speech.shape[1]}
        nearest = {of: _nearest(test, speech) for of, test in asked.items()}
        found, draws = order.measure(nearest)
        results[bound] = {**pooled({"0": found}, order.intervals([draws])), "seeds": {"0": found}}
        if bound == "ceiling":
            results["chance"] |= {of: _shuffled(test, nearest[of], config) for of, test in asked.items()}
    frozen = ReadOut(stores, name, chosen)
    results["ceiling"]["readout"] = figures_over_seeds(frozen, [frozen.measure(lambda vectors: vectors)])
    alone = SpeechOrdinalityTest(pairs.labels.cpu().numpy(), config.seed)
    if alone.utterances.size:
        vectors = pairs.speech[torch.from_numpy(alone.utterances)].double()
        std, mean = torch.std_mean(vectors, dim=0, correction=0)
        measured = alone.measure((vectors - mean) / std.clamp_min(1e-6))
        results["ceiling"]["speech_ordinality"] = figures_over_seeds(alone, [measured])
    tested = {stores.manifest.emotion[row] for row in stores.manifest.rows(name).tolist()} - {""}
    trained = all((part.emotion >= 0).any() for part in (data.pairs, data.dev))
    if stores.captions.classes and tested and trained:
        results["ceiling"]["recognition"] = _recognition(stores, name, data, config, classes)
        results["chance"]["recognition"] = _guessed(results["ceiling"]["recognition"])
    about = {"split": name, "utterances": len(pairs)}
    return {bound: {"method": bound, **about, **results[bound]} for bound in BOUNDS if bound in results}


def references_beside(result: Result, stores: Stores, *, device: str = "auto") -> dict[str, Result]:
    """`reference_results` on the same split, by the same settings, as `result`, which `evaluate` returned.

    Where the stores have nothing to fit a ridge on there are none, and a line says so.
    """
    config = EvaluateConfig.model_validate(result["settings"])
    try:
        return reference_results(stores, split=result["split"], config=config, device=device)
    except UsageError as error:
        log.warning(f"no reference rows: {error}")
        return {}


def _with_dominance(points: NDArray[np.float64], data: TrainingData, pairs: CachedPairs) -> NDArray[np.float64]:
    """(n, 3) the `points` (n, 2) of `pairs`, and their dominance by a ridge regression from speech.

    It is fitted on the utterances whose dominance is known; where the training or the development split has none, the
    points are as they were.
    """
    parts = [(part, part.labels[:, 2:], part.labels[:, 2].isfinite()) for part in (data.pairs, data.dev)]
    if not all(known.any() for _, _, known in parts):
        return points
    fitted = fit_plane(*(_speech_chunks(data, *part) for part in parts))
    return np.hstack([points, CENTRE + _predicted(fitted, data, pairs.speech)])


def _speech_chunks(
    data: TrainingData, pairs: CachedPairs, targets: Tensor, known: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Standardised speech of `pairs` and its `targets` (n, k), of the utterances of which they are `known` (n,)."""
    first = 0
    for vectors, _ in data.speech_chunks(pairs):
        of_chunk = slice(first, first + len(vectors))
        first = of_chunk.stop
        yield vectors[known[of_chunk]], targets[of_chunk][known[of_chunk]]


class _Spoken(NamedTuple):
    """A block of n utterances."""

    words: Tensor  # (n, Dt) float64, standardised; 0, the mean, of an utterance without a transcript
    there: Tensor  # (n,) bool, which have one
    speech: Tensor  # (n, Da), standardised
    points: Tensor  # (n, 2)

    def with_words(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The words and the `target` (n, k) of those that have a transcript."""
        return self.words[self.there], target[self.there]


@dataclass(frozen=True)
class Transcripts:
    """Vectors of the transcripts, standardised by those of the training split."""

    store: Store
    mean: Tensor  # (Dt,) float64
    std: Tensor  # (Dt,) float64

    def beside(self, speech: Iterable[tuple[Tensor, Tensor]], rows: NDArray[np.int64]) -> Iterator[_Spoken]:
        """Those of manifest `rows` (n,) beside `speech`, blocks of these utterances' speech vectors and points."""
        first = 0
        for block, points in speech:
            values, done = self.store.read(rows[first : first + len(block)])
            first += len(block)
            vectors, there = (torch.from_numpy(array).to(block.device) for array in (values, done))
            words = torch.where(there[:, None], (vectors.double() - self.mean) / self.std, 0.0)
            yield _Spoken(words, there, block, points)


def _words_and_voice(stores: Stores, data: TrainingData, pairs: CachedPairs) -> dict[str, NDArray[np.float64]]:
    """The points (n, 2) of `pairs` by their words, and by their speech less what the words predict of it.

    Of an utterance without a transcript both are the mean of the training split, since its words cannot be taken out.
    Without transcripts in both the training and the development split there are none.
    """
    store, parts = stores.words, (data.pairs, data.dev)
    if store is None or not all(store.done(part.rows).any() for part in parts):
        return {}
    known = data.pairs.rows[store.done(data.pairs.rows)]
    std, mean = std_and_mean_on_disk(OnDisk(store, known, data.device))
    transcripts = Transcripts(store, mean, std.clamp_min(1e-6))

    def fitted(chosen: Callable[[_Spoken], tuple[Tensor, Tensor]], penalties: Sequence[float] = PENALTIES) -> Plane:
        train, dev = (map(chosen, transcripts.beside(data.speech_chunks(part), part.rows)) for part in parts)
        return fit_plane(train, dev, penalties=penalties)

    def residual(block: _Spoken) -> Tensor:
        return torch.where(block.there[:, None], block.speech - CENTRE - to_speech(block.words), 0.0)

    to_plane = fitted(lambda block: block.with_words(block.points))
    # the least penalty: a larger one leaves a share of the words, however small, which the next regression finds
    to_speech = fitted(lambda block: block.with_words(block.speech), PENALTIES[:1])
    voice = fitted(lambda block: (residual(block)[block.there], block.points[block.there]))
    log.info(f"words: ridge regression from transcripts, {_fit(to_plane)}")
    log.info(f"voice: ridge regression from speech less what transcripts predict of it, {_fit(voice)}")
    standardised = (data.standard.standardise_side("audio", block) for block in torch.split(pairs.speech, _BLOCK_ROWS))
    speech = zip(standardised, torch.split(pairs.labels[:, :2], _BLOCK_ROWS), strict=True)
    blocks = list(transcripts.beside(speech, pairs.rows))
    points = {
        "words": [to_plane(block.words) for block in blocks],
        "voice": [voice(residual(block)) for block in blocks],
    }
    return {name: CENTRE + torch.cat(parts).cpu().numpy() for name, parts in points.items()}


def _fit(plane: Plane) -> str:
    return f"penalty {plane.penalty:g}, development MSE {plane.error:.4f} points squared"


def _predicted(plane: Plane, data: TrainingData, speech: Tensor) -> NDArray[np.float64]:
    """`plane` of (n, Da) frozen speech vectors, block by block in memory."""
    blocks = torch.split(speech, _BLOCK_ROWS)
    return torch.cat([plane(data.standard.standardise_side("audio", block)) for block in blocks]).cpu().numpy()


def _nearest(test: OrdinalityTest, speech: NDArray[np.float64]) -> NearestUtterances:
    """The labelled utterances by the squared distance of their points, of (n, 2 or 3), to each prompt's true point.

    It is rounded, so that equal distances of labels on a grid tie (F6). Dominance counts where it is asked for.
    """
    points = speech[test.labelled, : test.prompt_points.shape[1]]

    def nearness(prompts: slice) -> NDArray[np.float32]:
        apart = points - test.prompt_points[prompts, None]  # (k, m, 2)
        near: NDArray[np.float32] = -np.square(apart).sum(axis=-1).round(_DECIMALS).astype(np.float32)
        return near

    return NearestUtterances(nearness, len(test.prompts))


def _shuffled(test: OrdinalityTest, nearest: NearestUtterances, config: EvaluateConfig) -> Result:
    """AOC and VOC where labels are shuffled among the utterances and each list retrieves what the ceiling does.

    So the std is of a mean over lists that share their utterances, as those of any method do: what one training of no
    order would scatter by. Were lists independent, it would be `NULL_STD` over the root of their number.
    """
    result = {}
    for name, axis in test.lists.items():
        generator, values = np.random.default_rng(config.seed), test.points[:, axis.column]
        retrieved = np.array([nearest.retrieve(rows) for rows in axis.rows])  # (lists, 14)
        shuffled = np.array([generator.permutation(values)[retrieved] for _ in range(SHUFFLES)])  # (B, lists, 14)
        found = kendall_taus(axis.asked, shuffled.transpose(2, 1, 0))  # (lists, B)
        result[name] = {
            "mean": 0.0,
            "std": mean_and_std(found.mean(axis=0))["std"],
            "seed_values": [0.0],
            "list_std": float(np.mean([mean_and_std(of_shuffle)["std"] for of_shuffle in found.T])),
            "convention": (
                f"{axis.convention}; chance: 0, with the std over {SHUFFLES} shuffles of the labels among utterances, "
                "as that of a seed's mean"
            ),
        }
    return result


def _recognition(
    stores: Stores, split: str, data: TrainingData, config: EvaluateConfig, classes: Sequence[str] | None
) -> Result:
    """What `zero_shot` returns, of ridge regressions to a category each in place of prompts."""
    manifest = stores.manifest
    names = sorted(set(manifest.emotion) - {""})  # as the codes of `CachedPairs.emotion` count them
    vectors, done = stores.audio.read(manifest.rows(split))
    rows = manifest.rows(split)[done].tolist()
    speech = torch.tensor(vectors[done], dtype=torch.float32, device=data.device)
    categories = [(part, one_hot(part.emotion.clamp_min(0), len(names)).double()) for part in (data.pairs, data.dev)]
    plane = fit_plane(*(_speech_chunks(data, part, of_part, part.emotion >= 0) for part, of_part in categories))
    found = recognition(
        torch.from_numpy(_predicted(plane, data, speech)),
        [manifest.emotion[row] for row in rows],
        prompts=[ClassPrompt(CLASS_TEMPLATE, name, name) for name in names],
        vectors=torch.eye(len(names), dtype=torch.float64),
        classes=classes,
    )
    speakers = [manifest.speaker[row] for row in rows]
    by_ridge = {"0": replace(found, rule=_RULE)}
    return recognition_over_seeds(by_ridge, speakers, bootstrap=config.bootstrap, draw_seed=config.seed)


def _guessed(ceiling: Result) -> Result:
    """The blind guess of what the ceiling is asked, in the form of a recognition without a confusion."""
    guess = blind_guess(ceiling)
    return {**guess, **{key: ceiling[key] for key in FACTS}, "convention": guess["war"]["convention"]}
