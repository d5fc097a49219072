"""Stage two: the projection heads train from cached tensors; nothing of stage one is imported.

    train-heads stores/msp --seeds 5 --out runs/erc

The training of F9: Adam, the whole set shuffled each epoch, the epoch of lowest development loss kept. Every draw
comes from (seed, epoch), so a run that was stopped goes on with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache.lock import writing
from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores, open_stores
from pipeline.config import TrainConfig, load_config
from pipeline.device import pick_device
from pipeline.errors import StoreCorrupt
from pipeline.heads import Heads, load_tensors, save_heads, save_tensors
from pipeline.interrupt import interruptible
from pipeline.objectives.objective import Objective, Prepared, needed_labels, objective_of
from pipeline.progress import say
from pipeline.run import Run, begin_run, write_text
from pipeline.threads import choose_threads, threads_restored, use_threads

SAY_SECONDS = 2.0  # between two lines about epochs
_STEPS_AHEAD = 64  # steps whose orders or targets are made in one call


@dataclass(frozen=True)
class Batch:
    """S steps' worth of batches: rows, their captions and the order of their labels."""

    rows: Tensor  # (S, B) of pairs.speech
    captions: Tensor  # (S, B) of pairs.text
    prepared: Prepared  # what the loss needs beside the similarities


@dataclass
class Progress:
    """Where the training of one seed stands; all of it is in the checkpoint."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    best: dict[str, Tensor] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    threads: int = 0  # on a CPU; a run goes on with the count it began with, for the same bits


def resolve(
    method: str | Path | TrainConfig,
    *,
    training: str | None = None,
    seeds: int | Sequence[int] | None = None,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """The config of a method's preset or file, a training preset's (`small_corpus`) and overrides on top."""
    if not isinstance(method, TrainConfig):
        names = [str(method), *([f"training/{training}"] if training else [])]
        method = load_config(TrainConfig, names, overrides, kind="methods")
    if seeds is None:
        return method
    return method.model_copy(update={"seeds": tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)})


def train(
    stores: Stores | str | Path,
    *,
    method: str | Path | TrainConfig = "emotionrankclap",
    out: str | Path,
    training: str | None = None,
    seeds: int | Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    fresh: bool = False,
) -> Run:
    """Train heads from `stores` for every seed; `seeds=5` means 0 to 4. Finished seeds are not trained again.

    Raises UsageError, StoreMismatch, StoreLocked, Interrupted.
    """
    stores = stores if isinstance(stores, Stores) else open_stores(stores)
    config = resolve(method, training=training, seeds=seeds, overrides=overrides)
    chosen = pick_device(device)
    require = needed_labels(config.objective)
    pairs, dev = (
        cached_pairs(stores, split, style=config.style, require=require, device=chosen) for split in ("train", "dev")
    )
    for note in pairs.notes + dev.notes:
        say(note)
    origin = {"stores": str(stores.folder.resolve()), "fingerprint": stores.fingerprint(), "data": _digest(pairs, dev)}
    with writing(Path(out)), interruptible(out) as check, threads_restored():
        run = begin_run(Path(out), config, origin, fresh=fresh)
        standard = Heads(pairs.speech.shape[1], pairs.text.shape[1], width=config.width, activation=config.activation)
        _fit_standardisation(standard.to(chosen), pairs, stores, config.standardise)
        say(f"{len(pairs):,} training and {len(dev):,} development pairs; {config.epochs} epochs, seeds {config.seeds}")
        for seed in config.seeds:
            if seed not in run.seeds:
                run.finish(seed, Trainer(config, standard, pairs, dev, run.seed_folder(seed), seed).train(check))
    return run


class Trainer:
    """One seed: heads, optimiser, and the tensors they see, standardised once."""

    def __init__(
        self, config: TrainConfig, standard: Heads, pairs: CachedPairs, dev: CachedPairs, folder: Path, seed: int
    ) -> None:
        self.config, self.pairs, self.dev, self.folder, self.seed = config, pairs, dev, folder, seed
        self.said = time.perf_counter()
        self.heads = Heads(pairs.speech.shape[1], pairs.text.shape[1], width=config.width, activation=config.activation)
        self.heads.load_state_dict(standard.state_dict())
        self.heads.initialise(seed, config.temperature)
        self.heads.to(pairs.speech.device)
        with torch.no_grad():
            self.speech, self.text = self.heads.standardise(pairs.speech, pairs.text)
            self.dev_speech, self.dev_text = self.heads.standardise(dev.speech, dev.text)
        self.optimiser = torch.optim.Adam(
            self.heads.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.objective = objective_of(config.objective, pairs)
        # the development set's batches never change: one draw, one order
        self.dev_batches = list(steps_of(dev, config.batch_size, torch.Generator().manual_seed(0), self.objective))

    def train(self, check: Callable[[], None]) -> dict[str, Any]:
        """Run the epochs that are left; returns the best one. `check` raises when it is time to stop."""
        self.folder.mkdir(parents=True, exist_ok=True)
        progress = self._resume()
        if self.speech.device.type == "cpu":
            progress.threads = self._set_threads(progress.threads)
        start = time.perf_counter()
        while progress.epoch < self.config.epochs:
            losses = []
            generator = epoch_generator(self.seed, progress.epoch)
            for batch in steps_of(self.pairs, self.config.batch_size, generator, self.objective):
                losses += [self._step(batch, step) for step in range(len(batch.rows))]
                check()
            progress.epoch += 1
            self._end_epoch(progress, float(torch.stack(losses).mean()), start)
        self._write_best(progress)
        return {"epoch": progress.best_epoch, "dev_loss": progress.best_loss, "threads": progress.threads}

    def _set_threads(self, begun_with: int) -> int:
        """The thread count of the run that is resumed, else the config's, else the fastest."""
        wanted = begun_with or self.config.threads
        return choose_threads(self._rehearse) if wanted == "auto" else use_threads(wanted)

    def dev_loss(self) -> float:
        """Mean loss over the development set's batches; all of it is projected in one wide product."""
        with torch.no_grad():
            speech, text = self.heads.project(self.dev_speech, self.dev_text)
            losses = [self._loss(speech[b.rows], text[b.captions], b.prepared) * len(b.rows) for b in self.dev_batches]
            return float(torch.stack(losses).sum()) / sum(len(b.rows) for b in self.dev_batches)

    def _step(self, batch: Batch, step: int) -> Tensor:
        speech, text = self.heads.project(self.speech[batch.rows[step]], self.text[batch.captions[step]])
        loss = self._loss(speech, text, batch.prepared[step])
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.heads.clamp_scale()
        return loss.detach()

    def _loss(self, speech: Tensor, text: Tensor, prepared: Any) -> Tensor:
        return self.objective.loss(speech @ text.mT * self.heads.log_scale.exp(), prepared)

    def _rehearse(self) -> None:
        """A step's forward and backward pass that changes nothing."""
        batch = self.dev_batches[0]
        speech, text = self.heads.project(self.dev_speech[batch.rows[0]], self.dev_text[batch.captions[0]])
        self._loss(speech, text, batch.prepared[0]).backward()  # type: ignore[no-untyped-call]
        self.optimiser.zero_grad()

    def _end_epoch(self, progress: Progress, train_loss: float, start: float) -> None:
        loss = self.dev_loss()
        if loss < progress.best_loss:
            progress.best_epoch, progress.best_loss = progress.epoch, loss
            progress.best = {name: tensor.clone() for name, tensor in self.heads.state_dict().items()}
        line = {
            "seed": self.seed,
            "epoch": progress.epoch,
            "train_loss": train_loss,
            "dev_loss": loss,
            "temperature": self.heads.temperature,
        }
        progress.metrics.append(line)
        now = time.perf_counter()
        if now - self.said > SAY_SECONDS or progress.epoch == self.config.epochs:
            self.said = now
            say(
                f"seed {self.seed} epoch {progress.epoch}/{self.config.epochs}: train {train_loss:.4f}, "
                f"dev {loss:.4f}, temperature {self.heads.temperature:.3f}, {now - start:.1f} s"
            )
        self._checkpoint(progress)

    def _write_best(self, progress: Progress) -> None:
        self.heads.load_state_dict(progress.best)
        about = {"method": self.config.method, "seed": self.seed, "epoch": progress.best_epoch}
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in progress.metrics))
        save_heads(self.heads, self.folder / "heads.safetensors", about | {"dev_loss": progress.best_loss})
        (self.folder / "checkpoint.safetensors").unlink(missing_ok=True)

    def _checkpoint(self, progress: Progress) -> None:
        tensors = {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        said = {name: value for name, value in vars(progress).items() if name != "best"}
        save_tensors(tensors, self.folder / "checkpoint.safetensors", said)

    def _resume(self) -> Progress:
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            return Progress()
        tensors, metadata = load_tensors(path)
        try:
            progress = Progress(**metadata)
            progress.best = _under(tensors, "best.")
            self.heads.load_state_dict(_under(tensors, "heads."))
            saved = self.optimiser.state_dict()
            count = len(saved["param_groups"][0]["params"])
            saved["state"] = {index: _under(tensors, f"adam.{index}.") for index in range(count)}
            self.optimiser.load_state_dict(saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            found = " ".join(str(error).split())[:160]
            raise StoreCorrupt(path, f"no checkpoint of this run ({found})", "one", "Run with --fresh.") from None
        say(f"seed {self.seed}: going on after epoch {progress.epoch}")
        return progress


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Every draw of one epoch: its order and its captions."""
    mixed = hashlib.blake2b(f"{seed}:{epoch}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little") >> 1)


def steps_of(pairs: CachedPairs, size: int, generator: torch.Generator, objective: Objective) -> Iterator[Batch]:
    """One epoch's batches, `_STEPS_AHEAD` at a time. Rows that fill no batch are left to the next shuffle."""
    size = min(size, len(pairs))
    device = pairs.speech.device
    rows = torch.randperm(len(pairs), generator=generator).to(device)
    rows = rows[: len(rows) // size * size].view(-1, size)
    captions = pairs.draw_captions(generator)
    for chunk in torch.split(rows, _STEPS_AHEAD):
        yield Batch(chunk, captions[chunk], objective.prepare(pairs, chunk, captions[chunk]))


def _fit_standardisation(heads: Heads, pairs: CachedPairs, stores: Stores, when: str) -> None:
    """Set mean and spread of each channel from the training split, per modality, where `when` asks for it."""
    for name, values in (("audio", pairs.speech), ("text", pairs.text)):
        embedded = stores.fingerprint()[name]["encoder"]["encoder"] == "embedded"
        if when == "never" or (when == "auto" and not embedded):
            continue
        say(f"{name} features are standardised ({'the embedded encoder' if when == 'auto' else when})")
        spread, mean = torch.std_mean(values.double(), dim=0)
        getattr(heads, f"{name}_mean").copy_(mean)
        getattr(heads, f"{name}_spread").copy_(spread.clamp_min(1e-6))


def _digest(pairs: CachedPairs, dev: CachedPairs) -> str:
    """Identifies the data of a run: which rows, which labels, which vectors."""
    state = hashlib.blake2b(digest_size=16)
    for part in (pairs, dev):
        for tensor in (part.labels, part.emotion, part.gender, part.offsets, part.caption, part.speech, part.text):
            state.update(tensor.cpu().numpy().data)
    return state.hexdigest()


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
