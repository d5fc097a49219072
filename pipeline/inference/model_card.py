"""README.md of an exported model: what it is, what it was made from, what it measures, and what it is not for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from cache.fingerprint import leaves
from pipeline.core.config import AudioConfig, TextConfig
from pipeline.core.plugins import BUILT_IN
from pipeline.extraction.encoders import NEED_MODEL
from pipeline.inference.export import Description, Evaluation, MeasuredFigure

_FRONT = {
    "library_name": "emotionrankclap",
    "pipeline_tag": "feature-extraction",
    "license": "other",
    "license_name": "as-the-training-data",
    "tags": ["speech", "emotion", "audio-text-retrieval", "contrastive-learning", "clap"],
}
_CAPTION = '"The person is speaking calmly, a little sad."'
_CITATION = """\
Chandra, Goncalves, Lu, Busso, Sisman: EmotionRankCLAP. Interspeech 2025. arXiv:2505.23732."""
_LIMITS = """\
## Intended use and limits

For research on the affect of speech: finding utterances by how they sound, comparing systems, zero-shot labels. It
scores how annotators of its training data would describe a voice, not what a person feels. Not for decisions about
people. Other languages, microphones, ages and acted speech are outside what it was trained on unless its data had them;
no figure here says how it differs between groups of speakers.

## Licence

The code is under the MIT licence. These heads carry the conditions of the corpus and of the encoders they were made
with; many emotional corpora and published encoders are for research only.
"""


def card_of(described: Description, name: str) -> str:
    """The model card as Markdown with YAML front matter; `name` is what `from_pretrained` will be asked for."""
    front = _FRONT | {"model_name": name}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {_plain(name)}\n",
        _introduction(described),
        _usage(described, name),
        _made_from(described),
        _figures(described.evaluation, described.trained.seed),
        _LIMITS,
        f"## Citation\n\n{_CITATION}\n",
    ]
    return "\n".join(part for part in parts if part)


def _introduction(described: Description) -> str:
    training = described.training
    objective = training.objective.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    settings = ", ".join(f"{key} {' and '.join(map(str, _listed(value)))}" for key, value in leaves(objective))
    low, high = described.label_scale
    return (
        f"Projection heads of emotionrankclap between speech and descriptions of speaking style, method "
        f"`{_plain(training.method)}`, captions of style `{_plain(training.style)}`.\n\n"
        f"- Objective: {training.objective.name}, {_plain(settings)}\n"
        f"- Training: {training.epochs} epochs at most, batches of {training.batch_size}, learning rate "
        f"{training.learning_rate:g}; seed {described.trained.seed}, epoch {described.trained.epoch} "
        f"(development loss {described.trained.dev_loss:.4f})\n"
        f"- Embeddings: {training.width} numbers of unit length, compared by {described.similarity}"
        f"{'; ReLU, so cosines lie in [0, 1]' if training.activation == 'relu' else ''}\n"
        f"- Labels: valence and arousal from {low:g} to {high:g}\n"
    )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _usage(described: Description, name: str) -> str:
    """A snippet that runs where `clip.wav` is."""
    arguments = [json.dumps(name, ensure_ascii=False)]
    for side, config in _encoders(described).items():
        if config.model is None and config.encoder in NEED_MODEL:
            arguments.append(f'{side}_model="the/folder/of/the/{side}/encoder"')
    needs = " The embedded encoders come with `pip install 'emotionrankclap[embedded]'`."
    embedded = any(config.encoder == "embedded" for config in _encoders(described).values())
    own = [f"`{_plain(config.encoder)}`" for side, config in _encoders(described).items() if _is_own(side, config)]
    code = f" Register the author's own {' and '.join(own)} first: their code is not part of this model." if own else ""
    return (
        "## Use\n\n```python\nfrom pipeline import EmotionRankCLAP\n\n"
        f"model = EmotionRankCLAP.from_pretrained({', '.join(arguments)})\n"
        'speech = model.encode_speech(["clip.wav"])\n'
        f"text = model.encode_text([{_CAPTION}])\n"
        "print(model.similarity(speech, text))  # (1, 1)\n```\n\n"
        "The encoders are loaded when they are first used, and refused when they are others than these heads were "
        f"trained on.{needs if embedded else ''}{code}\n"
    )


def _is_own(side: str, config: AudioConfig | TextConfig) -> bool:
    return config.encoder not in BUILT_IN["audio encoder" if side == "audio" else "text encoder"]


def _made_from(described: Description) -> str:
    rows = "".join(f"| {_cell(split)} | {count:,} |\n" for split, count in described.data.utterances.items())
    lines = "".join(_encoder(side, config, described) for side, config in _encoders(described).items())
    decoding = _plain(json.dumps(described.fingerprint.audio.get("decoding", {})))
    return (
        f"## Data\n\nCorpus reader `{_plain(described.data.corpus)}`. Utterances:\n\n"
        f"| split | utterances |\n|---|---|\n{rows}\n"
        f"## Encoders\n\n| | encoder | model | revision | sha256 of the weights |\n|---|---|---|---|---|\n{lines}\n"
        f"Audio is decoded as {decoding}, mono; sentences are cut at {described.encoders.text.max_tokens} tokens or "
        "where the encoder ends. All that changes a vector stands in config.json.\n"
    )


def _encoders(described: Description) -> dict[str, AudioConfig | TextConfig]:
    return {"audio": described.encoders.audio, "text": described.encoders.text}


def _encoder(side: str, config: AudioConfig | TextConfig, described: Description) -> str:
    fingerprint: Mapping[str, Any] = getattr(described.fingerprint, side)
    encoder = fingerprint.get("encoder")
    weights = encoder.get("weights_sha256", "") if isinstance(encoder, dict) else ""
    named = config.model or ("a folder" if config.encoder in NEED_MODEL else "its own")
    cells = (side, config.encoder, named, config.revision or "", str(weights))
    return f"| {' | '.join(map(_cell, cells))} |\n"


def _figures(found: Evaluation | None, seed: int) -> str:
    if found is None:
        return "## Evaluation\n\nNone yet: `evaluate-heads` on the run, then export again.\n"
    several = found.seeds > 1
    head = f"| | seed {seed} |{f' all {found.seeds} seeds |' if several else ''} convention |\n"
    rule = "|---" * (3 + several) + "|\n"
    rows = "".join(
        f"| {_cell(name)} | {_shown(figure)} |"
        f"{f' {_shown(found.all_seeds[name])} |' if several and name in found.all_seeds else ' |' * several}"
        f" {_cell(figure.convention)} |\n"
        for name, figure in found.heads.items()
    )
    return (
        f"## Evaluation\n\nSplit `{_plain(found.split)}`, {found.utterances:,} utterances, captions of style "
        f"`{_plain(found.style)}`; mean ± standard deviation over lists (AOC, VOC: higher is better) or trials "
        f"(distances: lower is better).\n\n{head}{rule}{rows}"
    )


def _shown(figure: MeasuredFigure) -> str:
    return f"{figure.mean:.3f} ± {figure.std:.3f}"


def _plain(text: str) -> str:
    """A name in prose: one line, no backticks, no markup."""
    return " ".join("".join(letter for letter in text if letter not in "`<>[]").split())


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
