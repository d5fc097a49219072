"""The lines of a captions file, and the reasons why one is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from pipeline.config import CaptionsConfig, Model, validate
from pipeline.errors import ManyProblems

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
Label = Annotated[float, Field(ge=0.5, le=7.0)]


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
    variant: int = Field(0, ge=0)


def parse_file(path: Path, problems: list[str]) -> Iterator[tuple[str, CaptionLine | PromptLine]]:
    """The good lines of `path` with their place; what is wrong with the others goes into `problems`."""
    try:
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
        return
    if path.suffix == ".json":
        yield from _categories(path, content, problems)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield from _line(f"{path}:{number}", line, problems)


def _line(where: str, line: str, problems: list[str]) -> Iterator[tuple[str, CaptionLine | PromptLine]]:
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError) as error:
        problems.append(f"{where}: not JSON ({error})")
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


def _categories(path: Path, content: str, problems: list[str]) -> Iterator[tuple[str, CaptionLine | PromptLine]]:
    """CLAP4Emo's captions: an object, category -> captions."""
    try:
        tree = json.loads(content)
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: not JSON ({error.msg})")
        return
    except (ValueError, RecursionError) as error:
        problems.append(f"{path}: not JSON ({error})")
        return
    if not isinstance(tree, dict):
        problems.append(f"{path}: {type(tree).__name__}; expected an object of lists of captions by emotion")
        return
    for emotion, captions in tree.items():
        if not isinstance(captions, list):
            problems.append(f"{path}: {emotion}: {type(captions).__name__}; expected a list of captions")
            continue
        for number, text in enumerate(captions):
            where = f"{path}: {emotion}[{number}]"
            yield from _entry(where, {"style": "clap4emo", "emotion": emotion, "text": text}, problems)
