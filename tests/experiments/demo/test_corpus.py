"""The rendered corpus."""

import csv
from collections import defaultdict

import numpy as np
import pytest
import soundfile

from pipeline.core.errors import UsageError
from pipeline.experiments.demo.corpus import SENTENCES, SPEAKERS, render_corpus
from pipeline.experiments.demo.voice import GRID, Voice, mean_rating, prosody_of, shape_timbre

pytest.importorskip("espeakng_loader", reason="needs the `demo` extra")
COUNT = 24


def _rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    render_corpus(folder, utterances=COUNT)
    return folder


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(corpus, tmp_path):
    render_corpus(tmp_path / "again", utterances=COUNT)
    assert _bytes(tmp_path / "again") == _bytes(corpus)
    render_corpus(tmp_path / "other", utterances=COUNT, seed=1)
    assert not set(_bytes(tmp_path / "other").values()) & set(_bytes(corpus).values())


def test_every_row_has_16_khz_mono_16_bit_audio_and_labels_of_five_raters(corpus):
    rows = _rows(corpus / "manifest.csv")
    assert len(rows) == len({row["id"] for row in rows}) == COUNT
    for row in rows:
        info = soundfile.info(corpus / row["audio"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0.5 < info.duration < 10
        for axis in ("valence", "arousal"):
            assert 1 <= float(row[axis]) <= 7
            assert 5 * float(row[axis]) == pytest.approx(round(5 * float(row[axis])))


def test_a_speaker_is_heard_in_one_split_only_and_the_default_has_enough_of_each(corpus):
    splits = defaultdict(set)
    for row in _rows(corpus / "manifest.csv"):
        splits[row["speaker"]].add(row["split"])
    assert len(splits) == len(SPEAKERS) >= 8
    assert all(len(found) == 1 for found in splits.values())
    heard = [s.split for s in SPEAKERS]
    assert 720 // len(SPEAKERS) * heard.count("test") >= 200
    assert heard.count("train") >= 5
    assert heard.count("dev") >= 1
    assert len({s.voice for s in SPEAKERS}) == len(SPEAKERS)


def test_an_interrupted_corpus_has_no_manifest_and_is_finished_with_the_same_bytes(corpus, tmp_path):
    def stop(done, total):
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_corpus(tmp_path, utterances=COUNT, progress=stop)
    assert len(_bytes(tmp_path)) == 10
    assert not (tmp_path / "manifest.csv").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "audio").iterdir()}
    render_corpus(tmp_path, utterances=COUNT)
    assert _bytes(tmp_path) == _bytes(corpus)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_finished_corpus_is_not_rendered_again(corpus, monkeypatch):
    monkeypatch.setattr("pipeline.experiments.demo.corpus.Voice", None)
    assert render_corpus(corpus, utterances=COUNT) == corpus / "manifest.csv"


def test_a_larger_corpus_begins_with_the_smaller_one(corpus, tmp_path):
    small = _rows(corpus / "manifest.csv")[:12]
    assert _rows(render_corpus(tmp_path, utterances=12)) == small


def test_progress_counts_to_the_total(tmp_path):
    seen = []
    render_corpus(tmp_path, utterances=12, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]


def test_too_few_utterances_and_a_folder_that_is_a_file_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="at least 12"):
        render_corpus(tmp_path, utterances=11)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="a file; expected a folder"):
        render_corpus(tmp_path / "file", utterances=12)


def _f0(wave, rate):
    """The median over loud frames of the lag with the highest autocorrelation, 60-400 Hz."""
    found = []
    for start in range(0, len(wave) - 1024, 512):
        frame = wave[start : start + 1024]
        if frame.std() > 0.5 * wave.std():
            peaks = np.fft.irfft(np.abs(np.fft.rfft(frame, 2048)) ** 2)
            low = rate // 400
            found.append(rate / (low + np.argmax(peaks[low : rate // 60])))
    return float(np.median(found))


def _spoken(voice, speaker, valence, arousal):
    prosody = prosody_of(speaker.voice, valence, arousal, np.random.default_rng(0))
    return shape_timbre(voice.synthesize(SENTENCES[0], prosody), voice.sample_rate, valence)


def _centroid(wave):
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float((power * np.arange(len(power))).sum() / power.sum() * 8000 / len(power))


@pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda s: s.name)
def test_a_voice_gets_higher_louder_and_faster_with_arousal_and_brighter_with_valence(speaker):
    voice = Voice()
    calm, active = (_spoken(voice, speaker, 4, arousal) for arousal in (1, 7))
    assert _f0(active, 16_000) > 1.1 * _f0(calm, 16_000)
    assert active.std() > 1.8 * calm.std()
    assert len(active) < 0.7 * len(calm)
    sad, glad = (_spoken(voice, speaker, valence, 4) for valence in (1, 7))
    assert _centroid(glad) > 1.3 * _centroid(sad)
    assert len(glad) == pytest.approx(len(sad), rel=0.15)  # valence is not told by the rate
    assert glad.std() == pytest.approx(sad.std(), rel=0.4)  # and little by the volume


def test_raters_agree_with_the_truth_on_average_and_not_each_time():
    draw = np.random.default_rng(0)
    labels = np.array([[mean_rating(truth, draw) for _ in range(300)] for truth in GRID])
    assert labels.min() >= 1
    assert labels.max() <= 7
    assert np.abs(labels.mean(1) - GRID)[2:-2].max() < 0.1
    assert labels.std(1)[2:-2].min() > 0.3
