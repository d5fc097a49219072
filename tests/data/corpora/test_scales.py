"""Labels are read on the scale that was declared, or refused where they look like another: never moved in silence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.core.errors import ManyProblems
from pipeline.data.corpora import read_corpus

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "aud").mkdir()
    for number in range(200):
        (tmp_path / f"aud/u{number:03}.wav").touch()
    return tmp_path


def read(folder: Path, name: str, **config: object) -> Manifest:
    return read_corpus(CorpusConfig(manifest=folder / name, **config))


def write(folder: Path, valence: Sequence[object], arousal: Sequence[object] | None = None, name: str = "m.csv") -> str:
    rows = [
        {"id": f"u{i:03}", "audio": f"aud/u{i:03}.wav", "split": "train", "valence": v, "arousal": a}
        for i, (v, a) in enumerate(zip(valence, arousal if arousal is not None else valence, strict=True))
    ]
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    if name.endswith("jsonl"):
        lines = [json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return name


def refusal(folder: Path, name: str, **config: object) -> ManyProblems:
    with pytest.raises(ManyProblems) as caught:
        read(folder, name, **config)
    return caught.value


def test_likert_labels_without_a_scale_are_refused_with_the_line_to_add(folder: Path) -> None:
    text = (CASES / "likert5_undeclared.csv").read_text()
    (folder / "m.csv").write_text(text)
    given = [[float(cell) for cell in line.split(",")[4:6]] for line in text.split()[1:]]
    error = refusal(folder, "m.csv")
    (line,) = error.problems
    for name, column in zip(("valence", "arousal"), np.array(given).T, strict=True):
        assert f"{name} 1 to 5 (mean {np.mean(column):.3g}, std {np.std(column):.3g})" in line
    assert "-o corpus.scale=[1,5]" in error.action
    assert "-o corpus.scale=[1,7]" in error.action
    declared = read(folder, "m.csv", scale=(1, 5))
    np.testing.assert_allclose(declared.valence, [1 + 1.5 * (v - 1) for v, _ in given])
    assert read(folder, "m.csv", scale=(1, 7)).valence.tolist() == [v for v, _ in given]


def rated(low: float, high: float, *, decimals: int = 1) -> list[float]:
    """Labels of a corpus: most in the middle, few near the ends."""
    draw = np.random.default_rng(3)
    values = low + (high - low) * draw.beta(2, 2, 198)
    return [low + 0.05 * (high - low), high - 0.05 * (high - low), *np.round(values, decimals).tolist()]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
@pytest.mark.parametrize("scale", [(1, 5), (1, 9), (0, 10), (0, 100), (-3, 3), (-1, 1), (0, 1)])
def test_labels_that_fill_another_scale_are_refused_and_its_line_reads_them(
    scale: tuple[int, int], name: str, folder: Path
) -> None:
    labels = rated(*scale, decimals=2)
    write(folder, labels, name=name)
    error = refusal(folder, name)
    assert len(error.problems) == 1
    assert f"-o corpus.scale=[{scale[0]},{scale[1]}]" in error.action
    expected = 1 + 6 * (np.array(labels) - scale[0]) / (scale[1] - scale[0])
    np.testing.assert_allclose(read(folder, name, scale=scale).valence, expected)


@pytest.mark.parametrize(
    "labels",
    [
        rated(1, 7),
        [1.9, 2.2, 4.0, 5.9, 3.2, 2.1],  # EmoDB's nominal valences
        [2.0, 2.5, 3.0, 4.4, 3.8],  # within 1-5, and not near its ends
        [4.0, 4.0, 4.0],
        [1.0, 7.0],
    ],
)
def test_labels_on_1_to_7_are_read_as_they_are(labels: list[float], folder: Path) -> None:
    assert read(folder, write(folder, labels)).valence.tolist() == labels


def test_a_slip_of_the_pen_is_that_and_not_another_scale(folder: Path) -> None:
    labels: list[object] = [*rated(1, 7)[:100]]
    labels[7] = 55
    error = refusal(folder, write(folder, labels, labels))
    assert [line.split(": ", 1)[1] for line in error.problems] == [
        "valence '55': off the scale; expected 1 to 7, or nothing",
        "arousal '55': off the scale; expected 1 to 7, or nothing",
    ]
    labels[7] = 9  # a 1-9 scale by its ends, a slip by its number
    assert "arousal '9': off the scale" in refusal(folder, write(folder, [4.0] * 100, labels)).problems[0]


def test_every_run_says_what_the_labels_are_and_how_they_are_read(folder: Path) -> None:
    labels = rated(1, 7)
    notes = read(folder, write(folder, labels)).notes
    moments = f"mean {np.mean(labels):.3g}, std {np.std(labels):.3g}"
    summary = f"valence: 200 labels from {min(labels):.3g} to {max(labels):.3g} ({moments})"
    assert f"{summary}; scale 1-7 is assumed (set corpus.scale if it is another)" in notes
    notes = read(folder, "m.csv", scale=(0, 10)).notes
    assert f"{summary}; scale 0-10, mapped to 1-7" in notes
    assert f"{summary}; scale 1-7" in read(folder, "m.csv", scale=(1, 7)).notes


def test_labels_that_stay_below_5_are_pointed_out(folder: Path) -> None:
    notes = read(folder, write(folder, [2.0, 3.0, 4.4])).notes
    warning = "no valence and no arousal is above 5: if it was rated on 1-5, add -o corpus.scale=[1,5]"
    assert f"WARNING: {warning}" in notes
    assert not [note for note in read(folder, "m.csv", scale=(1, 7)).notes if "WARNING" in note]


def test_each_label_may_have_a_scale_of_its_own(folder: Path) -> None:
    write(folder, [1, 2, 3, 4, 5] * 2, [1, 3, 5, 7, 9] * 2)
    error = refusal(folder, "m.csv")
    assert "-o corpus.scale='{valence: [1,5], arousal: [1,9]}'" in error.action
    manifest = read(folder, "m.csv", scale={"valence": (1, 5), "arousal": (1, 9)})
    assert manifest.valence.tolist() == manifest.arousal.tolist() == [1, 2.5, 4, 5.5, 7] * 2
    assert (
        "valence 1 to 5" in refusal(folder, write(folder, [1, 3, 5], [1, 5, 9]), scale={"arousal": (1, 9)}).problems[0]
    )


def test_a_scale_of_each_label_comes_from_the_command_line(folder: Path) -> None:
    from pipeline.core.config import ExtractConfig
    from pipeline.core.config_files import load_config

    overrides = ["corpus.scale.valence=[1,5]", "corpus.scale.arousal=[-3,3]"]
    config = load_config(ExtractConfig, str(folder / "m.csv"), overrides, kind="corpora")
    assert config.corpus.scale == {"valence": (1, 5), "arousal": (-3, 3)}


def test_other_problems_come_with_the_scale(folder: Path) -> None:
    name = write(folder, [0, 50, 100, "high"], [10, 90, 30, 40])
    error = refusal(folder, name)
    assert [line.split(": ")[1].split(" ")[0] for line in error.problems] == ["valence", "valence"]
    assert "look like labels on 0-100" in error.problems[0]
    assert "valence 'high': not a number" in error.problems[1]


@pytest.mark.parametrize("corpus", ["ravdess", "emodb"])
def test_nominal_labels_of_acted_corpora_are_no_likert_labels(corpus: str, folder: Path) -> None:
    """A manifest with the circumplex' points, as those that people made of these corpora."""
    from pipeline.core.config_files import word_list

    points = [point for emotion, point in word_list("labels/circumplex")["emotions"].items()]
    valence, arousal = zip(*points, strict=True)
    assert read(folder, write(folder, valence, arousal)).arousal.tolist() == list(arousal)
