"""The trained part and its file."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import StoreCorrupt
from pipeline.training.heads import MAX_SCALE, Heads, load_heads, load_tensors, save_heads, save_tensors


def test_the_papers_heads_have_918_529_parameters() -> None:
    assert sum(p.numel() for p in Heads(1024, 768).parameters()) == 918_529


def test_embeddings_are_unit_vectors_and_relu_keeps_cosines_in_0_1() -> None:
    torch.manual_seed(0)
    heads = Heads(6, 5, dim=16)
    heads.initialise(0)
    speech, text = heads.embed_speech(torch.randn(40, 6)), heads.embed_text(torch.randn(40, 5))
    assert torch.allclose(speech.norm(dim=1), torch.ones(40), atol=1e-6)
    cosines = speech @ text.T
    assert cosines.min() >= 0
    assert cosines.max() <= 1 + 1e-6


def test_no_rows_give_no_embeddings_of_weighted_layers_too() -> None:
    heads = Heads(6, 5, dim=4, audio_layers=3)
    assert heads.embed_speech(torch.empty(0, 6)).shape == (0, 4)


def test_a_row_that_relu_zeroes_gives_zeros_and_finite_gradients() -> None:
    heads = Heads(3, 3, dim=4)
    with torch.no_grad():
        heads.audio.weight.fill_(-1)
        heads.audio.bias.fill_(-1)
    embedded = heads.embed_speech(torch.ones(2, 3))
    assert not embedded.any()
    embedded.sum().backward()
    assert heads.audio.weight.grad is not None
    assert heads.audio.weight.grad.isfinite().all()


def test_the_start_depends_on_the_seed_alone_and_is_torchs_default_in_law() -> None:
    one, same, other = Heads(1024, 768), Heads(1024, 768), Heads(1024, 768)
    one.initialise(3)
    torch.manual_seed(99)
    same.initialise(3)
    other.initialise(4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.audio.weight, other.audio.weight)
    default = torch.nn.Linear(1024, 512)
    assert one.audio.weight.abs().max() <= 1 / 32
    assert abs(one.audio.weight.std().item() / default.weight.std().item() - 1) < 0.01


def test_the_temperature_is_clamped_from_one_side_only() -> None:
    heads = Heads(2, 2)
    heads.initialise(0, temperature=5.0)
    heads.clamp_scale()
    assert math.isclose(heads.temperature, 5.0, rel_tol=1e-6)
    heads.initialise(0, temperature=0.001)
    heads.clamp_scale()
    assert math.isclose(heads.temperature, 1 / MAX_SCALE, rel_tol=1e-6)


def test_heads_come_back_as_they_were_saved(tmp_path: Path) -> None:
    heads = Heads(6, 5, dim=4, activation="identity")
    heads.initialise(1)
    heads.audio_mean.fill_(2.0)
    save_heads(heads, tmp_path / "heads.safetensors", {"method": "m"})
    loaded, about = load_heads(tmp_path / "heads.safetensors")
    assert about == {"method": "m"}
    x = torch.randn(3, 6)
    assert torch.equal(loaded.embed_speech(x), heads.embed_speech(x))


def _foreign(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)


def _other_shape(path: Path) -> None:
    heads = Heads(2, 2, dim=2)
    save_heads(heads, path, {})
    data = path.read_bytes()
    path.write_bytes(data.replace(b'\\"width\\": 2', b'\\"width\\": 3'))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: None,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps({"weights": 1})),
        _foreign,
        _other_shape,
    ],
)
def test_a_file_that_holds_no_heads_is_refused_in_one_line(tmp_path: Path, spoil) -> None:
    path = tmp_path / "heads.safetensors"
    spoil(path)
    with pytest.raises(StoreCorrupt, match=r"heads\.safetensors") as caught:
        load_heads(path)
    assert "\n" not in str(caught.value)


def test_heads_that_are_replaced_while_they_are_read_are_the_old_or_the_new(tmp_path: Path) -> None:
    for number in range(2):
        save_tensors({"a": torch.full((1000,), float(number))}, tmp_path / str(number), {})
    os.link(tmp_path / "1", tmp_path / "x")
    program = (
        "import os\n"
        "while True:\n"
        "    for name in '01':\n"
        "        os.link(name, 'beside')\n"
        "        os.replace('beside', 'x')\n"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", program], cwd=tmp_path) as writer:
        try:
            found: set[float] = set()
            for _ in range(100_000):
                found.add(load_tensors(tmp_path / "x")[0]["a"].unique().item())
                if len(found) > 1:
                    break
            found |= {load_tensors(tmp_path / "x")[0]["a"].unique().item() for _ in range(300)}
        finally:
            writer.kill()
    assert found == {0.0, 1.0}
