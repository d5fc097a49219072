"""How plane_clap was chosen: its parts left out or changed one at a time, on the development folds alone.

    python -m tests.benchmarks.variants STORES --out FOLDER [--folds 5] [--seeds 2] [--only NAME ...]

Each fold's heads are trained on its training speakers and measured on its development speakers; no test speaker of a
fold is read. (Over the folds every speaker is a development speaker once.) Prints a Markdown table, docs/findings.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.stores import Stores, open_stores
from pipeline.core.config import TrainConfig
from pipeline.data.captions.folds import captions_for_splits
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.folds import speaker_folds
from pipeline.evaluation.recognition import zero_shot
from pipeline.training.train import resolve_training, train

PLANE = (  # plane_clap's settings, but for its objective, for methods that have another
    "start=ridge", "grid={texts: 256, classes: 0.3}", "gap={centroid: 10, covariance: 10}", "learning_rate=5e-5",
    "batch_size=256", "temperature=0.2", "temperature_schedule=fixed",
)  # fmt: skip
VARIANTS: dict[str, tuple[str, Sequence[str]]] = {
    "emotionrankclap": ("emotionrankclap", ()),
    "clap_sce": ("clap_sce", ()),
    "ridge": ("ridge", ()),
    "plane_clap": ("plane_clap", ()),
    "random start, rate 1e-3": ("plane_clap", ("start=random", "learning_rate=1e-3")),
    "no gap price": ("plane_clap", ("gap.centroid=0", "gap.covariance=0")),
    "centroid price alone": ("plane_clap", ("gap.covariance=0",)),
    "gap price 30": ("plane_clap", ("gap.centroid=30", "gap.covariance=30")),
    "no class texts": ("plane_clap", ("grid.classes=0",)),
    "class texts 1": ("plane_clap", ("grid.classes=1",)),
    "no share of SupCon": ("plane_clap", ("objective.class_share=0",)),
    "SupCon .6": ("plane_clap", ("objective.class_share=0.6",)),
    "width .4": ("plane_clap", ("objective.kernel_width=0.4", "grid.width=0.4")),
    "width 1.2": ("plane_clap", ("objective.kernel_width=1.2", "grid.width=1.2")),
    "temperature .1": ("plane_clap", ("temperature=0.1",)),
    "temperature .4": ("plane_clap", ("temperature=0.4",)),
    "temperature learned": ("plane_clap", ("temperature_schedule=learned",)),
    "rate 2e-4": ("plane_clap", ("learning_rate=2e-4",)),
    "rate 1e-5": ("plane_clap", ("learning_rate=1e-5",)),
    "batch norm": ("plane_clap", ("norm=batch",)),
    "batches of 64": ("plane_clap", ("batch_size=64",)),
    "64 grid texts": ("plane_clap", ("grid.texts=64",)),
    "Rank-N-Contrast": ("emotionrankclap", PLANE),
    "symmetric Rank-N-Contrast": ("emotionrankclap", (*PLANE, "objective.symmetric=true")),
    "EmotionRankCLAP with the grid": ("emotionrankclap", ("grid={texts: 256}", "batch_size=256")),
}
MEASURES = {
    "AOC": ("ordinality", "aoc"), "VOC": ("ordinality", "voc"), "rated words AOC": ("word_norms", "aoc"),
    "rated words VOC": ("word_norms", "voc"), "median MMD": ("alignment", "mmd_median"),
    "relative Wasserstein": ("alignment", "wasserstein_relative"), "UAR": ("recognition", "uar"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stores", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--training", default="small_corpus")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    arguments = parser.parse_args()
    stores, figures = open_stores(arguments.stores), {}
    views = {}
    for fold in speaker_folds(stores.manifest, folds=arguments.folds):
        splits = fold.splits()
        views[fold.name] = stores.with_splits(splits, captions_for_splits(stores.captions, stores.manifest, splits))
    print(f"| variant | {' | '.join(MEASURES)} |\n|---|{'---:|' * len(MEASURES)}", flush=True)
    for name in arguments.only:
        method, overrides = VARIANTS[name]
        chosen = resolve_training(
            method, training=arguments.training, seeds=arguments.seeds, overrides=["threads=1", *overrides]
        )
        folder = arguments.out / "".join(letter if letter.isalnum() else "_" for letter in name)
        found = [_measured(view, chosen, folder / fold) for fold, view in views.items()]
        figures[name] = {measure: [of_fold[measure] for of_fold in found] for measure in MEASURES}
        cells = [f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" for values in figures[name].values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    (arguments.out / "variants.json").write_text(json.dumps(figures, indent=1) + "\n")


def _measured(view: Stores, config: TrainConfig, out: Path) -> dict[str, float]:
    run = train(view, method=config, out=out)
    result: dict[str, Any] = evaluate(run, stores=view, overrides=["split=dev", "trials=3", "bootstrap=0"])
    result["recognition"] = zero_shot(run, view, split="dev")
    return {name: float(result[test][key]["mean"]) for name, (test, key) in MEASURES.items()}


if __name__ == "__main__":
    main()
