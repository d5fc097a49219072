"""Encoders of one's own: a few lines are enough, weights that change are seen, and nothing but the user runs code."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cache.stores import open_stores
from pipeline import EmotionRankCLAP, register_audio_encoder, register_text_encoder
from pipeline.commands import evaluate_heads, extract_features, search_speech, train_heads
from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.config_files import read_yaml
from pipeline.core.errors import EmotionRankError, ManyProblems, StoreMismatch, UsageError
from pipeline.core.plugins import load_plugins
from pipeline.extraction.encoders import load_encoder
from pipeline.extraction.encoders.custom_encoder import sha256_of
from pipeline.extraction.engines.ray_cluster import ray_cluster
from pipeline.extraction.extract import extract
from pipeline.extraction.settings import resolve_extraction
from pipeline.extraction.status import verify, verify_sources
from pipeline.inference.model_card import card_of
from pipeline.training.train import train
from tests.own_code import MINE, SPECTRUM, WAVES, commands, forget, plugin, registered, write_files
from tests.own_code import forgotten as forgotten
from tests.own_code import many as many
from tests.own_code import own_stores as own_stores
from tests.speech import QUICK, tone, write_corpus
from tests.stage_two import EVALUATION, TRAINING, run_command


def made(**members: Any) -> Any:
    """A registered speech encoder with these members, loaded; by default a sound one."""
    sound = {"dim": 3, "sample_rate": 16_000, "__init__": lambda self, config, device: None}
    sound["encode"] = lambda self, waves: torch.ones(len(waves), 3)
    register_audio_encoder("own")(type("Own", (), {k: v for k, v in (sound | members).items() if v is not None}))
    return load_encoder("audio", AudioConfig(encoder="own"), "cpu")


def test_an_encoder_that_wraps_the_embedded_one_fills_a_store_with_its_vectors(stores: Path, tmp_path: Path) -> None:
    corpus = read_yaml(stores / "config.yaml")["corpus"]["manifest"]

    @register_audio_encoder("wrapped")
    class Wrapped:
        def __init__(self, config: AudioConfig, device: str) -> None:
            self.inner = load_encoder("audio", AudioConfig(), device)
            self.dim, self.sample_rate = self.inner.dim, self.inner.sample_rate

        def encode(self, waves: list[np.ndarray]) -> torch.Tensor:
            return self.inner.encode(waves)

    register_text_encoder("wrapped")(lambda config, device: load_encoder("text", TextConfig(), device))  # two steps
    settings = ["audio.encoder=wrapped", "text.encoder=wrapped", "captions.styles=[template]"]
    extract(corpus, out=tmp_path / "s", overrides=[*QUICK, *settings])
    ours, theirs = open_stores(tmp_path / "s"), open_stores(stores)
    rows = np.arange(24)
    assert np.array_equal(ours.audio.read(rows)[0], theirs.audio.read(rows)[0])
    same = np.array([theirs.text.ids.index(text) for text in ours.text.ids])
    assert len(same) > 20
    found, expected = ours.text.read(np.arange(len(same)))[0], theirs.text.read(same)[0]
    assert np.allclose(found, expected, rtol=0, atol=1e-5)  # other texts stood in its batches
    inner = theirs.fingerprint()["audio"]["encoder"]["weights_sha256"]
    assert ours.fingerprint()["audio"]["encoder"]["weights_sha256"] not in (None, inner)


def test_other_weights_another_version_or_setting_are_refused_by_field(
    many: Path, own_stores: Path, tmp_path: Path
) -> None:
    def again(*more: str, **changed: Any) -> str:
        forget()
        registered(tmp_path, **changed)
        with pytest.raises(StoreMismatch) as caught:
            extract(many, out=own_stores, overrides=[*QUICK, *MINE, *more])
        return str(caught.value)

    assert "encoder.weights_sha256: the store has" in again(scale=1.0000002)
    assert "encoder.version: the store has 1, now 2" in again(version=2)
    assert "encoder.settings.layer: the store has null, now 3" in again("audio.layer=3")
    forget()
    registered(tmp_path)
    again_done = extract(many, out=own_stores, overrides=[*QUICK, *MINE, "audio.batch_seconds=2"])
    assert again_done["audio"]["done"] == 64


class _Thing:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


def _encoder(**changed: Any) -> _Thing:
    parts = {name: torch.full((3,), float(k)) for k, name in enumerate("abcdef")}
    parts["array"] = np.arange(4)
    parts |= changed
    net = nn.BatchNorm1d(3)
    net.running_mean.copy_(parts["a"])
    net.beside = [parts["b"]]  # nn.Module does not know of it
    return _Thing(
        net=net,
        lists=[{"x": (parts["c"], 5)}, None],
        within=_Thing(deep=_Thing(weight=parts["d"])),
        plain=parts["e"],
        same=parts["e"],
        parameter=nn.Parameter(parts["f"]),
        array=parts["array"],
        number=changed.get("number", 1),
    )


def test_every_tensor_that_an_encoder_holds_is_in_its_hash() -> None:
    whole = sha256_of(_encoder())
    assert whole == sha256_of(_encoder())
    assert whole == sha256_of(_encoder(number=2))  # a number is code: its version says so
    seen = {whole}
    for name in "abcdef":
        wrong = torch.full((3,), float("abcdef".index(name)))
        wrong[2] += 1e-6 if name != "a" else 1e-30
        seen.add(sha256_of(_encoder(**{name: wrong})))
    seen.add(sha256_of(_encoder(array=np.array([0, 1, 2, 4]))))
    seen.add(sha256_of(_encoder(array=np.arange(4, dtype=np.int32))))
    seen.add(sha256_of(_encoder(array=np.arange(4).reshape(2, 2))))
    seen.add(sha256_of(_encoder(e=torch.full((3,), 4.0, dtype=torch.bfloat16))))
    assert len(seen) == 11
    assert sha256_of(_Thing(number=3)) is None
    one = torch.ones(2)
    assert len({sha256_of(_Thing(**{name: one})) for name in ("a", "b", "_private")} - {None}) == 3
    zeros = [torch.zeros(2, dtype=kind) for kind in (torch.float32, torch.int32)]  # the same bytes
    assert len({sha256_of(_Thing(a=each)) for each in zeros}) == 2


def test_an_encoder_without_tensors_is_said_to_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    own = made(fingerprint=lambda self: {"file": "sha256:1"})
    assert "audio encoder own: no weights found in it; only its version (1)" in capsys.readouterr().err
    assert own.fingerprint()["own"] == {"file": "sha256:1"}
    assert own.fingerprint()["weights_sha256"] is None


def test_modules_are_put_into_eval_and_gradients_are_off() -> None:
    def init(self: Any, config: AudioConfig, device: str) -> None:
        self.within = [nn.Dropout(0.9)]

    def encode(self: Any, waves: list[np.ndarray]) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return self.within[0](torch.ones(len(waves), 3))

    assert torch.equal(made(__init__=init, encode=encode).encode(WAVES), torch.ones(3, 3))


def test_vectors_may_be_numpys_or_of_any_float_and_no_inputs_give_none() -> None:
    assert made(encode=lambda self, waves: np.ones((len(waves), 3))).encode(WAVES).dtype == torch.float32
    half = made(encode=lambda self, waves: torch.ones(len(waves), 3, dtype=torch.bfloat16))
    assert torch.equal(half.encode(WAVES), torch.ones(3, 3))
    assert made(encode=lambda self, waves: torch.stack([torch.ones(3) for _ in waves])).encode([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("dim", None, "dim None; expected a whole number from 1"),
        ("dim", True, "dim True"),
        ("dim", 0, "dim 0"),
        ("sample_rate", 16e3, "sample_rate 16000.0; expected a whole number from 1 to 384000"),
        ("encode", None, "a Own without encode; expected encode(inputs) -> (B, dim)"),
        ("__init__", lambda self, config: None, "TypeError"),
        ("fingerprint", lambda self: [1], "a fingerprint of list; expected a dict that JSON can hold"),
        ("fingerprint", lambda self: {"a": object()}, "a fingerprint of dict"),
    ],
)
def test_a_class_that_is_no_encoder_is_one_line_that_names_it(member: str, value: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**{member: value})
    assert str(caught.value).startswith("audio encoder own: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (torch.ones(3, 4), "it returned a Tensor of shape (3, 4), torch.float32; expected floats of shape (3, 3)"),
        (torch.ones(2, 3), "of shape (2, 3)"),
        (torch.ones(3, 3, dtype=torch.int64), "torch.int64; expected floats"),
        (np.ones((3, 3, 1)), "of shape (3, 3, 1)"),
        (None, "it returned a NoneType; expected"),
        (torch.tensor([[1.0] * 3, [float("nan")] * 3, [1.0] * 3]), "1 of 3 vectors are not finite"),
    ],
)
def test_vectors_are_checked_as_they_arrive(vectors: Any, said: str) -> None:
    with pytest.raises(EmotionRankError) as caught:
        made(encode=lambda self, waves: vectors).encode(WAVES)
    assert str(caught.value).startswith("audio encoder own: ")
    assert said in str(caught.value)
    assert caught.value.exit_code == 1


def test_two_steps_are_taken_where_both_are_there() -> None:
    steps = {"prepare": lambda self, waves: [len(wave) for wave in waves], "encode": None}
    steps["compute"] = lambda self, lengths: torch.tensor([[1.0 * length] * 3 for length in lengths])
    assert made(**steps).encode(WAVES)[:, 0].tolist() == [800, 1600, 801]
    for name in ("prepare", "compute"):  # a method of its own
        assert torch.equal(made(**{name: steps[name]}).encode(WAVES), torch.ones(3, 3))
    with pytest.raises(UsageError, match="without encode"):
        made(encode=None, compute=steps["compute"])


def test_what_its_code_raises_is_one_line_with_the_place_and_the_inputs(tmp_path: Path) -> None:
    broken = SPECTRUM.format(version=1, scale=1).replace("torch.stft(wave, 64", "torch.stft(wave[:5], 64")
    load_plugins([plugin(tmp_path, broken)])
    encoder = load_encoder("audio", AudioConfig(encoder="mine"), "cpu")
    place = 1 + broken[: broken.index("power =")].count("\n")
    with pytest.raises(EmotionRankError, match=rf"\(mine.py:{place}\); expected .* of inputs 800 to 1600 long"):
        encoder.encode(WAVES)


def test_memory_that_runs_out_is_for_whoever_halves_the_batch() -> None:
    def encode(self: Any, waves: list[np.ndarray]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        made(encode=encode).encode(WAVES)


def test_a_vector_that_is_not_finite_costs_its_own_row_and_is_refused_elsewhere(many: Path, tmp_path: Path) -> None:
    def encode(self: Any, waves: list[np.ndarray]) -> torch.Tensor:
        return torch.tensor([[float("nan") if len(wave) < 7000 else 1.0 + len(wave) / 1e5] * 3 for wave in waves])

    made(encode=encode)
    register_text_encoder("words")(type("W", (), {"dim": 2, "__init__": lambda *_: None, "encode": _two}))
    settings = ["audio.encoder=own", "text.encoder=words", "captions.styles=[dimensional]"]
    result = extract(many, out=tmp_path / "s", overrides=[*QUICK, *settings])
    assert result["audio"]["failed"] == 10  # of 0.4 s, every seventh
    assert {failed["reason"] for failed in result["failures"]} == {"the encoder returned a non-finite vector"}
    run = train(tmp_path / "s", overrides=["epochs=1", "batch_size=4", "width=4", "threads=1"], out=tmp_path / "r")
    model = EmotionRankCLAP.from_pretrained(run.folder)
    with pytest.raises(ManyProblems, match=r"recordings\[1\]: the encoder returned a non-finite vector"):
        model.encode_speech([tone(0.5), tone(0.4)], sample_rate=16_000)


def _two(self: Any, sentences: list[str]) -> torch.Tensor:
    return torch.tensor([[float(len(sentence)), 1.0] for sentence in sentences])


# What its stores are good for


def test_stores_of_an_own_encoder_need_it_only_to_encode(own_stores: Path, many: Path, tmp_path: Path) -> None:
    forget()
    run, clip = tmp_path / "run", many.parent / "audio/u03.wav"
    assert verify(own_stores) > 64
    assert verify_sources(own_stores) > 64
    assert run_command(extract_features.main, "x", "--out", own_stores, "--status").exit_code == 0
    assert run_command(train_heads.main, own_stores, *TRAINING, "--out", run, "-o", "batch_size=4").exit_code == 0
    assert run_command(evaluate_heads.main, own_stores, run, *EVALUATION).exit_code == 0
    model = EmotionRankCLAP.from_pretrained(run)
    assert model.similarity(open_stores(own_stores).speech("test"), torch.ones(1, 4)).shape == (16, 1)
    model.save_pretrained(tmp_path / "exported")
    card = card_of(model.config, "exported")
    assert "Register the author's custom encoder `mine` and `words` first" in card
    assert "_model=" not in card
    exported = EmotionRankCLAP.from_pretrained(tmp_path / "exported")
    with pytest.raises(UsageError, match="audio encoder mine: no such audio encoder"):
        exported.encode_speech(clip)
    registered(tmp_path)
    row = open_stores(own_stores).manifest.id.index("u03")
    vector = torch.tensor(open_stores(own_stores).audio.read(np.array([row]))[0])
    assert torch.allclose(exported.encode_speech(clip), exported.embed_speech(vector), atol=1e-6)
    options = ["--plugin", tmp_path / "words.py"]
    assert run_command(search_speech.main, own_stores, run, "calm", *options).exit_code == 0
    assert run_command(search_speech.main, own_stores, run, "--audio", clip, *options).exit_code == 0
    forget()
    registered(tmp_path, scale=2.0)
    with pytest.raises(StoreMismatch, match="weights_sha256"):
        EmotionRankCLAP.from_pretrained(tmp_path / "exported").encode_speech(clip)


def test_the_page_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are written as they stand there, and its commands run as they stand there, on a small corpus."""
    monkeypatch.chdir(tmp_path)
    files = write_files("encoders.md", tmp_path, "python")
    assert files.keys() == {"my_encoder.py", "my_words.py"}
    assert all(len(block.splitlines()) <= 20 for block in files.values())
    write_corpus(tmp_path / "my", 64)
    said = commands("encoders.md", "Your own encoder")
    assert [words[0] for words in said] == ["extract-features", "train-heads", "evaluate-heads", "search-speech"]
    for name, *words in said:
        forget()
        command = import_module(f"pipeline.commands.{name.replace('-', '_')}")
        more = {"train-heads": [*TRAINING, "-o", "batch_size=4"], "evaluate-heads": EVALUATION}.get(name, [])
        result = run_command(command.main, *words, *more)
        assert result.exit_code == 0, result.stderr
    assert open_stores("stores/mine").audio.dim == 160


# Ray


def test_an_encoder_of_this_process_alone_is_refused_on_ray(tmp_path: Path) -> None:
    made()
    config = resolve_extraction("my/manifest.csv", overrides=["audio.encoder=own"])
    with pytest.raises(UsageError, match="--engine ray: audio encoder own: registered in this process alone"):
        ray_cluster(config, out=tmp_path).__enter__()


@pytest.mark.slow
def test_actors_run_the_plugin_and_fill_the_store_of_the_single_process(many: Path, tmp_path: Path) -> None:
    from tests.extraction.engines.machines import own_temporary_folder

    registered(tmp_path)
    with own_temporary_folder():
        extract(many, out=tmp_path / "ray", overrides=[*QUICK, *MINE], engine="ray")
        assert "words.py" in {path.name for path in tmp_path.iterdir()}
        extract(many, out=tmp_path / "threads", overrides=[*QUICK, *MINE])
        for name in ("audio.h5", "text.h5"):
            assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "threads" / name).read_bytes()
        (tmp_path / "mine.py").rename(tmp_path / "moved.py")
        with pytest.raises(UsageError, match=r"node .*: --plugin .*mine\.py: no such file"):
            extract(many, out=tmp_path / "again", overrides=[*QUICK, *MINE], engine="ray")
