"""heads.safetensors from a stranger, or from a disk that forgets: refused in one line, or exactly what was saved."""

from __future__ import annotations

import json
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipeline.core.errors import StoreCorrupt
from pipeline.training.heads import (
    HEADS_FORMAT,
    Heads,
    file_tensors,
    load_heads,
    load_tensors,
    save_heads,
    save_tensors,
)

ABOUT = {"method": "m", "seed": 0, "epoch": 2, "dev_loss": 1.5}
SHAPE = {"audio_width": 3, "text_width": 2, "width": 2, "activation": "relu"}
unpickled: list[str] = []  # what pickle looked up while `watched` holds something
watched: list[None] = []
sys.addaudithook(lambda event, args: unpickled.append(str(args)) if watched and event == "pickle.find_class" else None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    heads = Heads(3, 2, dim=2)
    heads.initialise(0)
    path = tmp_path_factory.mktemp("heads") / "heads.safetensors"
    save_heads(heads, path, ABOUT)
    return path.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place") / "heads.safetensors"


def contents(path: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    heads, about = load_heads(path)
    return {name: tensor.tolist() for name, tensor in heads.state_dict().items()}, about


def refused(path: Path) -> str:
    with pytest.raises(StoreCorrupt) as caught:
        load_heads(path)
    assert str(caught.value).isprintable()
    assert str(path) in str(caught.value)
    return str(caught.value)


def unchanged_or_refused(path: Path, data: bytes, whole: tuple[Any, Any]) -> bool:
    """Whether `data` was refused; where it was not, every weight must be what was saved."""
    path.write_bytes(data)
    try:
        found = contents(path)
    except StoreCorrupt as error:
        said = str(error)
    else:
        assert found == whole
        return False
    assert said.isprintable()
    return True


def test_a_header_of_100_mb_is_refused_unread(place: Path) -> None:
    """It took a minute and 2.4 GB to parse 1.7 million tensors of no size."""
    with open(place, "wb") as file:
        file.write((99_999_992).to_bytes(8, "little"))
        file.truncate(100_000_000)
    tracemalloc.start()
    assert "a header of 99,999,992 bytes" in refused(place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(saved: bytes, place: Path, bits: int) -> None:
    place.write_bytes(saved)
    whole = contents(place)
    (header,) = struct.unpack("<Q", saved[:8])
    for at in range(len(saved)):
        for bit in range(bits):
            changed = bytearray(saved)
            changed[at] ^= 1 << ((at if bits == 1 else 0) + bit) % 8
            noticed = unchanged_or_refused(place, bytes(changed), whole)
            assert noticed or at < 8 + header  # in a weight always


@pytest.mark.parametrize("cases", [150, pytest.param(20_000, marks=pytest.mark.exhaustive)])
def test_bytes_removed_inserted_or_overwritten_are_noticed_or_change_nothing(
    saved: bytes, place: Path, cases: int
) -> None:
    place.write_bytes(saved)
    whole = contents(place)

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(saved)), st.integers(0, 40), st.binary(max_size=40))
    def check(at: int, removed: int, inserted: bytes) -> None:
        data = saved[:at] + inserted + saved[at + removed :]
        unchanged_or_refused(place, data, whole)

    check()


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_file_cut_anywhere_is_refused(saved: bytes, place: Path, step: int) -> None:
    for size in {*range(0, len(saved), step), len(saved) - 1}:
        place.write_bytes(saved[:size])
        refused(place)
    place.write_bytes(saved + b"\0")
    refused(place)


def described(**changed: Any) -> dict[str, Any]:
    return {"format": HEADS_FORMAT, "heads": SHAPE | changed, "about": ABOUT}


def with_tensors(**changed: torch.Tensor | None) -> Callable[[Path], None]:
    """Heads whose checksum is right, as one who means harm would write it."""

    def write(path: Path) -> None:
        tensors = file_tensors(Heads(3, 2, dim=2)) | {n.replace("__", "."): t for n, t in changed.items()}
        save_tensors({name: t for name, t in tensors.items() if t is not None}, path, described())

    return write


def with_metadata(metadata: Any) -> Callable[[Path], None]:
    return lambda path: save_tensors(file_tensors(Heads(3, 2, dim=2)), path, metadata)


def with_text(text: str | None) -> Callable[[Path], None]:
    said = {"emotionrankclap": text} if text is not None else None
    return lambda path: save_file(file_tensors(Heads(3, 2, dim=2)), path, said)


def raw(header: Any, data: bytes = b"", *, size: int | None = None) -> Callable[[Path], None]:
    """A safetensors file put together by hand."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data) and None


def floats(begin: int, end: int, *shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


HOSTILE: dict[str, Callable[[Path], None]] = {
    "half precision": with_tensors(audio__weight=torch.zeros(2, 3).half()),
    "whole numbers": with_tensors(audio__weight=torch.zeros(2, 3, dtype=torch.int32)),
    "float8": with_tensors(audio__weight=torch.zeros(2, 3).to(torch.float8_e4m3fn)),
    "another shape": with_tensors(audio__weight=torch.zeros(3, 2)),
    "no rows": with_tensors(audio__weight=torch.zeros(0, 3)),
    "a tensor missing": with_tensors(text__bias=None),
    "a tensor too many": with_tensors(extra=torch.zeros(1)),
    "a name that a terminal obeys": with_tensors(**{"\x1b[2J\n": torch.zeros(1)}),
    "nan": with_tensors(audio__bias=torch.tensor([0.0, float("nan")])),
    "inf": with_tensors(log_scale=torch.tensor(float("inf"))),
    "a spread of zero": with_tensors(audio_spread=torch.tensor([1.0, 0.0, 1.0])),
    "a negative spread": with_tensors(text_spread=torch.tensor([1.0, -1.0])),
    "no metadata": with_text(None),
    "metadata that is no JSON": with_text("{"),
    "metadata without a checksum": with_text(json.dumps(described())),
    "metadata of a list": with_text("[]"),
    "metadata of a number": with_text("7"),
    "metadata nested 100,000 deep": with_text("[" * 100_000),
    "metadata of objects nested deep": with_text('{"a":' * 100_000),
    "a number of 10,000 digits": with_text('{"checksum": ' + "9" * 10_000 + "}"),
    "the format before": with_metadata(described() | {"format": "emotionrankclap-heads/1"}),
    "no format": with_metadata({}),
    "no shape": with_metadata({"format": HEADS_FORMAT, "about": {}}),
    "an unknown activation": with_metadata(described(activation="evil")),
    "an activation of no kind": with_metadata(described(activation=[])),
    "another width": with_metadata(described(width=3)),
    "a width of zero": with_metadata(described(width=0)),
    "a negative width": with_metadata(described(width=-1)),
    "a width that is true": with_metadata(described(width=True)),
    "a width in words": with_metadata(described(width="2")),
    "a fraction of a width": with_metadata(described(width=2.0)),
    "a width of 10^18": with_metadata(described(width=10**18)),
    "a width of 10^30": with_metadata(described(width=10**30)),
    "an argument too many": with_metadata(described(device="cuda")),
    "a shape that is none": with_metadata(described() | {"heads": [3, 2, 2, "relu"]}),
    "about that is none": with_metadata(described() | {"about": 3}),
    "10^12 values declared": raw({"a": floats(0, 4 * 10**12, 10**6, 10**6)}),
    "10^12 values in 4 bytes": raw({"a": floats(0, 4, 10**6, 10**6)}, b"\0" * 4),
    "a shape that overflows": raw({"a": floats(0, 0, 2**62, 2**62)}),
    "a negative shape": raw({"a": floats(0, 4, -1)}, b"\0" * 4),
    "nothing times very much": raw({"a": floats(0, 0, 0, 2**62), "__metadata__": {"emotionrankclap": "{}"}}),
    "tensors that overlap": raw({"a": floats(0, 8, 2), "b": floats(4, 12, 2)}, b"\0" * 12),
    "tensors with a hole": raw({"a": floats(0, 4, 1), "b": floats(8, 12, 1)}, b"\0" * 12),
    "a header longer than the file": raw({}, size=2**63),
    "a header of the largest size": raw({}, size=99_999_999),
    "a header nested deep": raw("[" * 10_000),
    "a header of no JSON": raw("x" * 40),
    "a name twice": raw('{"a": %s, "a": %s}' % ((json.dumps(floats(0, 4, 1)),) * 2), b"\0" * 4),
    "nothing": lambda path: path.write_bytes(b"") and None,
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_stranger_may_write_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    HOSTILE[case](tmp_path / "heads.safetensors")
    refused(tmp_path / "heads.safetensors")


def test_the_tensors_of_a_stranger_would_be_taken_were_they_right(tmp_path: Path) -> None:
    """Else the cases above might be refused for a reason of their own making."""
    with_tensors()(tmp_path / "a.safetensors")
    with_metadata(described())(tmp_path / "b.safetensors")
    assert load_heads(tmp_path / "a.safetensors")[1] == load_heads(tmp_path / "b.safetensors")[1] == ABOUT


def test_heads_described_as_huge_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "heads.safetensors"
    with_metadata(described(width=12_000, audio_width=12_000))(path)  # 576 MB
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak()
    assert "size mismatch" in refused(path) or "shape" in refused(path)
    assert peak() - before < 100_000


def peak() -> int:
    """Most memory so far, in kB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


class Exploit:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("write", [lambda o, p: p.write_bytes(pickle.dumps(o)), torch.save], ids=["pickle", "torch"])
def test_nothing_is_unpickled(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    path, mark = tmp_path / "heads.safetensors", tmp_path / "mark"
    write({"audio.weight": Exploit(mark)}, path)
    unpickled.clear()
    watched.append(None)
    try:
        refused(path)
        with pytest.raises(StoreCorrupt):
            load_tensors(path)
    finally:
        watched.clear()
    assert unpickled == []
    assert not mark.exists()
