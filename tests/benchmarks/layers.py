"""One layer of a layered store against a store of that layer alone, and what weighted layers cost a step.

    python -m tests.benchmarks.layers [--rows 90022] [--layers 25] [--folder FOLDER]

Both stores hold float16; in turn, each in a process of its own, they are loaded and trained for an epoch: seconds
(wall and processor), bytes read from the disk where the page cache is dropped before, and the largest memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from cache.layers import Axes
from cache.reader import Store
from cache.stores import open_stores
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing
from pipeline.core.config import TrainConfig
from pipeline.core.objective_config import RankingConfig
from pipeline.objectives.label_order import label_order
from pipeline.objectives.rank_n_contrast import Ranking
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.heads import Heads
from pipeline.training.heads_config import HeadsConfig
from pipeline.training.train import train
from pipeline.training.training_data import load_training_data
from tests.planted import MSP_PODCAST, plant

CHOSEN, BLOCK = 7, 512
ROWS = 20_000  # of the step: 2 GB of 25 layers, far beyond any cache


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=sum(MSP_PODCAST.values()))
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--folder", type=Path, help="keep the stores here and use them again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(load_and_train(Path(arguments.one[0]), arguments.one[1])))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        if not (folder / "layered" / "audio.h5").exists():
            make_stores(folder, arguments.rows, arguments.layers)
        stores(folder, arguments.rounds)
    steps(arguments.layers)


def make_stores(folder: Path, rows: int, layers: int) -> None:
    """`single` and `layered` in `folder`; of the latter layer CHOSEN is the planted vector, the others are noise."""
    share = rows / sum(MSP_PODCAST.values())
    planted = plant(folder / "planted", {name: round(count * share) for name, count in MSP_PODCAST.items()})
    noise = np.random.default_rng(0).standard_normal((BLOCK, layers, planted.audio.dim)).astype(np.float16)
    for name, axes in (("single", None), ("layered", Axes(tuple(range(layers)), ("mean",), 1024, layer=CHOSEN))):
        (folder / name).mkdir()
        for other in ("manifest.csv", "captions.jsonl", "text.h5"):
            shutil.copy(planted.folder / other, folder / name / other)
        ids = planted.audio.ids
        named = StoreRows(ids, np.zeros((len(ids), 2), np.int64), np.zeros(len(ids), np.int64))
        dim = planted.audio.dim * (layers if axes else 1)
        path, fingerprint = folder / name / "audio.h5", planted.audio.fingerprint
        spec = StoreSpec(path, "audio", named, dim=dim, dtype="<f2", fingerprint=fingerprint, axes=axes)
        with StoreWriter(open_for_writing(spec)[0]) as writer:
            for start in range(0, len(ids), BLOCK):
                vectors = planted.audio.read(np.arange(start, min(start + BLOCK, len(ids))))[0].astype(np.float16)
                block = noise[: len(vectors)].copy()
                block[:, CHOSEN] = vectors
                digests = np.zeros((len(vectors), 16), np.uint8)
                writer.copy(start, block.reshape(len(vectors), -1) if axes else vectors, digests)
            writer.sync()
    shutil.rmtree(folder / "planted")


def load_and_train(folder: Path, memory: str) -> dict[str, float]:
    """One process's part."""
    torch.set_num_threads(1)
    with open(folder / "audio.h5", "rb") as file:  # as after a reboot
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before, start = _bytes_read(), time.perf_counter()
    config = TrainConfig(epochs=1, threads=1, memory=memory)  # type: ignore[arg-type]
    data = load_training_data(open_stores(folder), config, torch.device("cpu"), resident=memory == "resident")
    cold, read = time.perf_counter() - start, _bytes_read() - before
    del data
    start, used = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as out:
        train(open_stores(folder), method=config, out=Path(out) / "run", device="cpu")
    return {
        "cold load s": cold,
        "MB read": read / 1e6,
        "train s": time.perf_counter() - start,
        "train CPU s": time.process_time() - used,
        "largest MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def stores(folder: Path, rounds: int) -> None:
    """Both stores in turn, in memory and from disk."""
    for name in ("single", "layered"):
        store = Store.open(folder / name / "audio.h5")
        print(f"{name}: {len(store):,} rows of {store.dim:,} numbers, {store.layout.size / 1e9:.2f} GB")
    for memory in ("resident", "disk"):
        found: dict[str, list[dict[str, float]]] = {"single": [], "layered": []}
        for _ in range(rounds):
            for name, results in found.items():
                command = [sys.executable, "-m", "tests.benchmarks.layers", "--one", str(folder / name), memory]
                ended = subprocess.run(command, capture_output=True, text=True, check=True)
                results.append(json.loads(ended.stdout.splitlines()[-1]))
        for key in found["single"][0]:
            single, layered = (median(result[key] for result in found[name]) for name in ("single", "layered"))
            print(f"  {memory:9} {key:12} single {single:9.1f}  layered {layered:9.1f}  ratio {layered / single:.2f}")


def steps(layers: int) -> None:
    """A step of weighted layers and one of a single layer, the gather of their batch included, in turn."""
    torch.set_num_threads(1)
    for counts, dim in (((1, layers), 1024), ((1, 5), 384)):
        ways = {count: _weighted_step(count, dim) for count in counts}
        took: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(200):
            for count, step in ways.items():
                start = time.process_time()
                step()
                took[count].append((time.process_time() - start) * 1e3)
        single, weighted = (median(each[20:]) for each in took.values())
        print(
            f"  1 layer of {dim}: {single:.2f} ms a step (CPU, one thread); {counts[1]}: {weighted / single:.2f} times"
        )


def _weighted_step(count: int, dim: int) -> Callable[[], None]:
    heads = Heads(count * dim, 768, dim=512, audio_layers=count)
    heads.initialise(0)
    stack = BatchedHeads([HeadsConfig(heads, Ranking(RankingConfig()), 1e-4)])
    speech, text = torch.randn(ROWS, count * dim), torch.randn(4096, 768)
    labels = torch.rand(ROWS, 2, dtype=torch.float64) * 6 + 1

    def step() -> None:
        rows = torch.randint(0, ROWS, (64,))
        prepared = [label_order(labels[rows], distance="l2")]
        stack.step(speech.index_select(0, rows), text.index_select(0, rows % len(text)), prepared)

    return step


if __name__ == "__main__":
    main()
