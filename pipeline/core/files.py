"""A user's files: opened only where they are regular files; JSON and CSV, every fault in one line.

json is narrowed here: no repeated keys, and limits on size and depth that it lacks.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from cache.errors import UsageError

CACHE_VARIABLE = "EMOTIONRANKCLAP_CACHE"  # a folder; empty: no cache


def cache_folder() -> Path | None:
    """Where what may be deleted is kept between commands; None where `EMOTIONRANKCLAP_CACHE` is empty."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE]) if os.environ[CACHE_VARIABLE] else None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "emotionrankclap"


def open_regular(
    path: Path, mode: str = "r", *, expected: str = "a readable file", action: str = "Check the path.", **options: Any
) -> IO[Any]:
    """`open`, with UsageError in place of OSError, and for anything but a regular file or a link to one."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(0, "a folder" if os.path.isdir(path) else "a pipe or a device")
        return open(path, mode, **options)
    except (OSError, ValueError) as error:  # ValueError: a NUL or half a character in the path
        reason = getattr(error, "strerror", None) or "not a valid path"
        subject = path if str(path).isprintable() else repr(str(path))  # a path may hold a line break
        raise UsageError(subject, f"cannot be read ({reason})", expected, action) from None


_FORMULA = ("=", "+", "-", "@", "\t")  # that a cell begins with


class NotJson(ValueError):
    """Why a text is not JSON; `line` is where it stops being valid."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.line = line


def parse_json(raw: bytes, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value that `raw` holds, in UTF-8 with or without a byte order mark. Raises NotJson.

    `pairs` makes an object of its keys and values; without it a repeated key is refused.
    """
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs or refuse_repeated_keys)
    except NotJson:
        raise
    except UnicodeDecodeError as error:
        raise NotJson("not UTF-8", 1 + raw.count(b"\n", 0, error.start)) from None
    except RecursionError:
        raise NotJson("JSON nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, or Python's own limit on digits
        reason = getattr(error, "msg", "a number too long")
        raise NotJson(f"not JSON ({reason})", getattr(error, "lineno", 1)) from None


def deeper_than(depth: int, tree: Any) -> bool:
    """Whether `tree` has more than `depth` levels of objects and lists, so that recursion over it could overflow."""
    level = [tree]
    for _ in range(depth):
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [each for part in parts for each in part]
    return bool(level)


def refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`. Raises NotJson for a repeated key: a dict would hide its first value."""
    parsed: dict[str, Any] = {}
    for key, value in pairs:
        if key in parsed:
            raise NotJson(f"key {key[:60]!r} appears twice")
        parsed[key] = value
    return parsed


MAX_HEADER_BYTES = 1 << 22  # of safetensors; a model of 1,000 tensors has a tenth of a MB
_LENGTH_BYTES = 8  # before the header


def require_short_header(file: IO[bytes]) -> None:
    """Raises ValueError for a safetensors file whose header is too long: parsing 100 MB takes a minute and 2 GB."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length:,} bytes")
    file.seek(0)


_DIGEST = "digest"


def json_with_digest(tree: dict[str, Any], *, allow_nan: bool = False) -> str:
    """The text of a JSON file whose last key is the BLAKE2b-128 digest of the rest; `tree` has a key or more."""
    text = json.dumps(tree, indent=1, allow_nan=allow_nan)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return text.removesuffix("\n}") + f',\n "{_DIGEST}": "{digest}"\n}}\n'


def check_digest(text: str) -> dict[str, Any]:
    """What `json_with_digest` was given. Raises ValueError where the text is not, byte for byte, as it was written."""
    tree = json.loads(text)
    if not isinstance(tree, dict) or _DIGEST not in tree:
        raise ValueError("no digest; of an earlier release?")
    rest = {name: tree[name] for name in tree if name != _DIGEST}
    if not rest or text != json_with_digest(rest, allow_nan=True):
        raise ValueError("its digest is another")
    return rest


def csv_text(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A line of names and a line a row, in full precision; empty where a value is None.

    A text that a spreadsheet would take for a formula gets the apostrophe that makes it a text there.
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([_no_formula(value) for value in row] for row in [head, *rows])
    return file.getvalue()


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
