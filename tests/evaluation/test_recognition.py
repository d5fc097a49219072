"""Zero-shot recognition by prompts; scikit-learn is the oracle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score

from cache.captions import ClassPrompt
from pipeline.core.config import TrainConfig
from pipeline.core.errors import EmotionRankError, UsageError
from pipeline.evaluation.recognition import IEMOCAP_CLASSES, IEMOCAP_MERGE, pooled_recognition, recognition, zero_shot
from pipeline.evaluation.speakers import resample_speakers
from pipeline.training.run_folder import Run
from pipeline.training.train import train
from tests.planted import plant

FEELING, BARE = "this person is feeling {emotion}.", "{emotion}"
NAMES = ("angry", "calm", "excited", "happy", "neutral", "sad")


def prompts_of(names=NAMES, templates=(FEELING, BARE)):
    return [ClassPrompt(t, t.format(emotion=name), name) for t in templates for name in names]


def units(count, width=6, seed=0):
    drawn = np.random.default_rng(seed).standard_normal((count, width))
    return torch.tensor(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def nearest(speech, vectors, prompts, template, classes):
    """The obvious way: the class of the prompt with the highest dot product, one utterance at a time."""
    predicted = []
    for x in speech.numpy():
        scores = {
            p.emotion: float(np.dot(x, v))
            for p, v in zip(prompts, vectors.numpy(), strict=True)
            if p.template == template and p.emotion in classes
        }
        predicted.append(max(scores, key=scores.__getitem__))
    return np.array(predicted)


def assert_equals_scikit_learn(found, truth, predicted):
    classes = found["classes"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of classes never true and of a single class
        confusion = confusion_matrix(truth, predicted, labels=classes).tolist()
        balanced = balanced_accuracy_score(truth, predicted)
    assert found["confusion"] == confusion
    assert found["war"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    assert found["uar"] == pytest.approx(balanced, abs=1e-12)
    recalls = recall_score(truth, predicted, labels=classes, average=None, zero_division=0)
    for name, recall in zip(classes, recalls, strict=True):
        if name in truth:
            assert found["per_class_recall"][name] == pytest.approx(recall, abs=1e-12)
        else:
            assert found["per_class_recall"][name] is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=60), st.integers(0, 999), st.sampled_from([FEELING, BARE]))
def test_it_equals_scikit_learn_over_the_classes_present(truth, seed, template):
    prompts = prompts_of()
    speech, vectors = units(len(truth), seed=seed), units(len(prompts), seed=seed + 1)
    found = recognition(speech, truth, prompts=prompts, vectors=vectors, template=template).summary()
    assert found["classes"] == sorted(set(truth))
    assert_equals_scikit_learn(found, truth, nearest(speech, vectors, prompts, template, set(truth)))
    assert found["n"] == len(truth)
    assert found["left_out"] == 0


def test_given_classes_keep_their_order_and_may_be_absent_from_the_truth():
    truth = ["sad", "angry", "sad", "calm", ""] * 9
    prompts, classes = prompts_of(), ["sad", "happy", "angry"]
    speech, vectors = units(45), units(12, seed=5)
    found = recognition(speech, truth, prompts=prompts, vectors=vectors, classes=classes).summary()
    rows = [i for i, name in enumerate(truth) if name in classes]
    assert found["classes"] == classes
    assert found["n"] == len(rows) == 27
    assert found["left_out"] == 18  # 9 calm, 9 without an emotion
    predicted = nearest(speech[rows], vectors, prompts, FEELING, classes)
    assert_equals_scikit_learn(found, [truth[row] for row in rows], predicted)


def test_excited_counts_as_happy_and_its_own_prompt_is_not_asked():
    prompts = prompts_of()
    vectors = torch.eye(6).repeat(2, 1)
    speech = torch.eye(6)[[2, 3, 3, 5]] * 0.9 + torch.eye(6)[[3, 3, 5, 5]] * 0.3
    found = recognition(
        speech,
        ["excited", "happy", "happy", "sad"],
        prompts=prompts,
        vectors=vectors,
        classes=IEMOCAP_CLASSES,
        merge=IEMOCAP_MERGE,
    ).summary()
    assert found["classes"] == ["angry", "happy", "neutral", "sad"]
    assert found["confusion"] == [[0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert "excited counted as happy" in found["convention"]


def test_perfect_prompts_give_one_and_chance_is_said_beside_it():
    found = recognition(
        torch.eye(6)[[0, 0, 0, 5]], ["angry"] * 3 + ["sad"], prompts=prompts_of(), vectors=torch.eye(6).repeat(2, 1)
    ).summary()
    assert (found["war"], found["uar"], found["chance"], found["majority"]) == (1, 1, 0.5, 0.75)
    assert found["template"] == FEELING


def test_pooled_folds_weigh_every_utterance_alike():
    prompts, vectors = prompts_of(), units(12, seed=3)
    classes = ["angry", "sad"]
    parts = [["angry"] * 5 + ["sad"] * 2, ["angry"] * 3 + ["sad"] * 20, ["sad", ""]]
    speech = [units(len(part), seed=9 + i) for i, part in enumerate(parts)]
    folds = [
        recognition(x, part, prompts=prompts, vectors=vectors, classes=classes).summary()
        for x, part in zip(speech, parts, strict=True)
    ]
    whole = recognition(
        torch.cat(speech), [name for part in parts for name in part], prompts=prompts, vectors=vectors, classes=classes
    ).summary()
    pooled = pooled_recognition(folds)
    assert pooled.pop("convention") == whole.pop("convention") + "; confusions of 3 summed"
    assert pooled == whole
    assert pooled["left_out"] == 1


def test_folds_of_other_classes_are_not_pooled():
    prompts, vectors = prompts_of(), units(12)
    folds = [
        recognition(units(2), [name, "sad"], prompts=prompts, vectors=vectors).summary() for name in ("angry", "calm")
    ]
    with pytest.raises(UsageError, match="2 different settings"):
        pooled_recognition(folds)


def test_what_cannot_be_recognised_is_a_usage_error():
    prompts, vectors, speech = prompts_of(), units(12), units(2)
    with pytest.raises(UsageError, match="no utterance of any emotion"):
        recognition(speech, ["", ""], prompts=prompts, vectors=vectors).summary()
    with pytest.raises(UsageError, match="no utterance of calm"):
        recognition(speech, ["sad", "sad"], prompts=prompts, vectors=vectors, classes=["calm"]).summary()
    with pytest.raises(UsageError, match=r"no prompt .* for zealous"):
        recognition(speech, ["sad", "zealous"], prompts=prompts, vectors=vectors).summary()
    with pytest.raises(UsageError, match=r"no prompt 'a \{emotion\} voice' for sad"):
        recognition(speech, ["sad", "sad"], prompts=prompts, vectors=vectors, template="a {emotion} voice").summary()
    with pytest.raises(UsageError, match=r"templates: none"):
        recognition(speech, ["sad", "sad"], prompts=[], vectors=vectors[:0]).summary()
    with pytest.raises(UsageError, match="2 speech vectors for 1 emotions"):
        recognition(speech, ["sad"], prompts=prompts, vectors=vectors).summary()
    with pytest.raises(EmotionRankError, match="not finite"):
        recognition(speech * torch.nan, ["sad", "sad"], prompts=prompts, vectors=vectors).summary()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("recognition")
    splits = {"train": 300, "dev": 60, "test": 120}
    styles = ("dimensional", "template", "acoustic")
    plant(folder / "stores", splits, audio_width=16, text_width=12, noise=0.3, styles=styles, speakers=6)
    config = TrainConfig(width=16, batch_size=32, epochs=2, threads=1)
    return train(folder / "stores", method=config, seeds=2, out=folder / "run")


def test_seeds_and_speakers_are_the_units_of_war_and_uar(run: Run) -> None:
    found = zero_shot(run, split="test", bootstrap=30)
    for name in ("war", "uar"):
        values = [seed[name] for seed in found["seeds"].values()]
        assert found[name]["seed_values"] == values
        assert found[name]["mean"] == pytest.approx(np.mean(values))
        assert found[name]["std"] == pytest.approx(np.std(values, ddof=1))
        assert "list_std" not in found[name]
        interval = found[name]["speakers"]
        assert (interval["n"], interval["left_out"], len(interval["draws"])) == (6, 0, 30)
        assert interval["low"] < found[name]["mean"] < interval["high"]
    assert "speakers" not in zero_shot(run, split="test", bootstrap=0)["war"]
    assert found == zero_shot(run, split="test", bootstrap=30)
    assert found["war"]["speakers"] != zero_shot(run, split="test", bootstrap=30, draw_seed=1)["war"]["speakers"]


def test_a_draw_of_war_is_that_of_the_copies_of_its_utterances(run: Run) -> None:
    found, stores = zero_shot(run, split="test", bootstrap=5), run.stores()
    manifest = stores.manifest
    rows = [row for row in manifest.rows("test").tolist() if manifest.emotion[row]]
    resamples = resample_speakers([manifest.speaker[row] for row in rows], draws=5, seed=0)
    assert resamples is not None
    named = {prompt.emotion: prompt for prompt in stores.captions.classes if prompt.template == found["template"]}
    texts = [named[name].text for name in found["classes"]]
    vectors = torch.tensor(stores.text.read(np.array([stores.captions.texts().index(text) for text in texts]))[0])
    wars = []
    for seed in run.seeds:
        heads = run.heads(seed)
        with torch.no_grad():
            speech = heads.embed_speech(torch.tensor(stores.audio.read(np.array(rows))[0]))
            right = (speech @ heads.embed_text(vectors).T).argmax(1).numpy()
        said = np.array([found["classes"][i] for i in right])
        truth = np.array([manifest.emotion[row] for row in rows])
        copies = [np.repeat(np.arange(len(rows)), counts[resamples.speaker]) for counts in resamples.counts]
        wars.append([accuracy_score(truth[each], said[each]) for each in copies])
    assert found["war"]["speakers"]["draws"] == pytest.approx(np.mean(wars, axis=0), abs=1e-12)
