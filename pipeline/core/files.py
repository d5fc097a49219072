"""A user's files: opened only where they are regular, JSON and YAML with every fault in one line, CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from pipeline.core.errors import UsageError


def open_regular(
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


MOST_BYTES = 1 << 20
MOST_VALUES = 10_000
DEEPEST = 100  # brackets in brackets
_PREFIX = "tag:yaml.org,2002:"
_PLAIN = tuple(f"{_PREFIX}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError)  # as `!!bool maybe` raises them


class ValuesRefused(yaml.MarkedYAMLError):
    """YAML that is well formed and no config: too large or too deep, or a key that stands twice."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, sets and bytes: `2024-01-01` is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN or tag.endswith(":merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token: Any) -> None:
        """The reader looks ahead from every open bracket: thousands of them take seconds."""
        if self.flow_level >= DEEPEST:
            raise ValuesRefused(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _PLAIN:
            raise yaml.constructor.ConstructorError(None, None, f"a value of tag {node.tag[:60]!r}", node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except _BROKEN:
            kind = node.tag.removeprefix(_PREFIX)
            raise yaml.constructor.ConstructorError(None, None, f"no value of kind {kind}", node.start_mark) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UsageError with the line of what is wrong."""
    with open_regular(path, "rb", expected="a YAML file") as file:
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        raise UsageError(path, f"more than {MOST_BYTES:,} bytes", "a config", "Check the path.")
    try:
        tree = parse_yaml(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = 1 + raw.count(b"\n", 0, error.start)
        raise UsageError(f"{path}:{line}", "not UTF-8", "YAML in UTF-8", "Correct the file.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        found = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML")
        raise UsageError(where, found, "valid YAML", "Correct the file.") from None
    if not isinstance(tree, dict):
        found = "empty" if tree is None else f"a {type(tree).__name__}"
        raise UsageError(path, found, "a mapping of settings", "Correct the file.")
    return tree


def parse_yaml(text: str) -> Any:
    """The value of `text`. Raises yaml.YAMLError, with a `problem` and its place where it has one."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_bombs(node)
        return loader.construct_document(node)
    except RecursionError:
        raise ValuesRefused(problem="nested too deeply") from None
    finally:
        loader.dispose()


def _refuse_bombs(root: yaml.Node) -> None:
    """Count values as they would be written without aliases, before any of them is made; a key counts once."""
    left, count = [root], 0
    while left:
        node = left.pop()
        count += 1
        if count > MOST_VALUES:
            found = f"more than {MOST_VALUES:,} values, aliases written out"
            raise ValuesRefused(problem=found, problem_mark=root.start_mark)
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(node)
            left += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            left += node.value


def _refuse_twice(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag == f"{_PREFIX}merge" or not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            raise ValuesRefused(problem=f"{key.value[:60]!r} stands twice", problem_mark=key.start_mark)
        seen.add(key.value)


def csv_text(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A line of names and a line a row, in full precision; empty where a value is None."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return file.getvalue()
