"""The whole of `train-heads` on a small corpus, in a process of its own, and what its time goes to.

    python -m tests.benchmarks.small_run stores/ravdess [--beside ../other_checkout] [--runs 5]

Wall and CPU seconds of `--training small_corpus` (medians and range), in turn with the same command of another checkout
and with `import torch` alone; then the parts of one run of each.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
IMPORT = "import torch"
TRAIN = "from pipeline.commands.train_heads import main; main()"
PARTS = """
import time
begun, spent = time.perf_counter(), {}

def timed(owner, name, part):
    work = getattr(owner, name, None)
    def wrapped(*arguments, **options):
        start = time.perf_counter()
        try:
            return work(*arguments, **options)
        finally:
            spent[part] = spent.get(part, 0) + time.perf_counter() - start
    if work:
        setattr(owner, name, wrapped)

def load(part, program):
    start = time.perf_counter()
    exec(program, globals())
    spent[part] = time.perf_counter() - start

load("torch", "import torch")
load("other modules", "from pipeline.commands.train_heads import main; from pipeline.training import train; "
     "from pipeline.core import resources; from pipeline.training.training_data import TrainingData")
timed(torch, "use_deterministic_algorithms", "torch's compiler")
timed(train, "stores_named", "reading")
timed(train, "load_training_data", "reading")
timed(train, "choose_threads", "choosing threads")
timed(resources, "choose_threads", "choosing threads")
timed(TrainingData, "train", "steps")
timed(TrainingData, "dev_losses", "development losses")
timed(train, "save_tensors", "checkpoints")
main(standalone_mode=False)
whole = time.perf_counter() - begun
for part, took in {**spent, "the rest": whole - sum(spent.values()), "whole": whole}.items():
    print(f"  {part:<20}{took:6.2f} s")
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stores", type=Path)
    parser.add_argument("--beside", type=Path, help="another checkout of this project")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    stores = arguments.stores.resolve()
    checkouts = {"here": ROOT} | ({"beside": arguments.beside.resolve()} if arguments.beside else {})
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(arguments.runs):
        for name, checkout in checkouts.items():
            found[name].append(run(TRAIN, stores, checkout)[:2])
        found[IMPORT].append(run(IMPORT, stores, ROOT)[:2])
    for name, both in found.items():
        for kind, values in zip(("wall", "CPU"), zip(*both, strict=True), strict=True):
            print(f"{name:<14}{kind:<6}{median(values):6.2f} s ({min(values):.2f}-{max(values):.2f}; {len(values)})")
    for name, checkout in checkouts.items():
        print(f"{name}, by parts\n{run(PARTS, stores, checkout)[2]}")


def run(program: str, stores: Path, checkout: Path) -> tuple[float, float, str]:
    """Wall and CPU seconds of `program` on the code of `checkout`, training into a new folder, and what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-c", program, str(stores), "--training", "small_corpus", "--out", f"{folder}/run"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ended = subprocess.run(
            words,
            check=True,
            cwd=folder,
            env=environment | {"PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
        )
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended.stdout


if __name__ == "__main__":
    main()
