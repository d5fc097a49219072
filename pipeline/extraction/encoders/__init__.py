"""The frozen encoders: waveforms or sentences in, one vector each out.

    encoder = load_audio_encoder(AudioConfig(), "cpu")
    vectors = encoder.encode([wave])  # (1, 384)

Importing this package imports neither transformers nor any model; loading an encoder does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.core.config import AudioConfig, TextConfig
    from pipeline.extraction.encoders.base import AudioEncoder, TextEncoder


NEED_MODEL = ("wavlm_ser", "transformers")  # built-in encoders whose weights lie where `model` says


def load_audio_encoder(config: AudioConfig, device: str) -> AudioEncoder:
    """The speech encoder that `config` names, with its weights, on `device`. Raises UsageError if it cannot be had."""
    if config.encoder == "embedded":
        from pipeline.extraction.encoders import embedded

        return embedded.load_audio(config, device)
    if config.encoder == "wavlm_ser":
        from pipeline.extraction.encoders import wavlm_ser

        return wavlm_ser.load(config, device)
    if config.encoder == "transformers":
        from pipeline.extraction.encoders import hub_speech as transformers_audio

        return transformers_audio.load(config, device)
    from pipeline.extraction.encoders import plugin_encoder as own

    return own.load_audio(config, device)


def load_text_encoder(config: TextConfig, device: str) -> TextEncoder:
    """The text encoder that `config` names, with its weights, on `device`. Raises UsageError if it cannot be had."""
    if config.encoder == "embedded":
        from pipeline.extraction.encoders import embedded

        return embedded.load_text(config, device)
    if config.encoder == "transformers":
        from pipeline.extraction.encoders import hub_text as transformers_text

        return transformers_text.load(config, device)
    from pipeline.extraction.encoders import plugin_encoder as own

    return own.load_text(config, device)
