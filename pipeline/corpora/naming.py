"""How RAVDESS, EmoDB, CREMA-D and TESS write their labels into file names, and how their speakers are split here.

Splits are by speaker, so that no voice of the test was heard in training:

| corpus  | train                  | dev       | test      |
|---------|------------------------|-----------|-----------|
| RAVDESS | actors 1-16            | 17-20     | 21-24     |
| EmoDB   | 03 08 09 10 11 12      | 13 14     | 15 16     |
| CREMA-D | 1001-1063              | 1064-1077 | 1078-1091 |
| TESS    |                        |           | OAF YAF   |

TESS is two women, 64 and 26 years old: one voice for training and one for the test would tell voices apart as much as
emotions, and nobody would be left for dev. It is a corpus of zero-shot recognition (F29), where all of it is the test.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

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
