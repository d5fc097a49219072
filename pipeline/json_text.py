"""JSON as people and other programs write it: every way in which it is none is one short reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


class NotJson(ValueError):
    """Why a text is no JSON; `line` is where it ends to be some."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.line = line


def parse_json(raw: bytes, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value that `raw` holds, in UTF-8 with or without a byte order mark. Raises NotJson.

    `pairs` makes an object of its keys and values; without it a key that stands twice is refused.
    """
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs or once)
    except NotJson:
        raise
    except UnicodeDecodeError as error:
        raise NotJson("not UTF-8", 1 + raw.count(b"\n", 0, error.start)) from None
    except RecursionError:
        raise NotJson("JSON nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, or Python's own limit on digits
        reason = getattr(error, "msg", "a number too long")
        raise NotJson(f"not JSON ({reason})", getattr(error, "lineno", 1)) from None


def deeper_than(room: int, tree: Any) -> bool:
    """Whether `tree` has more than `room` levels of objects and lists: what walks it by itself would not end well."""
    level = [tree]
    for _ in range(room):
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [each for part in parts for each in part]
    return bool(level)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`. Raises NotJson for a key that stands twice: a dict would hide the first."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise NotJson(f"key {twice[:60]!r} stands twice")
    return whole
