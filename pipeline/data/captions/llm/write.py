"""write-captions: the open requests are sent, many at once, and each response is on the disk before it counts."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from cache.disk import write_atomic, write_text, writer_lock
from pipeline.core.config_files import dump
from pipeline.core.errors import EmotionRankError, UsageError, required_library
from pipeline.core.progress import Meter, interruptible
from pipeline.data.captions.llm.config import LlmConfig, WriteConfig, key_of, resolve_writing
from pipeline.data.captions.llm.requests import CaptionRequest, caption_lines, requests_for
from pipeline.data.captions.llm.responses import RequestState, ResponseCache, read_responses
from pipeline.data.corpora import read_corpus

log = logging.getLogger(__name__)

GRACE_SECONDS = 4.0  # after a stop, for the responses on their way: they are being paid
MAX_RESPONSE_BYTES = 1 << 20  # a response is a sentence in some JSON
MAX_UNANSWERED = 10  # requests in a row
_FRAMING_TOKENS, _RESPONSE_TOKENS = 8, 30  # of one request, for an estimate


class NoResponse(Exception):
    """A request that stayed without a response after its retries, or was not sent because of a stop."""


class RequestQueue:
    """One run of the open requests of `state`; `unanswered` holds the reason for each that got no response."""

    def __init__(self, llm: LlmConfig, key: str, state: RequestState, cache: ResponseCache) -> None:
        self.llm, self.state, self.cache = llm, state, cache
        self.unanswered: dict[CaptionRequest, str] = {}
        self._key, self._in_a_row, self._next_start = key, 0, 0.0
        self._stopping = asyncio.Event()

    async def run(self, check: Callable[[], None]) -> None:
        """Send requests until none is open. A signal or a refusal sends no more and waits for those on their way."""
        requests = self.state.by_key.items()
        pending = [(key, request) for key, request in requests if self.state.is_open(request)]
        if not pending:
            return
        meter = Meter("captions", len(requests), already=len(requests) - len(pending), unit="prompts")
        async with self._client() as client:
            with meter:
                queue = iter(pending)
                workers = min(self.llm.concurrency, len(pending))
                tasks = {asyncio.create_task(self._work(queue, client, meter)) for _ in range(workers)}
                running = tasks
                try:
                    while running:
                        done, running = await asyncio.wait(running, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
                        for task in done:
                            task.result()
                        check()
                finally:
                    self._stopping.set()
                    _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
                    for task in late:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    def _client(self) -> Any:
        self._openai = openai = required_library("openai", "llm", "write-captions")
        return openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self.llm.base_url,
            max_retries=self.llm.retries,
            timeout=self.llm.timeout_s,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(
                event_hooks={"request": [self._wait_for_turn], "response": [_read_in_part]}, follow_redirects=False
            ),
        )

    async def _work(self, queue: Iterator[tuple[str, CaptionRequest]], client: Any, meter: Meter) -> None:
        for key, request in queue:
            try:
                while self.state.is_open(request) and not self._stopping.is_set():
                    text = await self._send(client, key, request)
                    self._in_a_row = 0
                    self.cache.append(key, request, text, model=self.llm.model)
                    self.state.add(key, text)
            except NoResponse as error:
                if not self._stopping.is_set():
                    self.unanswered[request] = str(error)
                    self._in_a_row += 1
                    if self._in_a_row >= MAX_UNANSWERED:
                        found = f"{self._in_a_row} prompts in a row got no response ({error})"
                        raise EmotionRankError(self._endpoint, found, "responses", "Run it again later.") from None
            if self._stopping.is_set():
                return
            meter.advance(1)

    async def _send(self, client: Any, key: str, request: CaptionRequest) -> str:
        """The model's text. The client itself retries 429, 5xx, timeouts and lost connections, and waits as asked.

        Raises NoResponse when they do not end, EmotionRankError when retrying is no use (a wrong key, no such model).
        """
        attempt = len(self.state.problems[request])
        sample = request.index * self.state.attempts + attempt
        sampling = {
            "temperature": self.llm.temperature,
            "seed": None if self.llm.seed is None else self.llm.seed + sample,
            "max_completion_tokens": self.llm.max_tokens,
        }
        try:
            for _ in range(self.llm.retries + 1):  # of a whole reply that is not a completion, as a proxy's page
                response = await client.chat.completions.with_raw_response.create(
                    model=self.llm.model,
                    messages=[{"role": "user", "content": request.prompt}],
                    extra_headers={"Idempotency-Key": f"{key}-{attempt}"},
                    **{option: value for option, value in sampling.items() if value is not None},
                )
                if len(response.http_response.content) > MAX_RESPONSE_BYTES:
                    found = f"a response of more than {MAX_RESPONSE_BYTES:,} bytes"
                    raise EmotionRankError(self._endpoint, found, "a sentence", "Use another endpoint or model.")
                text = message_content(response.http_response.text)
                if text is not None:
                    return self._without_key(text)
        except self._openai.APIStatusError as error:
            if to := error.response.headers.get("location"):
                found = self._without_key(f"{error.status_code}, a redirection to {to}")[:300]
                raise EmotionRankError(
                    self._endpoint, found, "an endpoint that does not redirect", "Set llm.base_url to its address."
                ) from None
            found = self._without_key(f"{error.status_code} {error.message}")[:300]  # cut after: half a key is a key
            no_quota = error.status_code == 429 and error.code == "insufficient_quota"
            if not no_quota and (error.status_code in (408, 409, 429) or error.status_code >= 500):
                raise NoResponse(found) from None
            action = "Check the model's name, the key and the quota."
            raise EmotionRankError(self._endpoint, found, "a response", action) from None
        except (self._openai.APIConnectionError, ValueError) as error:
            raise NoResponse(self._without_key(str(error) or type(error).__name__)) from None
        raise NoResponse("not a chat completion")

    async def _wait_for_turn(self, _: Any) -> None:
        """Before every request and retry: keep to `requests_per_minute`; none is sent after a stop."""
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + 60.0 / (self.llm.requests_per_minute or float("inf"))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), start - now)
        if self._stopping.is_set():
            raise NoResponse("stopped")

    def _without_key(self, text: str) -> str:
        """`text` without the key, should an endpoint repeat it."""
        return text.replace(self._key, "[key]") if self._key else text

    @property
    def _endpoint(self) -> str:
        return self.llm.base_url or "the endpoint"


async def _read_in_part(response: Any) -> None:
    """Read a response up to `MAX_RESPONSE_BYTES` and a chunk, as it was sent, before the client reads all of it."""
    contents = bytearray()
    async for chunk in response.aiter_raw():
        contents += chunk
        if len(contents) > MAX_RESPONSE_BYTES:
            break
    await response.aclose()
    response._content = bytes(contents)  # where httpx keeps what was read


def message_content(body: str) -> str | None:
    """The text of a chat completion, "" if the model wrote none; None if `body` is not a chat completion."""
    try:
        content = json.loads(body)["choices"][0]["message"].get("content")
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError):
        return None
    return content if isinstance(content, str) else ""


def write_captions(
    config: str | Path | WriteConfig,
    *,
    out: str | Path,
    audio_root: str | Path | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Request every caption that is not yet in `out`, and write `out/captions.jsonl` from the responses.

        write_captions("my/manifest.csv", out="captions/mine", overrides=("llm.model=o1",))

    Returns counts of prompts, and the failures with their reasons. Raises UsageError, StoreLocked, Interrupted, and
    EmotionRankError when the endpoint refuses or does not respond; every response that came stays in
    `out/responses.sqlite`.
    """
    out = Path(out)
    config = resolve_writing(config, audio_root=audio_root, overrides=overrides)
    key, writing, file = key_of(config.llm), config.writing, out / "captions.jsonl"
    if (out / "text.h5").exists():  # its captions.jsonl is the index of text.h5
        raise UsageError(out, "holds stores", "a new folder, or one that write-captions wrote", "Choose another --out.")
    requests = _requests(config)
    with writer_lock(out), interruptible(out) as check, closing(ResponseCache(out)) as cache:
        state = RequestState(requests, config, cache.pairs)
        resolved = {"writing": writing.model_copy(update={"prompt": writing.template})}
        write_text(out / "config.yaml", dump(config.model_copy(update=resolved)))
        queue = RequestQueue(config.llm, key, state, cache)
        asyncio.run(queue.run(check))
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in caption_lines(requests, state.texts, writing))
        write_atomic(file, (line.encode("utf-8", "surrogateescape") for line in lines))
    failures = {str(r): "; ".join(found) for r, found in state.problems.items() if len(found) >= state.attempts}
    failures |= {str(request): f"no response: {reason}" for request, reason in queue.unanswered.items()}
    return {
        "prompts": len(requests),
        "answered": len(state.texts),
        "refused_answers": dict(Counter(chain.from_iterable(state.problems.values()))),
        "failures": failures,
        "captions": str(file),
    }


def plan_write_captions(
    config: str | Path | WriteConfig,
    *,
    out: str | Path,
    audio_root: str | Path | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """How much `write_captions` would request, and about how many tokens that is; nothing is sent or written.

        plan_write_captions("my/manifest.csv", out="captions/mine", overrides=("llm.model=o1",))["to_ask"]

    Tokens are four characters each, every prompt is sent once, and a reasoning model's thoughts are not in it.
    Raises UsageError.
    """
    config = resolve_writing(config, audio_root=audio_root, overrides=overrides)
    requests = _requests(config)
    state = RequestState(requests, config, read_responses(Path(out)))
    pending = [request for request in requests if state.is_open(request)]
    return {
        "model": config.llm.model,
        "prompts": len(requests),
        "answered": len(state.texts),
        "to_ask": len(pending),
        "tokens_in": sum(len(request.prompt) // 4 + _FRAMING_TOKENS for request in pending),
        "tokens_out": len(pending) * _RESPONSE_TOKENS,
        "example": requests[0].prompt,
    }


def _requests(config: WriteConfig) -> list[CaptionRequest]:
    manifest = read_corpus(config.corpus)
    for note in manifest.notes:
        log.info(note)
    return requests_for(manifest, config.writing)
