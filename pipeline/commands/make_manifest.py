"""make-manifest: from a folder of audio and a table of labels to a checked manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands import common
from pipeline.commands.completion import FOLDER


@common.command("make-manifest")
@click.argument("folder", type=FOLDER)
@click.option("--labels", type=click.Path(path_type=Path), help="A table with a column of file names.")
@click.option("--out", type=click.Path(path_type=Path), help="The manifest.  [default: FOLDER/manifest.csv]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random splits.")
def main(folder: Path, labels: Path | None, out: Path | None, seed: int, as_json: bool) -> None:
    """Make a manifest of a folder of audio and a table of labels, and show what was guessed.

    \b
    make-manifest my/recordings --labels my/labels.csv --out my/manifest.csv
    make-manifest my/recordings --labels my/labels.xlsx --out my/manifest.csv   (needs emotionrankclap[tables])
    make-manifest /data/RAVDESS --out ravdess.csv       (labels from the file names)
    make-manifest my/dataset --out my/manifest.csv      (Parquet with audio inside; needs emotionrankclap[tables])
    make-manifest downloads/cafe --labels EmoBox/data/cafe/fold_1 --out cafe.csv

    The table is CSV, .xlsx, .jsonl, .parquet or a fold of EmoBox. Columns are recognised by name; the separator may be
    a comma, a semicolon or a tab. Without a speaker column, each folder is one speaker. Random splits keep each speaker
    in one split. The command never prompts; it prints all that it guessed.
    """
    from pipeline.data.corpora.make_manifest import make_manifest

    result = make_manifest(folder, labels=labels, out=out, seed=seed)
    common.print_result(result, _table(result), as_json)


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['manifest']}: {sum(result['utterances'].values()):,} utterances, {result['speakers']:,} speakers"
    ]
    lines += [f"  {column}: {origin}" for column, origin in result["guessed"].items()]
    lines += [f"  {note}" for note in result["notes"]]
    lines += [f"  row: {', '.join(f'{name}={value}' for name, value in row.items())}" for row in result["rows"]]
    return "\n".join([*lines, f"next: {result['next']}"])
