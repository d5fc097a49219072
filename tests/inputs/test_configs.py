"""Configs nobody meant: whatever a YAML file or an override holds, it is a config or one clear refusal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from pipeline.commands import extract_features, sweep_heads, train_heads
from pipeline.core.config import ExtractConfig, TrainConfig
from pipeline.core.config_files import dump, load_config
from pipeline.data.captions.llm.config import WriteConfig
from pipeline.experiments.sweeps.config import load_sweep
from pipeline.experiments.sweeps.space import Space
from tests.inputs.commands import as_nobody, command, contract
from tests.inputs.counts import cases, hold
from tests.inputs.mutations import CELLS, spoilt

EXTRACT = dump(ExtractConfig()).encode()
TRAIN = b"base: emotionrankclap\n" + dump(TrainConfig()).encode()
SWEEP = b"""method: emotionrankclap
sampler: random
trials: 4
repeats: 2
halving: {factor: 3, rungs: 2}
fixed:
  epochs: 3
  width: 32
space:
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
  batch_size: [32, 64]
  objective.symmetric: [true, false]
"""
WORDS = (
    b"emotionrankclap",
    b"supcon",
    b"base: [a.yaml]",
    b"base: a.yaml",
    b"base: 3",
    b"auto",
    b"soft_targets",
    b"1e308",
)


def loaded(path: Path, kind: str) -> object:
    if kind == "sweeps":
        return Space(load_sweep(path))
    return load_config(ExtractConfig if kind == "corpora" else TrainConfig, path, kind=kind)


@cases(40, 1200)
@pytest.mark.parametrize(("good", "kind"), [(EXTRACT, "corpora"), (TRAIN, "methods"), (SWEEP, "sweeps")])
def test_a_config_spoilt_anywhere_is_a_config_or_refused_by_line(
    good: bytes, kind: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("a.yaml")
    path.write_bytes(good)
    assert contract(lambda: loaded(path, kind), path).code == 0

    def holds(content: bytes) -> None:
        path.write_bytes(content)
        contract(lambda: loaded(path, kind), path, "a:", "sweep a:", "no such preset", "trials of a grid")

    hold(holds, spoilt(good, WORDS), count)


KEYS = (
    "corpus.scale",
    "corpus.merge.a",
    "captions.seed",
    "audio.max_seconds",
    "audio.model",
    "text",
    "a",
    "..",
    "é" * 99,
)
texts = st.one_of(st.sampled_from([cell.decode("utf-8", "surrogateescape") for cell in CELLS]), st.text(max_size=20))


@cases(60, 2500)
def test_an_override_of_any_text_is_taken_or_refused_by_name(count: int) -> None:
    def holds(pair: tuple[str, str]) -> None:
        key, value = pair
        contract(lambda: load_config(ExtractConfig, None, [f"{key}={value}"], kind="corpora"), "-o ", "the settings")

    hold(holds, st.tuples(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), texts), count)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"epochs: 3\nwidth: 4\nepochs: 5\n", "a.yaml:3: 'epochs' appears twice; expected"),
        (b"epochs: yes\n", "epochs = True: expected a number, not yes or no"),
        (b"seeds: [true]\n", "seeds.0 = True: expected a number"),
        (b"seeds: [-1]\n", "seeds.0 = -1: expected 0 or more"),
        (b"seeds: []\n", "seeds = []: "),
        (b"width: 10000000000000000000000\n", "width = 10000000000000000000000: "),
        (b"width: 0x" + b"F" * 20_000, "width = a number too long: "),
        (b"width: " + b"9" * 10_000, "a.yaml:1: not a valid int; expected"),
        (b"learning_rate: .inf\n", "learning_rate = inf: expected a finite number"),
        (b"style: !!bool maybe\n", "a.yaml:1: not a valid bool; expected"),
        (b"style: !!python/object/apply:os.getcwd []\n", "a.yaml:1: a value of tag 'tag:yaml.org,2002:python/"),
        (b"style: !!binary Zg==\n", "a.yaml:1: a value of tag"),
        (b"base: 3\n", "a.yaml: base = 3; expected a preset's name, or a list of them"),
        (b"base: a.yaml\n", "a.yaml: more than 8 files build on each other through base, perhaps in a circle;"),
        (b'"a\\nb": 3\n', "'a\\nb': no such setting"),
        (b'objective: {name: "x\\ny"}\n', "objective = {'name': 'x\\ny'}: "),
        (b"epochs: \xff\n", "a.yaml:1: not UTF-8; expected"),
        (b"epochs: " + b"[" * 100_000, "a.yaml:1: nested too deeply; expected"),
        (
            b"a: &a [1, 2]\nb: &b [*a, *a]\n" + b"c: [%s]\n" % b", ".join([b"*b"] * 5000),
            "values, aliases written out; exp",
        ),
        (b"epochs: 2001-02-03\n", "epochs = '2001-02-03': expected an integer"),
        (b"", "a.yaml: empty; expected a mapping of settings"),
        (b"x: y\n" * 300_000, "a.yaml: more than 1,048,576 bytes; expected a config"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_a_slip_in_a_config_is_said_with_its_place(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_bytes(content)
    outcome = contract(lambda: load_config(TrainConfig, "a.yaml", kind="methods"), "a.yaml")
    assert outcome.code == 2
    assert said in outcome.said


def test_aliases_and_merges_of_a_reasonable_size_are_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(
        b"audio: &a {max_seconds: 8}\ntext: {<<: &m {max_tokens: 64}, max_tokens: 32}\ncorpus: {keep: &k [b]}\n"
    )
    found = load_config(ExtractConfig, path, kind="corpora")
    assert (found.audio.max_seconds, found.text.max_tokens) == (8, 32)


def test_the_base_of_ones_own_file_is_a_preset_wherever_the_file_lies(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: supcon\nepochs: 3\n")
    found = load_config(TrainConfig, path, kind="methods")
    assert (found.method, found.epochs) == ("supcon", 3)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("epochs", "no `=`; expected NAME=VALUE"),
        ("=3", "an empty name; expected"),
        ("a..b=3", "an empty name; expected"),
        (".".join("a" * 60_000) + "=1", "60000 levels of names; expected at most 8"),
        ("a\nb=3", "'a\\nb': no such setting"),
        ("epochs=[" + "[" * 5_000, "nested too deeply"),
        ("epochs={a: 1, a: 2}", "'a' appears twice"),
        ("epochs=" + "9" * 10_000, "epochs = inf: expected a finite number"),
    ],
)
def test_a_slip_in_an_override_is_said(override: str, said: str) -> None:
    outcome = contract(lambda: load_config(TrainConfig, None, [override], kind="methods"), "-o ", "the settings")
    assert outcome.code == 2
    assert said in outcome.said


@pytest.mark.parametrize(
    "seed", ["captions.seed=-1", "captions.seed=9223372036854775808", "captions.quantiles=[0.2,1.5]"]
)
@pytest.mark.parametrize("model", [ExtractConfig, WriteConfig])
def test_numbers_that_a_library_would_choke_on_are_refused_at_the_door(model: type, seed: str) -> None:
    assert contract(lambda: load_config(model, None, [seed], kind="corpora"), seed.split("=")[0]).code == 2


ODD = {
    "a missing file": lambda path: None,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_is_no_file_is_refused_and_not_waited_for(make, stores: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.yaml", tmp_path / "out"
    make(path)
    for main, arguments in (
        (extract_features.main, [path]),
        (extract_features.main, [path, "--dry-run"]),
        (train_heads.main, [stores, path]),
        (sweep_heads.main, [stores, path]),
    ):
        assert command(main, [*arguments, "--out", out], path, out=out).code == 2


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(TRAIN)
    path.chmod(0)
    with as_nobody():
        assert contract(lambda: load_config(TrainConfig, path, kind="methods"), path).code == 2


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 300 + ".yaml", "a/../b", "nul\0.yaml", "\ud800.yaml", "", "a\nb", "é" * 50]
)
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    outcome = contract(lambda: load_config(TrainConfig, name, kind="methods"), name[:40] or "''", repr(name)[1:-1][:40])
    assert outcome.code == 2


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        (["-o", "epochs=yes"], "epochs"),
        (["-o", "epochs=0", "-o", "widht=3"], "widht"),
        (["-o", "style=acoustic"], "acoustic"),
        (["-o", "seeds=[-1]"], "seeds.0"),
        (["nothing_like_it"], "nothing_like_it"),
        (["--training", "nowhere"], "nowhere"),
    ],
)
def test_train_heads_refuses_before_it_writes(arguments: list[str], subject: str, stores: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "new", tmp_path / "old"):
        if out.name == "old":
            out.mkdir()
            (out / "mine.txt").write_text("mine")
        assert command(train_heads.main, [stores, *arguments, "--out", out], subject, out=out).code == 2


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        (["-o", "space=3"], "space"),
        (["-o", "space.epochs=[2001-01-01]"], "space.epochs"),
        (["-o", "space.epochs={low: 3, high: 2}"], "space.epochs"),
        (["-o", "fixed.epochs=never"], "epochs"),
        (["nothing_like_it"], "nothing_like_it"),
    ],
)
def test_sweep_heads_refuses_before_it_writes(arguments: list[str], subject: str, stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    assert command(sweep_heads.main, [stores, *arguments, "--out", out], subject, out=out).code == 2
