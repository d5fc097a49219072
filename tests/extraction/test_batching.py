"""The work of one batch: bad sources cost their own rows, and a batch too large for memory is halved by rule."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import EmotionRankError
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.batching import AudioFile, BatchEncoder, read_speech, read_text
from pipeline.extraction.encoders.base import Encoder
from tests.speech import write_corpus

CPU = torch.device("cpu")


class Limited(Encoder):
    """Vectors (length, first letter); memory for `room` letters, padding included."""

    width = 2

    def __init__(self, room: float, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self.room, self.error = room, error
        self.computed: list[list[str]] = []

    def prepare(self, inputs):
        return list(inputs)

    def compute(self, prepared):
        self.computed.append(prepared)
        if len(prepared) * max(map(len, prepared)) > self.room:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return torch.tensor([[float(len(text)), float(ord(text[0]))] for text in prepared])


def texts(count, length=4):
    return [chr(97 + i % 26) * length for i in range(count)]


@given(count=st.integers(1, 40), room=st.integers(4, 200))
def test_a_batch_too_large_for_memory_is_encoded_in_halves_with_the_same_vectors(count, room):
    work = BatchEncoder(read_text, Limited(room), CPU)
    sources = texts(count)
    done = work(np.arange(count), sources)
    assert done.vectors.tolist() == [[4.0, float(ord(text[0]))] for text in sources]
    assert done.reasons == [None] * count


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_memory_that_did_not_suffice_is_not_tried_again(error, capsys):
    encoder = Limited(20, error)
    work = BatchEncoder(read_text, encoder, CPU)
    work(np.arange(8), texts(8))  # 32 letters
    assert [len(batch) for batch in encoder.computed] == [8, 4, 4]
    work(np.arange(9), texts(9))
    assert [len(batch) for batch in encoder.computed[3:]] == [5, 4]
    work(np.arange(7), texts(7))  # smaller: worth a try
    assert [len(batch) for batch in encoder.computed[5:]] == [7, 4, 3]
    assert capsys.readouterr().err.count("halved") == 2


def test_one_clip_that_does_not_fit_is_one_line():
    with pytest.raises(EmotionRankError, match=r"encoder: not enough memory for one clip.*Lower audio.max_seconds"):
        BatchEncoder(read_text, Limited(3), CPU)(np.arange(2), texts(2))


def test_another_error_of_the_encoder_is_not_taken_for_memory():
    class Broken(Limited):
        def compute(self, prepared):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        BatchEncoder(read_text, Broken(99), CPU)(np.arange(2), texts(2))


def test_on_an_accelerator_threads_compute_one_at_a_time():
    from concurrent.futures import ThreadPoolExecutor
    from threading import Lock
    from time import sleep

    busy = Lock()

    class Alone(Limited):
        def compute(self, prepared):
            assert busy.acquire(blocking=False), "two at once"
            sleep(0.005)
            busy.release()
            return super().compute(prepared)

    work = BatchEncoder(read_text, Alone(99), torch.device("cuda"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: work(np.array([i]), texts(1)), range(16)))


def test_an_unusable_clip_is_replaced_by_silence_of_its_planned_length(tmp_path: Path):
    manifest = write_corpus(tmp_path, 2)
    seen: list[list[int]] = []

    class Lengths(Limited):
        def prepare(self, inputs):
            seen.append([len(wave) for wave in inputs])
            return inputs

        def compute(self, prepared):
            return torch.ones(len(prepared), 2)

    work = BatchEncoder(partial(read_speech, Decoding(16_000, 10.0, "start")), Lengths(99), CPU)
    there, gone = manifest.parent / "audio/u00.wav", manifest.parent / "audio/none.wav"
    done = work(np.array([5, 9]), [AudioFile(there, 6_400), AudioFile(gone, 1_234)])
    assert seen == [[6_400, 1_234]]
    assert done.reasons == [None, "cannot be read (No such file or directory)"]
    nothing = work(np.array([9]), [AudioFile(gone, 1_234)])
    assert nothing.vectors is None
    assert len(seen) == 1  # nothing was computed
    assert work.read(AudioFile(gone, 1)).value.tolist() == [0.0]
