"""Nominal valence and arousal of acted emotions: a point of Russell's circumplex for each category.

Russell, J. A. (1980), A circumplex model of affect, Journal of Personality and Social Psychology 39, 1161-1178, puts
emotion words on a circle of pleasure and activation. The coordinates here follow that order on the 1-7 scale of
MSP-Podcast (F10). They are **nominal, not annotations**: nobody rated the clips, all clips of a category share a point.
They exercise ranking with many ties and prove nothing about fine grades.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import UsageError
from pipeline.data.corpora.builder import ManifestBuilder, corpus_root, corpus_scale

CENTRE = 4.0
NOMINAL_SCALE = (1.0, 7.0)
NOMINAL = {  # emotion: (valence 1 negative .. 7 positive, arousal 1 calm .. 7 active)
    "angry": (1.9, 5.8),
    "bored": (3.2, 2.0),
    "calm": (4.8, 2.2),
    "disgust": (2.1, 4.4),
    "fearful": (2.2, 5.3),
    "happy": (5.9, 5.2),
    "neutral": (4.0, 3.2),
    "sad": (2.2, 2.6),
    "surprised": (4.9, 5.4),
}
# acted intensity: distance from the centre, times this; any other is acted plainly
FACTORS = {"strong": 1.25, "high": 1.25, "low": 0.8}
NOTE = "valence and arousal are nominal, not annotations: one point of the circumplex per category"


def nominal(emotion: str, intensity: str = "") -> tuple[float, float]:
    """(valence, arousal) on 1-7 of an acted `emotion`, pushed out from or drawn in to the centre by `intensity`."""
    factor = FACTORS.get(intensity, 1.0)
    valence, arousal = (CENTRE + factor * (value - CENTRE) for value in NOMINAL[emotion])
    return round(valence, 6), round(arousal, 6)


Labels = dict[str, object]  # columns of the manifest: emotion, intensity, speaker, gender, split


@dataclass(frozen=True)
class Naming:
    """A convention: `pattern` fits a whole file name without its ending, `read` makes labels of it.

    `read` returns None for a clip that is not speech to be used; `unused` says what those are.
    """

    name: str
    pattern: re.Pattern[str]
    example: str
    read: Callable[[re.Match[str]], Labels | None]
    unused: str = ""


# Livingstone & Russo (2018), PLoS ONE 13(5): modality-channel-emotion-intensity-statement-repetition-actor
_RAVDESS = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-(?P<intensity>0[12])-0[12]-0[12]"
    r"-(?P<actor>0[1-9]|1[0-9]|2[0-4])"
)
_RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
# Burkhardt et al. (2005), Interspeech: speaker, text, emotion (the German word's initial), version
_EMODB = re.compile(r"(?P<speaker>03|08|09|1[0-6])[ab][0-9]{2}(?P<emotion>[WLEAFTN])[a-z]")
_EMODB_EMOTIONS = {
    "W": "angry",  # Wut
    "L": "bored",  # Langeweile
    "E": "disgust",  # Ekel
    "A": "fearful",  # Angst
    "F": "happy",  # Freude
    "T": "sad",  # Trauer
    "N": "neutral",
}
_EMODB_WOMEN = {"08", "09", "13", "14", "16"}
# Cao et al. (2014), IEEE Transactions on Affective Computing 5(4): actor, sentence, emotion, level
_CREMAD = re.compile(
    r"(?P<actor>10(?:0[1-9]|[1-8][0-9]|9[01]))_[A-Z]{3}_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?P<level>LO|MD|HI|XX|X)"
)
_CREMAD_EMOTIONS = {
    "ANG": "angry",
    "DIS": "disgust",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
_CREMAD_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}  # XX: not asked for (one file of the release says X)
# the corpus's VideoDemographics.csv: 43 women, 48 men
_CREMAD_WOMEN = {
    *(1002, 1003, 1004, 1006, 1007, 1008, 1009, 1010, 1012, 1013, 1018, 1020, 1021, 1024, 1025),
    *(1028, 1029, 1030, 1037, 1043, 1046, 1047, 1049, 1052, 1053, 1054, 1055, 1056, 1058, 1060),
    *(1061, 1063, 1072, 1073, 1074, 1075, 1076, 1078, 1079, 1082, 1084, 1089, 1091),
}
# Pichora-Fuller & Dupuis (2020), doi 10.5683/SP2/E8H2MF: actress, word, emotion
_TESS = re.compile(r"(?P<speaker>OAF?|YAF)_[a-z]+_(?P<emotion>angry|disgust|fear|happy|neutral|ps|sad)")
_TESS_EMOTIONS = {"fear": "fearful", "ps": "surprised"}  # ps: pleasant surprise; the others are called as here


def _split(number: int, last_train: int, last_dev: int) -> str:
    return "train" if number <= last_train else "dev" if number <= last_dev else "test"


def _read_ravdess(name: re.Match[str]) -> Labels | None:
    if name["channel"] == "02" or name["modality"] == "02":
        return None
    actor = int(name["actor"])
    return {
        "emotion": _RAVDESS_EMOTIONS[int(name["emotion"]) - 1],
        "intensity": "strong" if name["intensity"] == "02" else "normal",
        "speaker": f"actor{actor:02}",
        "gender": "male" if actor % 2 else "female",
        "split": _split(actor, 16, 20),
    }


def _read_emodb(name: re.Match[str]) -> Labels:
    speaker = name["speaker"]
    return {
        "emotion": _EMODB_EMOTIONS[name["emotion"]],
        "speaker": f"spk{speaker}",
        "gender": "female" if speaker in _EMODB_WOMEN else "male",
        "split": _split(int(speaker), 12, 14),
    }


def _read_cremad(name: re.Match[str]) -> Labels:
    actor = int(name["actor"])
    return {
        "emotion": _CREMAD_EMOTIONS[name["emotion"]],
        "intensity": _CREMAD_LEVELS.get(name["level"], ""),
        "speaker": f"{actor}",
        "gender": "female" if actor in _CREMAD_WOMEN else "male",
        "split": _split(actor, 1063, 1077),
    }


def _read_tess(name: re.Match[str]) -> Labels:
    return {
        "emotion": _TESS_EMOTIONS.get(name["emotion"], name["emotion"]),
        "speaker": "YAF" if name["speaker"] == "YAF" else "OAF",  # one file of the release says OA
        "gender": "female",
        "split": "test",
    }


NAMINGS = {
    "ravdess": Naming("RAVDESS", _RAVDESS, "03-01-05-01-02-01-12.wav", _read_ravdess, unused="song or silent video"),
    "emodb": Naming("EmoDB", _EMODB, "03a01Fa.wav", _read_emodb),
    "cremad": Naming("CREMA-D", _CREMAD, "1001_DFA_ANG_XX.wav", _read_cremad),
    "tess": Naming("TESS", _TESS, "OAF_back_angry.wav", _read_tess),
}

_ENDINGS = (".wav", ".flac")


def read_acted(config: CorpusConfig) -> Manifest:
    """The clips under `config.root`, with nominal valence and arousal (circumplex.py) and speaker-disjoint splits.

    Raises ManyProblems with every name that does not fit the convention and every folder that is another's copy,
    UsageError when there is no clip at all.
    """
    root, naming = corpus_root(config), NAMINGS[config.reader]
    scale = corpus_scale(config, NOMINAL_SCALE)
    builder = ManifestBuilder(root, scale, missing_audio=config.missing_audio, source=root)
    clips = sorted(_clips(root))
    if not clips:
        found = f"no {' or '.join(_ENDINGS)} file in it or below"
        raise UsageError(root, found, f"{naming.name}, as in {naming.example}", "Pass another --audio-root.")
    once = _without_copies(builder, root, clips)
    unused = sum(not _add(builder, root / clip, clip, naming) for clip in once)
    dropped = [f"dropped {unused:,} clips of {naming.unused}"] if unused else []
    return builder.build([*dropped, NOTE])


def _add(builder: ManifestBuilder, file: Path, clip: str, naming: Naming) -> bool:
    """Add one clip or the problem with its name; False when it is none of the speech."""
    match = naming.pattern.fullmatch(file.stem)
    if match is None:
        builder.problem(0, file, f"no name of {naming.name}; expected one like {naming.example}")
        return True
    labels = naming.read(match)
    if labels is None:
        return False
    valence, arousal = nominal(str(labels["emotion"]), str(labels.get("intensity", "")))
    builder.add(0, file, id=file.stem, audio=clip, valence=valence, arousal=arousal, **labels)
    return True


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
            shared[_copied(known.parent.parts, path.parent.parts)] += 1
    for (one, other), count in shared.items():
        found = f"{count:,} of its clips lie in {root / one} too"
        builder.problem(0, root / other, f"{found}; expected each clip once (pass one copy as --audio-root)")
    return once


def _copied(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, str]:
    """Two folders that share a clip, less what their paths end alike in; an outer folder before what is inside it."""
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    first, second = sorted(("/".join(one), "/".join(other)))
    return first, second


def _clips(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        inside = os.path.relpath(folder, root)
        for name in names:
            if name.lower().endswith(_ENDINGS) and not name.startswith("."):
                yield os.path.normpath(os.path.join(inside, name))
