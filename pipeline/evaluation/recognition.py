"""Zero-shot recognition (F29): which category's prompt lies nearest to an utterance?

    found = recognition(speech, emotions, prompts=prompts, vectors=vectors, classes=IEMOCAP_CLASSES)
    found.summary()["uar"]    # 0 to 1

WAR (weighted average recall) is the accuracy, UAR (unweighted) the mean of the classes' recalls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.captions import CLASS_TEMPLATE, ClassPrompt
from cache.stores import Stores
from pipeline.core.config import EvaluateConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.core.resources import pick_device
from pipeline.evaluation.pooling import over_seeds, over_speakers
from pipeline.evaluation.speakers import recognition_draws, resample_speakers
from pipeline.training.run_folder import Run, open_run

IEMOCAP_CLASSES = ("angry", "happy", "neutral", "sad")
IEMOCAP_MERGE = {"excited": "happy"}  # F26
FACTS = ("chance", "majority", "classes", "template", "n", "left_out", "convention")  # the same for every seed


@dataclass(frozen=True)
class Recognised:
    """What each utterance was recognised as."""

    rows: NDArray[np.int64]  # (m,) of the utterances that take part
    truth: NDArray[np.int64]  # (m,) numbers of `classes`
    predicted: NDArray[np.int64]  # (m,)
    classes: list[str]
    template: str
    merge: Mapping[str, str]
    left_out: int
    rule: str = "zero-shot: nearest of {count} prompts “{template}” by cosine"

    def summary(self) -> dict[str, Any]:
        """WAR, UAR and confusion.

        `{"war", "uar", "chance", "majority", "confusion", "per_class_recall", "classes", "template", "n", "left_out",
        "convention"}`: confusion[i][j] counts utterances of class i taken for class j; a class without utterances has
        no recall (None) and no part in UAR. chance is WAR and UAR of a blind guess, majority the WAR of always
        predicting the most frequent class.
        """
        confusion = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(confusion, (self.truth, self.predicted), 1)
        merged = "".join(f", {old} counted as {new}" for old, new in self.merge.items())
        rule = self.rule.format(count=len(self.classes), template=self.template.replace("{emotion}", "EMOTION"))
        convention = (
            f"{rule} ({', '.join(self.classes)}{merged}); WAR is accuracy, UAR the mean recall of the classes present"
        )
        return _summary(confusion, self.classes, self.template, left_out=self.left_out, convention=convention)


def recognition(
    speech: Tensor,
    emotions: Sequence[str],
    *,
    prompts: Sequence[ClassPrompt],
    vectors: Tensor,
    classes: Sequence[str] | None = None,
    template: str | None = None,
    merge: Mapping[str, str] | None = None,
) -> Recognised:
    """The nearest class prompt by cosine, utterance by utterance; `summary()` has WAR, UAR and confusion.

    Args:
        speech: (n, d) unit vectors.
        emotions: (n,) true categories; "" is none. Rows without one or outside the classes take no part (`left_out`).
        prompts: class prompts; those of one template and of `classes` compete.
        vectors: (P, d) unit vectors of `prompts`.
        classes: the choice; without it, the categories among `emotions`, in alphabetical order.
        template: of the prompts; without it, that of the first.
        merge: a category -> the one it counts as (`IEMOCAP_MERGE`). The prompts of the former take no part.

    Raises:
        UsageError: no utterance takes part, a class or the template has no prompt, lengths that differ.
        EmotionRankError: a vector is not finite.
    """
    if len(speech) != len(emotions) or len(vectors) != len(prompts):
        raise UsageError(
            "recognition",
            f"{len(speech)} speech vectors for {len(emotions)} emotions, {len(vectors)} prompt vectors for "
            f"{len(prompts)} prompts",
            "one each",
            "Pass the labels and prompts of these vectors.",
        )
    merge = merge or {}
    truth = [merge.get(emotion, emotion) for emotion in emotions]
    chosen = list(dict.fromkeys(merge.get(name, name) for name in classes or sorted(set(truth) - {""})))
    index = {name: i for i, name in enumerate(chosen)}
    rows = np.array([row for row, name in enumerate(truth) if name in index], dtype=np.int64)
    if not rows.size:
        raise UsageError(
            "recognition",
            f"no utterance of {', '.join(chosen) or 'any emotion'}",
            "at least one in the split",
            "Evaluate a split with emotion labels, or name other classes.",
        )
    if template is None:
        template = prompts[0].template if prompts else ""
    prompt_rows = _prompt_rows(prompts, chosen, template)
    chosen_vectors = vectors[torch.tensor(prompt_rows, device=vectors.device)]
    similarity = speech[torch.from_numpy(rows)] @ chosen_vectors.T  # (m, prompts)
    if not similarity.isfinite().all():
        raise EmotionRankError("recognition", "similarities not finite", "unit vectors", "Train the heads again.")
    predicted = np.array([index[prompts[row].emotion] for row in prompt_rows])[similarity.argmax(1).cpu().numpy()]
    true_classes = np.array([index[truth[row]] for row in rows])
    return Recognised(rows, true_classes, predicted, chosen, template, merge, left_out=len(truth) - len(rows))


def pooled_recognition(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of several folds (or seeds) as one: confusions are summed, so every utterance weighs the same.

    Takes and returns what `Recognised.summary` returns. Raises UsageError when classes or template are not the same.
    """
    settings = {(tuple(result["classes"]), result["template"], result["convention"]) for result in results}
    if len(settings) != 1:
        raise UsageError(
            "recognition",
            f"{len(settings)} different settings of classes, template and merging in {len(results)} results",
            "one",
            "Name the same classes for every fold.",
        )
    confusion = np.sum([result["confusion"] for result in results], axis=0)
    first = results[0]
    left_out = sum(result["left_out"] for result in results)
    convention = f"{first['convention']}; confusions of {len(results)} summed"
    return _summary(confusion, first["classes"], first["template"], left_out=left_out, convention=convention)


def blind_guess(recognised: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """WAR and UAR of a guess that every class is as likely to be, of the utterances that `recognised` is of.

    `std` is what one such guess of every utterance scatters by: of independent draws, sqrt(p (1 - p) / n) a class.
    """
    guess, confusion = recognised["chance"], np.asarray(recognised["confusion"])  # summed over seeds, or folds too
    counts = confusion.sum(1)[confusion.sum(1) > 0] * recognised["n"] / confusion.sum()
    variances = guess * (1 - guess) / counts  # of each class's recall
    shares = {"war": counts / counts.sum(), "uar": np.full(len(counts), 1 / len(counts))}
    convention = f"a blind guess among {len(recognised['classes'])} classes"
    return {
        name: {
            "mean": guess,
            "std": float(np.sqrt(np.square(share) @ variances)),
            "seed_values": [guess],
            "convention": convention,
        }
        for name, share in shares.items()
    }


def _prompt_rows(prompts: Sequence[ClassPrompt], classes: Sequence[str], template: str) -> list[int]:
    """The rows of `prompts` that are of `template` and of `classes`; UsageError where a class has none."""
    rows = [i for i, prompt in enumerate(prompts) if prompt.template == template and prompt.emotion in classes]
    missing = [name for name in classes if name not in {prompts[row].emotion for row in rows}]
    if missing:
        templates = ", ".join(map(repr, dict.fromkeys(prompt.template for prompt in prompts))) or "none"
        raise UsageError(
            "recognition",
            f"no prompt {template!r} for {', '.join(missing)} (templates: {templates})",
            "one for each class",
            "Run extract-features with captions.styles that hold template, or name other classes.",
        )
    return rows


def _summary(
    confusion: NDArray[np.int64], classes: Sequence[str], template: str, *, left_out: int, convention: str
) -> dict[str, Any]:
    per_class = confusion.sum(1)
    recall = np.diag(confusion) / np.maximum(per_class, 1)
    return {
        "war": float(np.trace(confusion) / confusion.sum()),
        "uar": float(recall[per_class > 0].mean()),
        "chance": 1 / len(classes),
        "majority": float(per_class.max() / confusion.sum()),
        "confusion": confusion.tolist(),
        "per_class_recall": {
            name: float(value) if count else None for name, value, count in zip(classes, recall, per_class, strict=True)
        },
        "classes": list(classes),
        "template": template,
        "n": int(confusion.sum()),
        "left_out": left_out,
        "convention": convention,
    }


def zero_shot(
    run: Run | str | Path,
    stores: Stores | str | Path | None = None,
    *,
    split: str | None = None,
    template: str = CLASS_TEMPLATE,
    classes: Sequence[str] | None = None,
    merge: Mapping[str, str] | None = None,
    bootstrap: int = EvaluateConfig().bootstrap,
    draw_seed: int = EvaluateConfig().seed,
    device: str = "auto",
) -> dict[str, Any]:
    """WAR, UAR and confusion of every seed of `run` on the utterances of `split` (of all, when none is named).

    `classes` and `merge` are those of `recognition`, e.g. IEMOCAP's four classes with excited counted as happy (F26).
    `bootstrap` resamples of the test speakers follow from `draw_seed`. `war` and `uar` are as
    `pipeline.evaluation.pooling.over_seeds` has them, with `speakers` where five or more are known; `confusion` is
    summed over seeds, `seeds` holds each seed's own. Raises StoreMismatch when the stores' encoders are not those of
    the heads, UsageError when there are no class prompts (extract-features with the style `template`) or no utterance
    has a category.
    """
    run = run if isinstance(run, Run) else open_run(run)
    opened = run.stores(stores)
    chosen = pick_device(device)
    prompts = opened.captions.classes
    vectors, encoded = opened.read_texts([prompt.text for prompt in prompts])
    if not prompts or not encoded.all():
        problem = "class prompts are not encoded" if prompts else "no class prompts"
        action = "Run extract-features with -o captions.styles=[template,...]."
        raise UsageError(opened.folder, problem, "those of the style template", action)
    manifest = opened.manifest
    rows = manifest.rows(split) if split else np.arange(len(manifest))
    stored, done = opened.audio.read(rows)
    kept = rows[done].tolist()
    emotions = [manifest.emotion[row] for row in kept]
    stored_speech = torch.tensor(stored[done], dtype=torch.float32, device=chosen)
    stored_text = torch.tensor(vectors, dtype=torch.float32, device=chosen)
    found: dict[str, Recognised] = {}
    for seed in run.seeds:
        heads = run.heads_for(opened, seed).to(chosen)
        with torch.no_grad():
            speech, text = heads.embed_speech(stored_speech).cpu(), heads.embed_text(stored_text).cpu()
        found[str(seed)] = recognition(
            speech, emotions, prompts=prompts, vectors=text, classes=classes, template=template, merge=merge
        )
    speakers = [manifest.speaker[row] for row in kept]
    return {
        "stores": str(opened),
        "split": split or "all",
        **recognition_over_seeds(found, speakers, bootstrap=bootstrap, draw_seed=draw_seed),
    }


def recognition_over_seeds(
    found: Mapping[str, Recognised], speakers: Sequence[str], *, bootstrap: int, draw_seed: int
) -> dict[str, Any]:
    """What `zero_shot` returns of `found`, one a seed, of utterances of `speakers` ("" where unknown)."""
    seeds = {seed: each.summary() for seed, each in found.items()}
    first, utterances = next(iter(seeds.values())), next(iter(found.values()))
    resamples = resample_speakers([speakers[row] for row in utterances.rows], draws=bootstrap, seed=draw_seed)
    result: dict[str, Any] = {}
    for name in ("war", "uar"):
        interval = None
        if resamples is not None:
            counts = len(utterances.classes)
            draws = [recognition_draws(each.truth, each.predicted, counts, resamples)[name] for each in found.values()]
            interval = over_speakers(np.mean(draws, axis=0), count=resamples.speakers, left_out=resamples.left_out)
        values = [summary[name] for summary in seeds.values()]
        result[name] = over_seeds(values, first["convention"], speakers=interval)
    return {
        **result,
        **{name: first[name] for name in FACTS},
        "confusion": np.sum([summary["confusion"] for summary in seeds.values()], axis=0).tolist(),
        "seeds": seeds,
    }
