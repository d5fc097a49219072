"""A trained model with its encoders: files and sentences in, comparable vectors out.

    from pipeline import EmotionRankCLAP
    model = EmotionRankCLAP.from_pretrained("runs/erc")
    model.similarity(model.encode_text(["The person is speaking calmly."]), model.encode_speech(["clip.wav"]))

A store's vectors go in as they are: model.similarity(model.encode_text([...]), stores.speech("test1")).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.fingerprint import describe_differences, differences
from cache.layers import select, speech_fingerprint
from pipeline.core.errors import ManyProblems, StoreMismatch, UsageError
from pipeline.core.hub import find_model, push_folder
from pipeline.core.resources import pick_device
from pipeline.extraction.audio.inputs import ArrayAudio, AudioInput, AudioInputs, audio_sources
from pipeline.extraction.batching import BatchEncoder, BatchSampler, EncodeTask, read_text
from pipeline.extraction.encoders import NEED_MODEL, load_encoder
from pipeline.extraction.encoders.base import AudioEncoder, TextEncoder, chosen_columns
from pipeline.extraction.engines.threads import Threads
from pipeline.inference.description import SETTINGS, Description, of_run
from pipeline.inference.export import read_model, write_model
from pipeline.inference.onnx_heads import ONNX_FILES
from pipeline.training.heads import Heads
from pipeline.training.run_folder import open_run

Vectors: TypeAlias = Tensor | NDArray[Any]
MAX_DIFFERENCE_LENGTH = 1000  # of a message: another person's fingerprint may be long
UNIT_TOLERANCE = 1e-3  # of a unit vector's length, float16 included


class EmotionRankCLAP:
    """Heads, and the frozen encoders that they were trained on, which are loaded and compared when first used.

    All vectors that come out are (n, d) float32 on the CPU, of length 1; with ReLU heads a row may be all zero (F7).
    """

    def __init__(
        self, heads: Heads, config: Description, *, device: str = "auto",
        audio_model: str | Path | None = None, text_model: str | Path | None = None,
    ) -> None:  # fmt: skip
        self.heads, self.config = heads, config
        self._device, self._audio_model, self._text_model = device, audio_model, text_model

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, device: str = "auto",
        audio_model: str | Path | None = None, text_model: str | Path | None = None,
    ) -> EmotionRankCLAP:  # fmt: skip
        """The model in a RUN folder of `train-heads`, in a folder of `save_pretrained`, or on the hub.

        `audio_model` and `text_model` are the encoders' folders, in place of the recorded ones. Of a run the best
        seed's heads are taken, and its stores must still exist. Raises UsageError (exit 2), StoreMismatch (4) where
        the stores' encoders are not the heads', StoreCorrupt (5).
        """
        folder = find_model(name, revision)
        if (folder / "run.json").is_file():
            heads, config = of_run(open_run(folder))
        elif (folder / SETTINGS).is_file():
            heads, config = read_model(folder)
        else:
            raise UsageError(folder, "not a model", f"run.json or {SETTINGS}", "Pass a RUN folder or an exported one.")
        return cls(heads, config, device=device, audio_model=audio_model, text_model=text_model)

    def save_pretrained(self, folder: str | Path, *, onnx: bool = False) -> None:
        """Export: the heads, their description and a model card; the encoders stay where they are.

        With `onnx` (extra onnx) there are speech_head.onnx and text_head.onnx too, for programs without torch. Raises
        UsageError where `folder` holds a run or other files of those names, EmotionRankError for a full disk.
        """
        write_model(Path(folder), self.heads, self.config, Path(folder).resolve().name, onnx=onnx)

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, revision: str | None = None,
        commit_message: str = "EmotionRankCLAP heads", endpoint: str | None = None, onnx: bool = False,
    ) -> str:  # fmt: skip
        """Export to the hub's model `repo_id` ("owner/name") as one commit; returns the commit's URL.

        `onnx` is that of `save_pretrained`; without it the ONNX files of an earlier push are deleted. The token is that
        of `hf auth login` or HF_TOKEN. Raises UsageError where a private repository is asked for and a public one is
        there, EmotionRankError for everything that the hub refuses.
        """
        with TemporaryDirectory() as place:
            write_model(Path(place), self.heads, self.config, repo_id, onnx=onnx)
            return push_folder(
                Path(place), repo_id, private=private, revision=revision, message=commit_message, endpoint=endpoint,
                optional=ONNX_FILES,
            )  # fmt: skip

    def encode_speech(
        self, recordings: AudioInput | Sequence[AudioInput], sample_rate: int | None = None, batch_size: int = 1,
        *, convert_to_numpy: bool = False,
    ) -> Vectors:  # fmt: skip
        """Audio files by path, or mono waveforms (samples,) at `sample_rate` Hz -> (n, d), in the order given.

        Decoded, cropped and encoded as a store's rows are. One clip a batch, on each core, is quickest on a CPU; a
        GPU takes more. Raises UsageError that names every recording that cannot be used, StoreMismatch.
        """
        sources = audio_sources(recordings, sample_rate)
        encoder, decoding = self.audio_encoder, self._decoding(self.audio_encoder)
        reader = AudioInputs(decoding, sample_rate or decoding.sample_rate)
        lengths = [reader.samples(source) for source in sources]
        work = BatchEncoder(reader.read, encoder, self.device)
        rows = _encoded("recording", sources, lengths, work, batch_size)
        vectors = self.embed_speech(chosen_columns(rows, encoder, self.config.training.speech))
        return vectors.numpy() if convert_to_numpy else vectors

    def encode_text(
        self, sentences: str | Sequence[str], batch_size: int = 64, *, convert_to_numpy: bool = False
    ) -> Vectors:
        """Sentences -> (n, d). Raises UsageError for what is not text, StoreMismatch."""
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        for place, text in enumerate(texts):
            if not isinstance(text, str) or not text or any("\ud800" <= letter <= "\udfff" for letter in text):
                found, action = f"of type {type(text).__name__}", "Pass a str."
                if isinstance(text, str):
                    found, action = ("not UTF-8", "Correct it.") if text else ("an empty string", "Remove it.")
                raise UsageError(f"sentences[{place}]", found, "text", action)
        work = BatchEncoder(read_text, self.text_encoder, self.device)
        rows = _encoded("sentence", texts, list(map(len, texts)), work, batch_size)
        vectors = self.embed_text(chosen_columns(rows, self.text_encoder, self.config.training.text))
        return vectors.numpy() if convert_to_numpy else vectors

    def embed_speech(self, vectors: Vectors) -> Tensor:
        """(n, Da) vectors of the speech encoder, such as `stores.speech("test1")`, -> (n, d). Raises UsageError."""
        with torch.no_grad():
            return self.heads.embed_speech(_matrix(vectors, self.heads.input_dims[0]))

    def embed_text(self, vectors: Vectors) -> Tensor:
        """(n, Dt) vectors of the text encoder -> (n, d). Raises UsageError."""
        with torch.no_grad():
            return self.heads.embed_text(_matrix(vectors, self.heads.input_dims[1]))

    def similarity(self, first: Vectors, second: Vectors) -> Tensor:
        """(n, d) and (m, d) -> (n, m) cosines; either may be a store's speech vectors, by their dimension.

        Raises UsageError for another dimension, and where both dimensions are equal and a row's length is not 1.
        """
        units = [torch.nn.functional.normalize(self._embedded(each), dim=-1) for each in (first, second)]
        return units[0] @ units[1].T

    @cached_property
    def device(self) -> torch.device:
        """Where the encoders run; the heads stay on the CPU."""
        return pick_device(self._device)

    @cached_property
    def audio_encoder(self) -> AudioEncoder:
        """The speech encoder. Raises UsageError if it cannot be loaded, StoreMismatch if it is not the heads'."""
        config = _placed(self.config.encoders.audio, self._audio_model, "audio")
        encoder = load_encoder("audio", config, str(self.device))
        chosen = select(encoder.axes, *self.config.training.speech.choice, subject="audio encoder", dim=encoder.dim)
        declared = speech_fingerprint(encoder.fingerprint(), encoder.axes, chosen)
        now = {"encoder": declared, "decoding": self._decoding(encoder).fingerprint()}
        self._require_same("audio", self.config.fingerprint.audio, now)
        return encoder

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """The text encoder. Raises UsageError if it cannot be loaded, StoreMismatch if it is not the heads'."""
        encoder = load_encoder("text", _placed(self.config.encoders.text, self._text_model, "text"), str(self.device))
        self._require_same("text", self.config.fingerprint.text, {"encoder": encoder.fingerprint()})
        return encoder

    def _decoding(self, encoder: AudioEncoder) -> ArrayAudio:
        audio = self.config.encoders.audio
        channel = self.config.fingerprint.audio.get("decoding", {}).get("channel", "mean")
        return ArrayAudio(encoder.sample_rate, audio.max_seconds, audio.crop, channel)

    def _require_same(self, side: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Compare fingerprints, but for the version of the stores' format, which changes no vector."""
        recorded = {name: value for name, value in recorded.items() if name != "store_version"}
        if fields := differences(recorded, now):
            found = describe_differences(fields, "the heads have")[:MAX_DIFFERENCE_LENGTH]
            action = f"Pass the folder of that model as {side}_model."
            raise StoreMismatch(f"{side} encoder", found, "the one the heads were trained on", action)

    def _embedded(self, vectors: Vectors) -> Tensor:
        dim, speech_dim = self.heads.audio.out_features, self.heads.input_dims[0]
        matrix = _matrix(vectors, dim, speech_dim)
        if matrix.shape[1] != dim:
            return self.embed_speech(matrix)
        lengths = matrix.norm(dim=-1)
        if dim == speech_dim and not ((lengths - 1).abs() < UNIT_TOLERANCE).logical_or(lengths == 0).all():
            found = f"vectors of dimension {dim} and not of length 1"
            raise UsageError("similarity", found, "embeddings", "Pass a store's vectors through embed_speech first.")
        return matrix


def _placed(config: Any, model: str | Path | None, side: str) -> Any:
    """`config` with the model that the user names."""
    if model is not None:
        return config.model_copy(update={"model": str(model), "revision": None})
    if config.model is None and config.encoder in NEED_MODEL:
        found = "was in a folder when the heads were trained"
        raise UsageError(f"{side} encoder", found, "to know where it is now", f"Pass its folder as {side}_model.")
    return config


def _encoded(
    what: str, sources: Sequence[Any], lengths: Sequence[int], encoder: BatchEncoder[Any], batch_size: int
) -> Tensor:
    """(n, dim) vectors of `sources`, encoded as in stage one, longest first: on a CPU one batch a core."""
    if type(batch_size) is not int or batch_size < 1:
        raise UsageError("batch_size", f"{batch_size!r:.40}", "a whole number, 1 or more", "Correct it.")
    vectors = torch.zeros(len(sources), encoder.encoder.dim)
    problems: dict[int, str] = {}
    job = EncodeTask(what, encoder, lambda rows: [sources[row] for row in rows.tolist()])
    plan = BatchSampler.of_size(np.argsort(-np.array(lengths, dtype=np.int64), kind="stable"), batch_size)
    with closing(Threads().encode_batches(job, plan)) as results:
        for batch in results:
            if batch is None:
                continue
            reasons = zip(batch.rows.tolist(), batch.reasons, strict=True)
            problems |= {row: reason for row, reason in reasons if reason}
            if batch.vectors is not None:
                vectors[batch.rows] = torch.tensor(batch.vectors)
                wrong = batch.rows[~np.isfinite(batch.vectors).all(1)]
                problems = dict.fromkeys(wrong.tolist(), "the encoder returned a non-finite vector") | problems
    if problems:
        names = {row: str(s) if isinstance(s, Path) else f"{what}s[{row}]" for row, s in enumerate(sources)}
        lines = [f"{names[row]}: {problems[row]}" for row in sorted(problems)]
        raise ManyProblems(f"{len(sources)} {what}s", lines, "Leave them out.")
    return vectors


def _matrix(vectors: Vectors, *dims: int) -> Tensor:
    """(n, one of `dims`) float32 on the CPU. Raises UsageError."""
    if isinstance(vectors, Tensor):
        matrix = vectors.detach().to("cpu", torch.float32)
    else:
        try:
            matrix = torch.tensor(np.asarray(vectors, dtype=np.float32))
        except (TypeError, ValueError):
            found = type(vectors).__name__
            raise UsageError("vectors", found, "numbers of shape (n, dim)", "Pass an array.") from None
    if matrix.dim() != 2 or matrix.shape[1] not in dims:
        wanted = " or ".join(f"(n, {dim})" for dim in dict.fromkeys(dims))
        raise UsageError("vectors", f"of shape {tuple(matrix.shape)}", wanted, "Pass vectors of these encoders.")
    return matrix
