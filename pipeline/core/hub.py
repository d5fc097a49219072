"""Models on the Hugging Face hub: fetched as tensors, JSON and text only; pushed as one commit.

The token is the hub client's (`hf auth login`, or HF_TOKEN): it is neither a setting here nor written to a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cache.errors import EmotionRankError, UsageError

FETCHED = ["*.safetensors", "*.json", "*.md"]
PUSHED = [*FETCHED, "*.onnx"]  # which is for other programs
_MAX_REASON = 300  # characters


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """The folder `name`, or the snapshot of a hub's model of that name. Raises UsageError in one line."""
    name = str(name)
    if os.path.isdir(os.path.expanduser(name)):
        return Path(name).expanduser()
    if not looks_like_hub_name(name):
        raise UsageError(name, "no such folder", "a RUN folder, an exported one or a hub name", "Check the path.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FETCHED))
    except _client_errors() as error:
        found = f"no such folder, and not on the hub ({_reason(error)})"
        raise UsageError(name, found, "a folder or a hub's model", "Check the name and the network.") from None


def looks_like_hub_name(name: str) -> bool:
    """Whether `name` is `model` or `owner/model`, and no path."""
    return bool(name) and not name.startswith((".", "/", "~")) and name.count("/") <= 1 and "\\" not in name


def push_folder(
    folder: Path, repo_id: str, *, optional: Sequence[str], private: bool, revision: str | None, message: str,
    endpoint: str | None,
) -> str:  # fmt: skip
    """Upload `folder`'s tensors, JSON, text and ONNX as one commit; returns its URL.

    Files of the names `optional` that an earlier commit has and `folder` has not are deleted. Raises EmotionRankError
    in one line, and UsageError where `private` is asked for and the repository is public.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, library_name="emotionrankclap")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.repo_info(repo_id).private:  # one that was there before keeps its visibility
            raise UsageError(repo_id, "a public repository", "a private one", "Choose another, or pass private=False.")
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message, allow_patterns=PUSHED,
            delete_patterns=list(optional),
        )  # fmt: skip
    except _client_errors() as error:
        found = f"not pushed ({_reason(error)})"
        raise EmotionRankError(
            repo_id, found, "a repository you may write to", "Check `hf auth whoami` (or HF_TOKEN) and the network."
        ) from None
    return str(commit.commit_url)


def _client_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises, and the network library below it."""
    from huggingface_hub import errors

    return OSError, ValueError, getattr(errors, "HTTPError", OSError)


def _reason(error: Exception) -> str:
    """The message of `error` on one line, without the token should a response repeat it."""
    from huggingface_hub import get_token

    message = " ".join(str(error).split()) or type(error).__name__
    token = get_token()
    return (message.replace(token, "***") if token else message)[:_MAX_REASON]
