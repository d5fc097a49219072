"""Styles of the emotion category: CLAP-template and CLAP4Emo (F14), and the prompts of zero-shot recognition (F29).

# paper: CLAP4Emo's captions are built from sentence frames and a lexicon's words, not written by an LLM.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions, ClassPrompt
from cache.manifest import Manifest
from pipeline.captions.grouping import drawn, grouped, is_test
from pipeline.captions.lexicon import EMOTIONS, Words, words_of
from pipeline.captions.source import Source
from pipeline.config import CaptionsConfig

TEMPLATE = "speech has {emotion} emotion"
FEELING = "this person is feeling {emotion}."
BARE = "{emotion}"
TEMPLATES = (FEELING, BARE, TEMPLATE)
ADJECTIVES = {"contempt": "contemptuous", "disgust": "disgusted"}  # where the category's name is none

TRAIN_FRAMES = (
    "The person is speaking in a voice that sounds {emotion}: {first}, {second}.",
    "A speaker who feels {emotion}, with words such as {first} and {second} coming to mind.",
    "The speech is {emotion} and suggests {first} and {second}.",
    "Someone sounds {emotion} here, as if thinking of {first} and {second}.",
    "This voice is {emotion}; it expresses {first} and {second}.",
    "The tone is {emotion}, close to {first} or {second}.",
    "Listening to this, one thinks of {first} and {second}: the speaker is {emotion}.",
    "The speaker seems {emotion}, and the mood is one of {first} and {second}.",
)
TEST_FRAMES = (
    "One hears a person who is {emotion}, which {first} and {second} describe.",
    "To the ear this utterance is {emotion}; {first} and {second} would fit it.",
    "Whoever talks here is {emotion} and brings {first} and {second} to the listener.",
    "An utterance whose manner is {emotion}, marked by {first} and {second}.",
    "What is said comes across as {emotion}, with a touch of {first} and of {second}.",
    "In feeling the utterance is {emotion}, somewhere between {first} and {second}.",
    "There is {first} as well as {second} in how it is said, and the talker comes over as {emotion}.",
    "Spoken by one in whom {first} and {second} can be heard, and who must be {emotion}.",
)
_FRAMES = (TRAIN_FRAMES, TEST_FRAMES)
PAIRS = 24  # of words, for each frame: at most 384 texts an emotion, whatever the lexicon, are to be encoded


def plan_template(source: Source, _config: CaptionsConfig) -> Captions:
    """CLAP-template (F14): "speech has {label} emotion" for each utterance that has one; one phrasing for all splits.

    With it come the class prompts (F29) of the known categories and of any other in the manifest.
    """
    rows, names, emotion = _categories(source.manifest)
    captions = grouped("template", emotion[:, None], rows, lambda key: TEMPLATE.format(emotion=names[key]))
    return Captions(captions=captions, classes=class_prompts(dict.fromkeys((*EMOTIONS, *names))))


def plan_clap4emo(source: Source, config: CaptionsConfig) -> Captions:
    """CLAP4Emo (F14), offline: `per_utterance` captions, each of another frame, with two words of the emotion lexicon.

    Test utterances get other frames and other words than the rest. What an utterance gets depends on its id, its
    labels, the lexicon and the seed, not on its place. Raises UsageError for an emotion that the lexicon lacks.
    """
    manifest = source.manifest
    rows, names, emotion = _categories(manifest)
    test = is_test(manifest, rows)
    frames, pairs = _drawn(drawn(manifest, rows, config.seed), config)  # (M, K) each
    shape = (len(_FRAMES), len(names) or 1, len(TRAIN_FRAMES), PAIRS)
    keys = np.ravel_multi_index((test[:, None], emotion[:, None], frames, pairs), shape)
    lexicon = words_of(names, config.lexicon)
    tables: dict[tuple[int, int, int], list[tuple[str, str]]] = {}

    def text(key: int) -> str:
        phrasing, category, frame, pair = (int(part) for part in np.unravel_index(key, shape))
        name, place = names[category], (phrasing, category, frame)
        if place not in tables:
            tables[place] = _word_pairs(name, lexicon[name], phrasing, frame, config.seed)
        first, second = tables[place][pair]
        return _FRAMES[phrasing][frame].format(emotion=_adjective(name), first=first, second=second)

    return Captions(captions=grouped("clap4emo", keys, rows, text))


def class_prompts(emotions: Iterable[str] = EMOTIONS) -> list[ClassPrompt]:
    """The zero-shot prompts (F29) of `emotions` in each of `TEMPLATES`; the feeling is named by its adjective."""
    return [
        ClassPrompt(template, template.format(emotion=_adjective(name) if template == FEELING else name), name)
        for template in TEMPLATES
        for name in emotions
    ]


def _adjective(emotion: str) -> str:
    return ADJECTIVES.get(emotion, emotion)


def _categories(manifest: Manifest) -> tuple[NDArray[np.int64], list[str], NDArray[np.int64]]:
    """The rows that have an emotion (M,), the names of all emotions, and the (M,) place of each row's among them."""
    names = sorted(set(manifest.emotion) - {""})
    place_of = {"": -1} | {name: place for place, name in enumerate(names)}
    place = np.fromiter(map(place_of.__getitem__, manifest.emotion), np.int64, len(manifest))
    rows = np.flatnonzero(place >= 0)
    return rows, names, place[rows]


def _drawn(numbers: NDArray[np.int64], config: CaptionsConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(M, K) distinct frames, ascending in a row, and (M, K) word pairs, by the number drawn for each utterance."""
    choices = np.array(list(combinations(range(len(TRAIN_FRAMES)), config.per_utterance)), dtype=np.int64)
    rest, choice = np.divmod(numbers, len(choices))
    return choices[choice], (rest[:, None] + 7 * np.arange(config.per_utterance)) % PAIRS


def _word_pairs(emotion: str, words: Words, phrasing: int, frame: int, seed: int) -> list[tuple[str, str]]:
    """`PAIRS` distinct ordered pairs of two different words, drawn for one frame."""
    of = words[phrasing]
    generator = np.random.default_rng([seed, zlib.crc32(emotion.encode()), phrasing, frame])
    drawn = generator.choice(len(of) * (len(of) - 1), PAIRS, replace=False)
    places = ((int(pair) // (len(of) - 1), int(pair) % (len(of) - 1)) for pair in drawn)
    return [(of[i], of[j + (j >= i)]) for i, j in places]
