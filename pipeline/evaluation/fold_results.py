"""The results of one method in folds as one result: each measure over folds and seeds, each fold's own beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.measures import BOUNDS
from pipeline.evaluation.pooling import over_folds
from pipeline.evaluation.recognition import FACTS, blind_guess, pooled_recognition
from pipeline.evaluation.significance import mean_and_std

Result = Mapping[str, Any]
TESTS = ("ordinality", "word_norms", "dominance", "alignment")
RECOGNITION = ("war", "uar")
_LOSS = "Kendall's tau asked by the grammar's prompts less that by rated words, seed by seed in each fold"


def method_over_folds(measured: Mapping[str, Result], seeds: Sequence[int], *, ratio: float) -> dict[str, Any]:
    """One method's folds as one result.

    Args:
        measured: of each fold, as far as it was measured, `evaluation` (what `evaluate` returned), `recognition` (what
            `zero_shot` returned) and `zero_shot` (a list of the same on other corpora).
        seeds: those to report; a fold may hold more of an earlier call.
        ratio: `resampling_ratio` of the folds.

    Returns:
        `{"seeds", "ordinality", "word_norms", "dominance", "alignment", "recognition", "zero_shot", "folds"}`, each
        where it was measured. A measure is what `over_folds` returns, with its `convention`; on other corpora, which
        are the same speech in every fold, without an interval. `recognition` has the folds' confusions summed
        (`confusion` over seeds too) and of them `pooled` WAR and UAR. `folds` has each fold's `mean`, `std` and
        `seed_values`.
    """
    names = [str(seed) for seed in seeds]
    result: dict[str, Any] = {"seeds": list(seeds)}
    folds: dict[str, dict[str, Any]] = {name: {} for name in measured}
    for test in TESTS:
        by_fold = {
            fold: [seed[test] for seed in _seeds(found["evaluation"], names)]
            for fold, found in measured.items()
            if test in found.get("evaluation", {})
        }
        if by_fold:
            first = next(iter(by_fold.values()))[0]  # its conventions stand for all
            result[test] = {
                key: _over_folds(by_fold, key, entry["convention"], ratio=ratio)
                for key, entry in first.items()
                if isinstance(entry, Mapping)
            }
            for fold, by_seed in by_fold.items():
                folds[fold][test] = {key: _over_seeds([seed[key] for seed in by_seed]) for key in result[test]}
    if {"ordinality", "word_norms"} <= result.keys():
        result["word_norms"] |= _losses(list(folds.values()), ratio)
    recognised = {fold: found["recognition"] for fold, found in measured.items() if "recognition" in found}
    if recognised:
        result["recognition"], of_folds = _recognition(recognised, names, ratio)
        for fold, of_fold in of_folds.items():
            folds[fold]["recognition"] = of_fold
    corpora = len(next(iter(measured.values())).get("zero_shot", ()))
    result["zero_shot"] = [
        _elsewhere({fold: found["zero_shot"][number] for fold, found in measured.items()}, names)
        for number in range(corpora)
    ]
    return result | {"folds": folds}


def bounds_over_folds(
    by_fold: Mapping[str, Mapping[str, Result]], method: Result, *, ratio: float
) -> dict[str, dict[str, Any]]:
    """The reference rows of the folds (`by_fold`: fold -> what `reference_results` returned), as of methods.

    Of chance there is no interval; its `fold_std` is what a fold's mean scatters by where labels are shuffled, or
    every class is guessed. Without any fold's rows there is chance alone, of what `method_over_folds` returned for any
    `method`.
    """
    bounds: dict[str, dict[str, Any]] = {}
    for bound in BOUNDS[:-1]:  # chance is of all folds
        if not by_fold or not all(bound in found for found in by_fold.values()):
            continue
        rows = {fold: found[bound] for fold, found in by_fold.items()}
        measured: dict[str, dict[str, Any]] = {fold: {"evaluation": row} for fold, row in rows.items()}
        if all("recognition" in row for row in rows.values()):
            measured = {fold: measured[fold] | {"recognition": row["recognition"]} for fold, row in rows.items()}
        bounds[bound] = method_over_folds(measured, (0,), ratio=ratio)
    chance = _chance_of_order([found["chance"] for found in by_fold.values()])
    if "recognition" in method:
        recognised = method["recognition"]
        guesses = [blind_guess({**recognised, **of["recognition"]}) for of in method["folds"].values()]
        guessed = {key: _chance([guess[key] for guess in guesses]) for key in RECOGNITION}
        chance["recognition"] = {**guessed, "pooled": blind_guess(recognised)}
    if method["zero_shot"]:
        chance["zero_shot"] = [blind_guess(recognised) for recognised in method["zero_shot"]]
    return bounds | {"chance": chance}


def _chance_of_order(folds: Sequence[Result]) -> dict[str, Any]:
    return {
        test: {key: _chance([fold[test][key] for fold in folds]) for key in folds[0][test]}
        for test in TESTS
        if folds and test in folds[0]
    }


def _chance(folds: Sequence[Result]) -> dict[str, Any]:
    """One measure: the mean is the same in every fold, `fold_std` the root of the folds' mean variance.

    `std` is that of the mean over the folds, which test different utterances.
    """
    first, deviations = folds[0], np.array([fold["std"] for fold in folds])
    return {
        "mean": first["mean"],
        "fold_std": float(np.sqrt(np.square(deviations).mean())),
        "std": float(np.sqrt(np.square(deviations).sum()) / len(folds)),
        "seed_values": [first["mean"]],
        "convention": first["convention"],
    }


def _seeds(found: Result, names: Sequence[str]) -> list[Result]:
    return [found["seeds"][name] for name in names]


def _over_folds(by_fold: Mapping[str, Sequence[Result]], key: str, convention: str, *, ratio: float) -> dict[str, Any]:
    """One measure of a test over folds and seeds."""
    values = [[_value(seed[key]) for seed in by_seed] for by_seed in by_fold.values()]
    return {**over_folds(values, ratio=ratio), "convention": convention}


def _over_seeds(entries: Sequence[Any]) -> dict[str, Any]:
    values = list(map(_value, entries))
    return {**mean_and_std(values), "seed_values": values}


def _value(entry: Any) -> float:
    """A measure's mean over lists, trials or seeds; recognition's is a number."""
    return float(entry["mean"] if isinstance(entry, Mapping) else entry)


def _losses(folds: Sequence[Result], ratio: float) -> dict[str, Any]:
    """`aoc_loss` and `voc_loss`: what is lost from the grammar's prompts to those of other hands."""
    losses = {}
    for key in folds[0]["word_norms"]:
        grammar, words = ([fold[test][key]["seed_values"] for fold in folds] for test in ("ordinality", "word_norms"))
        losses[f"{key}_loss"] = {**over_folds(np.subtract(grammar, words), ratio=ratio), "convention": _LOSS}
    return losses


def _recognition(
    by_fold: Mapping[str, Result], names: Sequence[str], ratio: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recognition over folds, and each fold's own."""
    seeds = {fold: _seeds(found, names) for fold, found in by_fold.items()}
    pooled = [pooled_recognition(of_seed) for of_seed in zip(*seeds.values(), strict=True)]
    first = next(iter(seeds.values()))[0]
    convention = f"{first['convention']}; each fold's own, averaged"
    result: dict[str, Any] = {key: _over_folds(seeds, key, convention, ratio=ratio) for key in RECOGNITION}
    result["pooled"] = {}
    for key in RECOGNITION:
        values = [seed[key] for seed in pooled]
        over = mean_and_std(values)
        result["pooled"][key] = {
            "mean": over["mean"],
            "seed_std": over["std"],
            "seed_values": values,
            "convention": pooled[0]["convention"],
        }
    folds = {
        fold: {
            **{key: _over_seeds([seed[key] for seed in by_seed]) for key in RECOGNITION},
            **{key: by_seed[0][key] for key in ("n", "majority")},
            "confusion": _summed(by_seed),
        }
        for fold, by_seed in seeds.items()
    }
    facts = {key: pooled[0][key] for key in FACTS}
    return {**result, **facts, "confusion": _summed(pooled)}, folds


def _summed(results: Sequence[Result]) -> list[list[int]]:
    confusion: list[list[int]] = np.sum([result["confusion"] for result in results], axis=0).tolist()
    return confusion


def _elsewhere(by_fold: Mapping[str, Result], names: Sequence[str]) -> dict[str, Any]:
    """Recognition on another corpus by the heads of every fold."""
    seeds = {fold: _seeds(found, names) for fold, found in by_fold.items()}
    first = next(iter(by_fold.values()))
    result: dict[str, Any] = {key: first[key] for key in ("stores", "split", *FACTS)}
    for key in RECOGNITION:
        result[key] = _over_folds(seeds, key, first["convention"], ratio=0.0)
        del result[key]["low"], result[key]["high"]  # of the same speech in every fold
    return {**result, "confusion": _summed([seed for by_seed in seeds.values() for seed in by_seed])}
