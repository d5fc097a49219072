"""A transformers model built from its config alone: own classes only, no weights, no chatter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.encoders.folders import first_line, read_json
from pipeline.errors import UsageError

_MOST_LAYERS = 1000  # a hundred thousand take hours to build
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

    Nor are the kernels that a config may name (`attn_implementation: somebody/kernels` is fetched and run as machine
    code): how a model attends is not its config's to say. Raises UsageError for a model type that transformers does
    not know, with or without code of its own.
    """
    from transformers import AutoConfig

    tree = read_json(folder / "config.json")
    _is_no_tower(tree, folder / "config.json")
    try:
        with quietly():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            config._attn_implementation = config._experts_implementation = None
    except Exception as error:  # transformers raises what a wrong value happens to break
        kind = f"model_type {tree.get('model_type')!r:.40}"
        reason = "with code of its own (never executed)" if "auto_map" in tree else first_line(error)
        raise UsageError(
            folder / "config.json", f"{kind}, {reason}", "a model of transformers' own", "Choose another model."
        ) from error
    return config


def _is_no_tower(tree: dict[str, Any], subject: object) -> None:
    """Raises UsageError for more layers than are ever built: a model is built before its weights can tell."""
    for name, value in tree.items():
        if name.endswith("layers") and isinstance(value, int | float) and value > _MOST_LAYERS:
            found = f"{name!r:.60} {value:g}"
            raise UsageError(subject, found, f"at most {_MOST_LAYERS:,}", "Download the model again.")


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
    except Exception as error:  # see `read_config`
        found = f"cannot be built ({first_line(error)})"
        raise UsageError(subject, found, "a sound config.json", "Download it again.") from error
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
