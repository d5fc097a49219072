"""The exceptions of `cache.errors`, under the pipeline's own roof, and packages that cannot be imported."""

from __future__ import annotations

from types import TracebackType

from cache.errors import (
    EmotionRankError,
    Interrupted,
    ManyProblems,
    QuarantinedRows,
    StoreCorrupt,
    StoreLocked,
    StoreMismatch,
    UsageError,
    one_line,
    required_library,
)

__all__ = [
    "BrokenPackage",
    "EmotionRankError",
    "Interrupted",
    "ManyProblems",
    "MissingEncoder",
    "QuarantinedRows",
    "StoreCorrupt",
    "StoreLocked",
    "StoreMismatch",
    "UsageError",
    "broken_package",
    "required_library",
]


class MissingEncoder(UsageError):
    """A frozen encoder that is not on this machine: a model's folder, a hub model or a package (exit 2)."""


class BrokenPackage(EmotionRankError):
    """A package that is not installed, or whose shared libraries do not fit the others (exit 1)."""

    def __init__(self, package: str, error: BaseException) -> None:
        reason = one_line(" ".join(str(error).split()))[:200] or type(error).__name__
        action = f"pip install --force-reinstall {package}; docs/installing.md says which fit together."
        super().__init__(f"package {package}", f"cannot be imported ({reason})", "an install that fits", action)


def broken_package(error: BaseException) -> BrokenPackage | None:
    """The line for an `error` that came of importing somebody else's package; None for any other.

    A shared library that is not found is an ImportError, or where ctypes loads it (torch, torchaudio, soundfile) an
    OSError without a number. Behind it may stand its cause, which says more: torch's "Could not load this library".
    """
    name, cause = "", error
    while isinstance(cause, ImportError) or (isinstance(cause, OSError) and cause.errno is None):
        error = cause
        name = (cause.name if isinstance(cause, ImportError) else None) or _being_imported(cause.__traceback__) or name
        cause = cause.__cause__ or ValueError()
    package = name.partition(".")[0]
    return None if package in ("", "__main__", "cache", "pipeline") else BrokenPackage(package, error)


def _being_imported(trace: TracebackType | None) -> str:
    """The innermost module whose import had not ended; empty where there was none."""
    name = ""
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            name = str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return name
