"""Both tests of the paper for a RUN, seed by seed and pooled (F12, F13).

evaluate-heads stores/msp runs/erc
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from cache.captions import Links, Prompt
from cache.disk import translate_os_errors, write_text, writer_lock
from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.core.config import EvaluateConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import UsageError
from pipeline.core.progress import Meter
from pipeline.core.resources import pick_device, threads_restored, use_threads
from pipeline.evaluation.alignment import alignment
from pipeline.evaluation.ordinality import ordinality
from pipeline.training.heads import Heads
from pipeline.training.run_folder import Run, open_run

log = logging.getLogger(__name__)

_VALUES = {"ordinality": "taus", "alignment": "values"}
_Values = Annotated[list[FiniteFloat], Field(min_length=1)]


class _Figure(BaseModel):
    """One figure of evaluation.json: of a seed, or of all."""

    model_config = ConfigDict(strict=True)
    mean: FiniteFloat
    std: FiniteFloat
    seed_std: FiniteFloat = 0.0
    convention: str


class _Taus(_Figure):
    taus: _Values


class _Distances(_Figure):
    values: _Values


class _Ordinality(BaseModel):
    aoc: _Taus
    voc: _Taus


class _Alignment(BaseModel):
    mmd: _Distances
    wasserstein: _Distances
    sliced_wasserstein: _Distances


class _Tests(BaseModel):
    ordinality: _Ordinality
    alignment: _Alignment


class _Evaluation(_Tests):
    """As much of evaluation.json as tables are made from."""

    model_config = ConfigDict(strict=True)
    method: str
    split: str
    utterances: int
    seeds: Annotated[dict[str, _Tests], Field(min_length=1)]


def evaluate(
    run: Run | str | Path,
    *,
    stores: Stores | str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
) -> dict[str, Any]:
    """Alignment and ordinality of every seed of `run` on its stores' test split; written to RUN/evaluation.json.

        evaluate("runs/erc", overrides=["trials=5"])["ordinality"]["aoc"]["mean"]    # Kendall's tau, -1 to 1

    The result holds `ordinality.{aoc,voc}` and `alignment.{mmd,wasserstein,sliced_wasserstein}`, each with `mean` and
    `std` over the lists or trials of all seeds, `seed_std` over the seeds' means, and its `convention`; `seeds` holds
    the same for each seed. Raises UsageError, StoreMismatch when the stores' encoders are not those of the heads,
    StoreCorrupt for a damaged run, StoreLocked while another process writes to it.
    """
    run = run if isinstance(run, Run) else open_run(run)
    with translate_os_errors(run.folder), writer_lock(run.folder):
        return _evaluate(run, stores, overrides, device)


def _evaluate(run: Run, stores: Stores | str | Path | None, overrides: Sequence[str], device: str) -> dict[str, Any]:
    config = load_config(EvaluateConfig, None, overrides, kind="evaluations")
    opened = run.stores(stores)
    chosen = pick_device(device)
    split = split_of(opened, config.split)
    style = config.style
    pairs = cached_pairs(opened, split, style=style, device=chosen)
    for note in pairs.notes:
        log.info(note)
    prompts, vectors = ordinality_prompts(opened, style, chosen)
    with Meter("evaluate", len(run.seeds) * config.trials, unit="trials") as meter, threads_restored():
        use_threads(1)  # trials run a core each
        seeds = {
            str(seed): _one(run.heads_for(opened, seed).to(chosen), pairs, prompts, vectors, config, meter)
            for seed in run.seeds
        }
    result = {
        "run": str(run.folder),
        "stores": str(opened.folder),
        "method": run.config.method,
        "settings": config.model_dump(mode="json"),
        "trained": run.about["seeds"],
        "split": split,
        "utterances": len(pairs),
        **{test: _pooled([entry[test] for entry in seeds.values()], _VALUES[test]) for test in _VALUES},
        "seeds": seeds,
    }
    write_text(run.folder / "evaluation.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def evaluated(run: Run, stores: Stores, *, overrides: Sequence[str] = ()) -> dict[str, Any] | None:
    """What an earlier `evaluate` of the same heads, stores and settings found; None where there is nothing such.

    What is damaged is nothing such: the figures of all seeds must come out of each seed's own.
    """
    config = load_config(EvaluateConfig, None, overrides, kind="evaluations")
    path = run.folder / "evaluation.json"
    try:
        if not path.is_file():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        then = found["settings"], found["trained"], found["stores"]
        _Evaluation.model_validate(found)
        if any(
            found[test] != _pooled([seed[test] for seed in found["seeds"].values()], _VALUES[test]) for test in _VALUES
        ):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    now = config.model_dump(mode="json"), run.about["seeds"], str(stores.folder)
    return found if then == now else None


def _one(
    heads: Heads, pairs: CachedPairs, prompts: list[Prompt], vectors: torch.Tensor, config: EvaluateConfig, meter: Meter
) -> dict[str, Any]:
    with torch.no_grad():
        speech, text = heads.embed_speech(pairs.speech).cpu(), heads.embed_text(pairs.text).cpu()
        asked = heads.embed_text(vectors).cpu()
    links = Links(pairs.offsets.cpu().numpy(), pairs.caption.cpu().numpy())
    labels = pairs.labels[:, :2].cpu().numpy()
    return {
        "ordinality": ordinality(speech, labels, prompts=prompts, vectors=asked, lists=config.lists),
        "alignment": alignment(speech, text, links, config, lambda _done, _of: meter.advance(1)),
    }


def _pooled(seeds: Sequence[Mapping[str, Any]], values: str) -> dict[str, Any]:
    """Mean and std over the lists (or trials) of all seeds together, for each figure of one test."""
    pooled: dict[str, Any] = {}
    for name, first in seeds[0].items():
        if not isinstance(first, Mapping):
            pooled[name] = first
            continue
        every = np.concatenate([seed[name][values] for seed in seeds])
        means = [seed[name]["mean"] for seed in seeds]
        pooled[name] = {
            "mean": float(every.mean()),
            "std": float(every.std(ddof=1)) if len(every) > 1 else 0.0,
            "seed_std": float(np.std(means, ddof=1)) if len(means) > 1 else 0.0,
            values: every.tolist(),
            "convention": first["convention"] + (f"; {len(seeds)} seeds pooled" if len(seeds) > 1 else ""),
        }
    return pooled


def ordinality_prompts(stores: Stores, style: str, device: torch.device) -> tuple[list[Prompt], torch.Tensor]:
    """The prompts of `style` and their (P, Dt) vectors."""
    prompts = [prompt for prompt in stores.captions.prompts if prompt.style == style]
    row_of = {text: row for row, text in enumerate(stores.captions.texts())}
    vectors, done = stores.text.read(np.array([row_of[prompt.text] for prompt in prompts], dtype=np.int64))
    if not prompts or not done.all():
        found = f"{int((~done).sum())} prompts not encoded" if prompts else f"no prompts of style {style}"
        raise UsageError(stores.folder, found, "all of them", "Run extract-features again.")
    return prompts, torch.tensor(vectors, dtype=torch.float32, device=device)


def split_of(stores: Stores, named: str | None) -> str:
    """The split that is named, else the test split. Raises UsageError where the stores have none such."""
    present = set(stores.manifest.split)
    for split in (named,) if named else ("test1", "test"):
        if split in present:
            return split
    if named:
        raise UsageError(f"split {named}", "not in the stores", f"one of {', '.join(sorted(present))}", "Name another.")
    raise UsageError(
        stores.folder, f"splits {', '.join(sorted(present))}", "test1 or test", "Name one with -o split=..."
    )
