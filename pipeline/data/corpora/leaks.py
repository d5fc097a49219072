"""What stands in training and in a test as well: voices, recordings and sentences that a test would hear again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pipeline.data.corpora.locations import AudioFiles

_SHOWN = 3  # names or pairs of ids


def split_part(split: str) -> str:
    """train, dev or test: the test splits of a corpus may share speakers."""
    return "test" if split.startswith("test") else split


def shared_speakers(speaker: Sequence[str], split: Sequence[str]) -> dict[str, list[str]]:
    """Each speaker of more than one part (train, dev, test), with these parts; unknown speakers are nobody."""
    parts: dict[str, set[str]] = defaultdict(set)
    for name, part in {(name, split_part(each)) for name, each in set(zip(speaker, split, strict=True)) if name}:
        parts[name].add(part)
    order = ("train", "dev", "test")
    return {name: sorted(parts[name], key=order.index) for name in sorted(parts) if len(parts[name]) > 1}


def speaker_leaks(speaker: Sequence[str], split: Sequence[str]) -> Iterator[str]:
    """One line about the speakers of more than one part; none where there is no such speaker."""
    shared = shared_speakers(speaker, split)
    if shared:
        rows = sum(name in shared for name in speaker)
        shown = _first_few([f"{name} in {' and '.join(parts)}" for name, parts in shared.items()])
        yield (
            f"{len(shared):,} speakers stand in more than one split, with {rows:,} utterances, so that a test hears "
            f"voices that were trained on: {shown}"
        )


def sentence_leaks(sentence: Sequence[str], split: Sequence[str]) -> Iterator[str]:
    """One line about the sentences (N,) that are spoken in a test and in training too."""
    spoken: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set()}
    for text, each in zip(sentence, split, strict=True):
        spoken[split_part(each)].add(text.casefold())
    shared = (spoken["train"] & spoken["test"]) - {""}
    if shared:
        rows = sum(text.casefold() in shared for text in sentence)
        shown = _first_few([repr(text[:40]) for text in sorted(shared)])
        yield (
            f"{len(shared):,} sentences are spoken in training and in a test, by {rows:,} utterances, so that words "
            f"may tell what the voice should: {shown}"
        )


def same_audio(
    ids: Sequence[str], audio: Sequence[str], split: Sequence[str], files: AudioFiles
) -> tuple[list[str], list[str]]:
    """One file under several ids: a note about how many and the first few, and a line about those in two splits."""
    if len(set(audio)) == len(audio) and not any(path[0] in "/." for path in audio):
        return [], []
    whole = [files.whole(path) if path[0] in "/." else path for path in (files.inside(path) or path for path in audio)]
    first: dict[str, int] = {}
    twice = [(first[path], row) for row, path in enumerate(whole) if first.setdefault(path, row) != row]
    leaks = [(one, other) for one, other in twice if split[one] != split[other]]
    shown = [f"{ids[one]} and {ids[other]}" for one, other in twice]
    leaking = [f"{ids[one]} and {ids[other]}" for one, other in leaks]
    notes = [f"{len(twice):,} utterances are another's audio file: {_first_few(shown)}"] if twice else []
    found = f"{len(leaks):,} audio files stand in two splits, so that a test hears what was trained on"
    return notes, [f"{found}: {_first_few(leaking)}"] if leaks else []


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
