"""Damage to a store's file is found and told apart, and no byte of a foreign file reaches HDF5."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cache.errors import StoreCorrupt
from cache.header import DONE, FORMAT, PENDING, encode_header
from cache.layers import Axes
from cache.reader import Store
from cache.writer import StoreWriter, open_for_writing
from tests.cache.stores_of import digest_of, filled, rows_of, spec_of, vector_of


@pytest.mark.parametrize("stride", [97, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("axes", [None, Axes((0, 4), ("mean", "std"), 2, own=3)], ids=["vectors", "layers"])
def test_every_flipped_bit_is_found(tmp_path: Path, stride: int, axes: Axes | None) -> None:
    """The header's first line bit by bit, the rest one bit in every `stride`, or all."""
    dim = sum(axes.sizes) if axes else 2
    store, _ = open_for_writing(spec_of(tmp_path / "a.h5", rows_of(5), dim=dim, axes=axes))
    with StoreWriter(store) as writer:
        for row in (0, 3):
            writer.commit(row, vector_of(row, dim), digest_of(row))
        writer.fail(1, "reason", digest_of(1))
    data = store.path.read_bytes()
    assert not _found(store.path)
    bits = [(place, bit) for place in range(60) for bit in range(8)]
    bits += [(place, bit) for place in range(60, len(data)) for bit in range(8) if (place * 8 + bit) % stride == 0]
    with open(store.path, "r+b", buffering=0) as file:
        for place, bit in bits:
            os.pwrite(file.fileno(), bytes([data[place] ^ 1 << bit]), place)
            assert _found(store.path), f"bit {bit} of byte {place}"
            os.pwrite(file.fileno(), data[place : place + 1], place)


@pytest.mark.parametrize("stride", [151, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_file_cut_anywhere_is_found(tmp_path: Path, stride: int) -> None:
    path = filled(tmp_path / "a.h5", 3, dim=2).path
    data = path.read_bytes()
    for length in [*range(0, len(data), stride), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(StoreCorrupt, match="empty" if length == 0 else "truncated|another kind|header was changed"):
            Store.open(path)


def _found(path: Path) -> bool:
    try:
        store = Store.open(path)
        return bool(store.inconsistent_rows().size or not store.checksum_matches())
    except StoreCorrupt:
        return True


def _version_of_tomorrow(data: bytes) -> bytes:
    start = len(FORMAT) + 9
    rest = data[start:4096].replace(b" 4096 2\n", b" 4096 9\n", 1)
    return f"{FORMAT} {zlib.crc32(rest):08X}".encode() + rest + data[4096:]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda data: b"", "an empty file"),
        (lambda data: b"RIFF" * 100, "another kind of file"),
        (lambda data: data[4096:], "another kind of HDF5 file, or a store of version 1"),
        (lambda data: data[: len(data) // 2], r"truncated, [\d,]+ bytes; expected [\d,]+ bytes"),
        (lambda data: data[:-1], r"truncated, [\d,]+ bytes; expected [\d,]+ bytes"),
        (lambda data: data[:2000], "truncated: it ends within its header"),
        (lambda data: data + b"\0", "bytes were added to it, "),
        (lambda data: data.replace(b"-store", b"-stork", 1), "another kind of file"),
        (lambda data: data.replace(b" 4096 2\n", b" 4096 x\n", 1), "its header was changed"),
        (lambda data: data.replace(b" 4096 2\n", b" 8192 2\n", 1), "its header was changed"),
        (lambda data: data.replace(b" 4096 2\n", b" 4096 9\n", 1), "its header was changed"),
        (lambda data: data.replace(b'"kind":"audio"', b'"kind":"vodka"', 1), "its header was changed"),
        (_version_of_tomorrow, "store version 9; expected version 2 or 3. Use the release that wrote it"),
    ],
)
def test_files_that_are_no_store_are_told_apart_in_a_line(tmp_path: Path, damage, found: str) -> None:
    path = filled(tmp_path / "a.h5").path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreCorrupt, match=found) as caught:
        Store.open(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_row_that_changes_between_the_scan_and_the_copy_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path / "a.h5", 4).path
    scan = Store.scan

    def scan_and_spoil(store: Store) -> np.ndarray:
        states = scan(store)
        with open(path, "r+b") as file:
            file.seek(store.layout.extents["vectors"].offset + 2 * 28)
            file.write(b"\xff")
        return states

    monkeypatch.setattr(Store, "scan", scan_and_spoil)
    store, reused = open_for_writing(spec_of(path, rows_of(5)))
    monkeypatch.undo()
    assert reused == 3
    assert store.scan().tolist() == [DONE, DONE, PENDING, DONE, PENDING]
    assert not store.inconsistent_rows().size


def test_what_is_no_file_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreCorrupt, match="no such file"):
        Store.open(tmp_path / "a.h5")
    with pytest.raises(StoreCorrupt, match="not a file"):
        Store.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreCorrupt, match="not a file"):
        Store.open(tmp_path / "pipe")


def _moved(name: str, offset: int):
    def lie(fields: dict[str, Any]) -> None:
        fields["datasets"][name][0] = offset

    return lie


def _reshaped(name: str, *shape: Any):
    def lie(fields: dict[str, Any]) -> None:
        fields["datasets"][name][1] = list(shape)

    return lie


def _nested(fields: dict[str, Any]) -> None:
    tree: dict[str, Any] = {}
    for _ in range(200):
        tree = {"a": tree}
    fields["fingerprint"] = [tree]


@pytest.mark.parametrize(
    "lie",
    [
        _moved("crc", 0),
        _moved("state", 5000),
        _moved("vectors", -8),
        _moved("vectors", 1 << 62),
        _moved("vectors", "vectors"),
        _moved("vectors", None),
        _reshaped("vectors", 10**12, 7),
        _reshaped("vectors", -1, 7),
        _reshaped("vectors", 9),
        _reshaped("vectors", [], {}),
        _reshaped("id_bytes", 10**9),
        _reshaped("state", 8),
        lambda fields: fields["datasets"].pop("digest"),
        lambda fields: fields["datasets"].update(more=[9000, [1], "<f4"]),
        lambda fields: fields["datasets"]["vectors"].__setitem__(2, "<f8"),
        lambda fields: fields["datasets"]["vectors"].__setitem__(2, "O"),
        lambda fields: fields["datasets"]["vectors"].__setitem__(2, {"a": 1}),
        lambda fields: fields.update(bytes="many"),
        lambda fields: fields.update(datasets=[1, 2]),
        lambda fields: fields.update(fingerprint=3),
        lambda fields: fields.pop("seal"),
        lambda fields: fields.clear(),
        _nested,
    ],
)
def test_a_header_that_lies_under_a_right_checksum_is_refused(tmp_path: Path, lie) -> None:
    path = filled(tmp_path / "a.h5").path
    data = path.read_bytes()
    fields = json.loads(data[data.index(b"\n") : 4096].rstrip(b"\0"))
    lie(fields)
    path.write_bytes(encode_header(4096, fields) + data[4096:])
    with pytest.raises(StoreCorrupt, match="its header is not that of any store"):
        Store.open(path)


def test_a_encode_header_no_json_under_a_right_checksum_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.h5").path
    data = path.read_bytes()
    for text in (b"[" * 3900, b"[]", b"null", b"\xff", b"", b'{"bytes":1' + b"0" * 3500 + b"}"):
        rest = b" 4096 2\n" + text.ljust(4096 - len(FORMAT) - 17, b"\0")
        path.write_bytes(f"{FORMAT} {zlib.crc32(rest):08X}".encode() + rest + data[4096:])
        with pytest.raises(StoreCorrupt, match="its header is not that of any store"):
            Store.open(path)


@pytest.mark.parametrize("trap", ["external link", "soft link", "virtual dataset", "external storage", "filter"])
def test_hdf5_tricks_are_never_followed(tmp_path: Path, trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `vectors` is put into the HDF5 part of a store; what is read are the rows of its own header."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["vectors"] = np.full((9, 7), 13.0, "<f4")
    path = filled(tmp_path / "a.h5").path
    with h5py.File(path, "r+") as file:
        del file["vectors"]
        if trap == "external link":
            file["vectors"] = h5py.ExternalLink(str(secret), "vectors")
        elif trap == "soft link":
            file["vectors"] = h5py.SoftLink("/reason")
        elif trap == "virtual dataset":
            layout = h5py.VirtualLayout((9, 7), "<f4")
            layout[:] = h5py.VirtualSource(str(secret), "vectors", (9, 7))
            file.create_virtual_dataset("vectors", layout)
        elif trap == "external storage":
            file.create_dataset("vectors", (9, 7), "<f4", external=[(str(secret), 0, 252)])
        else:
            file.create_dataset("vectors", data=np.full((9, 7), 13.0, "<f4"), compression="gzip")
    monkeypatch.setattr(h5py, "File", None)  # whoever opens it with HDF5 fails
    try:
        store = Store.open(path)
        values, done = store.read(np.arange(9))
    except StoreCorrupt:
        return  # HDF5 made the file longer
    assert not (values == 13).any()
    assert all(np.array_equal(values[row], vector_of(row, 7)) for row in np.flatnonzero(done))
    assert not store.checksum_matches()


def test_reading_a_store_does_not_load_hdf5(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = filled(tmp_path / "a.h5").path
    program = (
        "import sys\nfrom pathlib import Path\nfrom cache.reader import Store\n"
        "store = Store.open(Path(sys.argv[1]))\nassert store.scan().all()\nassert 'h5py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)
