"""Corpora as manifests: `read_corpus` turns a folder of labels and audio into rows that never move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cache.manifest import Manifest
from pipeline.core.config import CorpusConfig
from pipeline.data.corpora.acted import read_acted
from pipeline.data.corpora.generic import read_generic
from pipeline.data.corpora.iemocap import read_iemocap
from pipeline.data.corpora.label_names import with_categories
from pipeline.data.corpora.leaks import speaker_leaks
from pipeline.data.corpora.msp_podcast import read_msp_podcast

_READERS: dict[str, Callable[[CorpusConfig], Manifest]] = {
    "msp_podcast": read_msp_podcast,
    "iemocap": read_iemocap,
    "ravdess": read_acted,
    "emodb": read_acted,
    "cremad": read_acted,
    "tess": read_acted,
    "manifest": read_generic,
}


def read_corpus(config: CorpusConfig) -> Manifest:
    """The utterances of the corpus that `config` names, labels on 1-7; `notes` says what was read and dropped.

    Raises ManyProblems with every faulty row at once, UsageError when a file or folder is not there, or `config.merge`
    or `config.keep` names an emotion that no utterance has. `leaks` says what stands in more than one split; it is in
    the notes too.
    """
    manifest = with_categories(_READERS[config.reader](config), config)
    leaks = [*speaker_leaks(manifest.speaker, manifest.split), *manifest.leaks]
    unknown = manifest.speaker.count("")
    notes = [f"{unknown:,} utterances have no speaker: whose voice they are is not known"] if unknown else []
    return replace(manifest, leaks=leaks, notes=[*manifest.notes, *notes, *(f"WARNING: {leak}" for leak in leaks)])
