"""WavLM's forward of our own against transformers', on real clips, in one run.

    python -m tests.benchmarks.wavlm path/to/manifest.csv [--shape large] [--clips 24] [--bucket 16] [--repeats 3]

Random weights in the published shape. Clips are spread evenly over the corpus by length. Every way runs over the same
clips, a thread a core, each thread on whole batches; the ways take turns within each repeat.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from transformers import WavLMConfig, WavLMModel

from pipeline.core.resources import cores
from pipeline.extraction.batching import batches
from pipeline.extraction.encoders.base import Padding, plain_pooling
from pipeline.extraction.encoders.speech import Forward, SpeechEncoder, Stock, fold_weight_norm, standardise
from pipeline.extraction.encoders.wavlm import WavLM
from pipeline.extraction.extract import read_inputs
from pipeline.extraction.settings import resolve_extraction

SHAPES = {
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    | {"conv_bias": False, "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "base": {},
}
TEN_SECONDS = 160_000


def encoder(forward: Forward, config: WavLMConfig, padding: str) -> SpeechEncoder:
    """Mean-pooled frames."""
    pad = Padding(padding, TEN_SECONDS)
    pool = plain_pooling("mean", "benchmark")
    return SpeechEncoder(
        forward, config, torch.device("cpu"), standardise, pool, pad, config.hidden_size, 16_000, declared={}
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="large")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--bucket", type=float, default=16.0, help="padded seconds a batch")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    waves = clips(arguments.manifest, arguments.clips)
    config = WavLMConfig(**SHAPES[arguments.shape])
    torch.manual_seed(0)
    model, ours = WavLMModel(config).eval(), WavLMModel(config).eval()
    ours.load_state_dict(model.state_dict())
    fold_weight_norm(ours)
    lengths = np.array([len(wave) for wave in waves])
    buckets = batches(lengths, int(arguments.bucket * 16_000))
    tens = batches(np.full(len(waves), TEN_SECONDS), int(arguments.bucket * 16_000))
    singles = batches(lengths, 0)
    stock, own = Stock(model), WavLM(ours)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "transformers, padded to 10 s": lambda: over(encoder(stock, config, "fixed_masked"), waves, tens),
        "transformers, the same buckets": lambda: over(encoder(stock, config, "masked"), waves, buckets),
        "ours, in buckets": lambda: over(encoder(own, config, "masked"), waves, buckets),
        "transformers, clip by clip": lambda: over(encoder(stock, config, "masked"), waves, singles),
        "ours, clip by clip": lambda: over(encoder(own, config, "masked"), waves, singles),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    vectors: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                vectors[name] = way()
                times[name].append(time.perf_counter() - start)
    seconds = lengths.sum() / 16_000
    print(f"WavLM-{arguments.shape}, {len(waves)} clips, mean {seconds / len(waves):.2f} s, {cores()} cores")
    print(f"{len(buckets)} buckets of at most {arguments.bucket:g} s, padding {padded(lengths, buckets):.1%}")
    fastest = vectors["ours, in buckets"]
    for name, values in times.items():
        median = statistics.median(values)
        spread = f"{len(waves) / max(values):.2f}-{len(waves) / min(values):.2f}, n={len(values)}"
        ratio = statistics.median(a / b for a, b in zip(values, times["ours, in buckets"], strict=True))
        difference = np.abs(vectors[name] - fastest).max()
        print(f"{name:32} {len(waves) / median:6.2f} clips/s ({spread})  x{ratio:.2f}  differs by {difference:.1e}")


def clips(manifest: Path, count: int) -> list[np.ndarray]:
    """`count` decoded clips, evenly spaced in the order of length."""
    inputs = read_inputs(resolve_extraction(manifest), device="cpu")
    decoding = inputs.decoding(inputs.audio)
    paths = [inputs.manifest.path(row) for row in range(len(inputs.manifest))]
    order = np.argsort([decoding.samples(path) for path in paths], kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, count).astype(int)]
    return [decoding.load(paths[row]).wave for row in chosen]


def over(encoder: SpeechEncoder, waves: list[np.ndarray], plan: list[np.ndarray]) -> np.ndarray:
    """The vectors of all clips, (N, width); a thread a core."""
    vectors = np.empty((len(waves), encoder.dim), np.float32)

    def one(rows: np.ndarray) -> None:
        vectors[rows] = encoder.encode([waves[row] for row in rows]).numpy()

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(one, plan))
    return vectors


def padded(lengths: np.ndarray, plan: list[np.ndarray]) -> float:
    """The share of padding in the batches."""
    area = sum(len(rows) * lengths[rows].max() for rows in plan)
    return 1 - lengths.sum() / area


if __name__ == "__main__":
    main()
