"""A wheel works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from pipeline.commands.completion import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_carries_the_packages_the_presets_and_the_commands(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        "import cache, pipeline, sys\n"
        "from pipeline.core.config import ExtractConfig\n"
        "from pipeline.core.config_files import load_config\n"
        "from pipeline.core.presets import preset_names\n"
        "assert pipeline.__file__.startswith(sys.argv[1]), pipeline.__file__\n"
        "print(load_config(ExtractConfig, 'msp_podcast', kind='corpora').audio.encoder, *preset_names('training'))"
    )
    site = str(tmp_path / "site")
    environment = os.environ | {"PYTHONPATH": site}
    ended = subprocess.run(
        [sys.executable, "-c", program, site], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["wavlm_ser", "fast", "paper", "small_corpus"]
    [points] = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    for command in COMMANDS:
        assert f"{command} = pipeline.commands.{command.replace('-', '_')}:main" in points.read_text()
    offers = [sys.executable, "-m", "pipeline.commands.completion", "bash"]
    script = subprocess.run(offers, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert script.count("complete -o nosort") == 2 * len(COMMANDS)  # click's own and ours around it
    for package in ("cache", "pipeline"):
        assert (tmp_path / "site" / package / "py.typed").is_file()  # editors and mypy read its types
    page = tmp_path / "site/pipeline/inference/web"
    assert {path.suffix for path in page.iterdir()} == {".py", ".html", ".css", ".js"}
    assert (page.parent / "model_card.md.j2").is_file()
    report = tmp_path / "site/pipeline/evaluation/report"
    assert {path.suffix for path in report.iterdir()} == {".py", ".j2", ".css", ".js"}
    assert not list((tmp_path / "site").glob("tests*"))
