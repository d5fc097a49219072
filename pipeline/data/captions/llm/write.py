"""Asking what is open: many requests at once, each answer on the disk before it counts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cache.disk import write_atomic, write_text, writer_lock
from pipeline.core.config_files import dump, merge, validate
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.core.progress import Meter, interruptible
from pipeline.data.captions.llm.client import Endpoint, NoAnswer, key_of
from pipeline.data.captions.llm.config import WriteConfig, resolve_without_keys
from pipeline.data.captions.llm.requests import Ask, asks_of, caption_lines
from pipeline.data.captions.llm.responses import Answer, AnswerLog, Ledger, read_answers
from pipeline.data.corpora import read_corpus

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0  # after a stop, for the answers on their way: they are being paid
_HOPELESS = 10  # prompts in a row without an answer


class RequestQueue:
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


ANSWERS, CAPTIONS, CONFIG = "answers.jsonl", "captions.jsonl", "config.yaml"
_CHARACTERS_A_TOKEN, _FRAMING_TOKENS, _ANSWER_TOKENS = 4, 8, 30  # for an estimate


def write_captions(
    config: str | Path | WriteConfig,
    *,
    out: str | Path,
    audio_root: str | Path | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Ask for every caption that is not yet in `out`, and write `out/captions.jsonl` from the answers.

        write_captions("my/manifest.csv", out="captions/mine", overrides=("llm.model=o1",))

    Returns the counts of `status_of`. Raises UsageError, StoreLocked, Interrupted, and EmotionRankError when the
    endpoint refuses or does not answer; every answer that came stays in `out/answers.jsonl`.
    """
    out = Path(out)
    config = resolve_without_keys(config, audio_root=audio_root, overrides=overrides)
    key = key_of(config.llm)
    if (out / "text.h5").exists():  # its captions.jsonl is the index of text.h5
        raise UsageError(out, "a folder of stores", "a folder of its own", "Choose another --out.")
    asks = _asks(config)
    with writer_lock(out), interruptible(out) as check:
        answers, size = read_answers(out / ANSWERS)
        ledger = _replay(asks, answers, config)
        resolved = {"writing": {"prompt": config.writing.template}}
        tree = merge(config.model_dump(mode="json"), resolved)
        write_text(out / CONFIG, dump(validate(WriteConfig, tree, subject="config")))
        unanswered: dict[Ask, str] = {}
        with AnswerLog(out / ANSWERS, size) as log:
            asyncio.run(RequestQueue(config, key, ledger, log, unanswered).run(check))
        _write_lines(caption_lines(asks, ledger.texts, config), out / CAPTIONS)
    return count_responses(asks, ledger, unanswered) | {"captions": str(out / CAPTIONS)}


def plan_write_captions(
    config: str | Path | WriteConfig,
    *,
    out: str | Path,
    audio_root: str | Path | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """How much `write_captions` would ask, and about how many tokens that is; nothing is asked or written.

        plan_write_captions("my/manifest.csv", out="captions/mine", overrides=("llm.model=o1",))["to_ask"]

    Tokens are four characters each, every prompt is asked once, and a reasoning model's thoughts are not in it.
    Raises UsageError.
    """
    config = resolve_without_keys(config, audio_root=audio_root, overrides=overrides)
    asks = _asks(config)
    ledger = _replay(asks, read_answers(Path(out) / ANSWERS)[0], config)
    left = [ask for ask in asks if ledger.open(ask)]
    read = sum(len(ask.prompt) // _CHARACTERS_A_TOKEN + _FRAMING_TOKENS for ask in left)
    return {
        "model": config.llm.model,
        "prompts": len(asks),
        "answered": len(ledger.texts),
        "to_ask": len(left),
        "tokens_in": read,
        "tokens_out": len(left) * _ANSWER_TOKENS,
        "example": asks[0].prompt,
    }


def count_responses(asks: list[Ask], ledger: Ledger, unanswered: dict[Ask, str]) -> dict[str, Any]:
    """Counts of prompts, and the failures with their reasons."""
    failures = {str(ask): "; ".join(ledger.problems[ask]) for ask in asks if ledger.tried(ask) >= ledger.attempts}
    failures |= {str(ask): f"no answer: {reason}" for ask, reason in unanswered.items()}
    failures = {name: why for name, why in failures.items() if why}
    refused = Counter(problem for problems in ledger.problems.values() for problem in problems)
    return {
        "prompts": len(asks),
        "answered": len(ledger.texts),
        "refused_answers": dict(refused),
        "failures": failures,
    }


def _asks(config: WriteConfig) -> list[Ask]:
    manifest = read_corpus(config.corpus)
    for note in manifest.notes:
        log.info(note)
    return asks_of(manifest, config)


def _replay(asks: list[Ask], answers: list[Answer], config: WriteConfig) -> Ledger:
    ledger = Ledger(asks, config.llm, config.writing.attempts)
    for answer in answers:
        ledger.take(answer)
    return ledger


def _write_lines(lines: Iterator[dict[str, Any]], path: Path) -> None:
    """Write `lines` as JSONL, whole or not at all."""
    texts = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomic(path, (text.encode("utf-8", "surrogateescape") for text in texts))
