"""What the replay of the pages changes, and what it leaves out: all of it stands here."""

from __future__ import annotations

import re

# the defaults of the configs in the sandbox: (model, field) -> value. What a page writes out is not touched.
QUICK = {
    ("CaptionsConfig", "prompt_variants"): 1,
    ("CaptionsConfig", "per_utterance"): 1,
    ("CaptionsConfig", "grid"): False,
    ("TrainConfig", "epochs"): 2,
    ("TrainConfig", "width"): 16,
    ("TrainConfig", "batch_size"): 16,
    ("TrainConfig", "threads"): 1,
    ("EvaluateConfig", "trials"): 2,
    ("EvaluateConfig", "lists"): 14,
    ("EvaluateConfig", "pairs"): 40,
}
DEMO_UTTERANCES = 120  # in place of 800

# what a page writes -> what it is in the sandbox (`{root}` is the sandbox's folder, `{endpoint}` a server on loopback)
STANDS_FOR = {
    ".venv/bin/": "",
    "/data/": "{root}/data/",
    "/shared/": "{root}/shared/",
    "/tmp/": "{root}/tmp/",
    "http://127.0.0.1:8080/v1": "{endpoint}",
}

# commands that are documented and not run, by how they begin; the reason is for the reader of this table
NOT_RUN = {
    "python3 -m venv": "an environment of gigabytes; .ci/run makes one",
    "pip install": "needs a package index",
    "uv pip install": "needs uv and a package index",
    "pip freeze": "lists the environment for pip-audit",
    "audit/bin/pip": "as pip",
    "audit/bin/pip-audit": "asks a vulnerability service",
    "pytest": "the tests themselves",
    "git clone": "needs the repository's address",
    "cd": "into the clone, which this is",
    "ray start": "a cluster of several machines; tests/extraction/engines/test_ray_pool.py has two nodes on this one",
    "ray stop": "as above",
    "ray get-auth-token": "as above",
    "sbatch": "needs Slurm",
    "hf auth": "needs an account at the hub",
    "hf download": "needs the hub",
    "ssh": "needs another machine",
    "docker": "needs a container runtime",
    "tensorboard": "serves until it is stopped",
    "jupyter": "serves until it is stopped; tests/docs/test_notebook.py runs the notebook",
    "optuna-dashboard": "serves until it is stopped",
    "xdg-open": "needs a desktop",
    "apt-get": "installs on the system",
    "source": "an environment that is not there",
    "eval": "into the reader's shell; completion is tested in tests/commands",
}
NOT_RUN_WITH = {
    "--serve": "serves until it is stopped; tests/inference/web",
    "postgresql": "needs a database server",
    "postgresql+psycopg2": "needs a database server",
    "--device cuda": "needs a GPU",
    "--wandb": "needs the extra wandb; tests/training/test_callbacks.py",
    "labels.xlsx": "needs the extra tables; tests/data/corpora/test_label_tables.py",
    "my/dataset": "likewise",
    "EmoBox/data": "needs EmoBox; tests/data/corpora/test_label_tables.py has its form",
}
NOT_RUN_PYTHON = {
    "push_to_hub": "tested against a hub on loopback in tests/inference/test_hub.py",
    "serve(": "serves until it is stopped",
    "import mteb": "needs the extra mteb; tests/inference/test_mteb.py runs what needs no hub",
}

PLAIN = {"cat", "cp", "cut", "echo", "export", "grep", "head", "ls", "mkdir", "mv", "rm", "tail", "tee", "wc", "kill"}


def reason_not_to_run(words: list[str]) -> str:
    """Why the simple command `words` is left out; "" for one that is run."""
    said = re.sub(r"^\.venv/bin/", "", " ".join(words))
    for start, reason in NOT_RUN.items():
        if said == start or said.startswith(f"{start} "):
            return reason
    return next((reason for part, reason in NOT_RUN_WITH.items() if re.search(rf"{re.escape(part)}\b", said)), "")
