"""sentence-transformers' folders give what sentence-transformers gives; decoders and mute encoders are refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model, RobertaModel

from pipeline.core.config import TextConfig
from pipeline.core.errors import UsageError
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.base import Encoder
from pipeline.extraction.encoders.probe import refuse_equal_vectors
from tests.extraction.encoders import tiny
from tests.extraction.encoders.test_transformers_text import SHAPE, save

warnings.filterwarnings("ignore", message=".*`sentence_transformers.models`.*")
TEXTS = ["The person is speaking calmly.", "The person is angry", "joy", "A longer sentence, with sadness in it."]


def load(folder: Path, **more: object) -> Encoder[str]:
    return load_encoder("text", TextConfig(encoder="transformers", model=str(folder), **more), "cpu")


def sentence_folder(folder: Path, pooling: str, *, dense: bool = False, normalise: bool = False, prompt: str = ""):
    """A folder as sentence-transformers saves it, and its own encode."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.base.modules import Transformer as Words
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(5)
    save(folder / "bare", RobertaModel)
    modules = [Words(str(folder / "bare")), Pooling(SHAPE["hidden_size"], pooling_mode=pooling)]
    modules += [Dense(SHAPE["hidden_size"], 12, activation_function=torch.nn.Tanh())] * dense
    modules += [Normalize()] * normalise
    prompts = {"prompts": {"query": prompt}, "default_prompt_name": "query"} if prompt else {}
    model = SentenceTransformer(modules=modules, device="cpu", **prompts)
    model.save(str(folder / "full"))
    return folder / "full", model.encode(TEXTS, batch_size=1)


@pytest.mark.parametrize(
    ("pooling", "more"),
    [
        ("cls", {"dense": True}),
        ("cls", {"dense": True, "normalise": True}),
        ("mean", {"normalise": True}),
        ("mean", {"prompt": "query: "}),
        ("max", {}),
        ("mean_sqrt_len_tokens", {"dense": True}),
        ("lasttoken", {}),
    ],
)
def test_a_folder_gives_what_sentence_transformers_gives(pooling: str, more: dict[str, object], tmp_path: Path) -> None:
    folder, expected = sentence_folder(tmp_path, pooling, **more)
    encoder = load(folder)
    vectors = encoder.encode(TEXTS).numpy()
    np.testing.assert_allclose(vectors, expected, atol=2e-6)
    assert vectors.shape[1] == encoder.dim
    assert encoder.fingerprint()["pooling"] == pooling.removesuffix("_tokens")
    assert ("dense_sha256" in encoder.fingerprint()) == ("dense" in more)
    bare = load(tmp_path / "bare").encode(TEXTS).numpy()
    assert bare.shape != vectors.shape or not np.allclose(bare, vectors, atol=1e-3)  # the modules do something


def test_the_flags_of_older_folders_are_read(tmp_path: Path) -> None:
    folder, expected = sentence_folder(tmp_path, "cls", dense=True)
    flags = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(flags))
    np.testing.assert_allclose(load(folder).encode(TEXTS).numpy(), expected, atol=2e-6)


def test_another_pooling_than_the_published_is_refused(tmp_path: Path) -> None:
    folder, _ = sentence_folder(tmp_path, "cls")
    with pytest.raises(UsageError, match=r"text\.pooling: mean; expected cls, as .* was published"):
        load(folder, pooling="mean")


@pytest.mark.parametrize(
    ("name", "tree", "message"),
    [
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "mine.CNN"}], "module CNN; expected Transformer"),
        ("modules.json", [{"idx": 0, "name": "0", "path": "../x", "type": "a.Pooling"}], "a path out of this folder"),
        ("modules.json", {}, "a dict; expected a JSON list"),
        ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "pooling weightedmean; expected one of cls"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "max"]}, "pooling cls \\+ max"),
        ("2_Dense/config.json", {"activation_function": "os.system"}, "activation os.system; expected one of Tanh"),
    ],
)
def test_what_is_not_read_is_refused_by_name(name: str, tree: object, message: str, tmp_path: Path) -> None:
    folder, _ = sentence_folder(tmp_path, "cls", dense=True)
    (folder / name).write_text(json.dumps(tree))
    with pytest.raises(UsageError, match=message):
        load(folder)


def test_a_prefix_stands_before_every_text_and_in_the_fingerprint(tmp_path: Path) -> None:
    folder = save(tmp_path, RobertaModel)
    plain, prefixed = load(folder), load(folder, prefix="query: ")
    assert torch.equal(prefixed.encode(TEXTS), plain.encode([f"query: {text}" for text in TEXTS]))
    assert prefixed.fingerprint() == plain.fingerprint() | {"prefix": "query: "}


CAUSAL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DECODERS = {
    "gpt2": (GPT2Model, GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=261, n_positions=128)),
    "llama": (LlamaModel, LlamaConfig(**CAUSAL, intermediate_size=48)),
    "qwen2": (Qwen2Model, Qwen2Config(**CAUSAL, intermediate_size=48, num_key_value_heads=2)),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_causal_model_with_cls_is_refused_and_with_the_mean_read(kind: str, tmp_path: Path) -> None:
    model, config = DECODERS[kind]
    tiny.shaken(model(config)).save_pretrained(tmp_path)
    tiny.save_tokenizer(tmp_path)
    with pytest.raises(UsageError, match=f"{kind} with pooling cls: a causal model's first token has seen nothing"):
        load(tmp_path, pooling="cls")
    vectors = load(tmp_path, pooling="mean").encode(TEXTS)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3


class Mute(Encoder):
    dim, sample_rate, declared = 4, 16_000, {}

    def __init__(self, mute: bool) -> None:
        self.mute = mute

    def prepare(self, inputs):
        return inputs

    def compute(self, prepared):
        return torch.ones(len(prepared), 4) if self.mute else torch.tensor([[len(each) * 1.0] * 4 for each in prepared])


@pytest.mark.parametrize(("audio", "text"), [(True, False), (False, True)])
def test_an_encoder_that_cannot_tell_its_inputs_apart_stops_the_run(audio: bool, text: bool) -> None:
    what = "clips" if audio else "sentences"
    with pytest.raises(UsageError, match=f"three different {what} have the same vector"):
        refuse_equal_vectors(Mute(audio), Mute(text))
    refuse_equal_vectors(Mute(False), Mute(False))


def test_weights_that_git_lfs_left_out_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path, RobertaModel)
    pointer = Path(__file__).parents[2] / "data/corpora/cases/lfs_pointer.wav"
    (folder / "model.safetensors").write_bytes(pointer.read_bytes())
    with pytest.raises(UsageError, match="a git-lfs pointer, not weights"):
        load(folder)
