"""A manifest from a folder of audio and, where there is one, a table of labels: guessed, shown and checked.

make_manifest("recordings", labels="labels.csv", out="recordings/manifest.csv")
"""

from __future__ import annotations

import csv
import io
import logging
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.disk import make_folder, write_text
from cache.manifest import RATING_COLUMNS, TRANSCRIPT
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.corpora import read_corpus
from pipeline.data.corpora.acted import acted_labels, is_left_out
from pipeline.data.corpora.data_tables import DataTable, arrow_files, table_name, table_records, unpack_audio
from pipeline.data.corpora.label_tables import read_label_table
from pipeline.data.corpora.locations import ENDINGS, audio_below
from pipeline.data.corpora.tables import Record

log = logging.getLogger(__name__)

COLUMNS: tuple[str, ...] = ("id", "audio", "split", "valence", "arousal", "dominance", "emotion", "speaker", "gender")
COLUMNS += ("intensity", "caption", "sentence", *RATING_COLUMNS, TRANSCRIPT)
SHARES = {"train": 0.7, "dev": 0.15, "test": 0.15}  # of the utterances, by whole speakers
SHOWN_ROWS = 3
_SCALE = re.compile(r"-o corpus\.scale=(?!\[1,7\])(?:'[^']*'|\S*\])")
UNPACKED = "audio"  # the folder beside the manifest of what a dataset held in a column
TABLE = "table.csv"  # in the folder of the stores, where they are of a table in memory
Row = dict[str, str]


def make_manifest(
    folder: str | Path, *, labels: str | Path | None = None, out: str | Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Write a manifest of the audio below `folder`; returns what was guessed and counted, and the next command.

        make_manifest("my/recordings", labels="my/labels.csv", out="my/manifest.csv")["next"]

    `labels` is a table with a column of file names (`read_label_table`); its other columns are recognised by their
    names (configs/labels/columns.yaml). Without it the columns beside the audio of a `datasets` folder tell, which is
    written out as files, or names as of RAVDESS, EmoDB, CREMA-D or TESS. A speaker is a column, else the folder of the
    clip; splits are a column, else whole speakers by `seed`. Raises UsageError, ManyProblems.
    """
    root, name = Path(folder), Path(folder).resolve().name
    path = Path(out) if out is not None else root / "manifest.csv"
    if not root.is_dir():
        raise UsageError(root, "no such folder", "a folder of audio", "Check the path.")
    clips = audio_below(root)
    files = arrow_files(root) if labels is None and not clips else []
    if not clips and not files:
        expected = f"files ending in {', '.join(ENDINGS)}"
        raise UsageError(root, "no audio file in it or below", expected, "Check the path.")
    notes: list[str] = []
    if labels is not None:
        rows, guessed = _rows_of_table(Path(labels), read_label_table(Path(labels), notes, seed), clips, notes)
    elif files:
        table = unpack_audio(files, path.parent / UNPACKED, notes)
        root, clips = path.parent, [f"{UNPACKED}/{record['audio']}" for record in table[1]]
        rows, guessed = _rows_of_table(Path(folder), table, clips, notes)
    else:
        rows, guessed = _rows_of_names(clips, notes)
    _fill_speakers(rows, guessed, notes)
    _fill_splits(rows, guessed, seed, notes)
    columns = _write(rows, path)
    options = [] if path.parent.resolve() == root.resolve() else [f"--audio-root {root}"]
    try:
        manifest = read_corpus(CorpusConfig(manifest=path, root=root))
        notes += manifest.notes
    except ManyProblems as error:
        notes += [*error.problems, error.action]
        options += _SCALE.findall(error.action)[:1]
    return {
        "manifest": str(path),
        "guessed": guessed,
        "utterances": dict(Counter(row["split"] for row in rows)),
        "speakers": len({row["speaker"] for row in rows if row.get("speaker")}),
        "notes": notes,
        "rows": [{name: row.get(name, "") for name in columns} for row in rows[:SHOWN_ROWS]],
        "next": " ".join(["extract-features", str(path), *options, f"--out stores/{name}"]),
    }


def table_manifest(table: DataTable, folder: Path, audio_root: str | Path | None = None) -> tuple[Path, Path]:
    """Write a DataFrame or a Dataset as FOLDER/table.csv, a manifest; returns it and the root of its audio.

    Columns are recognised as those of a table of labels are, and logged; line n + 2 of the file is row n. Paths are
    relative to `audio_root`, else to the current folder; where all are absolute, to the folder that holds them. Raises
    UsageError.
    """
    notes: list[str] = []
    header, records = table_records(table, folder / UNPACKED, notes)
    guessed = _guess_columns(header)
    if "audio" not in guessed:
        expected = "a column of paths, such as audio, path or file"
        raise UsageError(table_name(table), f"columns {', '.join(header)[:200]}", expected, "Rename that column.")
    paths = [record[guessed["audio"]].strip() for record in records]
    root = Path(audio_root or "")
    if notes:  # that its audio was unpacked
        root = folder / UNPACKED
    elif audio_root is None and all(map(os.path.isabs, paths)):
        root = Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    rows = []
    for record, path in zip(records, paths, strict=True):
        row = {name: record[column].strip() for name, column in guessed.items()}
        clip = os.path.relpath(path, root) if os.path.isabs(path) and Path(path).is_relative_to(root) else path
        rows.append(row | {"id": row.get("id") or _id(clip), "audio": clip})
    _fill_speakers(rows, guessed, notes)
    _fill_splits(rows, guessed, 0, notes)
    _write(rows, folder / TABLE)
    log.info(f"{table_name(table)}: " + ", ".join(f"{name} is {column!r}" for name, column in guessed.items()))
    unused = [name for name in header if name not in guessed.values()]
    for note in [*notes, *([f"columns that are not used: {', '.join(unused)[:200]}"] if unused else [])]:
        log.log(logging.WARNING if note.startswith("WARNING") else logging.INFO, note)
    return folder / TABLE, root


def _write(rows: Sequence[Row], path: Path) -> list[str]:
    """Write the columns that any row has, as CSV; returns their names."""
    make_folder(path.parent)
    columns = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [columns, *([row.get(name, "") for name in columns] for row in rows)]
    )
    write_text(path, text.getvalue())
    return columns


def _rows_of_names(clips: Sequence[str], notes: list[str]) -> tuple[list[Row], dict[str, str]]:
    """Rows of the labels that are the file names, where one convention fits nearly all; else names alone."""
    for convention in word_list("labels/acted").values():
        matches = [re.fullmatch(convention["pattern"], Path(clip).stem) for clip in clips]
        fitting = [(clip, match) for clip, match in zip(clips, matches, strict=True) if match]
        if len(fitting) * 10 < len(clips) * 9:
            continue
        named = [
            {"id": Path(clip).stem, "audio": clip}
            | {name: str(value) for name, value in acted_labels(convention, match.groupdict()).items()}
            for clip, match in fitting
            if not is_left_out(convention, match.groupdict())
        ]
        notes.append(f"names as of {convention['name']}: valence and arousal are nominal, not annotations")
        if len(named) < len(clips):
            notes.append(
                f"{len(clips) - len(named):,} files are left out: other names, or {convention['name']}'s songs"
            )
        return named, dict.fromkeys(("emotion", "valence", "arousal", "speaker", "gender", "split"), "the file's name")
    notes.append("no table of labels, and no names that tell: the manifest has no emotion, valence or arousal")
    return [{"id": _id(clip), "audio": clip} for clip in clips], {"id": "the file's name"}


def _rows_of_table(
    path: Path, table: tuple[Sequence[str], Sequence[Record]], clips: Sequence[str], notes: list[str]
) -> tuple[list[Row], dict[str, str]]:
    """A row for each row of the table whose file is there."""
    header, records = table
    guessed = _guess_columns(header)
    if "audio" not in guessed and "id" not in guessed:
        expected = "a column of file names, such as file or audio"
        raise UsageError(path, f"columns {', '.join(header)[:200]}", expected, "Rename that column.")
    clips_of: dict[str, set[str]] = defaultdict(set)  # by every name that a table may have for them
    for clip in clips:
        for key in _names_of(clip):
            clips_of[key].add(clip)
    only = {key: next(iter(named)) for key, named in clips_of.items() if len(named) == 1}
    rows, without = [], []
    for record in records:
        given = record[guessed.get("audio", guessed.get("id", ""))].strip().replace("\\", "/")
        match = next((only[key] for key in _names_of(given) if key in only), None)
        if match is None:
            without.append(given)
            continue
        row = {name: record[column].strip() for name, column in guessed.items() if name not in ("audio", "id")}
        name = record[guessed["id"]].strip() if "id" in guessed else ""
        rows.append({"id": name or _id(match), "audio": match} | row)
    if without:
        notes.append(f"WARNING: {len(without):,} rows of the table have no audio file (first: {without[0]!r})")
    left = len(clips) - len({row["audio"] for row in rows})
    if left:
        notes.append(f"{left:,} audio files are in no row of the table and left out")
    if not rows:
        raise UsageError(path, "no row whose file is there", "file names of the folder", "Check the two.")
    return rows, guessed


def _guess_columns(header: Sequence[str]) -> dict[str, str]:
    """Column of the manifest -> the table's, by their names."""
    plain = {re.sub(r"[\s_-]+", "", name).casefold(): name for name in reversed(header) if name}
    guessed: dict[str, str] = {}
    for column, names in word_list("labels/columns").items():
        match = next((plain[name] for name in names if name in plain), None)
        if match is not None and match not in guessed.values():
            guessed[column] = match
    return guessed


def _names_of(path: str) -> list[str]:
    """The path and what is left of it without the first folders, each with and without its ending; longest first."""
    parts = path.casefold().split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return [name for end in ends for name in (end, os.path.splitext(end)[0])]


def _id(clip: str) -> str:
    """The path without its ending: names alone may stand in two folders."""
    return os.path.splitext(clip)[0]


def _fill_speakers(rows: Sequence[Row], guessed: dict[str, str], notes: list[str]) -> None:
    if "speaker" in guessed:
        return
    folders = {os.path.dirname(row["audio"]) for row in rows}
    emotions = {(os.path.dirname(row["audio"]), row.get("emotion", "")) for row in rows}
    of_emotions = len(emotions) == len(folders) and len({emotion for _, emotion in emotions}) > 1
    if len(folders) > 1 and not of_emotions:
        for row in rows:
            row["speaker"] = os.path.dirname(row["audio"])
        guessed["speaker"] = "the folder of the clip"
        notes.append(f"WARNING: {len(folders):,} folders are taken for {len(folders):,} speakers: check that they are")
    else:
        notes.append("WARNING: no speakers are known: a test may hear voices that were trained on")


def _fill_splits(rows: Sequence[Row], guessed: dict[str, str], seed: int, notes: list[str]) -> None:
    """Whole speakers, or single utterances where fewer than three are known, into train, dev and test."""
    if "split" in guessed:
        return
    sizes = Counter(row.get("speaker", "") for row in rows)
    by_speaker = len(sizes) >= len(SHARES) and "" not in sizes
    keys = [row["speaker"] if by_speaker else row["id"] for row in rows]
    split_of = _shared_out(Counter(keys), seed)
    for row, key in zip(rows, keys, strict=True):
        row["split"] = split_of[key]
    guessed["split"] = f"{'whole speakers' if by_speaker else 'single utterances'}, drawn by seed {seed}"
    if not by_speaker:
        notes.append(
            "WARNING: fewer than three speakers are known: utterances are split, and voices are in every split"
        )


def _shared_out(sizes: Mapping[str, int], seed: int) -> dict[str, str]:
    """Key -> split: each in turn, in an order drawn by `seed`, to the split that lacks most of its share."""
    keys = sorted(sizes)
    random.Random(seed).shuffle(keys)
    total, filled = sum(sizes.values()), dict.fromkeys(SHARES, 0)
    split_of: dict[str, str] = {}
    for place, key in enumerate(keys):
        empty = [split for split in SHARES if not filled[split]]
        last = len(keys) - place <= len(empty)  # so that no split stays empty
        split = max(empty if last else SHARES, key=lambda each: SHARES[each] - filled[each] / total)
        split_of[key] = split
        filled[split] += sizes[key]
    return split_of
