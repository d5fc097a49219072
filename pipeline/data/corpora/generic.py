"""A generic manifest: CSV with a header, or JSON lines.

    id,audio,split,valence,arousal
    u1,audio/u1.wav,train,2.4,5.0

`id`, `audio` (relative to the root, which is the manifest's folder unless said otherwise) and `split` are required;
`valence`, `arousal`, `dominance`, `emotion`, `speaker`, `gender`, `intensity`, `caption` and `sentence` may be blank or
absent. Of sentences, the words that are spoken, it is counted how many a test and the training share. What the raters
said may be there too: `ratings` (their number), `valence_std`, `arousal_std`, `dominance_std` and `votes`
(`happy:3|neutral:2`); and the words that are spoken, to be encoded beside the speech: `transcript`.
"""

from __future__ import annotations

import os
from pathlib import Path

from cache.manifest import LABEL_COLUMNS, RATING_COLUMNS, TEXT_COLUMNS, TRANSCRIPT, Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import UsageError
from pipeline.data.corpora.builder import SENTENCE, ManifestBuilder
from pipeline.data.corpora.locations import corpus_root
from pipeline.data.corpora.tables import TableColumns, read_csv, read_json_lines, unused_notes

COLUMNS = TableColumns(
    required=("id", "audio", "split"),
    optional=(
        *(name for name in (*LABEL_COLUMNS, *TEXT_COLUMNS) if name not in ("id", "audio", "split")),
        SENTENCE,
        *RATING_COLUMNS,
        TRANSCRIPT,
    ),
)


def read_generic(config: CorpusConfig) -> Manifest:
    """The utterances of `config.manifest`, in its order.

    Raises ManyProblems with every faulty line at once, UsageError when there is no such file.
    """
    path = _path(config)
    root = path.parent if config.root is None else corpus_root(config)
    builder = ManifestBuilder(
        root,
        config.scale,  # type: ignore[arg-type]
        missing_audio=config.missing_audio,
        outside_root=config.outside_root,
        canonical=config.spellings == "one",
        source=path,
    )
    if path.suffix != ".csv":
        return builder.build(_add_json_lines(builder, path))
    notes: list[str] = []
    for line, fields in read_csv(path, COLUMNS, builder.problem, notes):
        builder.add(line, path, **fields)
    return builder.build(notes)


def _path(config: CorpusConfig) -> Path:
    if config.manifest is None:
        raise UsageError("corpus.manifest", "not given", "a CSV or JSON-lines file", "Name the manifest's path.")
    path = Path(os.path.expanduser(config.manifest))
    if path.suffix not in (".csv", ".jsonl", ".json"):
        raise UsageError(path, f"a file ending in {path.suffix!r}", ".csv or .jsonl", "Write it as one of these.")
    if not os.path.isfile(path):
        raise UsageError(path, "no such file", "a CSV or JSON-lines manifest", "Check the path.")
    return path


def _add_json_lines(builder: ManifestBuilder, path: Path) -> list[str]:
    unused: dict[str, None] = {}
    for line, entry in read_json_lines(path, builder.problem):
        missing = [name for name in COLUMNS.required if name not in entry]
        unused.update(dict.fromkeys(entry.keys() - COLUMNS.known))
        if missing:
            found = ", ".join(f"no {name!r}" for name in missing)
            builder.problem(line, path, f"{found}; expected {', '.join(COLUMNS.required)}")
        else:
            builder.add(line, path, **entry)
    return unused_notes(sorted(unused), COLUMNS)
