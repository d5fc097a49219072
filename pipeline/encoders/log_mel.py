"""Whisper's log-mel spectrogram of a whole batch at native length, one STFT for all clips (F35)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.encoders.batches import rectangle


class LogMel:
    """What `WhisperFeatureExtractor(padding=False)` gives clip by clip (1.7 ms each), computed together.

    Each clip keeps its own reflected edges and its own loudest bin, so that its mel does not depend on the others.
    """

    def __init__(self, extractor: Any, device: str) -> None:
        self.window_size, self.hop = int(extractor.n_fft), int(extractor.hop_length)
        self.window = torch.hann_window(self.window_size, device=device)
        self.filters = torch.tensor(extractor.mel_filters, dtype=torch.float32, device=device).T.contiguous()

    def __call__(self, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B,) waveforms of at least `window_size` samples -> mel (B, bins, M), zero beyond each; (B,) its length."""
        edge = self.window_size // 2
        mirrored = [torch.nn.functional.pad(row[None], (edge, edge), mode="reflect")[0] for row in rows]
        samples = rectangle(mirrored, max(len(row) for row in mirrored)).to(self.window.device)
        counts = torch.tensor([len(row) // self.hop for row in rows], device=samples.device)  # (B,)
        spectrum = torch.stft(
            samples, self.window_size, self.hop, window=self.window, center=False, return_complex=True
        )[..., : int(counts.max())]
        power = spectrum.real.square() + spectrum.imag.square()  # (B, frequencies, M)
        mel = (self.filters @ power).clamp_min(1e-10).log10()
        own = torch.arange(mel.shape[-1], device=samples.device) < counts[:, None, None]  # (B, 1, M)
        loudest = mel.masked_fill(~own, -torch.inf).amax((1, 2), keepdim=True)
        return ((torch.maximum(mel, loudest - 8.0) + 4.0) / 4.0).masked_fill(~own, 0.0), counts
