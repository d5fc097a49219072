"""How soon a training reaches the quality of the paper's 15 epochs: dev AOC and VOC against seconds, over many seeds.

    python -m tests.benchmarks.time_to_quality [--stores FOLDER] [--seeds 10] paper fast "epochs=2 batch_size=256"

Each setting is a preset of configs/training or overrides of the paper's. Seconds are of steps and validation on one
thread, without loading; quality is of the kept epoch's heads on the development split (100 lists a test).
Each setting is compared with the first, seed by seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cache.pairs import cached_pairs
from cache.stores import Stores, open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.presets import preset_names
from pipeline.experiments.sweeps.successive_halving import DevOrdinality
from pipeline.objectives.base import objective_of
from pipeline.training.heads import Heads
from pipeline.training.train import STEPS, resolve_training
from pipeline.training.training_data import TrainingData
from tests.planted import MSP_PODCAST, RELIABILITY, plant


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=Path, help="keep the planted stores here and use them again")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--method", default="emotionrankclap")
    parser.add_argument("settings", nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.stores or Path(scratch) / "stores"
        there = (folder / "audio.h5").exists()
        stores = open_stores(folder) if there else plant(folder, MSP_PODCAST, reliability=RELIABILITY)
        quality = DevOrdinality(stores, torch.device("cpu"))
        first: list[np.ndarray] = []
        for setting in arguments.settings:
            known = setting in preset_names("training")
            config = resolve_training(
                arguments.method, training=setting if known else None, overrides=[] if known else setting.split()
            )
            found = measure(setting, config, stores, quality, arguments.seeds)
            first = first or found
            differences = [one - other for one, other in zip(found, first, strict=True)]
            if any(each.any() for each in differences):
                said = ", ".join(f"{each.mean():+.4f} ± {each.std(ddof=1):.4f}" for each in differences)
                print(f"  less the first, seed by seed: AOC, VOC, dev loss {said}", flush=True)


def measure(setting: str, config: TrainConfig, stores: Stores, quality: DevOrdinality, seeds: int) -> list[np.ndarray]:
    """Train every seed and print the means; returns each seed's AOC, VOC and development loss."""
    pairs, dev = (cached_pairs(stores, split, style=config.style) for split in ("train", "dev"))
    standard = Heads(pairs.speech.shape[1], pairs.text.shape[1], dim=config.width, activation=config.activation)
    material = TrainingData(pairs, dev, config.batch_size, standard)
    objective = objective_of(config, pairs)
    batches = material.dev_batches([objective])
    found = []
    for seed in range(seeds):
        stack = STEPS[config.step]([material.heads_config(config, objective, seed)])
        start, best, learnt = time.perf_counter(), float("inf"), stack.state(0)
        for epoch in range(config.epochs):
            material.train(stack, seed, epoch, lambda: None)
            (loss,) = material.dev_losses(stack, batches)
            if loss < best:
                best, learnt = loss, stack.state(0)
        seconds = time.perf_counter() - start
        scored = quality(material, config, learnt, final=True)
        found.append((scored["aoc"], scored["voc"], best, seconds, stack.temperatures()[0]))
    aoc, voc, dev, seconds, temperature = columns = [np.array(column) for column in zip(*found, strict=True)]
    print(
        f"{setting}: AOC {aoc.mean():.3f} ± {aoc.std(ddof=1):.3f}, VOC {voc.mean():.3f} ± {voc.std(ddof=1):.3f}, "
        f"dev loss {dev.mean():.4f} ± {dev.std(ddof=1):.4f}, {seconds.mean():.1f} ± {seconds.std(ddof=1):.1f} s, "
        f"temperature {temperature.mean():.3f}, n = {seeds}",
        flush=True,
    )
    return columns[:3]


if __name__ == "__main__":
    main()
