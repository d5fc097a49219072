"""Synchronous successive halving of one bracket: train to a rung, score, promote the best.

By hand, because no scheduler of Optuna's trains the trials of a rung as one stack of heads and stops them together.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.core.config import EvaluateConfig, TrainConfig
from pipeline.core.errors import EmotionRankError, StoreCorrupt, UsageError
from pipeline.core.resources import threads_restored, use_threads
from pipeline.evaluation.order_tests import ordinality_prompts
from pipeline.evaluation.ordinality import STEPS, ordinality
from pipeline.experiments.sweeps.bracket import (
    CHECKPOINT,
    Bracket,
    HeadsProgress,
    Tensors,
    last_rung,
    promoted,
    slice_checkpoint,
    steps_to,
    tied,
)
from pipeline.experiments.sweeps.config import SweepConfig
from pipeline.experiments.sweeps.data_pool import DataKey, TrainingDataPool, data_key
from pipeline.experiments.sweeps.study import Study
from pipeline.experiments.sweeps.tables import best_lines
from pipeline.training.heads import one_line_reason
from pipeline.training.training_data import TrainingBatches, TrainingData

log = logging.getLogger(__name__)

RUNG_LISTS = STEPS  # ordinality lists a test at a rung: one for each fixed value, all in the first paraphrase
SHUFFLE_SEED = 0  # of every trial's batches
STYLE = EvaluateConfig().style
Result = dict[str, Any]  # of a trial at a rung: score, aoc, voc, dev_loss, epoch, rung, steps, seconds


def batch_key(config: TrainConfig) -> tuple[object, ...]:
    """Trainings where this is equal can train side by side."""
    shape = config.batch_size, config.width, config.activation, config.norm, config.grid.texts
    return *data_key(config), *shape, config.epochs


class DevOrdinality:
    """AOC and VOC on the development split (F13): 14 lists a test at a rung, all 100 at the end as evaluate-heads."""

    def __init__(self, stores: Stores, device: torch.device) -> None:
        self.stores, self.device = stores, device
        self.prompts, _ = ordinality_prompts(stores, STYLE, device)
        self._first_paraphrase = [row for row, prompt in enumerate(self.prompts) if prompt.variant == 0]
        self._read_for: DataKey | None = None

    def read(self, data: TrainingData, config: TrainConfig) -> None:
        """Read the development split for heads of `config`, unless it was read for the last ones."""
        if self._read_for != data_key(config):  # kept for the next heads of the same data
            self._read_for = data_key(config)
            stores = self.stores.selected(config.speech.choice, config.text.choice)
            pairs = cached_pairs(stores, "dev", style=STYLE, device=self.device, resident=False)
            self.labels = pairs.labels[:, :2].cpu().numpy()
            self._speech = _in_memory(pairs, data.dev)
            self._prompt_vectors = ordinality_prompts(stores, STYLE, self.device)[1]

    def __call__(
        self, data: TrainingData, config: TrainConfig, parameters: Mapping[str, Tensor], *, final: bool
    ) -> dict[str, float]:
        """`aoc` and `voc`, each the mean tau of its lists, of heads with `parameters` (part of a state dict).

        Raises UsageError for a split with fewer than 14 labelled utterances.
        """
        self.read(data, config)
        rows = list(range(len(self.prompts))) if final else self._first_paraphrase
        heads = copy.deepcopy(data.standard)
        heads.load_state_dict(dict(parameters), strict=False)
        with torch.no_grad():
            speech, vectors = heads.embed_speech(self._speech), heads.embed_text(self._prompt_vectors[rows])
        lists = EvaluateConfig().lists if final else RUNG_LISTS
        prompts = [self.prompts[row] for row in rows]
        measured: Any = ordinality(speech, self.labels, prompts=prompts, vectors=vectors, lists=lists)
        return {"aoc": measured["aoc"]["mean"], "voc": measured["voc"]["mean"]}


def _in_memory(pairs: CachedPairs, dev: CachedPairs) -> Tensor:
    """The speech vectors of `pairs`: those of `dev`, where these are the same utterances and lie in memory already."""
    if dev.disk is None and np.array_equal(pairs.rows, dev.rows):
        return dev.speech
    assert pairs.disk is not None
    return pairs.disk.read(torch.arange(len(pairs)))


@dataclass
class SuccessiveHalving:
    """One bracket of a sweep, from its state on disk to its end."""

    config: SweepConfig
    study: Study
    pool: TrainingDataPool
    ordinality: DevOrdinality | None  # where it is the score
    bracket: Bracket

    def __post_init__(self) -> None:
        self._start = time.perf_counter()
        self.state = self.bracket.load_state()

    def run(self) -> None:
        """Train the bracket to its end; the best of every rung are logged."""
        while self.state.running:
            results: dict[int, Result] = {}
            for numbers in self._rung_groups():
                self._train(numbers)
                results |= self._results([number for number in numbers if number in self.state.running])
            self._end_rung(dict(sorted(results.items())))
            self.bracket.save(self.state)
        self.bracket.finish(self.state)

    def check(self) -> None:
        """Say that the trials have a worker. Raises when it is time to stop."""
        self.study.check()
        self.study.give_signs_of_life(self.bracket.trials.values())

    def _rung_groups(self) -> list[list[int]]:
        """The trials that train side by side. A trial that fails leaves its group, and no other group changes."""
        by_data: dict[DataKey, dict[tuple[object, ...], list[int]]] = {}  # groups on the same data come in a row
        for number in self.state.entered:
            config = self.bracket.trials[number].config
            by_data.setdefault(data_key(config), {}).setdefault(batch_key(config), []).append(number)
        size = max(1, self.bracket.slots // self.config.repeats)
        alike = [numbers for by_batch in by_data.values() for numbers in by_batch.values()]
        groups = [numbers[start : start + size] for numbers in alike for start in range(0, len(numbers), size)]
        running = [[number for number in group if number not in self.state.failed] for group in groups]
        return [group for group in running if group]

    def _train(self, numbers: list[int]) -> None:
        """Train `numbers` side by side to the rung; some may fail."""
        config = self.bracket.trials[numbers[0]].config
        data = self.pool.get(config)
        target = steps_to(self.state.rung, self.config.halving, data.steps * config.epochs, data.steps)
        for number in numbers:
            for seed in self.bracket.trials[number].config.seeds:
                self.state.heads.setdefault((number, seed), HeadsProgress.untrained())
        if self.state.heads[numbers[0], config.seeds[0]].steps >= target:  # a group is resumed as a whole
            return
        group = _RungGroup(self, data, numbers)
        start = time.perf_counter()
        while group.numbers and group.steps < target:
            group.train(target)
            for number in group.remove_failed():
                self._fail(number)
            now = time.perf_counter()
            for number in group.numbers:
                self.state.seconds[number] = self.state.seconds.get(number, 0.0) + (now - start) / len(group.numbers)
            start = now
            self.bracket.save_if_due(self.state)

    def _results(self, numbers: Sequence[int]) -> dict[int, Result]:
        """`_result` of each trial of a group; order is measured a trial a core, the same on any number of them."""
        if not numbers:
            return {}
        config, cores = self.bracket.trials[numbers[0]].config, 1
        data = self.pool.get(config)  # all trials of a group share it
        if self.ordinality:
            self.ordinality.read(data, config)
            cores = torch.get_num_threads() if data.device.type == "cpu" else 1
        with threads_restored(), ThreadPoolExecutor(cores, initializer=use_threads, initargs=(1,)) as pool:
            return dict(zip(numbers, pool.map(lambda number: self._result(number, data), numbers), strict=True))

    def _result(self, number: int, data: TrainingData) -> Result:
        """The score of a trial and its parts: of its present heads at a rung, of the kept epoch's at the end."""
        config = self.bracket.trials[number].config
        final = self.state.rung == last_rung(self.config.halving)
        seeds = [self.state.heads[number, seed] for seed in config.seeds]
        result: Result = {"dev_loss": None, "epoch": None, **self._spent(number)}
        if seeds[0].best:  # an epoch has ended
            result["dev_loss"] = _mean([heads.best_loss for heads in seeds])
            result["epoch"] = " ".join(str(heads.best_epoch) for heads in seeds)
        if self.ordinality:
            scored = [heads.best if final else heads.parameters() for heads in seeds]
            return result | _mean_ordinality(self.ordinality, data, config, scored, final=final)
        if final:
            return result | {"score": result["dev_loss"]}
        losses = []
        for seed, heads in zip(config.seeds, seeds, strict=True):
            batched = self.pool.batched_heads(data, [(config, seed)], [heads.now])
            losses += data.dev_losses(batched, data.dev_batches(batched.objectives))
        return result | {"score": _mean(losses)}

    def _spent(self, number: int) -> Result:
        steps = self.state.heads[number, self.bracket.trials[number].config.seeds[0]].steps
        return {"rung": self.state.rung, "steps": steps, "seconds": self.state.seconds.get(number, 0.0)}

    def _end_rung(self, results: dict[int, Result]) -> None:
        """Report the rung's results to the study, and promote the best."""
        state, halving, trials = self.state, self.config.halving, self.bracket.trials
        for number in [number for number, result in results.items() if not math.isfinite(result["score"])]:
            del results[number]
            self._fail(number)
        scores = {number: result["score"] for number, result in results.items()}
        self._log_rung(scores)
        if halving is None or state.rung == last_rung(halving):
            for number, score in scores.items():
                self.study.tell(trials[number], "complete", results[number], score)
            state.entered = []
            return
        for number, score in scores.items():
            self.study.report(trials[number], state.rung, score)
        state.entered = promoted(scores, halving, maximise=self.config.maximise)
        if equal := tied(scores, state.entered):
            numbers = ", ".join(map(str, equal))
            log.warning(f"rung {state.rung}: tie with a promoted trial: trials {numbers} are not promoted")
        for number in scores.keys() - set(state.entered):
            self.study.tell(trials[number], "pruned", results[number])
        for (number, _), heads in state.heads.items():
            if number not in state.entered:
                heads.drop_tensors()
        state.rung += 1

    def _log_rung(self, scores: Mapping[int, float]) -> None:
        rung, last = self.state.rung, last_rung(self.config.halving)
        reached = "end" if rung == last else f"rung {rung} of {last - 1}"
        seconds = time.perf_counter() - self._start
        log.info(
            f"{self.bracket}: {reached} reached after {seconds:.1f} s by {len(scores)} trials; "
            f"the best by {self.config.score}:"
        )
        for line in best_lines(scores, self.bracket.trials, maximise=self.config.maximise):
            log.info(line)

    def _fail(self, number: int) -> None:
        self.state.failed.append(number)
        spent = self._spent(number)
        log.warning(f"trial {number} failed: its loss or its score is not finite after {spent['steps']} steps")
        self.study.tell(self.bracket.trials[number], "fail", spent)


class _RungGroup:
    """Trials that train side by side, as one stack of heads, on their way to a rung."""

    def __init__(self, halving: SuccessiveHalving, data: TrainingData, numbers: list[int]) -> None:
        self._halving, self._data, self.numbers = halving, data, numbers
        self._stack()

    def _stack(self) -> None:
        bracket, state = self._halving.bracket, self._halving.state
        configs = {number: bracket.trials[number].config for number in self.numbers}
        self._keys = [(number, seed) for number, config in configs.items() for seed in config.seeds]
        self._heads = [state.heads[key] for key in self._keys]
        trainings = [(configs[number], seed) for number, seed in self._keys]
        states = [heads.now for heads in self._heads] if self.steps else []
        try:
            self._batched = self._halving.pool.batched_heads(self._data, trainings, states)
        except (KeyError, ValueError, RuntimeError, OverflowError) as error:  # only a checkpoint's tensors can be wrong
            found = f"tensors that do not fit ({one_line_reason(error)})"
            action = "Delete the file: the bracket restarts."
            raise StoreCorrupt(bracket.folder / CHECKPOINT, found, "this bracket's", action) from None
        self._dev: list[TrainingBatches] = []

    @property
    def steps(self) -> int:
        return self._heads[0].steps

    def train(self, target: int) -> None:
        """Train to the end of the epoch or to `target` steps, whichever comes first."""
        epoch, begin = divmod(self.steps, self._data.steps)
        end = min(self._data.steps, begin + target - self.steps)
        losses = self._data.train(self._batched, SHUFFLE_SEED, epoch, self._halving.check, slice(begin, end)).tolist()
        for heads, loss in zip(self._heads, losses, strict=True):
            heads.steps += end - begin
            heads.loss_sum += loss * (end - begin)
        if end == self._data.steps:
            self._end_epoch(epoch + 1)
        checkpoint = self._batched.checkpoint()
        for c, heads in enumerate(self._heads):
            heads.now = slice_checkpoint(checkpoint, c)

    def _end_epoch(self, epoch: int) -> None:
        """As a single training: the heads of the lowest development loss are kept."""
        self._dev = self._dev or self._data.dev_batches(self._batched.objectives)
        dev_losses, temperatures = self._data.dev_losses(self._batched, self._dev), self._batched.temperatures()
        for c, heads in enumerate(self._heads):
            train_loss, heads.loss_sum = heads.loss_sum / self._data.steps, 0.0
            if dev_losses[c] < heads.best_loss:
                heads.best_epoch, heads.best_loss, heads.best = epoch, dev_losses[c], self._batched.state(c)
            line = {"train_loss": train_loss, "dev_loss": dev_losses[c], "temperature": temperatures[c]}
            heads.metrics.append({"epoch": epoch, **line})

    def remove_failed(self) -> list[int]:
        """Take the trials with a loss that is not finite out of the stack; returns their numbers."""
        failed = sorted({key[0] for key, heads in zip(self._keys, self._heads, strict=True) if not heads.is_finite})
        for key, heads in zip(self._keys, self._heads, strict=True):
            if key[0] in failed:
                heads.drop_tensors()
        self.numbers = [number for number in self.numbers if number not in failed]
        if failed and self.numbers:
            self._stack()
        return failed


def _mean_ordinality(
    measure: DevOrdinality, data: TrainingData, config: TrainConfig, seeds: Sequence[Tensors], *, final: bool
) -> dict[str, float]:
    """`aoc`, `voc` and their mean over the seeds; a score of NaN where heads give no finite vectors."""
    try:
        measured = [measure(data, config, parameters, final=final) for parameters in seeds]
    except UsageError:
        raise
    except EmotionRankError:
        return {"score": math.nan}
    aoc, voc = (_mean([each[name] for each in measured]) for name in ("aoc", "voc"))
    return {"aoc": aoc, "voc": voc, "score": (aoc + voc) / 2}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
