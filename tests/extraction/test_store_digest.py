"""`--digest`: equal stores have equal digests, and where two differ the part that differs is named, and only that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.captions import Caption, Captions, ClassPrompt, GridText, Prompt, write_captions_file
from cache.layers import Axes
from cache.manifest import Manifest, Ratings, write_manifest
from cache.stores import LISTED, stores_digests
from cache.writer import StoreRows, StoreSpec, StoreWriter, open_for_writing
from pipeline import digest, status_of, verify, verify_sources
from pipeline.commands.extract_features import main
from pipeline.core.errors import UsageError
from pipeline.extraction.store_digest import digest_table
from tests.stage_two import run_command

SPLITS = ("train",) * 12 + ("dev",) * 6 + ("test1",) * 6
RATE = 16_000


def vector_of(name: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
    return np.random.default_rng(seed).normal(1.0, 1.0, dim).astype(np.float32)


def manifest() -> Manifest:
    count = len(SPLITS)
    draw = np.random.default_rng(0)
    labels = {name: np.round(draw.uniform(1, 7, count), 2) for name in ("valence", "arousal")}
    std = np.c_[draw.uniform(0, 1, (count, 2)), np.full(count, np.nan)]
    return Manifest(
        root=Path(), id=[f"u{row:02}é" for row in range(count)], audio=[f"{row}.wav" for row in range(count)],
        split=list(SPLITS), **labels, dominance=np.full(count, np.nan), emotion=["happy", "sad", ""] * 8,
        speaker=[f"s{row % 5}" for row in range(count)], gender=[""] * count, intensity=[""] * count,
        caption=[""] * count, ratings=Ratings(np.full(count, 5), std, ["happy:3|sad:2"] * count),
        transcript=[f"words {row}" for row in range(count)],
    )  # fmt: skip


def captions() -> Captions:
    rows = range(len(SPLITS))
    return Captions.of(
        [
            *(Caption("dimensional", f"text {row}", [row, (row + 1) % len(SPLITS)]) for row in rows),
            Caption("template", "speech has happy emotion", list(rows)[::3]),
        ],
        [Prompt("dimensional", f"prompt {point}", point, 4.0, 0) for point in range(1, 4)],
        [ClassPrompt("{emotion}", "happy", "happy")],
        [GridText("dimensional", "text 0", 2.0, 3.0, 0), GridText("dimensional", "grid", 2.0, 5.0, 1)],
    )


@dataclass
class Corpus:
    """What stores are written from; an edit of it is what differs."""

    manifest: Manifest = field(default_factory=manifest)
    captions: Captions = field(default_factory=captions)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)  # in place of `vector_of` a name
    files: dict[str, bytes] = field(default_factory=dict)  # digests of audio files, in place of those by id
    failed: tuple[str, ...] = ()
    fingerprint: dict[str, Any] = field(default_factory=lambda: {"encoder": {"name": "test", "weights": "0"}})
    axes: Axes | None = None

    def reordered(self) -> Corpus:
        """The same in another order of the utterances, the texts and the captions of an utterance."""
        order = np.random.default_rng(1).permutation(len(self.manifest))
        place = np.argsort(order)
        moved = [
            Caption(c.style, c.text, sorted(place[list(c.rows)].tolist())) for c in reversed(self.captions.captions)
        ]
        rest = [list(part)[::-1] for part in (self.captions.prompts, self.captions.classes, self.captions.grid)]
        return replace(self, manifest=self.manifest.take(order), captions=Captions.of(moved, *rest))

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        write_manifest(self.manifest, folder / "manifest.csv")
        write_captions_file(self.captions, folder / "captions.jsonl")
        heard = {"decoding": {"sample_rate": RATE}}
        self._store(folder / "audio.h5", self.manifest.id, 6, heard, axes=self.axes)
        self._store(folder / "words.h5", self.manifest.id, 3, {})
        self._store(folder / "text.h5", self.captions.texts(), 4, {})
        stores_digests(folder).write(LISTED)
        return folder

    def _store(self, path: Path, names: list[str], dim: int, more: dict[str, Any], axes: Axes | None = None) -> None:
        rows = StoreRows(names, np.zeros((len(names), 2), np.int64), np.array([RATE * len(name) for name in names]))
        size = dim if axes is None else sum(axes.sizes)
        spec = StoreSpec(path, path.stem, rows, dim=size, dtype="<f4", fingerprint=self.fingerprint | more, axes=axes)
        with StoreWriter(open_for_writing(spec)[0]) as writer:
            for row, name in enumerate(names):
                source = self.files.get(name, hashlib.blake2b(name.encode(), digest_size=16).digest())
                if path.stem == "audio" and name in self.failed:
                    writer.fail(row, "a bad file", source)
                else:
                    key = f"{path.stem} {name}"
                    own = self.vectors.get(key, vector_of(key, dim))
                    writer.commit(row, own if axes is None else self._layered(own, key), source)

    def _layered(self, own: np.ndarray, key: str) -> np.ndarray:
        """Layer 1, the default, is `own`."""
        return np.concatenate([self.vectors.get(f"{key} 0", vector_of(f"{key} 0", len(own))), own])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return digest(Corpus().write(tmp_path_factory.mktemp("whole") / "stores"))


def differing(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """The exact parts of two digests that differ, such as "train labels"."""

    def parts(result: dict[str, Any]) -> dict[str, str]:
        prints = {f"fingerprint {name}": of["digest"] for name, of in result["fingerprints"].items()}
        groups = {**result["splits"], "all": result["texts"]}
        return prints | {f"{name} {part}": value for name, of in groups.items() for part, value in of["parts"].items()}

    ours, theirs = parts(first), parts(second)
    return {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}


def test_equal_stores_have_equal_digests_in_another_order_and_on_another_path(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    again = digest(Corpus().reordered().write(tmp_path / "elsewhere/theirs"))
    assert again == whole
    assert digest_table(again) == digest_table(whole)
    assert "theirs" not in json.dumps(again)


PARTS = {"ids", "labels", "speakers", "ratings", "transcripts", "captions", "recordings", "audio", "words"}


def with_column(name: str, value: Any) -> Callable[[Corpus], Corpus]:
    """An edit of the third utterance, which is one of train."""

    def edit(corpus: Corpus) -> Corpus:
        column = getattr(corpus.manifest, name).copy()
        column[2] = value
        return replace(corpus, manifest=replace(corpus.manifest, **{name: column}))

    return edit


def with_vector(name: str) -> Callable[[Corpus], Corpus]:
    """The last bit of the first number of one vector."""

    def edit(corpus: Corpus) -> Corpus:
        values = vector_of(name, {"audio": 6, "words": 3, "text": 4}[name.split()[0]])
        values[0] = np.nextafter(values[0], np.float32(9))
        return replace(corpus, vectors={name: values})

    return edit


def with_caption(text: str) -> Callable[[Corpus], Corpus]:
    """Utterance 2 is described by `text` in place of "text 2"."""

    def edit(corpus: Corpus) -> Corpus:
        kept = [c if c.text != "text 2" else Caption(c.style, c.text, [3]) for c in corpus.captions.captions]
        kept = [c if c.text != text else Caption(c.style, c.text, [*c.rows, 2]) for c in kept]
        if text not in corpus.captions.texts():
            kept.append(Caption("dimensional", text, [2]))
        rest = (corpus.captions.prompts, corpus.captions.classes, corpus.captions.grid)
        return replace(corpus, captions=Captions.of(kept, *rest))

    return edit


def with_prompt(corpus: Corpus) -> Corpus:
    prompts = [p._replace(valence=7.0) if p.text == "prompt 2" else p for p in corpus.captions.prompts]
    rest = (corpus.captions.classes, corpus.captions.grid)
    return replace(corpus, captions=Captions.of(corpus.captions.captions, prompts, *rest))


EDITS: dict[str, tuple[Callable[[Corpus], Corpus], set[str]]] = {
    "a label": (with_column("valence", 6.875), {"train labels"}),
    "no label": (with_column("arousal", np.nan), {"train labels"}),
    "a class": (with_column("emotion", "angry"), {"train labels"}),
    "a speaker": (with_column("speaker", "s9"), {"train speakers"}),
    "a transcript": (with_column("transcript", "other words"), {"train transcripts"}),
    "a caption that others have": (with_caption("text 9"), {"train captions"}),
    "a new caption": (with_caption("new"), {"train captions", "all texts", "all text"}),
    "a prompt's point": (with_prompt, {"all prompts"}),
    "a speech vector": (with_vector("audio u02é"), {"train audio"}),
    "a transcript's vector": (with_vector("words u02é"), {"train words"}),
    "a text vector": (with_vector("text text 5"), {"all text"}),
    "an audio file": (lambda corpus: replace(corpus, files={"u02é": bytes(15) + b"x"}), {"train recordings"}),
    "a failed row": (lambda corpus: replace(corpus, failed=("u02é",)), {"train audio"}),
    "an id": (with_column("id", "u99"), {f"train {part}" for part in PARTS}),
    "a split": (with_column("split", "dev"), {f"{split} {part}" for part in PARTS for split in ("train", "dev")}),
    "the weights": (
        lambda corpus: replace(corpus, fingerprint={"encoder": {"name": "test", "weights": "1"}}),
        {f"fingerprint {name}" for name in ("audio", "words", "text")},
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_what_differs_is_named_and_nothing_else(what: str, whole: dict[str, Any], tmp_path: Path) -> None:
    edit, expected = EDITS[what]
    other = digest(edit(Corpus()).write(tmp_path / "stores"))
    assert differing(whole, other) == expected
    assert other["digest"] != whole["digest"]


def test_a_part_is_what_the_page_says(whole: dict[str, Any]) -> None:
    """Computed anew from the corpus by the recipe of docs/store.md."""
    corpus, about = Corpus(), manifest()

    def sha(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    dev = sorted((about.id[row].encode(), row) for row in range(len(SPLITS)) if SPLITS[row] == "dev")
    labels = [[about.valence[row], about.arousal[row], None, about.emotion[row], ""] for _, row in dev]
    values = {
        "ids": [b""] * len(dev),
        "labels": [json.dumps(each).encode() for each in labels],
        "recordings": [hashlib.blake2b(name, digest_size=16).digest() for name, _ in dev],
        "audio": [vector_of(f"audio {name.decode()}", 6).astype("<f4").tobytes() for name, _ in dev],
        "captions": [
            json.dumps(
                sorted([c.style, c.text] for c in corpus.captions.captions if row in c.rows)  # in every style
            ).encode()
            for _, row in dev
        ],
    }
    for part, each in values.items():
        joined = b"".join(sha(name) + sha(value) for (name, _), value in zip(dev, each, strict=True))
        assert whole["splits"]["dev"]["parts"][part] == hashlib.sha256(joined).hexdigest(), part


def test_figures_and_statistics_are_those_of_numpy(whole: dict[str, Any]) -> None:
    about, found = manifest(), whole["splits"]["train"]
    assert (found["utterances"], found["encoded"], found["hours"]) == (12, 12, round(12 * 4 / 3600, 3))
    assert found["labels"].keys() == {"valence", "arousal"}
    assert found["labels"]["valence"] == {"count": 12, "mean": pytest.approx(about.valence[:12].mean(), rel=1e-5)}
    assert found["emotions"] == {"happy": 4, "sad": 4}
    vectors = np.stack([vector_of(f"audio {name}", 6) for name in about.id[:12]]).astype(np.float64)
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"emotionrankclap-digest/1").digest(1), np.uint8))[:6]
    projected = vectors @ np.where(bits, -1, 1) / np.sqrt(6)
    sides = np.array([1 if hashlib.sha256(name.encode()).digest()[0] < 128 else -1 for name in about.id[:12]])
    lengths = np.linalg.norm(vectors, axis=1)
    expected = {
        "length_mean": lengths.mean(),
        "length_std": lengths.std(),
        "projection_mean": projected.mean(),
        "projection_std": projected.std(),
        "projection_by_id": ((projected - projected.mean()) * sides).mean(),
    }
    assert found["statistics"]["audio"] == {"rows": 12} | {
        name: pytest.approx(value, rel=1e-5) for name, value in expected.items()
    }


def rounded(result: dict[str, Any], split: str) -> dict[str, str]:
    """As the command prints them."""
    return {name: f"{value:.4g}" for name, value in result["splits"][split]["statistics"]["audio"].items()}


def test_last_bits_change_the_exact_digest_and_no_digit_of_the_statistics(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    draw, names = np.random.default_rng(2), [f"audio {name}" for name in manifest().id]
    noisy = {name: vector_of(name, 6) * (1 + 1e-6 * draw.standard_normal(6).astype(np.float32)) for name in names}
    other = digest(Corpus(vectors=noisy).write(tmp_path / "stores"))
    assert differing(whole, other) == {"train audio", "dev audio", "test1 audio"}
    for split in ("train", "dev", "test1"):
        assert rounded(other, split) == rounded(whole, split)


def test_vectors_under_each_others_ids_move_one_statistic_alone(whole: dict[str, Any], tmp_path: Path) -> None:
    ids = manifest().id[:12]
    shifted = {f"audio {name}": vector_of(f"audio {ids[row - 1]}", 6) for row, name in enumerate(ids)}
    other = digest(Corpus(vectors=shifted).write(tmp_path / "stores"))
    ours, theirs = rounded(whole, "train"), rounded(other, "train")
    assert {name for name in ours if ours[name] != theirs[name]} == {"projection_by_id"}


def test_of_layered_rows_the_vector_that_heads_take_unasked_is_compared_alone_too(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    layered = Corpus(axes=Axes((0, 1), ("mean",), 6, layer=1))
    ours = digest(layered.write(tmp_path / "ours"))
    assert ours["splits"]["dev"]["parts"]["audio"] == whole["splits"]["dev"]["parts"]["audio"]
    assert ours["splits"]["dev"]["statistics"] == whole["splits"]["dev"]["statistics"]
    other = replace(layered, vectors={"audio u13é 0": np.ones(6, np.float32)})
    assert differing(ours, digest(other.write(tmp_path / "theirs"))) == {"dev audio layers"}


def test_the_command_prints_what_the_function_returns(whole: dict[str, Any], tmp_path: Path) -> None:
    folder = Corpus().reordered().write(tmp_path / "stores")
    words = ("mine", "--out", folder, "--digest")
    printed = run_command(main, *words).stdout
    assert printed == digest_table(whole) + "\n"
    assert f"exact labels       {whole['splits']['dev']['parts']['labels'][:16]}\n" in printed
    assert str(tmp_path) not in printed
    assert json.loads(run_command(main, *words, "--json").stdout) == whole
    assert json.loads(run_command(main, *words, "--verify", "--json").stdout)["verified"] > 48


@pytest.mark.parametrize("inspect", [digest, status_of, verify, verify_sources])
def test_several_folders_are_looked_at_one_by_one(inspect: Callable[[str], Any], tmp_path: Path) -> None:
    one = Corpus().write(tmp_path / "one")
    other = Corpus(vectors={"audio u02é": np.ones(6, np.float32)}).write(tmp_path / "other")
    with pytest.raises(UsageError, match="several speech encoders side by side; expected one folder"):
        inspect(f"{one},{other}")


def test_stores_whose_texts_are_not_their_captions_have_no_digest(tmp_path: Path) -> None:
    folder = Corpus().write(tmp_path / "stores")
    (folder / "digests.json").unlink()
    path = folder / "captions.jsonl"
    path.write_text(path.read_text().replace("prompt 2", "prompt 9"))
    result = run_command(main, "mine", "--out", folder, "--digest")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "other rows than the folder's manifest and captions" in result.stderr
