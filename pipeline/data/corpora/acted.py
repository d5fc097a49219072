"""Acted corpora whose labels are their file names: RAVDESS, EmoDB, CREMA-D, TESS.

The conventions stand in configs/labels/acted.yaml, the points in configs/labels/circumplex.yaml. Valence and arousal
are **nominal, not annotations**: they exercise ranking with many ties and prove nothing about fine grades.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import UsageError
from pipeline.data.corpora.builder import ManifestBuilder
from pipeline.data.corpora.label_scales import corpus_scale
from pipeline.data.corpora.locations import ENDINGS, audio_below, corpus_root

CENTRE = 4.0  # of the scale
SCALE = (1.0, 7.0)
NOTE = "valence and arousal are nominal, not annotations: one point of the circumplex per category"
_ENDINGS = (".wav", ".flac")


def read_acted(config: CorpusConfig) -> Manifest:
    """The clips under `config.root`, with nominal valence and arousal and speaker-disjoint splits.

    Raises ManyProblems with every name that does not fit the convention and every folder that is another's copy,
    UsageError when there is no clip at all.
    """
    root, convention = corpus_root(config), word_list("labels/acted")[config.reader]
    builder = ManifestBuilder(root, corpus_scale(config, SCALE), missing_audio=config.missing_audio, source=root)
    clips = sorted(audio_below(root, _ENDINGS) or audio_below(root, ENDINGS))  # CREMA-D has AudioWAV/ and AudioMP3/
    if not clips:
        found = f"no {' or '.join(_ENDINGS)} file in it or below"
        expected = f"{convention['name']}, as in {convention['example']}"
        raise UsageError(root, found, expected, "Pass another --audio-root.")
    left_out = 0
    for clip in _without_copies(builder, root, clips):
        file = root / clip
        match = re.fullmatch(convention["pattern"], file.stem)
        if match is None:
            found = f"not a file name of {convention['name']}"
            builder.problem(0, file, f"{found}; expected a name like {convention['example']}")
        elif is_left_out(convention, match.groupdict()):
            left_out += 1
        else:
            builder.add(0, file, id=file.stem, audio=clip, **acted_labels(convention, match.groupdict()))
    dropped = [f"dropped {left_out:,} clips of {convention['left_out_are']}"] if left_out else []
    formats = sorted({Path(clip).suffix.lower() for clip in clips} - set(_ENDINGS))
    lossy = [f"no {' or '.join(_ENDINGS)} is there: {', '.join(formats)} is read"] if formats else []
    return builder.build([*dropped, *lossy, NOTE])


def is_left_out(convention: dict[str, Any], parts: dict[str, str]) -> bool:
    """Whether a clip by the `parts` of its name is of a kind that does not take part, such as RAVDESS's songs."""
    return any(parts[part] == value for part, value in convention.get("left_out", {}).items())


def acted_labels(convention: dict[str, Any], parts: dict[str, str]) -> dict[str, object]:
    """The manifest's columns of a clip by the `parts` of its name: pattern groups emotion, speaker, intensity."""
    emotion = convention["emotions"][parts["emotion"]]
    intensity = convention.get("intensities", {}).get(parts.get("intensity"), "")
    speaker = convention.get("speakers", {}).get(parts["speaker"], parts["speaker"])
    split = convention.get("split")
    if split is None:
        number = int(speaker)
        split = "train" if number <= convention["last_train"] else "dev" if number <= convention["last_dev"] else "test"
    valence, arousal = nominal_point(emotion, intensity)
    return {
        "emotion": emotion,
        "intensity": intensity,
        "valence": valence,
        "arousal": arousal,
        "speaker": convention.get("speaker_prefix", "") + speaker,
        "gender": "female" if speaker in convention["women"] else "male",
        "split": split,
    }


@cache
def nominal_points() -> dict[str, tuple[float, float]]:
    """(valence, arousal) on 1-7 of each acted emotion."""
    return {emotion: tuple(point) for emotion, point in word_list("labels/circumplex")["emotions"].items()}


def nominal_point(emotion: str, intensity: str = "") -> tuple[float, float]:
    """(valence, arousal) on 1-7 of an acted `emotion`, pushed out from or drawn in to the centre by `intensity`."""
    factor = word_list("labels/circumplex")["intensities"].get(intensity, 1.0)
    valence, arousal = (CENTRE + factor * (value - CENTRE) for value in nominal_points()[emotion])
    return round(valence, 6), round(arousal, 6)


def _without_copies(builder: ManifestBuilder, root: Path, clips: list[str]) -> list[str]:
    """The clips that lie in no other folder too; each pair of folders that share clips is a problem."""
    first: dict[str, Path] = {}  # by name without ending
    shared: Counter[tuple[str, str]] = Counter()
    once = []
    for clip in clips:
        path = Path(clip)
        known = first.setdefault(path.stem, path)
        if known.parent == path.parent:
            once.append(clip)
        else:
            one, other = known.parent.parts, path.parent.parts  # less what they end alike in
            while one and other and one[-1] == other[-1]:
                one, other = one[:-1], other[:-1]
            outer, inner = sorted(("/".join(one), "/".join(other)))
            shared[outer, inner] += 1
    for (outer, inner), count in shared.items():
        found = f"{count:,} of its clips lie in {root / outer} too"
        builder.problem(0, root / inner, f"{found}; expected each clip once (pass one copy as --audio-root)")
    return once
