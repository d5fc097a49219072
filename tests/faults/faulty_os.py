"""Stands in for `os` in `cache.disk`: records every call that touches the disk, and lets the k-th of them fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

TOUCHES = (
    "open",
    "preadv",
    "pwrite",
    "ftruncate",
    "posix_fallocate",
    "fsync",
    "fstat",
    "replace",
    "unlink",
    "makedirs",
)
CHANGES = ("open", "pwrite", "ftruncate", "posix_fallocate", "fsync", "replace", "unlink", "mkdir")


class Crash(BaseException):
    """The process is dead: whatever it does from here on does not happen."""


class Call(NamedTuple):
    """One call of `os`, with what it was given and what came back (None where it failed)."""

    name: str
    args: tuple[Any, ...]
    result: Any = None


class FaultyOs:
    """`os`, whose calls of `counted` are numbered from 0; call `fail_at` crashes, or fails with an errno.

    A crash in a write leaves its first half. With `lasting`, calls of the same name go on failing.
    """

    def __init__(
        self,
        fail_at: int = -1,
        how: type[Crash] | int = Crash,
        *,
        lasting: bool = False,
        counted: tuple[str, ...] = TOUCHES,
    ) -> None:
        self.fail_at, self.how, self.lasting, self.counted = fail_at, how, lasting, counted
        self.calls: list[Call] = []
        self.failed_name = ""
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.counted:
            return real
        return lambda *args, **options: self._called(name, real, *args, **options)

    def _called(self, name: str, real: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self.dead:
            raise Crash
        number = len(self.calls)
        kept = tuple(bytes(arg) if isinstance(arg, memoryview) else arg for arg in args)
        self.calls.append(Call(name, kept))
        if number == self.fail_at or (self.lasting and name == self.failed_name):
            self.failed_name = name
            self._fail(name, *args)
        result = real(*args, **options)
        self.calls[number] = Call(name, kept, result)
        return result

    def _fail(self, name: str, *args: Any) -> None:
        if self.how is Crash:
            self.dead = True
            if name == "pwrite":
                handle, data, offset = args
                os.pwrite(handle, data[: len(data) // 2], offset)
            raise Crash
        raise OSError(self.how, os.strerror(self.how))
