"""Stores and runs of another account: read where that is allowed, else one line that says what is not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache.digests import DIGESTS
from cache.errors import EmotionRankError
from cache.stores import open_stores
from pipeline.training.run_folder import open_run
from pipeline.training.train import train
from tests.stage_two import SETTINGS, small_stores, tree

NOBODY = 65534
REFUSED = r"cannot be .*Permission denied.*; expected permission"


@contextmanager
def as_nobody() -> Iterator[None]:
    """An account without rights, where the tests run as root; else the account itself."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def place() -> Iterator[Path]:
    """Outside of pytest's own folders, which are closed to others: stores and a run that may only be read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    small_stores(folder / "stores")
    train(folder / "stores", out=folder / "run", overrides=SETTINGS, seeds=1)
    for path in (folder / "stores", folder / "run"):
        for inside in (path, *path.rglob("*")):
            inside.chmod(0o555 if inside.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def test_stores_that_may_only_be_read_are_trained_on(place: Path) -> None:
    before = tree(place)
    (place / "own").mkdir()
    (place / "own").chmod(0o777)
    with as_nobody():
        run = train(place / "stores", out=place / "own/run", overrides=SETTINGS, seeds=1)
        assert open_run(place / "run").heads().input_dims == run.heads().input_dims
        with pytest.raises(EmotionRankError, match=r"run: cannot be written \(Permission denied\)") as caught:
            train(place / "stores", out=place / "run", overrides=SETTINGS, seeds=2)
    assert caught.value.exit_code == 1
    assert {name: data for name, data in tree(place).items() if not name.startswith("own/")} == before


@pytest.mark.parametrize("name", [DIGESTS, "manifest.csv", "captions.jsonl", "audio.h5", "text.h5"])
def test_a_file_of_stores_that_may_not_be_read_is_not_called_corrupt(place: Path, name: str) -> None:
    (place / "stores" / name).chmod(0)
    with (
        as_nobody(),
        pytest.raises(EmotionRankError, match=REFUSED) as at,
    ):
        open_stores(place / "stores")
    assert (at.value.exit_code, at.value.subject) == (1, str(place / "stores" / name))


@pytest.mark.parametrize("name", [DIGESTS, "config.yaml", "run.json", "heads.safetensors", "seeds/0/metrics.jsonl"])
def test_a_file_of_a_run_that_may_not_be_read_is_not_called_corrupt(place: Path, name: str) -> None:
    (place / "run" / name).chmod(0)
    with (
        as_nobody(),
        pytest.raises(EmotionRankError, match=REFUSED) as at,
    ):
        open_run(place / "run")
    assert (at.value.exit_code, at.value.subject) == (1, str(place / "run" / name))
