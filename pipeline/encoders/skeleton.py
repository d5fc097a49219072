"""A transformers model built from its config alone: own classes only, no weights, no chatter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.encoders.folders import read_json
from pipeline.errors import UsageError

_SHAPING = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "feat_extract_norm",
    "do_stable_layer_norm",
)


def read_config(folder: Path) -> Any:
    """The model's config as a class of transformers. A folder's own code is never executed (F21).

    Raises UsageError for a model type that transformers does not know, with or without code of its own.
    """
    from transformers import AutoConfig

    tree = read_json(folder / "config.json")
    try:
        with quietly():
            return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        kind = f"model_type {tree.get('model_type')!r}"
        reason = "with code of its own (never executed)" if "auto_map" in tree else str(error).partition("\n")[0]
        raise UsageError(
            folder / "config.json", f"{kind}, {reason}", "a model of transformers' own", "Choose another model."
        ) from None


def bare_model(config: Any, subject: object) -> Any:
    """The model without heads that a config describes, one of transformers' own classes, its weights not yet set."""
    from transformers import AutoModel

    auto: Any = AutoModel
    return skeleton(lambda: auto.from_config(config, trust_remote_code=False), subject)


def skeleton(build: Callable[[], Any], subject: object) -> Any:
    """What `build` makes, as float32 in eval mode, its weights not yet set. Raises UsageError for a bad config."""
    from transformers.initialization import no_init_weights

    try:
        with quietly(), no_init_weights():
            model = build()
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(subject, f"cannot be built ({reason})", "a sound config.json", "Download it again.") from None
    return model.to(torch.float32).eval().requires_grad_(False)


def architecture(config: Any) -> dict[str, Any]:
    """The declared fields of a config that change a vector and that the weights do not show."""
    return {name: getattr(config, name) for name in _SHAPING if hasattr(config, name)}


@contextmanager
def quietly() -> Iterator[None]:
    """transformers without progress bars and advice; its errors still come through."""
    from transformers import utils

    logging: Any = utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
