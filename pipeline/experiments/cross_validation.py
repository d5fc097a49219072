"""Zero-shot recognition in folds: every utterance is tested once, by heads that no session or speaker of it trained.

    compare-methods stores/iemocap sl_gemo_clap emo_clap --folds session
    compare-methods stores/ravdess --folds 5 --training small_corpus

IEMOCAP's literature (F26) leaves one session out at a time and reports WAR and UAR. Each fold of each method is a RUN
of its own, OUT/METHOD/FOLD, so that an interrupted cross-validation resumes. No row that a fold tests
is read before that fold's training has ended. Captions are the stores': what stage one fitted to the manifest's own
training split (the quantiles of the acoustic style) is not fitted again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache.disk import translate_os_errors, write_text, writer_lock
from cache.stores import Stores, open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.errors import UsageError
from pipeline.evaluation.folds import Fold, session_folds, speaker_folds
from pipeline.evaluation.recognition import CLASS_TEMPLATE, pooled_recognition, zero_shot
from pipeline.evaluation.significance import mean_and_std
from pipeline.experiments.compare import cell, served
from pipeline.training.train import train

log = logging.getLogger(__name__)

Scheme = int | Literal["session"]
MEASURES = ("war", "uar")


def cross_validate(
    stores: Stores | str | Path,
    *,
    out: str | Path,
    folds: Scheme,
    methods: Sequence[str] = (),
    seeds: int = 5,
    training: str | None = None,
    overrides: Sequence[str] = (),
    template: str = CLASS_TEMPLATE,
    device: str = "auto",
    fresh: bool = False,
    tensorboard: bool = False,
) -> tuple[dict[str, Any], str]:
    """Train `methods` (all that the stores can serve) in `folds` and pool the recognition of each fold's test rows.

        summary, text = cross_validate("stores/mine", folds=5, methods=["supcon"], out="runs/folds")

    `folds` is "session" (leave one of IEMOCAP's out) or a number of folds by speaker. The classes are all emotions of
    the manifest. Returns the results and the tables as Markdown; `out` gets cross_validation.{json,md}. Of each method:
    `pooled` holds `war` and `uar` of the folds' summed confusions, `mean_over_folds` the mean of the folds' own, both
    `mean` and `std` over seeds; `folds` each fold's; `confusion` is summed over folds and seeds.

    Raises UsageError when there are no such folds, an emotion has no prompt of `template` or a named method cannot be
    served, StoreMismatch when `out` holds other folds, StoreLocked while another process writes to it.
    """
    stores, out = stores if isinstance(stores, Stores) else open_stores(stores), Path(out)
    parts = session_folds(stores.manifest) if folds == "session" else speaker_folds(stores.manifest, folds=folds)
    classes = _classes(stores, template)
    configs = served(stores, methods, seeds, training, overrides)
    with translate_os_errors(out), writer_lock(out):
        results = {}
        for name, config in configs.items():
            found = {}
            for fold in parts:
                log.info(f"== {name}, {fold.name}")
                view = stores.with_splits(fold.splits())
                folder = out / name / fold.name
                run = train(view, method=config, out=folder, device=device, fresh=fresh, tensorboard=tensorboard)
                found[fold.name] = zero_shot(run, view, split="test", template=template, classes=classes, device=device)
            results[name] = _summary(found, config.seeds)
        summary = {
            "stores": str(stores.folder),
            "scheme": folds,
            "utterances": len(stores.manifest),
            "notes": _notes(stores, folds, parts, configs, results),
            "methods": results,
        }
        text = _markdown(summary)
        write_text(out / "cross_validation.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
        write_text(out / "cross_validation.md", text + "\n")
    return summary, text


def _classes(stores: Stores, template: str) -> list[str]:
    """All emotions of the manifest; refused before any training where there is none, or one without a prompt."""
    classes = sorted(set(stores.manifest.emotion) - {""})
    asked = {prompt.emotion for prompt in stores.captions.classes if prompt.template == template}
    silent = [name for name in classes if name not in asked]
    if silent or not classes:
        found = f"no class prompt {template!r} for {', '.join(silent)}" if silent else "no utterance with an emotion"
        action = "Run extract-features with captions.styles that hold template, on a corpus with emotions."
        raise UsageError(stores.folder, found, "emotions, and a prompt for each", action)
    return classes


def _summary(found: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """One method's folds (`found`: fold -> what `zero_shot` returned) pooled, seed by seed."""
    names = [str(seed) for seed in seeds]  # a fold may hold more of an earlier call
    of = {seed: {fold: result["seeds"][seed] for fold, result in found.items()} for seed in names}
    pooled = {seed: pooled_recognition(list(of[seed].values())) for seed in names}
    same = ("chance", "majority", "classes", "template", "n", "left_out", "convention")
    return {
        "pooled": _over_seeds(list(pooled.values())),
        "mean_over_folds": _over_seeds(
            [{name: np.mean([result[name] for result in of[seed].values()]) for name in MEASURES} for seed in names]
        ),
        "folds": {
            fold: _over_seeds([of[seed][fold] for seed in names]) | {"n": result["n"], "majority": result["majority"]}
            for fold, result in found.items()
        },
        **{name: pooled[names[0]][name] for name in same},
        "confusion": np.sum([result["confusion"] for result in pooled.values()], axis=0).tolist(),
        "seeds": {seed: {"pooled": pooled[seed], "folds": of[seed]} for seed in names},
    }


def _over_seeds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: mean_and_std([result[name] for result in results]) for name in MEASURES}


def _notes(
    stores: Stores,
    scheme: Scheme,
    parts: Sequence[Fold],
    configs: Mapping[str, TrainConfig],
    results: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Every convention behind the figures, a line each."""
    first = next(iter(results.values()))
    unread = len(stores.manifest) - first["n"] - first["left_out"]
    lost = [f"{first['left_out']} without an emotion"] * bool(first["left_out"]) + [f"{unread} not done"] * bool(unread)
    by = "one session left out at a time" if scheme == "session" else "whole speakers"
    acoustic = [name for name, config in configs.items() if config.style == "acoustic"]
    return [
        f"{len(parts)} folds, {by}; a fold is tested by heads trained without it and without the next fold, its "
        f"development set ({', '.join(f'{fold.name}: {dev.name}' for fold, dev in _with_dev(parts))})",
        f"n = {first['n']} utterances, each tested once" + (f"; left out: {', '.join(lost)}" if lost else ""),
        f"pooled: {first['convention']}; mean over folds: each fold's own WAR and UAR, averaged",
        f"mean ± std over {len(first['seeds'])} seeds",
        *[f"{name}: low and high in captions are of the manifest's own training split" for name in acoustic],
    ]


def _with_dev(parts: Sequence[Fold]) -> list[tuple[Fold, Fold]]:
    return list(zip(parts, [*parts[1:], parts[0]], strict=True))


def _markdown(summary: Mapping[str, Any]) -> str:
    results: Mapping[str, Mapping[str, Any]] = summary["methods"]
    first = next(iter(results.values()))
    chance, majority = f"{first['chance']:.3f}", f"{first['majority']:.3f}"
    lines = [
        f"**Zero-shot recognition in folds of {summary['stores']}, higher is better**",
        "",
        "| method | pooled WAR | pooled UAR | mean over folds WAR | mean over folds UAR |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name} | {_cells(found['pooled'])} | {_cells(found['mean_over_folds'])} |"
            for name, found in results.items()
        ),
        f"| chance | {chance} | {chance} | {chance} | {chance} |",
        f"| always the most frequent | {majority} | {chance} | - | - |",
        "",
        *(f"- {note}" for note in summary["notes"]),
    ]
    return "\n".join([*lines, *(line for name, found in results.items() for line in _detail(name, found))])


def _detail(name: str, found: Mapping[str, Any]) -> list[str]:
    """One method's folds and its confusions."""
    classes = found["classes"]
    return [
        "",
        f"**{name}, fold by fold**",
        "",
        "| tested | n | WAR | UAR | always the most frequent, WAR |",
        "|---|---:|---:|---:|---:|",
        *(f"| {fold} | {at['n']} | {_cells(at)} | {at['majority']:.3f} |" for fold, at in found["folds"].items()),
        "",
        f"**{name}, confusions summed over folds and seeds** (a row is the truth, a column what was said)",
        "",
        f"| | {' | '.join(classes)} |",
        f"|---|{'---:|' * len(classes)}",
        *(f"| {of} | {' | '.join(map(str, row))} |" for of, row in zip(classes, found["confusion"], strict=True)),
    ]


def _cells(figures: Mapping[str, Any]) -> str:
    return " | ".join(cell(figures[name]) for name in MEASURES)
