"""Captions files: their lines, what is wrong with them, and which utterances the captions describe."""

from __future__ import annotations

import logging
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from cache.captions import Caption, Captions, GridText, Prompt
from pipeline.core.config import CaptionsConfig
from pipeline.core.config_files import Model, Number, Whole, validate
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.core.files import NotJson, open_regular, parse_json
from pipeline.core.settings import short_repr
from pipeline.data.captions.base import LABEL_DECIMALS, CaptionSource, template_split
from pipeline.data.corpora.label_names import one_spelling

log = logging.getLogger(__name__)

_STYLES: tuple[str, ...] = get_args(get_args(CaptionsConfig.model_fields["styles"].annotation)[0])
_Target = tuple[object, ...]  # ("id", id), ("pair", split, valence, arousal) or ("emotion", split, name)


def _one_line_of_text(text: str) -> str:
    text = text.strip()
    if not text or not text.isprintable():
        raise ValueError("one line of text is needed")
    return text


def _known_style(style: str) -> str:
    if style not in _STYLES:
        raise ValueError(f"the styles are {', '.join(_STYLES)}")
    return style


_Text = Annotated[str, AfterValidator(_one_line_of_text)]
_StyleName = Annotated[str, AfterValidator(_known_style)]
_Label = Annotated[Number, Field(ge=0.5, le=7.0)]


class CaptionLine(Model):
    """One caption, and what it describes: an utterance, a point of the valence-arousal plane or a category.

    `phrasing` keeps it to training and development ("train") or to test utterances ("test"); none is both.
    """

    use: Literal["caption"] = "caption"
    style: _StyleName = "file"
    text: _Text
    id: str | None = None
    phrasing: Literal["train", "test"] | None = None
    valence: _Label | None = None
    arousal: _Label | None = None
    emotion: str | None = None

    @model_validator(mode="after")
    def _has_one_target(self) -> CaptionLine:
        pair = self.valence is not None and self.arousal is not None
        half = (self.valence is None) != (self.arousal is None)
        if half or (self.id is not None) + pair + (self.emotion is not None) != 1:
            raise ValueError("one of id, (valence, arousal) and emotion is needed")
        if self.id is not None and self.phrasing is not None:
            raise ValueError("an utterance's caption has no phrasing")
        return self

    @property
    def target(self) -> _Target:
        """What the caption describes; labels are rounded."""
        if self.id is not None:
            return ("id", self.id)
        if self.emotion is not None:
            return ("emotion", self.phrasing, one_spelling(self.emotion))
        return ("pair", self.phrasing, *_rounded(self.valence or 0.0, self.arousal or 0.0))


class PromptLine(Model):
    """One text that asks for a point of the valence-arousal plane (F13)."""

    use: Literal["prompt"]
    style: _StyleName = "file"
    text: _Text
    valence: _Label
    arousal: _Label
    variant: Whole = Field(0, ge=0)


class GridLine(Model):
    """One text of training wording that describes a point of the valence-arousal plane; several may share a point."""

    use: Literal["grid"]
    style: _StyleName = "file"
    text: _Text
    valence: _Label
    arousal: _Label


_Line = CaptionLine | PromptLine | GridLine
_MODELS: dict[object, type[_Line]] = {"prompt": PromptLine, "grid": GridLine}


def read_caption_files(paths: Sequence[Path]) -> list[_Line]:
    """Every line of `paths`, in their order. Raises ManyProblems with every faulty line of all of them, file:line."""
    problems: list[str] = []
    lines: list[_Line] = []
    first_with: dict[tuple[object, ...], str] = {}
    for path in paths:
        for where, line in _parse_file(path, problems):
            lines.append(line)
            if isinstance(line, CaptionLine):
                continue
            key: tuple[object, ...] = (line.style, line.text)
            what = "style and whole-grammar text"
            if isinstance(line, PromptLine):
                key = (line.style, *_rounded(line.valence, line.arousal), line.variant)
                what = "style, point and variant"
            if key in first_with:
                problems.append(f"{where}: the same {what} as {first_with[key]}")
            first_with.setdefault(key, where)
    if problems:
        raise ManyProblems(", ".join(map(str, paths)), problems, "Correct the files.")
    return lines


def _parse_file(path: Path, problems: list[str]) -> Iterator[tuple[str, _Line]]:
    """The valid lines of `path`, each with its file:line; what is wrong with the others goes into `problems`."""
    entries = _category_entries if path.suffix == ".json" else _line_entries
    try:
        with open_regular(path, "rb") as file:
            for where, entry in entries(path, file, problems):
                use = entry.get("use")
                model = _MODELS.get(use, CaptionLine) if isinstance(use, str) else CaptionLine
                try:
                    yield where, validate(model, entry, subject=where)
                except ManyProblems as error:
                    problems += error.problems
    except UsageError as error:
        problems.append(f"{error.subject}: {error.found}")


def _line_entries(path: Path, file: IO[bytes], problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """JSON lines, whose ends may be those of any system."""
    parts = (part for line in file for part in line.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"))
    for number, line in enumerate(parts, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            entry = parse_json(line)
        except NotJson as error:
            problems.append(f"{where}: {error}; expected one JSON object per line")
            continue
        if isinstance(entry, dict):
            yield where, entry
        else:
            problems.append(f"{where}: {type(entry).__name__}; expected a JSON object")


def _category_entries(path: Path, file: IO[bytes], problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """CLAP4Emo's published captions: an object, category -> captions."""
    expected = "expected an object of lists of captions by emotion"
    try:
        tree = parse_json(file.read())
    except NotJson as error:
        problems.append(f"{path}:{error.line}: {error}; {expected}")
        return
    if not isinstance(tree, dict):
        problems.append(f"{path}: {type(tree).__name__}; {expected}")
        return
    for emotion, captions in tree.items():
        where = f"{path}: {emotion if emotion.isprintable() and len(emotion) < 60 else short_repr(emotion)}"
        if not isinstance(captions, list):
            problems.append(f"{where}: {type(captions).__name__}; expected a list of captions")
            continue
        for number, text in enumerate(captions):
            yield f"{where}[{number}]", {"style": "clap4emo", "emotion": emotion, "text": text}


def assign_files(source: CaptionSource, config: CaptionsConfig) -> Captions:
    """The captions, prompts and whole-grammar texts of every style in `config.files`, for the utterances of `source`.

    A caption describes an utterance by its id, by its (valence, arousal) at two decimals or by its emotion; a line
    with a phrasing describes only the utterances of its splits. Of more than `per_utterance` captions an utterance
    gets that many, chosen by its id and the seed. Utterances without a caption are counted in the log. Raises
    ManyProblems for faulty lines, UsageError for a style whose captions describe no utterance.
    """
    by_style: dict[str, list[CaptionLine]] = defaultdict(list)
    prompts, grid = [], []
    of_point: Counter[_Target] = Counter()
    for line in read_caption_files(config.files):
        if isinstance(line, CaptionLine):
            by_style[line.style].append(line)
        elif isinstance(line, GridLine):
            point = (line.style, *_rounded(line.valence, line.arousal))
            grid.append(GridText(line.style, line.text, line.valence, line.arousal, of_point[point]))
            of_point[point] += 1
        else:
            prompts.append(Prompt(line.style, line.text, line.valence, line.arousal, line.variant))
    captions = [each for style, of in by_style.items() for each in _assign_lines(style, of, source, config)]
    return Captions.of(captions, prompts, grid=grid if config.grid else ())


def _assign_lines(style: str, lines: list[CaptionLine], source: CaptionSource, config: CaptionsConfig) -> list[Caption]:
    texts_of: dict[_Target, dict[str, None]] = defaultdict(dict)
    for line in lines:
        texts_of[line.target][line.text] = None
    rows_of = {line.text: array("q") for line in lines}
    used: set[_Target] = set()

    @lru_cache(maxsize=1 << 16)  # labels on raters' grids: the same few thousand on every row
    def texts_by_labels(split: str, emotion: str, valence: float, arousal: float) -> dict[str, None]:
        pair = _rounded(valence, arousal)
        targets: list[_Target] = []
        for part in (template_split(split), None):
            targets += [("pair", part, *pair), ("emotion", part, one_spelling(emotion))]
        present = [target for target in targets if target in texts_of]
        used.update(present)
        return dict.fromkeys(text for target in present for text in texts_of[target])

    manifest, without = source.manifest, 0
    valence, arousal = (np.nan_to_num(each, nan=0.0).tolist() for each in (manifest.valence, manifest.arousal))
    labels = zip(manifest.split, manifest.emotion, valence, arousal, strict=True)  # 0 is no label, and equals itself
    for row, (name, row_labels) in enumerate(zip(manifest.id, labels, strict=True)):
        texts = texts_by_labels(*row_labels)
        if ("id", name) in texts_of:
            used.add(("id", name))
            texts = texts_of["id", name] | texts
        chosen = list(texts)
        if len(chosen) > config.per_utterance:  # by the utterance's id, not by its row
            start = zlib.crc32(f"{config.seed}:{name}".encode(errors="surrogateescape"))
            chosen = [chosen[(start + step) % len(chosen)] for step in range(config.per_utterance)]
        for text in chosen:
            rows_of[text].append(row)
        without += not texts
    _log_unmatched(style, without, [target for target in texts_of if target not in used], source, config)
    return [Caption(style, text, rows) for text, rows in rows_of.items() if rows]


def _rounded(valence: float, arousal: float) -> tuple[float, float]:
    return round(valence, LABEL_DECIMALS), round(arousal, LABEL_DECIMALS)


def _log_unmatched(
    style: str, without: int, unused: list[_Target], source: CaptionSource, config: CaptionsConfig
) -> None:
    total = len(source.manifest)
    if without == total:
        raise UsageError(
            ", ".join(map(str, config.files)),
            f"no {style} caption describes an utterance of this corpus",
            "its ids, its (valence, arousal) or its emotions",
            "Check captions.files.",
        )
    if without:
        log.info(f"captions.files: {without:,} of {total:,} utterances have no {style} caption")
    if unused:
        examples = ", ".join(" ".join(str(part) for part in target if part is not None) for target in unused[:5])
        more = ", ..." if len(unused) > 5 else ""
        found = f"the {style} captions of {len(unused):,} ids, points or emotions describe no utterance of this corpus"
        log.info(f"captions.files: {found}: {examples[:200]}{more}")
