"""What an endpoint's replies mean."""

from __future__ import annotations

import json
import math
import time
from email.utils import parsedate_to_datetime
from typing import Any

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


def content_of(body: str) -> str:
    """The text of a chat completion; "" if the model said nothing. Raises ValueError for anything else."""
    try:
        said = json.loads(body)["choices"][0]["message"].get("content")
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError):
        raise ValueError("not a chat completion") from None
    return said if isinstance(said, str) else ""
