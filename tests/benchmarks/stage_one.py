"""Stage one against the bare encoders over the same inputs, in one run.

    python -m tests.benchmarks.stage_one path/to/manifest.csv [--repeats 3]

`bare` is the encoder's forward alone: clips decoded and texts listed beforehand, the same batches, one thread a core
(and, for speech, one after the other on torch's own threads). `stage one` is `extract` into a new folder, everything
included: reading the manifest, checking files, loading both encoders, decoding, writing, syncing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from pipeline.device import cores
from pipeline.extraction import Inputs, audio_plan, extract, read_inputs, resolve
from pipeline.sources import sources_of


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bare_audio(inputs: Inputs, waves: list[np.ndarray], plan: list[np.ndarray], workers: int) -> None:
    """The speech encoder over every batch of the plan, on `workers` threads of one core each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda rows: inputs.audio.encode([waves[row] for row in rows]), plan))
    torch.set_num_threads(threads)


def bare_text(inputs: Inputs, workers: int) -> None:
    """The text encoder over every distinct text, longest first, in the config's batches."""
    texts = sorted(inputs.captions(None).texts(), key=len, reverse=True)
    size = inputs.config.text.batch_size
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(inputs.text.encode, [texts[i : i + size] for i in range(0, len(texts), size)]))
    torch.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    inputs = read_inputs(resolve(arguments.manifest), device="cpu")
    waves = [inputs.decoding(inputs.audio).load(inputs.manifest.path(row)).wave for row in range(len(inputs.manifest))]
    plan = audio_plan(inputs, sources_of(inputs.manifest, inputs.decoding(inputs.audio), Path("no-store.h5")).lengths)
    seconds = sum(len(wave) for wave in waves) / inputs.audio.sample_rate
    times: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        runs = {
            "bare speech, one after the other": lambda: [inputs.audio.encode([wave]) for wave in waves],
            "bare speech, a thread a core": lambda: bare_audio(inputs, waves, plan, cores()),
            "bare text, a thread a core": lambda: bare_text(inputs, cores()),
        }
        for name, work in runs.items():
            times.setdefault(name, []).append(timed(work))
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            spent = extract(arguments.manifest, out=out, device="cpu")["seconds"]
            times.setdefault("stage one, whole command", []).append(time.perf_counter() - start)
        times.setdefault("stage one, speech", []).append(spent["audio"])
        times.setdefault("stage one, text", []).append(spent["text"])
    print(
        f"{len(waves):,} clips, {seconds / 3600:.2f} h, {len(inputs.captions(None).texts()):,} texts, {cores()} cores"
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        spread = f"{min(values):.1f}-{max(values):.1f}"
        print(f"{name:36} {medians[name]:7.1f} s  ({spread}, n={len(values)})")
    bare = medians["bare speech, a thread a core"]
    print(f"speech: stage one / bare = {medians['stage one, speech'] / bare:.3f}")
    both = bare + medians["bare text, a thread a core"]
    print(f"whole command / (bare speech + bare text) = {medians['stage one, whole command'] / both:.3f}")


if __name__ == "__main__":
    main()
