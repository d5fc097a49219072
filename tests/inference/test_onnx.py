"""Exported heads as ONNX: the vectors of the torch heads, in files that belong to their export or are not there."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache import disk
from pipeline import EmotionRankCLAP
from pipeline.core.errors import UsageError
from pipeline.inference.description import Description
from pipeline.inference.export import read_model, write_model
from pipeline.inference.onnx_heads import MAX_BYTES, ONNX_FILES, onnx_head
from pipeline.objectives.space import EPSILON
from pipeline.training.heads import Heads
from tests.faults.faulty_os import CHANGES, Crash, FaultyOs
from tests.inference.test_export import FILES, contents
from tests.inference.test_model import one_line, refusal

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

BOTH = sorted([*FILES, *ONNX_FILES])
SHAPES = list(itertools.product(("relu", "identity"), (False, True), (1, 3), (1, 2)))


def heads_of(
    activation: str, standardised: bool, audio_layers: int, text_layers: int, dims: Any = (24, 20, 16)
) -> Heads:
    """Random heads of a shape, dims of one layer of speech, of text and of the space; a ReLU head gives a zero row."""
    audio, text, dim = dims
    layers = {"audio_layers": audio_layers, "text_layers": text_layers}
    heads = Heads(audio * audio_layers, text * text_layers, dim=dim, activation=activation, **layers)
    heads.initialise(3)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for side in ("audio", "text"):
            getattr(heads, side).bias.copy_(
                -getattr(heads, side).bias.abs() if activation == "relu" else torch.zeros(dim)
            )
            if standardised:
                getattr(heads, f"{side}_mean").normal_(generator=draw)
                getattr(heads, f"{side}_std").uniform_(0.1, 3, generator=draw)
            if layer_sum := getattr(heads, f"{side}_sum"):
                layer_sum.logits.normal_(generator=draw)
                layer_sum.scale.fill_(1.7)
    return heads.eval()


def run(file: bytes, vectors: np.ndarray) -> np.ndarray:
    """The output of a file for rows of vectors."""
    model = onnx.load_from_string(file)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [given], [made] = session.get_inputs(), session.get_outputs()
    side = given.name.removesuffix("_vector")
    assert (made.name, given.shape[0], made.shape[0]) == (f"{side}_embedding", "N", "N")
    assert given.shape[1] == vectors.shape[1]
    [found] = session.run([made.name], {given.name: vectors})
    assert found.shape == (len(vectors), made.shape[1])
    return found


@pytest.mark.parametrize("shape", [*SHAPES, ("relu", True, 1, 1, (1024, 768, 512))], ids=str)
@torch.no_grad()
def test_a_head_of_any_shape_gives_the_vectors_of_torch(shape: tuple[Any, ...]) -> None:
    heads, draw = heads_of(*shape), torch.Generator().manual_seed(5)
    for side, embed in (("audio", heads.embed_speech), ("text", heads.embed_text)):
        file = onnx_head(heads, side, {})
        mean, std = getattr(heads, f"{side}_mean"), getattr(heads, f"{side}_std")
        for count in (1, 1000):
            vectors = mean + std * torch.randn(count, len(mean), generator=draw)
            expected = embed(vectors).numpy()
            assert count == 1 or expected.any(axis=1).mean() > 0.9
            np.testing.assert_allclose(run(file, vectors.numpy()), expected, rtol=0, atol=1e-6)
        zero = mean[None]  # standardised to 0, and then the bias, which a ReLU cuts off
        assert not embed(zero).any()
        assert not run(file, zero.numpy()).any()


@torch.no_grad()
def test_a_row_shorter_than_epsilon_is_divided_by_it_as_in_torch() -> None:
    heads = heads_of("identity", False, 1, 1)
    vectors = EPSILON * 1e-2 * torch.eye(24)
    expected = heads.embed_speech(vectors).numpy()
    assert 0 < np.linalg.norm(expected, axis=1).max() < 0.1
    np.testing.assert_allclose(run(onnx_head(heads, "audio", {}), vectors.numpy()), expected, rtol=1e-5, atol=0)


def test_weights_that_no_file_holds_are_one_line() -> None:
    with torch.device("meta"):
        heads = Heads(2**14, 4, dim=2**15)
    assert 4 * heads.audio.weight.numel() > MAX_BYTES
    with pytest.raises(UsageError, match=r"speech_head\.onnx: weights of 2\.0 GiB; expected at most 2 GiB"):
        onnx_head(heads, "audio", {})


@pytest.fixture
def both(planted_model: EmotionRankCLAP, tmp_path: Path) -> Path:
    """An export with ONNX."""
    planted_model.save_pretrained(tmp_path / "both", onnx=True)
    return tmp_path / "both"


def test_the_files_are_the_models_heads_and_say_of_which_encoders(
    planted_run: Path, planted_model: EmotionRankCLAP, both: Path
) -> None:
    assert sorted(contents(both)) == BOTH
    settings = json.loads((both / "config.json").read_text())
    vectors = {"audio": planted_model.heads.input_dims[0], "text": planted_model.heads.input_dims[1]}
    embed = {"audio": planted_model.embed_speech, "text": planted_model.embed_text}
    for file, side in zip(ONNX_FILES, ("audio", "text"), strict=True):
        given = np.random.default_rng(0).normal(size=(9, vectors[side])).astype(np.float32)
        np.testing.assert_allclose(run((both / file).read_bytes(), given), embed[side](given), rtol=0, atol=1e-6)
        props = {prop.key: json.loads(prop.value) for prop in onnx.load(both / file).metadata_props}
        assert props["encoder"] == settings["encoders"][side]
        assert props["fingerprint"] == settings["fingerprint"][side]
        assert props["trained"] == settings["trained"]
        digest = hashlib.blake2b((both / "config.json").read_bytes(), digest_size=16).hexdigest()
        assert props["config.json"] == digest
        assert str(planted_run).encode() not in (both / file).read_bytes()
        assert b"secret-place" not in (both / file).read_bytes()


def test_the_card_names_the_files_and_its_lines_run(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (both / "README.md").read_text()
    for file in ONNX_FILES:
        assert f"- {file}, sha256 {hashlib.sha256((both / file).read_bytes()).hexdigest()}\n" in card
    [block] = [text for text in re.findall(r"```python\n(.*?)```", card, re.S) if "onnx" in text]
    monkeypatch.chdir(both)
    names: dict[str, Any] = {"vectors": np.ones((3, 6), np.float32)}
    exec(compile(block, "README.md", "exec"), names)
    assert names["embedding"].shape == (3, 16)


def test_an_export_with_onnx_is_loaded_and_exported_as_one_without(
    planted_model: EmotionRankCLAP, exported: Path, both: Path, tmp_path: Path
) -> None:
    whole = contents(both)
    assert {name: whole[name] for name in FILES[1:]} == {name: contents(exported)[name] for name in FILES[1:]}
    again = EmotionRankCLAP.from_pretrained(both)
    again.save_pretrained(tmp_path / "again" / "both", onnx=True)
    assert contents(tmp_path / "again" / "both") == whole
    again.save_pretrained(both)  # without: those of before do not stay beside other heads
    assert sorted(contents(both)) == FILES
    assert ".onnx" not in (both / "README.md").read_text()


def test_without_the_package_nothing_changes(
    planted_model: EmotionRankCLAP, both: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(both)
    monkeypatch.setitem(sys.modules, "onnx", None)
    line = one_line(lambda: planted_model.save_pretrained(both, onnx=True), 2)
    assert "onnx is not installed; expected the extra onnx. " in line
    assert contents(both) == before


def test_a_file_of_that_name_of_somebody_else_is_left_alone(planted_model: EmotionRankCLAP, tmp_path: Path) -> None:
    (tmp_path / "text_head.onnx").write_bytes(b"mine")
    for with_onnx in (False, True):
        said = one_line(lambda chosen=with_onnx: planted_model.save_pretrained(tmp_path, onnx=chosen), 2)
        assert "Choose another folder" in said
    assert contents(tmp_path) == {"text_head.onnx": b"mine"}


@pytest.mark.parametrize("how", [Crash, errno.ENOSPC], ids=["killed", "disk full"])
def test_an_export_over_another_is_whole_or_is_none_at_every_operation(
    planted_model: EmotionRankCLAP, both: Path, how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, config = planted_model.heads, planted_model.config
    other = config.model_copy(update={"trained": config.trained.model_copy(update={"seed": 5})})
    seeds, at = set(), 0

    def export(described: Description) -> None:
        write_model(both, heads, described, "a name", onnx=True)

    while True:
        fault = FaultyOs(at, how, counted=CHANGES)
        monkeypatch.setattr(disk, "os", fault)
        with suppress(Crash):
            error = refusal(lambda: export(other))
            assert error is None or error.exit_code == 1
        monkeypatch.setattr(disk, "os", os)
        left = sorted(contents(both))
        if "config.json" in left:
            assert left == BOTH
            seed = read_model(both)[1].trained.seed
            for file in ONNX_FILES:
                props = {prop.key: prop.value for prop in onnx.load(both / file).metadata_props}
                assert json.loads(props["trained"])["seed"] == seed
            seeds.add(seed)
        elif how is not Crash:
            assert not left
        if len(fault.calls) <= at:
            break
        export(config)  # whatever is left does not stand in its way
        at += 1
    assert at > 20
    assert seeds == {config.trained.seed, 5}
