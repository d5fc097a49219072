"""Stage two: train projection heads from cached tensors; nothing of stage one is imported.

    train-heads stores/msp --seeds 5 --out runs/erc

The training of F9: Adam, the whole set shuffled each epoch, the epoch of lowest development loss kept. Every draw
follows from (seed, epoch), so an interrupted run resumes with the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from cache.disk import make_folder, remove, translate_os_errors, write_text, writer_lock
from cache.fingerprint import canonical
from cache.stores import Stores, stores_named
from pipeline.core.config import TrainConfig, kept_as_asked
from pipeline.core.config_files import REQUIRE_PLUGINS, load_config, validate
from pipeline.core.errors import EmotionRankError, StoreCorrupt
from pipeline.core.objective_config import CLOSED_FORMS, CustomObjectiveConfig, RidgeConfig, SoftTargetsConfig
from pipeline.core.progress import interruptible
from pipeline.core.resources import (
    MeasuredThreads,
    choose_memory,
    cores,
    one_thread,
    pick_device,
    threads_restored,
    torch_defaults,
    use_threads,
)
from pipeline.objectives.base import objective_of, where_to_look
from pipeline.objectives.space import Objective
from pipeline.training.batched_heads import BatchedHeads
from pipeline.training.callbacks import Callback, RunCallbacks
from pipeline.training.enough_data import few_steps_warning
from pipeline.training.fused_step import FusedHeads, fused_heads
from pipeline.training.heads import load_tensors, save_heads, save_tensors
from pipeline.training.reference_step import ReferenceHeads
from pipeline.training.ridge import Planes, fit_planes, save_closed_form
from pipeline.training.run_folder import Run, begin_run, first_wrong
from pipeline.training.trackers import chosen_callbacks
from pipeline.training.training_data import (
    TrainingData,
    data_digest,
    epoch_batches,
    epoch_rng,
    load_training_data,
)

log = logging.getLogger(__name__)
TRAINING_CHECKPOINT = "checkpoint.safetensors"
LOG_SECONDS = 2.0  # between two lines about epochs
CHECKPOINT_SECONDS = 2.0  # between two checkpoints, which fall on ends of epochs
SHORT = 2e11  # operations of a seed that takes one thread, unmeasured: four seconds or so
STEPS = {"auto": BatchedHeads, "reference": ReferenceHeads, "fused": fused_heads}  # by TrainConfig.step


def resolve_training(
    method: str | Path | TrainConfig,
    *,
    training: str | None = None,
    seeds: int | Sequence[int] | None = None,
    overrides: Sequence[str] = (),
) -> TrainConfig:
    """The config of a method's preset or file, a training preset's (`small_corpus`) and overrides on top."""
    if not isinstance(method, TrainConfig):
        names = [*([f"training/{training}"] if training else []), str(method)]  # a method's own settings win
        overrides = kept_as_asked(overrides)
        method = load_config(TrainConfig, names, overrides, kind="methods")
    elif isinstance(method.objective, CustomObjectiveConfig):
        method = validate(TrainConfig, method.model_dump(mode="json"), subject="the config", context=REQUIRE_PLUGINS)
    if seeds is None:
        return method
    return method.model_copy(update={"seeds": tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)})


def missing_inputs(stores: Stores, config: TrainConfig) -> str:
    """What `config` trains on and `stores` lack; empty where nothing is missing."""
    if config.style not in stores.captions.styles():
        return f"captions of style {config.style}"
    if config.needs_grid and config.style not in stores.captions.grid.columns["style"]:
        return f"whole-grammar texts of style {config.style} (captions.grid)"
    if config.grid.classes and not (stores.captions.classes and any(stores.manifest.emotion)):
        return "emotions and class texts (captions.styles with template)"
    if not isinstance(config.objective, SoftTargetsConfig):
        return ""
    if config.objective.votes and not (stores.manifest.ratings and any(stores.manifest.ratings.votes)):
        return "raters' votes by category"
    return "acoustic features" if config.objective.targets == "smooth" and stores.acoustic is None else ""


@torch_defaults()
def train(
    stores: Stores | str | Path | Sequence[str | Path],
    *,
    method: str | Path | TrainConfig = "emotionrankclap",
    out: str | Path,
    training: str | None = None,
    seeds: int | Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    fresh: bool = False,
    tensorboard: bool = False,
    wandb: bool = False,
    trackio: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train heads from `stores` for every seed; `seeds=5` means 0 to 4. Finished seeds are not trained again.

        run = train("stores/mine", method="supcon", training="small_corpus", seeds=5, out="runs/supcon")
        run.about["seeds"]["0"]["dev_loss"], run.heads()    # the best seed's

    `stores` may be several folders of the same encoders (docs/layers.md). `method` is a preset, a YAML file or a
    `TrainConfig`, `training` a preset of configs/training, each of `overrides` an `a.b=value`. `tensorboard`, `wandb`
    and `trackio` show every seed's curves there while it trains; `callbacks` are told of them too.
    Returns the RUN in `out`. Raises UsageError, StoreMismatch, StoreLocked, Interrupted.
    """
    everyone = [*chosen_callbacks(tensorboard=tensorboard, wandb=wandb, trackio=trackio), *callbacks]
    stores = stores_named(stores)
    config = resolve_training(method, training=training, seeds=seeds, overrides=overrides)
    chosen, out = pick_device(device), Path(out)
    stores = stores.selected(config.speech.choice, config.text.choice)
    memory = _memory(config, stores, chosen, out, fresh)
    data = load_training_data(stores, config, chosen, resident=memory == "resident")
    asked, config = config, config.with_min_steps(len(data.pairs))
    named = [str(folder.resolve()) for folder in stores.folders]
    origin = {
        "stores": named[0] if len(named) == 1 else named,
        "fingerprint": stores.fingerprint(),
        "data": data_digest(stores, data, [config]),
        "memory": memory,
    }
    with translate_os_errors(out), writer_lock(out), interruptible(out) as check, threads_restored():
        run = begin_run(out, config, origin, fresh=fresh)
        trained = run.about["seeds"]
        for seed in config.seeds:
            if str(seed) in trained and (reason := run.corruption(seed)):
                log.warning(f"seed {seed} is trained again: {reason}")
                del trained[str(seed)]
        run.record(trained)
        in_plane = config.start == "ridge" or isinstance(config.objective, RidgeConfig)
        planes = fit_planes(data, config) if in_plane else None
        if isinstance(config.objective, CLOSED_FORMS):
            save_closed_form(run, planes, data.standard)
            return run
        shared = SharedTraining(config, data, objective_of(config, data.pairs), origin, planes)
        counts = f"{len(data.pairs):,} training and {len(data.dev):,} development pairs"
        log.info(f"{counts}; {config.epochs} epochs, seeds {', '.join(map(str, config.seeds))}")
        if config != asked:
            log.info(f"batches of {config.batch_size:,} and {config.epochs} epochs, for min_steps={config.min_steps}")
        if warning := few_steps_warning(config, len(data.pairs)):
            log.warning(warning)
        _train_seeds(run, shared, check, RunCallbacks(everyone, config.model_dump(mode="json"), out))
    return run


def _train_seeds(run: Run, shared: SharedTraining, check: Callable[[], None], callbacks: RunCallbacks) -> None:
    """Train every seed that has not ended, in turn or a core each."""
    left = [seed for seed in run.config.seeds if seed not in run.seeds]

    def train_seed(seed: int) -> dict[str, Any]:
        return Trainer(shared, run.seed_folder(seed), seed, callbacks).train(check)

    with ThreadPoolExecutor(cores()) as pool:
        results = pool.map(train_seed, left) if shared.side_by_side else map(train_seed, left)
        for seed in run.config.seeds:
            folder = run.seed_folder(seed)
            if seed in left:
                run.finish(seed, next(results))
            elif callbacks.callbacks:
                metrics = list(map(json.loads, run.metrics_text(seed).splitlines()))
                callbacks.tell_ended(seed, folder, metrics, run.about["seeds"][str(seed)])
            remove(folder / TRAINING_CHECKPOINT)  # not before run.json names the seed


class SharedTraining:
    """What the seeds of a run share."""

    def __init__(
        self,
        config: TrainConfig,
        data: TrainingData,
        objective: Objective,
        origin: Mapping[str, Any],
        planes: Planes | None = None,
    ) -> None:
        self.config, self.data, self.objective, self.planes = config, data, objective, planes
        settings = config.model_dump(mode="json", exclude={"seeds"})
        same = {name: origin[name] for name in ("fingerprint", "data", "memory")}
        fused = config.step == "fused" and isinstance(self.heads(0), FusedHeads)
        if config.step == "fused" and not fused:
            same["step"] = "auto"  # its checkpoints are not of the fused step, and here it cannot be used
        self.side_by_side = fused and len(config.seeds) > 1 and config.threads == "auto"  # bits stay: a seed a core
        self.identity = canonical({"config": settings, **same})  # of what a checkpoint is resumed for, the seed aside
        self.dev_batches = data.dev_batches([objective])
        self.measured_threads = MeasuredThreads(self._harmless_step)

    @one_thread()
    def heads(self, seed: int) -> BatchedHeads:
        """Untrained heads of `seed`, a batch of one configuration."""
        start = None if self.planes is None else self.planes.start
        return STEPS[self.config.step]([self.data.heads_config(self.config, self.objective, seed, start)])

    def threads(self) -> int:
        """CPU threads of the epochs to come: the config's; one for a short training; else the fastest."""
        if self.config.threads != "auto":
            return self.config.threads
        on_one = self.side_by_side or self.data.operations(self.config) < SHORT
        return 1 if on_one else self.measured_threads.now()

    def _harmless_step(self) -> Callable[[], Tensor]:
        heads, rng, extra = self.heads(0), epoch_rng(-1, 0), self.data.extra  # of a seed that no config has
        batches = next(epoch_batches(self.data.pairs, self.config.batch_size, rng, [self.objective], extra=extra))
        return lambda: self.data.step(heads, batches, 0)


class Progress(BaseModel, strict=True, extra="forbid"):
    """How far the training of one seed is: what a checkpoint holds beside its tensors."""

    epoch: int = Field(0, ge=1)  # defaults are not validated; no checkpoint is written before the first epoch
    best_epoch: int = Field(0, ge=1)
    best_loss: float = float("inf")
    metrics: list[dict[str, int | float]] = []
    threads: int = Field(0, ge=0, lt=2**16)  # on a CPU, of the epochs after this one; a resumed run takes them as well


class Trainer:
    """Trains one seed of a run in `folder`."""

    def __init__(self, shared: SharedTraining, folder: Path, seed: int, callbacks: RunCallbacks) -> None:
        self.shared, self.config, self.data = shared, shared.config, shared.data
        self.folder, self.seed, self.callbacks = folder, seed, callbacks
        self.heads = shared.heads(seed)
        self.best: dict[str, Tensor] = {}  # the heads of the epoch with the lowest development loss
        self.checkpoint = folder / TRAINING_CHECKPOINT
        self.identity = hashlib.blake2b(f"{seed} {shared.identity}".encode(), digest_size=16).hexdigest()
        self.started = self.logged = self.checkpointed = time.perf_counter()

    def train(self, check: Callable[[], None]) -> dict[str, Any]:
        """Run the epochs that are left; returns the best one. `check` raises when it is time to stop."""
        make_folder(self.folder)
        progress = self._resume()
        if self.data.device.type == "cpu":
            progress.threads = use_threads(progress.threads or self.shared.threads())
        self.started = self.checkpointed = time.perf_counter()
        batch_seed = self.seed if self.config.shuffle_seed is None else self.config.shuffle_seed
        with self.callbacks.of_seed(self.seed, self.folder, progress.metrics) as callbacks:
            while progress.epoch < self.config.epochs:
                train_loss = float(self.data.train(self.heads, batch_seed, progress.epoch, check))
                (dev_loss,) = self.data.dev_losses(self.heads, self.shared.dev_batches)
                self._end_epoch(progress, train_loss, dev_loss)
                if time.perf_counter() - self.checkpointed >= CHECKPOINT_SECONDS:
                    self._checkpoint(progress)
                    callbacks.tell(progress.metrics)  # of epochs that are never trained again
            text = "".join(json.dumps(line) + "\n" for line in progress.metrics)
            write_text(self.folder / "metrics.jsonl", text)
            heads = copy.deepcopy(self.data.standard)  # with the standardisation
            heads.load_state_dict(self.best, strict=False)
            kept = {"epoch": progress.best_epoch, "dev_loss": progress.best_loss}
            about = {"method": self.config.method, "seed": self.seed, **kept}
            save_heads(heads, self.folder / "heads.safetensors", about)
            callbacks.finish(progress.metrics, kept)
        return {**kept, "threads": progress.threads}

    def _end_epoch(self, progress: Progress, train_loss: float, dev_loss: float) -> None:
        """Keep the heads where they are the best yet, and record the epoch. Raises EmotionRankError without any."""
        progress.epoch += 1
        if dev_loss < progress.best_loss:
            progress.best_epoch, progress.best_loss = progress.epoch, dev_loss
            self.best = self.heads.state(0)
        if not self.best:
            found = f"the development loss of seed {self.seed} is {dev_loss} after epoch {progress.epoch}"
            raise EmotionRankError(self.folder, found, "a finite one", where_to_look(self.config.objective))
        (temperature,) = self.heads.temperatures()
        losses = {"train_loss": train_loss, "dev_loss": dev_loss, "temperature": temperature}
        progress.metrics.append({"seed": self.seed, "epoch": progress.epoch, **losses, "threads": progress.threads})
        now = time.perf_counter()
        if now - self.logged > LOG_SECONDS or progress.epoch == self.config.epochs:
            self.logged = now
            numbers = f"train loss {train_loss:.4f}, dev loss {dev_loss:.4f}, temperature {temperature:.3f}"
            place = f"seed {self.seed}, epoch {progress.epoch}/{self.config.epochs}"
            log.info(f"{place}: {numbers}, {now - self.started:.1f} s")

    def _checkpoint(self, progress: Progress) -> None:
        """Write one. Threads change only here: epochs that are trained again are so on the same number."""
        if self.data.device.type == "cpu" and progress.epoch < self.config.epochs:
            progress.threads = use_threads(self.shared.threads())
        save_tensors(self._tensors(self.best), self.checkpoint, progress.model_dump() | {"training": self.identity})
        self.checkpointed = time.perf_counter()

    def _tensors(self, best: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.heads.checkpoint() | {f"best.{name}": tensor for name, tensor in best.items()}

    def _resume(self) -> Progress:
        """The progress of the checkpoint; a new one where there is no checkpoint, or none of this training."""
        if not self.checkpoint.exists():
            return Progress()
        try:
            tensors, metadata = load_tensors(self.checkpoint)
            of_this = metadata.pop("training", None) == self.identity
            progress = Progress.model_validate(metadata)
            if not of_this or not progress.best_epoch <= progress.epoch <= self.config.epochs:
                raise ValueError("of another training")
            expected = self._tensors(self.heads.state(0))
            kept = {name for name in tensors if name.startswith("state.")}  # a plugin's, of any shape
            if tensors.keys() - kept != expected.keys() or any(
                (tensor.shape, tensor.dtype) != (tensors[name].shape, tensors[name].dtype)
                for name, tensor in expected.items()
            ):
                raise ValueError("tensors of other shapes")
            self.heads.restore(tensors)
        except (StoreCorrupt, ValueError, OverflowError) as error:
            reason = (
                error.found if isinstance(error, StoreCorrupt) else f"not a checkpoint of it ({first_wrong(error)})"
            )
            log.warning(f"seed {self.seed} starts over: {self.checkpoint}: {reason}")
            return Progress()
        self.best = {name: tensors[f"best.{name}"] for name in self.heads.trained}
        log.info(f"seed {self.seed}: resumes after epoch {progress.epoch}")
        return progress


def _memory(config: TrainConfig, stores: Stores, device: torch.device, out: Path, fresh: bool) -> str:
    """The config's choice, else that of the run that is resumed (its batches depend on it), else what fits."""
    if config.memory != "auto":
        return config.memory
    if not fresh and (out / "run.json").is_file():
        return str(Run(out).about.get("memory", "resident"))
    return choose_memory(stores, device)
