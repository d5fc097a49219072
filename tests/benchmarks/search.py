"""What a search costs beside its encoders: 150,000 planted utterances of width 1024, heads of width 512.

    python -m tests.benchmarks.search [--stores FOLDER] [--rows 150000] [--rounds 9]

Loads the index (reads, checks and projects every row), then asks it vectors that are there already: one and sixteen, of
all utterances and of filtered ones, and captions for a recording. Medians with their range; memory is the most that was
resident. Then the whole command with one sentence, each time a process of its own, in turn: its imports alone, with the
text encoder loaded, with what an earlier search kept in the RUN, and without.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from cache.stores import Stores, open_stores
from pipeline.inference.filters import Filter, UtteranceFilter
from pipeline.inference.search import NearestNeighbours, SpeechIndex, embed_rows
from pipeline.training.heads import Heads
from pipeline.training.train import train
from tests.planted import plant

SPLITS = {"train": 0.6, "dev": 0.17, "test1": 0.23}  # as MSP-Podcast's
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=Path, help="keep the planted stores here and use them again")
    parser.add_argument("--rows", type=int, default=150_000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.stores or Path(scratch) / "stores"
        if planted(folder, arguments.rows):
            print("planted; run it again with --stores for memory that is the search's alone")
        print(f"resident at the start: {_peak():,.0f} MiB")
        measure(folder, arguments.rounds)
        by_command(folder, Path(scratch) / "run", max(5, arguments.rounds // 2))


def planted(folder: Path, rows: int) -> bool:
    """Whether stores of `rows` utterances had to be made."""
    if (folder / "audio.h5").exists():
        return False
    plant(
        folder,
        {name: round(share * rows) for name, share in SPLITS.items()},
        styles=("dimensional", "acoustic"),
        text_width=384,
    )
    (folder / "config.yaml").write_text("{}")  # the embedded text encoder, of 384 numbers
    return True


def measure(folder: Path, rounds: int) -> None:
    heads = Heads(1024, 384, dim=512).requires_grad_(False)
    heads.initialise(0)
    index = load(open_stores(folder), heads)
    print(f"index {index.neighbours.vectors.nbytes / MIB:,.0f} MiB; resident at most once loaded {_peak():,.0f} MiB")
    print(f"{torch.get_num_threads()} threads, {len(index.neighbours.rows):,} utterances of {len(index.manifest):,}:")
    timed("open the manifest and the store's header", lambda: _opened(folder), rounds)
    timed("the fields of filters", lambda: UtteranceFilter(index.manifest), rounds)
    stores = open_stores(folder)
    _ = stores.audio
    rows = np.arange(len(index.manifest))
    timed("read, check and project every row", lambda: embed_rows(stores.audio, rows, speech(heads)), rounds)
    test = index.manifest.rows("test1")
    timed("the same of one split, 23 %", lambda: embed_rows(stores.audio, test, speech(heads)), rounds)
    asked = np.asarray(heads.embed_text(torch.randn(16, 384)))
    some = Filter(split=["test1", "dev"], emotion=["happy", "sad"])
    print(f"  the filter lets {index.columns.allowed(some).mean():.1%} pass")
    for count in (1, 16):
        for top in (10, 1000):
            name = f"{count} sentence(s), top {top}"
            timed(name, partial(index.rank, asked[:count], top=top), rounds)
            timed(f"{name}, two filters", partial(index.rank, asked[:count], among=some, top=top), rounds)
    captions = texts(stores, heads)
    clip = index.neighbours.vectors[:1]
    timed(f"one recording, {len(captions.rows):,} captions, top 10", lambda: captions.nearest(clip, 10), rounds)


_IMPORTS = "import pipeline.commands.search_speech, pipeline.inference.search, transformers.models.bert.modeling_bert"
_ENCODER = """
from pipeline.core.config import TextConfig
from pipeline.extraction.encoders import load_encoder
load_encoder("text", TextConfig(), "cpu")
"""
_SEARCH = """
import pipeline.inference.kept_index as kept_index
import pipeline.inference.search as search
search._require_same_encoder = lambda *_: None  # the vectors are planted
kept_index.MIN_ROWS = {min_rows}
pipeline.commands.search_speech.main()
"""


def by_command(stores: Path, run: Path, rounds: int) -> None:
    train(stores, out=run, overrides=["epochs=1", "batch_size=1024", "threads=1"])
    asked = [str(stores), str(run), "The person is speaking with joy.", "--quiet"]
    kept, projected = _SEARCH.format(min_rows=1), _SEARCH.format(min_rows=2**62)
    took: dict[str, list[tuple[float, float]]] = {}
    in_process(_IMPORTS + kept, asked)
    for _ in range(rounds):
        took.setdefault("imports", []).append(in_process(_IMPORTS, asked))
        took.setdefault("and the text encoder", []).append(in_process(_IMPORTS + _ENCODER, asked))
        took.setdefault("a question, kept", []).append(in_process(_IMPORTS + kept, asked))
        took.setdefault("a question, projected", []).append(in_process(_IMPORTS + projected, asked))
    print("the whole command, in seconds of time and of CPU:")
    for name, pairs in took.items():
        wall, cpu = ([pair[part] for pair in pairs] for part in (0, 1))
        ranges = (f"{median(one):6.2f} ({min(one):.2f}-{max(one):.2f})" for one in (wall, cpu))
        print(f"  {name:<25} {' '.join(ranges)}, n = {rounds}", flush=True)


def in_process(code: str, words: Sequence[str]) -> tuple[float, float]:
    """Seconds, and CPU seconds, of Python running `code`."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"ended with {status}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def load(stores: Stores, heads: Heads) -> SpeechIndex:
    manifest = stores.manifest
    found = embed_rows(stores.audio, np.arange(len(manifest)), speech(heads))
    return SpeechIndex(manifest, UtteranceFilter(manifest), found, lambda sentence: NotImplemented)


def texts(stores: Stores, heads: Heads) -> NearestNeighbours:
    rows = np.arange(len(stores.text))
    return embed_rows(stores.text, rows, lambda vectors: np.asarray(heads.embed_text(vectors)))


def speech(heads: Heads) -> Callable[[torch.Tensor], np.ndarray]:
    return lambda vectors: np.asarray(heads.embed_speech(vectors))


def timed(name: str, work: Callable[[], object], rounds: int) -> None:
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        took.append(1e3 * (time.perf_counter() - start))
    print(f"  {name:<45} {median(took):9.1f} ms ({min(took):.1f}-{max(took):.1f}, n = {rounds})", flush=True)


def _opened(folder: Path) -> object:
    return open_stores(folder).audio


def _peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
