"""README.md of an exported model: huggingface_hub's metadata over the text of model_card.md.j2.

Everything may come from another person's config.json, so every value in the text is escaped, unless it is already safe.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from cache.errors import one_line
from cache.fingerprint import leaves
from pipeline.core.plugins import BUILT_IN
from pipeline.extraction.encoders import NEED_MODEL
from pipeline.inference.description import Description, MeasuredFigure

# corpus reader -> name, language (ISO 639-1)
CORPORA = {
    "msp_podcast": ("MSP-Podcast", "en"),
    "iemocap": ("IEMOCAP", "en"),
    "ravdess": ("RAVDESS", "en"),
    "emodb": ("EmoDB", "de"),
    "cremad": ("CREMA-D", "en"),
    "tess": ("TESS", "en"),
}
METRICS = {
    "aoc": "AOC, Kendall's tau of arousal",
    "voc": "VOC, Kendall's tau of valence",
    "mmd": "maximum mean discrepancy (MMD) between speech and text",
    "wasserstein": "Wasserstein distance between speech and text",
    "sliced_wasserstein": "sliced Wasserstein distance between speech and text",
}


def card_of(described: Description, name: str, onnx_files: Mapping[str, bytes] | None = None) -> str:
    """The model card, Markdown with YAML metadata; `name` is the folder or hub name for `from_pretrained`.

    `onnx_files` are those beside it, by name.
    """
    from jinja2 import Environment, StrictUndefined

    name = name.encode("utf-8", "replace").decode()
    environment = Environment(undefined=StrictUndefined, finalize=_escaped, keep_trailing_newline=True)
    template = environment.from_string((files("pipeline.inference") / "model_card.md.j2").read_text("utf-8"))
    digests = {file: hashlib.sha256(contents).hexdigest() for file, contents in (onnx_files or {}).items()}
    text = template.render(name=name, onnx=digests, **_values(described, name))
    return f"---\n{_metadata(described, name)}\n---\n\n{text}"


def _metadata(described: Description, name: str) -> str:
    """The YAML front matter; corpora by the name of their reader alone, encoders only where they are on the hub."""
    from huggingface_hub import EvalResult, ModelCardData

    corpus, language = CORPORA.get(described.data.corpus, ("custom corpus", None))
    known = corpus != "custom corpus"
    evaluation, results = described.evaluation, []
    if evaluation:
        results = [
            EvalResult(
                task_type="feature-extraction",
                task_name="Embeddings of speech and text",
                dataset_type=described.data.corpus if known else "custom",
                dataset_name=corpus,
                dataset_split=one_line(evaluation.split),
                metric_type=metric,
                metric_name=METRICS[metric],
                metric_value=figure.mean,
                metric_args={"std": figure.std, "seed": described.trained.seed},
            )
            for metric, figure in evaluation.heads.items()
            if metric in METRICS
        ]
    models = [config.model for _, config in described.encoders if config.model]
    data = ModelCardData(
        model_name=one_line(name),
        library_name="emotionrankclap",
        pipeline_tag="feature-extraction",
        license="other",
        license_name="as-the-training-data",
        language=language,
        base_model=models or None,
        datasets=[described.data.corpus] if known else None,
        metrics=[result.metric_type for result in results] or None,
        tags=["speech", "emotion", "audio-text-retrieval", "contrastive-learning", "clap"],
        eval_results=results or None,
    )
    return str(data.to_yaml(line_break="\n"))


def _values(described: Description, name: str) -> dict[str, Any]:
    """What the template shows, beside the fields of `described`."""
    configs = dict(described.encoders)
    settings = described.training.objective.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    arguments = [json.dumps(name, ensure_ascii=False)]
    weights = {}
    for side, config in configs.items():
        if config.model is None and config.encoder in NEED_MODEL:
            arguments.append(f'{side}_model="the/folder/of/the/{side}/encoder"')
        fingerprint = getattr(described.fingerprint, side).get("encoder")
        weights[side] = str(fingerprint.get("weights_sha256", "")) if isinstance(fingerprint, dict) else ""
    built_in = {*BUILT_IN["audio encoder"], *BUILT_IN["text encoder"]}
    return dict(described) | {
        "objective_settings": ", ".join(
            f"{key} {' and '.join(map(str, value)) if isinstance(value, list) else value}"
            for key, value in leaves(settings)
        ),
        "arguments": ", ".join(arguments),
        "embedded": any(config.encoder == "embedded" for config in configs.values()),
        "custom": [config.encoder for config in configs.values() if config.encoder not in built_in],
        "need_model": NEED_MODEL,
        "weights": weights,
        "decoding": json.dumps(described.fingerprint.audio.get("decoding", {})),
        "shown": _shown,
    }


def _shown(figure: MeasuredFigure | None) -> str:
    return f"{figure.mean:.3f} ± {figure.std:.3f}" if figure else ""


def _escaped(value: object) -> object:
    """One line without backticks and brackets, with bars escaped: no markup, no link, no further table cell."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    kept = "".join(letter for letter in value if letter not in "`<>[]")
    return " ".join(kept.split()).replace("|", "\\|")
