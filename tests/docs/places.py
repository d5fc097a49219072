"""The corpora, models and stores that the pages speak of, in miniature and under the names that the pages use."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import soundfile
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification

from tests.data.captions.test_word_norms import made_up, norms_file
from tests.data.corpora.miniature import write_miniature_msp
from tests.data.corpora.miniature_iemocap import write_miniature_iemocap
from tests.docs.sandbox import Sandbox
from tests.extraction.encoders import tiny
from tests.extraction.encoders.test_paraspeechclap import write_model
from tests.speech import RATE, tone, write_corpus

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TIMES = 6  # of the miniature MSP-Podcast: a test needs 14 utterances
_STYLES = "captions.styles=[dimensional,template,clap4emo,acoustic]"
_ROBERTA = {
    "vocab_size": 261,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
# stores -> the command that makes them
_EXTRACTIONS = {
    "msp": ("msp_podcast", "--audio-root", "{root}/data/MSP-PODCAST"),
    "iemocap": ("iemocap_4class", "--audio-root", "{root}/data/IEMOCAP", "--encoders", "embedded"),
    "ravdess": ("ravdess", "--audio-root", "{root}/data/RAVDESS"),
    "ravdess-wavlm": ("ravdess", "--audio-root", "{root}/data/RAVDESS", "-o", "audio.layer=1"),  # in its place
    "ravdess-hubert": ("ravdess", "--audio-root", "{root}/data/RAVDESS", "-o", "audio.layer=0"),
    "emodb": ("emodb", "--audio-root", "{root}/data/EmoDB"),
    "cremad": ("cremad", "--audio-root", "{root}/data/CREMA-D"),
}
_OF_ONES_OWN = ("my/manifest.csv",)
_ONE_AT_A_TIME = threading.Lock()  # pages are replayed side by side


def makers(kitchen: Sandbox) -> dict[str, Callable[[Path], None]]:
    """What makes a place, by a pattern of its name; stores are made once, in `kitchen`, and copied."""
    corpora: dict[str, Callable[[Path], None]] = {
        r"(data|shared)/MSP-PODCAST": lambda path: _msp(path),
        r"data/IEMOCAP": lambda path: _iemocap(path),
        r"data/RAVDESS": lambda path: _clips(path, _ravdess()),
        r"data/EmoDB": lambda path: _clips(path, _emodb()),
        r"data/CREMA-D": lambda path: _clips(path, _cremad()),
        r"data/TESS": lambda path: _clips(path, _tess()),
        r"data/glasgow_norms\.csv": lambda path: _rated_words(path),
        r"models/paraspeechclap": lambda path: _paraspeechclap(path),
        r"my/labels\.csv": lambda path: _copied(path, _labelled_recordings),
        r"my/manifest\.csv": lambda path: _copied(path, lambda folder: write_corpus(folder, 64)),
    }
    kitchen.shared = corpora
    return corpora | {r"(shared/)?stores/[\w-]+": lambda path: _stores(kitchen, path)}


def _msp(path: Path) -> None:
    write_miniature_msp(path, times=TIMES)


def _iemocap(path: Path) -> None:
    write_miniature_iemocap(path)


def _copied(manifest: Path, write: Callable[[Path], object]) -> None:
    """Written beside first: the folder may be there already, with files of the page's own."""
    beside = manifest.parent.with_name("made")
    write(beside)
    shutil.copytree(beside, manifest.parent, dirs_exist_ok=True)
    shutil.rmtree(beside)


def _labelled_recordings(folder: Path) -> None:
    """Five speakers' tones with ratings on 1-5, as docs/corpora.md has them."""
    (folder / "recordings").mkdir(parents=True)
    rows = ["file,speaker,pleasure,activation,category"]
    for number in range(80):
        speaker, pleasure, activation = "abcde"[number % 5], 1 + number % 7 * 0.6, 1 + number % 11 * 0.4
        name = f"{speaker}_{number:03}.wav"
        soundfile.write(folder / "recordings" / name, tone(0.4, pitch=90 + 40 * activation, loud=0.1 * pleasure), RATE)
        category = ("sad", "angry", "calm", "happy")[2 * (pleasure > 3) + (activation > 3)]
        rows.append(f"{name},{speaker},{pleasure:.1f},{activation:.1f},{category}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _stores(kitchen: Sandbox, path: Path) -> None:
    made = kitchen.root / "stores" / path.name
    with _ONE_AT_A_TIME:
        if not made.exists():
            _extract(kitchen, made)
    shutil.copytree(made, path)


def _extract(kitchen: Sandbox, made: Path) -> None:
    said = [word.format(root=kitchen.root) for word in _EXTRACTIONS.get(made.name, _OF_ONES_OWN)]
    for word in said:
        kitchen.provide(word)
    kitchen.command("extract-features", *said, "--out", str(made), "-o", _STYLES)


def _rated_words(path: Path) -> None:
    norms_file(path.parent, *made_up(40)).rename(path)


def _clips(folder: Path, names: Iterator[str]) -> None:
    """A tone for each name; those of another emotion are of another pitch."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(0.4, pitch=100 + 20 * (number % 8), loud=0.1 + 0.05 * (number % 8)), RATE)


def _paraspeechclap(path: Path) -> None:
    write_model(path)


def _ravdess() -> Iterator[str]:
    for actor in range(1, 25):
        yield from (f"Actor_{actor:02}/03-01-{emotion:02}-01-01-01-{actor:02}.wav" for emotion in range(1, 9))


def _emodb() -> Iterator[str]:
    for speaker in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16"):
        yield from (f"{speaker}a{text:02}{letter}a.wav" for text in (1, 2) for letter in "WLEAFTN")


def _cremad() -> Iterator[str]:
    for actor in (*range(1001, 1009), *range(1064, 1067), *range(1078, 1082)):
        yield from (f"{actor}_DFA_{emotion}_XX.wav" for emotion in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"))


def _tess() -> Iterator[str]:
    for speaker in ("OAF", "YAF"):
        yield from (f"{speaker}_back_{emotion}.wav" for emotion in ("angry", "disgust", "fear", "happy", "ps", "sad"))


def write_hub(home: Path) -> None:
    """A hub's cache with tiny models of random weights, in the published layouts and under the published names."""
    torch.manual_seed(0)
    state = tiny.ser_state(tiny.wavlm())
    tiny.save_ser(_snapshot(home, "3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes"), state)
    roberta = _snapshot(home, "j-hartmann/emotion-english-distilroberta-base")
    tiny.shaken(RobertaForSequenceClassification(RobertaConfig(**_ROBERTA))).save_pretrained(roberta)
    tiny.save_tokenizer(roberta)
    base: dict[str, Any] = {**tiny.BASE_LIKE, "num_hidden_layers": 12}
    tiny.save_speech(_snapshot(home, "microsoft/wavlm-base"), tiny.wavlm(**base), do_normalize=False)


def _snapshot(home: Path, name: str) -> Path:
    model = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return snapshot
