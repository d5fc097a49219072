"""Both tests of the paper for a RUN, seed by seed and pooled (F12, F13).

evaluate-heads stores/msp runs/erc
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat

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
from pipeline.evaluation.significance import mean_and_std
from pipeline.training.heads import Heads
from pipeline.training.run_folder import Run, open_run

log = logging.getLogger(__name__)

VALUES_KEYS = {"ordinality": "taus", "alignment": "values"}  # of each measure's list, one value a list or trial


class _Measure(BaseModel):
    """One measure of evaluation.json: of a seed, or of all."""

    model_config = ConfigDict(strict=True)
    mean: FiniteFloat
    std: FiniteFloat
    seed_std: FiniteFloat = 0.0
    convention: str
    values: list[FiniteFloat] = Field(min_length=1, validation_alias=AliasChoices(*VALUES_KEYS.values()))


class _Tests(BaseModel):
    model_config = ConfigDict(strict=True)
    ordinality: dict[Literal["aoc", "voc"], _Measure] = Field(min_length=2)
    alignment: dict[str, _Measure | int]  # int: trials, pairs


class _Evaluation(_Tests):
    """As much of evaluation.json as tables are made from."""

    method: str
    split: str
    utterances: int
    seeds: dict[str, _Tests] = Field(min_length=1)


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
    StoreCorrupt for a corrupt run, StoreLocked while another process writes to it.
    """
    run = run if isinstance(run, Run) else open_run(run)
    config = load_config(EvaluateConfig, None, overrides, kind="evaluations")
    with translate_os_errors(run.folder), writer_lock(run.folder):
        opened, chosen = run.stores(stores), pick_device(device)
        split = split_of(opened, config.split)
        pairs = cached_pairs(opened, split, style=config.style, device=chosen)
        for note in pairs.notes:
            log.info(note)
        prompts = ordinality_prompts(opened, config.style, chosen)
        seeds = {}
        with Meter("evaluate", len(run.seeds) * config.trials, unit="trials") as meter, threads_restored():
            use_threads(1)  # trials run a core each
            for seed in run.seeds:
                heads = run.heads_for(opened, seed).to(chosen)
                seeds[str(seed)] = _evaluate_heads(heads, pairs, prompts, config, trial_done=lambda: meter.advance(1))
        result = {
            "run": str(run.folder),
            "stores": str(opened.folder),
            "method": run.config.method,
            "settings": config.model_dump(mode="json"),
            "trained": run.about["seeds"],
            "split": split,
            "utterances": len(pairs),
            **_pooled(seeds),
            "seeds": seeds,
        }
        write_text(run.folder / "evaluation.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _evaluate_heads(
    heads: Heads,
    pairs: CachedPairs,
    prompts: tuple[list[Prompt], torch.Tensor],
    config: EvaluateConfig,
    *,
    trial_done: Callable[[], None],
) -> dict[str, Any]:
    """Both tests of one seed's heads; `prompts` with their (P, Dt) encoder vectors."""
    with torch.no_grad():
        speech, text = heads.embed_speech(pairs.speech).cpu(), heads.embed_text(pairs.text).cpu()
        prompt_vectors = heads.embed_text(prompts[1]).cpu()
    links = Links(pairs.offsets.cpu().numpy(), pairs.caption.cpu().numpy())
    labels = pairs.labels[:, :2].cpu().numpy()
    return {
        "ordinality": ordinality(speech, labels, prompts=prompts[0], vectors=prompt_vectors, lists=config.lists),
        "alignment": alignment(speech, text, links, config, lambda _done, _total: trial_done()),
    }


def _pooled(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Both tests of all seeds together: mean and std of each measure over every list (or trial) of every seed."""
    tests: dict[str, dict[str, Any]] = {}
    for test, values_key in VALUES_KEYS.items():
        of_seeds = [seed[test] for seed in seeds.values()]
        tests[test] = {}
        for name, first in of_seeds[0].items():
            if not isinstance(first, Mapping):
                tests[test][name] = first
                continue
            values = np.concatenate([measures[name][values_key] for measures in of_seeds])
            tests[test][name] = {
                **mean_and_std(values),
                "seed_std": mean_and_std([measures[name]["mean"] for measures in of_seeds])["std"],
                values_key: values.tolist(),
                "convention": first["convention"] + (f"; {len(seeds)} seeds pooled" if len(seeds) > 1 else ""),
            }
    return tests


def evaluated(run: Run, stores: Stores, *, overrides: Sequence[str] = ()) -> dict[str, Any] | None:
    """What an earlier `evaluate` of the same heads, stores and settings returned; None where there is no such result.

    Nor where the file is corrupt: the figures of all seeds must follow from each seed's own.
    """
    config = load_config(EvaluateConfig, None, overrides, kind="evaluations")
    path = run.folder / "evaluation.json"
    try:
        if not path.is_file():
            return None
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _Evaluation.model_validate(result)
        earlier = result["settings"], result["trained"], result["stores"]
        if any(result[test] != pooled for test, pooled in _pooled(result["seeds"]).items()):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return result if earlier == (config.model_dump(mode="json"), run.about["seeds"], str(stores.folder)) else None


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
    """The split that is named, else the test split. Raises UsageError where the stores do not have it."""
    splits = set(stores.manifest.split)
    for split in (named,) if named else ("test1", "test"):
        if split in splits:
            return split
    listed = ", ".join(sorted(splits))
    if named:
        raise UsageError(f"split {named}", "not in the stores", f"one of {listed}", "Name another.")
    raise UsageError(stores.folder, f"splits {listed}", "test1 or test", "Name one with -o split=...")
