"""What two labs compare to say "same store", without sharing audio, labels or vectors.

    extract-features msp_podcast --out stores/msp --digest > ours.txt

Exact digests: SHA-256 by split and part (ids, labels, captions, vectors, ...), of equal bytes whatever the order of the
rows. Tolerant statistics: lengths and one fixed projection of the vectors, of which two machines agree in four digits
where their vectors differ in the last bits. No path is in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.captions import Captions
from cache.fingerprint import canonical, leaves
from cache.layers import DEFAULT, chosen_numbers
from cache.manifest import LABEL_COLUMNS, SPLITS, Manifest
from cache.reader import Store
from cache.stores import Stores
from pipeline.extraction.status import open_alone

DIGEST_FORMAT = "emotionrankclap-digest/1"  # it is hashed into the signs of the projection
UTTERANCE_STORES = ("audio", "acoustic", "words")
NOTHING = hashlib.sha256(b"").digest()
_SHOWN = 16  # hexadecimal digits of a digest on a terminal; --json has all 64
_Values = Sequence[bytes | None]  # the SHA-256 of each row's value; None where it has none


def digest(folder: str | Path) -> dict[str, Any]:
    """Fingerprints, figures by split, exact digests and tolerant statistics of the stores in `folder`.

        digest("stores/mine")["splits"]["train"]["parts"]["labels"]    # "5c1e...", in any order of the rows

    Every row is read, and checked against its CRC. Raises UsageError where there are no stores, or several folders;
    StoreCorrupt.
    """
    stores = open_alone(folder)
    manifest = stores.manifest
    names = stores.audio.names.take(np.arange(len(manifest)))
    ids = [_sha256(name) for name in names]
    rows_of = {
        split: sorted(manifest.rows(split).tolist(), key=names.__getitem__)
        for split in SPLITS
        if split in set(manifest.split)
    }
    hours = _hours(stores.audio)
    splits = {split: _figures(manifest, rows, hours) for split, rows in rows_of.items()}
    for part, values in _manifest_parts(stores):
        for split, rows in rows_of.items():
            splits[split]["parts"][part] = _combined(rows, ids, values)
    opened = {name: store for name in UTTERANCE_STORES if (store := getattr(stores, name)) is not None}
    for name, store in opened.items():
        vectors = _Vectors(store)
        for split, rows in rows_of.items():
            splits[split]["parts"] |= vectors.parts(name, rows, ids)
            splits[split]["statistics"][name] = vectors.statistics(rows, ids)
            if name == "audio":
                splits[split]["encoded"] = int(vectors.done[rows].sum())
    opened["text"] = stores.text
    fingerprints, texts = {name: _declared(store) for name, store in opened.items()}, _texts(stores)
    parts = {split: found["parts"] for split, found in splits.items()}
    exact = {"fingerprints": fingerprints, "splits": parts, "texts": texts["parts"]}
    whole = {"format": DIGEST_FORMAT, "digest": _sha256(canonical(exact).encode()).hex()}
    return whole | {"fingerprints": fingerprints, "splits": splits, "texts": texts}


class _Vectors:
    """What is kept of a store's rows: whether each is done, its vector's SHA-256, length and projection."""

    def __init__(self, store: Store) -> None:
        whole = Store(store.layout)  # all columns of layered rows
        chosen = chosen_numbers(store.axes, DEFAULT, DEFAULT, subject=store.path, dim=whole.dim)
        signs = _signs(len(chosen))
        self.done = np.zeros(len(store), dtype=bool)
        self.lengths, self.projected = np.zeros(len(store)), np.zeros(len(store))
        self.hashes: dict[str, list[bytes]] = {"": [], " layers": []} if store.axes else {"": []}
        for block in whole.blocks(len(store)):
            rows, self.done[block] = whole.read(np.arange(block.start, block.stop))
            vectors = np.ascontiguousarray(rows[:, chosen]) if store.axes else rows
            exact = vectors.astype(np.float64)  # each row is then summed alike, wherever it lies
            self.lengths[block] = np.sqrt((exact * exact).sum(axis=1))
            self.projected[block] = (exact * signs).sum(axis=1) / math.sqrt(len(chosen))
            for part, hashes in self.hashes.items():
                hashes += [_sha256(row.data) for row in (rows if part else vectors)]

    def parts(self, name: str, rows: Sequence[int], ids: Sequence[bytes]) -> dict[str, str]:
        """The exact digests of the vectors that heads train on unasked and, of layered rows, of all layers."""
        done = [row for row in rows if self.done[row]]
        return {name + part: _combined(done, ids, hashes) for part, hashes in self.hashes.items()}

    def statistics(self, rows: Sequence[int], ids: Sequence[bytes]) -> dict[str, Any]:
        """Mean and std of lengths and projections, and the mean of centred projections with a sign by id: six digits.

        The last one moves where vectors lie under each other's ids, which no other figure sees.
        """
        done = [row for row in rows if self.done[row]]
        if not done:
            return {"rows": 0}
        sides = np.array([1 if ids[row][0] < 128 else -1 for row in done])
        length, length_std = _mean_and_std(self.lengths[done])
        projection, projection_std = _mean_and_std(self.projected[done])
        by_id, _ = _mean_and_std((self.projected[done] - projection) * sides)
        figures = {"length_mean": length, "length_std": length_std}
        figures |= {"projection_mean": projection, "projection_std": projection_std, "projection_by_id": by_id}
        return {"rows": len(done)} | {name: float(f"{value:.6g}") for name, value in figures.items()}


def _signs(count: int) -> NDArray[np.float64]:
    """(count,) of 1 and -1, bits of SHAKE-256: the same with every release of every library."""
    bits = hashlib.shake_256(DIGEST_FORMAT.encode()).digest(-(-count // 8))
    return np.where(np.unpackbits(np.frombuffer(bits, np.uint8))[:count] == 1, -1.0, 1.0)


def _mean_and_std(values: NDArray[np.float64]) -> tuple[float, float]:
    """Of exact sums, which no order of the rows changes."""
    mean = math.fsum(values.tolist()) / len(values)
    return mean, math.sqrt(math.fsum(((values - mean) ** 2).tolist()) / len(values))


def _manifest_parts(stores: Stores) -> Iterator[tuple[str, _Values]]:
    """The parts of an utterance that are no vector, as its values in manifest order."""
    manifest = stores.manifest
    labels = [getattr(manifest, name).tolist() for name in LABEL_COLUMNS]
    yield "ids", [NOTHING] * len(manifest)
    yield "labels", _hashed(zip(*labels, manifest.emotion, manifest.intensity, strict=True))
    yield "speakers", _hashed(zip(manifest.speaker, manifest.gender, strict=True))
    if ratings := manifest.ratings:
        yield "ratings", _hashed(zip(ratings.count.tolist(), *ratings.std.T.tolist(), ratings.votes, strict=True))
    if manifest.transcript is not None:
        yield "transcripts", _hashed(manifest.transcript)
    yield "captions", _hashed(_captions_by_row(stores.captions, len(manifest)))
    digests = stores.audio.column("digest")  # of the audio files' bytes; zeros where none was read
    yield "recordings", [_sha256(each.data) if each.any() else None for each in digests]


def _captions_by_row(captions: Captions, utterances: int) -> Iterator[list[tuple[str, str]]]:
    """Of each utterance, its (style, text) in their own order."""
    texts = captions.texts()
    links = [(style, captions.links(style, utterances)) for style in captions.styles()]
    for row in range(utterances):
        yield sorted(
            (style, texts[text])
            for style, each in links
            for text in each.text[each.offsets[row] : each.offsets[row + 1]].tolist()
        )


def _texts(stores: Stores) -> dict[str, Any]:
    """The texts of all splits and uses, the prompts that tests ask, and the text vectors."""
    names = stores.text.names.take(np.arange(len(stores.text)))
    ids, rows = [_sha256(name) for name in names], sorted(range(len(names)), key=names.__getitem__)
    captions, vectors = stores.captions, _Vectors(stores.text)
    asked = [
        (use, *(value for value in record if value is not None))
        for use in ("prompts", "classes", "grid")
        for record in getattr(captions, use)
    ]
    prompts = _sha256(*sorted(_hashed(asked))).hex()
    parts = {"texts": _combined(rows, ids, [NOTHING] * len(ids)), "prompts": prompts}
    return {
        "texts": len(ids),
        "encoded": int(vectors.done.sum()),
        "parts": parts | vectors.parts("text", rows, ids),
        "statistics": {"text": vectors.statistics(rows, ids)},
    }


def _figures(manifest: Manifest, rows: Sequence[int], hours: NDArray[np.float64] | None) -> dict[str, Any]:
    """What a split holds, by counts and means that need no digest."""
    labels = {}
    for name in LABEL_COLUMNS:
        values: NDArray[np.float64] = getattr(manifest, name)[list(rows)]
        known = values[~np.isnan(values)]
        if len(known):
            labels[name] = {"count": len(known), "mean": float(f"{_mean_and_std(known)[0]:.6g}")}
    return {
        "utterances": len(rows),
        "encoded": 0,
        "hours": None if hours is None else round(math.fsum(hours[rows].tolist()), 3),
        "labels": labels,
        "emotions": dict(sorted(Counter(filter(None, (manifest.emotion[row] for row in rows))).items())),
        "parts": {},
        "statistics": {},
    }


def _hours(audio: Store) -> NDArray[np.float64] | None:
    """(N,) of each utterance as it is encoded, cropped; None where the store does not know."""
    decoding, samples = audio.fingerprint.get("decoding"), audio.column("length")
    rate = decoding.get("sample_rate") if isinstance(decoding, dict) else None
    return np.maximum(samples, 0) / (3600 * rate) if rate and samples.any() else None


def _declared(store: Store) -> dict[str, Any]:
    """A store's fingerprint, the form of its vectors, and the digest of both."""
    layers = {"row": str(store.axes)} if store.axes else {}
    form = {"dim": store.dim, "dtype": store.layout.extents["vectors"].dtype.name} | layers
    declared = form | {"fingerprint": store.fingerprint}
    return {"digest": _sha256(canonical(declared).encode()).hex()} | declared


def _combined(rows: Iterable[int], ids: Sequence[bytes], values: _Values) -> str:
    """SHA-256 over the id and the value of each of `rows`, which are in the order of their ids; both are SHA-256."""
    return _sha256(*(ids[row] + value for row in rows if (value := values[row]) is not None)).hex()


def _hashed(values: Iterable[Any]) -> list[bytes]:
    """SHA-256 of each value as JSON; NaN, an absent label, is null."""

    def without_nan(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [without_nan(each) for each in value]
        return None if isinstance(value, float) and math.isnan(value) else value

    return [_sha256(json.dumps(without_nan(value)).encode()) for value in values]


def _sha256(*parts: bytes | memoryview) -> bytes:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def digest_table(result: dict[str, Any]) -> str:
    """`digest` as text, a line a part, for two labs' `diff`."""
    lines = [f"digest {result['digest'][:_SHOWN]}"]
    for name, store in result["fingerprints"].items():
        lines.append(f"{name:9} fingerprint {store['digest'][:_SHOWN]}")
        lines += [f"  {field} {value}" for field, value in leaves(store) if field != "digest"]
    for split, found in result["splits"].items():
        hours = "" if found["hours"] is None else f", {found['hours']:,.3f} hours"
        lines.append(f"{split:9} {found['utterances']:,} utterances, {found['encoded']:,} encoded{hours}")
        lines += [f"  mean {name:13} {of['mean']:.4f} of {of['count']:,}" for name, of in found["labels"].items()]
        lines += [f"  class {name:12} {count:,}" for name, count in found["emotions"].items()]
        lines += _digest_lines(found)
    texts = result["texts"]
    lines.append(f"{'texts':9} {texts['texts']:,} texts, {texts['encoded']:,} encoded")
    return "\n".join(lines + _digest_lines(texts))


def _digest_lines(found: dict[str, Any]) -> list[str]:
    lines = [f"  exact {part:12} {value[:_SHOWN]}" for part, value in found["parts"].items()]
    for name, of in found["statistics"].items():
        if of["rows"]:
            length = f"length {of['length_mean']:.4g} ± {of['length_std']:.4g}"
            projection = f"projection {of['projection_mean']:.4g} ± {of['projection_std']:.4g}"
            lines.append(f"  about {name:12} {length}, {projection}, by id {of['projection_by_id']:.4g}")
    return lines
