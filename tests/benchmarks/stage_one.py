"""Stage one against the bare encoders over the same inputs, in one run.

    python -m tests.benchmarks.stage_one path/to/manifest.csv [--wavlm base] [--clips 200] [--repeats 3]

`bare` is the encoder's forward alone: clips decoded and texts listed beforehand, the same batches, one thread a core.
`stage one` is `extract` into a new folder, everything included: reading the manifest, checking files, loading both
encoders, decoding, writing, syncing. With `--wavlm` the speech encoder is a WavLM of that published shape with random
weights, else the embedded one.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from pipeline.core.resources import cores
from pipeline.extraction.extract import Inputs, audio_plan, extract, read_inputs
from pipeline.extraction.settings import plan_captions, resolve_extraction
from pipeline.extraction.status import sources_of
from tests.benchmarks.wavlm import SHAPES


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bare_audio(inputs: Inputs, waves: list[np.ndarray], plan: list[np.ndarray]) -> None:
    """The speech encoder over every batch of the plan, on a thread a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda rows: inputs.audio.encode([waves[row] for row in rows]), plan))
    torch.set_num_threads(threads)


def bare_text(inputs: Inputs) -> None:
    """The text encoder over every distinct text, longest first, in the config's batches."""
    texts = sorted(plan_captions(inputs.manifest, inputs.config).texts(), key=len, reverse=True)
    size = inputs.config.text.batch_size
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(inputs.text.encode, [texts[i : i + size] for i in range(0, len(texts), size)]))
    torch.set_num_threads(threads)


def part_of(manifest: Path, clips: int, out: Path) -> Path:
    """A manifest of `clips` utterances, evenly spaced over `manifest`."""
    with manifest.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    with out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        for i in np.linspace(0, len(rows) - 1, clips).astype(int):
            table.writerow(rows[i])
    return out


def random_wavlm(shape: str, folder: Path) -> list[str]:
    """Save one of the published shape with random weights; the overrides that choose it."""
    from transformers import WavLMConfig, WavLMModel

    torch.manual_seed(0)
    WavLMModel(WavLMConfig(**SHAPES[shape])).save_pretrained(folder)
    settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16_000, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return ["audio.encoder=transformers", f"audio.model={folder}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--wavlm", choices=SHAPES)
    parser.add_argument("--clips", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        overrides = random_wavlm(arguments.wavlm, Path(scratch) / "wavlm") if arguments.wavlm else []
        manifest = arguments.manifest
        if arguments.clips:
            overrides = [*overrides, f"corpus.root={manifest.parent.resolve()}"]
            manifest = part_of(manifest, arguments.clips, Path(scratch) / "part.csv")
        measure(manifest, overrides, arguments.repeats)


def measure(manifest: Path, overrides: list[str], repeats: int) -> None:
    """Time the parts and the whole in turn, and print them."""
    inputs = read_inputs(resolve_extraction(manifest, overrides=overrides), device="cpu")
    waves = [inputs.decoding(inputs.audio).load(inputs.manifest.path(row)).wave for row in range(len(inputs.manifest))]
    plan = audio_plan(inputs, sources_of(inputs.manifest, inputs.decoding(inputs.audio), Path("no-store.h5")).lengths)
    seconds = sum(len(wave) for wave in waves) / inputs.audio.sample_rate
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        times.setdefault("bare speech", []).append(timed(lambda: bare_audio(inputs, waves, list(plan))))
        times.setdefault("bare text", []).append(timed(lambda: bare_text(inputs)))
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            spent = extract(manifest, out=out, device="cpu", overrides=overrides)["seconds"]
            times.setdefault("stage one, whole command", []).append(time.perf_counter() - start)
        times.setdefault("stage one, speech", []).append(spent["audio"])
        times.setdefault("stage one, text", []).append(spent["text"])
    texts = len(plan_captions(inputs.manifest, inputs.config).texts())
    print(f"{len(waves):,} clips, {seconds / 3600:.2f} h, {texts:,} texts, {cores()} cores")
    for name, values in times.items():
        print(f"{name:26} {statistics.median(values):7.1f} s  ({min(values):.1f}-{max(values):.1f}, n={len(values)})")
    both = [a + b for a, b in zip(times["bare speech"], times["bare text"], strict=True)]
    for name, here, there in (
        ("speech: stage one / bare", times["stage one, speech"], times["bare speech"]),
        ("whole command / (bare speech + bare text)", times["stage one, whole command"], both),
    ):
        ratios = [a / b for a, b in zip(here, there, strict=True)]
        print(f"{name} = {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")


if __name__ == "__main__":
    main()
