"""Submission files of the Interspeech 2025 challenge on MSP-Podcast: what the shared space says of Test3.

    write_challenge("runs/erc", "submission")    # submission/test3_categories.csv, submission/test3_attributes.csv

The challenge (Naini et al., *The Interspeech 2025 Challenge on Speech Emotion Recognition in Naturalistic Conditions*)
has two tasks on the turns of Test3, whose labels are hidden:

1. categories: `FileName,EmoClass`, one of the letters A S H U F D C N (F30). The header is that of public code of
   participants; the organisers' own script writes the scores of all classes, which a leaderboard does not take.
2. attributes: `FileName,EmoAct,EmoVal,EmoDom`, each 1 to 7, as the organisers' `eval_dim_ser.py` writes it
   (github.com/msplabresearch/MSP-Podcast_Challenge_IS2025).

The instructions on the challenge's own page were not at hand. Predictions are the linear read-outs of
`pipeline.evaluation.readout`: fitted on the training split, penalties chosen on the development split, outputs averaged
over the seeds of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.disk import make_folder, translate_os_errors, write_text
from cache.stores import Stores
from pipeline.core.config_files import word_list
from pipeline.core.errors import UsageError
from pipeline.core.files import csv_text
from pipeline.core.resources import pick_device
from pipeline.evaluation.readout import CATEGORY, ReadOut, Target
from pipeline.training.run_folder import Run, open_run

log = logging.getLogger(__name__)

SPLIT = "test3"
FILES = {"categories": "test3_categories.csv", "attributes": "test3_attributes.csv"}
_ATTRIBUTES = {"EmoAct": "arousal", "EmoVal": "valence", "EmoDom": "dominance"}  # in the order of the file
_LOW, _HIGH, _DECIMALS = 1.0, 7.0, 4


def write_challenge(
    run: Run | str | Path, out: str | Path, *, stores: Stores | str | Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Write what `run` predicts of the turns of Test3 to the folder `out`, one file a task, sorted by file name.

        write_challenge("runs/erc", "submission", stores="stores/msp")["utterances"]

    Returns `{"split", "utterances", "seeds", "files": {"categories": path, "attributes": path}}`. A task whose labels
    the training or the development split lacks has no file, which is logged. Raises UsageError where the stores have no
    Test3, where some of it is not encoded, or where nothing can be read out.
    """
    run, out = run if isinstance(run, Run) else open_run(run), Path(out)
    opened, chosen = run.stores(stores), pick_device(device)
    rows = opened.manifest.rows(SPLIT)
    if not len(rows):
        found = f"splits {', '.join(sorted(set(opened.manifest.split)))}"
        action = "Run extract-features msp_podcast with Partitions.txt in the corpus (docs/msp_podcast.md)."
        raise UsageError(opened.folder, found, f"{SPLIT} among them", action)
    missing = int((~opened.audio.done(rows)).sum())
    if missing:
        action = "Run extract-features --retry-failed."
        raise UsageError(opened.folder, f"{missing} of {len(rows)} of {SPLIT} not encoded", "all of them", action)
    readout = ReadOut(opened, "dev", chosen)  # what is known of train and dev; nothing is known of Test3
    spaces = [run.heads_for(opened, seed).to(chosen).embed_speech for seed in run.seeds]
    means = _means([readout.predict(embed, rows) for embed in spaces], readout.targets[0])
    columns = {"categories": _letters(means, readout.categories), "attributes": _attributes(means)}
    names = [Path(opened.manifest.audio[row]).name for row in rows.tolist()]
    if not any(columns.values()):
        expected = "categories by MSP-Podcast's names, or valence, arousal and dominance"
        raise UsageError(opened.folder, "train and dev without such labels", expected, "Use stores of MSP-Podcast.")
    files: dict[str, str] = {}
    with translate_os_errors(out):
        make_folder(out)
        for task, of_task in columns.items():
            if not of_task:
                log.warning(f"no {FILES[task]}: the labels of task {task} are not known in both train and dev")
                continue
            lines = sorted(zip(names, *of_task.values(), strict=True))
            write_text(out / FILES[task], csv_text(["FileName", *of_task], lines))
            files[task] = str(out / FILES[task])
    log.info(f"challenge: {', '.join(files.values())}, {len(rows)} turns of {SPLIT}")
    return {"split": SPLIT, "utterances": len(rows), "seeds": run.seeds, "files": files}


def _means(of_seeds: Sequence[list[NDArray[np.float64]]], targets: Sequence[Target]) -> dict[str, NDArray[np.float64]]:
    """The mean output by label: (n, k) of the category, (n,) of an attribute."""
    found: dict[str, NDArray[np.float64]] = {}
    for target, outputs in zip(targets, zip(*of_seeds, strict=True), strict=True):
        mean = np.mean(outputs, axis=0)
        found |= {CATEGORY: mean} if target.names == [CATEGORY] else dict(zip(target.names, mean.T, strict=True))
    return found


def _letters(means: dict[str, NDArray[np.float64]], categories: list[str]) -> dict[str, list[str]]:
    """The letter of the highest output (n, k) of those that have one."""
    letters = {name: letter for letter, name in word_list("labels/annotated")["msp_podcast"]["emotions"].items()}
    lettered = [place for place, name in enumerate(categories) if name in letters]
    if CATEGORY not in means or not lettered:
        return {}
    best = means[CATEGORY][:, lettered].argmax(axis=1).tolist()
    return {"EmoClass": [letters[categories[lettered[place]]] for place in best]}


def _attributes(means: dict[str, NDArray[np.float64]]) -> dict[str, list[str]]:
    """The three attributes, within the scale."""
    if not means.keys() >= set(_ATTRIBUTES.values()):
        return {}
    return {
        column: [f"{value:.{_DECIMALS}f}" for value in means[name].clip(_LOW, _HIGH).tolist()]
        for column, name in _ATTRIBUTES.items()
    }
