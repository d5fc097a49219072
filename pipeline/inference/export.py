"""An exported model: what `save_pretrained` writes and `from_pretrained` reads.

model.safetensors    the heads, with a checksum
config.json          what they are: encoders, fingerprints, method, data, figures
README.md            the model card
*_head.onnx          where they are asked for, the heads for other programs; nothing here reads them
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from cache.disk import make_folder, remove, write_atomic, write_text
from pipeline.core.errors import StoreCorrupt, UsageError
from pipeline.core.files import open_regular, parse_json
from pipeline.core.hub import looks_like_hub_name
from pipeline.inference.description import SETTINGS, Description
from pipeline.inference.model_card import card_of
from pipeline.inference.onnx_heads import ONNX_FILES, onnx_files
from pipeline.training.heads import Heads, load_heads, save_heads
from pipeline.training.run_folder import first_wrong

HEADS, CARD = "model.safetensors", "README.md"
EXPORT_AGAIN = "Export it again, or download it again."
MAX_CONFIG_BYTES = 1 << 20


def read_model(folder: Path) -> tuple[Heads, Description]:
    """An exported model. Nothing is unpickled. Raises StoreCorrupt where a file is corrupt or of another model."""
    described, settings = _description(folder / SETTINGS)
    try:
        heads, identity = load_heads(folder / HEADS)
    except StoreCorrupt as error:
        raise StoreCorrupt(error.subject, error.found, "what save_pretrained wrote", EXPORT_AGAIN) from None
    expected = described.identity(settings)
    digest = expected.pop(SETTINGS)
    if identity.pop(SETTINGS, digest) != digest:  # a release of before had only `trained` and `fingerprint` there
        expected_bytes = "the bytes that save_pretrained wrote"
        raise StoreCorrupt(folder / SETTINGS, "corrupt or edited: other bytes", expected_bytes, EXPORT_AGAIN)
    if identity != expected:
        found = f"other heads than {SETTINGS} describes"
        raise StoreCorrupt(folder / HEADS, found, "those it was exported with", EXPORT_AGAIN)
    return heads, described


def write_model(folder: Path, heads: Heads, described: Description, name: str, *, onnx: bool = False) -> None:
    """Export as `name`, which the card shows for `from_pretrained`; with `onnx` the heads as ONNX files as well.

    A failure leaves no file: config.json is removed first and written last, so a folder that has one is whole. An
    earlier export's ONNX files are removed too. Raises UsageError where `folder` holds a run or another model's files,
    and without the package onnx.
    """
    described = described.portable()
    settings = described.encode()
    graphs = onnx_files(heads, described, settings) if onnx else {}
    card = card_of(described, name, graphs)
    _refuse_foreign(folder)
    make_folder(folder)
    remove(folder / SETTINGS)
    try:
        for file in ONNX_FILES:
            remove(folder / file)
        save_heads(heads, folder / HEADS, described.identity(settings))
        for file, contents in graphs.items():
            write_atomic(folder / file, [contents])
        write_text(folder / CARD, card)
        write_atomic(folder / SETTINGS, [settings])
    except BaseException:
        for file in (SETTINGS, *ONNX_FILES, CARD, HEADS):
            remove(folder / file)
        raise


def _description(path: Path) -> tuple[Description, bytes]:
    """What config.json describes, and its bytes."""
    with open_regular(path, "rb", expected="an exported model's") as file:
        raw = file.read(MAX_CONFIG_BYTES + 1)
    try:
        if len(raw) > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES:,} bytes")
        described = Description.model_validate(parse_json(raw))
        for config in (described.encoders.audio, described.encoders.text):
            if config.model is not None and not looks_like_hub_name(config.model):
                raise ValueError("a path as an encoder's model")
    except (ValueError, RecursionError) as error:  # pydantic's is a ValueError
        found = f"cannot be read ({first_wrong(error)})"
        raise StoreCorrupt(path, found, "what save_pretrained wrote", EXPORT_AGAIN) from None
    return described, raw


def _refuse_foreign(folder: Path) -> None:
    """Refuse a run, and files of these names unless one of them is an export of ours."""
    if (folder / "run.json").exists():
        raise UsageError(folder, "holds a run", "a new or empty folder", "Choose another folder.")
    if any((folder / name).exists() for name in (HEADS, SETTINGS, CARD, *ONNX_FILES)):
        for read, name in ((_description, SETTINGS), (load_heads, HEADS)):
            with suppress(StoreCorrupt, UsageError):
                read(folder / name)
                return
        raise UsageError(folder, "holds files of something else", "a new or empty folder", "Choose another folder.")
