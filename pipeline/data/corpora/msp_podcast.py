"""MSP-Podcast as shipped (F30): `Audios/*.wav`, `Labels/labels_consensus.csv` or `.json`, `Partitions.txt`.

Single ratings are read from `Labels/labels_detailed.csv` where it is there, and with `corpus.transcripts` what was said
from `Transcripts/*.txt`. Turns labelled X (no agreement) or O (other) are dropped, as in the paper (F10), unless
`corpus.keep_undecided` keeps them without an emotion. Test3 has no public labels: its turns are kept with labels of
NaN, whether the labels file lists them blank or only `Partitions.txt` knows them.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.core.files import open_regular
from pipeline.data.corpora.builder import ManifestBuilder, Place
from pipeline.data.corpora.label_names import canonical_split
from pipeline.data.corpora.label_scales import corpus_scale
from pipeline.data.corpora.locations import corpus_root, first_existing
from pipeline.data.corpora.ratings import RatingTally
from pipeline.data.corpora.tables import TableColumns, plain_line, read_csv, read_json_table

SCALE = (1.0, 7.0)
LABELS = ("Labels/labels_consensus.csv", "Labels/labels_consensus.json")
AUDIO = ("Audios", "Audio")
TRANSCRIPTS = ("Transcripts", "Transcript")
PARTITIONS = ("Partitions.txt", "Partition.txt", "Labels/Partitions.txt")  # 1.12's readme calls it Partition.txt
_CODES = word_list("labels/annotated")["msp_podcast"]
EMOTIONS, DROPPED = _CODES["emotions"], _CODES["dropped"]
# by name, never by position: the file has arousal before valence, the encoder's outputs another order still (F30)
ATTRIBUTES = {"valence": "EmoVal", "arousal": "EmoAct", "dominance": "EmoDom"}
COLUMNS = TableColumns(("FileName", "EmoClass", *ATTRIBUTES.values(), "Split_Set"), ("SpkrID", "Gender"))
DETAILED = "labels_detailed.csv"
MAJOR = "EmoClass_Major"
# a line is one rating: a column MAJOR and those of the attributes, or, after FileName, one field of them all (as the
# release's readme says): WORKER00000018; Neutral; Neutral,Concerned; A:1.000000; V:4.000000; D:2.000000;
_DETAIL = re.compile(r"[^;]*;([^;]*);.*?\bA:(?P<A>[^;]*);\s*V:(?P<V>[^;]*);\s*D:(?P<D>[^;]*);?\s*", re.DOTALL)
HIDDEN = "test3"
PAPER = {"train": 90_022, "dev": 25_258, "test1": 34_963}  # release 1.12 without X and O (F10)
Record = Mapping[str, object]


def read_msp_podcast(config: CorpusConfig) -> Manifest:
    """The turns with an agreed emotion, and Test3. `notes` compares their numbers with the paper's.

    Raises ManyProblems with every faulty row at once, UsageError when labels or audio are not there.
    """
    root = corpus_root(config)
    labels = first_existing(root, LABELS, what="labels file")
    folders = AUDIO if config.audio_dir is None else (config.audio_dir,)
    audio = os.path.relpath(first_existing(root, folders, what="audio folder"), root)
    builder = ManifestBuilder(root, corpus_scale(config, SCALE), missing_audio=config.missing_audio, source=labels)
    tally = _single_ratings(labels.parent / DETAILED)
    undecided: Counter[str] = Counter()
    unrated = 0
    listed: dict[str, str | None] = {}  # file names of the labels and of Partitions.txt -> their splits
    records: Iterator[tuple[int, Record]]
    if labels.suffix == ".csv":
        records = read_csv(labels, COLUMNS, builder.problem, [])
    else:
        records = read_json_table(labels, "FileName", builder.problem)
    for line, record in records:
        name, letter = _stripped(record.get("FileName")), _stripped(record.get("EmoClass"))
        listed[name] = canonical_split(_stripped(record.get("Split_Set")))
        hidden = listed[name] == HIDDEN
        if letter in DROPPED and not hidden:
            undecided[letter] += 1
            if not config.keep_undecided:
                continue
        rated = {} if hidden else tally.fields(name, [record.get(column) for column in ATTRIBUTES.values()])
        unrated += not (rated or hidden)
        _add(builder, (line, labels), audio, record, rated)
    other_splits: Counter[tuple[str, str]] = Counter()
    unlabelled = _add_hidden(builder, root, audio, listed, other_splits)
    extra = len({name for name in builder.files.names(audio) if name.endswith(".wav")} - listed.keys())
    what = "kept without an emotion:" if config.keep_undecided else "dropped"
    notes = [
        f"{what} {undecided[letter]:,} turns labelled {letter} ({DROPPED[letter]})" for letter in sorted(undecided)
    ]
    if (labels.parent / DETAILED).is_file():
        notes += [note.replace("WARNING: ", f"WARNING: {DETAILED}: ", 1) for note in tally.notes(unrated)]
    if other_splits:
        shown = ", ".join(f"{count:,} {there} there and {here} here" for (here, there), count in other_splits.items())
        found = f"Partitions.txt contradicts Split_Set for {other_splits.total():,} turns"
        notes.append(f"WARNING: {found} ({shown}): Split_Set is used")
    if unlabelled:
        notes.append(f"{unlabelled:,} turns of Partitions.txt have no labels and are not Test3: left out")
    if extra:
        notes.append(f"{extra:,} audio files are in no list: left out")
    manifest = builder.build([*notes, _compared(builder.counts())])
    if config.transcripts:
        return _with_transcripts(manifest, first_existing(root, TRANSCRIPTS, what="folder of transcripts"))
    return manifest


def _with_transcripts(manifest: Manifest, folder: Path) -> Manifest:
    """What was said in each turn; a turn without a file has an empty transcript."""
    words, missing = [], 0
    for name in manifest.id:
        path = folder / f"{name}.txt"
        if path.is_file():
            with open_regular(path, encoding="utf-8-sig", errors="replace") as file:
                words.append(plain_line(file.read()))
        else:
            words.append("")
            missing += 1
    note = f"transcripts: {missing:,} of {len(words):,} turns have no file in {folder}"
    return replace(manifest, transcript=words, notes=[*manifest.notes, note])


def _single_ratings(path: Path) -> RatingTally:
    """The ratings of `path` by file name, in either layout; none where there is no such file."""
    tally = RatingTally(EMOTIONS)
    if not path.is_file():
        return tally
    with open_regular(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        try:
            for record in csv.DictReader(file):
                name, *rest = map(str, record.values())
                if MAJOR in record:
                    name, letters = str(record.get("FileName")), str(record[MAJOR])
                    _rate(tally, name, letters, [str(record.get(column) or "") for column in ATTRIBUTES.values()])
                elif detail := _DETAIL.fullmatch(rest[0] if rest else ""):
                    _rate(tally, name, detail[1], [detail["V"], detail["A"], detail["D"]])
                else:
                    tally.problem(f"{','.join(rest)[:60]!r}")
        except csv.Error as error:
            tally.problem(f"{error}, and all after it")
    return tally


def _rate(tally: RatingTally, name: str, category: str, values: Sequence[str]) -> None:
    try:
        tally.rate(name.strip(), values)
    except ValueError:
        tally.problem(f"{name}, {values}")
    else:
        tally.vote(name.strip(), category.strip())


def _add(builder: ManifestBuilder, place: Place, audio: str, record: Record, rated: Mapping[str, object]) -> None:
    letter = _stripped(record.get("EmoClass"))
    hidden = canonical_split(_stripped(record.get("Split_Set"))) == HIDDEN
    if letter not in EMOTIONS and letter not in DROPPED and not (hidden and not letter):
        builder.problem(*place, f"EmoClass {letter[:20]!r}: unknown; expected {', '.join([*EMOTIONS, *DROPPED])}")
    labels = {name: record.get(column) for name, column in ATTRIBUTES.items()}
    for name, value in labels.items():
        if not hidden and (value is None or (isinstance(value, str) and not value.strip())):
            builder.problem(*place, f"{ATTRIBUTES[name]}: blank; expected 1 to 7 (only Test3 has hidden labels)")
    _place(builder, place, audio, record, emotion=EMOTIONS.get(letter, ""), **labels, **rated)


def _place(builder: ManifestBuilder, place: Place, audio: str, record: Record, **labels: object) -> None:
    name = _stripped(record.get("FileName"))
    builder.add(
        *place,
        id=name.removesuffix(".wav"),
        audio=f"{audio}/{name}" if name else "",
        split=record.get("Split_Set"),
        speaker=record.get("SpkrID"),
        gender=record.get("Gender"),
        **labels,
    )


def _add_hidden(
    builder: ManifestBuilder,
    root: Path,
    audio: str,
    listed: dict[str, str | None],
    other_splits: Counter[tuple[str, str]],
) -> int:
    """Add the Test3 turns that only Partitions.txt knows; returns how many of other splits have no labels.

    Turns whose split is another than in the labels are counted in `other_splits`, as (there, in Partitions.txt).
    """
    file = next((root / name for name in PARTITIONS if (root / name).is_file()), None)
    unlabelled = 0
    for line, split, name in _partitions(file, builder) if file else ():
        if name in listed:
            here, there = listed[name], canonical_split(split)
            if here and there and here != there:
                other_splits[here, there] += 1
            continue
        listed[name] = None
        if canonical_split(split) in (HIDDEN, None):  # None: an unknown split, which is a problem
            _place(builder, (line, file or root), audio, {"FileName": name, "Split_Set": split})
        else:
            unlabelled += 1
    return unlabelled


def _partitions(file: Path, builder: ManifestBuilder) -> Iterator[tuple[int, str, str]]:
    """Yield (line, split, file name) of lines like `Test3; MSP-PODCAST_0001_0001.wav`."""
    with open_regular(file, encoding="utf-8-sig", errors="replace") as lines:
        for line, text in enumerate(lines, start=1):
            split, semicolon, name = (part.strip() for part in text.partition(";"))
            if semicolon:
                yield line, split, name
            elif split:
                builder.problem(line, file, f"{split[:60]!r}: no semicolon; expected `split; file name`")


def _stripped(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _compared(counts: Mapping[str, int]) -> str:
    """The splits' sizes against those of the paper (F10)."""
    apart = [
        f"{split} {counts.get(split, 0):,} against {paper:,} ({counts.get(split, 0) - paper:+,})"
        for split, paper in PAPER.items()
        if counts.get(split, 0) != paper
    ]
    found = f"not the paper's release 1.12 without X and O: {', '.join(apart)}"
    return found if apart else "splits are of the paper's sizes (release 1.12)"
