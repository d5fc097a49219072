"""Where the presets lie that come with the package. It imports no library, so that every --help can list them."""

from __future__ import annotations

from pathlib import Path

_PIPELINE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """`configs`: in a wheel inside `pipeline`, in a checkout beside it."""
    in_wheel = _PIPELINE / "configs"
    return in_wheel if in_wheel.is_dir() else _PIPELINE.parent / "configs"


def preset_names(kind: str) -> list[str]:
    """Names of the presets of `kind` (`corpora`, `methods`, `encoders`), sorted."""
    return sorted(path.stem for path in (configs_folder() / kind).glob("*.yaml"))
