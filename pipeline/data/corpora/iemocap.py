"""IEMOCAP as shipped (F31; Busso et al. 2008): `Session{1..5}` with EmoEvaluation files and one wav per turn.

Sessions 1-3 train, 4 is dev, 5 is test: each session has its own two speakers. A speaker is the session and the letter
of the turn (`Ses01F_impro01_M003` is spoken by `Ses01M`; the first letter says who wore the markers). The evaluators'
own ratings follow each turn; those of the speakers themselves (`C-F1`, `A-M1`) are in no mean and are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cache.manifest import LABEL_COLUMNS, Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.core.files import open_regular
from pipeline.data.corpora.builder import ManifestBuilder, Place
from pipeline.data.corpora.label_scales import corpus_scale
from pipeline.data.corpora.locations import corpus_root, first_existing
from pipeline.data.corpora.ratings import RatingTally

SCALE = (1.0, 5.0)
SESSIONS = {1: "train", 2: "train", 3: "train", 4: "dev", 5: "test"}
_CODES = word_list("labels/annotated")["iemocap"]
EMOTIONS, DROPPED = _CODES["emotions"], _CODES["dropped"]
_NUMBER = r"\s*([-+.\w]+)\s*"
# [6.2901 - 8.2357]<tab>Ses01F_impro01_F000<tab>neu<tab>[2.5000, 2.5000, 2.5000]
_TURN = re.compile(
    rf"\[{_NUMBER}-{_NUMBER}\]\t(?P<turn>(?P<dialog>(?P<session>Ses0[1-5])[FM]_\w+)_(?P<letter>[FM])\w+)"
    rf"\t(?P<label>\w+)\t\[(?P<valence>{_NUMBER}),(?P<arousal>{_NUMBER}),(?P<dominance>{_NUMBER})\]\s*"
)
# C-E2:<tab>Neutral; Anger;<tab>(comment)    and    A-E3:<tab>val 3; act 2; dom  2;<tab>(comment)
_CATEGORIES = re.compile(r"C-E\w+:\s*([^(]*).*", re.DOTALL)
_ATTRIBUTES = re.compile(r"A-E\w+:\s*val([^;]*);\s*act([^;]*);\s*dom([^;]*);.*", re.DOTALL)


def read_iemocap(config: CorpusConfig) -> Manifest:
    """The turns with an agreed emotion, labels mapped from 1-5 to 1-7.

    Raises ManyProblems with every faulty line at once, UsageError when there is no session.
    """
    root = corpus_root(config)
    builder = ManifestBuilder(root, corpus_scale(config, SCALE), missing_audio=config.missing_audio, source=root)
    folders = [f"Session{number}/dialog/EmoEvaluation" for number in SESSIONS]
    first_existing(root, folders, what="session")
    tally: Counter[str] = Counter()
    ratings = RatingTally(EMOTIONS | {name: name for name in EMOTIONS.values()})
    for number, folder in zip(SESSIONS, folders, strict=True):
        for file in sorted((root / folder).glob("[!.]*.txt")):
            _read_dialog(builder, file, number, tally, ratings, keep_undecided=config.keep_undecided)
    absent = [f"{folder} is not there" for folder in folders if not (root / folder).is_dir()]
    what = "kept without an emotion:" if config.keep_undecided else "dropped"
    dropped = [
        f"{what} {tally[label]:,} turns labelled {label} ({DROPPED[label]})" for label in DROPPED if tally[label]
    ]
    clipped = [f"{tally['clipped']:,} labels half a point off the scale were clipped to it"] if tally["clipped"] else []
    return builder.build([*absent, *dropped, *clipped, *ratings.notes(tally["unrated"])])


def _read_dialog(
    builder: ManifestBuilder,
    file: Path,
    session: int,
    tally: Counter[str],
    ratings: RatingTally,
    *,
    keep_undecided: bool,
) -> None:
    turns: list[tuple[int, str]] = []  # (line, its text); the ratings of a turn come after it
    with open_regular(file, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if line.startswith("["):
                turns.append((number, line))
            elif turns and line.startswith(("C-E", "A-E")):
                _rate(ratings, turns[-1][1].split("\t")[1] if "\t" in turns[-1][1] else "", line)
    for number, line in turns:
        turn = _TURN.fullmatch(line)
        if turn is None:
            builder.problem(number, file, "no turn; expected [start - end]<tab>turn<tab>label<tab>[V, A, D]")
        elif turn["label"] not in EMOTIONS and turn["label"] not in DROPPED:
            expected = ", ".join([*EMOTIONS, *DROPPED])
            builder.problem(number, file, f"label {turn['label']!r}: unknown; expected {expected}")
        else:
            tally[turn["label"]] += 1
            if turn["label"] in EMOTIONS or keep_undecided:
                _add(builder, (number, file), turn, session, tally, ratings)


def _add(
    builder: ManifestBuilder,
    place: Place,
    turn: re.Match[str],
    session: int,
    tally: Counter[str],
    ratings: RatingTally,
) -> None:
    given = [turn[name].strip() for name in LABEL_COLUMNS]
    labels = {name: _clipped(text, tally) for name, text in zip(LABEL_COLUMNS, given, strict=True)}
    rated = ratings.fields(turn["turn"], given)
    tally["unrated"] += not rated
    builder.add(
        *place,
        id=turn["turn"],
        audio=f"Session{session}/sentences/wav/{turn['dialog']}/{turn['turn']}.wav",
        split=SESSIONS[session],
        emotion=EMOTIONS.get(turn["label"], ""),
        speaker=turn["session"] + turn["letter"],
        gender=turn["letter"],
        **labels,
        **rated,
    )


def _rate(ratings: RatingTally, turn: str, line: str) -> None:
    """Take one evaluator's line. An evaluator may name several categories: each is a vote."""
    categories, attributes = _CATEGORIES.fullmatch(line), _ATTRIBUTES.fullmatch(line)
    if categories:
        for name in filter(None, map(str.strip, categories[1].split(";"))):
            ratings.vote(turn, name)
        return
    try:
        ratings.rate(turn, attributes.groups() if attributes else ["no attributes"])
    except ValueError:
        ratings.problem(f"{turn}, {line.strip()[:60]!r}")


def _clipped(text: str, tally: Counter[str]) -> str:
    """`text` brought onto the scale when it is half a point off it.

    The release has seven such means (four of 5.5, three of 0.5), where an evaluator gave 6 or 0.
    """
    clip = {"5.5": "5", "0.5": "1"}.get(text.rstrip("0"))
    tally["clipped"] += clip is not None
    return clip or text
