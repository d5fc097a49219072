"""The demonstration: a corpus rendered by a speech synthesiser, carried the whole way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.experiments.demo.demo import run_demo as run_demo


__all__ = ["run_demo"]


def __getattr__(name: str) -> Any:
    if name == "run_demo":
        from pipeline.experiments.demo.demo import run_demo

        return run_demo
    raise AttributeError(f"module 'pipeline.demo' has no attribute {name!r}")
