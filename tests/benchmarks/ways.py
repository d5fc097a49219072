"""The ways through the house: how many functions and files of cache/ and pipeline/ lie on each.

    python -m tests.benchmarks.ways path/to/manifest.csv

Counted by a profile hook over one real run with the embedded encoders, on the corpus of the manifest:

- a clip, from the plan of batches to the row on disk (everything under `encode_rows`, all threads);
- one training step (one step of an epoch, its batch and the loss's preparation included);
- a sentence, in search with the index loaded;
- learning_rate, from the command line to the optimiser (functions that hold its value, alone or in a setting).
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from click.testing import CliRunner
from torch import Tensor

from pipeline.training.batched_heads import BatchedHeads

ROOT = Path(__file__).resolve().parents[2]
RATE = 1.2345e-4
Way = set[tuple[str, str]]


def room_of(code: CodeType) -> str | None:
    """The file of the house that `code` stands in; None for a library's, a comprehension or a class body."""
    path = Path(code.co_filename)
    inside = path.is_relative_to(ROOT / "pipeline") or path.is_relative_to(ROOT / "cache")
    return str(path.relative_to(ROOT)) if inside and not code.co_name.startswith("<") else None


@contextmanager
def traced(holds: Callable[[FrameType], bool] = lambda frame: True) -> Iterator[Way]:
    """Every function of the house that is called meanwhile and whose frame `holds` at its end."""
    way: Way = set()

    def hook(frame: FrameType, event: str, _: Any) -> None:
        file = room_of(frame.f_code) if event == "return" else None
        if file and holds(frame):
            way.add((file, frame.f_code.co_qualname))

    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        yield way
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def carries_rate(frame: FrameType) -> bool:
    """Whether a local of `frame` is the learning rate, or holds it no more than two levels down."""
    return any(_carries(value, 2) for value in frame.f_locals.values())


def _carries(value: object, depth: int) -> bool:
    if isinstance(value, float):
        return value == RATE
    if isinstance(value, str):
        return str(RATE) in value
    if depth == 0:
        return False
    if isinstance(value, dict):
        return any(_carries(each, depth - 1) for each in value.values())
    if isinstance(value, list | tuple):
        return any(_carries(each, depth - 1) for each in value[:50])
    inside = getattr(value, "__dict__", None)
    return isinstance(inside, dict) and "learning_rate" in inside and inside["learning_rate"] == RATE


def ways(manifest: str, folder: Path) -> Iterator[tuple[str, Way]]:
    """Each way by its name. `folder` gets the stores and the heads."""
    from pipeline.commands.train_heads import main
    from pipeline.extraction import extract as extraction
    from pipeline.inference.search import SpeechIndex
    from pipeline.training import train as training
    from pipeline.training.training_data import TrainingData

    clip: list[Way] = []
    encode_rows = extraction.encode_rows

    def encode_clips(store: Any, *args: Any, **kwargs: Any) -> Any:
        if store.path.name != "audio.h5":
            return encode_rows(store, *args, **kwargs)
        with traced() as found:
            result = encode_rows(store, *args, **kwargs)
        clip.append(found)
        return result

    extraction.encode_rows = encode_clips  # type: ignore[attr-defined, assignment]
    extraction.extract(manifest, out=folder / "stores", overrides=["audio.batch_seconds=10"])
    yield "a clip, from the plan to the row on disk", clip[0]
    step: list[Way] = []
    whole_epoch = TrainingData.train_steps

    def first_steps(self: TrainingData, heads: BatchedHeads, seed: int, epoch: int, _: slice) -> Iterator[list[Tensor]]:
        yield from whole_epoch(self, heads, seed, epoch, slice(0, 1))  # what is made on first use is not of a step
        with traced() as found:
            losses = list(whole_epoch(self, heads, seed, epoch, slice(1, 2)))
        step.append(found)
        yield from losses

    TrainingData.train_steps = first_steps  # type: ignore[method-assign]
    run = training.train(
        folder / "stores", out=folder / "run", seeds=1, overrides=["epochs=1", "threads=1", "batch_size=4"]
    )
    TrainingData.train_steps = whole_epoch  # type: ignore[method-assign]
    yield "one training step", step[0]
    index = SpeechIndex.open(folder / "stores", run)
    with traced() as sentence:
        index.ask("The person is speaking calmly.")
    yield "a sentence, in search with the index loaded", sentence
    words = [str(folder / "stores"), "--out", str(folder / "second"), "-o", f"learning_rate={RATE}", "-o", "epochs=1"]
    with traced(carries_rate) as rate:
        CliRunner().invoke(main, words, catch_exceptions=False)
    yield "learning_rate, from the command line to the optimiser", rate


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, way in ways(sys.argv[1], Path(folder)):
            print(f"{name}: {len(way)} functions in {len({file for file, _ in way})} files")
            if "--list" in sys.argv:
                for file, function in sorted(way):
                    print(f"    {file} {function}")


if __name__ == "__main__":
    main()
