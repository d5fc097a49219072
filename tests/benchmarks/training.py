"""The paper's training on a planted store of MSP-Podcast's size: 90,022 pairs, batch 64, validation each epoch.

    python -m tests.benchmarks.training [--stores FOLDER] [--whole]

Steps of every way to train, interleaved in one run (medians; scaled to the paper's 15 epochs); then what one epoch
spends on what; with --whole, all of `train_heads`'s 15 epochs.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import h5py
import torch
from torch import Tensor

from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores, open_stores
from pipeline.core.config import TrainConfig
from pipeline.objectives.base import objective_of
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.fused_step import fused_heads
from pipeline.training.heads import Heads, save_tensors
from pipeline.training.heads_config import HeadsConfig
from pipeline.training.train import train
from pipeline.training.training_data import TrainingData, epoch_batches, epoch_rng
from tests.benchmarks.ranking import published_loop
from tests.planted import MSP_PODCAST, plant

EPOCHS, BATCH = 15, 64
ROUNDS = {
    "row by row": 4,
    "published loop": 12,
    "plain": 40,
    "here": 120,
    "here, from disk": 120,
    "fused": 120,
}  # steps in a round


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=Path, help="keep the planted stores here and use them again")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.stores or Path(scratch) / "stores"
        stores = open_stores(folder) if (folder / "audio.h5").exists() else plant(folder, MSP_PODCAST)
        start = time.perf_counter()
        pairs, dev = (cached_pairs(stores, split, style="dimensional") for split in ("train", "dev"))
        print(f"{len(pairs):,} + {len(dev):,} pairs loaded and checked in {time.perf_counter() - start:.2f} s")
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            compare_steps(stores, pairs, dev, threads, arguments.rounds)
            shares(TrainingData(pairs, dev, BATCH, Heads(1024, 768)), Path(scratch), threads, arguments.rounds)
        del pairs, dev
        if arguments.whole:
            start = time.perf_counter()
            run = train(stores, method=TrainConfig(), out=Path(scratch) / "run", device="cpu")
            print(f"train-heads, whole: {time.perf_counter() - start:.1f} s, {run.about['seeds']}")


def compare_steps(stores: Stores, pairs: CachedPairs, dev: CachedPairs, threads: int, rounds: int) -> None:
    """Milliseconds a step, every way in turn."""
    objective = objective_of(TrainConfig(), pairs)
    heads = Heads(1024, 768)
    heads.initialise(0)
    material = TrainingData(pairs, dev, BATCH, heads)
    on_disk = TrainingData(
        cached_pairs(stores, "train", style="dimensional", resident=False),
        cached_pairs(stores, "dev", style="dimensional", resident=False), BATCH, heads,
    )  # fmt: skip
    stacks = [BatchedHeads([HeadsConfig(heads, objective, 1e-4)]) for _ in range(2)]
    fused = fused_heads([HeadsConfig(heads, objective, 1e-4)])
    plain = Plain(heads, pairs, dev, stores)
    batches = forever(pairs)
    ways: dict[str, Callable[[int], None]] = {
        "row by row": lambda count: repeat(plain.row_by_row, batches, count),
        "published loop": lambda count: repeat(plain.published, batches, count),
        "plain": lambda count: repeat(plain.plain, batches, count),
        "here": lambda count: run(material, stacks[0], count),
        "here, from disk": lambda count: run(on_disk, stacks[1], count),
        "fused": lambda count: run(material, fused, count),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(ROUNDS[name])
            took[name].append((time.perf_counter() - start) * 1e3 / ROUNDS[name])
    print(
        f"\n{threads} thread(s): ms a step (range), n = {rounds} rounds; the paper's {EPOCHS} epochs without validation"
    )
    steps = EPOCHS * material.steps
    for name, values in took.items():
        values = values[1:]
        low, high = min(values), max(values)
        print(f"  {name:16} {median(values):7.2f} ({low:.2f}-{high:.2f}) {median(values) * steps / 1e3:8.0f} s")


class Plain:
    """Readable PyTorch, autograd and Adam: the objective here, the published loop, or that and single-row reads."""

    def __init__(self, heads: Heads, pairs: CachedPairs, dev: CachedPairs, stores: Stores) -> None:
        self.heads, self.pairs = copy.deepcopy(heads), pairs
        self.adam = torch.optim.Adam(self.heads.parameters(), lr=1e-4)
        self.objective = objective_of(TrainConfig(), pairs)
        self.file = h5py.File(stores.audio.path)
        self.texts = h5py.File(stores.text.path)
        self.text_rows = stores.captions.links("dimensional", len(stores.manifest))

    def plain(self, rows: Tensor, captions: Tensor) -> None:
        prepared = self.objective.prepare(self.pairs, rows, captions)
        self._learn(self.pairs.speech[rows], self.pairs.text[captions], lambda s: self.objective.loss(s, prepared))

    def published(self, rows: Tensor, captions: Tensor) -> None:
        labels = self.pairs.labels[rows][:, :2]
        self._learn(self.pairs.speech[rows], self.pairs.text[captions], lambda s: published_loop(s, labels))

    def row_by_row(self, rows: Tensor, captions: Tensor) -> None:
        """As a Dataset over HDF5 does: one row of each file for each item."""
        manifest = self.pairs.rows[rows.numpy()].tolist()
        speech = torch.stack([torch.from_numpy(self.file["vectors"][row]) for row in manifest])
        first = [int(self.text_rows.text[self.text_rows.offsets[row]]) for row in manifest]
        text = torch.stack([torch.from_numpy(self.texts["vectors"][row]) for row in first])
        labels = self.pairs.labels[rows][:, :2]
        self._learn(speech, text, lambda s: published_loop(s, labels))

    def _learn(self, speech: Tensor, text: Tensor, loss_of: Callable[[Tensor], Tensor]) -> None:
        audio, words = self.heads.project(speech, text)
        loss = loss_of(audio @ words.mT * self.heads.log_scale.exp())
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


def shares(material: TrainingData, scratch: Path, threads: int, rounds: int) -> None:
    """What an epoch spends on steps, validation and the checkpoint."""
    heads = Heads(1024, 768)
    heads.initialise(0)
    stack = BatchedHeads([HeadsConfig(heads, objective_of(TrainConfig(), material.pairs), 1e-4)])
    dev = material.dev_batches(stack.objectives)
    took: dict[str, list[float]] = {"steps": [], "validation": [], "checkpoint": []}
    for _ in range(rounds):
        start = time.perf_counter()
        run(material, stack, 200)
        took["steps"].append((time.perf_counter() - start) * material.steps / 200)
        start = time.perf_counter()
        material.dev_losses(stack, dev)
        took["validation"].append(time.perf_counter() - start)
        start = time.perf_counter()
        best = {"best": stack.stacked["audio.weight"].clone()}
        save_tensors(stack.checkpoint() | best, scratch / "c.safetensors", {})
        took["checkpoint"].append(time.perf_counter() - start)
    of = {name: median(values) for name, values in took.items()}
    print("  an epoch: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in of.items()), end="; ")
    print(f"validation and checkpoint {(of['validation'] + of['checkpoint']) / of['steps']:.1%} of the steps")


def run(material: TrainingData, stack: BatchedHeads, count: int) -> None:
    material.train(stack, 0, stack.steps_done, lambda: None, slice(0, count))


def forever(pairs: CachedPairs) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while True:
        for batches in epoch_batches(pairs, BATCH, epoch_rng(1, epoch), []):
            yield from zip(batches.rows, batches.captions, strict=True)
        epoch += 1


def repeat(step: Callable[[Tensor, Tensor], None], batches: Iterator[tuple[Tensor, Tensor]], count: int) -> None:
    for _ in range(count):
        step(*next(batches))


if __name__ == "__main__":
    main()
