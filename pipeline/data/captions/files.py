"""The lines of a captions file, and the reasons why one is none."""

from __future__ import annotations

import logging
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from cache.captions import Caption, Captions, Prompt
from cache.manifest import Manifest
from pipeline.core.config import CaptionsConfig, Model, Number, Whole
from pipeline.core.config_files import short_repr, validate
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.core.files import NotJson, open_regular, parse_json
from pipeline.data.captions.base import Source
from pipeline.data.captions.llm.requests import DECIMALS, phrasing_of

log = logging.getLogger(__name__)

STYLES: tuple[str, ...] = get_args(get_args(CaptionsConfig.model_fields["styles"].annotation)[0])


def _plain(text: str) -> str:
    text = text.strip()
    if not text or not text.isprintable():
        raise ValueError("one line of text is needed")
    return text


def _known(style: str) -> str:
    if style not in STYLES:
        raise ValueError(f"the styles are {', '.join(STYLES)}")
    return style


Text = Annotated[str, AfterValidator(_plain)]
Style = Annotated[str, AfterValidator(_known)]
Label = Annotated[Number, Field(ge=0.5, le=7.0)]


class CaptionLine(Model):
    """One caption, and whom it describes: an utterance, a point of the plane or a category.

    `phrasing` keeps it to training and development ("train") or to test utterances; none is both.
    """

    use: Literal["caption"] = "caption"
    style: Style = "file"
    text: Text
    id: str | None = None
    phrasing: Literal["train", "test"] | None = None
    valence: Label | None = None
    arousal: Label | None = None
    emotion: str | None = None

    @model_validator(mode="after")
    def _describes_someone(self) -> CaptionLine:
        pair = self.valence is not None and self.arousal is not None
        half = (self.valence is None) != (self.arousal is None)
        if half or (self.id is not None) + pair + (self.emotion is not None) != 1:
            raise ValueError("one of id, (valence, arousal) and emotion is needed")
        if self.id is not None and self.phrasing is not None:
            raise ValueError("an utterance's caption has no phrasing")
        return self


class PromptLine(Model):
    """One text that asks for a point of the valence-arousal plane (F13)."""

    use: Literal["prompt"]
    style: Style = "file"
    text: Text
    valence: Label
    arousal: Label
    variant: Whole = Field(0, ge=0)


def parse_file(path: Path, problems: list[str]) -> Iterator[tuple[str, CaptionLine | PromptLine]]:
    """The good lines of `path` with their place; what is wrong with the others goes into `problems`."""
    try:
        with open_regular(path, "rb") as file:
            if path.suffix == ".json":
                yield from _categories(path, file.read(), problems)
                return
            for number, line in enumerate(_lines(file), start=1):
                if line.strip():
                    yield from _line(f"{path}:{number}", line, problems)
    except UsageError as error:
        problems.append(f"{error.subject}: {error.found}")


def _lines(file: Iterable[bytes]) -> Iterator[bytes]:
    for part in file:
        yield from part.removesuffix(b"\n").removesuffix(b"\r").split(b"\r")


def _line(where: str, line: bytes, problems: list[str]) -> Iterator[tuple[str, CaptionLine | PromptLine]]:
    try:
        tree = parse_json(line)
    except NotJson as error:
        problems.append(f"{where}: {error}; expected one JSON object a line")
        return
    if not isinstance(tree, dict):
        problems.append(f"{where}: {type(tree).__name__}; expected a JSON object")
        return
    yield from _entry(where, tree, problems)


def _entry(where: str, tree: dict[str, Any], problems: list[str]) -> Iterator[tuple[str, CaptionLine | PromptLine]]:
    model: type[CaptionLine] | type[PromptLine] = PromptLine if tree.get("use") == "prompt" else CaptionLine
    try:
        yield where, validate(model, tree, subject=where)
    except ManyProblems as error:
        problems += error.problems


def _categories(path: Path, raw: bytes, problems: list[str]) -> Iterator[tuple[str, CaptionLine | PromptLine]]:
    """CLAP4Emo's captions: an object, category -> captions."""
    try:
        tree = parse_json(raw)
    except NotJson as error:
        problems.append(f"{path}:{error.line}: {error}; expected an object of lists of captions by emotion")
        return
    if not isinstance(tree, dict):
        problems.append(f"{path}: {type(tree).__name__}; expected an object of lists of captions by emotion")
        return
    for emotion, captions in tree.items():
        where = f"{path}: {emotion if emotion.isprintable() and len(emotion) < 60 else short_repr(emotion)}"
        if not isinstance(captions, list):
            problems.append(f"{where}: {type(captions).__name__}; expected a list of captions")
            continue
        for number, text in enumerate(captions):
            yield from _entry(f"{where}[{number}]", {"style": "clap4emo", "emotion": emotion, "text": text}, problems)


_ALIASES = {  # nouns and other corpora's words, as the readers say them
    "anger": "angry",
    "sadness": "sad",
    "happiness": "happy",
    "joy": "happy",
    "surprise": "surprised",
    "fear": "fearful",
    "disgusted": "disgust",
    "boredom": "bored",
    "frustration": "frustrated",
    "excitement": "excited",
    "neutrality": "neutral",
}
_Group = tuple[object, ...]


def read_caption_files(paths: Iterable[Path]) -> list[CaptionLine | PromptLine]:
    """Every line of `paths`, in their order. Raises ManyProblems with every faulty line of all of them, file:line."""
    paths = list(paths)
    problems: list[str] = []
    lines: list[CaptionLine | PromptLine] = []
    asked: dict[tuple[object, ...], str] = {}
    for path in paths:
        for where, line in parse_file(path, problems):
            if isinstance(line, PromptLine):
                place = (line.style, round(line.valence, DECIMALS), round(line.arousal, DECIMALS), line.variant)
                if place in asked:
                    problems.append(f"{where}: the same style, place and variant as {asked[place]}")
                asked.setdefault(place, where)
            lines.append(line)
    if problems:
        raise ManyProblems(", ".join(map(str, paths)), problems, "Correct the files.")
    return lines


def plan_files(source: Source, config: CaptionsConfig) -> Captions:
    """The captions and prompts of every style in `config.files`, linked to the utterances of `source`.

    A caption describes an utterance by its id, by its (valence, arousal) at two decimals or by its emotion; a line
    with a phrasing describes only the utterances of its splits. Of more than `per_utterance` captions an utterance
    gets that many, chosen by its id and the seed. Utterances without a caption are counted aloud. Raises ManyProblems
    for faulty lines, UsageError for a style whose captions describe no utterance.
    """
    lines = read_caption_files(config.files)
    captions: list[Caption] = []
    for style in dict.fromkeys(line.style for line in lines if isinstance(line, CaptionLine)):
        own = [line for line in lines if isinstance(line, CaptionLine) and line.style == style]
        captions += _linked(style, own, source, config)
    prompts = [
        Prompt(line.style, line.text, line.valence, line.arousal, line.variant)
        for line in lines
        if isinstance(line, PromptLine)
    ]
    return Captions(captions=captions, prompts=prompts)


def _linked(style: str, lines: list[CaptionLine], source: Source, config: CaptionsConfig) -> list[Caption]:
    texts: dict[_Group, dict[str, None]] = defaultdict(dict)
    for line in lines:
        texts[_group_of(line)][line.text] = None
    rows = {line.text: array("q") for line in lines}
    met: set[_Group] = set()
    bare = 0

    @lru_cache(maxsize=1 << 16)  # labels on raters' grids: the same few thousand on every row
    def shared(split: str, emotion: str, valence: float, arousal: float) -> tuple[str, ...]:
        present = [group for group in _groups(split, emotion, (valence, arousal)) if group in texts]
        met.update(present)
        return tuple(dict.fromkeys(text for group in present for text in texts[group]))

    for row, (name, *labels) in enumerate(_labelled(source.manifest)):
        own = ("id", name)
        mine = shared(*labels)
        if own in texts:
            met.add(own)
            mine = tuple(dict.fromkeys((*texts[own], *mine)))
        for text in _some(mine, name, config):
            rows[text].append(row)
        bare += not mine
    _report(style, bare, [group for group in texts if group not in met], source, config)
    return [Caption(style, text, owners) for text, owners in rows.items() if owners]


def _group_of(line: CaptionLine) -> _Group:
    if line.id is not None:
        return ("id", line.id)
    if line.emotion is not None:
        return ("emotion", line.phrasing, _category(line.emotion))
    return ("pair", line.phrasing, *(round(label, DECIMALS) for label in (line.valence, line.arousal) if label))


def _groups(split: str, emotion: str, pair: tuple[float, float]) -> list[_Group]:
    """The groups of captions, but those by id, that describe an utterance with these labels."""
    about: list[_Group] = [("pair", *(round(label, DECIMALS) for label in pair)), ("emotion", _category(emotion))]
    return [(kind, of, *rest) for of in (phrasing_of(split), None) for kind, *rest in about]


def _labelled(manifest: Manifest) -> Iterator[tuple[str, str, str, float, float]]:
    """Id, split, emotion, valence and arousal of each utterance, in order; 0, which no caption is about, for no label.

    Unlike NaN it equals itself.
    """
    labels = (np.nan_to_num(values, nan=0.0).tolist() for values in (manifest.valence, manifest.arousal))
    return zip(manifest.id, manifest.split, manifest.emotion, *labels, strict=True)


def _some(texts: Sequence[str], name: str, config: CaptionsConfig) -> Sequence[str]:
    """At most `per_utterance` of `texts`, by the utterance's name, not by its place."""
    if len(texts) <= config.per_utterance:
        return texts
    start = zlib.crc32(f"{config.seed}:{name}".encode(errors="surrogateescape"))
    return [texts[(start + step) % len(texts)] for step in range(config.per_utterance)]


def _report(style: str, bare: int, unmet: list[_Group], source: Source, config: CaptionsConfig) -> None:
    total = len(source.manifest)
    if bare == total:
        raise UsageError(
            ", ".join(map(str, config.files)),
            f"no {style} caption describes an utterance of this corpus",
            "its ids, its (valence, arousal) or its emotions",
            "Check captions.files.",
        )
    if bare:
        log.info(f"captions.files: {bare:,} of {total:,} utterances have no {style} caption")
    if unmet:
        examples = ", ".join(" ".join(str(part) for part in group if part is not None) for group in unmet[:5])
        log.info(f"captions.files: {style} captions of nothing in this corpus: {len(unmet):,} ({examples}, ...)"[:300])


def _category(emotion: str) -> str:
    name = emotion.strip().casefold()
    return _ALIASES.get(name, name)
