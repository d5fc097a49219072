"""A model on tasks of mteb's own classes, made here: the score is mteb's, and what a loop over cosines finds.

Needs the extra `mteb`, which is not in `test`: pip install -e '.[mteb]' && pytest -n 0 -s tests/inference/test_mteb.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline import EmotionRankCLAP, MtebEncoder
from pipeline.core.errors import UsageError
from pipeline.training.run_folder import Run
from tests.speech import tone

needs_mteb = pytest.mark.skipif("not __import__('importlib').util.find_spec('mteb')", reason="needs the extra mteb")
PAGE = Path(__file__).resolve().parents[2] / "docs/boards.md"
LABELS = ["this person is feeling angry", "this person is feeling calm", "this person is feeling sad"]
RATES = (16_000, 8_000, 16_000, 22_050, 16_000, 8_000, 16_000, 16_000)
METADATA: dict[str, Any] = {
    "dataset": {"path": "NA", "revision": "NA"},
    "description": "A few clips that a test makes.",
    "reference": "https://example.org",
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "modalities": ["audio", "text"],
    "date": ("2026-01-01", "2026-01-02"),
    "dialect": [],
    "domains": ["Spoken"],
    "task_subtypes": [],
    "license": "cc0-1.0",
    "annotations_creators": "derived",
    "sample_creation": "created",
    "bibtex_citation": "",
}


@pytest.fixture(scope="module")
def model(trained: Run) -> EmotionRankCLAP:
    return EmotionRankCLAP.from_pretrained(trained.folder)


@pytest.fixture(scope="module")
def exported(model: EmotionRankCLAP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "erc"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(exported: Path) -> MtebEncoder:
    return MtebEncoder(exported, name="me/erc")


@pytest.fixture
def quiet() -> Iterator[None]:
    """mteb and what it stands on warn of their own future."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def clips() -> list[dict[str, Any]]:
    """As `datasets` holds decoded audio: clips of several pitches and rates."""
    waves = [tone(0.5 + 0.1 * i, pitch=90 + 35 * i, rate=rate) for i, rate in enumerate(RATES)]
    return [{"array": wave, "sampling_rate": rate} for wave, rate in zip(waves, RATES, strict=True)]


def vectors_of_files(model: EmotionRankCLAP, folder: Path) -> np.ndarray:
    """The same clips as files, which this project decodes and resamples itself."""
    paths = [folder / f"{i}.wav" for i in range(len(RATES))]
    for path, clip in zip(paths, clips(), strict=True):
        soundfile.write(path, clip["array"], clip["sampling_rate"], subtype="FLOAT")
    return np.asarray(model.encode_speech(paths))


def score(encoder: MtebEncoder, task: Any) -> float:
    import mteb

    [result] = mteb.evaluate(encoder, task, cache=None, co2_tracker=False, show_progress_bar=False).task_results
    print(f"{task.metadata.type} {task.metadata.name}: {result.get_score():.4f} {task.metadata.main_score}")
    return float(result.get_score())


def zero_shot_task() -> Any:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskZeroShotClassification
    from mteb.abstasks.task_metadata import TaskMetadata

    class Emotions(AbsTaskZeroShotClassification):
        metadata = TaskMetadata(
            name="TinyZeroShot", type="AudioZeroshotClassification", category="a2t", main_score="accuracy", **METADATA
        )
        input_column_name, label_column_name = "audio", "label"

        def load_data(self, **_: Any) -> None:
            rows = [{"audio": clip, "label": row % 3} for row, clip in enumerate(clips())]
            self.dataset, self.data_loaded = DatasetDict({"test": Dataset.from_list(rows)}), True

        def get_candidate_labels(self) -> list[str]:
            return LABELS

    return Emotions()


def retrieval_task(category: str) -> Any:
    """Clip i and sentence i are each other's only hit; t2a asks sentences, a2t clips."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    speech = Dataset.from_list([{"id": f"s{i}", "audio": clip} for i, clip in enumerate(clips())])
    text = Dataset.from_list([{"id": f"t{i}", "text": sentence} for i, sentence in enumerate(sentences())])

    class Captions(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="TinyRetrieval", type="Any2AnyRetrieval", category=category, main_score="ndcg_at_10", **METADATA
        )

        def load_data(self, **_: Any) -> None:
            asked, candidates = (text, speech) if category == "t2a" else (speech, text)
            self.queries, self.corpus = DatasetDict({"test": asked}), DatasetDict({"test": candidates})
            pairs = zip(asked["id"], candidates["id"], strict=True)
            self.relevant_docs = {"test": {query: {hit: 1} for query, hit in pairs}}
            self.data_loaded = True

    return Captions()


def sentences() -> list[str]:
    manners = ("calmly", "angrily", "sadly", "happily", "loudly", "softly", "fast", "slowly")
    return [f"The person is speaking {manner}." for manner in manners]


def labelled_task(kind: str) -> Any:
    """Two kinds of sound that any encoder tells apart, for a linear probe or for clusters."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskClassification, AbsTaskClustering
    from mteb.abstasks.task_metadata import TaskMetadata

    draw = np.random.default_rng(0)
    noise = [(0.2 * draw.standard_normal(9600)).astype(np.float32) for _ in range(8)]
    waves = [wave for pair in zip(noise, (tone(0.6, pitch=100 + i) for i in range(8)), strict=True) for wave in pair]
    rows = [{"audio": {"array": wave, "sampling_rate": 16_000}, "label": i % 2} for i, wave in enumerate(waves)]
    about = {**METADATA, "modalities": ["audio"], "category": "a2c" if kind == "AudioClassification" else "a2a"}
    described = TaskMetadata(
        name=f"Tiny{kind}", type=kind, main_score="accuracy" if "Class" in kind else "v_measure", **about
    )

    def load_data(self: Any, **_: Any) -> None:
        dataset = Dataset.from_list(rows)
        self.dataset, self.data_loaded = DatasetDict({"train": dataset, "test": dataset}), True

    base = AbsTaskClassification if kind == "AudioClassification" else AbsTaskClustering
    members: dict[str, Any] = {"metadata": described, "input_column_name": "audio", "label_column_name": "label"}
    members |= {"max_fraction_of_documents_to_embed": None, "max_document_to_embed": 16, "n_clusters": 2}
    return type("Sounds", (base,), {**members, "load_data": load_data})()


@needs_mteb
@pytest.mark.usefixtures("quiet")
def test_zero_shot_accuracy_is_the_share_whose_nearest_label_is_theirs(
    encoder: MtebEncoder, model: EmotionRankCLAP, tmp_path: Path
) -> None:
    nearest = model.similarity(vectors_of_files(model, tmp_path), model.encode_text(LABELS)).argmax(dim=1)
    found = score(encoder, zero_shot_task())
    assert found == np.mean([label == row % 3 for row, label in enumerate(nearest.tolist())])
    assert len(nearest.unique()) > 1


@needs_mteb
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("category", ["t2a", "a2t"])
def test_retrieval_ranks_by_our_cosines(
    encoder: MtebEncoder, model: EmotionRankCLAP, tmp_path: Path, category: str
) -> None:
    cosines = model.similarity(model.encode_text(sentences()), vectors_of_files(model, tmp_path)).numpy()
    cosines = cosines if category == "t2a" else cosines.T
    ranks = [1 + sum(other > row[i] for other in row) for i, row in enumerate(cosines)]
    wanted = np.mean([1 / np.log2(1 + rank) for rank in ranks])  # ndcg of one hit; 8 candidates, all in the first 10
    assert score(encoder, retrieval_task(category)) == pytest.approx(wanted, abs=1e-5)


@needs_mteb
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", ["AudioClassification", "AudioClustering"])
def test_a_probe_and_clusters_tell_noise_from_tones(encoder: MtebEncoder, kind: str) -> None:
    assert score(encoder, labelled_task(kind)) == pytest.approx(1.0)


@needs_mteb
@pytest.mark.usefixtures("quiet")
def test_a_batch_of_both_is_their_sum_and_channels_are_averaged(encoder: MtebEncoder, model: EmotionRankCLAP) -> None:
    wave = tone(0.5)
    stereo = {"array": np.stack([wave * 1.5, wave * 0.5]), "sampling_rate": 16_000}
    both = encoder.encode([{"audio": [stereo], "text": ["calm"]}])
    alone = model.encode_speech([wave], 16_000) + model.encode_text("calm")
    np.testing.assert_allclose(both, alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(encoder.similarity(both[0], both), [[1.0]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(encoder.similarity_pairwise(both, alone), [1.0], rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="a batch of video; expected audio or text"):
        encoder.encode([{"video": [None]}])


@needs_mteb
@pytest.mark.usefixtures("quiet")
def test_mteb_loads_it_and_keeps_results_of_other_heads_apart(
    exported: Path, encoder: MtebEncoder, model: EmotionRankCLAP, tmp_path: Path
) -> None:
    from mteb import ResultCache, evaluate
    from mteb.models import EncoderProtocol

    about = encoder.mteb_model_meta
    assert isinstance(encoder, EncoderProtocol)
    assert (about.name, about.embed_dim, about.modalities) == ("me/erc", 16, ["audio", "text"])
    assert MtebEncoder(exported).mteb_model_meta.name == "local/erc"
    assert MtebEncoder(model).mteb_model_meta.revision == about.revision  # a run's heads and their export are the same
    model.heads.audio.bias.data += 0.5
    try:
        assert MtebEncoder(model).mteb_model_meta.revision != about.revision
    finally:
        model.heads.audio.bias.data -= 0.5
    meta = about.model_copy(update={"loader": MtebEncoder, "name": str(exported), "revision": None})
    loaded = meta.load_model()
    np.testing.assert_allclose(loaded.encode([{"text": LABELS}]), encoder.encode([{"text": LABELS}]), rtol=0, atol=1e-6)
    options: dict[str, Any] = {"cache": ResultCache(tmp_path), "co2_tracker": False, "show_progress_bar": False}
    [first] = evaluate(encoder, zero_shot_task(), **options).task_results
    [kept] = evaluate(encoder, zero_shot_task(), overwrite_strategy="only-cache", **options).task_results
    assert kept.get_score() == first.get_score()
    assert [path.parent.name for path in tmp_path.rglob("TinyZeroShot.json")] == [about.revision]


@needs_mteb
@pytest.mark.usefixtures("quiet")
def test_the_pages_own_task_runs(exported: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = re.findall(r"```python\n(# my_task\.py\n.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").symlink_to(corpus.parent)
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/erc").symlink_to(exported)
    names: dict[str, Any] = {"__name__": "my_task"}
    exec(compile(block, "my_task.py", "exec"), names)
    assert 0 < names["result"].task_results[0].get_score() <= 1


def test_without_mteb_one_line_names_the_extra(model: EmotionRankCLAP, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mteb", "mteb.models", "mteb.models.model_meta"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="mteb is not installed; expected the extra mteb"):
        MtebEncoder(model)
