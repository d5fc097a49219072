"""YAML settings as a tree of plain values: text, numbers, yes or no, lists and mappings, and nothing else.

Tags that make other things are refused, as is a key that stands twice (YAML's reader keeps the last and is silent),
and a tree larger than any config: an alias may stand for another a thousand times over, ten deep.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UsageError
from pipeline.regular_file import opened

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
    with opened(path, "rb", expected="a YAML file") as file:
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
