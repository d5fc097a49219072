"""A store of format version 2, written by release 0.1 and kept as it was: every later release reads it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from cache.header import DONE, FAILED, PENDING
from cache.reader import Store

GOLDEN = Path(__file__).parent / "golden" / "store-2.h5"
IDS = ["plain", "spaced out/ümlaut 😀", "", "\udcff not utf-8", "last"]
VECTORS = [[0.5, -1.25, 3.0], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1e-30, -1e30, 65504.0]]


def test_the_golden_store_is_read_to_the_last_bit() -> None:
    store = Store.open(GOLDEN)
    states = store.scan()
    values, done = store.read(np.arange(5))
    assert store.ids == IDS
    assert states.tolist() == [DONE, DONE, FAILED, PENDING, DONE]
    assert done.tolist() == [True, True, False, False, True]
    assert values.tobytes() == np.array(VECTORS, "<f4").tobytes()
    assert store.reasons(states) == {2: "truncated: 12 of 32000 bytes of audio"}
    assert store.fingerprint == {"store_version": 2, "encoder": {"name": "golden", "weights": "sha256:00"}}
    assert store.layout.kind == "audio"
    assert store.column("stamp").tolist() == [[100 + row, 1_700_000_000_000_000_000 + row] for row in range(5)]
    assert store.column("length").tolist() == [16000, 32000, 0, 8000, 1]
    assert store.column("digest").tolist() == [[row + 1] * 16 if row != 3 else [0] * 16 for row in range(5)]


def test_the_golden_store_is_whole() -> None:
    store = Store.open(GOLDEN)
    assert store.checksum_matches()
    assert not store.inconsistent_rows().size


def test_plain_h5py_reads_the_golden_store() -> None:
    with h5py.File(GOLDEN) as file:
        assert dict(file.attrs) == {
            "format": "emotionrankclap-store",
            "version": 2,
            "kind": "audio",
            "fingerprint": '{"encoder":{"name":"golden","weights":"sha256:00"},"store_version":2}',
        }
        assert file["vectors"][:].tobytes() == np.array(VECTORS, "<f4").tobytes()
        assert file["state"][:].tolist() == [DONE, DONE, FAILED, PENDING, DONE]
