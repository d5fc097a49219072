"""constraints.txt pins what pyproject.toml asks for, to versions that it allows."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINS = {
    canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES if line[0] != "#")
}
NOT_TRIED = {"umap-learn", "playwright"}  # of the extras umap and browser
APART = {"trackio"}  # asks for an older pillow than the others


def test_every_package_that_is_asked_for_is_pinned_to_a_version_that_is_allowed() -> None:
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        asked = Requirement(text)
        name = canonicalize_name(asked.name)
        if name not in NOT_TRIED | APART | {PROJECT["name"]}:
            assert asked.specifier.contains(PINS[name]), text


def test_no_pin_is_of_one_machines_cuda_and_none_names_a_path() -> None:
    assert not [name for name in PINS if name.startswith(("nvidia", "cuda", "triton"))]
    assert all(version and "/" not in version and "@" not in version for version in PINS.values())
