"""The frozen encoders: waveforms or sentences in, one vector each out.

    encoder = load_encoder("audio", AudioConfig(), "cpu")
    vectors = encoder.encode([wave])  # (1, 384)

Importing this package imports neither transformers nor any model; loading an encoder does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from pipeline.core.config import AudioConfig, TextConfig
    from pipeline.extraction.encoders.base import AudioEncoder, TextEncoder

NEED_MODEL = ("wavlm_ser", "transformers", "paraspeechclap")  # built-in encoders whose weights lie where `model` says


@overload
def load_encoder(kind: Literal["audio"], config: AudioConfig, device: str) -> AudioEncoder: ...
@overload
def load_encoder(kind: Literal["text"], config: TextConfig, device: str) -> TextEncoder: ...
def load_encoder(kind: Literal["audio", "text"], config: Any, device: str) -> Any:
    """The frozen encoder that `config` names, with its weights, on `device`: a plugin's, or a model from its folder.

    With `audio.layers=auto` it gives one vector (`extract` decides on layers by its stores). Raises UsageError if it
    cannot be had.
    """
    if config.layers == "auto":
        config = config.model_copy(update={"layers": None})
    from pipeline.core.plugins import BUILT_IN
    from pipeline.extraction.audio.resampling import choose_resampling

    choose_resampling()  # a torchaudio that does not load must be known before transformers imports it
    if config.encoder not in BUILT_IN["audio encoder" if kind == "audio" else "text encoder"]:
        from pipeline.extraction.encoders import custom_encoder

        return custom_encoder.load_custom_encoder(kind, config, device)

    from pipeline.extraction.encoders import embedded, model_files, paraspeechclap, speech, text, wavlm_ser, whisper

    if config.encoder == "embedded":
        folder = embedded.find_embedded(kind, config.model)
    else:
        folder = model_files.configured_folder(kind, config)
    if config.encoder == "paraspeechclap":
        load_side = paraspeechclap.load_text_side if kind == "text" else paraspeechclap.load_speech_side
        return load_side(folder, config, device)
    if kind == "text":
        return text.load_text_model(folder, config, device)
    if config.encoder == "embedded":
        return embedded.load_embedded_speech(folder, config, device)
    if config.encoder == "wavlm_ser":
        return wavlm_ser.load_wavlm_ser(folder, config, device)
    shape = model_files.read_config(folder)
    load = whisper.load_whisper if shape.model_type == "whisper" else speech.load_speech_model
    return load(folder, shape, config, device)
