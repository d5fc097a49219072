"""A run is evaluated seed by seed and pooled; other encoders are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.manifest import write_manifest
from cache.pairs import cached_pairs
from cache.stores import open_stores
from pipeline.core.config import EvaluateConfig, TrainConfig
from pipeline.core.errors import StoreCorrupt, StoreMismatch, UsageError
from pipeline.evaluation.evaluate import evaluate, evaluated
from pipeline.evaluation.order_tests import OrderTests
from pipeline.evaluation.retrieval import RetrievalTest
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.data.captions.test_word_norms import made_up, norms_file
from tests.evaluation.oracles import reference_draws
from tests.planted import plant
from tests.stage_two import unlisted

QUICK = ["trials=3", "lists=28", "pairs=40", "projections=8"]
CONFIG = TrainConfig(width=32, batch_size=32, epochs=8, learning_rate=3e-3, threads=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("planted")
    stores = plant(
        folder / "stores", {"train": 600, "dev": 100, "test1": 200}, audio_width=24, text_width=16, noise=0.3
    )
    return train(stores, method=CONFIG, seeds=2, out=folder / "run")


def test_planted_order_is_found_and_a_broken_one_is_not(run: Run, tmp_path: Path) -> None:
    found = evaluate(run, overrides=QUICK)
    assert found["split"] == "test1"
    assert found["utterances"] == 200
    assert found["ordinality"]["aoc"]["mean"] > 0.4
    assert found["ordinality"]["voc"]["mean"] > 0.4
    shutil.copytree(run.about["stores"], tmp_path / "stores")
    manifest = open_stores(tmp_path / "stores").manifest
    shuffled = np.random.default_rng(0).permutation(len(manifest))
    labels = {"valence": manifest.valence[shuffled], "arousal": manifest.arousal[shuffled]}
    write_manifest(dataclasses.replace(manifest, **labels), tmp_path / "stores/manifest.csv")
    unlisted(tmp_path / "stores")
    broken = evaluate(run, stores=tmp_path / "stores", overrides=QUICK)
    assert abs(broken["ordinality"]["aoc"]["mean"]) < 0.2
    assert abs(broken["ordinality"]["voc"]["mean"]) < 0.2


def test_the_figures_of_all_seeds_follow_from_each_seeds_own(run: Run) -> None:
    found = evaluate(run, overrides=QUICK)
    assert run.evaluation() == found
    for test, values, names in (
        ("ordinality", "taus", ("aoc", "voc")),
        ("alignment", "values", ("mmd_median", "wasserstein_relative", "gap_rest", "mmd", "wasserstein")),
    ):
        for name in names:
            of_seeds = [seed[test][name] for seed in found["seeds"].values()]
            every = np.array([seed[values] for seed in of_seeds])  # (seeds, lists)
            pooled = found[test][name]
            assert set(pooled) == {"mean", "std", "seed_values", "list_std", "convention"}  # no speaker is known
            assert pooled["mean"] == pytest.approx(every.mean())
            assert pooled["seed_values"] == pytest.approx(every.mean(1))
            assert pooled["std"] == pytest.approx(every.mean(1).std(ddof=1))
            assert pooled["list_std"] == pytest.approx(every.std(1, ddof=1).mean())
            assert pooled["convention"] == of_seeds[0]["convention"]
    assert "word_norms" not in found  # the stores hold no such prompts


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on stores with nine test speakers, a tenth of the test utterances unknown, and rated words."""
    folder = tmp_path_factory.mktemp("spoken")
    norms = norms_file(folder, *made_up(60))
    splits = {"train": 600, "dev": 100, "test": 180}
    stores = plant(folder / "stores", splits, audio_width=24, text_width=16, noise=0.3, speakers=9, word_norms=norms)
    speakers = ["" if row % 10 == 3 else name for row, name in enumerate(stores.manifest.speaker)]
    write_manifest(dataclasses.replace(stores.manifest, speaker=speakers), folder / "stores/manifest.csv")
    unlisted(folder / "stores")
    return train(folder / "stores", method=CONFIG, seeds=2, out=folder / "run")


def test_resampled_speakers_give_an_interval_around_both_prompt_sets(spoken: Run) -> None:
    found = evaluate(spoken, overrides=[*QUICK, "bootstrap=40"])
    assert found["word_norms"]["aoc"]["mean"] > 0.2
    for test in ("ordinality", "word_norms"):
        for name in ("aoc", "voc"):
            measured, interval = found[test][name], found[test][name]["speakers"]
            assert (interval["n"], interval["left_out"], len(interval["draws"])) == (9, 18, 40)
            assert interval["low"] < interval["high"]
            assert abs(np.mean(interval["draws"]) - measured["mean"]) < 0.1
    assert "speakers" not in found["alignment"]["mmd"]
    assert "speakers" not in evaluate(spoken, overrides=[*QUICK, "bootstrap=0"])["ordinality"]["aoc"]


def test_a_draw_is_the_mean_over_seeds_of_the_same_resample(spoken: Run) -> None:
    config, opened = EvaluateConfig(bootstrap=6, lists=28), spoken.stores()
    pairs = cached_pairs(opened, "test", style="dimensional")
    order = OrderTests(opened, pairs, config, torch.device("cpu"))
    expected = []
    for seed in spoken.seeds:
        heads, test = spoken.heads(seed), order.tests["word_norms"]
        with torch.no_grad():
            speech, prompts = heads.embed_speech(pairs.speech), heads.embed_text(order.vectors["word_norms"])
        similarity = (prompts[test.prompts] @ speech[test.labelled].T).numpy()
        expected.append(reference_draws(test, similarity, order.resamples["word_norms"])["voc"])
    found = evaluate(spoken, overrides=[*QUICK, "bootstrap=6"])
    assert found["word_norms"]["voc"]["speakers"]["draws"] == pytest.approx(np.mean(expected, axis=0), abs=1e-12)


def test_retrieval_and_read_out_are_of_every_seed_with_chance_beside_them(run: Run, tmp_path: Path) -> None:
    found = evaluate(run, overrides=QUICK)
    assert found["readout"].keys() == {"valence_ccc", "arousal_ccc"}  # no emotion and no dominance is known
    assert found["retrieval"].keys() > {"speech_to_text_r10", "text_to_speech_map", "speech_to_text_near_p10"}
    for test in ("retrieval", "readout"):
        for name, entry in found[test].items():
            assert entry["seed_values"] == [found["seeds"][seed][test][name] for seed in ("0", "1")]
            assert entry["mean"] == pytest.approx(np.mean(entry["seed_values"]))
            assert ("chance" in entry) == ("median" not in name)
    for name in ("speech_to_text_r10", "text_to_speech_near_p10", "text_to_speech_map"):
        assert found["retrieval"][name]["mean"] > 1.5 * found["retrieval"][name]["chance"]
    assert found["readout"]["arousal_ccc"]["mean"] > 0.4
    with torch.no_grad():
        pairs, heads = cached_pairs(run.stores(), "test1", style="dimensional"), run.heads(1)
        alone = RetrievalTest(pairs).measure(heads.embed_speech(pairs.speech), heads.embed_text(pairs.text))
    assert alone == found["seeds"]["1"]["retrieval"]
    shutil.copytree(run.about["stores"], tmp_path / "stores")
    manifest = open_stores(tmp_path / "stores").manifest
    only_test = ["test1" if split == "test1" else "test2" for split in manifest.split]
    write_manifest(dataclasses.replace(manifest, split=only_test), tmp_path / "stores/manifest.csv")
    unlisted(tmp_path / "stores")
    assert evaluate(run, stores=tmp_path / "stores", overrides=QUICK)["readout"] == {}


def test_a_result_is_not_read_again_where_training_labels_changed_or_of_a_release_without_retrieval(
    run: Run, tmp_path: Path
) -> None:
    shutil.copytree(run.about["stores"], tmp_path / "stores")
    found = evaluate(run, stores=tmp_path / "stores", overrides=QUICK)
    assert evaluated(run, open_stores(tmp_path / "stores"), overrides=QUICK) == found
    run.write_evaluation({key: value for key, value in found.items() if key != "retrieval"})
    assert evaluated(run, open_stores(tmp_path / "stores"), overrides=QUICK) is None
    run.write_evaluation(found)
    manifest = open_stores(tmp_path / "stores").manifest
    manifest.valence[manifest.rows("dev")[0]] = 7.0
    write_manifest(manifest, tmp_path / "stores/manifest.csv")
    unlisted(tmp_path / "stores")
    assert evaluated(run, open_stores(tmp_path / "stores"), overrides=QUICK) is None


def test_an_earlier_result_is_read_again_unless_it_is_of_other_settings_or_was_changed(spoken: Run) -> None:
    overrides = [*QUICK, "bootstrap=40"]
    found, path = evaluate(spoken, overrides=overrides), spoken.folder / "evaluation.json"
    written = path.read_text()
    assert evaluated(spoken, spoken.stores(), overrides=overrides) == found
    assert evaluated(spoken, spoken.stores(), overrides=[*QUICK, "bootstrap=41"]) is None
    for place, value in (
        (("ordinality", "aoc", "mean"), 0.9),
        (("ordinality", "aoc", "speakers", "low"), 0.9),
        (("word_norms", "voc", "seed_values"), [0.1, 0.2]),
        (("seeds", "1", "ordinality", "aoc", "mean"), 0.9),
        (("seeds", "0", "word_norms", "aoc", "taus", 3), 0.9),
        (("ordinality", "voc", "speakers", "draws"), []),
        (("alignment", "gap_rest", "list_std"), 0.9),
        (("retrieval", "text_to_speech_r5", "mean"), 0.9),
        (("seeds", "0", "readout", "arousal_ccc"), 0.9),
        (("seeds",), {}),
    ):
        changed = json.loads(written)
        entry = changed
        for key in place[:-1]:
            entry = entry[key]
        entry[place[-1]] = value
        path.write_text(json.dumps(changed, indent=1) + "\n")
        assert evaluated(spoken, spoken.stores(), overrides=overrides) is None, place
        with pytest.raises(StoreCorrupt, match="its digest is another"):
            spoken.evaluation()
    path.write_text(written)
    assert evaluated(spoken, spoken.stores(), overrides=overrides) == found


def test_an_evaluation_of_an_earlier_release_is_made_again(run: Run) -> None:
    found, path = evaluate(run, overrides=QUICK), run.folder / "evaluation.json"
    for test, values in (("ordinality", "taus"), ("alignment", "values")):
        for name, entry in found[test].items():
            if isinstance(entry, dict):
                every = [value for seed in found["seeds"].values() for value in seed[test][name][values]]
                found[test][name] = {
                    "mean": entry["mean"],
                    "std": 0.1,
                    "seed_std": 0.1,
                    values: every,
                    "convention": "",
                }
    path.write_text(json.dumps(found))
    with pytest.raises(StoreCorrupt, match="of an earlier release"):
        run.evaluation()
    assert evaluated(run, run.stores(), overrides=QUICK) is None
    run.write_evaluation(found)  # of a form that no release wrote
    assert evaluated(run, run.stores(), overrides=QUICK) is None


def test_evaluating_again_gives_the_same_numbers(run: Run) -> None:
    assert evaluate(run, overrides=QUICK) == evaluate(run.folder, overrides=QUICK)


def test_stores_of_another_encoder_are_refused(run: Run, stores: Path) -> None:
    with pytest.raises(StoreMismatch, match=r"encoder\.encoder: the heads have \"planted\", the stores \"embedded\""):
        evaluate(run, stores=stores)


def test_a_split_that_is_not_there_is_said(run: Run) -> None:
    with pytest.raises(UsageError, match="split test3: not in the stores; expected one of"):
        evaluate(run, overrides=["split=test3"])
    assert open_stores(run.about["stores"]).manifest.split.count("test3") == 0
