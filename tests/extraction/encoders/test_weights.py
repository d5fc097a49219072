"""Weights are read without executing anything and loaded with nothing missing and nothing left over."""

from __future__ import annotations

import hashlib
import json
import pickle
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.core.errors import UsageError
from pipeline.extraction.encoders.model_files import load_strictly, read_state, sha256, weight_files


class Bomb:
    """A pickle that runs code when an unrestricted reader opens it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def model():
    return nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))


def sharded(folder):
    state = model().state_dict()
    parts = {"model-1.safetensors": ["0.weight"], "model-2.safetensors": ["0.bias", "1.weight", "1.bias"]}
    for name, keys in parts.items():
        save_file({key: state[key] for key in keys}, folder / name)
    table = {key: name for name, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return state


def test_shards_are_read_and_hashed_as_one(tmp_path):
    state = sharded(tmp_path)
    files = weight_files(tmp_path)
    assert [path.name for path in files] == ["model-1.safetensors", "model-2.safetensors"]
    found = read_state(files)
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert sha256(files) == hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_a_lost_shard_is_refused_by_name(tmp_path):
    sharded(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model-2\.safetensors missing"):
        weight_files(tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path):
    index = {"weight_map": {"0.weight": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="no list of files in this folder"):
        weight_files(tmp_path)


def test_safetensors_are_read_before_a_pickle(tmp_path):
    save_file(model().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert [path.name for path in weight_files(tmp_path)] == ["model.safetensors"]


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "pytorch_model.bin", tmp_path / "executed"
    torch.save({"weight": Bomb(marker)}, path)
    with pytest.raises(UsageError, match=r"pytorch_model\.bin: cannot be read"):
        read_state([path])
    path.write_bytes(pickle.dumps(Bomb(marker), protocol=2))
    with pytest.raises(UsageError, match="cannot be read"):
        read_state([path])
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04" + bytes(99)])
def test_a_broken_file_is_refused_in_words(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="a git-lfs pointer" if b"git-lfs" in content else "cannot be read"):
        read_state(weight_files(tmp_path))


def test_a_header_of_100_mb_is_refused_unread(tmp_path):
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write((99_999_992).to_bytes(8, "little"))
        file.truncate(100_000_000)
    with pytest.raises(UsageError, match=r"cannot be read \(a header of 99,999,992 bytes\)"):
        read_state(weight_files(tmp_path))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_pickle_gives_tensors_or_a_refusal(tmp_path, zipped):
    path = tmp_path / "pytorch_model.bin"
    torch.save(model().state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for at in range(0, min(len(whole), 900), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        with suppress(UsageError):
            read_state([path])


def test_a_pickle_of_something_else_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1), "epoch": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="something else than named tensors"):
        read_state(weight_files(tmp_path))


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path):
    with pytest.raises(UsageError, match=r"no weights; expected one of model\.safetensors"):
        weight_files(tmp_path)


def test_all_problems_are_named_at_once():
    state = model().state_dict()
    state["0.weigth"] = state.pop("0.weight")
    del state["1.weight"]
    state["1.bias"] = torch.zeros(5)
    state["head.weight"] = torch.zeros(1)
    with pytest.raises(UsageError) as refusal:
        load_strictly(model(), state, "the file")
    text = str(refusal.value)
    assert "weight `0.weight` is missing; `0.weigth` has its shape: was it renamed?" in text
    assert "weight `1.weight` is missing" in text
    assert "weight `1.bias` has shape (5,), expected (2,)" in text
    assert "weight `head.weight` is left over" in text


def test_only_what_is_optional_may_be_missing():
    state = model().state_dict()
    del state["1.bias"]
    target = model()
    load_strictly(target, state, "the file", optional="1.bias")
    assert torch.equal(target[0].weight, state["0.weight"])


def test_integers_in_place_of_floats_are_refused_and_half_precision_is_not():
    state = model().state_dict()
    load_strictly(model(), state | {"0.weight": state["0.weight"].half()}, "the file")
    with pytest.raises(UsageError, match=r"`0\.weight` is torch\.int8, expected floats"):
        load_strictly(model(), state | {"0.weight": state["0.weight"].to(torch.int8)}, "the file")
