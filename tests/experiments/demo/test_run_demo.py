"""The demonstration, small: every stage leaves what it promises."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from pipeline.experiments.demo import demo
from pipeline.experiments.demo.demo import run_demo
from tests.speech import QUICK


@pytest.mark.parametrize("overrides", [QUICK, pytest.param((), marks=pytest.mark.slow, id="every sentence")])
def test_the_demo_goes_the_whole_way_and_says_where_everything_lies(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "extract", partial(demo.extract, overrides=overrides))  # 3,000 sentences take long
    result, text = run_demo(tmp_path, seeds=1, utterances=120)
    for place in ("corpus/manifest.csv", "stores/audio.h5", "run/heads.safetensors", "run/evaluation.json"):
        assert (tmp_path / place).is_file()
        assert str((tmp_path / place).parent) in text
    assert (tmp_path / "embeddings.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["ordinality"] == result["ordinality"]
    assert len(result["search"]) == 3
    assert all(Path(hit["audio"]).is_file() for hits in result["search"].values() for hit in hits)
    assert "not evidence about human emotion" in text
    run_demo(tmp_path, seeds=1, utterances=120)  # again: everything is there already
