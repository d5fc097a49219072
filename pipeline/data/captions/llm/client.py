"""What an endpoint's replies mean."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import time
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.data.captions.llm.config import LlmConfig

log = logging.getLogger(__name__)

_LONGEST_SECONDS = 3600.0


def may_pass(error: Any) -> bool:
    """Whether asking again may help."""
    if error.status_code == 429:
        return getattr(error, "code", None) != "insufficient_quota"
    return error.status_code in (408, 409) or error.status_code >= 500


def retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date; an hour at most."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(0.0, seconds), _LONGEST_SECONDS)


def message_content(body: str) -> str:
    """The text of a chat completion; "" if the model said nothing. Raises ValueError for anything else."""
    try:
        said = json.loads(body)["choices"][0]["message"].get("content")
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError):
        raise ValueError("not a chat completion") from None
    return said if isinstance(said, str) else ""


_LONGEST_PAUSE = 60.0


class NoAnswer(Exception):
    """A request that stayed without an answer after its retries, or was given up for a stop. Never leaves this room."""


def key_of(config: LlmConfig) -> str:
    """The key from the environment, "" for an endpoint that needs none. Raises UsageError, in which no key is."""
    if not config.key_env.isidentifier():
        raise UsageError(
            "llm.key_env", "no name of a variable", "such as OPENAI_API_KEY", "Put the key itself into the environment."
        )
    if config.base_url is not None and "@" in urlsplit(config.base_url).netloc:
        raise UsageError("llm.base_url", "a password in it", "a plain URL", f"Put the key into {config.key_env}.")
    if config.model is None:
        raise UsageError("llm.model", "not set", "the model's name at the endpoint", "Write -o llm.model=NAME.")
    key = os.environ.get(config.key_env, "").strip()
    if not key and config.base_url is None:
        raise UsageError(config.key_env, "not set", "the endpoint's key", "Export it, or set llm.base_url.")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(config.key_env, "a key with odd characters", "printable ASCII", "Export it again.")
    return key


class Endpoint:
    """Asks one prompt at a time of the model in `config`; any number of tasks may ask at once."""

    def __init__(self, config: LlmConfig, key: str) -> None:
        try:
            import openai
        except ImportError:
            raise UsageError(
                "write-captions", "no client for the endpoint", "the extra llm", "pip install 'emotionrankclap[llm]'"
            ) from None
        self._openai, self._config, self._key = openai, config, key
        self._client: Any = openai.AsyncOpenAI(
            api_key=key or "none", base_url=config.base_url, max_retries=0, timeout=config.timeout_s
        )
        self._next = 0.0  # when the next request may start
        self.stopping = asyncio.Event()

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def answer(self, prompt: str, *, name: str, draw: int) -> str:
        """What the model says to `prompt`. `name` lets an endpoint recognise a request that it has already served.

        429, 5xx, timeouts and lost connections are retried, after the time that the endpoint asks for. Raises NoAnswer
        when they do not end, EmotionRankError when asking again is no use (a wrong key, no such model).
        """
        found = ""
        for attempt in range(self._config.retries + 1):
            await self._turn()
            try:
                async with asyncio.timeout(self._config.timeout_s):
                    return self.scrub(await self._request(prompt, name, draw))
            except self._openai.APIStatusError as error:
                found = self.scrub(f"{error.status_code} {error.message}")[:300]  # cut after: half a key is a key
                if not may_pass(error):
                    raise self._refusal(found) from None
                wait = retry_after(error.response.headers.get("retry-after"))
                self._next = max(self._next, time.monotonic() + (wait or 0.0))
            except (self._openai.APIConnectionError, TimeoutError, ValueError) as error:
                found, wait = self.scrub(str(error) or type(error).__name__), None
            if attempt < self._config.retries:
                backoff = min(self._config.backoff_s * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
                await self._pause(backoff if wait is None else wait)
        raise NoAnswer(found)

    def scrub(self, text: str) -> str:
        """`text` without the key, should an endpoint repeat it."""
        return text.replace(self._key, "[key]") if self._key else text

    async def _request(self, prompt: str, name: str, draw: int) -> str:
        config = self._config
        sampling = {
            "temperature": config.temperature,
            "seed": None if config.seed is None else config.seed + draw,
            "max_completion_tokens": config.max_tokens,
        }
        response = await self._client.chat.completions.with_raw_response.create(
            model=config.model,
            messages=[{"role": "user", "content": prompt}],
            extra_headers={"Idempotency-Key": name},
            **{option: value for option, value in sampling.items() if value is not None},
        )
        return message_content(response.http_response.text)

    async def _turn(self) -> None:
        """Wait for this request's place in the minute."""
        now = time.monotonic()
        start = max(now, self._next)
        rate = self._config.requests_per_minute
        self._next = start + (60.0 / rate if rate else 0.0)
        await self._pause(start - now)

    async def _pause(self, seconds: float) -> None:
        if seconds > _LONGEST_PAUSE:
            log.info(f"the endpoint asks to wait {seconds:.0f} s")
        if seconds > 0:
            try:
                await asyncio.wait_for(self.stopping.wait(), seconds)
            except TimeoutError:
                pass
        if self.stopping.is_set():
            raise NoAnswer("stopped")

    def _refusal(self, found: str) -> EmotionRankError:
        where = self._config.base_url or "the endpoint"
        return EmotionRankError(where, found, "an answer", "Check the model's name, the key and the quota.")
