"""Captions of the emotion category: CLAP-template, CLAP4Emo offline (F14), and class prompts (F29).

The words are a small lexicon of our own in `configs/captions/category.yaml`, or the user's NRC file (F40).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions, ClassPrompt, Columns
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig
from pipeline.core.config_files import word_list
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.core.files import open_regular
from pipeline.data.captions.base import TEMPLATE_SPLITS, CaptionSource, TemplateSplit, group_rows, hash_ids, is_test

Words = dict[TemplateSplit, list[str]]
MIN_WORDS = 6  # of a split: 30 ordered pairs
STEM_LETTERS = 5  # words that share them (abandon, abandoned) fall into the same split
PAIRS = 24  # of words, for each sentence: at most 384 texts an emotion, whatever the lexicon, are to be encoded
AFFECTS = frozenset(
    ("anger", "anticipation", "disgust", "fear", "joy", "negative", "positive", "sadness", "surprise", "trust")
)
_EXPECTED, _ACTION = "NRC's word-level file, as UTF-8", "Correct captions.lexicon."


def category_words() -> dict[str, Any]:
    """`configs/captions/category.yaml`."""
    return word_list("captions/category")


# ---- the emotion lexicon


def words_of(emotions: Iterable[str], path: Path | None) -> dict[str, Words]:
    """The words of each of `emotions`, from the NRC word-level file at `path`, or our own without one.

    Raises UsageError for an emotion without words, or one that the file has fewer than `MIN_WORDS` words a split for;
    ManyProblems (a UsageError) with every malformed line of the file.
    """
    lexicon: dict[str, Words] = category_words()["lexicon"]
    wanted = list(emotions)
    unknown = [emotion for emotion in wanted if emotion not in lexicon]
    if unknown:
        raise UsageError(
            f"emotion {', '.join(map(repr, unknown))}",
            "no words for it in the emotion lexicon",
            ", ".join(lexicon),
            "Name the emotions so in the manifest, or leave the style clap4emo out.",
        )
    if path is not None:
        lexicon = lexicon | read_lexicon(path)
    counts = {emotion: [len(lexicon[emotion][split]) for split in TEMPLATE_SPLITS] for emotion in wanted}
    few = [f"{a} train and {b} test words for {emotion}" for emotion, (a, b) in counts.items() if min(a, b) < MIN_WORDS]
    if few:
        expected = f"at least {MIN_WORDS} of each"
        raise UsageError(f"captions.lexicon: {path}", "; ".join(few), expected, "Give NRC's whole word-level file.")
    return {emotion: lexicon[emotion] for emotion in wanted}


def read_lexicon(path: Path) -> dict[str, Words]:
    """The words of our categories in an NRC EmoLex file: lines `word<TAB>affect<TAB>0 or 1`, blanks skipped.

    The first letters of a word decide its split, so that inflections stay together. Raises ManyProblems with
    `file:line` of every malformed line, UsageError when the file cannot be read.
    """
    affects_of: dict[str, set[str]] = {}
    problems: list[str] = []
    try:
        with open_regular(path, expected=_EXPECTED, action=_ACTION, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                parts = [part.strip() for part in line.split("\t")]
                problem = _problem(parts)
                if problem:
                    problems.append(f"{path}:{number}: {problem}")
                elif len(parts) == 3 and parts[2] == "1":
                    affects_of.setdefault(parts[0], set()).add(parts[1])
    except UnicodeDecodeError:
        raise UsageError(path, "cannot be read (not UTF-8)", _EXPECTED, _ACTION) from None
    if problems:
        raise ManyProblems(path, problems, "Give NRC's word-level file, unchanged, as captions.lexicon.")
    lexicon: dict[str, Words] = {}
    for emotion, rule in category_words()["nrc"].items():
        has, only = set(rule["has"]), set(rule.get("only", AFFECTS))
        lexicon[emotion] = {"train": [], "test": []}
        for word in sorted(word for word, affects in affects_of.items() if has <= affects <= only):
            lexicon[emotion][TEMPLATE_SPLITS[zlib.crc32(word[:STEM_LETTERS].encode()) & 1]].append(word)
    return lexicon


def _problem(parts: list[str]) -> str:
    """What is wrong with the columns of a line; "" if nothing is."""
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


# ---- captions and class prompts


def assign_template(source: CaptionSource, _config: CaptionsConfig) -> Captions:
    """CLAP-template (F14): "speech has {label} emotion" for each utterance that has one; the same for all splits.

    With it come the class prompts (F29) of the known categories and of any other in the manifest.
    """
    rows, names, emotion = _categories(source.manifest)
    template = category_words()["template"]
    texts = [template.format(emotion=name) for name in names]
    captions = group_rows("template", emotion[:, None], rows, lambda present: [texts[key] for key in present])
    return Captions(captions, classes=class_prompts(dict.fromkeys((*category_words()["lexicon"], *names))))


def assign_clap4emo(source: CaptionSource, config: CaptionsConfig) -> Captions:
    """CLAP4Emo (F14), offline: `per_utterance` captions, each of another sentence with two words of the lexicon.

    Test utterances get other sentences and other words than the rest. What an utterance gets depends on its id, its
    labels, the lexicon and the seed, not on its row. Raises UsageError for an emotion that the lexicon lacks.
    """
    manifest = source.manifest
    rows, names, emotion = _categories(manifest)
    sentences = category_words()["sentences"]
    count = len(sentences["train"])
    choices = np.array(list(combinations(range(count), config.per_utterance)), dtype=np.int64)  # ascending
    rest, choice = np.divmod(hash_ids(manifest, rows, config.seed), len(choices))
    pair = (rest[:, None] + 7 * np.arange(config.per_utterance)) % PAIRS  # (M, K)
    shape = (len(TEMPLATE_SPLITS), len(names) or 1, count, PAIRS)
    keys = np.ravel_multi_index((is_test(manifest, rows)[:, None], emotion[:, None], choices[choice], pair), shape)
    lexicon = words_of(names, config.lexicon)

    @cache
    def texts_of(split: int, category: int, sentence: int) -> list[str]:
        """(PAIRS,) one sentence with each of its word pairs."""
        name, part = names[category], TEMPLATE_SPLITS[split]
        seed = [config.seed, zlib.crc32(name.encode()), split, sentence]
        pairs = _word_pairs(lexicon[name][part], np.random.default_rng(seed))
        pattern = sentences[part][sentence]
        return [pattern.format(emotion=_adjective(name), first=first, second=second) for first, second in pairs]

    def texts(present: NDArray[np.int64]) -> list[str]:
        parts = map(np.ndarray.tolist, np.unravel_index(present, shape))
        return [
            texts_of(split, category, sentence)[pair] for split, category, sentence, pair in zip(*parts, strict=True)
        ]

    return Captions(group_rows("clap4emo", keys, rows, texts))


def class_prompts(emotions: Iterable[str]) -> Columns[ClassPrompt]:
    """The class prompts (F29) of `emotions` in each class template."""
    names = list(emotions)
    templates = category_words()["class_templates"]
    filled = [(each, each.format(emotion=_adjective(name)), name) for each in templates["adjective"] for name in names]
    filled += [(each, each.format(emotion=name), name) for each in templates["name"] for name in names]
    return Columns.of(ClassPrompt, *map(list, zip(*filled, strict=True)))


def _adjective(emotion: str) -> str:
    return str(category_words()["adjectives"].get(emotion, emotion))


def _categories(manifest: Manifest) -> tuple[NDArray[np.int64], list[str], NDArray[np.int64]]:
    """The rows that have an emotion (M,), the names of all emotions, and the (M,) index of each row's among them."""
    names = sorted(set(manifest.emotion) - {""})
    index_of = {"": -1} | {name: index for index, name in enumerate(names)}
    index = np.array([index_of[name] for name in manifest.emotion], dtype=np.int64)
    rows = np.flatnonzero(index >= 0)
    return rows, names, index[rows]


def _word_pairs(words: list[str], generator: np.random.Generator) -> list[tuple[str, str]]:
    """`PAIRS` distinct ordered pairs of two different words."""
    numbers = generator.choice(len(words) * (len(words) - 1), PAIRS, replace=False)
    pairs = [divmod(number, len(words) - 1) for number in numbers.tolist()]
    return [(words[i], words[j + (j >= i)]) for i, j in pairs]
