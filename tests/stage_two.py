"""Stage two on stores so small that a training takes a few hundredths of a second, and its commands' contract."""

from __future__ import annotations

from pathlib import Path

import click
from click.testing import CliRunner, Result

from cache.digests import DIGESTS
from tests.planted import plant

SETTINGS = ["batch_size=16", "width=4", "epochs=2", "standardise=always", "threads=1"]
TRAINING = [word for setting in SETTINGS for word in ("-o", setting)]
EVALUATION = ["--no-report", "-o", "trials=2", "-o", "lists=14", "-o", "projections=2", "-o", "pairs=8"]
CODES = {0, 1, 2, 3, 4, 5, 75, 130, 143}


def small_stores(folder: Path) -> Path:
    plant(folder, {"train": 48, "dev": 16, "test": 16}, audio_width=6, text_width=5)
    return folder


def unlisted(folder: Path) -> None:
    """Make `folder` one that was edited with care, or came without digests."""
    (folder / DIGESTS).unlink()


def tree(folder: Path, *without: str) -> dict[str, bytes]:
    """Every file below `folder` by its path, locks aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {".writer.lock", *without}
    }


def run_command(command: click.Command, *words: object) -> Result:
    """The command's result, after what holds of every end: a documented code, one error, no traceback."""
    result = CliRunner().invoke(command, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in CODES
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (result.exit_code != 0), result.stderr
    assert "Traceback" not in result.output
    if errors and result.exit_code != 2:  # problems of a config are told all at once
        assert result.stderr.splitlines()[-1] == errors[0], result.stderr
        assert all(letter.isprintable() for letter in errors[0])
    return result
