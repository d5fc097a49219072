"""The fused step's library: compiled once, kept, and a line where it cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core.files import CACHE_VARIABLE
from pipeline.training import fused_library
from pipeline.training.fused_library import COMPILER, Unavailable, load_library


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what is compiled."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path / "compiled"


def test_without_a_compiler_or_with_a_broken_one_it_says_what_is_missing(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMPILER, "no-such-compiler -O2")
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler \(no-such-compiler: No such file"):
        load_library.__wrapped__()
    monkeypatch.setenv(COMPILER, "false")
    with pytest.raises(Unavailable, match=r"false could not compile it \(exit 1\)"):
        load_library.__wrapped__()
    assert not fresh.exists()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_source_that_does_not_compile_is_quoted(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_library, "SOURCE", tmp_path / "other.cpp")
    (tmp_path / "other.cpp").write_text("int main( {")
    monkeypatch.delenv(COMPILER, raising=False)
    with pytest.raises(Unavailable, match=r"c\+\+ could not compile it \(.*error"):
        load_library.__wrapped__()
    assert not fresh.exists()


def test_what_was_compiled_is_kept_and_a_damaged_one_is_not_used(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compiled(built: Path) -> None:
        calls.append(built)
        built.write_bytes(b"whole")

    monkeypatch.setattr(fused_library, "_compile", compiled)
    monkeypatch.setattr(fused_library, "ctypes", SimpleNamespace(CDLL=lambda path: Path(path).read_bytes()))
    assert [load_library.__wrapped__() for _ in range(2)] == [b"whole"] * 2
    assert len(calls) == 1
    (kept,) = fresh.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + b"f", whole[:3]):
        kept.write_bytes(damaged)
        assert load_library.__wrapped__() == b"whole"
        assert kept.read_bytes() == whole
    assert len(calls) == 5
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert load_library.__wrapped__() == b"whole"
    assert len(calls) == 6
