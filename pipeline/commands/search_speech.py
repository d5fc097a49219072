"""search-speech: a sentence in, the utterances that sound like it out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cache.errors import UsageError, one_line
from pipeline.commands.common import device_option, guarded, json_option, plugin_option, show
from pipeline.commands.completion import FOLDER, column
from pipeline.commands.usage_errors import Command

_COLUMNS = ("similarity", "id", "valence", "arousal", "emotion", "speaker", "split", "style", "audio", "text")


@click.command("search-speech", cls=Command)
@click.argument("stores", type=FOLDER)
@click.argument("run", type=FOLDER)
@click.argument("sentences", nargs=-1)
@click.option("--audio", multiple=True, type=click.Path(path_type=Path), help="Describe this recording. Repeatable.")
@click.option("--serve", "served", is_flag=True, help="Search in a browser: a page on this machine (extra serve).")
@click.option("--port", type=click.IntRange(0, 65535), help="Of the page; 0, the default, is any free one.")
@click.option("--top", type=click.IntRange(min=1), help="How many to find. [default: 5; 10 on the page]")
@click.option(
    "--split", multiple=True, help="Only utterances of this split. Repeatable.", shell_complete=column("split")
)
@click.option(
    "--speaker", multiple=True, help="Only utterances of this speaker. Repeatable.", shell_complete=column("speaker")
)
@click.option(
    "--emotion", multiple=True, help="Only utterances of this emotion. Repeatable.", shell_complete=column("emotion")
)
@device_option
@plugin_option
@json_option
@guarded
def main(
    stores: Path,
    run: Path,
    sentences: tuple[str, ...],
    audio: tuple[Path, ...],
    served: bool,
    port: int | None,
    top: int | None,
    split: tuple[str, ...],
    speaker: tuple[str, ...],
    emotion: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Find the utterances of STORES that sound like each of SENTENCES, by the heads in RUN.

    \b
    search-speech stores/msp runs/erc "The person is speaking with joy."
    search-speech stores/msp runs/erc "calm and content" "loud and angry" --split test1 --top 10 --json
    search-speech stores/msp runs/erc - < sentences.txt        (one a line)
    search-speech stores/msp runs/erc --audio clip.wav         (the captions that fit it)
    search-speech stores/msp runs/erc --serve                  (ask, hear and see it in a browser)

    Each option names one value and may stand several times: any of a field's values, in every field named.
    """
    among = {"split": split, "speaker": speaker, "emotion": emotion}
    if served:
        _refuse_what_no_page_takes(sentences, audio)
        from pipeline.inference.web.server import serve

        def ready(url: str) -> None:
            show({"url": url}, url, as_json)

        asked = "".join(sentences)
        serve(run, asked, stores=stores, **among, top=top or 10, port=port or 0, device=device, ready=ready)
        return
    if port is not None:
        raise UsageError("--port", "no --serve", "both or neither", "Add --serve.")
    _refuse_half_a_question(sentences, audio, (*split, *speaker, *emotion))
    words = list(_sentences(sentences))
    from pipeline.inference.search import describe, search

    if audio:
        found = describe(run, audio, stores=stores, top=top or 5, device=device)
    else:
        found = search(run, words, stores=stores, **among, top=top or 5, device=device)
    questions = map(str, audio or words)
    answers = [{"asked": question, "hits": hits} for question, hits in zip(questions, found, strict=True)]
    show({"stores": str(stores), "run": str(run), "answers": answers}, _table(answers), as_json)


def _refuse_half_a_question(sentences: tuple[str, ...], audio: tuple[Path, ...], filters: tuple[str, ...]) -> None:
    if bool(sentences) == bool(audio):
        found = "both sentences and --audio" if audio else "neither a sentence nor --audio"
        raise UsageError("search-speech", found, "one of them", 'Write "a sentence", - for stdin, or --audio FILE.')
    if audio and filters:
        found = "--audio with --split, --speaker or --emotion"
        raise UsageError("search-speech", found, "filters of utterances with sentences only", "Leave them out.")


def _refuse_what_no_page_takes(sentences: tuple[str, ...], audio: tuple[Path, ...]) -> None:
    if audio or len(sentences) > 1 or "-" in sentences:
        found = "with --audio" if audio else "with - for stdin" if "-" in sentences else f"{len(sentences)} sentences"
        raise UsageError("--serve", found, "one sentence at most", "The page asks the others.")


def _sentences(words: tuple[str, ...]) -> Iterator[str]:
    """The words of the command line; `-` stands for the lines of stdin that are not blank."""
    for word in words:
        if word != "-":
            yield word
            continue
        raw = sys.stdin.buffer.read()
        try:
            yield from (line for line in raw.decode("utf-8-sig").splitlines() if line.strip())
        except UnicodeDecodeError as error:
            line = 1 + raw.count(b"\n", 0, error.start)
            raise UsageError(f"stdin:{line}", "not UTF-8", "text in UTF-8", "Convert it.") from None


def _table(answers: Sequence[Mapping[str, Any]]) -> str:
    """Each answer for people, nearest first."""
    return "\n\n".join("\n".join([one_line(answer["asked"]), *_lines(answer["hits"])]) for answer in answers)


def _lines(hits: Sequence[Mapping[str, Any]]) -> list[str]:
    if not hits:
        return ["  nothing found"]
    names = [name for name in _COLUMNS if name in hits[0]]
    cells = [["", *names], *([str(rank), *(_cell(hit[name]) for name in names)] for rank, hit in enumerate(hits, 1))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else one_line(str(value or "-"))
