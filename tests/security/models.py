"""Tiny model folders in the published layouts, to be spoiled."""

from __future__ import annotations

from pathlib import Path

from transformers import RobertaConfig, RobertaModel, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from tests.extraction.encoders import tiny

ROBERTA = {
    "vocab_size": 261,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 66,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
WHISPER = {**tiny.WHISPER, "max_source_positions": 150}


def text_model(folder: Path) -> Path:
    """A one-layer RoBERTa and its tokenizer."""
    RobertaModel(RobertaConfig(**ROBERTA), add_pooling_layer=False).save_pretrained(folder)
    return tiny.save_tokenizer(folder)


def speech_model(folder: Path) -> Path:
    """A two-layer WavLM with its preprocessor_config.json."""
    return tiny.save_speech(folder, tiny.wavlm(), do_normalize=True)


def ser_model(folder: Path) -> Path:
    """The published SER layout around a two-layer WavLM; its config.json names code of its own."""
    return tiny.save_ser(folder, tiny.ser_state(tiny.wavlm()))


def whisper_model(folder: Path) -> Path:
    """A Whisper of one layer each."""
    WhisperModel(WhisperConfig(**WHISPER)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20).save_pretrained(folder)
    return folder
