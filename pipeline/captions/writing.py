"""Captions by an LLM (F11, F14): an answer that arrived is never paid for again, whatever interrupts the job.

    write-captions my/manifest.csv --out captions/mine -o llm.base_url=http://127.0.0.1:8080/v1 -o llm.model=mine

What was on its way at a kill or a timeout may have been charged: each such request is asked again under the same
Idempotency-Key. The key comes from the environment and goes nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cache.disk import write_text, write_whole
from cache.lock import writing
from pipeline.captions.answer_log import Answer, AnswerLog, read_answers
from pipeline.captions.answers import Ledger
from pipeline.captions.asking import Job
from pipeline.captions.asks import Ask, asks_of, lines_of
from pipeline.captions.endpoint_secrets import resolve_without_keys
from pipeline.captions.llm_client import key_of
from pipeline.captions.write_config import WriteConfig
from pipeline.config import dump, merge, validate
from pipeline.corpora import read_corpus
from pipeline.errors import UsageError
from pipeline.interrupt import interruptible
from pipeline.progress import say

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
    with writing(out), interruptible(out) as check:
        answers, size = read_answers(out / ANSWERS)
        ledger = _replay(asks, answers, config)
        resolved = {"writing": {"prompt": config.writing.template}}
        tree = merge(config.model_dump(mode="json"), resolved)
        write_text(out / CONFIG, dump(validate(WriteConfig, tree, subject="config")))
        unanswered: dict[Ask, str] = {}
        with AnswerLog(out / ANSWERS, size) as log:
            asyncio.run(Job(config, key, ledger, log, unanswered).run(check))
        _write_lines(lines_of(asks, ledger.texts, config), out / CAPTIONS)
    return status_of(asks, ledger, unanswered) | {"captions": str(out / CAPTIONS)}


def foresee_writing(
    config: str | Path | WriteConfig,
    *,
    out: str | Path,
    audio_root: str | Path | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """How much `write_captions` would ask, and about how many tokens that is; nothing is asked or written.

        foresee_writing("my/manifest.csv", out="captions/mine", overrides=("llm.model=o1",))["to_ask"]

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


def status_of(asks: list[Ask], ledger: Ledger, unanswered: dict[Ask, str]) -> dict[str, Any]:
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
        say(note)
    return asks_of(manifest, config)


def _replay(asks: list[Ask], answers: list[Answer], config: WriteConfig) -> Ledger:
    ledger = Ledger(asks, config.llm, config.writing.attempts)
    for answer in answers:
        ledger.take(answer)
    return ledger


def _write_lines(lines: Iterator[dict[str, Any]], path: Path) -> None:
    """Write `lines` as JSONL, whole or not at all."""
    texts = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(path, (text.encode("utf-8", "surrogateescape") for text in texts))
