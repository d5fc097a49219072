"""Stage two: the projection heads train from cached tensors; nothing of stage one is imported.

    train-heads stores/msp --seeds 5 --out runs/erc

The training of F9: Adam, the whole set shuffled each epoch, the epoch of lowest development loss kept. Every draw
comes from (seed, epoch), so a run that was stopped goes on with the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cache.disk import make_folder, remove, translate_os_errors, write_text, writer_lock
from cache.fingerprint import canonical
from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores, open_stores
from pipeline.core.config import REQUIRE_PLUGINS, CustomObjectiveConfig, SoftTargetsConfig, TrainConfig
from pipeline.core.config_files import load_config, validate
from pipeline.core.errors import EmotionRankError, StoreCorrupt
from pipeline.core.progress import interruptible
from pipeline.core.resources import choose_memory, choose_threads, pick_device, threads_restored, use_threads
from pipeline.objectives.base import Objective, objective_of, required_labels, where_to_look
from pipeline.training.batched_heads import TRAINED, BatchedHeads, HeadsConfig
from pipeline.training.heads import Heads, load_tensors, one_line_reason, save_heads, save_tensors
from pipeline.training.lr_schedule import CONSTANT, Schedule
from pipeline.training.run_folder import AGAIN, Run, begin_run
from pipeline.training.tensorboard import EventFile, require_tensorboard
from pipeline.training.training_data import TrainingData, epoch_generator, fit_standardisation, steps_of

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
SAY_SECONDS = 2.0  # between two lines about epochs


@dataclass
class Progress:
    """Where the training of one seed stands; all of it is in the checkpoint."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    best: dict[str, Tensor] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    threads: int = 0  # on a CPU; a run goes on with the count it began with, for the same bits


class _Saved(BaseModel):
    """What a checkpoint says beside its tensors: whose it is, and `Progress`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    training: str
    epoch: int = Field(ge=1)
    best_epoch: int = Field(ge=1)
    best_loss: float
    metrics: list[dict[str, int | float]]
    threads: int = Field(ge=0, lt=2**16)


def resolve_training(
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
    elif isinstance(method.objective, CustomObjectiveConfig):
        method = validate(TrainConfig, method.model_dump(mode="json"), subject="the config", context=REQUIRE_PLUGINS)
    if seeds is None:
        return method
    return method.model_copy(update={"seeds": tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)})


def missing_inputs(stores: Stores, config: TrainConfig) -> str:
    """What `config` trains on and `stores` have not; empty where nothing is missing."""
    if config.style not in stores.captions.styles():
        return f"captions of style {config.style}"
    smooth = isinstance(config.objective, SoftTargetsConfig) and config.objective.targets == "smooth"
    return "acoustic features" if smooth and stores.acoustic is None else ""


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
    tensorboard: bool = False,
) -> Run:
    """Train heads from `stores` for every seed; `seeds=5` means 0 to 4. Finished seeds are not trained again.

        run = train("stores/mine", method="supcon", training="small_corpus", seeds=5, out="runs/supcon")
        run.about["seeds"]["0"]["dev_loss"], run.heads()    # the best seed's

    `method` is a preset, a YAML file or a `TrainConfig`, `training` a preset of configs/training, each of `overrides`
    an `a.b=value`. `tensorboard` writes every seed's curves as an event file beside its heads, epoch by epoch
    (`pipeline.event_file`). Returns the RUN in `out`. Raises UsageError, StoreMismatch, StoreLocked, Interrupted.
    """
    if tensorboard:
        require_tensorboard()
    stores = stores if isinstance(stores, Stores) else open_stores(stores)
    config = resolve_training(method, training=training, seeds=seeds, overrides=overrides)
    chosen = pick_device(device)
    memory = _memory(config, stores, chosen, Path(out), fresh)
    pairs, dev = (
        cached_pairs(
            stores,
            split,
            style=config.style,
            require=required_labels(config.objective),
            device=chosen,
            resident=memory == "resident",
        )
        for split in ("train", "dev")
    )
    for note in pairs.notes + dev.notes:
        log.info(note)
    origin = {
        "stores": str(stores.folder.resolve()),
        "fingerprint": stores.fingerprint(),
        "data": data_digest(stores, pairs, dev),
        "memory": memory,
    }
    with translate_os_errors(Path(out)), writer_lock(Path(out)), interruptible(out) as check, threads_restored():
        run = begin_run(Path(out), config, origin, fresh=fresh)
        _forget_damaged(run, config.seeds)
        standard = Heads(pairs.speech.shape[1], pairs.text.shape[1], width=config.width, activation=config.activation)
        fit_standardisation(standard.to(chosen), pairs, stores, config.standardise)
        material = TrainingData(pairs, dev, config.batch_size, standard)
        shared = _Shared(config, material, objective_of(config.objective, pairs), origin)
        log.info(
            f"{len(pairs):,} training and {len(dev):,} development pairs; {config.epochs} epochs, seeds {config.seeds}"
        )
        for seed in config.seeds:
            events = EventFile(run.seed_folder(seed), seed) if tensorboard else None
            if seed not in run.seeds:
                run.finish(seed, Trainer(shared, run.seed_folder(seed), seed, events).train(check))
            elif events:
                events.begin(map(json.loads, run.metrics(seed).splitlines()))
            remove(run.seed_folder(seed) / CHECKPOINT)  # not before run.json names the seed
        run.restore_front()
    return run


def _forget_damaged(run: Run, seeds: Sequence[int]) -> None:
    """Those of `seeds` that ended and whose files are damaged are trained again, said aloud."""
    damaged = {seed: wrong for seed in seeds if seed in run.seeds and (wrong := run.damage(seed))}
    for seed, wrong in damaged.items():
        log.warning(f"seed {seed} is trained again: {wrong}")
    if damaged:
        run.forget(list(damaged))


class _Shared:
    """What the seeds of a run share."""

    def __init__(
        self, config: TrainConfig, material: TrainingData, objective: Objective, origin: Mapping[str, Any]
    ) -> None:
        self.config, self.material, self.objective = config, material, objective
        same = {name: origin[name] for name in ("fingerprint", "data", "memory")}
        self.settings = canonical({"config": config.model_dump(mode="json", exclude={"seeds"}), **same})
        self.dev_batches = material.dev_batches([objective])

    def stack(self, seed: int) -> BatchedHeads:
        """Fresh heads of `seed`, as a stack of one."""
        config, heads = self.config, copy.deepcopy(self.material.standard)
        heads.initialise(seed, config.temperature)
        return BatchedHeads([member_of(config, heads, self.objective, self.material.steps)])

    @cached_property
    def threads(self) -> int:
        """The config's thread count, else the fastest; measured once."""
        if self.config.threads != "auto":
            return self.config.threads
        generator = epoch_generator(-1, 0)  # of a seed that nobody has
        batches = next(steps_of(self.material.pairs, self.config.batch_size, generator, [self.objective]))
        stack = self.stack(0)
        return choose_threads(lambda: self.material.step(stack, batches, 0))


def member_of(config: TrainConfig, heads: Heads, objective: Objective, steps: int) -> HeadsConfig:
    """`heads` to be trained as `config` says, in epochs of `steps` steps."""
    schedule = Schedule(config.epochs * steps, config.schedule, config.warmup)
    if config.schedule == "constant" and not config.warmup:
        schedule = CONSTANT
    return HeadsConfig(heads, objective, config.learning_rate, config.weight_decay, schedule)


class Trainer:
    """One seed of a run."""

    def __init__(self, shared: _Shared, folder: Path, seed: int, events: EventFile | None = None) -> None:
        self.events = events
        self.config, self.material, self.folder, self.seed = shared.config, shared.material, folder, seed
        self.shared, self.stack = shared, shared.stack(seed)
        self.batch_seed = seed if self.config.shuffle_seed is None else self.config.shuffle_seed
        self.said = time.perf_counter()
        self.checkpoint = folder / CHECKPOINT
        self.training = hashlib.blake2b(f"{seed} {shared.settings}".encode(), digest_size=16).hexdigest()

    def train(self, check: Callable[[], None]) -> dict[str, Any]:
        """Run the epochs that are left; returns the best one. `check` raises when it is time to stop."""
        make_folder(self.folder)
        progress = self._resume()
        if self.events:
            self.events.begin(progress.metrics)
        if self.material.device.type == "cpu":
            progress.threads = use_threads(progress.threads or self.shared.threads)
        start = time.perf_counter()
        while progress.epoch < self.config.epochs:
            losses = self.material.train(self.stack, self.batch_seed, progress.epoch, check)
            progress.epoch += 1
            self._end_epoch(progress, float(losses), start)
        self._write_best(progress)
        return {"epoch": progress.best_epoch, "dev_loss": progress.best_loss, "threads": progress.threads}

    def _end_epoch(self, progress: Progress, train_loss: float, start: float) -> None:
        (loss,) = self.material.dev_losses(self.stack, self.shared.dev_batches)
        (temperature,) = self.stack.temperatures()
        if loss < progress.best_loss:
            progress.best_epoch, progress.best_loss = progress.epoch, loss
            progress.best = self.stack.state(0)
        if not progress.best:
            found = f"the development loss of seed {self.seed} is {loss} after epoch {progress.epoch}"
            raise EmotionRankError(self.folder, found, "a finite one", where_to_look(self.config.objective))
        line = {
            "seed": self.seed,
            "epoch": progress.epoch,
            "train_loss": train_loss,
            "dev_loss": loss,
            "temperature": temperature,
        }
        progress.metrics.append(line)
        now = time.perf_counter()
        if now - self.said > SAY_SECONDS or progress.epoch == self.config.epochs:
            self.said = now
            log.info(
                f"seed {self.seed} epoch {progress.epoch}/{self.config.epochs}: train {train_loss:.4f}, "
                f"dev {loss:.4f}, temperature {temperature:.3f}, {now - start:.1f} s"
            )
        self._checkpoint(progress)
        if self.events:  # after the checkpoint: what is watched is never ahead of what a resume begins from
            self.events.add(line)

    def _write_best(self, progress: Progress) -> None:
        heads = copy.deepcopy(self.material.standard)
        heads.load_state_dict(progress.best, strict=False)  # the standardisation is the material's
        about = {"method": self.config.method, "seed": self.seed, "epoch": progress.best_epoch}
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in progress.metrics))
        save_heads(heads, self.folder / "heads.safetensors", about | {"dev_loss": progress.best_loss})

    def _checkpoint(self, progress: Progress) -> None:
        said = {name: value for name, value in vars(progress).items() if name != "best"}
        save_tensors(self._tensors(progress.best), self.checkpoint, said | {"training": self.training})

    def _tensors(self, best: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.stack.checkpoint() | {f"best.{name}": tensor for name, tensor in best.items()}

    def _resume(self) -> Progress:
        """Where the checkpoint says it is; the start where there is none of this training, said aloud."""
        if not self.checkpoint.exists():
            return Progress()
        try:
            progress = self._restored(*load_tensors(self.checkpoint))
        except StoreCorrupt as error:
            log.warning(f"seed {self.seed} begins again: {error.subject}: {error.found}")
            self.stack = self.shared.stack(self.seed)
            return Progress()
        log.info(f"seed {self.seed}: going on after epoch {progress.epoch}")
        return progress

    def _restored(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Progress:
        """Raises StoreCorrupt where the checkpoint is not this training's."""
        try:
            said = _Saved.model_validate(metadata).model_dump()
            if said.pop("training") != self.training or not said["best_epoch"] <= said["epoch"] <= self.config.epochs:
                raise ValueError("of another training")
            expected = {name: (t.shape, t.dtype) for name, t in self._tensors(self.stack.state(0)).items()}
            if {name: (t.shape, t.dtype) for name, t in tensors.items()} != expected:
                raise ValueError("tensors of other shapes")
            self.stack.restore(tensors)
        except (ValueError, OverflowError) as error:
            raise StoreCorrupt(
                self.checkpoint, f"no checkpoint of it ({one_line_reason(error)})", "one", AGAIN
            ) from None
        return Progress(**said, best={name: tensors[f"best.{name}"] for name in TRAINED})


def _memory(config: TrainConfig, stores: Stores, device: torch.device, out: Path, fresh: bool) -> str:
    """The config's choice, else that of the run which is resumed (the batches depend on it), else what fits."""
    if config.memory != "auto":
        return config.memory
    if not fresh and (out / "run.json").is_file():
        return str(Run(out).about.get("memory", "resident"))
    return choose_memory(stores, device)


def data_digest(stores: Stores, pairs: CachedPairs, dev: CachedPairs) -> str:
    """Identifies the data of a run: which rows, which labels, which vectors (those of speech by their checksums)."""
    state = hashlib.blake2b(digest_size=16)
    checksums = stores.audio.column("crc")
    for part in (pairs, dev):
        state.update(checksums[part.rows].data)
        for tensor in (part.labels, part.emotion, part.gender, part.offsets, part.caption, part.text):
            state.update(tensor.cpu().numpy().data)
    return state.hexdigest()
