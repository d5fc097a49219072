"""Words of an emotion: a small lexicon of our own, or the user's NRC file (F14, F40).

Each category has words for the train phrasing and others for the test phrasing, so that no test caption is made of
words that the heads saw with its emotion.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions, ClassPrompt
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.core.files import open_regular
from pipeline.data.captions.base import Source, drawn, grouped, is_test

Words = tuple[tuple[str, ...], tuple[str, ...]]  # of the train and of the test phrasing
MINIMUM = 6  # words a phrasing needs: 30 ordered pairs
STEM = 5  # letters: words that share them (abandon, abandoned) fall into the same phrasing


def _words(train: str, test: str) -> Words:
    return tuple(train.split()), tuple(test.split())


CUSTOM: dict[str, Words] = {  # nouns, written for this project; NRC's lexicons may not be redistributed (F40)
    "angry": _words(
        "rage wrath outrage hostility resentment indignation bitterness aggression",
        "fury anger ire temper spite vengeance hatred animosity",
    ),
    "bored": _words(
        "tedium monotony dullness weariness listlessness yawning apathy drabness",
        "boredom ennui sameness lethargy disinterest drowsiness repetition drudgery",
    ),
    "calm": _words(
        "serenity composure ease stillness restfulness quietude mildness gentleness",
        "tranquillity peace placidity relaxation repose poise softness patience",
    ),
    "contempt": _words(
        "scorn disdain arrogance mockery haughtiness condescension superiority belittlement",
        "derision sneering ridicule disrespect snobbery sarcasm loftiness dismissal",
    ),
    "disgust": _words(
        "revulsion nausea loathing distaste foulness filth queasiness rot",
        "repugnance aversion abhorrence sickness grossness stench squeamishness slime",
    ),
    "excited": _words(
        "thrill enthusiasm eagerness elation exhilaration anticipation energy buzz",
        "excitement fervour zest adrenaline euphoria exuberance passion fever",
    ),
    "fearful": _words(
        "terror panic dread fright worry alarm trembling menace",
        "horror anxiety apprehension nervousness danger unease threat trepidation",
    ),
    "frustrated": _words(
        "annoyance irritation exasperation vexation obstruction impatience setback grievance",
        "frustration aggravation thwarting dissatisfaction hindrance disappointment discouragement nuisance",
    ),
    "happy": _words(
        "joy delight cheer laughter gladness merriment bliss sunshine",
        "happiness pleasure glee mirth smiling contentment jollity celebration",
    ),
    "neutral": _words(
        "routine plainness fact information evenness objectivity ordinariness neutrality",
        "normality impartiality description balance dispassion regularity convention moderation",
    ),
    "sad": _words(
        "grief sorrow tears mourning loneliness melancholy heartbreak despair",
        "sadness misery weeping gloom regret woe dejection loss",
    ),
    "surprised": _words(
        "astonishment amazement wonder shock disbelief suddenness startle bewilderment",
        "surprise unexpectedness awe incredulity revelation stupefaction marvel jolt",
    ),
}
EMOTIONS = tuple(CUSTOM)  # the categories known, in alphabetical order
_EXPECTED, _ACTION = "NRC's word-level file, as UTF-8", "Correct captions.lexicon."
AFFECTS = frozenset(
    ("anger", "anticipation", "disgust", "fear", "joy", "negative", "positive", "sadness", "surprise", "trust")
)
_ANY = AFFECTS
# category: (affects a word must have, affects it may have). NRC has no neutral: those words stay ours.
RULES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "angry": (frozenset({"anger"}), _ANY),
    "bored": (frozenset({"negative"}), frozenset({"negative"})),  # displeasure without any of the eight emotions
    "calm": (frozenset({"positive"}), frozenset({"positive", "trust"})),  # pleasure without joy or anticipation
    "contempt": (frozenset({"anger", "disgust"}), _ANY),  # Plutchik's dyad, as is the next
    "excited": (frozenset({"anticipation", "joy"}), _ANY),
    "disgust": (frozenset({"disgust"}), _ANY),
    "fearful": (frozenset({"fear"}), _ANY),
    "frustrated": (frozenset({"anger", "sadness"}), _ANY),
    "happy": (frozenset({"joy"}), _ANY),
    "sad": (frozenset({"sadness"}), _ANY),
    "surprised": (frozenset({"surprise"}), _ANY),
}


def words_of(emotions: Iterable[str], path: Path | None) -> dict[str, Words]:
    """The words of each of `emotions`, from the NRC word-level file at `path`, or our own without one.

    Raises UsageError for an emotion outside `EMOTIONS`, or one that the file has fewer than `MINIMUM` words a phrasing
    for; ManyProblems (a UsageError) with every malformed line of the file.
    """
    wanted = list(emotions)
    unknown = [emotion for emotion in wanted if emotion not in CUSTOM]
    if unknown:
        raise UsageError(
            f"emotion {', '.join(map(repr, unknown))}",
            "no words for it in the emotion lexicon",
            ", ".join(EMOTIONS),
            "Name the emotions so in the manifest, or leave the style clap4emo out.",
        )
    lexicon = CUSTOM if path is None else CUSTOM | read_lexicon(path)
    poor = [emotion for emotion in wanted if min(map(len, lexicon[emotion])) < MINIMUM]
    if poor:
        found = "; ".join(f"{len(lexicon[e][0])} train and {len(lexicon[e][1])} test words for {e}" for e in poor)
        raise UsageError(
            f"captions.lexicon: {path}", found, f"at least {MINIMUM} of each", "Give NRC's whole word-level file."
        )
    return {emotion: lexicon[emotion] for emotion in wanted}


def read_lexicon(path: Path) -> dict[str, Words]:
    """The words of each category of `RULES` in an NRC EmoLex file: lines `word<TAB>affect<TAB>0 or 1`, blanks skipped.

    Raises ManyProblems with `file:line` of every malformed line, UsageError when the file cannot be read.
    """
    affects: dict[str, set[str]] = {}
    problems: list[str] = []
    try:
        with open_regular(path, expected=_EXPECTED, action=_ACTION, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                parts = [part.strip() for part in line.split("\t")]
                problem = _problem(parts)
                if problem:
                    problems.append(f"{path}:{number}: {problem}")
                elif len(parts) == 3 and parts[2] == "1":
                    affects.setdefault(parts[0], set()).add(parts[1])
    except UnicodeDecodeError:
        raise UsageError(path, "cannot be read (not UTF-8)", _EXPECTED, _ACTION) from None
    if problems:
        raise ManyProblems(path, problems, "Give NRC's word-level file, unchanged, as captions.lexicon.")
    return {emotion: _split(sorted(_fitting(affects, *rule))) for emotion, rule in RULES.items()}


def _problem(parts: list[str]) -> str:
    if parts == [""]:
        return ""
    if len(parts) != 3:
        return f"{len(parts)} columns; expected word<TAB>emotion<TAB>0 or 1"
    word, affect, value = parts
    if not word:
        return "no word; expected word<TAB>emotion<TAB>0 or 1"
    if affect not in AFFECTS:
        return f"emotion {affect[:40]!r}; expected one of {', '.join(sorted(AFFECTS))}"
    return "" if value in ("0", "1") else f"value {value[:40]!r}; expected 0 or 1"


def _fitting(affects: dict[str, set[str]], must: frozenset[str], may: frozenset[str]) -> Iterator[str]:
    return (word for word, has in affects.items() if must <= has <= may)


def _split(words: Iterable[str]) -> Words:
    """Train and test words: a stem's first letters decide, so that inflections stay together."""
    parts: tuple[list[str], list[str]] = ([], [])
    for word in words:
        parts[zlib.crc32(word[:STEM].encode()) & 1].append(word)
    return tuple(parts[0]), tuple(parts[1])


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
