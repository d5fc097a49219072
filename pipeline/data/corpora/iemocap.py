"""IEMOCAP as shipped (F31; Busso et al. 2008): `Session{1..5}` with EmoEvaluation files and one wav per turn.

Sessions 1-3 train, 4 is dev, 5 is test: each session has its own two speakers. A speaker is the session and the letter
of the turn (`Ses01F_impro01_M003` is spoken by `Ses01M`; the first letter says who wore the markers).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.core.files import open_regular
from pipeline.data.corpora.builder import ManifestBuilder
from pipeline.data.corpora.label_scales import corpus_scale
from pipeline.data.corpora.locations import corpus_root, first_existing

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


def read_iemocap(config: CorpusConfig) -> Manifest:
    """The turns with an agreed emotion, labels mapped from 1-5 to 1-7.

    Raises ManyProblems with every faulty line at once, UsageError when there is no session.
    """
    root = corpus_root(config)
    builder = ManifestBuilder(root, corpus_scale(config, SCALE), missing_audio=config.missing_audio, source=root)
    folders = [f"Session{number}/dialog/EmoEvaluation" for number in SESSIONS]
    first_existing(root, folders, what="session")
    tally: Counter[str] = Counter()
    for number, folder in zip(SESSIONS, folders, strict=True):
        for file in sorted((root / folder).glob("[!.]*.txt")):
            _read_dialog(builder, file, number, tally)
    absent = [f"{folder} is not there" for folder in folders if not (root / folder).is_dir()]
    dropped = [
        f"dropped {tally[label]:,} turns labelled {label} ({DROPPED[label]})" for label in DROPPED if tally[label]
    ]
    clipped = [f"{tally['clipped']:,} labels half a point off the scale were clipped to it"] if tally["clipped"] else []
    return builder.build([*absent, *dropped, *clipped])


def _read_dialog(builder: ManifestBuilder, file: Path, session: int, tally: Counter[str]) -> None:
    with open_regular(file, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.startswith("["):  # each evaluator's own ratings, and the header
                continue
            turn = _TURN.fullmatch(line)
            if turn is None:
                builder.problem(number, file, "no turn; expected [start - end]<tab>turn<tab>label<tab>[V, A, D]")
            elif turn["label"] in DROPPED:
                tally[turn["label"]] += 1
            elif turn["label"] not in EMOTIONS:
                expected = ", ".join([*EMOTIONS, *DROPPED])
                builder.problem(number, file, f"label {turn['label']!r}: unknown; expected {expected}")
            else:
                labels = {name: _clipped(turn[name].strip(), tally) for name in ("valence", "arousal", "dominance")}
                builder.add(
                    number,
                    file,
                    id=turn["turn"],
                    audio=f"Session{session}/sentences/wav/{turn['dialog']}/{turn['turn']}.wav",
                    split=SESSIONS[session],
                    emotion=EMOTIONS[turn["label"]],
                    speaker=turn["session"] + turn["letter"],
                    gender=turn["letter"],
                    **labels,
                )


def _clipped(text: str, tally: Counter[str]) -> str:
    """`text` brought onto the scale when it is half a point off it.

    The release has seven such means (four of 5.5, three of 0.5), where an evaluator gave 6 or 0.
    """
    clip = {"5.5": "5", "0.5": "1"}.get(text.rstrip("0"))
    tally["clipped"] += clip is not None
    return clip or text
