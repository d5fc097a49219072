"""What the page asks and gets: queries of a URL, hits with their rows, and what is searched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from cache.errors import one_line
from cache.stores import CONFIG, Stores
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import validate_file
from pipeline.core.errors import UsageError
from pipeline.data.captions.dimensional import LEVELS, describe_point, level
from pipeline.inference.filters import FIELDS, Filter
from pipeline.inference.search import AnyStores, Folder, SpeechIndex, Vectors
from pipeline.inference.web.audio_clips import DEFAULT_RATE, MAX_SECONDS, Clips
from pipeline.training.run_folder import Run, open_run

MAX_SENTENCE = 2000  # characters of a sentence; encoders read 512 tokens
MAX_HITS = 1000
MAX_POINTS = 2000  # utterances in the scatter
MAX_VALUES = 2000  # values of a field that are offered; others can still be typed
_MAX_PARAMETERS = 200  # names and values of one query
_TEMPLATE = 0  # of the eight that heads are trained on
Parameters = Mapping[str, list[str]]


@dataclass(frozen=True)
class SearchQuery:
    """A sentence, the values that a hit may have in each field, and how many hits."""

    sentence: str
    among: Mapping[str, list[str]]
    top: int


def parse_query(query: bytes) -> SearchQuery:
    """`q=...&split=...&top=...`. Raises UsageError."""
    given = _parameters(query, once=("q", "top"), often=FIELDS)
    sentence = given.get("q", [""])[0]
    require_short(sentence)
    top = given.get("top", [""])[0]
    if not (re.fullmatch(r"[0-9]{1,4}", top) and 1 <= int(top) <= MAX_HITS):
        raise UsageError("top", f"{top!r:.40}", f"a number from 1 to {MAX_HITS:,}", "Correct it.")
    return SearchQuery(sentence, {name: given[name] for name in FIELDS if name in given}, int(top))


def require_short(sentence: str) -> None:
    """Raises UsageError for a sentence that no encoder reads whole."""
    if len(sentence) > MAX_SENTENCE:
        raise UsageError("the sentence", f"{len(sentence):,} characters", f"at most {MAX_SENTENCE:,}", "Shorten it.")


def sentence_at(query: bytes) -> dict[str, str | float]:
    """`valence=...&arousal=...` -> the grammar's sentence for the point, and the levels it says. Raises UsageError."""
    given = _parameters(query, once=("valence", "arousal"))
    point = {name: _number(name, given) for name in ("valence", "arousal")}
    levels = {name: LEVELS[level(value, name)] for name, value in point.items()}
    return {"sentence": describe_point(**point, split="train", variant=_TEMPLATE), **levels}


def _number(name: str, given: Parameters) -> float:
    text = given.get(name, [""])[0]
    try:
        return float(text)
    except ValueError:
        raise UsageError(name, f"{text!r:.40}", f"a number from {LEVELS[0]} to {LEVELS[-1]}", "Correct it.") from None


def _parameters(query: bytes, *, once: tuple[str, ...], often: tuple[str, ...] = ()) -> Parameters:
    """The values of each name, in their order. Raises UsageError."""
    try:
        text = query.decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except ValueError as error:
        found = "not UTF-8" if isinstance(error, UnicodeError) else f"more than {_MAX_PARAMETERS} parts"
        raise UsageError("the query", found, "a short query in UTF-8", "Send it again.") from None
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in (*once, *often) or (name in once and name in given):
            found = f"{name!r:.40} twice" if name in given else f"unknown {name!r:.40}"
            raise UsageError("the query", found, ", ".join((*once, *often)), "Correct it.")
        given.setdefault(name, []).append(value)
    return given


@dataclass(frozen=True)
class SearchPage:
    """What the page answers, to any number of browsers at once."""

    index: SpeechIndex
    clips: Clips
    facts: Mapping[str, Any]
    seconds: NDArray[np.float64]  # (N,) what was heard of each row of the manifest; 0 where not known

    @classmethod
    def open(
        cls, stores: AnyStores, run: Run | Folder, *, among: Filter | None = None, top: int = 10, device: str = "auto"
    ) -> SearchPage:
        """Load the utterances that fit `among`. Raises what `SpeechIndex.open` raises."""
        run = run if isinstance(run, Run) else open_run(run)
        opened = run.stores(stores)
        config = validate_file(ExtractConfig, opened.folder / CONFIG)
        index = SpeechIndex.open(opened, run, among=among, device=device)
        root = config.corpus.root or opened.folder
        digests = opened.audio.column("digest")
        clips = Clips(
            index.manifest, index.neighbours.rows, digests, root, config.corpus.outside_root, config.corpus.channel
        )
        facts = _facts(opened, run, config) | {"top": top} | _among(index, among or Filter())
        rate = opened.audio.fingerprint.get("decoding", {}).get("sample_rate", DEFAULT_RATE)
        return cls(_thread_safe(index), clips, facts, opened.audio.column("length") / rate)

    def answer(self, query: SearchQuery) -> dict[str, Any]:
        """What `SpeechIndex.ask` finds, each hit with its row, and how many fit the filter. Raises UsageError."""
        among = Filter(**{name: self._stored_values(name, values) for name, values in query.among.items()})
        [hits] = self.index.ask(query.sentence, among=among, top=query.top)
        fit = self.index.columns.allowed(among)[self.index.neighbours.rows]
        return {"asked": one_line(query.sentence), "fit": int(fit.sum()), "hits": list(map(self._hit, hits))}

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the page shows before the first query."""
        rows, manifest = self.index.neighbours.rows, self.index.manifest
        labelled = rows[np.isfinite(manifest.valence[rows]) & np.isfinite(manifest.arousal[rows])]
        drawn = labelled
        if len(labelled) > MAX_POINTS:
            drawn = np.sort(np.random.default_rng(0).choice(labelled, MAX_POINTS, replace=False))
        return {
            **self.facts,
            "searched": len(rows),
            "hidden": int(self.index.columns.hidden[rows].sum()),  # trained on: hits only where their split is named
            "labelled": len(labelled),
            "drawn": len(drawn),
            "cloud": self._scatter(drawn),
            "fields": {name: list(shown)[:MAX_VALUES] for name, shown in self._values.items()},
            "longest": MAX_SENTENCE,
            "most": MAX_HITS,
        }

    def _scatter(self, rows: NDArray[np.int64]) -> list[list[float]]:
        """[valence, arousal, number of utterances] of each distinct point among `rows`."""
        points = np.stack([self.index.manifest.valence[rows], self.index.manifest.arousal[rows]], axis=1)
        distinct, counts = np.unique(points.round(3), axis=0, return_counts=True)
        return [[*point, count] for point, count in zip(distinct.tolist(), counts.tolist(), strict=True)]

    @cached_property
    def _values(self) -> dict[str, dict[str, list[str]]]:
        """For each field, the values of the utterances searched: as shown -> as stored."""
        values: dict[str, dict[str, list[str]]] = {}
        rows = self.index.neighbours.rows.tolist()
        for name in FIELDS:
            column = getattr(self.index.manifest, name)
            values[name] = {}
            for value in sorted({column[row] for row in rows} - {""}):
                values[name].setdefault(one_line(value), []).append(value)
        return values

    def _stored_values(self, name: str, shown: list[str]) -> list[str]:
        return [value for each in shown for value in self._values[name].get(each, [each])]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {self.index.manifest.id[row]: row for row in self.index.neighbours.rows.tolist()}

    def _hit(self, hit: Mapping[str, Any]) -> dict[str, Any]:
        row = self._row_of[hit["id"]]
        shown = {name: one_line(value) if isinstance(value, str) else value for name, value in hit.items()}
        length = round(float(self.seconds[row]), 1) or None  # no file is opened
        return {"row": row, "path": one_line(self.index.manifest.audio[row]), "seconds": length, **shown}


def _thread_safe(index: SpeechIndex) -> SpeechIndex:
    """The same index for several threads: tokenizers take one at a time."""
    lock = Lock()

    def embed(sentence: str) -> Vectors:
        with lock:
            return index.embed(sentence)

    return replace(index, embed=embed)


def _facts(stores: Stores, run: Run, config: ExtractConfig) -> dict[str, Any]:
    """What the foot of the page shows."""
    return {
        "stores": one_line(str(stores.folder)),
        "run": one_line(str(run.folder)),
        "method": one_line(run.config.method),
        "style": one_line(run.config.style),
        "heard": config.audio.max_seconds,
        "crop": config.audio.crop,
        "played": MAX_SECONDS,
        "manifest": len(stores.manifest),
    }


def _among(index: SpeechIndex, among: Filter) -> dict[str, Any]:
    """The filter that the page was opened with, and how many utterances fit it, done or not."""
    named = {name: list(map(one_line, getattr(among, name))) for name in FIELDS if getattr(among, name)}
    return {"among": named, "fitting": int(index.columns.fits(among).sum())}
