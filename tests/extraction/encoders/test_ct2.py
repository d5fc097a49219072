"""CTranslate2's binary format: what was written is read, and anything else is refused in words."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest
import torch

from pipeline.core.errors import UsageError
from pipeline.extraction.encoders.embedded import parse_ctranslate2

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def string(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def write(variables: dict[str, np.ndarray], aliases: dict[str, str] | None = None, *, version: int = 6) -> bytes:
    data = struct.pack("<I", version) + string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        data += string(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        data += struct.pack("<BI", TYPES[array.dtype.name], array.nbytes) + array.tobytes()
    data += struct.pack("<I", len(aliases or {}))
    return data + b"".join(string(alias) + string(name) for alias, name in (aliases or {}).items())


VARIABLES = {
    "encoder/conv1/weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3) / 7,
    "encoder/half": np.array([0.5, -2.25], np.float16),
    "encoder/num_heads": np.array(6, np.int16),
    "decoder/int8": np.array([[-128, 127]], np.int8),
    "decoder/ids": np.array([70000], np.int32),
}


def test_every_type_rank_and_alias_is_read():
    found = parse_ctranslate2(write(VARIABLES, {"tied": "encoder/half"}), "file", "WhisperSpec")
    assert set(found) == {*VARIABLES, "tied"}
    for name, array in VARIABLES.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name].numpy(), array.astype(found[name].numpy().dtype))
    assert found["encoder/half"].dtype == torch.float32
    assert torch.equal(found["tied"], found["encoder/half"])


def test_a_file_cut_anywhere_is_refused():
    whole = write(VARIABLES, {"tied": "encoder/half"})
    for length in range(len(whole)):
        with pytest.raises(UsageError, match="ends within"):
            parse_ctranslate2(whole[:length], "file", "WhisperSpec")


def test_any_byte_changed_gives_arrays_or_a_refusal():
    whole = write(VARIABLES, {"tied": "encoder/half"})
    for at in range(len(whole)):
        with suppress(UsageError):
            parse_ctranslate2(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :], "file", "WhisperSpec")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (write(VARIABLES, version=5), "version 5"),
        (b"\x80\x02}q\x00." * 20, "version"),
        (write(VARIABLES).replace(b"WhisperSpec", b"WhimperSpec"), "WhimperSpec"),
        (write(VARIABLES) + b"more", "4 bytes after the end"),
        (write(VARIABLES, {"tied": "nothing"}), "alias tied"),
        (write({"x": np.zeros(2, np.float32)}).replace(struct.pack("<BI", 0, 8), struct.pack("<BI", 9, 8)), "type 9"),
        (write({"x": np.zeros(2, np.float32)}).replace(struct.pack("<BI", 0, 8), struct.pack("<BI", 4, 8)), "8 bytes"),
    ],
)
def test_a_foreign_file_is_refused_in_words(data, text):
    with pytest.raises(UsageError, match=text):
        parse_ctranslate2(data, "file", "WhisperSpec")
