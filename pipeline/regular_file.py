"""A user's file, opened only where it is one: a pipe would be waited for without end, a folder is no file."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO, Any

from pipeline.errors import UsageError


def opened(
    path: Path, mode: str = "r", *, expected: str = "a readable file", action: str = "Check the path.", **options: Any
) -> IO[Any]:
    """`open`, with UsageError in place of OSError and of what is no regular file (nor a link to one)."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(0, "a folder" if os.path.isdir(path) else "a pipe or a device")
        return open(path, mode, **options)
    except (OSError, ValueError) as error:  # ValueError: a NUL or half a character in the path
        reason = getattr(error, "strerror", None) or "no path of this system"
        subject = path if str(path).isprintable() else repr(str(path))  # a line break is no second line
        raise UsageError(subject, f"cannot be read ({reason})", expected, action) from None
