"""Text encoders of transformers: `<s>` or the mean of the last layer, cut at the model's own length."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaForSequenceClassification, RobertaModel

from pipeline.core.config import TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from tests.extraction.encoders import tiny

SHAPE = {
    "vocab_size": 261,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
TEXTS = ["calm and sad", "ANGRY", "", "naïve – über"]


def save(folder, kind=RobertaForSequenceClassification):
    """A two-layer RoBERTa in the layout of F3: keys under `roberta.`, a classifier, no pooler."""
    tiny.shaken(kind(RobertaConfig(**SHAPE))).save_pretrained(folder)
    return tiny.save_tokenizer(folder)


def load(folder, **more):
    config = TextConfig(encoder="transformers", model=str(folder), **{"pooling": "cls", **more})
    return load_encoder("text", config, "cpu")


def change(folder, edit):
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def last_hidden_state(folder, text, **tokens):
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", **tokens)).last_hidden_state[0]


def test_cls_is_the_first_position_of_the_last_layer(tmp_path):
    encoder = load(save(tmp_path))
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, encoder.dim) == (4, 32)
    for vector, text in zip(vectors, TEXTS, strict=True):
        torch.testing.assert_close(vector, last_hidden_state(tmp_path, text)[0], atol=1e-5, rtol=1e-5)


def test_mean_leaves_the_padding_out(tmp_path):
    vectors = load(save(tmp_path), pooling="mean").encode(TEXTS)
    for vector, text in zip(vectors, TEXTS, strict=True):
        torch.testing.assert_close(vector, last_hidden_state(tmp_path, text).mean(0), atol=1e-5, rtol=1e-5)


def test_a_model_saved_without_heads_loads(tmp_path):
    encoder = load(save(tmp_path, RobertaModel))
    expected = last_hidden_state(tmp_path, TEXTS[0])[0]
    torch.testing.assert_close(encoder.encode(TEXTS[:1])[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [RobertaForSequenceClassification, RobertaModel])
def test_stale_position_ids_are_dropped(tmp_path, kind):
    before = load(save(tmp_path, kind)).encode(TEXTS)
    prefix = "" if kind is RobertaModel else "roberta."
    stale = {f"{prefix}embeddings.position_ids": torch.arange(514)[None]}
    change(tmp_path, lambda state: state.update(stale))
    assert torch.equal(load(tmp_path).encode(TEXTS), before)


def test_the_first_names_of_layer_norms_are_accepted(tmp_path):
    before = load(save(tmp_path)).encode(TEXTS)

    def older(state):
        for name in [name for name in state if "LayerNorm" in name]:
            state[name.replace("weight", "gamma").replace("bias", "beta")] = state.pop(name)

    assert torch.equal(load(change(tmp_path, older)).encode(TEXTS), before)


@pytest.mark.parametrize(("asked", "used"), [(512, 512), (600, 512), (16, 16)])
def test_a_long_text_is_cut_at_the_positions_there_are(tmp_path, asked, used):
    (save(tmp_path) / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')  # names no limit
    encoder = load(tmp_path, max_tokens=asked)
    assert encoder.fingerprint()["max_tokens"] == used
    text = "word after word " * 60
    expected = last_hidden_state(tmp_path, text, truncation=True, max_length=used)
    assert len(expected) == used
    torch.testing.assert_close(encoder.encode([text])[0], expected[0], atol=1e-5, rtol=1e-5)


def test_a_renamed_weight_is_refused_with_a_guess(tmp_path):
    def rename(state):
        state["roberta.encoder.layer.0.attention.self.q.weight"] = state.pop(
            "roberta.encoder.layer.0.attention.self.query.weight"
        )

    with pytest.raises(
        UsageError, match=r"layer\.0\.attention\.self\.query\.weight.*missing.*self\.q\.weight.*renamed"
    ):
        load(change(save(tmp_path), rename))


def test_a_model_of_another_size_is_refused_by_shape(tmp_path):
    config = save(tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 64}))
    with pytest.raises(UsageError, match=r"intermediate\.dense\.weight.*\(48, 32\), expected \(64, 32\)"):
        load(tmp_path)


def test_remote_code_beside_a_known_model_is_never_executed(tmp_path):
    folder, marker = save(tmp_path / "model"), tmp_path / "executed"
    (folder / "own_code.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    own = {"AutoConfig": "own_code.Own", "AutoModel": "own_code.Own", "AutoTokenizer": ["own_code.Own", None]}
    for name in ("config.json", "tokenizer_config.json"):
        tree = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(tree | {"auto_map": own}))
    assert load(folder).encode(TEXTS).shape == (4, 32)
    assert not marker.exists()


def test_a_model_that_needs_remote_code_is_refused(tmp_path):
    folder, marker = save(tmp_path / "model"), tmp_path / "executed"
    (folder / "own_code.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own_code.Own", "AutoModel": "own_code.Own"}}
    (folder / "config.json").write_text(json.dumps(own))
    with pytest.raises(UsageError, match="model_type 'own', with code of its own"):
        load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_folder_without_its_vocabulary_is_refused(tmp_path, name):
    (save(tmp_path) / name).unlink()
    with pytest.raises(UsageError, match="no vocabulary"):
        load(tmp_path)


def test_a_broken_vocabulary_is_refused(tmp_path):
    (save(tmp_path) / "vocab.json").write_text("[")
    with pytest.raises(UsageError, match="no tokenizer"):
        load(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    tokens = json.loads((save(tmp_path) / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(tokens | {"more": 261}))
    with pytest.raises(UsageError, match="a tokenizer of 262 tokens; expected at most the model's 261"):
        load(tmp_path)


def test_another_tokenizer_is_another_fingerprint(tmp_path):
    before = load(save(tmp_path)).fingerprint()
    tokens = json.loads((tmp_path / "vocab.json").read_text())
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    (tmp_path / "vocab.json").write_text(json.dumps(tokens))
    after = load(tmp_path).fingerprint()
    assert {name for name in before if before[name] != after[name]} == {"tokenizer_sha256"}
