"""27 configurations with successive halving at MSP-Podcast's size; on a small set, its winner against the full grid's.

python -m tests.benchmarks.sweep [--stores FOLDER] [--trials 27 81] [--steps auto fused]    # 90,022 pairs, minutes each
python -m tests.benchmarks.sweep --small [--scale 3000]       # halving and the whole grid, and both winners again
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cache.stores import Stores, open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.config_files import validate_file
from pipeline.evaluation.evaluate import evaluate
from pipeline.experiments.sweeps.config import SweepConfig
from pipeline.experiments.sweeps.sweep import sweep
from pipeline.training.train import train
from tests.planted import MSP_PODCAST, RELIABILITY, plant

GRID = {
    "learning_rate": [3e-5, 1e-4, 3e-4],
    "temperature": [1.0, 0.3, 0.1],
    "objective.denominator": ["at_least", "beyond_and_self", "beyond"],
}
RANGES = GRID | {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
SEEDS = 10  # each winner is trained anew with, to tell luck from quality


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=Path, help="keep the planted stores here and use them again")
    parser.add_argument("--trials", type=int, nargs="*", default=[27])
    parser.add_argument("--steps", nargs="*", default=["auto"])
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--scale", type=int, default=3000, help="training pairs of --small")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.stores or Path(scratch) / "stores"
        there = (folder / "audio.h5").exists()
        splits = {"train": arguments.scale, "dev": 2000, "test1": 100} if arguments.small else MSP_PODCAST
        stores = open_stores(folder) if there else plant(folder, splits, reliability=RELIABILITY)
        if arguments.small:
            compare_winners(stores, Path(scratch))
        else:
            for trials in arguments.trials:
                for step in arguments.steps:
                    drawn: dict[str, Any] = {"sampler": "random", "space": RANGES, "trials": trials}
                    run(stores, Path(scratch) / f"{trials}-{step}", fixed={"step": step}, **drawn)


def run(stores: Stores, out: Path, **settings: Any) -> None:
    """One sweep, over the grid unless `settings` say otherwise; says how long it took."""
    config = SweepConfig.model_validate({"name": out.name, "sampler": "grid", "space": GRID} | settings)
    start = time.perf_counter()
    _, text = sweep(stores, config, out=out, device="cpu", report=False)
    print(f"{out.name}: {time.perf_counter() - start:.0f} s\n{text.splitlines()[-1]}", flush=True)


def compare_winners(stores: Stores, scratch: Path) -> None:
    """The winner of halving and that of the full grid, each trained anew with many seeds."""
    for name in ("halving", "grid"):
        run(stores, scratch / name, **({} if name == "halving" else {"halving": None}))
        best = validate_file(TrainConfig, scratch / name / "best.yaml")
        anew = best.model_copy(update={"shuffle_seed": None, "seeds": tuple(range(1, SEEDS + 1))})
        found = evaluate(train(stores, method=anew, out=scratch / f"{name}-anew"), overrides=["split=dev", "trials=1"])
        scores = np.array(
            [np.mean([s["ordinality"][t]["mean"] for t in ("aoc", "voc")]) for s in found["seeds"].values()]
        )
        error = scores.std(ddof=1) / np.sqrt(SEEDS)
        print(f"{name}'s winner over {SEEDS} new seeds: {scores.mean():.4f}, standard error {error:.4f}", flush=True)


if __name__ == "__main__":
    main()
