"""The demonstration, small: every stage leaves what it promises."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.experiments.demo.demo import run_demo


def test_the_demo_goes_the_whole_way_and_says_where_everything_lies(tmp_path: Path) -> None:
    result, text = run_demo(tmp_path, seeds=1, utterances=120)
    for place in ("corpus/manifest.csv", "stores/audio.h5", "run/heads.safetensors", "run/evaluation.json"):
        assert (tmp_path / place).is_file()
        assert str((tmp_path / place).parent) in text
    assert (tmp_path / "embeddings.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["ordinality"] == result["ordinality"]
    assert len(result["search"]) == 3
    assert all(Path(hit["audio"]).is_file() for hits in result["search"].values() for hit in hits)
    assert "no evidence about human emotion" in text
    run_demo(tmp_path, seeds=1, utterances=120)  # again: everything is there already
