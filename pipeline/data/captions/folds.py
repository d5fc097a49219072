"""Captions planned anew for other splits: in every fold, test utterances alone have test wording.

Only texts that the stores hold are used, so that a fold encodes nothing. An utterance that changes sides changes to the
other wording at its own point and variant: every training sentence is there as a whole-grammar text (`captions.grid`),
every test sentence as a prompt (`captions.prompt_variants=8`).
"""

from __future__ import annotations

import logging
import re
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from cache.captions import Caption, Captions
from cache.manifest import Manifest
from pipeline.core.config_files import word_list
from pipeline.core.errors import UsageError
from pipeline.data.captions.base import TEMPLATE_SPLITS, template_split
from pipeline.data.captions.category import category_words
from pipeline.data.captions.dimensional import LEVELS, VARIANTS, templates

log = logging.getLogger(__name__)

_Rows = NDArray[np.int64]
_Keys = dict[tuple[int, int, int, int], list[_Rows]]  # (wording, valence level, arousal level, variant) -> rows


def captions_for_splits(captions: Captions, manifest: Manifest, split: Sequence[str]) -> Captions:
    """The captions as they would be if the utterances were split as `split` (N,) says; `texts()` stays.

    - Captions of the dimensional grammar get the wording of their utterance's new split, at the same point and variant.
    - Captions of the built-in `clap4emo` get as many stored captions of the same emotion in the other wording, chosen
      by the utterance's id; where there are too few they stay.
    - All other captions stay. The built-in `template` and `acoustic` are worded alike in every split, by design.

    Of all but these two no training or development utterance keeps a text that a test utterance has or that is a
    prompt, and no such text stays among the whole-grammar texts. What that leaves out is counted in `notes` and logged.

    Raises UsageError for another number of rows, or where a sentence of the grammar is needed that is not stored.
    """
    if len(split) != len(manifest):
        expected = f"{len(manifest)}, one an utterance"
        raise UsageError("captions in folds", f"{len(split)} splits", expected, "Pass the splits of this manifest.")
    texts = captions.texts()
    test = np.array([template_split(each) == "test" for each in split], dtype=bool)
    planned: list[Caption] = []
    for style in captions.styles():
        of_style = list(captions.captions.of_style(style))
        if style == "dimensional":
            planned += _dimensional(of_style, test, set(texts))
        elif style == "clap4emo":
            planned += _clap4emo(of_style, test, manifest)
        else:
            planned += of_style
    held_back = {text for _, text, rows in planned if test[np.asarray(rows)].any()}
    held_back |= set(captions.prompts.columns["text"])
    kept, notes = _without_leaks(planned, test, held_back)
    grid = [each for each in captions.grid if each.text not in held_back]
    if len(grid) < len(captions.grid):
        count = len(captions.grid) - len(grid)
        notes.append(
            f"captions in folds: {count:,} whole-grammar texts are left out: prompts, or texts of test utterances"
        )
    for note in notes:
        log.info(note)
    result = Captions.of(kept, captions.prompts, captions.classes, grid)
    return replace(result, source=captions.source, order=tuple(texts), notes=tuple(notes))


@cache
def _grammar() -> dict[str, tuple[int, int, int, int]]:
    """Every sentence of the dimensional grammar -> wording (1 test), valence level, arousal level and variant."""
    levels = range(len(LEVELS))
    keys = product(range(len(TEMPLATE_SPLITS)), levels, levels, range(VARIANTS))
    return {templates(TEMPLATE_SPLITS[wording])[k].fill(v, a): (wording, v, a, k) for wording, v, a, k in keys}


def _dimensional(captions: Sequence[Caption], test: NDArray[np.bool_], stored: set[str]) -> list[Caption]:
    """The grammar's captions in the wording of each row's split, in the grammar's order; then the others."""
    rows_of: _Keys = defaultdict(list)
    others = []
    for caption in captions:
        key = _grammar().get(caption.text)
        if key is None:
            others.append(caption)
            continue
        _, v, a, variant = key
        rows = np.asarray(caption.rows, dtype=np.int64)
        for wording in (0, 1):
            rows_of[wording, v, a, variant].append(rows[test[rows] == wording])
    planned, missing = [], 0
    for (wording, v, a, variant), parts in sorted(rows_of.items()):
        if len(rows := np.unique(np.concatenate(parts))):
            text = templates(TEMPLATE_SPLITS[wording])[variant].fill(v, a)
            missing += text not in stored
            planned.append(_caption("dimensional", text, rows))
    if missing:
        raise UsageError(
            "captions in folds",
            f"{missing:,} sentences that utterances need in another split are not among the texts",
            "every training sentence (captions.grid) and every test sentence (captions.prompt_variants=8)",
            "Run extract-features again with both: only the new texts are encoded.",
        )
    return [*planned, *others]


def _clap4emo(captions: Sequence[Caption], test: NDArray[np.bool_], manifest: Manifest) -> list[Caption]:
    """The captions with other stored ones where a row's wording is not its split's; with too few it keeps its own."""
    pool: dict[tuple[int, str], list[tuple[int, str]]] = defaultdict(list)  # wording, emotion -> sentences and texts
    changing: dict[tuple[int, str], list[str]] = defaultdict(list)  # row, emotion -> its texts of the other wording
    for caption in captions:
        if (known := _wording(caption.text)) is not None:
            wording, sentence, emotion = known
            pool[wording, emotion].append((sentence, caption.text))
            rows = np.asarray(caption.rows, dtype=np.int64)
            for row in rows[test[rows] != wording].tolist():
                changing[row, emotion].append(caption.text)
    rows_of = {caption.text: set(caption.rows) for caption in captions}
    for (row, emotion), texts in changing.items():
        candidates = pool[int(test[row]), emotion]
        if len(candidates) >= len(texts):
            start = zlib.crc32(manifest.id[row].encode(errors="surrogateescape")) % len(candidates)
            for text in texts:
                rows_of[text].remove(row)
            for text in _choice(tuple(candidates), start, len(texts)):
                rows_of[text].add(row)
    return [
        _caption("clap4emo", text, np.array(sorted(rows), dtype=np.int64)) for text, rows in rows_of.items() if rows
    ]


@cache
def _choice(candidates: tuple[tuple[int, str], ...], start: int, count: int) -> list[str]:
    """`count` different texts from `start` on, of as many different sentences as there are."""
    turned = [*candidates[start:], *candidates[:start]]
    earlier: Counter[int] = Counter()
    ranked = []
    for place, (sentence, text) in enumerate(turned):
        ranked.append((earlier[sentence], place, text))  # the first of each sentence, then the second of each
        earlier[sentence] += 1
    return [text for _, _, text in sorted(ranked)[:count]]


@cache
def _sentences() -> list[tuple[int, int, re.Pattern[str]]]:
    """The sentences of clap4emo: the wording (1 test), the number and the form of each."""
    return [
        (wording, number, re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(sentence))))
        for wording, split in enumerate(TEMPLATE_SPLITS)
        for number, sentence in enumerate(category_words()["sentences"][split])
    ]


def _wording(text: str) -> tuple[int, int, str] | None:
    """The wording (1 test), the sentence and the emotion of a built-in clap4emo caption; None for any other text."""
    for wording, number, pattern in _sentences():
        if match := pattern.fullmatch(text):
            return wording, number, match["emotion"]
    return None


def _without_leaks(
    planned: Sequence[Caption], test: NDArray[np.bool_], held_back: set[str]
) -> tuple[list[Caption], list[str]]:
    """The captions without links of training and development rows to `held_back`; notes of what is left out."""
    kept, links, texts = [], Counter[str](), Counter[str]()
    for style, text, of in planned:
        rows = np.asarray(of, dtype=np.int64)
        stays = rows if text not in held_back or _is_common(style, text) else rows[test[rows]]
        links[style] += len(rows) - len(stays)
        texts[style] += len(rows) > len(stays)
        if len(stays):
            kept.append(_caption(style, text, stays))
    notes = []
    for style, count in links.items():
        if count:
            without = len(_described(planned, style) - _described(kept, style))
            notes.append(
                f"captions in folds: {texts[style]:,} {style} captions are prompts or describe test utterances too; "
                f"they are removed from training and development utterances ({count:,} times), of which {without:,} "
                f"keep no {style} caption"
            )
    return kept, notes


def _described(captions: Sequence[Caption], style: str) -> set[int]:
    return {row for each in captions if each.style == style for row in each.rows}


def _is_common(style: str, text: str) -> bool:
    """Whether a caption is of a built-in style that is worded alike in every split: `template` or `acoustic`."""
    if style == "template":
        before, after = category_words()["template"].split("{emotion}")
        return text.startswith(before) and text.endswith(after)
    return style == "acoustic" and text.split(" and ")[-1] in _last_phrases()


@cache
def _last_phrases() -> frozenset[str]:
    return frozenset(phrase for phrases in word_list("captions/acoustic")["features"].values() for phrase in phrases)


def _caption(style: str, text: str, rows: _Rows) -> Caption:
    return Caption(style, text, array("q", rows.tobytes()))
