"""A CTranslate2 model file, binary version 6 (F35): named arrays, little-endian, nothing executed.

u32 version, string spec, u32 revision, u32 count
per variable: string name, u8 rank, u32 per dimension, u8 type, u32 byte count, bytes
u32 aliases, two strings each; a string is a u16 length and its bytes, the last one a NUL
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import torch

from pipeline.core.errors import UsageError

VERSION = 6
_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}


def parse(data: bytes, subject: object, spec: str) -> dict[str, torch.Tensor]:
    """All variables and aliases of a model of `spec` (`WhisperSpec`), as float32 where they are float16.

    Raises UsageError for a truncated file, bytes left over, another version or another spec.
    """
    reader = _Reader(data, subject)
    version = reader.number("<I", "the version")
    if version != VERSION:
        raise reader.wrong(f"version {version}", f"version {VERSION} of CTranslate2's binary format")
    found = reader.string("the spec")
    if found != spec:
        raise reader.wrong(f"a {found!r}", f"a {spec}")
    reader.number("<I", "the revision")
    variables = dict(_variable(reader) for _ in range(reader.number("<I", "the number of variables")))
    for _ in range(reader.number("<I", "the number of aliases")):
        alias, name = reader.string("an alias"), reader.string("an alias")
        if name not in variables:
            raise reader.wrong(f"alias {alias} of {name!r}, which is not there", "an alias of a variable")
        variables[alias] = variables[name]
    if reader.at != len(data):
        raise reader.wrong(f"{len(data) - reader.at} bytes after the end", "none")
    return variables


class _Reader:
    """A position in the bytes; every read is checked against their end."""

    def __init__(self, data: bytes, subject: object) -> None:
        self.data, self.subject, self.at = memoryview(data), subject, 0

    def take(self, count: int, what: str) -> memoryview:
        if self.at + count > len(self.data):
            raise self.wrong(f"ends within {what} (byte {len(self.data)})", f"{self.at + count} bytes or more")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind: str, what: str) -> int:
        value: int = struct.unpack(kind, self.take(struct.calcsize(kind), what))[0]
        return value

    def string(self, what: str) -> str:
        raw = bytes(self.take(self.number("<H", what), what))
        try:
            return raw.rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong(f"{what} is not text", "a CTranslate2 model") from None

    def wrong(self, found: str, expected: str) -> UsageError:
        return UsageError(self.subject, found, expected, "Install the package again.")


def _variable(reader: _Reader) -> tuple[str, torch.Tensor]:
    name = reader.string("a variable's name")
    shape = [reader.number("<I", name) for _ in range(reader.number("B", name))]
    kind = reader.number("B", name)
    if kind not in _TYPES:
        raise reader.wrong(f"{name} of type {kind}", f"a type from 0 to {max(_TYPES)}")
    size = reader.number("<I", name)
    if size != math.prod(shape) * _TYPES[kind].itemsize:
        raise reader.wrong(f"{name} {tuple(shape)} of type {kind} in {size} bytes", "bytes that fit the shape")
    array = np.frombuffer(bytes(reader.take(size, name)), _TYPES[kind]).reshape(shape)
    return name, torch.tensor(array.astype(np.float32) if array.dtype.kind == "f" else array)
