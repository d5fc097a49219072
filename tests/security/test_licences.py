"""What `pip install emotionrankclap` brings is permissively licensed; GPL parts are extras, and said to be."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
GPL = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)  # the lesser one (LGPL) links freely
KNOWN_GPL = {"av", "espeakng-loader", "praat-parselmouth"}  # the first two carry FFmpeg with x264, and espeak-ng


def licence(found: Distribution) -> str:
    """What a package declares: its SPDX expression, else its classifiers, else the first line of its licence."""
    about = found.metadata
    classifiers = [line for line in about.get_all("Classifier", []) if line.startswith("License")]
    said = (about.get("License") or "").strip().partition("\n")[0]
    return about.get("License-Expression") or "; ".join([*classifiers, *([said] if said else [])])


def wanted(name: str, extra: str = "") -> set[str]:
    """The packages that `name` requires here, itself without extras, with all of theirs that are installed."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        try:
            lines = distribution(waiting.pop()).requires or []
        except PackageNotFoundError:
            continue
        for line in map(Requirement, lines):
            key = line.name.lower().replace("_", "-")
            if key not in found and (line.marker is None or line.marker.evaluate({"extra": extra})):
                found.add(key)
                waiting.append(key)
    return found


def test_no_core_dependency_is_gpl_not_even_one_of_anothers() -> None:
    core = wanted("emotionrankclap")
    assert core >= {"torch", "numpy", "h5py", "transformers", "tokenizers", "soundfile", "jinja2"}  # and theirs
    assert not core & KNOWN_GPL
    found = {name: licence(distribution(name)) for name in core}
    assert [name for name, said in found.items() if GPL.search(said)] == []
    assert [name for name, said in found.items() if not said] in (
        [],
        ["cuda-toolkit"],
    )  # a list of NVIDIA's packages


def test_a_gpl_licence_would_be_seen() -> None:
    assert GPL.search(licence(distribution("praat-parselmouth")))
    assert not GPL.search("LGPL-2.1-or-later")
    assert GPL.search("License :: OSI Approved :: GNU Affero General Public License v3")


@pytest.mark.parametrize("name", sorted(KNOWN_GPL))
def test_gpl_parts_are_marked_where_they_are_asked_for_and_where_security_is_written_down(name: str) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    comments = [line for line in project.splitlines() if line.startswith("#") and name in line]
    assert any("GPL-3.0" in line for line in comments)
    (row,) = [
        line for line in (ROOT / "docs/security.md").read_text(encoding="utf-8").splitlines() if f"| {name} " in line
    ]
    assert "**GPL" in row
