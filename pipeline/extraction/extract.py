"""Stage one: the frozen encoders run once over a corpus and its captions, into STORES.

    extract-features msp_podcast --audio-root /data/MSP-PODCAST --out stores/msp

Doing it again resumes; of a manifest that grew or changed, the rows that are still valid are reused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.captions import Captions, write_captions_file
from cache.disk import remove, write_atomic, writer_lock
from cache.header import FAILED, PENDING, VERSION
from cache.manifest import Manifest, continues, write_manifest
from cache.reader import Store
from cache.stores import CAPTIONS, CONFIG, LISTED, MANIFEST, stores_digests
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing
from pipeline.core.config import ExtractConfig
from pipeline.core.config_files import dump, merge, validate
from pipeline.core.errors import UsageError
from pipeline.core.plugins import BUILT_IN
from pipeline.core.progress import Stop, clock, interruptible
from pipeline.core.resources import pick_device, torch_defaults
from pipeline.data.captions import Acoustics
from pipeline.data.corpora.data_tables import DataTable
from pipeline.extraction.audio.decoding import Decoding, UnusableAudio
from pipeline.extraction.audio.praat import NAMES, load_praat
from pipeline.extraction.batching import (
    AudioFile,
    BatchSampler,
    EncodeTask,
    Engine,
    batch_encoder,
    batches,
    decoding_of,
    encode_rows,
    text_parts,
    text_plan,
)
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.base import AudioEncoder, TextEncoder
from pipeline.extraction.encoders.probe import refuse_equal_vectors
from pipeline.extraction.encoders.speech import deviation, with_precision
from pipeline.extraction.engines.threads import Threads
from pipeline.extraction.settings import (
    ACOUSTIC,
    plan_captions,
    read_labels,
    resolve_extraction,
    with_layers,
    with_table_written,
)
from pipeline.extraction.status import digest_of_path, sources_of, status_of, transcripts_of
from pipeline.extraction.text_cache import TextVectorCache

log = logging.getLogger(__name__)

CUDA_BATCH_SECONDS = 160.0
PRECISION_CLIPS = 8
DTYPES = {"float32": "<f4", "float16": "<f2"}


@dataclass(frozen=True)
class Inputs:
    """Everything stage one works on, read and checked before anything is written."""

    config: ExtractConfig
    manifest: Manifest
    device: torch.device
    audio: AudioEncoder
    text: TextEncoder
    acoustic: AudioEncoder | None  # Praat's features, where a caption style needs them

    def decoding(self, encoder: AudioEncoder) -> Decoding:
        return decoding_of(encoder, self.config)

    def speech_fingerprint(self, encoder: AudioEncoder) -> dict[str, Any]:
        return self.text_fingerprint(encoder) | {"decoding": self.decoding(encoder).fingerprint()}

    def text_fingerprint(self, encoder: AudioEncoder | TextEncoder) -> dict[str, Any]:
        return {"store_version": VERSION, "encoder": encoder.fingerprint()}


def read_inputs(
    config: ExtractConfig, *, device: str = "auto", out: Path | None = None, strict: bool = False
) -> Inputs:
    """`read_labels`, then load the encoders, acoustic features included where `wants_acoustic`."""
    manifest, _ = read_labels(config, strict=strict)  # fails before the long work
    chosen = pick_device(device)
    config = config.model_copy(update={"audio": with_precision(config.audio, chosen)})
    text, audio = load_encoder("text", config.text, str(chosen)), load_encoder("audio", config.audio, str(chosen))
    return Inputs(config, manifest, chosen, audio, text, load_praat() if wants_acoustic(config, out) else None)


def wants_acoustic(config: ExtractConfig, out: Path | None) -> bool:
    """Whether acoustic features are extracted: for the style `acoustic`, and in an `out` that has them."""
    return ACOUSTIC in config.captions.styles or (out is not None and (out / "acoustic.h5").exists())


@torch_defaults()
def extract(
    config: str | Path | ExtractConfig | DataTable,
    *,
    out: str | Path,
    audio_root: str | Path | None = None,
    encoders: str | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
    fresh: bool = False,
    limit: int | None = None,
    retry_failed: bool = False,
    engine: str = "threads",
    num_workers: int | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Fill the stores in `out`; returns the counts of `status_of` with the seconds each stage took.

        extract("my/manifest.csv", out="stores/mine", overrides=["audio.max_seconds=8"])

    `config` is a preset, a YAML file, a manifest or an `ExtractConfig`; or a pandas DataFrame or a `datasets.Dataset`,
    which is written as OUT/table.csv. `audio_root` is the corpus folder, `encoders` a preset of configs/encoders, each
    of `overrides` an `a.b=value`, `device` auto, cpu, cuda or cuda:1. `limit` bounds the utterances encoded in this
    call (spread over the corpus; the rest stay pending), `fresh` starts over, `retry_failed` tries failed rows again,
    `engine` is threads or ray (docs/clusters.md), `num_workers` how many threads, one per core where it is None, and
    `strict` refuses leaks between the splits. Raises StoreLocked, StoreMismatch, UsageError, Interrupted.
    """
    out = Path(out)
    config, audio_root = with_table_written(config, out, audio_root)
    config = resolve_extraction(config, audio_root=audio_root, encoders=encoders, overrides=overrides)
    config = with_layers(config, out, fresh=fresh)
    engines = _engine(engine, config, device, out, strict, num_workers)
    with engines as (workers, inputs), writer_lock(out), interruptible(out) as stop:
        run, digests = ExtractionRun(inputs, workers, stop, limit), stores_digests(out)
        with stop.anywhere():
            if fresh or not all((out / name).exists() for name in ("audio.h5", "text.h5")):  # encoders not tried yet
                refuse_equal_vectors(inputs.audio, inputs.text)
            if fresh:
                digests.remove()
                for name in reversed(LISTED):  # the stores first, the manifest last
                    remove(out / name)
            for name, found in digests.changed(LISTED).items():
                log.warning(f"{out / name}: {found}" + ("" if name.endswith(".h5") else "; it is rewritten"))
            audio = _open_speech(inputs, inputs.audio, out / "audio.h5", retry_failed)
            praat = inputs.acoustic
            acoustic = _open_speech(inputs, praat, out / "acoustic.h5", retry_failed) if praat else None
            words = _open_words(inputs, out / "words.h5")
            digests.remove()
            captions_before = digest_of_path(out / CAPTIONS)
            if captions_before and not ((out / MANIFEST).is_file() and continues(inputs.manifest, out / MANIFEST)):
                remove(out / CAPTIONS)  # a run that dies before it writes them would leave them to other utterances
            write_manifest(inputs.manifest, out / MANIFEST)
            absolute = {"corpus": {"root": str(inputs.manifest.root.resolve())}}
            tree = merge(inputs.config.model_dump(mode="json"), absolute)
            write_atomic(out / CONFIG, [dump(validate(ExtractConfig, tree, subject="corpus.root")).encode()])
            if inputs.config.audio.precision != "float32" and (audio.column("state") == PENDING).any():
                run.report.update(_report_precision(inputs, str(inputs.device) if engine == "threads" else "cpu"))
        if praat and acoustic:
            run.encode_speech(praat, acoustic)
        with stop.anywhere():
            acoustics = None
            if acoustic:
                values, done = acoustic.read(np.arange(len(acoustic)))
                values[~done] = np.nan
                acoustics = Acoustics(NAMES, values)
            captions = plan_captions(inputs.manifest, inputs.config, acoustics)
            text = _open_text(inputs, captions, out, captions_before)
            digests.write(LISTED)
        run.encode_text(text, captions)
        run.encode_speech(inputs.audio, audio)
        if words is not None:
            run.encode_transcripts(words, audio)
    return status_of(out) | run.report


@contextmanager
def _engine(
    engine: str, config: ExtractConfig, device: str, out: Path, strict: bool, num_workers: int | None
) -> Iterator[tuple[Engine, Inputs]]:
    """The engine of that name and its inputs. With Ray their device is the actors', and this process takes no GPU."""
    if num_workers is not None and engine == "ray":
        raise UsageError(
            f"num_workers {num_workers}", "with engine ray", "engine threads", "Leave it out: Ray decides."
        )
    if engine == "threads":
        yield Threads(num_workers), read_inputs(config, device=device, out=out, strict=strict)
    elif engine == "ray":
        from pipeline.extraction.engines.ray_cluster import ray_cluster

        with ray_cluster(config, device, out=out) as cluster:
            inputs = read_inputs(cluster.config, device="cpu", out=out, strict=strict)
            yield cluster, replace(inputs, device=cluster.device)
    else:
        raise UsageError(f"engine {engine}", "no such engine", "threads or ray", "Choose one of them.")


def _open_speech(inputs: Inputs, encoder: AudioEncoder, path: Path, retry_failed: bool) -> Store:
    """Allocate or open a store of one row an utterance."""
    manifest = inputs.manifest
    rows = sources_of(manifest, inputs.decoding(encoder), path)
    kind, dtype = path.stem, DTYPES[inputs.config.store_dtype if encoder is inputs.audio else "float32"]
    fingerprint = inputs.speech_fingerprint(encoder)
    plan = StoreSpec(path, kind, rows, dim=encoder.dim, dtype=dtype, fingerprint=fingerprint, axes=encoder.axes)
    store = _open_rows(plan, lambda row: digest_of_path(manifest.path(row)))
    if store.axes:
        log.info(f"{path.name}: each row holds {store.axes}")
    if retry_failed:
        with StoreWriter(store) as writer:
            writer.reset(np.flatnonzero(store.scan() == FAILED).tolist())
    return store


def _open_rows(spec: StoreSpec, digest_of: Callable[[int], bytes | None] = lambda _: None) -> Store:
    store, reused = open_for_writing(spec, digest_of)
    if reused:
        log.warning(f"{spec.path}: the manifest changed; {reused:,} of {len(store):,} rows reused")
    return store


def _text_spec(inputs: Inputs, rows: StoreRows, path: Path) -> StoreSpec:
    """A store of the text encoder's."""
    text, dtype, fingerprint = inputs.text, DTYPES[inputs.config.store_dtype], inputs.text_fingerprint(inputs.text)
    return StoreSpec(path, "text", rows, dim=text.dim, dtype=dtype, fingerprint=fingerprint, axes=text.axes)


def _open_words(inputs: Inputs, path: Path) -> Store | None:
    """Allocate or open the store of one row a transcript; None where the manifest has none."""
    if inputs.manifest.transcript is None:
        return None
    return _open_rows(_text_spec(inputs, transcripts_of(inputs.manifest), path))


def _open_text(inputs: Inputs, captions: Captions, out: Path, before: bytes | None) -> Store:
    """Allocate or open the store of one row a distinct text, and write the captions beside it.

    `before` is the digest of the captions that were there.
    """
    texts = captions.texts()
    rows = StoreRows(texts, np.zeros((len(texts), 2), np.int64), np.array([len(text) for text in texts], np.int64))
    store, reused = open_for_writing(_text_spec(inputs, rows, out / "text.h5"))
    captions_path = out / CAPTIONS
    write_captions_file(captions, captions_path)
    if before not in (None, digest_of_path(captions_path)):
        kept = f"{reused or len(store):,} of {len(store):,} texts were there before"
        log.warning(f"{captions_path}: the captions changed; {kept}")
    return store


def audio_plan(inputs: Inputs, lengths: NDArray[np.int64]) -> BatchSampler:
    """The batches of the speech encoder. With a fixed padding every clip is as large as the longest may be."""
    if inputs.config.audio.padding != "masked":
        lengths = np.full_like(lengths, round(inputs.config.audio.max_seconds * inputs.audio.sample_rate))
    seconds = inputs.config.audio.batch_seconds
    if seconds == "auto":
        seconds = 0.0 if inputs.device.type == "cpu" else CUDA_BATCH_SECONDS
    return batches(lengths, int(seconds * inputs.audio.sample_rate))


@dataclass(frozen=True)
class ExtractionRun:
    """One call of `extract`: what it encodes with, and what it reports beside the counts."""

    inputs: Inputs
    engine: Engine
    stop: Stop
    limit: int | None  # utterances to encode
    report: dict[str, Any] = field(default_factory=lambda: {"seconds": {}})

    def encode_text(self, store: Store, captions: Captions) -> None:
        """Encode the pending texts, but for those that another corpus had and that are kept (`text_cache`)."""
        texts, shared = store.ids, np.flatnonzero(text_parts(captions))
        built_in = self.inputs.config.text.encoder in BUILT_IN["text encoder"]  # a plugin's code may change
        known = TextVectorCache(self.inputs.text.fingerprint() if built_in else None, store.dim)
        with self.stop.anywhere():
            new = known.fill(store, shared)
        encoder = batch_encoder("text", self.inputs.text, self.inputs.config, self.inputs.device)
        task = EncodeTask("text", encoder, lambda rows: [texts[row] for row in rows])
        self._encode(store, task, text_plan(captions, self.inputs.config.text.batch_size))
        with self.stop.anywhere():
            known.keep(store, new)

    def encode_transcripts(self, store: Store, audio: Store) -> None:
        """Encode the pending transcripts; with a limit, the batches of utterances whose speech is encoded."""
        texts = self.inputs.manifest.transcript or []
        encoder = batch_encoder("words", self.inputs.text, self.inputs.config, self.inputs.device)
        order = np.argsort(-store.column("length"), kind="stable")  # longest first
        plan = BatchSampler.of_size(order, self.inputs.config.text.batch_size)
        if self.limit is not None:
            plan = plan.take(np.flatnonzero(plan.counts(audio.scan() != PENDING)))
        self._encode(store, EncodeTask("words", encoder, lambda rows: [texts[row] for row in rows]), plan)

    def encode_speech(self, encoder: AudioEncoder, store: Store) -> None:
        """Encode the pending utterances, longest first; with a limit, batches evenly spaced over the plan."""
        kind, manifest = store.layout.kind, self.inputs.manifest
        lengths, stamps = store.column("length"), store.column("stamp")

        def audio_files(rows: NDArray[np.int64]) -> list[AudioFile]:
            planned = zip(rows.tolist(), lengths[rows].tolist(), stamps[rows].tolist(), strict=True)
            return [AudioFile(manifest.path(row), samples, *stamp) for row, samples, stamp in planned]

        batched = batch_encoder(kind, encoder, self.inputs.config, self.inputs.device)
        task = EncodeTask(kind, batched, audio_files, lengths / encoder.sample_rate)
        plan = audio_plan(self.inputs, lengths)
        if self.limit is not None:
            plan = plan.take(np.flatnonzero(plan.counts(store.scan() == PENDING)))
            wanted = round(self.limit / plan.sizes.mean()) if len(plan) else 0
            places = np.linspace(0, len(plan) - 1, min(len(plan), max(1, wanted)))
            plan = plan.take(places.astype(int))
        self._encode(store, task, plan)

    def _encode(self, store: Store, task: EncodeTask[Any], plan: BatchSampler) -> None:
        meter, rounding = encode_rows(store, task, plan, engine=self.engine, check=self.stop)
        self.report["seconds"][task.name] = meter.seconds
        if meter.done:
            log.info(f"{task.name}: {meter.done:,} rows in {clock(meter.seconds)}{meter.shares()}")
        if rounding.rows:
            self.report.setdefault("rounding", {})[task.name] = vars(rounding)
            log.info(f"{task.name}: {rounding}")


def _report_precision(inputs: Inputs, device: str) -> dict[str, Any]:
    """Log and return how far the chosen precision is from float32, on a few clips spread over the corpus.

    `device` is where this process has its encoder: with Ray not where the actors have theirs.
    """
    exact = inputs.config.audio.model_copy(update={"precision": "float32"})
    decoding, waves = inputs.decoding(inputs.audio), []
    for row in np.linspace(0, len(inputs.manifest) - 1, PRECISION_CLIPS).astype(int).tolist():
        with suppress(UnusableAudio):
            waves.append(decoding.load(inputs.manifest.path(row)).wave)
    if not waves:
        return {}
    found = deviation(inputs.audio, load_encoder("audio", exact, device), waves)
    log.warning(
        f"audio: {inputs.config.audio.precision} compared with float32 on {found['clips']} clips: minimum cosine "
        f"{found['least_cosine']:.6f}, maximum absolute difference {found['largest_difference']:.1e} (largest value "
        f"{found['largest_value']:.1e})"
    )
    return {"precision": found}
