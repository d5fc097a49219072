"""torchaudio resamples where it loads; where it does not, the same filters give the same bits."""

from __future__ import annotations

import importlib.util
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pipeline.extraction.audio import resampling
from pipeline.extraction.audio.decoding import Decoding
from pipeline.extraction.audio.resampling import by_phase, resample
from tests.speech import RATE, tone

DECODING = Decoding(sample_rate=RATE, max_seconds=10.0, crop="start")
BROKEN = {
    "absent": "raise ModuleNotFoundError(\"No module named 'torchaudio'\")",
    "not fitting Python": "raise ImportError('_torchaudio.so: undefined symbol: PyX')",
    "beside CPU-only torch": "import ctypes; ctypes.CDLL('libc10_cuda_absent.so')",
    "beside another CUDA": "raise RuntimeError('PyTorch and TorchAudio were compiled with different CUDA')",
}


@pytest.fixture(autouse=True)
def chosen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_load_torchaudio", cache(resampling._load_torchaudio.__wrapped__))


@pytest.fixture(params=BROKEN)
def broken(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A torchaudio that cannot be imported, before the one that is installed."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio/__init__.py").write_text(BROKEN[request.param])
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # so that what is there now comes back
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return str(request.param)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_the_filters_here_give_torchaudios_bits(rate: int) -> None:
    try:
        from torchaudio.functional import resample as torchaudios
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchaudio does not load here: {error}")
    common = math.gcd(rate, RATE)
    old, new = rate // common, RATE // common
    for frames in (1, 2, 1001, rate // 2 + 7):
        for dtype in (torch.float32, torch.float64):
            wave = torch.tensor(np.random.default_rng(frames).standard_normal(frames), dtype=dtype)
            assert torch.equal(by_phase(wave, old, new), torchaudios(wave, old, new)), frames


def test_where_torchaudio_is_broken_clips_are_the_same_bits_and_a_note_says_so_once(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wave = tone(0.5, rate=44_100)
    soundfile.write(tmp_path / "a.wav", wave, 44_100, subtype="FLOAT")
    expected = by_phase(torch.tensor(wave.astype(np.float32)), 441, 160).numpy()
    for _ in range(2):
        assert np.array_equal(DECODING.load(tmp_path / "a.wav").wave, expected)
    [note] = [line for line in capsys.readouterr().err.splitlines() if "torchaudio" in line]
    assert note.startswith("torchaudio cannot be loaded (")
    assert note.endswith("resampling by its filters in torch, the same bits")
    assert "disk" not in note
    assert importlib.util.find_spec("torchaudio") is None  # as transformers asks


def test_audio_at_the_encoders_rate_never_asks_for_torchaudio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise AssertionError

    monkeypatch.setattr(resampling, "choose_resampling", refused)
    soundfile.write(tmp_path / "a.wav", tone(0.5), RATE)
    assert len(DECODING.load(tmp_path / "a.wav").wave) == RATE // 2
    with pytest.raises(AssertionError):
        resample(tone(0.1, rate=8_000), 8_000, RATE)
