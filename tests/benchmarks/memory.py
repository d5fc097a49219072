"""How much memory the commands of stage two take over the vectors that they use.

    python -m tests.benchmarks.memory [--rows 200000] [--folder DIR] [--steps train,evaluate,sweep,compare]

Plants stores of N rows, 1024 and 768 numbers wide, and a thousandth of them, and runs each command on both in a process
of its own, its vectors standardised. A peak is the most that was resident. Over the vectors is what the peak of the
large stores is above that of the small ones (the interpreter, torch and the heads), over the bytes of the float32
vectors, of speech and of the texts, that the command works on: of train-heads those of train and dev.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

from cache.stores import open_stores
from tests.planted import plant

SHARES = {"train": 0.6, "dev": 0.17, "test1": 0.23}  # as MSP-Podcast's
USED = {
    "train": ("train", "dev"),
    "evaluate": ("train", "dev", "test1"),  # the reference rows are fitted on train and dev
    "sweep": ("train", "dev"),
    "compare": ("train", "dev", "test1"),
}
TRAINING = ["-o", "epochs=1", "-o", "batch_size=512", "-o", "standardise=always", "-o", "memory=resident"]
SHORT = "pairs=32"  # of a trial: a distance of 5,000 takes a GiB, whatever the stores
SWEEP = """\
method: emotionrankclap
sampler: grid
fixed: {epochs: 1, batch_size: 512, standardise: always}
halving: {factor: 2, rungs: 2}
space: {learning_rate: [0.001, 0.0003]}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="kept, and used again; none is a temporary one")
    parser.add_argument("--steps", default=",".join(USED))
    given = parser.parse_args()
    with nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory() as folder:
        for rows in (given.rows, small := given.rows // 1000):
            if not (Path(folder) / str(rows) / "digests.json").exists():
                counts = {name: max(40, round(share * rows)) for name, share in SHARES.items()}
                apart = get_context("spawn").Process(target=plant, args=(Path(folder) / str(rows), counts))
                apart.start()  # a process begins with the peak of the one that starts it
                apart.join()
        for step in given.steps.split(","):
            base, peak = (peak_mib(step, Path(folder) / str(rows)) for rows in (small, given.rows))
            vectors = vectors_mib(Path(folder) / str(given.rows), USED[step])
            over = (peak - base) / vectors
            print(f"{step:9} peak {peak:6,.0f} MiB, {base:,.0f} of it without vectors of {vectors:,.0f}: {over:.2f}")


def vectors_mib(stores: Path, splits: tuple[str, ...]) -> float:
    opened = open_stores(stores)
    numbers = len(opened.manifest.rows(*splits)) * opened.audio.dim + len(opened.text) * opened.text.dim
    return 4 * numbers / 2**20


def peak_mib(step: str, stores: Path) -> float:
    """Of one command in a process of its own."""
    out = stores / "runs"
    words = {
        "train": ["train_heads", stores, "--out", out / "train", "--fresh", *TRAINING],
        "evaluate": ["evaluate_heads", stores, out / "train", "--no-report", "-o", SHORT],
        "sweep": ["sweep_heads", stores, stores / "sweep.yaml", "--out", out / "sweep"],
        "compare": ["compare_methods", stores, "emotionrankclap", "--seeds", 1, "--out", out / "compare"],
    }[step]
    words += [*TRAINING, "--no-report", "-e", SHORT] if step == "compare" else []
    (stores / "sweep.yaml").write_text(SWEEP)
    for name in ("sweep", "compare"):
        shutil.rmtree(out / name, ignore_errors=True)
    command = f"from pipeline.commands.{words[0]} import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, *map(str, words[1:])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{step}: {said}")
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
