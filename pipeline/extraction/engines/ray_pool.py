"""The actors of one store: hired where a node has room, given batches, replaced when they die."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.extraction.batching import EncodedBatch
from pipeline.extraction.engines.ray_actor import Failure, Order, RemoteWork

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between two looks at the cluster's nodes
PATIENCE_SECONDS = 30.0  # without any actor, before that is said
DEATHS = 3  # of actors on one batch, or of one node's actors before they were ready, that end the run


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
    in_hand: dict[Any, ActorBatch] = field(default_factory=dict)  # by the reference of the result, oldest first

    def may_take(self, batch: ActorBatch) -> bool:
        """Twice what it does at once, so that it never waits; a batch that an actor died on stays alone."""
        if self.loading is not None or any(other.deaths for other in self.in_hand.values()):
            return False
        return len(self.in_hand) < (1 if batch.deaths else 2 * self.node.calls)


class ActorPool:
    """The actors that carry out `order` on `batches`. `sources` are what is read for rows; they cross the network."""

    def __init__(
        self, order: Order, batches: Sequence[NDArray[np.int64]], sources: Callable[[NDArray[np.int64]], list[Any]]
    ) -> None:
        self._order, self._sources = order, sources
        self._plan, self._left = iter(batches), len(batches)  # cut as they are handed out: there may be millions
        self._waiting: deque[ActorBatch] = deque()
        self._members: list[ActorState] = []
        self._stillborn: Counter[str] = Counter()  # by node
        self._looked = -LOOK_SECONDS
        self._started = self._counted = self._waited_since = time.monotonic()
        self._worked = 0.0  # seconds, summed over the calls that could have been carried out at once

    @property
    def busy(self) -> bool:
        """Whether a batch is not encoded yet."""
        return bool(self._left or self._waiting) or any(member.in_hand for member in self._members)

    @property
    def strength(self) -> float:
        """How many batches could be worked on at once, on average since the start."""
        return self._count() / max(1e-9, self._counted - self._started)

    def advance(self, timeout: float) -> list[EncodedBatch]:
        """Hire, hand out, and wait for results at most `timeout` seconds. Raises EmotionRankError, or what work does.

        Results of an actor that died in the meantime are among them; what it had in hand goes to another.
        """
        self._hire()
        self._hand_out()
        owner = {ref: member for member in self._members for ref in (member.loading, *member.in_hand) if ref}
        if not owner:
            time.sleep(timeout)
            return []
        if ray.wait(list(owner), num_returns=1, timeout=timeout)[0]:
            ready, _ = ray.wait(list(owner), num_returns=len(owner), timeout=0)
            return self._collect({ref: owner[ref] for ref in ready})
        return []

    def dismiss(self) -> None:
        """Stop every actor that was started here."""
        for member in self._members:
            _kill(member)
        self._members.clear()

    def _collect(self, ready: dict[Any, ActorState]) -> list[EncodedBatch]:
        results: list[EncodedBatch] = []
        lost: dict[ActorState, str] = {}
        for ref, member in ready.items():
            try:
                outcome = ray.get(ref)
            except RayTaskError as error:
                raise _origin(error, member) from error
            except RayError as error:  # the actor, its node or the result is gone
                lost[member] = _brief(error)
                continue
            if isinstance(outcome, Failure):
                raise outcome.error()
            if ref == member.loading:
                self._count()
                member.loading = None
                self._stillborn.pop(member.node.id, None)
            else:
                del member.in_hand[ref]
                self._check_seen(outcome, member.node)
                results.append(outcome)
        for member, reason in lost.items():  # last, so that what an actor did before it died is no longer in its hand
            self._lose(member, reason)
        return results

    def _check_seen(self, encoded: EncodedBatch, node: Node) -> None:
        """Raises UsageError for a clip that can be read here but not there: a folder not mounted is no bad file."""
        if not any(encoded.reasons):
            return
        for source, reason in zip(self._sources(encoded.rows), encoded.reasons, strict=True):
            if reason and reason.startswith("cannot be read") and os.access(source.path, os.R_OK):
                raise UsageError(
                    f"node {node.name}", f"{source.path} {reason}", "the audio under one path everywhere", "Mount it."
                )

    def _lose(self, member: ActorState, reason: str) -> None:
        """Put back what a dead actor had in hand. Raises EmotionRankError when it is not the first to die of it."""
        self._count()
        self._members.remove(member)
        _kill(member)  # it may only be out of reach: nothing is to come from it any more
        if member.loading is not None:
            self._count_stillborn(member.node, reason)
            return
        count = len(member.in_hand)
        log.warning(f"{self._order.kind}: an actor on {member.node.name} died ({reason}); batches done again: {count}")
        for batch in list(member.in_hand.values())[: member.node.calls]:  # those behind them had not begun
            batch.deaths += 1
            if batch.deaths == DEATHS:
                raise EmotionRankError(
                    _name(self._sources(batch.rows)[0]),
                    f"{DEATHS} actors died on its batch of {len(batch.rows)} ({reason})",
                    "a batch that can be encoded",
                    "Take it out of the corpus, or give the nodes more memory.",
                )
        self._waiting.extendleft(reversed(member.in_hand.values()))

    def _count_stillborn(self, node: Node, reason: str) -> None:
        if all(other.id != node.id for other in nodes(gpus=self._gpus)):
            return  # the whole node is gone
        self._stillborn[node.id] += 1
        if self._stillborn[node.id] == DEATHS:
            raise EmotionRankError(
                f"node {node.name}",
                f"{DEATHS} actors died before they were ready ({reason})",
                "room and packages for the encoder",
                "See Ray's logs there (/tmp/ray/session_latest/logs).",
            )

    def _hire(self) -> None:
        """An actor for every free place, while there are batches for it."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        here = Counter(member.node.id for member in self._members)
        places = [node for node in nodes(gpus=self._gpus) for _ in range(node.actors - here[node.id])]
        unclaimed = self._left + len(self._waiting) - sum(member.loading is not None for member in self._members)
        for node in places[: max(0, unclaimed)]:
            self._members.append(self._actor(node))
        if any(member.loading is None for member in self._members):
            self._waited_since = now
        elif now - self._waited_since > PATIENCE_SECONDS:
            self._waited_since = now
            log.warning(f"{self._order.kind}: no actor is ready yet; `ray status` shows what the cluster is busy with")

    def _actor(self, node: Node) -> ActorState:
        handle = (
            ray.remote(RemoteWork)
            .options(
                num_cpus=1,
                num_gpus=1 if self._gpus else 0,
                max_concurrency=node.calls,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            )
            .remote(self._order)
        )
        return ActorState(handle, node, handle.load.remote())

    def _hand_out(self) -> None:
        for member in self._members:
            while (batch := self._next()) and member.may_take(batch):
                self._waiting.popleft()
                member.in_hand[member.handle.encode.remote(batch.rows, self._sources(batch.rows))] = batch

    def _next(self) -> ActorBatch | None:
        """The first of those that wait; what is done again comes before the rest of the plan."""
        if not self._waiting and self._left:
            self._waiting.append(ActorBatch(next(self._plan)))
            self._left -= 1
        return self._waiting[0] if self._waiting else None

    @property
    def _gpus(self) -> bool:
        return self._order.device != "cpu"

    def _count(self) -> float:
        now = time.monotonic()
        ready = sum(member.node.calls for member in self._members if member.loading is None)
        self._worked += ready * (now - self._counted)
        self._counted = now
        return self._worked


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


def _kill(member: ActorState) -> None:
    with suppress(RayError):  # it has no process yet, or none any more
        ray.kill(member.handle)


def _origin(error: RayTaskError, member: ActorState) -> Exception:
    """What the work raised; or, where it could not even be loaded, an error that says where."""
    cause: Exception = error.cause
    if member.loading is None:
        return cause
    return EmotionRankError(
        f"node {member.node.name}",
        f"an actor cannot be started ({_brief(cause)})",
        "this program and its packages there",
        "Install the same version on every node.",
    )


def _brief(error: Exception) -> str:
    """The last line of an error, which has the reason, without Ray's guesses at it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].partition(" Some common causes")[0].strip()[:200]


def _name(source: Any) -> str:
    """A source as a person would look for it: a clip's path, or the beginning of a text."""
    return str(getattr(source, "path", source))[:200]
