"""search-speech: a sentence in, the utterances that sound like it out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cache.errors import UsageError, one_line
from pipeline.commands import common
from pipeline.commands.completion import FOLDER, manifest_column

_COLUMNS = [
    "similarity", "id", "valence", "arousal", "emotion", "speaker", "split", "trained_on", "style", "audio", "text",
]  # fmt: skip

_SERVE = "Search in a browser: a page on this machine (needs emotionrankclap[serve])."
_PORT = "Port of the page.  [default: 0, any free port]"


def _filter_option(name: str, more: str = "") -> Callable[[common.F], common.F]:
    text, complete = f"Only this {name}. Repeatable.{more}", manifest_column(name)
    return click.option(f"--{name}", multiple=True, help=text, shell_complete=complete)


@common.command("search-speech")
@click.argument("stores", type=FOLDER)
@click.argument("run", type=FOLDER)
@click.argument("sentences", nargs=-1)
@click.option("--audio", multiple=True, type=click.Path(path_type=Path), help="Describe this recording. Repeatable.")
@click.option("--serve", "served", is_flag=True, help=_SERVE)
@click.option("--port", type=click.IntRange(0, 65535), help=_PORT)
@click.option("--top", type=click.IntRange(min=1), help="How many to find.  [default: 5; 10 on the page]")
@_filter_option("split", "  [default: all utterances that RUN was not trained on; --split all searches every one]")
@_filter_option("speaker")
@_filter_option("emotion")
@common.device_option
@common.plugin_option
def main(
    stores: Path, run: Path, sentences: tuple[str, ...], audio: tuple[Path, ...], served: bool, port: int | None,
    top: int | None, device: str, as_json: bool, **among: Any,
) -> None:  # fmt: skip
    """Find the utterances of STORES that sound like each of SENTENCES, by the heads in RUN.

    \b
    search-speech stores/msp runs/erc "The person is speaking with joy."
    search-speech stores/msp runs/erc "calm and content" "loud and angry" --split test1 --top 10 --json
    search-speech stores/msp runs/erc - < sentences.txt        (one per line)
    search-speech stores/msp runs/erc --audio clip.wav         (the captions that fit it)
    search-speech stores/msp runs/erc --serve                  (search, listen and see it in a browser)

    --split, --speaker and --emotion name one value each and may be repeated: an utterance must have one of the values
    in every field named. By default the utterances that RUN was trained on are not searched; name their split, or use
    --split all.
    """
    filters = [f"--{name}" for name, values in among.items() if values]
    _check_words(sentences, audio, filters, served=served)
    options: dict[str, Any] = {"stores": stores, "device": device}
    if served:
        from pipeline.inference.web.server import serve

        def ready(url: str) -> None:
            common.print_result({"url": url}, url, as_json)

        serve(run, "".join(sentences), **among, **options, top=top or 10, port=port or 0, ready=ready)
        return
    if port is not None:
        raise UsageError("--port", "given without --serve", "--serve with it", "Add --serve.")
    queries = list(map(str, audio or _sentences(sentences)))
    from pipeline.inference.search import describe, search

    options["top"] = top or 5
    results = describe(run, audio, **options) if audio else search(run, queries, **among, **options)
    answers: list[Any] = [{"asked": query, "hits": hits} for query, hits in zip(queries, results, strict=True)]
    text = "\n\n".join("\n".join([one_line(answer["asked"]), *_table(answer["hits"])]) for answer in answers)
    common.print_result({"stores": str(stores), "run": str(run), "answers": answers}, text, as_json)


def _check_words(sentences: tuple[str, ...], audio: tuple[Path, ...], filters: Sequence[str], *, served: bool) -> None:
    """Refuse sentences and options that exclude each other. Raises UsageError."""
    if served:
        if audio or len(sentences) > 1 or "-" in sentences:
            stdin = "with - for stdin" if "-" in sentences else f"with {len(sentences)} sentences"
            found = "given with --audio" if audio else f"given {stdin}"
            raise UsageError("--serve", found, "one sentence at most", "Search for the others on the page.")
    elif bool(sentences) == bool(audio):
        found = "both sentences and --audio" if audio else "neither a sentence nor --audio"
        raise UsageError("search-speech", found, "one of them", 'Write "a sentence", - for stdin, or --audio FILE.')
    elif audio and filters:
        raise UsageError(", ".join(filters), "given with --audio", "filters for sentences only", "Remove them.")


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


def _table(hits: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table of hits, nearest first."""
    if not hits:
        return ["  nothing found"]
    names = [name for name in _COLUMNS if name in hits[0]]
    if not any(hit.get("trained_on") for hit in hits):
        names = [name for name in names if name != "trained_on"]
    rows = [["", *names]]
    rows += [[str(rank), *(_cell(hit[name]) for name in names)] for rank, hit in enumerate(hits, 1)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "yes" if value is True else one_line(str(value or "-"))
