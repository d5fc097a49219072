"""Ordinality by rated words: against a plain loop, and where the answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from cache.captions import Prompt
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.data.captions.word_norms import word_lists
from pipeline.evaluation.ordinality import ordinality
from tests.data.captions.test_word_norms import made_up, norms_file, prompts_of
from tests.planted import plant


def unit(values: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float32), dim=1)


def planted(
    seed: int = 0, count: int = 90, noise: float = 0.5
) -> tuple[torch.Tensor, np.ndarray, list[Prompt], torch.Tensor]:
    draw = np.random.default_rng(seed)
    labels = np.round(draw.uniform(1, 7, (count, 2)) * 5) / 5
    prompts = prompts_of(1 + 0.75 * (made_up(120)[1] - 1), sentences=2)
    asked = np.array([prompt[2:4] for prompt in prompts])
    lift = draw.normal(0, 1, (2, 16))
    speech, vectors = ((points - 4) @ lift for points in (labels, asked))
    return unit(speech + draw.normal(0, noise, speech.shape)), labels, prompts, unit(vectors)


def by_hand(
    speech: torch.Tensor, labels: np.ndarray, prompts: list[Prompt], vectors: torch.Tensor, axis: str, lists: int
) -> list[float]:
    found = []
    for rows in word_lists(prompts, axis, lists):
        column, left, asked, retrieved = ("valence", "arousal").index(axis), list(range(len(labels))), [], []
        for row in rows:
            best = max(left, key=lambda i: float(speech[i] @ vectors[row]))
            left.remove(best)
            asked.append(prompts[row][2 + column])
            retrieved.append(labels[best, column])
        found.append(kendalltau(asked, retrieved).statistic)
    return found


def test_taus_are_those_of_a_plain_loop() -> None:
    speech, labels, prompts, vectors = planted()
    result = ordinality(speech, labels, prompts=prompts, vectors=vectors, lists=30)
    for name, axis in (("aoc", "arousal"), ("voc", "valence")):
        taus = by_hand(speech, labels, prompts, vectors, axis, 30)
        assert result[name]["taus"] == pytest.approx(taus)
        assert result[name]["mean"] == pytest.approx(np.mean(taus))
        assert result[name]["std"] == pytest.approx(np.std(taus, ddof=1))
        assert result[name]["undefined"] == 0
        assert axis in result[name]["convention"]


def test_heads_that_know_the_plane_find_its_order_and_random_ones_do_not() -> None:
    speech, labels, prompts, vectors = planted(noise=0.1, count=400)
    good = ordinality(speech, labels, prompts=prompts, vectors=vectors)
    assert min(good[name]["mean"] for name in ("aoc", "voc")) > 0.5
    shuffled = labels[np.random.default_rng(1).permutation(len(labels))]
    chance = ordinality(speech, shuffled, prompts=prompts, vectors=vectors)
    assert max(abs(chance[name]["mean"]) for name in ("aoc", "voc")) < 0.15


def test_unlabelled_utterances_take_no_part_and_the_result_has_the_form_of_the_other_test() -> None:
    speech, labels, prompts, vectors = planted()
    whole = ordinality(speech, labels, prompts=prompts, vectors=vectors, lists=14)
    more = torch.cat([vectors[:5], speech])  # the prompts' own vectors would be the nearest
    blank = np.concatenate([np.full((5, 2), np.nan), labels])
    assert ordinality(more, blank, prompts=prompts, vectors=vectors, lists=14) == whole
    points = np.array([(0.5 * v, 0.5 * a) for v in range(1, 15) for a in range(1, 15)])
    grid = [prompt._replace(style="dimensional") for prompt in prompts_of(points)]
    other = ordinality(
        speech, labels, prompts=grid, vectors=unit(np.random.default_rng(0).normal(size=(196, 16))), lists=14
    )
    assert {name: set(test) for name, test in whole.items()} == {name: set(test) for name, test in other.items()}


def test_words_on_the_grid_give_the_paper_s_test() -> None:
    speech, labels, _, _ = planted()
    points = np.array([(0.5 * v, 0.5 * a) for v in range(1, 15) for a in range(1, 15)])
    grid, vectors = prompts_of(points), unit(np.random.default_rng(0).normal(size=(196, 16)))
    ours = ordinality(speech, labels, prompts=grid, vectors=vectors, lists=14)
    grammar = [prompt._replace(style="dimensional") for prompt in grid]
    paper = ordinality(speech, labels, prompts=grammar, vectors=vectors, lists=14)
    for name in ("aoc", "voc"):
        assert ours[name]["taus"] == paper[name]["taus"]
        assert "as people rated them" in ours[name]["convention"]
        assert "as people rated them" not in paper[name]["convention"]


def test_one_value_retrieved_counts_as_zero_and_is_counted() -> None:
    speech, labels, prompts, vectors = planted()
    labels[:, 0] = 4
    result = ordinality(speech, labels, prompts=prompts, vectors=vectors, lists=14)
    assert result["voc"]["undefined"] == 14
    assert result["voc"]["taus"] == [0.0] * 14
    assert result["aoc"]["undefined"] == 0


def test_few_utterances_and_vectors_that_are_not_finite_are_refused() -> None:
    speech, labels, prompts, vectors = planted()
    with pytest.raises(UsageError, match="13 utterances with valence and arousal"):
        ordinality(speech[:13], labels[:13], prompts=prompts, vectors=vectors)
    with pytest.raises(EmotionRankError, match="not finite"):
        ordinality(speech, labels, prompts=prompts, vectors=vectors * float("nan"))


def test_planted_stores_with_rated_words_can_be_asked_by_them(tmp_path: Path) -> None:
    norms = norms_file(tmp_path, *made_up(60))
    stores = plant(tmp_path / "s", {"train": 600, "test": 200}, text_width=32, audio_width=32, word_norms=norms)
    prompts = list(stores.captions.prompts.of_style("word_norms"))
    row_of = {text: row for row, text in enumerate(stores.captions.texts())}
    rows = np.array([row_of[prompt.text] for prompt in prompts])
    grammar = list(stores.captions.prompts.of_style("dimensional"))
    known = np.array([row_of[prompt.text] for prompt in grammar])
    manifest = stores.manifest
    labels = np.c_[manifest.valence, manifest.arousal]

    def point_of(inputs: np.ndarray, targets: np.ndarray, asked: np.ndarray) -> torch.Tensor:
        """Least squares, then a vector whose cosine grows as points come near."""
        weights = np.linalg.lstsq(np.c_[inputs, np.ones(len(inputs))], targets - 4, rcond=None)[0]
        return unit(np.c_[np.c_[asked, np.ones(len(asked))] @ weights, np.full(len(asked), 3)])

    speech = point_of(stores.speech("train"), labels[:600], stores.speech("test"))
    points = np.array([prompt[2:4] for prompt in grammar])
    vectors = point_of(stores.text.read(known)[0], points, stores.text.read(rows)[0])
    result = ordinality(speech, labels[600:], prompts=prompts, vectors=vectors, lists=28)
    assert min(result[name]["mean"] for name in ("aoc", "voc")) > 0.3
