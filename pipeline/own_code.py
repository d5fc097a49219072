"""What a user's own code raises becomes one line that names its file and line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import EmotionRankError

_LONGEST = 300  # of a reason


@contextmanager
def told(
    subject: object, source: str, expected: str, *, kind: type[EmotionRankError] = EmotionRankError
) -> Iterator[None]:
    """Raise `kind` in place of what code in the file `source` raises; memory's errors are whoever calls it's own."""
    try:
        yield
    except EmotionRankError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, RuntimeError) and _of_memory(error):
            raise
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST].rstrip(": ")
        raise kind(subject, f"{found} ({_place(error, source)})", expected, "Correct the code.") from error


def _of_memory(error: RuntimeError) -> bool:
    from pipeline.memory import out_of_memory  # here: torch

    return out_of_memory(error)


def _place(error: BaseException, source: str) -> str:
    """File and line: of the innermost call in `source`, else of where it was raised."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{Path(error.filename or source).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"
