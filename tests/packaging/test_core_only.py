"""Exported heads in an environment of their own, into which pip put the wheel and nothing but the core dependencies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline import EmotionRankCLAP, extract, train
from pipeline.core.config import TrainConfig
from tests.security.models import speech_model, text_model
from tests.speech import QUICK, write_corpus

ROOT = Path(__file__).resolve().parents[2]
SENTENCE = "The person is speaking with joy, a little out of breath."
EXTRAS = {"optuna", "ray", "openai", "matplotlib", "praat-parselmouth", "scikit-learn", "espeakng-loader"}

pytestmark = pytest.mark.bare


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Path]:
    """The Python of the new environment; gigabytes, so it goes when the test ends."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    try:
        venv.create(tmp_path / "venv", with_pip=True)
        python = tmp_path / "venv/bin/python"
        subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], check=True, capture_output=True)
        yield python
    finally:
        shutil.rmtree(tmp_path / "venv", ignore_errors=True)


def test_exported_heads_give_the_same_similarities_where_pip_installed_the_core_alone(
    bare: Path, tmp_path: Path
) -> None:
    corpus, audio, text = write_corpus(tmp_path / "c", 16), speech_model(tmp_path / "a"), text_model(tmp_path / "t")
    named = ["audio.encoder=transformers", f"audio.model={audio}"]
    named += ["text.encoder=transformers", f"text.model={text}", "text.max_tokens=32"]
    extract(corpus, out=tmp_path / "stores", overrides=[*QUICK, "captions.styles=[dimensional]", *named])
    config = TrainConfig(width=16, batch_size=4, epochs=2, threads=1, activation="identity")  # else many a 0
    run = train(tmp_path / "stores", method=config, out=tmp_path / "run")
    here = EmotionRankCLAP.from_pretrained(run.folder)
    here.save_pretrained(tmp_path / "exported")
    stored, clip = run.stores().speech("test"), tmp_path / "c/audio/u03.wav"
    np.save(tmp_path / "vectors.npy", stored)

    installed = _ended(bare, "-m", "pip", "list", "--format=json", cwd=tmp_path)
    assert not {package["name"].lower() for package in json.loads(installed)} & EXTRAS
    words = [tmp_path / "exported", audio, text, SENTENCE, clip, tmp_path / "vectors.npy"]
    script = shutil.copy(ROOT / "tests/inference/model_elsewhere.py", tmp_path)  # tests/cache would be imported
    heard, found = map(np.array, json.loads(_ended(bare, script, *words, cwd=tmp_path)))
    asked = here.encode_text(SENTENCE)
    for there, expected in ((heard, here.encode_speech(clip)), (found, stored)):
        away = np.abs(there - here.similarity(asked, expected).numpy())
        print(f"largest difference {away.max():.1e} of {away.size}")
        assert away.max() < 1e-6
        assert np.abs(there).min() > 0


def _ended(python: Path, *words: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
