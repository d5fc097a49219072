"""Zero-shot recognition in folds: every utterance is tested once, by heads that no session or speaker of it trained.

    compare-methods stores/iemocap sl_gemo_clap emo_clap --folds session
    compare-methods stores/ravdess --folds 5 --training small_corpus

IEMOCAP's literature (F26) leaves one session out at a time and reports WAR and UAR. Each fold of each method is a RUN,
OUT/METHOD/FOLD. No row that a fold tests is read before its training has ended. Captions are the stores': what stage
one fitted to the manifest's own training split (the quantiles of the acoustic style) is not fitted again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache.captions import CLASS_TEMPLATE
from cache.disk import translate_os_errors, write_text, writer_lock
from cache.stores import Stores, open_stores
from pipeline.core.errors import UsageError
from pipeline.evaluation.folds import Fold, session_folds, speaker_folds
from pipeline.evaluation.recognition import pooled_recognition, zero_shot
from pipeline.evaluation.significance import mean_and_std
from pipeline.experiments.compare import mean_and_std_cells, served
from pipeline.training.train import train

log = logging.getLogger(__name__)

Scheme = int | Literal["session"]
Result = Mapping[str, Any]
MEASURES = ("war", "uar")


def cross_validate(
    stores: Stores | str | Path, *, out: str | Path, folds: Scheme, methods: Sequence[str] = (), seeds: int = 5,
    training: str | None = None, overrides: Sequence[str] = (), template: str = CLASS_TEMPLATE, device: str = "auto",
    fresh: bool = False, tensorboard: bool = False,
) -> tuple[dict[str, Any], str]:  # fmt: skip
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
        acoustic = [name for name, config in configs.items() if config.style == "acoustic"]
        summary = {
            "stores": str(stores.folder),
            "scheme": folds,
            "utterances": len(stores.manifest),
            "notes": _notes(stores, folds, parts, acoustic, next(iter(results.values()))),
            "methods": results,
        }
        text = _markdown(summary)
        write_text(out / "cross_validation.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
        write_text(out / "cross_validation.md", text + "\n")
    return summary, text


def _classes(stores: Stores, template: str) -> list[str]:
    """All emotions of the manifest; refused before any training where there is none, or one without a prompt."""
    classes = sorted(set(stores.manifest.emotion) - {""})
    prompted = {prompt.emotion for prompt in stores.captions.classes if prompt.template == template}
    if (silent := [name for name in classes if name not in prompted]) or not classes:
        found = f"no class prompt {template!r} for {', '.join(silent)}" if silent else "no utterance with an emotion"
        action = "Run extract-features with captions.styles that hold template, on a corpus with emotions."
        raise UsageError(stores.folder, found, "emotions, and a prompt for each", action)
    return classes


def _summary(found: Mapping[str, Result], seeds: Sequence[int]) -> dict[str, Any]:
    """One method's folds (`found`: fold -> what `zero_shot` returned) pooled, seed by seed."""
    names = [str(seed) for seed in seeds]  # a fold may hold more of an earlier call
    of = {seed: {fold: result["seeds"][seed] for fold, result in found.items()} for seed in names}
    pooled = {seed: pooled_recognition(list(of[seed].values())) for seed in names}
    same = ("chance", "majority", "classes", "template", "n", "left_out", "convention")
    means = [{name: np.mean([result[name] for result in of[seed].values()]) for name in MEASURES} for seed in names]
    return {
        "pooled": _over_seeds(list(pooled.values())),
        "mean_over_folds": _over_seeds(means),
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


def _notes(stores: Stores, scheme: Scheme, parts: Sequence[Fold], acoustic: Sequence[str], first: Result) -> list[str]:
    """Every convention behind the figures, a line each; `first` is the result of one method."""
    unread = len(stores.manifest) - first["n"] - first["left_out"]
    lost = [f"{first['left_out']} without an emotion"] * bool(first["left_out"]) + [f"{unread} not done"] * bool(unread)
    by = "one session left out at a time" if scheme == "session" else "whole speakers"
    development = ", ".join(f"{parts[i - 1].name}: {parts[i].name}" for i in [*range(1, len(parts)), 0])
    return [
        f"{len(parts)} folds, {by}; a fold is tested by heads trained without it and without the next fold, its "
        f"development set ({development})",
        f"n = {first['n']} utterances, each tested once" + (f"; left out: {', '.join(lost)}" if lost else ""),
        f"pooled: {first['convention']}; mean over folds: each fold's own WAR and UAR, averaged",
        f"mean ± std over {len(first['seeds'])} seeds",
        *[f"{name}: low and high in captions are of the manifest's own training split" for name in acoustic],
    ]


def _markdown(summary: Mapping[str, Any]) -> str:
    """The table of methods; then for each its folds and its confusions."""
    results: Mapping[str, Result] = summary["methods"]
    first = next(iter(results.values()))
    chance, majority = f"{first['chance']:.3f}", f"{first['majority']:.3f}"
    lines = [
        f"**Zero-shot recognition in folds of {summary['stores']}, higher is better**",
        "",
        "| method | pooled WAR | pooled UAR | mean over folds WAR | mean over folds UAR |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, result in results.items():
        pooled, means = (mean_and_std_cells(result[name], *MEASURES) for name in ("pooled", "mean_over_folds"))
        lines.append(f"| {name} | {pooled} | {means} |")
    lines += [
        f"| chance | {chance} | {chance} | {chance} | {chance} |",
        f"| always the most frequent | {majority} | {chance} | - | - |",
        "",
        *(f"- {note}" for note in summary["notes"]),
    ]
    for name, result in results.items():
        classes = result["classes"]
        lines += [
            f"\n**{name}, fold by fold**\n",
            "| tested | n | WAR | UAR | always the most frequent, WAR |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {fold} | {at['n']} | {mean_and_std_cells(at, *MEASURES)} | {at['majority']:.3f} |"
                for fold, at in result["folds"].items()
            ),
            f"\n**{name}, confusions summed over folds and seeds** (a row is the truth, a column what was said)\n",
            f"| | {' | '.join(classes)} |",
            f"|---|{'---:|' * len(classes)}",
            *(f"| {of} | {' | '.join(map(str, row))} |" for of, row in zip(classes, result["confusion"], strict=True)),
        ]
    return "\n".join(lines)
