"""A corpus that cannot be read is said last and loud, and a run without a single row is not a success."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.commands.extract_features import main
from tests.speech import QUICK_OPTIONS, write_corpus

POINTER = Path(__file__).parents[1] / "data/corpora/cases/lfs_pointer.wav"


def run(manifest: Path, *options: str) -> Result:
    return CliRunner().invoke(main, [str(manifest), "--out", str(manifest.parent / "s"), *QUICK_OPTIONS, *options])


def audio_of(manifest: Path) -> list[Path]:
    return [manifest.parent / row["audio"] for row in csv.DictReader(manifest.read_text().splitlines())]


LFS = b"version https://git-lfs.github.com/spec/v1"
POINTERS = {
    "the case": POINTER.read_bytes(),
    "another size": LFS + b"\noid sha256:" + b"0f" * 32 + b"\nsize 7\n",
    "Windows' line ends": LFS + b"\r\noid sha256:" + b"a1" * 32 + b"\r\nsize 123456789\r\n",
    "an extension": LFS + b"\next-0-foo sha256:" + b"b2" * 32 + b"\noid sha256:" + b"c3" * 32 + b"\nsize 99\n",
}


@pytest.mark.parametrize("pointer", POINTERS.values(), ids=POINTERS)
def test_a_clone_without_git_lfs_is_named_and_exits_1(pointer: bytes, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "c", 8)
    for path in audio_of(manifest):
        path.write_bytes(pointer)
    ended = run(manifest)
    assert ended.exit_code == 1
    assert ended.stdout.count("a git-lfs pointer, not audio: run git lfs pull") == 8
    last = ended.stderr.splitlines()[-1]
    assert "8 of 8 utterances failed (100.0%): 8 times a git-lfs pointer, not audio: run git lfs pull" in last


@pytest.mark.parametrize("content", [b"no audio", b"", b"<html>404</html>"])
def test_no_row_done_is_no_success(content: bytes, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "c", 4)
    for path in audio_of(manifest):
        path.write_bytes(content)
    assert run(manifest).exit_code == 1


@pytest.mark.parametrize(("failed", "loud"), [(1, False), (3, True)])
def test_more_than_5_percent_failed_is_said_last(failed: int, loud: bool, tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "c", 24)
    for path in audio_of(manifest)[:failed]:
        path.write_bytes(POINTER.read_bytes())
    ended = run(manifest)
    assert ended.exit_code == 0
    line = f"WARNING: {failed} of 24 utterances failed ({failed / 24:.1%})"
    assert (line in ended.stderr.splitlines()[-1]) == loud
