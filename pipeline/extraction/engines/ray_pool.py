"""The actors of one store: what one is, and how they are started, given batches, and replaced when they die.

By hand, because ray.util.ActorPool keeps dead actors and Ray's own restarts (max_restarts, max_task_retries) wait for a
node that has left: neither gives a batch to another actor, follows nodes, or tells which batch kills its actors.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.core.config import ExtractConfig
from pipeline.core.errors import EmotionRankError, StoreMismatch, UsageError
from pipeline.core.plugins import load_plugins
from pipeline.extraction.audio.praat import load_praat
from pipeline.extraction.batching import BatchEncoder, EncodedBatch, batch_encoder
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.base import Encoder

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
NODES_SECONDS = 2.0  # between two looks at the cluster's nodes
WARN_SECONDS = 30.0  # without any actor, before that is logged
MAX_DEATHS = 3  # of actors on one batch, or of one node's actors before they were ready, that end the run


@dataclass(frozen=True)
class ActorConfig:
    """What an actor encodes, and with what."""

    kind: str  # of the store: audio, acoustic, text or words
    config: str  # ExtractConfig as JSON, its paths absolute
    device: str
    fingerprint: dict[str, Any]  # of the driver's encoder
    environment: dict[str, str]  # where the driver's hub models are
    plugins: tuple[str, ...] = ()  # files that the driver ran, absolute


class Reply(NamedTuple):
    """What a call of an actor returns."""

    batch: EncodedBatch | None  # None of `load`
    warnings: list[str]  # that the actor logged since its last reply


class RemoteEncoder:
    """A store's BatchEncoder in another process. An EmotionRankError arrives as the cause of Ray's RayTaskError."""

    def __init__(self, config: ActorConfig) -> None:
        self._config = config
        self._encode: BatchEncoder[Any] | None = None
        self._records: SimpleQueue[logging.LogRecord] = SimpleQueue()
        for name in ("pipeline", "cache"):  # as in pipeline.core.progress.narration; from warnings on
            logging.getLogger(name).addHandler(QueueHandler(self._records))

    def load(self) -> Reply:
        """Load the encoder. Raises EmotionRankError that names the node if there is none, or not the driver's."""
        actor = self._config
        os.environ.update(actor.environment)  # the hub's client reads it when it is first imported, below
        torch.set_num_threads(1)  # as in engines/threads.py: equal bits on any number of cores
        config = ExtractConfig.model_validate_json(actor.config)
        try:
            load_plugins(actor.plugins)
            encoder: Encoder[Any]
            if actor.kind == "acoustic":
                encoder = load_praat()
            elif actor.kind in ("text", "words"):
                encoder = load_encoder("text", config.text, actor.device)
            else:
                encoder = load_encoder("audio", config.audio, actor.device)
            here, driver = encoder.fingerprint(), actor.fingerprint
            if different := sorted(name for name in here.keys() | driver.keys() if here.get(name) != driver.get(name)):
                found, expected = f"{', '.join(different)} differ from the driver's", "the same encoder on every node"
                action = "Put the same checkpoint, and the same version of this program, on all nodes."
                raise StoreMismatch(f"{actor.kind} encoder", found, expected, action)
        except EmotionRankError as error:
            node = f"node {platform.node()}: "
            error.args, error.subject = (node + error.args[0],), node + error.subject
            raise
        self._encode = batch_encoder(actor.kind, encoder, config, torch.device(actor.device))
        return self._reply()

    def encode(self, rows: NDArray[np.int64], sources: Sequence[Any]) -> Reply:
        """Encode `sources`, the rows `rows`, together."""
        if self._encode is None:
            raise RuntimeError("encode before load")
        return self._reply(self._encode(rows, sources))

    def _reply(self, batch: EncodedBatch | None = None) -> Reply:
        return Reply(batch, [self._records.get().getMessage() for _ in range(self._records.qsize())])


class Node(NamedTuple):
    """A node that is alive, and what it has room for."""

    id: str
    name: str
    actors: int  # one a GPU, or one a CPU core
    calls: int  # that one actor carries out at once: some read while one computes


@dataclass(eq=False)
class ActorBatch:
    """Rows that are encoded together, and how many actors died while they were."""

    rows: NDArray[np.int64]
    deaths: int = 0


@dataclass(eq=False)
class ActorState:
    """One actor. `loading` is the reference of its `load` until that has returned."""

    handle: Any
    node: Node
    loading: Any
    batches: dict[Any, ActorBatch] = field(default_factory=dict)  # by the reference of the result, oldest first

    def accepts(self, batch: ActorBatch) -> bool:
        """Up to twice what it does at once, so that it never waits; a batch that an actor died on stays alone."""
        if self.loading is not None or any(other.deaths for other in self.batches.values()):
            return False
        return len(self.batches) < (1 if batch.deaths else 2 * self.node.calls)


class ActorPool:
    """The actors of `config` that encode `batches`. `sources` are what is read for rows; they cross the network."""

    def __init__(
        self,
        config: ActorConfig,
        batches: Sequence[NDArray[np.int64]],
        sources: Callable[[NDArray[np.int64]], list[Any]],
    ) -> None:
        self.throughput = 0  # the most batches that could be encoded at once so far
        self._config, self._sources, self._gpus = config, sources, config.device != "cpu"
        self._plan, self._unplanned = iter(batches), len(batches)  # cut when they are needed: there may be millions
        self._waiting: deque[ActorBatch] = deque()
        self._actors: list[ActorState] = []
        self._failed_to_start: Counter[str] = Counter()  # by node
        self._looked, self._warned = -NODES_SECONDS, time.monotonic()

    def results(self) -> Generator[EncodedBatch | None, None, None]:
        """The batches as they come, None where nothing is ready. Closing it stops every actor started here.

        Raises EmotionRankError, or what an actor raised.
        """
        try:
            while self._unplanned or self._waiting or any(actor.batches for actor in self._actors):
                self._start_actors()
                for actor in self._actors:
                    while (batch := self._next_batch()) and actor.accepts(batch):
                        self._waiting.popleft()
                        ref = actor.handle.encode.remote(batch.rows, self._sources(batch.rows))
                        actor.batches[ref] = batch
                finished = self._collect()
                if not finished:
                    yield None
                yield from finished
        finally:
            for actor in self._actors:
                _kill(actor)

    def _next_batch(self) -> ActorBatch | None:
        """The first of those that wait; those of dead actors come before the rest of the plan."""
        if not self._waiting and self._unplanned:
            self._waiting.append(ActorBatch(next(self._plan)))
            self._unplanned -= 1
        return self._waiting[0] if self._waiting else None

    def _start_actors(self) -> None:
        """An actor for every free place, while there are batches for it."""
        now = time.monotonic()
        if now - self._looked < NODES_SECONDS:
            return
        self._looked = now
        started = Counter(actor.node.id for actor in self._actors)
        places = [node for node in nodes(gpus=self._gpus) for _ in range(node.actors - started[node.id])]
        loading = sum(actor.loading is not None for actor in self._actors)
        for node in places[: max(0, self._unplanned + len(self._waiting) - loading)]:
            here = NodeAffinitySchedulingStrategy(node.id, soft=False)
            resources = {"num_cpus": 1, "num_gpus": 1 if self._gpus else 0, "max_concurrency": node.calls}
            handle = ray.remote(RemoteEncoder).options(**resources, scheduling_strategy=here).remote(self._config)
            self._actors.append(ActorState(handle, node, handle.load.remote()))
        if any(actor.loading is None for actor in self._actors):
            self._warned = now
        elif now - self._warned > WARN_SECONDS:
            self._warned = now
            log.warning(f"{self._config.kind}: no actor is ready yet; `ray status` shows what the cluster is busy with")

    def _collect(self) -> list[EncodedBatch]:
        """Wait for results. Those of an actor that died meanwhile are among them; its other batches go to others."""
        actor_of = {ref: actor for actor in self._actors for ref in (actor.loading, *actor.batches) if ref}
        if not actor_of:
            time.sleep(POLL_SECONDS)
            return []
        ready, _ = ray.wait(list(actor_of), num_returns=1, timeout=POLL_SECONDS)
        if ready:
            ready, _ = ray.wait(list(actor_of), num_returns=len(actor_of), timeout=0)
        results: list[EncodedBatch] = []
        dead: dict[ActorState, str] = {}
        for ref in ready:
            actor = actor_of[ref]
            try:
                reply: Reply = ray.get(ref)
            except RayTaskError as error:
                raise _cause(error, actor) from error
            except RayError as error:  # the actor, its node or the result is gone
                dead[actor] = _last_line(error)
                continue
            for warning in reply.warnings:
                log.warning(f"{self._config.kind}: node {actor.node.name}: {warning}")
            if reply.batch is None:
                actor.loading = None
                self._failed_to_start.pop(actor.node.id, None)
                ready_calls = sum(other.node.calls for other in self._actors if other.loading is None)
                self.throughput = max(self.throughput, ready_calls)
            else:
                del actor.batches[ref]
                self._require_files_seen(reply.batch, actor.node)
                results.append(reply.batch)
        for actor, reason in dead.items():  # last, so that what an actor finished before it died is not done again
            self._remove(actor, reason)
        return results

    def _require_files_seen(self, encoded: EncodedBatch, node: Node) -> None:
        """Raises UsageError for a clip that can be read here but not there: its folder is not mounted on the node."""
        if not any(encoded.reasons):
            return
        for source, reason in zip(self._sources(encoded.rows), encoded.reasons, strict=True):
            if reason and reason.startswith("cannot be read") and os.access(source.path, os.R_OK):
                found, expected = f"{source.path} {reason}", "the audio under one path everywhere"
                raise UsageError(f"node {node.name}", found, expected, "Mount its folder on the node.")

    def _remove(self, actor: ActorState, reason: str) -> None:
        """Put back the batches of a dead actor. Raises EmotionRankError where too many died before it."""
        self._actors.remove(actor)
        _kill(actor)  # it may only be out of reach: no more may come from it
        kind, node = self._config.kind, actor.node
        if actor.loading is not None:
            if all(other.id != node.id for other in nodes(gpus=self._gpus)):
                return  # the whole node is gone
            self._failed_to_start[node.id] += 1
            if self._failed_to_start[node.id] == MAX_DEATHS:
                found = f"{MAX_DEATHS} actors died before they were ready ({reason})"
                action = "See Ray's logs there (/tmp/ray/session_latest/logs)."
                raise EmotionRankError(f"node {node.name}", found, "room and packages for the encoder", action)
            return
        batches = list(actor.batches.values())
        log.warning(f"{kind}: an actor on {node.name} died ({reason}); batches encoded again: {len(batches)}")
        for batch in batches[: node.calls]:  # those behind them had not begun
            batch.deaths += 1
            if batch.deaths == MAX_DEATHS:
                first = self._sources(batch.rows)[0]
                found = f"{MAX_DEATHS} actors died on its batch of {len(batch.rows)} ({reason})"
                action = "Remove it from the corpus, or give the nodes more memory."
                subject = str(getattr(first, "path", first))[:200]
                raise EmotionRankError(subject, found, "a batch that can be encoded", action)
        self._waiting.extendleft(reversed(batches))


def nodes(*, gpus: bool) -> list[Node]:
    """The nodes that are alive and have a GPU, or a CPU core."""
    found = []
    for node in ray.nodes():
        resources = node["Resources"] if node["Alive"] else {}
        cores, accelerators = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if gpus and accelerators:
            calls = max(2, cores // accelerators)  # the cores beside a GPU read for it
            found.append(Node(node["NodeID"], node["NodeManagerHostname"], accelerators, calls))
        elif cores and not gpus:
            found.append(Node(node["NodeID"], node["NodeManagerHostname"], cores, 1))
    return found


def _kill(actor: ActorState) -> None:
    with suppress(RayError):  # it has no process yet, or none any more
        ray.kill(actor.handle)


def _cause(error: RayTaskError, actor: ActorState) -> Exception:
    """What the actor raised; where it could not even be loaded, an error that names the node."""
    cause: Exception = error.cause
    if actor.loading is None or isinstance(cause, EmotionRankError):
        return cause
    found = f"an actor cannot be started ({_last_line(cause)})"
    expected, action = "this program and its packages there", "Install the same version on every node."
    return EmotionRankError(f"node {actor.node.name}", found, expected, action)


def _last_line(error: Exception) -> str:
    """The last line of an error, which has the reason, without Ray's guesses at it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].partition(" Some common causes")[0].strip()[:200]
