"""The lines of a captions file, and the reasons why one is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from pipeline.config import CaptionsConfig, Model, validate
from pipeline.config_errors import shown
from pipeline.config_types import Number, Whole
from pipeline.errors import ManyProblems, UsageError
from pipeline.json_text import NotJson, parse_json
from pipeline.regular_file import opened

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
        with opened(path, "rb") as file:
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
        where = f"{path}: {emotion if emotion.isprintable() and len(emotion) < 60 else shown(emotion)}"
        if not isinstance(captions, list):
            problems.append(f"{where}: {type(captions).__name__}; expected a list of captions")
            continue
        for number, text in enumerate(captions):
            yield from _entry(f"{where}[{number}]", {"style": "clap4emo", "emotion": emotion, "text": text}, problems)
