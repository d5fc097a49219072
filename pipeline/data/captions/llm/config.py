"""The settings of write-captions: which corpus, in which style, by which model; and the key, which is in none."""

from __future__ import annotations

import os
import re
import string
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, model_validator

from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import Model, load_config, word_list
from pipeline.core.errors import ManyProblems, UsageError


class WritingConfig(Model):
    """What is requested (F11, F13, F14). Labels are printed with at most two decimals (F11 does not say)."""

    style: Literal["dimensional", "clap4emo"] = Field(
        "dimensional", description="captions of valence and arousal, or of the emotion with words of a lexicon"
    )
    per: Literal["pair", "utterance"] = Field(
        "pair", description="dimensional: captions for each distinct (valence, arousal), or for each utterance"
    )
    paraphrases: int = Field(1, ge=1, le=64, description="captions for each pair, utterance or emotion")
    prompts_grid: bool = Field(True, description="dimensional: also the 14 x 14 prompts of the ordinality test (F13)")
    variants: int = Field(1, ge=1, le=64, description="paraphrases of each of those prompts")
    prompt: str | None = Field(
        None, description="text with {valence} and {arousal}, or {emotion}; null: the style's own"
    )
    words: dict[str, tuple[str, ...]] = Field({}, description="clap4emo: lexicon words by emotion, for {words}")
    attempts: int = Field(3, ge=1, description="times a prompt is sent until a response passes the check")

    @property
    def template(self) -> str:
        """The prompt's text, with its placeholders."""
        return word_list("captions/prompts")[self.style] if self.prompt is None else self.prompt

    @model_validator(mode="after")
    def _has_its_placeholders(self) -> WritingConfig:
        needed = {"emotion"} if self.style == "clap4emo" else {"valence", "arousal"}
        parts = [part[1:] for part in string.Formatter().parse(self.template) if part[1] is not None]
        found = {name for name, _, _ in parts} - ({"words"} if self.style == "clap4emo" else set())
        if found != needed or any(spec or conversion for _, spec, conversion in parts):
            names = " and ".join(f"{{{name}}}" for name in sorted(needed))
            raise ValueError(f"a {self.style} prompt holds {names}, and no other {{placeholder}}")
        return self


class LlmConfig(Model):
    """An OpenAI-compatible endpoint. The key is never here: `key_env` names the variable that holds it."""

    base_url: str | None = Field(
        None, description="such as http://127.0.0.1:8080/v1; null: the OpenAI client's default"
    )
    model: str | None = Field(None, description="the model's name at that endpoint")
    key_env: str = Field("OPENAI_API_KEY", description="the environment variable of the key; local ones need none")
    temperature: float | None = Field(None, ge=0, description="null: the model's default (o1 accepts no other)")
    seed: int | None = Field(None, description="sent, plus the number of the sample; null: not sent")
    max_tokens: int | None = Field(None, ge=1, description="of one response; null: the model's default")
    concurrency: int = Field(8, ge=1, le=256, description="requests in flight")
    requests_per_minute: PositiveFloat | None = Field(None, description="upper limit; null: no limit")
    retries: int = Field(5, ge=0, description="retries of one request, on 429, 5xx, a timeout or a lost connection")
    timeout_s: float = Field(60.0, gt=0, description="seconds to connect, and of each wait for the endpoint")


class WriteConfig(ExtractConfig):
    """The settings of extract-features, of which `corpus` is read, and those of the writing."""

    writing: WritingConfig = WritingConfig()
    llm: LlmConfig = LlmConfig()


_KEY_SETTING = re.compile(r"\bllm\.\w*(key|token|secret|password|auth|header)\w*: no such setting", re.IGNORECASE)
_VALUE = re.compile(r"\b(llm[\w.]*) = .*: ")  # a value that was refused may be a key in the wrong place
_KEY_ACTION = "Put the key into the environment variable OPENAI_API_KEY, or the one that llm.key_env names."


def resolve_writing(
    config: str | Path | WriteConfig, *, audio_root: str | Path | None = None, overrides: tuple[str, ...] = ()
) -> WriteConfig:
    """The config of a preset, a YAML file or a manifest, with the command line's choices laid on top.

    None of its settings is or holds a key. Raises UsageError, in which no key is.
    """
    try:
        if not isinstance(config, WriteConfig):
            config = load_config(WriteConfig, str(config), overrides, kind="corpora")
    except ManyProblems as error:
        problems = [_VALUE.sub(r"\1: ", problem) for problem in error.problems]
        is_key = problems != error.problems or any(map(_KEY_SETTING.search, problems))
        raise ManyProblems(error.subject, problems, _KEY_ACTION if is_key else error.action) from None
    if audio_root is not None:
        corpus = config.corpus.model_copy(update={"root": Path(audio_root)})
        config = config.model_copy(update={"corpus": corpus})
    name, url = config.llm.key_env, config.llm.base_url or "http://none"
    if name not in os.environ and not re.fullmatch("[A-Z_][A-Z0-9_]*", name):  # a key looks like a lower-case name
        raise UsageError("llm.key_env", "not a variable's name", "such as OPENAI_API_KEY", _KEY_ACTION)
    expected = "such as http://127.0.0.1:8080/v1"
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError("llm.base_url", "not a URL", expected, "Correct it.") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("llm.base_url", "a password or a ?query in it", "a plain URL", _KEY_ACTION)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError("llm.base_url", "not an address", expected, "Correct it.")
    return config


def key_of(llm: LlmConfig) -> str:
    """The key from the environment, "" for an endpoint that needs none. Raises UsageError, in which no key is."""
    if llm.model is None:
        raise UsageError("llm.model", "not set", "the model's name at the endpoint", "Write -o llm.model=NAME.")
    key = os.environ.get(llm.key_env, "").strip()
    if not key and llm.base_url is None:
        raise UsageError(llm.key_env, "not set", "the endpoint's key", "Export it, or set llm.base_url.")
    if not (key.isascii() and key.isprintable()):
        raise UsageError(llm.key_env, "a key with odd characters", "printable ASCII", "Export it again.")
    return key
