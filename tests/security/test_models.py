"""A model folder, whatever is in it, gives an encoder or one line: it runs no code, climbs nowhere, never hangs."""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.extraction.encoders import load_encoder
from tests.security import models
from tests.security.spoiling import spoil

KINDS: dict[str, Callable[[Path], Path]] = {
    "roberta": models.text_model,
    "wavlm": models.speech_model,
    "wavlm_ser": models.ser_model,
    "whisper": models.whisper_model,
}
CLIP = np.linspace(-0.5, 0.5, 800, dtype=np.float32)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound folder of every kind."""
    return {name: make(tmp_path_factory.mktemp("sound") / name) for name, make in KINDS.items()}


@pytest.fixture
def copy(sound: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: shutil.copytree(sound[kind], tmp_path / kind)


def vectors(kind: str, folder: Path) -> torch.Tensor:
    """Load the model and have it encode something short."""
    if kind == "roberta":
        text = TextConfig(encoder="transformers", model=str(folder), pooling="cls")
        return load_encoder("text", text, "cpu").encode(["calm"])
    encoder = "wavlm_ser" if kind == "wavlm_ser" else "transformers"
    return load_encoder("audio", AudioConfig(encoder=encoder, model=str(folder)), "cpu").encode([CLIP])


def refusal(kind: str, folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        vectors(kind, folder)
    return str(caught.value)


def assert_plain(error: UsageError) -> None:
    """One line a problem, and none of a file's own making."""
    lines = error.problems if isinstance(error, ManyProblems) else [str(error)]
    assert all(line.isprintable() and len(line) < 1000 for line in lines), lines


def change(path: Path, **more: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_folder_gives_an_encoder(sound: dict[str, Path], kind: str) -> None:
    assert vectors(kind, sound[kind]).isfinite().all()


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 800), marks=pytest.mark.exhaustive)], ids=len)
@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_folder_gives_an_encoder_or_one_line(
    kind: str, seeds: range, sound: dict[str, Path], tmp_path: Path
) -> None:
    """One way to spoil it a seed; a warning counts as a traceback here. Nothing is left in the folder."""
    ends: Counter[str] = Counter()
    for seed in seeds:
        folder = shutil.copytree(sound[kind], tmp_path / f"{seed}")
        what = spoil(folder, random.Random(seed))
        names = sorted(os.listdir(folder))
        try:
            vectors(kind, folder)
            ends["encoder"] += 1
        except UsageError as error:
            assert_plain(error)
            ends["refusal"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {what}: {error!r}") from error
        assert sorted(os.listdir(folder)) == names, what
        shutil.rmtree(folder)
    assert ends["refusal"] > len(seeds) / 3  # the spoiling does spoil
    assert sum(ends.values()) == len(seeds)


def test_kernels_that_a_config_names_are_not_fetched(sound: dict[str, Path], copy: Callable[[str], Path]) -> None:
    """transformers would download machine code from there, and run it."""
    for kind in ("roberta", "wavlm"):
        folder = copy(kind)
        for name in ("kernels-community/evil", "evil/code", "flash_attention_2"):
            change(folder / "config.json", attn_implementation=name, experts_implementation=name)
            assert torch.equal(vectors(kind, folder), vectors(kind, sound[kind]))


@pytest.mark.parametrize("kind", ["roberta", "wavlm", "whisper"])
@pytest.mark.parametrize("auto_map", [{"AutoConfig": "own_code.Own", "AutoModel": "own_code.Own"}, "own_code.Own", []])
def test_code_beside_the_weights_is_never_imported(kind: str, auto_map: object, copy: Callable[[str], Path]) -> None:
    folder = copy(kind)
    marker = folder / "executed"
    for name in ("own_code", "modeling_own", "configuration_own", "tokenization_own", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            change(folder / name, auto_map=auto_map, custom_pipelines={"x": {"impl": "own_code.Own"}})
    with suppress(UsageError):
        vectors(kind, folder)
    change(folder / "config.json", model_type="own")
    assert "model_type 'own', with code of its own (never executed)" in refusal(kind, folder)
    assert not marker.exists()
    assert not (folder / "__pycache__").exists()


@pytest.mark.parametrize("name", ["../{}", "../../{}", "{parent}/{}", "./{}", "sub/../{}", "", ".", "..", "\0", "a\0b"])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_list_of_shards_cannot_climb_out(name: str, kind: str, copy: Callable[[str], Path]) -> None:
    folder = copy("roberta")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for place in (folder.parent, folder.parent.parent):  # what would load, were it followed
        save_file(state, place / "w.safetensors") if kind == "safetensors" else torch.save(state, place / "w.bin")
    file = name.format(f"w.{kind}", parent=folder.parent)
    index = "model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json"
    (folder / index).write_text(json.dumps({"weight_map": dict.fromkeys(state, file)}))
    found = refusal("roberta", folder)
    assert index in found
    assert "\n" not in found


def test_a_missing_shard_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("wavlm")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    table = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    assert "model-2.safetensors missing" in refusal("wavlm", folder)


@pytest.mark.parametrize(("kind", "key"), [("roberta", "num_hidden_layers"), ("whisper", "encoder_layers")])
def test_a_tower_of_layers_is_refused_before_it_is_built(kind: str, key: str, copy: Callable[[str], Path]) -> None:
    """A hundred thousand layers took hours before the weights were looked at."""
    folder = copy(kind)
    change(folder / "config.json", **{key: 100_000})
    assert key in refusal(kind, folder)


def test_a_weights_name_cannot_write_to_the_terminal(copy: Callable[[str], Path]) -> None:
    folder = copy("wavlm")
    state = load_file(folder / "model.safetensors")
    save_file(state | {"\x1b[2J\nall is well": torch.zeros(1)}, folder / "model.safetensors")
    found = refusal("wavlm", folder)
    assert "\x1b" not in found
    assert "\n" not in found


@pytest.mark.parametrize("length", [-1, 0, 1, 0.5, "x", {}, [], True, float("nan")])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "sentence_bert_config.json"])
def test_a_length_that_no_text_can_have_is_refused(length: object, file: str, copy: Callable[[str], Path]) -> None:
    folder = copy("roberta")
    if file == "sentence_bert_config.json":
        if not length:
            return  # null, 0: none was published
        (folder / file).write_text(json.dumps({"max_seq_length": length}))
    else:
        change(folder / file, model_max_length=length)
    found = refusal("roberta", folder)
    assert file in found or "no tokenizer" in found


@pytest.mark.parametrize("rate", [0, -1, 3, 1e9, "16000", None, {}, True, 2**63])
@pytest.mark.parametrize("kind", ["wavlm", "wavlm_ser", "whisper"])
def test_a_rate_that_no_sound_has_is_refused(rate: object, kind: str, copy: Callable[[str], Path]) -> None:
    folder = copy(kind)
    change(folder / ("config.json" if kind == "wavlm_ser" else "preprocessor_config.json"), sampling_rate=rate)
    assert "sampling_rate" in refusal(kind, folder)


@pytest.mark.parametrize("strides", [[0] * 7, [-5] + [2] * 6, [10**30] + [2] * 6, [9] * 7], ids=str)
def test_strides_that_show_in_no_weight_are_refused(strides: list[int], copy: Callable[[str], Path]) -> None:
    folder = copy("wavlm")
    change(folder / "config.json", conv_stride=strides)
    assert "strides" in refusal("wavlm", folder) or "cannot be built" in refusal("wavlm", folder)


def test_reading_a_hostile_pickle_warns_of_nothing_and_runs_nothing(copy: Callable[[str], Path]) -> None:
    folder = copy("roberta")
    (folder / "model.safetensors").unlink()
    marker = folder / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(marker), "w"))

    for content in ({"weight": Bomb()}, Bomb(), [Bomb()]):
        torch.save(content, folder / "pytorch_model.bin")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "pytorch_model.bin: cannot be read" in refusal("roberta", folder)
    assert not marker.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_nest_of_brackets_is_refused(kind: str, copy: Callable[[str], Path]) -> None:
    folder = copy(kind)
    (folder / "config.json").write_text("[" * 100_000)
    assert "config.json: cannot be read" in refusal(kind, folder)


def test_a_folder_in_a_files_place_is_passed_over(copy: Callable[[str], Path]) -> None:
    folder = copy("roberta")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").mkdir()
    with suppress(UsageError):
        vectors("roberta", folder)


def test_mel_bins_that_the_model_does_not_take_are_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("whisper")
    change(folder / "preprocessor_config.json", feature_size=40)
    assert "40 bins, the model has 20" in refusal("whisper", folder)
