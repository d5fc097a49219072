"""A folder of stores with any file of it spoilt: each command reads it, or says what is wrong in a line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st

from pipeline.commands.evaluate_heads import main as evaluate_heads
from pipeline.commands.extract_features import main as extract_features
from pipeline.commands.train_heads import main as train_heads
from tests.inputs.commands import at_most
from tests.inputs.counts import cases, hold
from tests.inputs.mutations import spoilt
from tests.stage_two import EVALUATION, TRAINING, run_command, tree

TEXT = ("manifest.csv", "captions.jsonl", "digests.json")
STORES = ("audio.h5", "text.h5")


@pytest.fixture(scope="module")
def run(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "r"
    assert run_command(train_heads, small, "--out", out, *TRAINING).exit_code == 0
    return out


@cases(25, 1000)
@pytest.mark.parametrize("name", [*TEXT, *STORES])
def test_a_spoilt_folder_of_stores_is_read_or_refused_in_a_line(
    small: Path, run: Path, tmp_path: Path, name: str, count: int
) -> None:
    folder, out = tmp_path / "stores", tmp_path / "out"
    shutil.copytree(small, folder)
    good = (folder / name).read_bytes()

    def holds(content: bytes) -> None:
        (folder / name).write_bytes(content)
        before = tree(folder)
        shutil.rmtree(out, ignore_errors=True)
        words = {
            "status": (extract_features, "x", "--out", folder, "--status"),
            "verify": (extract_features, "x", "--out", folder, "--verify"),
            "train": (train_heads, folder, "--out", out, *TRAINING),
            "evaluate": (evaluate_heads, folder, run, *EVALUATION),
        }
        with at_most(60):
            codes = {what: run_command(*command).exit_code for what, command in words.items()}
        assert codes["status"] in (0, 5), codes
        assert codes["verify"] in (0, 5), codes
        assert content == good or codes["verify"] == 5, "damage is found"
        assert content == good or name in STORES or set(codes.values()) == {5}, f"damage is found: {codes}"
        assert codes["train"] in (0, 1, 2, 4, 5), codes
        assert tree(folder) == before
        assert not list(out.rglob("*.partial"))
        (run / "evaluation.json").unlink(missing_ok=True)

    hold(holds, spoilt(good) if name in TEXT else _damaged(good), count)


def _damaged(good: bytes) -> st.SearchStrategy[bytes]:
    """Flipped bits, cuts, blocks that are overwritten, gone, doubled or swapped, and other files."""
    places = st.integers(0, len(good) - 1)
    flips = st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=4).map(lambda at: _flipped(good, at))
    blocks = (
        st.tuples(places, places, places)
        .map(sorted)
        .flatmap(
            lambda at: st.sampled_from(
                [
                    good[: at[0]],
                    good + good[at[0] : at[1]],
                    good[: at[0]] + good[at[1] :],
                    good[: at[1]] + good[at[0] :],
                    good[: at[0]] + good[at[1] : at[2]] + good[at[0] : at[1]] + good[at[2] :],
                    good[: at[0]] + bytes(at[1] - at[0]) + good[at[1] :],
                    good[at[0] :],
                ]
            )
        )
    )
    return st.one_of(flips, blocks, st.sampled_from([b"", b"\0" * len(good), b"RIFF" + good]))


def _flipped(good: bytes, at: list[tuple[int, int]]) -> bytes:
    content = bytearray(good)
    for place, bits in at:
        content[place] ^= bits
    return bytes(content)


@pytest.mark.parametrize("name", ["manifest.csv", "captions.jsonl", "audio.h5", "text.h5"])
def test_a_file_that_is_gone_or_a_folder_is_named(small: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "stores"))
    (folder / name).unlink()
    for _ in ("gone", "a folder"):
        result = run_command(extract_features, "x", "--out", folder, "--status")
        assert result.exit_code == 2
        assert f"{name} is missing" in result.stderr
        (folder / name).mkdir(exist_ok=True)


def test_stores_of_two_extractions_in_one_folder_are_told(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "stores"))
    shutil.copy(folder / "text.h5", folder / "audio.h5")
    for words in ("not the store that digests.json lists", "other rows than the folder's manifest and captions"):
        for command in (
            (train_heads, folder, "--out", tmp_path / "o"),
            (extract_features, "x", "--out", folder, "--verify"),
        ):
            result = run_command(*command)
            assert result.exit_code == 5
            assert words in result.stderr
        (folder / "digests.json").unlink(missing_ok=True)
