"""Asking what is open: many requests at once, each answer on the disk before it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from pipeline.captions.answer_log import Answer, AnswerLog
from pipeline.captions.answers import Ledger
from pipeline.captions.asks import Ask
from pipeline.captions.llm_client import Endpoint, NoAnswer
from pipeline.captions.write_config import WriteConfig
from pipeline.errors import EmotionRankError
from pipeline.progress import Meter

GRACE_SECONDS = 10.0  # after a stop, for the answers on their way: they are being paid
_HOPELESS = 10  # prompts in a row without an answer


class Job:
    """One run of the questions that are open."""

    def __init__(
        self, config: WriteConfig, key: str, ledger: Ledger, log: AnswerLog, unanswered: dict[Ask, str]
    ) -> None:
        self.config, self.key, self.ledger, self.log, self.unanswered = config, key, ledger, log, unanswered
        self.silence = 0

    async def run(self, check: Callable[[], None]) -> None:
        """Ask until nothing is open. A signal or a refusal starts nothing more and waits for what is on its way."""
        left = [ask for ask in self.ledger.keys if self.ledger.open(ask)]
        if not left:
            return
        total, done = len(self.ledger.keys), len(self.ledger.keys) - len(left)
        with Meter("captions", total, already=done, unit="prompts") as meter:
            async with Endpoint(self.config.llm, self.key) as endpoint:
                queue = iter(left)
                count = min(self.config.llm.concurrency, len(left))
                tasks = [asyncio.create_task(self._work(queue, endpoint, meter)) for _ in range(count)]
                try:
                    await _finish(tasks, check)
                finally:
                    endpoint.stopping.set()
                    await _wind_up(tasks)

    async def _work(self, queue: Iterator[Ask], endpoint: Endpoint, meter: Meter) -> None:
        for ask in queue:
            try:
                while self.ledger.open(ask) and not endpoint.stopping.is_set():
                    await self._ask(ask, endpoint)
            except NoAnswer as error:
                if endpoint.stopping.is_set():
                    return
                self._note_silence(ask, str(error))
            if endpoint.stopping.is_set():
                return
            meter.advance(1)

    async def _ask(self, ask: Ask, endpoint: Endpoint) -> None:
        key, tried = self.ledger.keys[ask], self.ledger.tried(ask)
        draw = ask.index * self.ledger.attempts + tried
        answer = Answer(key, await endpoint.answer(ask.prompt, name=f"{key}-{tried}", draw=draw))
        self.silence = 0
        self.log.append(answer, ask, self.config.llm.model)
        self.ledger.take(answer)

    def _note_silence(self, ask: Ask, reason: str) -> None:
        self.unanswered[ask] = reason
        self.silence += 1
        if self.silence >= _HOPELESS:
            where = self.config.llm.base_url or "the endpoint"
            raise EmotionRankError(
                where, f"{self.silence} prompts in a row got no answer ({reason})", "answers", "Run it again later."
            )


async def _finish(tasks: list[asyncio.Task[None]], check: Callable[[], None]) -> None:
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        check()


async def _wind_up(tasks: list[asyncio.Task[None]]) -> None:
    _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
