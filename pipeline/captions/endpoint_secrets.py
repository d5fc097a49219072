"""Keys stay out of settings: what is a setting is printed, and written into config.yaml."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.captions.write_config import LlmConfig, WriteConfig, resolve_writing
from pipeline.errors import ManyProblems, UsageError

_KEY_SETTING = re.compile(r"\bllm\.\w*(key|token|secret|password|auth|header)\w*: no such setting", re.IGNORECASE)
_VALUE = re.compile(r"\b(llm[\w.]*) = .*: ")  # a value that was refused may be a key in the wrong place
_HOME = "Put the key into the environment variable OPENAI_API_KEY, or the one that llm.key_env names."


def resolve_without_keys(
    config: str | Path | WriteConfig, *, audio_root: str | Path | None, overrides: tuple[str, ...]
) -> WriteConfig:
    """`resolve_writing`, and none of the settings is or holds a key. Raises UsageError, in which no key is."""
    try:
        resolved = resolve_writing(config, audio_root=audio_root, overrides=overrides)
    except ManyProblems as error:
        problems = [_VALUE.sub(r"\1: ", problem) for problem in error.problems]
        slip = problems != error.problems or any(map(_KEY_SETTING.search, problems))
        raise ManyProblems(error.subject, problems, _HOME if slip else error.action) from None
    _is_a_variables_name(resolved.llm.key_env)
    _is_a_plain_url(resolved.llm)
    return resolved


def _is_a_variables_name(name: str) -> None:
    """Many keys would be names (`hf_...`, `gsk_...`), but not in capitals."""
    if name not in os.environ and not re.fullmatch("[A-Z_][A-Z0-9_]*", name):
        raise UsageError("llm.key_env", "no name of a variable", "such as OPENAI_API_KEY", _HOME)


def _is_a_plain_url(llm: LlmConfig) -> None:
    try:
        parts = urlsplit(llm.base_url or "http://none")
    except ValueError:
        raise UsageError("llm.base_url", "no URL", "such as http://127.0.0.1:8080/v1", "Correct it.") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError("llm.base_url", "a password or a ?query in it", "a plain URL", _HOME)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError("llm.base_url", "no address", "such as http://127.0.0.1:8080/v1", "Correct it.")
