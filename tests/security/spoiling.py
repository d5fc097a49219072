"""One thing wrong with a model folder, chosen by a seed: bad downloads, bad disks, bad neighbours."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 7, 100_000, 1_000_000, 2**31, 2**63, 10**30, -(10**9)),
    *(0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "../../x", "/etc/passwd", "evil/code", "\ud800", "\n", "a" * 400),
    *([], {}, [[]], [0], {"": None}, {"auto_map": {"AutoModel": "evil/code--own_code.Own"}}),
)


def spoil(folder: Path, draw: random.Random) -> str:
    """Spoil one file of `folder`; -> what was done, in words."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    path = draw.choice(files)
    ways: list[Callable[[Path, random.Random], str]] = [_bytes_flipped, _cut_off, _replaced]
    if path.suffix == ".json":
        ways = [_value_changed] * 4 + [_key_lost, _key_added, _bytes_flipped, _cut_off, _replaced]
    elif path.suffix == ".safetensors":
        ways = [_header_changed] * 4 + [_shards_named, _bytes_flipped, _cut_off, _replaced]
    return f"{path.name}: {draw.choice(ways)(path, draw)}"


def _value_changed(path: Path, draw: random.Random) -> str:
    tree = json.loads(path.read_text())
    place, key = draw.choice(list(_places(tree)))
    place[key] = draw.choice(VALUES)
    path.write_text(json.dumps(tree))
    return f"{key} = {place[key]!r:.40}"


def _key_lost(path: Path, draw: random.Random) -> str:
    tree = json.loads(path.read_text())
    place, key = draw.choice(list(_places(tree)))
    del place[key]
    path.write_text(json.dumps(tree))
    return f"no {key}"


ADDED = (
    *("attn_implementation", "experts_implementation", "auto_map", "quantization_config", "model_type", "dtype"),
    *("tokenizer_class", "added_tokens_decoder", "extra_special_tokens", "vocab_file", "is_encoder_decoder"),
    *("sampling_rate", "hidden_act", "num_hidden_layers", "hidden_size", "rope_scaling", "add_adapter"),
    *("feature_extractor_type", "chat_template", "model_max_length", "pad_token", "max_position_embeddings"),
)


def _key_added(path: Path, draw: random.Random) -> str:
    tree = json.loads(path.read_text())
    key, value = draw.choice(ADDED), draw.choice(VALUES)
    path.write_text(json.dumps((tree if isinstance(tree, dict) else {}) | {key: value}))
    return f"{key} = {value!r:.40}"


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []
    return [(tree, key) for key in keys] + [place for key in keys for place in _places(tree[key])]


def _header_changed(path: Path, draw: random.Random) -> str:
    """A safetensors file: 8 bytes that say how long the header is, a JSON header, the tensors."""
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    place, key = draw.choice(list(_places(header)))
    place[key] = draw.choice(VALUES)
    text = json.dumps(header).encode()
    path.write_bytes(draw.choice([len(text), size, 2**60]).to_bytes(8, "little") + text + whole[8 + size :])
    return f"header {key} = {place[key]!r:.40}"


def _shards_named(path: Path, draw: random.Random) -> str:
    """The weights as shards: in a list that climbs out, names what is not there, or is no list."""
    name = draw.choice(["../" + path.name, "../../x", "/etc/passwd", "lost.safetensors", "", ".", "config.json", "\0"])
    table = draw.choice([{"weight_map": {"a": name}}, {"weight_map": [name]}, {"weight_map": {"a": 3}}, {}, []])
    path.with_name("model.safetensors.index.json").write_text(json.dumps(table))
    path.unlink()
    return f"shards {table}"


def _bytes_flipped(path: Path, draw: random.Random) -> str:
    whole = bytearray(path.read_bytes())
    ends = [len(whole), min(400, len(whole))]  # anywhere, or in the header
    places = [draw.randrange(draw.choice(ends)) for _ in "abc"]
    for place in places:
        whole[place] ^= 1 << draw.randrange(8)
    path.write_bytes(whole)
    return f"bits of {places} flipped"


def _cut_off(path: Path, draw: random.Random) -> str:
    whole = path.read_bytes()
    size = draw.choice([0, 1, 7, len(whole) // 2, len(whole) - 1])
    path.write_bytes(whole[:size])
    return f"cut off at {size}"


def _replaced(path: Path, draw: random.Random) -> str:
    kind = draw.choice(["nothing", "a folder", "itself by a link", "text", "a nest", "an HTML page"])
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "itself by a link":
        path.symlink_to(path.name)
    elif kind != "nothing":
        path.write_text({"text": "oops", "a nest": "[" * 100_000, "an HTML page": "<html>404</html>"}[kind])
    return kind
