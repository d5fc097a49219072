"""Every method of the literature from one set of stores: trained, evaluated, and held against each other.

    compare-methods stores/msp --seeds 5 --out runs/comparison
    compare-methods stores/ravdess --training small_corpus --zero-shot stores/emodb
    compare-methods stores/whisper emotionrankclap supcon --encoders stores/wavlm --encoders stores/hubert

Each method is a RUN in `out`. Heads are chosen on the development split; no row of the test split is read before a
method's training has ended. Below the methods stand the bounds that their figures can be judged by.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.disk import translate_os_errors, write_text, writer_lock
from cache.stores import Stores, open_stores, refuse_other_utterances, stores_named
from pipeline.core.config import EvaluateConfig, TrainConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import UsageError
from pipeline.core.presets import preset_names
from pipeline.evaluation.comparison import comparison_tables, paper_tables
from pipeline.evaluation.data_frames import ComparisonResult
from pipeline.evaluation.evaluate import evaluate, evaluated, split_of
from pipeline.evaluation.measures import BOUNDS
from pipeline.evaluation.recognition import zero_shot
from pipeline.evaluation.references import reference_results
from pipeline.evaluation.tables import with_chance
from pipeline.training.run_folder import Run
from pipeline.training.train import missing_inputs, resolve_training, train

log = logging.getLogger(__name__)


def compare(
    stores: Stores | str | Path | Sequence[str | Path], *, out: str | Path, methods: Sequence[str] = (), seeds: int = 5,
    training: str | None = None, overrides: Sequence[str] = (), evaluation: Sequence[str] = (),
    encoders: Sequence[str | Path] = (), zero_shot_on: Sequence[str | Path] = (), device: str = "auto",
    fresh: bool = False, tensorboard: bool = False, conventions: bool = False,
) -> tuple[ComparisonResult, str]:  # fmt: skip
    """Train and evaluate `methods` (all that the stores can serve) and write their tables to `out`.

        summary, text = compare("stores/mine", methods=["emotionrankclap", "supcon"], out="runs/comparison")

    `stores` may be several folders of the same encoders, which are trained on and tested as one corpus. `overrides` are
    of the training, `evaluation` of the evaluation; `zero_shot_on` are stores of other corpora by the same encoders,
    `encoders` of the same utterances by others: a row is then METHOD@FOLDER, without a ceiling, which each encoder has
    its own of. Returns `tables` (docs/reports.md), `methods`, every result by name, and `references`, those of the
    bounds, a dict whose `table()` and `pairs()` are pandas DataFrames; and the tables as Markdown, with the conventions
    as footnotes where `conventions` is true. `out` gets comparison.{json,md,tex,csv}. Raises UsageError when a named
    method cannot be served or a corpus has no class prompts, StoreLocked while another process writes to `out`.
    """
    stores, out = stores_named(stores), Path(out)
    by_encoder = _by_encoder([stores, *map(open_stores, encoders)], zero_shot_on)
    others = [open_stores(folder) for folder in zero_shot_on]
    asked = load_config(EvaluateConfig, None, evaluation, kind="evaluations", option="-e")
    split = split_of(stores, asked.split)  # refused before anything trains
    configs = {each: served(of, methods, seeds, training, overrides) for each, of in by_encoder.items()}
    with translate_os_errors(out), writer_lock(out):
        results: dict[str, Any] = {}
        for encoder, of in by_encoder.items():
            for name, config in configs[encoder].items():
                row, folder = f"{name}@{encoder}" if encoder else name, out / encoder / name
                log.info(f"== {row}")
                run = train(of, method=config, out=folder, device=device, fresh=fresh, tensorboard=tensorboard)
                results[row] = _measured(run, of, others, evaluation, device)
        bounds = reference_results(stores, split=split, config=asked, device=device)
        if encoders:
            for name in ("ceiling", "voice"):  # of the first encoder alone
                bounds.pop(name, None)
        rows = with_chance({**results, **bounds})  # of other corpora as well
        references = {name: rows[name] for name in BOUNDS if name in rows}
        comparison = comparison_tables(rows)
        write_text(out / "comparison.md", f"{comparison.markdown()}\n{paper_tables().markdown()}")
        write_text(out / "comparison.tex", comparison.latex())
        write_text(out / "comparison.csv", comparison.csv())
        tables = comparison.as_json()
        summary = ComparisonResult(tables=tables, methods=results, references=references)
        write_text(out / "comparison.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return summary, comparison.markdown(conventions=conventions)


def _by_encoder(stores: Sequence[Stores], zero_shot_on: Sequence[object]) -> dict[str, Stores]:
    """The stores by the name of their folder, by "" where there is one. Raises UsageError for other utterances."""
    first = stores[0]
    if len(stores) == 1:
        return {"": first}
    if zero_shot_on:
        action = "Run compare-methods --zero-shot on each encoder's stores."
        raise UsageError("--encoders", "given with --zero-shot", "one of the two", action)
    for other in stores[1:]:
        refuse_other_utterances(first, other)
    named = {each.folder.resolve().name: each for each in stores}
    if len(named) < len(stores):
        expected = "another name for each, since it stands in the tables"
        raise UsageError("--encoders", "two folders have the same name", expected, "Rename a folder.")
    return named


def served(
    stores: Stores, methods: Sequence[str], seeds: int, training: str | None, overrides: Sequence[str]
) -> dict[str, TrainConfig]:
    """The configs of `methods`, or of every preset that the stores have captions and features for.

    A method file goes by its name. Raises UsageError when two have one name, or when a named method, or
    every one, lacks what it trains on.
    """
    asked = dict.fromkeys(methods or preset_names("methods"))
    configs = {
        Path(name).stem: resolve_training(name, training=training, seeds=seeds, overrides=overrides) for name in asked
    }
    if len(configs) < len(asked):
        raise UsageError(", ".join(asked), "two methods have the same name", "another name for each", "Rename a file.")
    for name in configs.keys() & set(BOUNDS):
        raise UsageError(name, "the name of a reference row", "another name", "Rename the method's file.")
    lacking = {name: lack for name, config in configs.items() if (lack := missing_inputs(stores, config))}
    if lacking and methods:
        name, lack = next(iter(lacking.items()))
        raise without_inputs(stores, name, configs[name], lack)
    for name, lack in lacking.items():
        log.warning(f"{name} is left out: the stores have no {lack}")
    if len(lacking) == len(configs):
        found, expected = "no captions or features that a method trains on", "those of at least one method"
        action = "Run extract-features on a corpus with valence and arousal, or with other captions.styles."
        raise UsageError(stores.folder, found, expected, action)
    return {name: config for name, config in configs.items() if name not in lacking}


def without_inputs(stores: Stores, name: str, config: TrainConfig, missing: str) -> UsageError:
    """The error that `stores` lack what method `name` trains on, which `missing_inputs` found."""
    has_style = config.style in stores.captions.styles()
    option = "them" if has_style else f"-o captions.styles=[{config.style},...]"
    action = f"Run extract-features with {option}, or leave {name} out."
    return UsageError(name, f"the stores have no {missing}", "what this method trains on", action)


def _measured(
    run: Run, stores: Stores, others: Sequence[Stores], overrides: Sequence[str], device: str
) -> dict[str, Any]:
    result = evaluated(run, stores, overrides=overrides) or evaluate(
        run, stores=stores, overrides=overrides, device=device
    )
    resampled = {"bootstrap": result["settings"]["bootstrap"], "draw_seed": result["settings"]["seed"]}
    if stores.captions.classes and any(stores.manifest.emotion):
        result["recognition"] = zero_shot(run, stores, split=result["split"], device=device, **resampled)
    result["zero_shot"] = [zero_shot(run, other, device=device, **resampled) for other in others]
    return result
