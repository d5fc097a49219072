"""What a corpus of two million rows costs around the encoder: time and memory of every step of stage one.

    python -m tests.benchmarks.scale [--rows 2000000] [--folder DIR] [--width 1024] [--steps plan,half,...]

Makes a manifest of N rows in DIR and real WAV files for all of them (a few thousand, hard-linked, so that every stat
and header read is real), then runs each step in a process of its own:

| step     | what it is                                                                                              |
|----------|---------------------------------------------------------------------------------------------------------|
| stat     | an os.stat of every file, and nothing else: the floor under `plan` and `resume`                          |
| header   | an open, a read of 512 bytes and a close of every file, and nothing else: the other floor under `plan`   |
| plan     | `extract` into a new folder up to the first utterance: manifest, files, captions, layout, texts, batches |
| half     | `extract` of half of the rows (`limit`)                                                                  |
| resume   | `extract` on the half-done stores, up to the first new utterance                                         |
| rest     | `extract` of the other half                                                                              |
| done     | `extract` on stores that are done: nothing is left to do                                                 |
| open     | manifest, captions and their links, audio and text stores, and 64 rows                                   |
| scan     | the state of every row of `audio.h5`, each checked against its CRC                                       |
| status   | `extract-features --status`                                                                              |
| verify   | `extract-features --verify`: every byte                                                                  |
| grow     | `extract` with 1 % more rows, up to the first new one: the rest is carried over (twice the disk)         |

Encoders and decoding are stubs that make a vector of the file's name. Seconds are wall and CPU after the imports; MB
are the peak of anonymous memory (RssAnon, sampled every 10 ms) and of everything (VmHWM, with mapped pages of files).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

SPLITS, SHARES = ("train", "dev", "test1", "test2", "test3"), (0.58, 0.16, 0.16, 0.06, 0.04)
EMOTIONS = ("angry", "sad", "happy", "surprised", "fearful", "disgust", "contempt", "neutral")
IN_A_FOLDER, WAVES, SPEAKERS = 2500, 4000, 3000
TEXT_WIDTH = 384
STEPS = ("stat", "header", "plan", "half", "resume", "rest", "done", "open", "scan", "status", "verify", "grow")
PARTS = (
    *("read_inputs", "sources_of", "open_for_writing", "write_manifest", "assign_captions", "_open_text"),
    *("write_captions_file", "audio_plan", "encode_rows", "status_of"),
)


class FirstRow(Exception):
    """The first utterance is about to be decoded."""


# ---- the corpus


def write_corpus(folder: Path, rows: int) -> Path:
    """N utterances with labels on a grid of .2, and their audio: `WAVES` files of 0.1-1 s under N names."""
    draw = np.random.default_rng(0)
    waves = _write_waves(folder / "waves", min(WAVES, rows), draw)
    split = draw.choice(len(SPLITS), rows, p=SHARES).tolist()
    labels = (1 + draw.integers(0, 31, (rows, 3)) * 0.2).round(1).tolist()
    emotion, speaker = draw.integers(0, len(EMOTIONS), rows).tolist(), draw.integers(0, SPEAKERS, rows).tolist()
    manifest = folder / "manifest.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "audio", "split", "valence", "arousal", "dominance", "emotion", "speaker", "gender"])
        for row in range(rows):
            podcast, turn = divmod(row, IN_A_FOLDER)
            if turn == 0:
                (folder / f"audio/{podcast:04}").mkdir(parents=True)
            name = f"MSP-PODCAST_{podcast:04}_{turn:04}"
            audio = f"audio/{podcast:04}/{name}.wav"
            os.link(waves[row % len(waves)], folder / audio)
            gender = "male" if speaker[row] % 2 else "female"
            about = (EMOTIONS[emotion[row]], f"speaker{speaker[row]}", gender)
            writer.writerow((name, audio, SPLITS[split[row]], *labels[row], *about))
    return manifest


def _write_waves(folder: Path, count: int, draw: np.random.Generator) -> list[Path]:
    import soundfile

    folder.mkdir(parents=True)
    paths = [folder / f"{number}.wav" for number in range(count)]
    for path in paths:
        noise = 0.1 * draw.standard_normal(int(draw.integers(1600, 16_000))).astype(np.float32)
        soundfile.write(path, noise, 16_000, subtype="PCM_16")
    return paths


def grown(manifest: Path, rows: int) -> Path:
    """The manifest with 1 % more utterances at its end, of audio that is there already."""
    larger = manifest.with_name("grown.csv")
    shutil.copyfile(manifest, larger)
    with open(manifest, encoding="utf-8") as file, open(larger, "a", encoding="utf-8") as more:
        more.writelines("NEW_" + line for line in itertools.islice(file, 1, 1 + rows // 100))
    return larger


# ---- the stubs


def stub_encoders(width: int, *, stop: bool) -> None:
    """Put stubs in the place of both encoders and of decoding; with `stop`, the first utterance raises FirstRow."""
    import torch

    from pipeline.extraction import extract as extraction
    from pipeline.extraction.audio import decoding as audio

    table = np.random.default_rng(1).standard_normal((4096, max(width, TEXT_WIDTH))).astype(np.float32)

    class Stub:
        sample_rate = 16_000

        def __init__(self, width: int) -> None:
            self.dim = width

        def fingerprint(self) -> dict[str, Any]:
            return {"encoder": "stub", "width": self.dim}

        def encode(self, inputs: Sequence[Any]) -> torch.Tensor:
            seeds = np.array([zlib.crc32(i.encode()) if isinstance(i, str) else int(i[0]) for i in inputs])
            return torch.from_numpy(table[seeds % len(table), : self.dim] + (1e-4 * (seeds % 997))[:, None])

        def prepare(self, inputs: Sequence[Any]) -> Sequence[Any]:
            return inputs

        def compute(self, prepared: Sequence[Any]) -> torch.Tensor:
            return self.encode(prepared)

    def load(_: audio.Decoding, path: Path) -> audio.DecodedAudio:
        if stop:
            raise FirstRow
        name = os.path.basename(path).encode()
        return audio.DecodedAudio(
            np.array([zlib.crc32(name) >> 8], np.float32), audio.digest_of(name), audio.stamp_of(os.stat(path))
        )

    extraction.load_encoder = lambda kind, *_: Stub(width if kind == "audio" else TEXT_WIDTH)  # type: ignore[assignment]
    audio.Decoding.load = load  # type: ignore[method-assign]


def timed_parts(parts: dict[str, float]) -> None:
    """Note in `parts` what the named functions of `pipeline.extraction.extract` take, calls within calls included."""
    from pipeline.extraction import extract as extraction

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                parts[name] = parts.get(name, 0.0) + time.perf_counter() - start

        return run

    for name in PARTS:
        if hasattr(extraction, name):
            setattr(extraction, name, timed(name, getattr(extraction, name)))


# ---- the steps, each in its own process


def run_step(step: str, folder: Path, width: int, rows: int) -> dict[str, Any]:
    """Run one step; its seconds, and what is worth knowing of it."""
    parts: dict[str, float] = {}
    work = prepared(step, folder, width, rows, parts)
    before, start = _cpu(), time.perf_counter()
    try:
        found = work()
    except FirstRow:
        found = "at the first row"
    wall, cpu = time.perf_counter() - start, _cpu() - before
    return {"wall": wall, "cpu": cpu, "parts": parts, "found": str(found)}


def prepared(step: str, folder: Path, width: int, rows: int, parts: dict[str, float]) -> Callable[[], object]:
    """The step as a function, everything that it needs imported."""
    manifest, out = folder / "manifest.csv", folder / "stores"
    if step in ("stat", "header"):
        with open(manifest, newline="", encoding="utf-8") as file:
            paths = [os.path.join(folder, row["audio"]) for row in csv.DictReader(file)]
        return lambda: sum(1 for _ in map(os.stat if step == "stat" else _head, paths))
    if step in ("plan", "half", "resume", "rest", "done", "grow"):
        from pipeline.extraction.extract import extract

        stub_encoders(width, stop=step in ("plan", "resume", "grow"))
        timed_parts(parts)
        limit = rows // 2 if step == "half" else None
        if step == "plan":
            shutil.rmtree(out, ignore_errors=True)
        corpus = grown(manifest, rows) if step == "grow" else manifest
        return lambda: _counted(extract(corpus, out=out, device="cpu", limit=limit))
    from cache.reader import Store

    if step == "open":
        return lambda: _open(out)
    if step == "scan":
        return lambda: np.bincount(Store.open(out / "audio.h5").scan()).tolist()
    from pipeline.extraction.status import status_of, verify

    return (lambda: _counted(status_of(out))) if step == "status" else lambda: verify(out)


def _head(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, 512)
    finally:
        os.close(handle)


def _counted(status: dict[str, Any]) -> object:
    return status["audio"]


def _open(out: Path) -> str:
    from cache.stores import open_stores

    stores = open_stores(out)
    links = stores.captions.links("dimensional", len(stores.manifest))
    rows = np.random.default_rng(0).choice(len(stores.audio), 64, replace=False)
    _, done = stores.audio.read(np.sort(rows))
    return f"{len(stores.audio):,} rows, {len(stores.text):,} texts, {links.offsets[-1]:,} links, {done.sum()} read"


def _cpu() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


# ---- the measurement


def measured(step: str, folder: Path, width: int, rows: int) -> dict[str, Any]:
    """Run `step` in a process of its own and watch its memory."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--step", step]
    command += ["--folder", str(folder), "--width", str(width), "--rows", str(rows)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, text=True)
        anonymous = whole = 0
        while process.poll() is None:
            memory = _memory(process.pid)
            anonymous, whole = max(anonymous, memory.get("RssAnon", 0)), max(whole, memory.get("VmHWM", 0))
            time.sleep(0.01)
        if process.returncode:
            raise SystemExit(f"{step} ended with {process.returncode}")
        said.seek(0)
        return json.loads(said.read().splitlines()[-1]) | {"anonymous": anonymous / 1e3, "whole": whole / 1e3}


def _memory(process: int) -> dict[str, int]:
    """kB by name, of a process that may end at any moment."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    named = (line.split() for line in lines if line.startswith(("RssAnon", "VmHWM")))
    return {fields[0].rstrip(":"): int(fields[1]) for fields in named}


def measure_all(folder: Path, steps: Sequence[str], width: int, rows: int) -> None:
    """Write the corpus where it is not there yet, and print a line for each step."""
    if not (folder / "manifest.csv").exists():
        start = time.perf_counter()
        write_corpus(folder, rows)
        print(f"corpus of {rows:,} rows written in {time.perf_counter() - start:.0f} s")
    print(f"{'step':8} {'wall s':>8} {'CPU s':>8} {'anon MB':>8} {'peak MB':>8}", flush=True)
    for step in steps:
        result = measured(step, folder, width, rows)
        figures = f"{result['wall']:8.1f} {result['cpu']:8.1f} {result['anonymous']:8,.0f} {result['whole']:8,.0f}"
        inside = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["parts"].items())
        print(f"{step:8} {figures}  {result['found']}{f' ({inside})' if inside else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, help="kept, and used again; none is a temporary one")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--step", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(run_step(given.step, given.folder, given.width, given.rows)))
        return
    with nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory() as folder:
        measure_all(Path(folder), given.steps.split(","), given.width, given.rows)


if __name__ == "__main__":
    main()
