"""A clip's vector is the same whatever is encoded beside it, before it, and by how many; within a plan, to the bit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.config import AudioConfig
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.batching import AudioFile, BatchEncoder, EncodeTask, batches, read_speech
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.base import AudioEncoder
from pipeline.extraction.engines.threads import Threads
from tests.extraction.encoders import tiny
from tests.speech import write_corpus

KINDS = {"wavlm_like_large": tiny.LARGE_LIKE, "wavlm_like_base": tiny.BASE_LIKE, "embedded": None}
BAD = 9


@pytest.fixture(scope="module", params=KINDS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AudioEncoder:
    like = KINDS[request.param]
    if like is None:
        return load_encoder("audio", AudioConfig(), "cpu")
    folder = tiny.save_speech(tmp_path_factory.mktemp(request.param), tiny.wavlm(**like), do_normalize=True)
    return load_encoder("audio", AudioConfig(encoder="transformers", model=str(folder)), "cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[AudioFile]:
    """Sixteen clips, one of them unreadable."""
    manifest = write_corpus(tmp_path_factory.mktemp("clips") / "c", 16)
    paths = [manifest.parent / row["audio"] for row in csv.DictReader(manifest.read_text().splitlines())]
    decoding = Decoding(16_000, 10.0, "start")
    clips = [AudioFile(path, decoding.samples(path)) for path in paths]
    Path(paths[BAD]).write_bytes(b"no audio")
    return clips


def encoded(
    encoder: AudioEncoder, clips: Sequence[AudioFile], *, batch_seconds: float, order: Sequence[int], workers: int
) -> dict[int, np.ndarray]:
    """Each readable clip's vector, by its place in `clips`, planned in the order given."""
    lengths = np.array([clips[i].samples for i in order])
    job = EncodeTask(
        name="audio",
        encode=BatchEncoder(partial(read_speech, Decoding(16_000, 10.0, "start")), encoder, torch.device("cpu")),
        sources=lambda rows: [clips[order[row]] for row in rows],
    )
    found: dict[int, np.ndarray] = {}
    plan = batches(lengths, int(batch_seconds * 16_000))
    with closing(Threads(workers).encode_batches(job, plan)) as results:
        for batch in filter(None, results):
            for row, reason, i in zip(batch.rows, batch.reasons, range(len(batch.rows)), strict=True):
                if reason is None:
                    found[order[row]] = batch.vectors[i]
    return found


@settings(deadline=None, max_examples=12)
@given(batch_seconds=st.floats(0.1, 12.0), order=st.permutations(range(16)), workers=st.integers(1, 4))
def test_batch_width_order_and_workers_move_no_vector_beyond_1e_5(encoder, clips, batch_seconds, order, workers):
    alone = encoded(encoder, clips, batch_seconds=0, order=range(16), workers=1)
    batched = encoded(encoder, clips, batch_seconds=batch_seconds, order=order, workers=workers)
    assert sorted(batched) == sorted(alone) == [i for i in range(16) if i != BAD]
    for clip, vector in alone.items():
        scale = max(1.0, float(np.abs(vector).max()))
        np.testing.assert_allclose(batched[clip], vector, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("batch_seconds", [0, 2.5])
def test_within_one_plan_the_bits_are_the_same_for_any_number_of_workers(encoder, clips, batch_seconds):
    runs = [
        encoded(encoder, clips, batch_seconds=batch_seconds, order=range(16), workers=workers) for workers in (1, 2, 5)
    ]
    for clip, vector in runs[0].items():
        assert all(np.array_equal(vector, run[clip]) for run in runs[1:])
