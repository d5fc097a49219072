"""A model on the hub: pushed, fetched, its token kept; and the examples of docs/model.md."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from huggingface_hub import constants

from pipeline import EmotionRankCLAP, train
from pipeline.core.config import TrainConfig
from pipeline.core.errors import EmotionRankError
from pipeline.inference.onnx_heads import ONNX_FILES
from pipeline.training.run_folder import open_run
from tests.inference.model_hub import Hub, serving
from tests.inference.test_export import FILES
from tests.inference.test_model import one_line
from tests.speech import tone

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on loopback, a token for it, and a cache of its own."""
    with serving() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield hub


def test_a_model_pushed_to_the_hub_comes_back_from_it(planted_model: EmotionRankCLAP, hub: Hub, tmp_path: Path) -> None:
    assert planted_model.push_to_hub("me/erc", commit_message="first").startswith(f"{hub.url}/me/erc/commit/")
    assert sorted(hub.files) == FILES
    assert [commit["summary"] for commit in hub.commits] == ["first"]
    assert hub.created[0]["visibility"] == "private"
    assert b'from_pretrained("me/erc"' in hub.files["README.md"]
    hub.files |= {"pytorch_model.bin": b"pickle", "evil.py": b"code", "run.sh": b"code"}
    hub.asked.clear()
    back = EmotionRankCLAP.from_pretrained("me/erc")
    back.save_pretrained(tmp_path / "erc")
    assert (tmp_path / "erc/config.json").read_bytes() == hub.files["config.json"]
    assert torch.equal(back.heads.text.weight, planted_model.heads.text.weight)
    fetched = {path.rsplit("/", 1)[1] for _, path in hub.asked if "/resolve/" in path}
    assert fetched == set(FILES)


def test_onnx_files_are_pushed_and_deleted_with_their_heads_and_never_fetched(
    planted_model: EmotionRankCLAP, hub: Hub
) -> None:
    pytest.importorskip("onnx")
    planted_model.push_to_hub("me/erc", onnx=True)
    assert sorted(hub.files) == sorted([*FILES, *ONNX_FILES])
    hub.files["mine.onnx"] = b"the user's own"
    hub.asked.clear()
    back = EmotionRankCLAP.from_pretrained("me/erc")
    assert not [path for _, path in hub.asked if path.endswith(".onnx")]
    back.push_to_hub("me/erc")
    assert sorted(hub.files) == sorted([*FILES, "mine.onnx"])


def test_the_token_goes_to_the_hub_and_nowhere_else(planted_model: EmotionRankCLAP, hub: Hub, tmp_path: Path) -> None:
    planted_model.push_to_hub("me/erc")
    EmotionRankCLAP.from_pretrained("me/erc").save_pretrained(tmp_path / "again")
    hub.status = 401
    for work in (lambda: planted_model.push_to_hub("me/erc"), lambda: EmotionRankCLAP.from_pretrained("me/other")):
        with pytest.raises(EmotionRankError) as caught:
            work()
        assert "\n" not in str(caught.value)
        assert "401" in str(caught.value)
        assert TOKEN not in str(caught.value)
    assert f"Bearer {TOKEN}" in hub.tokens
    kept = [*hub.files.values(), *(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())]
    assert not [data for data in kept if TOKEN.encode() in data]


def test_what_is_meant_to_be_private_does_not_go_to_a_public_place(planted_model: EmotionRankCLAP, hub: Hub) -> None:
    hub.public = True
    assert "public" in one_line(lambda: planted_model.push_to_hub("me/erc"), 2)
    assert not hub.files
    planted_model.push_to_hub("me/erc", private=False)
    assert sorted(hub.files) == FILES


def test_a_hub_that_cannot_be_reached_is_one_line(
    planted_model: EmotionRankCLAP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "\n" not in one_line(lambda: planted_model.push_to_hub("me/erc"), 1)
    assert "\n" not in one_line(lambda: EmotionRankCLAP.from_pretrained("me/erc"), 2)
    assert "\n" not in one_line(lambda: planted_model.push_to_hub("no/such/name"), 1)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


@pytest.fixture
def place(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that docs/model.md speaks of."""
    for name, pitch in (("calm", 110.0), ("angry", 260.0), ("clip", 150.0)):
        soundfile.write(tmp_path / f"{name}.wav", tone(0.5, pitch=pitch), 16_000)
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores/msp").symlink_to(stores)
    config = TrainConfig(batch_size=4, epochs=1, threads=1)
    train(tmp_path / "stores/msp", method=config, out=tmp_path / "runs/erc")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_page_and_of_the_card_run(place: Path, hub: Hub) -> None:
    names: dict[str, Any] = {}
    page = blocks(ROOT / "docs/model.md")
    assert len(page) == 6
    for block in page:
        exec(compile(block, "docs/model.md", "exec"), names)
    assert names["speech"].shape == (2, 512)
    assert names["similarity"].shape == (1, 6)
    torch.testing.assert_close(names["same"], names["speech"][:1], rtol=0, atol=1e-6)
    assert sorted(hub.files) == FILES
    (card,) = blocks(place / "exported/erc/README.md")
    os.chdir("exported")
    shutil.copy("../clip.wav", "clip.wav")
    exec(compile(card, "README.md", "exec"), names)
    assert names["speech"].shape == (1, 512)
    assert open_run(place / "runs/erc").seeds == [0]
