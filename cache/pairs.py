"""Pairs of speech and text as tensors on the device: the whole training set, indexed, never loaded row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.captions import CLASS_TEMPLATE, Links
from cache.errors import StoreCorrupt, UsageError
from cache.manifest import LABEL_COLUMNS, Manifest, votes_of
from cache.reader import Store
from cache.stores import Stores


@dataclass(frozen=True)
class OnDisk:
    """Vectors (n, dim) that stay in their store, for a training set larger than memory."""

    store: Store
    rows: NDArray[np.int64]  # (n,) rows of the store, ascending
    device: torch.device

    def read(self, places: torch.Tensor) -> torch.Tensor:
        """Vectors (m, dim) float32 of `places` (m,), each checked against its CRC. Raises StoreCorrupt."""
        rows = self.rows[places.cpu().numpy()]
        order = np.argsort(rows)
        values, done = self.store.read(rows[order])
        if not done.all():
            found = f"{int((~done).sum())} rows changed while they were in use"
            raise StoreCorrupt(self.store.path, found, "the rows that it began with", "Run extract-features again.")
        vectors = torch.empty(values.shape, dtype=torch.float32)
        vectors[torch.from_numpy(order)] = torch.from_numpy(values.astype(np.float32, copy=False))
        return vectors.to(self.device)


@dataclass(frozen=True)
class CachedPairs:
    """n utterances, each with one or more captions of one style.

    The captions of utterance i are rows `caption[offsets[i]:offsets[i + 1]]` of `text`.
    """

    rows: NDArray[np.int64]  # (n,) manifest rows
    speech: torch.Tensor  # (n, audio dim) float32; (0, audio dim) where the vectors stay on disk
    text: torch.Tensor  # (T, text dim) float32, only texts that these utterances use
    offsets: torch.Tensor  # (n + 1,) int64
    caption: torch.Tensor  # (M,) int64
    labels: torch.Tensor  # (n, 3) float64: valence, arousal, dominance on 1-7; NaN where unlabelled
    emotion: torch.Tensor  # (n,) int64 codes of the manifest's categories; -1 where unknown
    gender: torch.Tensor  # (n,) int64, likewise
    acoustic: torch.Tensor | None  # (n, F) float32 acoustic features, where the stores have them
    notes: list[str]  # rows left out and why, to be logged
    disk: OnDisk | None = None  # the speech vectors where they are not in memory
    # the last E texts describe no utterance; there are none unless `with_extra` added them
    extra_points: torch.Tensor | None = None  # (E, 2) float64 valence and arousal; NaN for a class text
    extra_emotion: torch.Tensor | None = None  # (E,) int64 codes, as of `emotion`; -1 for a grid text
    label_error: torch.Tensor | None = None  # (n, 3) float64 standard errors of the labels; NaN where unknown
    votes: torch.Tensor | None = None  # (n, K) float64 share of the raters who named each code of `emotion`
    corpus: torch.Tensor | None = None  # (n,) int64, of stores of several corpora that are drawn evenly

    def __len__(self) -> int:
        return len(self.rows)

    def with_extra(self, grid: GridTexts, classes: ClassTexts | None = None) -> CachedPairs:
        """The same pairs, with texts after their own that describe points or categories and no utterance."""
        texts, points = [self.text, grid.text], [grid.points]
        emotion = [torch.full((len(grid.text),), -1, dtype=torch.int64, device=grid.text.device)]
        if classes is not None:
            texts.append(classes.text)
            points.append(points[0].new_full((len(classes.text), 2), torch.nan))
            emotion.append(classes.emotion)
        return replace(self, text=torch.cat(texts), extra_points=torch.cat(points), extra_emotion=torch.cat(emotion))

    def extra(self, captions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(..., 2) points and (...) emotion codes of extra texts, rows of `text`."""
        assert self.extra_points is not None
        assert self.extra_emotion is not None
        places = captions - (len(self.text) - len(self.extra_points))
        return self.extra_points[places], self.extra_emotion[places]


def cached_pairs(
    stores: Stores,
    *splits: str,
    style: str,
    require: Sequence[str] = (),
    device: str | torch.device = "cpu",
    resident: bool = True,
) -> CachedPairs:
    """The pairs of `splits` whose speech and captions are done, as tensors on `device`.

    Utterances without one of the labels in `require` ("valence", ...) are left out. Only rows of `splits` are read.
    Without `resident` the speech vectors stay in their store (`disk`), each checked once here; all else is in memory.
    Raises UsageError when nothing is left or `style` has no captions.
    """
    manifest = stores.manifest
    _require_style(stores, style)
    of_splits = manifest.rows(*splits)
    labels = np.stack([getattr(manifest, column)[of_splits] for column in LABEL_COLUMNS], axis=1)
    labelled = np.isfinite(labels[:, [LABEL_COLUMNS.index(column) for column in require]]).all(axis=1)
    rows, labels = of_splits[labelled], labels[labelled]
    utterance, caption = _caption_links(stores.captions.links(style, len(manifest)), rows)
    used, caption = np.unique(caption, return_inverse=True)
    text, text_done = _read(stores.text, used, device)
    wanted = np.bincount(utterance[text_done[caption]], minlength=len(rows)) > 0  # with a caption that is done
    acoustic, acoustic_done = stores.acoustic.read(rows) if stores.acoustic else (None, np.ones(len(rows), dtype=bool))
    if resident:
        speech, done = _read(stores.audio, rows, device, wanted & acoustic_done)
    else:
        speech, done = torch.empty(0, stores.audio.dim, device=device), stores.audio.done(rows)
    done = done & acoustic_done
    usable = done[utterance] & text_done[caption]
    counts = np.bincount(utterance[usable], minlength=len(rows))  # captions that are done, by utterance
    keep = counts > 0
    name = f"{stores.folder} ({', '.join(splits)})"
    left_out = {
        f"without {' and '.join(require)}": len(of_splits) - len(rows),
        "failed or pending (see extract-features --status)": int((~done).sum()),
        f"without an encoded caption of style {style}": int((done & ~keep).sum()),
    }
    if not keep.any():
        raise UsageError(name, "no labelled pair is encoded", "at least one", "See extract-features --status.")
    return CachedPairs(
        rows=rows[keep],
        speech=speech,
        text=text,
        offsets=torch.tensor(np.concatenate([[0], np.cumsum(counts[keep])]), device=device),
        caption=torch.tensor(caption[usable], device=device),
        labels=torch.tensor(labels[keep], dtype=torch.float64, device=device),
        emotion=_codes(manifest.emotion, rows[keep], device),
        gender=_codes(manifest.gender, rows[keep], device),
        acoustic=None if acoustic is None else _tensor(acoustic[keep], device),
        label_error=_label_error(manifest, rows[keep], device),
        votes=_vote_shares(manifest, rows[keep], device),
        notes=[f"{name}: {count} utterances left out: {why}" for why, count in left_out.items() if count],
        disk=None if resident else OnDisk(stores.audio, rows[keep], torch.device(device)),
    )


@dataclass(frozen=True)
class GridTexts:
    """The whole-grammar texts of one caption style: M sentences and the points of the plane that they describe."""

    text: torch.Tensor  # (M, text dim) float32
    points: torch.Tensor  # (M, 2) float64: valence and arousal on 1-7
    variant: torch.Tensor  # (M,) int64, the template


def grid_texts(stores: Stores, style: str, *, device: str | torch.device = "cpu") -> GridTexts:
    """The encoded whole-grammar texts of `style`, in the order of the captions, as tensors on `device`.

    Raises UsageError when the stores have none, or some that are not encoded.
    """
    columns = stores.captions.grid.of_style(style).columns
    values, done = stores.read_texts(columns["text"])
    if not len(done) or not done.all():
        found = f"{int((~done).sum()):,} of {len(done):,} not encoded" if len(done) else f"none of style {style}"
        action = "Run extract-features again: only the new texts are encoded."
        raise UsageError(f"{stores.folder}: whole-grammar texts", found, "encoded texts (captions.grid)", action)
    points = np.array([columns["valence"], columns["arousal"]], dtype=np.float64).T
    variant = torch.tensor(columns["variant"], dtype=torch.int64, device=device)
    return GridTexts(_tensor(values, device), torch.tensor(points, device=device), variant)


@dataclass(frozen=True)
class ClassTexts:
    """Texts that name a category, in other templates than recognition asks, and the codes of the categories."""

    text: torch.Tensor  # (K, text dim) float32
    emotion: torch.Tensor  # (K,) int64, as `CachedPairs.emotion`


def class_texts(stores: Stores, *, device: str | torch.device = "cpu") -> ClassTexts:
    """The encoded class prompts of the manifest's categories, but those of `CLASS_TEMPLATE`, as tensors on `device`.

    Raises UsageError when the stores have none, or some that are not encoded.
    """
    code_of = _code_of(stores.manifest.emotion)
    chosen = [each for each in stores.captions.classes if each.template != CLASS_TEMPLATE and each.emotion in code_of]
    values, done = stores.read_texts([each.text for each in chosen])
    if not chosen or not done.all():
        found = f"{int((~done).sum()):,} of {len(chosen):,} not encoded" if chosen else "no class texts of its emotions"
        action = "Run extract-features with -o captions.styles=[template, ...] on a corpus with emotions."
        raise UsageError(stores.folder, found, "encoded class texts", action)
    codes = [code_of[each.emotion] for each in chosen]
    return ClassTexts(_tensor(values, device), torch.tensor(codes, dtype=torch.int64, device=device))


def _require_style(stores: Stores, style: str) -> None:
    """Raises UsageError for a style without captions."""
    styles = stores.captions.styles()
    if style not in styles:
        expected = f"one of: {', '.join(styles) or 'none'}"
        action = f"Choose another style, or run extract-features with -o captions.styles=[{style}, ...]."
        raise UsageError(stores.folder, f"no captions of style {style}", expected, action)


def _codes(names: list[str], rows: NDArray[np.int64], device: str | torch.device) -> torch.Tensor:
    """(n,) a number for each category of the whole manifest, so that splits agree; -1 where there is none."""
    code_of = _code_of(names)
    return torch.tensor([code_of.get(names[row], -1) for row in rows.tolist()], dtype=torch.int64, device=device)


def _label_error(manifest: Manifest, rows: NDArray[np.int64], device: str | torch.device) -> torch.Tensor | None:
    return torch.tensor(manifest.ratings.take(rows).standard_error(), device=device) if manifest.ratings else None


def _vote_shares(manifest: Manifest, rows: NDArray[np.int64], device: str | torch.device) -> torch.Tensor | None:
    """(n, K) shares; without votes all of the category, of an unknown one none. None where nobody's votes are known.

    Votes for what is no category of the manifest, such as `other`, count in the total alone.
    """
    if manifest.ratings is None or not any(manifest.ratings.votes):
        return None
    code_of = _code_of(manifest.emotion)
    shares = np.zeros((len(rows), len(code_of)))
    for place, row in enumerate(rows.tolist()):
        votes = votes_of(manifest.ratings.votes[row]) or {manifest.emotion[row]: 1}
        for name in votes.keys() & code_of.keys():
            shares[place, code_of[name]] = votes[name] / sum(votes.values())
    return torch.tensor(shares, device=device)


def _code_of(names: list[str]) -> dict[str, int]:
    return {name: code for code, name in enumerate(sorted(set(names) - {""}))}


def _caption_links(links: Links, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every caption of `rows`: the index in `rows` of its utterance, ascending, and its text row."""
    starts, counts = links.offsets[rows], links.offsets[rows + 1] - links.offsets[rows]
    utterance = np.repeat(np.arange(len(rows)), counts)
    first = np.repeat(starts - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    return utterance, links.text[first + np.arange(len(utterance))]


def _read(
    store: Store, rows: NDArray[np.int64], device: str | torch.device, wanted: NDArray[np.bool_] | None = None
) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Vectors (n, dim) float32 of `rows`, and which are done; with `wanted` (n,) only those that are both.

    They are read block by block into one tensor: whole arrays beside it would take its memory again.
    """
    vectors = torch.empty(len(rows) if wanted is None else int(wanted.sum()), store.dim, device=device)
    done, filled = np.zeros(len(rows), dtype=bool), 0
    for block in store.blocks(len(rows), vectors.element_size() * store.dim):
        values, done[block] = store.read(rows[block])
        if wanted is not None:
            values = values[done[block] & wanted[block]]
        vectors[filled : filled + len(values)] = torch.from_numpy(values)
        filled += len(values)
    return vectors[:filled], done


def _tensor(values: NDArray[np.floating[Any]], device: str | torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)  # a copy, aligned by torch
