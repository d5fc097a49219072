"""Both tests of the paper for a RUN, seed by seed and pooled (F12, F13), and the figures of other work beside them.

evaluate-heads stores/msp runs/erc
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from cache.captions import Links
from cache.disk import translate_os_errors, writer_lock
from cache.pairs import CachedPairs, cached_pairs
from cache.stores import Stores
from pipeline.core.config import EvaluateConfig
from pipeline.core.config_files import load_config
from pipeline.core.errors import StoreCorrupt, UsageError
from pipeline.core.progress import Meter
from pipeline.core.resources import pick_device, threads_restored, use_threads
from pipeline.evaluation.alignment import alignment
from pipeline.evaluation.data_frames import EvaluationResult
from pipeline.evaluation.measures import FIELD_TESTS
from pipeline.evaluation.order_tests import Draws, OrderTests, Result
from pipeline.evaluation.pooling import MIN_SPEAKERS, VALUES_KEYS, figures_over_seeds, pooled
from pipeline.evaluation.readout import ReadOut
from pipeline.evaluation.retrieval import RetrievalTest
from pipeline.evaluation.speech_ordinality import SpeechOrdinalityTest
from pipeline.training.heads import Heads
from pipeline.training.run_folder import Run, open_run

log = logging.getLogger(__name__)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Entry(_Strict):
    mean: FiniteFloat
    std: FiniteFloat
    convention: str


class _SeedMeasure(_Entry):
    """One measure of one seed in evaluation.json."""

    values: list[FiniteFloat] = Field(min_length=1, validation_alias=AliasChoices(*set(VALUES_KEYS.values())))


class _Speakers(_Strict):
    n: int = Field(ge=MIN_SPEAKERS)
    left_out: int = Field(ge=0)
    draws: list[FiniteFloat] = Field(min_length=1)


class _Measure(_Entry):
    """One measure of all seeds."""

    seed_values: list[FiniteFloat] = Field(min_length=1)
    list_std: FiniteFloat
    speakers: _Speakers | None = None


class _Figure(_Entry):
    """One measure that each seed has one number of."""

    seed_values: list[FiniteFloat] = Field(min_length=1)


_Axes = Literal["aoc", "voc"]
_M = TypeVar("_M")  # a measure with its list
_F = TypeVar("_F")  # a figure


class _Measured(_Strict, Generic[_M, _F]):
    """Every test, of one seed or of all."""

    ordinality: dict[_Axes, _M] = Field(min_length=2)
    word_norms: dict[_Axes, _M] | None = Field(None, min_length=2)
    dominance: dict[Literal["doc"], _M] | None = Field(None, min_length=1)
    alignment: dict[str, _M | int]  # int: trials, pairs
    retrieval: dict[str, _F] = Field(min_length=1)
    readout: dict[str, _F]
    speech_ordinality: dict[str, _F]


class _Evaluation(_Measured[_Measure, _Figure]):
    """As much of evaluation.json as tables are made from."""

    method: str
    split: str
    utterances: int
    seeds: dict[str, _Measured[_SeedMeasure, FiniteFloat]] = Field(min_length=1)


def evaluate(
    run: Run | str | Path,
    *,
    stores: Stores | str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
) -> EvaluationResult:
    """Alignment and ordinality of every seed of `run` on its stores' test split; written to RUN/evaluation.json.

        evaluate("runs/erc", overrides=["trials=5"])["ordinality"]["aoc"]["mean"]    # Kendall's tau, -1 to 1

    The result holds `ordinality.{aoc,voc}`, the same as `word_norms` where the stores have prompts of rated words,
    `dominance.doc` where these words' dominance and that of the utterances is known, and `alignment` (each distance
    that `pipeline.evaluation.alignment` names), every measure as `pipeline.evaluation.pooling.over_seeds` has it:
    `mean` and `std` over seeds, `seed_values`, `list_std`, its `convention`, and of aoc, voc and doc `speakers`, an
    interval over resamples of the test speakers, where five or more are known. `FIELD_TESTS`, as far as the stores are
    labelled, have what `figures_over_seeds` makes of the measures that `pipeline.evaluation.retrieval`, `.readout` and
    `.speech_ordinality` name. `seeds` holds each seed's own, with every list and trial. The result is a dict; its
    `table()` is a pandas DataFrame. Raises UsageError, StoreMismatch when the stores' encoders are not those of the
    heads, StoreCorrupt for a corrupt run, StoreLocked while another process writes to it.
    """
    run = run if isinstance(run, Run) else open_run(run)
    config = load_config(EvaluateConfig, None, overrides, kind="evaluations")
    with translate_os_errors(run.folder), writer_lock(run.folder):
        opened, chosen = run.stores(stores), pick_device(device)
        split = split_of(opened, config.split)
        pairs = cached_pairs(opened, split, style=config.style, device=chosen)
        order = OrderTests(opened, pairs, config, chosen)
        alone = SpeechOrdinalityTest(pairs.labels.cpu().numpy(), config.seed)
        tests = _Tests(order, RetrievalTest(pairs), ReadOut(opened, split, chosen), alone)
        for note in pairs.notes + order.notes + tests.readout.notes + alone.notes:
            log.info(note)
        seeds: dict[str, Result] = {}
        draws: list[Draws] = []
        with Meter("evaluate", len(run.seeds) * config.trials, unit="trials") as meter, threads_restored():
            use_threads(1)  # trials run a core each
            for seed in run.seeds:
                heads = run.heads_for(opened, seed).to(chosen)
                seeds[str(seed)], drawn = _measure(heads, pairs, tests, config, trial_done=lambda: meter.advance(1))
                draws.append(drawn)
        result = {
            "run": str(run.folder),
            "stores": str(opened),
            "method": run.config.method,
            "settings": config.model_dump(mode="json"),
            "trained": run.about["seeds"],
            "split": split,
            "data": tested_data(opened, split, config.style),
            "utterances": len(pairs),
            **pooled(seeds, order.intervals(draws)),
            **{
                name: figures_over_seeds(getattr(tests, name), [found[name] for found in seeds.values()])
                for name in FIELD_TESTS
            },
            "seeds": seeds,
        }
        run.write_evaluation(result)
    return EvaluationResult(result)


class _Tests(NamedTuple):
    """What every seed is asked, alignment aside."""

    order: OrderTests
    retrieval: RetrievalTest
    readout: ReadOut
    speech_ordinality: SpeechOrdinalityTest


def _measure(
    heads: Heads, pairs: CachedPairs, tests: _Tests, config: EvaluateConfig, *, trial_done: Callable[[], None]
) -> tuple[Result, Draws]:
    """All tests of one seed's heads."""
    order = tests.order
    with torch.no_grad():
        speech, text = heads.embed_speech(pairs.speech).cpu(), heads.embed_text(pairs.text).cpu()
        prompts = {name: heads.embed_text(vectors).cpu() for name, vectors in order.vectors.items()}
    found, draws = order.measure({name: test.nearest(speech, prompts[name]) for name, test in order.tests.items()})
    links = Links(pairs.offsets.cpu().numpy(), pairs.caption.cpu().numpy())
    found["alignment"] = alignment(speech, text, links, config, trial_done)
    found["retrieval"] = tests.retrieval.measure(speech, text)
    found["readout"] = tests.readout.measure(heads.embed_speech)
    alone = tests.speech_ordinality
    found["speech_ordinality"] = alone.measure(speech[torch.from_numpy(alone.utterances)])
    return found, draws


def evaluated(run: Run, stores: Stores, *, overrides: Sequence[str] = ()) -> EvaluationResult | None:
    """What an earlier `evaluate` of the same heads, data and settings returned; None where there is no such result.

    Nor where the file is corrupt or of an earlier release, which is said.
    """
    config = load_config(EvaluateConfig, None, overrides, kind="evaluations")
    try:
        result = run.evaluation()
        if result is None:
            return None
        _Evaluation.model_validate(result)
    except StoreCorrupt as error:
        log.warning(f"{error.subject}: {error.found}; it is recomputed")
        return None
    except ValidationError:
        return None
    data = tested_data(stores, split_of(stores, config.split), config.style)
    now = config.model_dump(mode="json"), run.about["seeds"], str(stores), data
    same = tuple(result.get(name) for name in ("settings", "trained", "stores", "data")) == now
    return EvaluationResult(result) if same else None


def tested_data(stores: Stores, split: str, style: str) -> str:
    """Identifies what an evaluation is of: which utterances, their vectors' checksums and labels, captions, prompts.

    A fold's evaluation is of the same stores as every other's, and not of the same utterances. Of the training and the
    development split, on which the read-outs are fitted, it is the same.
    """
    manifest, captions, digest = stores.manifest, stores.captions, hashlib.blake2b(digest_size=16)
    dimensions = manifest.valence, manifest.arousal, manifest.dominance
    texts: list[str] = []
    for rows in map(manifest.rows, ("train", "dev", split)):
        for column in (np.arange(len(manifest)), stores.audio.column("crc"), *dimensions):
            digest.update(column[rows].tobytes())
        texts += [f"{manifest.speaker[row]}\t{manifest.emotion[row]}" for row in rows.tolist()]
    for caption in captions.captions.of_style(style):
        texts.append(caption.text)
        digest.update(caption.rows.tobytes())
    texts += captions.prompts.columns["text"]
    digest.update("\n".join(texts).encode(errors="surrogatepass"))
    return digest.hexdigest()


def split_of(stores: Stores, named: str | None) -> str:
    """The split that is named, else the test split. Raises UsageError where the stores do not have it."""
    splits = set(stores.manifest.split)
    for split in (named,) if named else ("test1", "test"):
        if split in splits:
            return split
    listed = ", ".join(sorted(splits))
    if named:
        raise UsageError(f"split {named}", "not in the stores", f"one of {listed}", "Name another.")
    raise UsageError(stores.folder, f"splits {listed}", "test1 or test", "Name one with split=NAME.")
