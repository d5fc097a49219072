"""Every pair of ways, the older or plainer one and the present one, in turn in one run: a table for this machine.

    python -m tests.benchmarks [--out table.md] [--only step sweep loss trial index command] [--rounds 5]

Takes some ten minutes and 2 GB of a temporary folder. Milliseconds or seconds are the median
of the rounds and their range; "times" is the median of the rounds' ratios, whose two halves ran one after the other.
One thread's are processor time, which busy neighbours hardly move. The other modules of this folder measure one thing
each, in more detail.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from cache.captions import Links
from cache.pairs import cached_pairs
from cache.stores import Stores, open_stores
from pipeline.core.config import EvaluateConfig, TrainConfig
from pipeline.core.objective_config import RankingConfig
from pipeline.core.resources import cores
from pipeline.evaluation import alignment
from pipeline.inference.kept_index import KeptIndex, read_kept
from pipeline.inference.search import embed_rows
from pipeline.objectives.base import objective_of
from pipeline.objectives.label_order import label_order
from pipeline.objectives.rank_n_contrast import Ranking, rank_n_contrast, rank_n_contrast_gradient
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.fused_step import FusedHeads, fused_heads
from pipeline.training.heads import Heads
from pipeline.training.heads_config import HeadsConfig
from pipeline.training.reference_step import ReferenceHeads
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from pipeline.training.training_data import TrainingData, epoch_batches, epoch_rng
from tests.benchmarks import evaluation, ranking, search
from tests.planted import MSP_PODCAST, RELIABILITY, plant

STEPS = 60  # of a round
CONFIGURATIONS, CHUNK = 27, 32


@dataclass(frozen=True)
class Work:
    """What the works are done on."""

    stores: Stores  # planted, of MSP-Podcast's size
    run: Run  # trained on them for an epoch
    folder: Path  # for what is written
    rounds: int


@dataclass(frozen=True)
class Line:
    """One work done in two ways, in turn."""

    work: str
    before: str  # what the first way is
    after: str
    unit: str
    limit: str  # what no way can beat, or what was asked
    seconds: tuple[list[float], list[float]]  # of each round

    def markdown(self) -> str:
        ratios = [one / other for one, other in zip(*self.seconds, strict=True)]
        scale = {"ms": 1e3, "s": 1.0, "times": 1.0}[self.unit]
        first, second = (_spread([scale * each for each in side]) for side in self.seconds)
        cells = (
            self.work,
            f"{self.before}: {first}",
            f"{self.after}: {second}",
            self.unit,
            _spread(ratios),
            self.limit,
        )
        return "| " + " | ".join((*cells, str(len(ratios)))) + " |"


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> list[list[float]]:
    """Seconds of each way in each round; a first round is not counted."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            way()
            took[name].append(clock() - start)
    return [each[1:] for each in took.values()]


def step(work: Work) -> list[Line]:
    """One step of the paper's training, batch 64, its batch gathered from 90,022 pairs."""
    pairs, dev = (cached_pairs(work.stores, split, style="dimensional") for split in ("train", "dev"))
    objective = objective_of(TrainConfig(), pairs)
    heads = Heads(pairs.speech.shape[1], pairs.text.shape[1])
    heads.initialise(0)
    data = TrainingData(pairs, dev, 64, heads)
    config, lines = HeadsConfig(heads, objective, 1e-4), []
    for threads in sorted({1, cores()}):
        torch.set_num_threads(threads)
        forms = {
            "autograd": ReferenceHeads([config]),
            "float32": BatchedHeads([config]),
            "fused": fused_heads([config]),
        }
        batches = next(epoch_batches(pairs, 64, epoch_rng(1, 0), [objective]))

        def steps(form: BatchedHeads, batches=batches) -> None:
            for s in range(STEPS):
                data.step(form, batches, s)

        clock = time.process_time if threads == 1 else time.perf_counter
        took = in_turn({name: lambda form=form: steps(form) for name, form in forms.items()}, work.rounds, clock)
        plain, ours, fused = ([each / STEPS for each in way] for way in took)
        name, limit = (
            f"a training step, {threads} thread(s)",
            "24 MB read and written; design: 1.5 with AVX-512, 3 with AMX",
        )
        lines.append(Line(name, "autograd", "float32", "ms", "", (plain, ours)))
        if isinstance(forms["fused"], FusedHeads):
            lines.append(Line(name, "float32", "fused", "ms", limit, (ours, fused)))
    return lines


def sweep(work: Work) -> list[Line]:
    """A step of 27 configurations side by side: stacked, and fused, a core each."""
    configs, draw = [], torch.Generator().manual_seed(0)
    for seed in range(CONFIGURATIONS):
        heads = Heads(1024, 768)
        heads.initialise(seed)
        configs.append(HeadsConfig(heads, Ranking(RankingConfig()), 1e-4 * (1 + seed)))
    forms, batches = (BatchedHeads(configs), fused_heads(configs)), []
    if type(forms[1]) is BatchedHeads:
        return []
    pairs = cached_pairs(work.stores, "dev", style="dimensional")
    for chunk in epoch_batches(pairs, 64, draw, [forms[0].objectives[0]]):
        for s, (rows, captions) in enumerate(zip(chunk.rows, chunk.captions, strict=True)):
            batches.append((pairs.speech[rows], pairs.text[captions], [chunk.prepared[0][s]]))
        break
    lines = []
    for threads in sorted({1, cores()}):
        torch.set_num_threads(threads)
        ways = {
            "stacked": lambda: [forms[0].step(*batch) for batch in batches[:CHUNK]],
            "fused": lambda: forms[1].steps(batches[:CHUNK]),  # type: ignore[attr-defined]
        }
        took = in_turn(ways, min(work.rounds, 3), time.process_time if threads == 1 else time.perf_counter)
        stacked, fused = ([each / CHUNK / CONFIGURATIONS for each in way] for way in took)
        name = f"a step of one of {CONFIGURATIONS} configurations, {threads} thread(s)"
        lines.append(Line(name, "stacked", "fused", "ms", "", (stacked, fused)))
    return lines


def loss(work: Work) -> list[Line]:
    """Rank-N-Contrast of one batch, forward and backward, orders made ahead; one thread."""
    torch.set_num_threads(1)
    lines = []
    for size in (64, 1024, 4096):
        labels, logits = ranking.ratings(size), torch.rand(size, size) * 10
        order, out = label_order(labels), torch.empty_like(logits)

        def plain(logits=logits, labels=labels) -> None:
            leaf = logits.clone().requires_grad_()
            ranking.sort_with_autograd(leaf, labels).backward()

        ways = {
            "sort, autograd": plain,
            "in the step": lambda a=logits, b=order, c=out: rank_n_contrast_gradient(a, b, out=c),
        }
        assert abs(rank_n_contrast(logits, order) - ranking.sort_with_autograd(logits, labels)) < 1e-4
        few = work.rounds if size < 4096 else min(work.rounds, 3)
        before, after = in_turn(ways, few, time.process_time)
        limit = "asked: 80 ms" if size == 4096 else ""
        lines.append(Line(f"the loss, N = {size:,}", "sort, autograd", "now", "ms", limit, (before, after)))
    return lines


def trial(work: Work) -> list[Line]:
    """The distances of a trial of 5,000 pairs, of heads trained for an epoch; one thread."""
    config = EvaluateConfig()
    torch.set_num_threads(1)
    heads = work.run.heads_for(work.stores)
    pairs = cached_pairs(work.stores, "test1", style="dimensional")
    with torch.no_grad():
        speech, text = heads.embed_speech(pairs.speech), heads.embed_text(pairs.text)
    drawn = list(alignment.draws(Links(pairs.offsets.numpy(), pairs.caption.numpy()), config))
    trials = iter([(speech[rows], text[texts]) for rows, texts in drawn[: min(work.rounds, 3) + 1]] * 2)
    ways = {
        "every pair": lambda: evaluation.former_distances(*next(trials), config),
        "distinct texts": lambda: alignment._distances(*next(trials), 1.0, config),
    }
    before, after = in_turn(ways, min(work.rounds, 3), time.process_time)
    limit = f"asked: thirty in 60 s on two cores; now {30 * median(after) / 2:.0f} s of processor time a core"
    return [Line("distances of a trial, 5,000 pairs", "every pair", "distinct texts", "s", limit, (before, after))]


def index(work: Work) -> list[Line]:
    """What a search does before its first question: project every row, or read what an earlier one kept; one thread."""
    torch.set_num_threads(1)
    heads, store = work.run.heads_for(work.stores).requires_grad_(False), work.stores.audio
    kept, rows = KeptIndex.of(work.run, work.stores, heads, torch.device("cpu")), np.arange(len(store))
    found = embed_rows(store, rows, search.speech(heads))
    kept.write(found.rows, found.vectors)
    ways = {
        "projected": lambda: embed_rows(store, rows, search.speech(heads)),
        "kept": lambda: kept.of_these(read_kept(kept.path)),
    }
    before, after = in_turn(ways, min(work.rounds, 3), time.process_time)
    return [Line(f"index of {len(rows):,} utterances", "projected", "kept", "s", "", (before, after))]


def command(work: Work) -> list[Line]:
    """The whole of `train-heads`, 30 epochs of 1,000 pairs, and `import torch` alone, in processes of their own."""
    plant(work.folder / "small", {"train": 1000, "dev": 200, "test1": 240}, audio_width=384, text_width=384)
    trained = "from pipeline.commands.train_heads import main; main()"
    words = [
        str(work.folder / "small"),
        "--training",
        "small_corpus",
        "--fresh",
        "--out",
        str(work.folder / "runs" / "small"),
    ]
    ways = {
        "train-heads": lambda: subprocess.run([sys.executable, "-c", trained, *words], check=True, capture_output=True),
        "import torch": lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True),
    }
    before, after = in_turn(ways, min(work.rounds, 3), time.perf_counter)
    limit = "design: 1.25 times import and steps"
    return [Line("a small training, whole, wall", "train-heads", "import torch alone", "s", limit, (before, after))]


LINES: dict[str, Callable[[Work], list[Line]]] = {
    "step": step,
    "sweep": sweep,
    "loss": loss,
    "trial": trial,
    "index": index,
    "command": command,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stores", type=Path, help="keep the planted stores here and use them again")
    parser.add_argument("--only", nargs="*", choices=LINES, default=list(LINES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the table here as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.stores or Path(scratch) / "stores"
        there = (folder / "audio.h5").exists()
        stores = open_stores(folder) if there else plant(folder, MSP_PODCAST, reliability=RELIABILITY)
        overrides = ["epochs=1", "batch_size=512", "learning_rate=1e-3", "threads=1"]
        run = train(stores, out=Path(scratch) / "run", overrides=overrides, device="cpu")
        work = Work(stores, run, Path(scratch), arguments.rounds)
        text = f"{machine()}\n\n| work | before | after | unit | times | limit | n |\n|---|---|---|---|---|---|---|"
        print(text, flush=True)
        for name in arguments.only:
            for line in LINES[name](work):
                print(line.markdown(), flush=True)
                text += f"\n{line.markdown()}"
    if arguments.out:
        arguments.out.write_text(text + "\n")


def machine() -> str:
    """The CPU, its matrix instructions, cores and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return (
        f"{named} ({', '.join(known)}), {cores()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
