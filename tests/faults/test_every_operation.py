"""Every call that touches the disk in a small extraction fails once: nothing wrong is kept, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache import disk
from cache.errors import EmotionRankError
from cache.stores import open_stores
from tests.faults.faulty_os import Crash, FaultyOs
from tests.faults.small import check_rows, contents, quick_encoders, run_small, small_corpus

HOWS = {
    "crash": (Crash, False),
    "full disk": (errno.ENOSPC, True),
    "full disk for a moment": (errno.ENOSPC, False),
    "broken disk": (errno.EIO, False),
    "no permission": (errno.EACCES, False),
    "read-only": (errno.EROFS, True),
}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    quick_encoders(monkeypatch)
    return small_corpus(tmp_path / "corpus")


@pytest.fixture
def whole(small: Path, tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed run leaves."""
    run_small(small, tmp_path / "whole")
    return contents(tmp_path / "whole")


@pytest.fixture(params=["new", "grown", "failed rows again"])
def begin(request: pytest.FixtureRequest, small: Path, tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """Puts a folder where the disturbed run finds it, and returns what the run is asked for."""
    before = tmp_path / "before"
    if request.param == "grown":
        lines = small.read_text().splitlines(keepends=True)
        fewer = small.with_name("fewer.csv")
        fewer.write_text("".join([lines[0], lines[3], *lines[1:3], *lines[5:]]))  # another order, and one is missing
        run_small(fewer, before)
    elif request.param == "failed rows again":
        run_small(small, before)

    def begin(out: Path) -> dict[str, Any]:
        if before.exists():
            shutil.copytree(before, out)
        return {"retry_failed": True} if request.param == "failed rows again" else {}

    return begin


def _places(count: int, stride: int, start: int) -> Iterator[int]:
    """Every `stride`-th call, the first and the last."""
    yield from sorted({0, count - 1, *range(start % stride, count, stride)})


def _disturbed(
    out: Path, manifest: Path, fault: FaultyOs, patch: pytest.MonkeyPatch, **options: Any
) -> BaseException | None:
    with patch.context() as patched:
        patched.setattr(disk, "os", fault)
        try:
            run_small(manifest, out, **options)
        except (Crash, EmotionRankError) as error:
            return error
    return None


@pytest.mark.parametrize("stride", [61, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("how", HOWS)
def test_after_a_fault_anywhere_the_next_run_ends_as_if_nothing_had_happened(
    small: Path,
    whole: dict[str, bytes],
    begin: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    stride: int,
) -> None:
    kind, lasting = HOWS[how]
    undisturbed, counted = FaultyOs(), tmp_path / "counted"
    options = begin(counted)
    assert _disturbed(counted, small, undisturbed, monkeypatch, **options) is None
    assert contents(counted) == whole
    for k in _places(len(undisturbed.calls), stride, list(HOWS).index(how)):
        out = tmp_path / f"out{k}"
        begin(out)
        fault = FaultyOs(k, kind, lasting=lasting)
        error = _disturbed(out, small, fault, monkeypatch, **options)
        assert fault.failed_name or fault.dead, k
        if out.exists():
            check_rows(out, tmp_path / "whole")
            if how != "crash":
                assert contents(out).keys() <= whole.keys() | _left(fault), k
        if error is not None:
            assert _says_what_to_do(error, out), error
        run_small(small, out)
        assert contents(out) == whole, k
        shutil.rmtree(out)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_no_utterance_has_another_ones_captions_after_a_crash(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    """A run on a manifest in another order that died before its captions were written left them to other utterances."""
    run_small(small, tmp_path / "before")
    lines = small.read_text().splitlines(keepends=True)
    turned = small.with_name("turned.csv")
    turned.write_text("".join([lines[0], *lines[:0:-1]]))
    right, counted, refused = _captions(tmp_path / "before"), FaultyOs(), 0
    shutil.copytree(tmp_path / "before", tmp_path / "counted")
    assert _disturbed(tmp_path / "counted", turned, counted, monkeypatch) is None
    assert _captions(tmp_path / "counted") == right
    for k in range(0, len(counted.calls), stride):
        out = tmp_path / f"out{k}"
        shutil.copytree(tmp_path / "before", out)
        _disturbed(out, turned, FaultyOs(k, Crash), monkeypatch)
        try:
            assert _captions(out) == right, k
        except EmotionRankError:
            refused += 1
        run_small(turned, out)
        assert _captions(out) == right
    assert refused < len(range(0, len(counted.calls), stride)) / 2


def _captions(out: Path) -> dict[str, set[str]]:
    """The captions of each utterance."""
    stores = open_stores(out)
    assert len(stores.audio) == len(stores.manifest)
    texts, links = stores.captions.texts(), stores.captions.links("template", len(stores.manifest))
    assert len(stores.text) == len(texts)
    of_row = [links.text[links.offsets[row] : links.offsets[row + 1]] for row in range(len(stores.manifest))]
    return {name: {texts[text] for text in row} for name, row in zip(stores.manifest.id, of_row, strict=True)}


def _left(fault: FaultyOs) -> set[str]:
    """A file that may stay half-written: the one that could not be deleted."""
    return {Path(call.args[0]).name for call in fault.calls if call.name == "unlink" and call.result is None}


def _says_what_to_do(error: BaseException, out: Path) -> bool:
    if isinstance(error, Crash):
        return True
    text = str(error)
    actions = ("Free space and run it again", "Check who owns it", "Check the disk and run it again")
    return text.startswith(str(out.parent)) and "\n" not in text and any(action in text for action in actions)


def test_most_faults_are_told(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No failing disk is passed over in silence."""
    undisturbed = FaultyOs()
    _disturbed(tmp_path / "counted", small, undisturbed, monkeypatch)
    for k in range(3, len(undisturbed.calls), 29):
        assert _disturbed(tmp_path / f"out{k}", small, FaultyOs(k, errno.EIO), monkeypatch) is not None, k


def test_what_a_killed_run_left_half_written_is_cleared_away(
    small: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    for name in ("audio.h5.partial", "captions.jsonl.partial"):
        (tmp_path / "whole" / name).write_bytes(b"half a fi")
    run_small(small, tmp_path / "whole")
    assert contents(tmp_path / "whole") == whole


class _HaltingOs(FaultyOs):
    """Writes and reads at most ten bytes at once, as a network's disk may."""

    def pwrite(self, handle: int, data: bytes | memoryview, offset: int) -> int:
        return os.pwrite(handle, data[:10], offset)

    def preadv(self, handle: int, buffers: list[memoryview], offset: int) -> int:
        return os.preadv(handle, [buffers[0][:10]], offset)


def test_writes_and_reads_in_parts_are_finished(
    small: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _disturbed(tmp_path / "out", small, _HaltingOs(), monkeypatch) is None
    assert contents(tmp_path / "out") == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    with pytest.raises(EmotionRankError, match=r"Permission denied.*Check who owns it"):
        run_small(small, out)
    assert list(out.iterdir()) == []


def test_a_file_system_that_reserves_no_blocks_does(
    small: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FaultyOs(0, errno.EOPNOTSUPP, lasting=True, counted=("posix_fallocate",))
    assert _disturbed(tmp_path / "out", small, fault, monkeypatch) is None
    assert contents(tmp_path / "out") == whole
