"""The paper's training on a planted store of MSP-Podcast's size: 90,022 pairs, batch 64, validation each epoch.

    python -m tests.benchmarks.training [--epochs 3] [--stores FOLDER]

Trains `--epochs` epochs, and scales to the paper's 15.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from cache.pairs import cached_pairs
from cache.stores import open_stores
from pipeline.config import TrainConfig
from pipeline.training import train
from tests.planted import MSP_PODCAST, plant


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--stores", type=Path, help="keep the planted stores here and use them again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.stores or Path(scratch) / "stores"
        stores = open_stores(folder) if (folder / "audio.h5").exists() else plant(folder, MSP_PODCAST)
        start = time.perf_counter()
        pairs = cached_pairs(stores, "train", style="dimensional")
        print(f"{len(pairs):,} pairs loaded and checked in {time.perf_counter() - start:.2f} s")
        start = time.perf_counter()
        run = train(stores, method=TrainConfig(epochs=arguments.epochs), out=Path(scratch) / "run", device="cpu")
        seconds = time.perf_counter() - start
        losses = [json.loads(line)["dev_loss"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        threads = run.about["seeds"]["0"]["threads"]
    print(f"{arguments.epochs} epochs in {seconds:.1f} s on {threads} threads; dev loss {losses}")
    print(f"scaled to 15 epochs: {seconds * 15 / arguments.epochs:.0f} s")


if __name__ == "__main__":
    main()
