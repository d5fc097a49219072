"""A user's files: opened only where they are regular files; JSON, YAML and CSV, every fault in one line.

PyYAML and json are narrowed here: no tags, dates or repeated keys, and limits on size and depth that they lack.
"""

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

from cache.errors import UsageError


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


_MAX_YAML_BYTES = 1 << 20
_MAX_YAML_VALUES = 10_000
_MAX_YAML_DEPTH = 100  # brackets in brackets
_TAG_PREFIX = "tag:yaml.org,2002:"
_PLAIN_TAGS = tuple(f"{_TAG_PREFIX}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
_BAD_VALUE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError)  # as `!!bool maybe` raises


class YamlRefused(yaml.MarkedYAMLError):
    """YAML that is well formed but not a config: too large or too deep, or a repeated key."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without dates, sets and bytes: `2024-01-01` is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN_TAGS or tag.endswith(":merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, token: Any) -> None:
        """The reader looks ahead from every open bracket: thousands of them take seconds."""
        if self.flow_level >= _MAX_YAML_DEPTH:
            raise YamlRefused(problem="nested too deeply", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _PLAIN_TAGS:
            raise yaml.constructor.ConstructorError(None, None, f"a value of tag {node.tag[:60]!r}", node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except _BAD_VALUE:
            kind = node.tag.removeprefix(_TAG_PREFIX)
            raise yaml.constructor.ConstructorError(None, None, f"no value of kind {kind}", node.start_mark) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UsageError with the line of what is wrong."""
    with open_regular(path, "rb", expected="a YAML file") as file:
        raw = file.read(_MAX_YAML_BYTES + 1)
    if len(raw) > _MAX_YAML_BYTES:
        raise UsageError(path, f"more than {_MAX_YAML_BYTES:,} bytes", "a config", "Check the path.")
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
        _check_size_and_keys(node)
        return loader.construct_document(node)
    except RecursionError:
        raise YamlRefused(problem="nested too deeply") from None
    finally:
        loader.dispose()


def _check_size_and_keys(root: yaml.Node) -> None:
    """Count values as if aliases were written out, before any is made: an alias bomb is small in bytes.

    Raises YamlRefused, also for a repeated key.
    """
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > _MAX_YAML_VALUES:
            found = f"more than {_MAX_YAML_VALUES:,} values, aliases written out"
            raise YamlRefused(problem=found, problem_mark=root.start_mark)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG_PREFIX}merge":
                    if key.value in seen:
                        raise YamlRefused(problem=f"{key.value[:60]!r} appears twice", problem_mark=key.start_mark)
                    seen.add(key.value)
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def csv_text(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A line of names and a line a row, in full precision; empty where a value is None."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return file.getvalue()
