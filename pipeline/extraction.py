"""Stage one: the frozen encoders run once over a corpus and its captions, into STORES.

    extract-features msp_podcast --audio-root /data/MSP-PODCAST --out stores/msp

Doing it again goes on where it stopped; a manifest that grew or changed is carried over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.captions import Captions, write_captions
from cache.carry import Plan, open_for_writing
from cache.layout import FAILED, PENDING, VERSION, Rows
from cache.lock import writing
from cache.manifest import Manifest, write_manifest
from cache.reader import Store
from cache.stores import CAPTIONS, CONFIG, MANIFEST
from cache.writer import StoreWriter
from pipeline.audio import Decoding, digest_of
from pipeline.captions import Source, plan_captions
from pipeline.config import ExtractConfig, dump, load_config, merge, validate
from pipeline.corpora import read_corpus
from pipeline.device import pick_device
from pipeline.encode_rows import Job, encode_rows
from pipeline.encoders import load_audio_encoder, load_text_encoder
from pipeline.encoders.base import AudioEncoder, TextEncoder, Waveform
from pipeline.errors import UsageError
from pipeline.interrupt import interruptible
from pipeline.plan import batches
from pipeline.progress import clock, say
from pipeline.sources import content_of, sources_of
from pipeline.status import status_of

CUDA_BATCH_SECONDS = 160.0
_DTYPES = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True)
class Inputs:
    """Everything stage one works on, read and checked before anything is written."""

    config: ExtractConfig
    manifest: Manifest
    captions: Captions
    device: torch.device
    audio: AudioEncoder
    text: TextEncoder

    @property
    def decoding(self) -> Decoding:
        chosen = self.config.audio
        return Decoding(self.audio.sample_rate, chosen.max_seconds, chosen.crop)

    def fingerprint(self, encoder: AudioEncoder | TextEncoder) -> dict[str, Any]:
        own: dict[str, Any] = {"store_version": VERSION, "encoder": encoder.fingerprint()}
        return own | ({"decoding": self.decoding.fingerprint()} if encoder is self.audio else {})


def resolve(
    config: str | Path | ExtractConfig,
    *,
    audio_root: str | Path | None = None,
    encoders: str | None = None,
    overrides: Sequence[str] = (),
) -> ExtractConfig:
    """The config of a preset, a YAML file or a manifest, with the command line's choices laid on top."""
    if not isinstance(config, ExtractConfig):
        named = [str(config), *([f"encoders/{encoders}"] if encoders else [])]
        config = load_config(ExtractConfig, named, overrides, kind="corpora")
    if audio_root is not None:
        tree = merge(config.model_dump(mode="json"), {"corpus": {"root": str(audio_root)}})
        config = validate(ExtractConfig, tree, subject="--audio-root")
    return config


def read_inputs(config: ExtractConfig, *, device: str = "auto") -> Inputs:
    """Read the corpus, plan the captions, load both encoders; say aloud what was found."""
    manifest = read_corpus(config.corpus)
    for note in manifest.notes:
        say(note)
    if not len(manifest):
        raise UsageError(
            config.corpus.manifest or config.corpus.root, "no utterances", "at least one", "Check the corpus."
        )
    captions = plan_captions(Source(manifest), config.captions)
    chosen = pick_device(device)
    text = load_text_encoder(config.text, str(chosen))
    return Inputs(config, manifest, captions, chosen, load_audio_encoder(config.audio, str(chosen)), text)


def extract(
    config: str | Path | ExtractConfig,
    *,
    out: str | Path,
    audio_root: str | Path | None = None,
    encoders: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    fresh: bool = False,
    limit: int | None = None,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Fill the stores in `out`; returns the counts of `pipeline.status.status_of` with the seconds each stage took.

    `limit` bounds the utterances encoded in this call (spread over the corpus; the rest stay pending), `fresh` starts
    over, `retry_failed` gives failed rows another chance. Raises StoreLocked, StoreMismatch, UsageError, Interrupted.
    """
    out = Path(out)
    inputs = read_inputs(resolve(config, audio_root=audio_root, encoders=encoders, overrides=overrides), device=device)
    with writing(out), interruptible(out) as check:
        if fresh:
            for name in ("audio.h5", "text.h5", MANIFEST, CAPTIONS, CONFIG):
                (out / name).unlink(missing_ok=True)
        audio, text = _open_stores(inputs, out)
        if retry_failed:
            _retry(audio)
        spent = {"text": _encode_text(inputs, text, check), "audio": _encode_audio(inputs, audio, limit, check)}
    return status_of(out) | {"seconds": spent}


def foresee(config: str | Path | ExtractConfig, *, out: str | Path, device: str = "auto") -> dict[str, Any]:
    """What `extract` would do with the same arguments; nothing is written.

    Raises what `extract` would raise over the config, the corpus and the encoders.
    """
    inputs = read_inputs(resolve(config), device=device)
    rows = sources_of(inputs.manifest, inputs.decoding, Path(out) / "audio.h5")
    texts = len(inputs.captions.texts())
    size = np.dtype(_DTYPES[inputs.config.store_dtype]).itemsize
    return {
        "stores": str(out),
        "utterances": dict(Counter(inputs.manifest.split)),
        "audio_hours": round(float(rows.lengths.sum()) / inputs.audio.sample_rate / 3600, 3),
        "headers_unreadable": int((rows.lengths == 0).sum()),
        "batches": len(audio_plan(inputs, rows.lengths)),
        "texts": texts,
        "audio_encoder": inputs.fingerprint(inputs.audio),
        "text_encoder": inputs.fingerprint(inputs.text),
        "bytes": size * (len(rows) * inputs.audio.width + texts * inputs.text.width),
    }


def _open_stores(inputs: Inputs, out: Path) -> tuple[Store, Store]:
    """Lay out or take up both stores, and put the manifest, captions and resolved config beside them."""
    dtype = _DTYPES[inputs.config.store_dtype]
    texts = inputs.captions.texts()
    plain = Rows(texts, np.zeros((len(texts), 2), np.int64), np.array([len(text) for text in texts], np.int64))
    plans = [
        Plan(
            out / "audio.h5",
            "audio",
            sources_of(inputs.manifest, inputs.decoding, out / "audio.h5"),
            width=inputs.audio.width,
            dtype=dtype,
            fingerprint=inputs.fingerprint(inputs.audio),
        ),
        Plan(
            out / "text.h5",
            "text",
            plain,
            width=inputs.text.width,
            dtype=dtype,
            fingerprint=inputs.fingerprint(inputs.text),
        ),
    ]
    manifest = inputs.manifest
    audio, carried = open_for_writing(plans[0], lambda row: content_of(manifest.path(row)))
    if carried:
        say(f"{audio.path}: the manifest changed; {carried:,} of {len(audio):,} rows carried over")
    write_manifest(manifest, out / MANIFEST)
    text, _ = open_for_writing(plans[1])
    write_captions(inputs.captions, out / CAPTIONS)
    (out / CONFIG).write_text(dump(_with_absolute_root(inputs)), encoding="utf-8")
    return audio, text


def audio_plan(inputs: Inputs, lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The batches of the speech encoder."""
    seconds = inputs.config.audio.batch_seconds
    if seconds == "auto":
        seconds = 0.0 if inputs.device.type == "cpu" else CUDA_BATCH_SECONDS
    return batches(lengths, int(seconds * inputs.audio.sample_rate))


def _encode_text(inputs: Inputs, store: Store, check: Any) -> float:
    texts = store.ids
    lengths = store.column("length")
    size = inputs.config.text.batch_size
    order = np.argsort(-lengths, kind="stable")
    job = Job[str](
        name="text",
        load=lambda row: (texts[row], digest_of(texts[row].encode())),
        stand_in=lambda row: texts[row],
        encode=inputs.text.encode,
        seconds=lambda _: 0.0,
    )
    plan = [order[start : start + size] for start in range(0, len(order), size)]
    return _run(store, job, plan, inputs.device, check)


def _encode_audio(inputs: Inputs, store: Store, limit: int | None, check: Any) -> float:
    manifest, decoding, rate = inputs.manifest, inputs.decoding, inputs.audio.sample_rate
    lengths = store.column("length")

    def load(row: int) -> tuple[Waveform, bytes]:
        clip = decoding.load(manifest.path(row))
        return clip.wave, clip.digest

    job = Job[Waveform](
        name="audio",
        load=load,
        stand_in=lambda row: np.zeros(max(1, int(lengths[row])), np.float32),
        encode=inputs.audio.encode,
        seconds=lambda row: lengths[row] / rate,
    )
    plan = audio_plan(inputs, lengths)
    if limit is not None:
        plan = _spread(plan, store.scan(), limit)
    return _run(store, job, plan, inputs.device, check)


def _run(store: Store, job: Job[Any], plan: list[NDArray[np.int64]], device: torch.device, check: Any) -> float:
    meter = encode_rows(store, job, plan, device=device, check=check)
    if meter.done:
        say(f"{job.name}: {meter.done:,} rows in {clock(meter.seconds)}{meter.shares()}")
    return meter.seconds


def _spread(plan: list[NDArray[np.int64]], states: NDArray[np.uint8], limit: int) -> list[NDArray[np.int64]]:
    """Batches with about `limit` pending rows, evenly spaced over the plan."""
    waiting = [rows for rows in plan if (states[rows] == PENDING).any()]
    size = np.mean([len(rows) for rows in waiting]) if waiting else 1.0
    count = min(len(waiting), max(1, round(limit / size)))
    return [waiting[i] for i in np.linspace(0, len(waiting) - 1, count).astype(int)] if waiting else []


def _retry(store: Store) -> None:
    with StoreWriter(store) as writer:
        writer.reset(np.flatnonzero(store.scan() == FAILED).tolist())


def _with_absolute_root(inputs: Inputs) -> ExtractConfig:
    tree = merge(inputs.config.model_dump(mode="json"), {"corpus": {"root": str(inputs.manifest.root.resolve())}})
    return validate(ExtractConfig, tree, subject="corpus.root")
