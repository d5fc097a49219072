"""`ManifestBuilder`: readers hand it utterances one by one; it checks them all and then makes the manifest, or none.

Two million rows fit: every column is one list, repeated text is held once, a label that comes again is not read again,
and folders are listed once (AudioFiles).
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Literal

import numpy as np

from cache.manifest import LABEL_COLUMNS, RATING_COLUMNS, SPLITS, TEXT_COLUMNS, TRANSCRIPT, Manifest
from pipeline.core.errors import ManyProblems, UsageError
from pipeline.data.corpora.label_names import GENDERS, canonical_split, closest, is_missing, with_one_spelling
from pipeline.data.corpora.label_scales import STANDARD, LabelScales, Range
from pipeline.data.corpora.leaks import same_audio, sentence_leaks
from pipeline.data.corpora.locations import AudioFiles, Escapes, posix_path
from pipeline.data.corpora.ratings import RatingColumns
from pipeline.data.corpora.tables import plain_line

# what would break a line of manifest.csv, or cannot be written as UTF-8
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff]")
_CATEGORIES = ("split", "emotion", "speaker", "gender", "intensity")  # few values, each on many rows
SENTENCE = "sentence"  # an optional column: the words that are spoken
_RATED = frozenset(RATING_COLUMNS)
_BLOCK = 8192  # rows that wait to be taken apart into columns
_LABELS_KNOWN = 4096  # of labels as text: raters' means are few numbers, on many rows
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 120
Place = tuple[int, Path]  # a line of a file; line 0 is the whole file


class ManifestBuilder:
    """Collects utterances and all that is wrong with them.

    `scale` is (lowest, highest) label, of all or by name, mapped linearly to 1-7; None where nobody declared one.
    `source` is what an error is about. `outside_root`: whether audio may lie outside the root; None is no, and nothing
    can be done about it. Without `canonical` emotions stay as they are spelt.
    """

    def __init__(
        self,
        root: Path,
        scale: Range | Mapping[str, Range] | None = STANDARD,
        *,
        missing_audio: Literal["error", "drop"] = "error",
        outside_root: bool | None = None,
        canonical: bool = True,
        source: object,
    ) -> None:
        self.files = AudioFiles(root)
        self._root, self._scales, self._source = root, LabelScales.of(scale), source
        self._canonical = canonical
        self._drop_missing, self._outside_root = missing_audio == "drop", outside_root
        self._escapes = Escapes()
        self._columns: dict[str, list[str]] = {name: [] for name in TEXT_COLUMNS}
        self._texts: list[str] = []  # the last rows, one after the other, in the order of TEXT_COLUMNS
        self._sentences: list[str] = []  # row by row; counted, not kept
        self._transcripts: list[str] = []
        self._labels: array[float] = array("d")  # row by row, in the order of LABEL_COLUMNS
        self._ratings = RatingColumns(canonical)
        self._seen: dict[str, int] = {}  # id -> the line it was on first
        self._file: Path | None = None  # of the first id
        self._elsewhere: dict[str, Path] = {}  # id -> its file, where that is another
        self._numbers: dict[str, dict[object, float]] = {name: {None: math.nan} for name in LABEL_COLUMNS}  # as text
        self._clean: dict[str, dict[object, str]] = {name: {None: ""} for name in _CATEGORIES}  # as given -> as kept
        del self._clean["split"][None]
        self._problems: list[str] = []
        self._off_scale: list[int] = []  # which of the problems are that, of a scale that nobody declared
        self._missing: list[str] = []
        self._blanks: dict[str, Counter[str]] = {}  # column -> what stood there for nothing
        self._read_as: Counter[str] = Counter()  # paths that are read as another, by what is different
        self._examples: dict[str, str] = {}
        self._commas = 0  # labels written with a decimal comma
        self._no_file = self._of_files = 0  # problems: audio that is not there; whole files
        self._genders: Counter[str] = Counter()  # those not understood

    def __len__(self) -> int:
        return len(self._labels) // len(LABEL_COLUMNS)

    def add(self, line: int, file: Path, /, **fields: object) -> None:
        """Take the utterance on `line` of `file` (0: the whole file). `fields` are columns of the manifest.

        Text is stripped, an absent label is blank or None. A faulty row is kept as a problem, not as an utterance.
        """
        before = self._faults()
        place = (line, file)
        get = fields.get
        name = self._id(place, get("id"))
        audio = self._audio(place, get("audio"))
        try:  # nearly always seen before
            categories = [self._clean[column][get(column)] for column in _CATEGORIES]
        except (KeyError, TypeError):  # TypeError: a list or an object of JSON
            categories = [self._category(place, column, get(column)) for column in _CATEGORIES]
        caption = get("caption")
        if caption is not None and is_missing(caption):
            self._blank("caption", caption)
            caption = None
        caption = self._text(place, "caption", caption)
        sentence = sys.intern(self._text(place, SENTENCE, get(SENTENCE)))
        words = get(TRANSCRIPT)
        words = self._text(place, TRANSCRIPT, plain_line(words) if isinstance(words, str) else words)
        try:
            labels = [self._numbers[column][get(column)] for column in LABEL_COLUMNS]
        except (KeyError, TypeError):
            labels = [self._label(place, column, get(column)) for column in LABEL_COLUMNS]
        rated = self._rated(place, fields) if not _RATED.isdisjoint(fields) else None
        if audio is None or self._faults() > before:
            return
        if rated:
            self._ratings.add(len(self), *rated)
        self._texts += (name, audio, *categories, caption)
        self._sentences.append(sentence or words)
        self._transcripts.append(words)
        self._labels.extend(labels)
        if len(self._texts) >= _BLOCK * len(TEXT_COLUMNS):
            self._sort()

    def _faults(self) -> int:
        """Problems so far, but for labels that are off a scale which may turn out to be another."""
        return len(self._problems) - len(self._off_scale)

    def problem(self, line: int, file: Path, text: str) -> None:
        """Note what is wrong with `line` of `file` (0: the whole file); `text` is "found; expected ..."."""
        place = str(file) if str(file).isprintable() else repr(str(file))  # a line break in a name is no second line
        self._problems.append(f"{place}:{line}: {text}" if line else f"{place}: {text}")
        self._of_files += not line

    def counts(self) -> dict[str, int]:
        """Utterances so far, by split, in the order of `SPLITS`."""
        self._sort()
        found = Counter(self._columns["split"])
        return {split: found[split] for split in SPLITS if found[split]}

    def build(self, notes: Sequence[str] = ()) -> Manifest:
        """The manifest of all utterances taken. Raises ManyProblems with every problem, UsageError when it is empty."""
        self._sort()
        values = np.array(self._labels, dtype=np.float64).reshape(-1, len(LABEL_COLUMNS))  # (N, 3)
        labels = dict(zip(LABEL_COLUMNS, values.T.copy(), strict=True))
        refusal = self._scales.refusal(labels)
        if refusal or self._problems:
            raise self._refused(refusal)
        spellings: list[str] = []
        if self._canonical:
            self._columns["emotion"], spellings = with_one_spelling(self._columns["emotion"])
        columns = self._columns
        twice, leaks = same_audio(columns["id"], columns["audio"], columns["split"], self.files)
        leaks += sentence_leaks(self._sentences, columns["split"])
        notes = [*notes, *self._own_notes(), *twice, *spellings, *self._scales.notes(labels)]
        if not len(self):
            found = "; ".join(["no utterance", *notes])
            raise UsageError(self._source, found, "at least one utterance", "Check that this is the right corpus.")
        counts = ", ".join(f"{split} {count:,}" for split, count in self.counts().items())
        labels = {name: self._scales.to_standard(name, column) for name, column in labels.items()}
        notes = [f"{len(self):,} utterances: {counts}", *notes]
        ratings = self._ratings.build(len(self), self._scales)
        if ratings:
            rated, voted = int((ratings.count > 0).sum()), len(self) - ratings.votes.count("")
            notes.append(f"raters: {rated:,} utterances have a number of ratings, {voted:,} have votes by category")
        words = self._transcripts if any(self._transcripts) else None
        if words:
            notes.append(f"transcripts: {len(words) - words.count(''):,} utterances have one")
        return Manifest(self._root, **columns, **labels, notes=notes, leaks=leaks, ratings=ratings, transcript=words)  # type: ignore[arg-type]

    def _refused(self, refusal: tuple[str, str] | None) -> ManyProblems:
        """Every problem; of a scale that does not fit (`refusal`) one line, in place of one for every label."""
        action = "Correct these lines."
        if self._of_files == len(self._problems):
            action = "Rename or remove the files, or pass the folder of the corpus as --audio-root."
        elif self._no_file:
            only = self._no_file == len(self._problems)
            path = "Correct the paths or pass" if only else "Correct these lines; for missing audio, pass"
            action = f"{path} another --audio-root, or drop these rows with -o corpus.missing_audio=drop."
        elif self._escapes.count and self._outside_root is not None:
            action = self._escapes.action
        elif self._off_scale:
            action = "Correct these lines, or declare another scale: -o corpus.scale=[lowest,highest]."
        if refusal is None:
            return ManyProblems(self._source, self._problems, action)
        off = set(self._off_scale)
        others = [text for place, text in enumerate(self._problems) if place not in off]
        found, declare = refusal
        return ManyProblems(self._source, [f"{self._source}: {found}", *others], declare)

    def _sort(self) -> None:
        """Put the last rows' texts into their columns: by thousands, which is quicker than one by one."""
        for place, column in enumerate(self._columns.values()):
            column += self._texts[place :: len(TEXT_COLUMNS)]
        self._texts.clear()

    def _own_notes(self) -> list[str]:
        notes = [f"gender {name!r} of {count:,} utterances is not used" for name, count in self._genders.items()]
        if self._missing:
            count = len(self._missing)
            notes.append(f"dropped {count:,} without an audio file (first: {self._missing[0]})")
        for how, count in self._read_as.items():
            notes.append(f"{count:,} audio paths are read in spite of {how} (first: {self._examples[how]})")
        for column, blanks in self._blanks.items():
            spelt = ", ".join(f"{text!r} {count:,}" for text, count in sorted(blanks.items()))
            notes.append(f"{column}: {blanks.total():,} values are read as missing ({spelt})")
        if self._commas:
            notes.append(f"{self._commas:,} labels have a decimal comma")
        return notes

    def _differing(self, example: str, how: str) -> None:
        """Count a path that is read as another."""
        self._read_as[how] += 1
        self._examples.setdefault(how, example)

    def _text(self, place: Place, name: str, value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, str):
            text = value.strip()
            if not text.isprintable():
                if name == "caption":  # written by people and language models: a line break in it is a space
                    text = " ".join(text.split())
                if _UNWRITABLE.search(text):
                    self.problem(*place, f"{name} {_SHORT.repr(text)}: a control character; expected plain text")
            return text
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        self.problem(*place, f"{name} {_SHORT.repr(value)}: a {type(value).__name__}; expected text")
        return ""

    def _label(self, place: Place, name: str, value: object) -> float:
        if value is None or (isinstance(value, str) and not value.strip()):
            return math.nan
        if is_missing(value):
            self._blank(name, value)
            return math.nan
        number = _number(value)
        if number is None and isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
            number = float(value.replace(",", "."))
            self._commas += 1
        lowest, highest = self._scales.ranges[name]
        if number is not None and lowest <= number <= highest:
            known = self._numbers[name]
            if isinstance(value, str) and "," not in value and len(known) < _LABELS_KNOWN:  # 1, 1.0, true: one key
                known[value] = number
            return number
        found = "not a number" if number is None else "off the scale" if math.isfinite(number) else "not finite"
        if number is not None and math.isfinite(number) and name in self._scales.assumed:
            self._off_scale.append(len(self._problems))
        expected = f"{lowest:g} to {highest:g}, or nothing"
        self.problem(*place, f"{name} {_SHORT.repr(value)}: {found}; expected {expected}")
        return math.nan if number is None else number

    def _rated(self, place: Place, fields: Mapping[str, object]) -> tuple[list[float], str] | None:
        try:
            return self._ratings.parsed(fields)
        except ValueError as error:
            self.problem(*place, str(error))
            return None

    def _blank(self, column: str, value: object) -> None:
        """Count a value that stands for nothing."""
        self._blanks.setdefault(column, Counter())[str(value).strip()] += 1

    def _id(self, place: Place, value: object) -> str:
        name = self._text(place, "id", value)
        if not name:
            self.problem(*place, "id: empty; expected a unique id for every utterance")
            return name
        line, file = place
        if name in self._seen:
            first, there = self._seen[name], self._elsewhere.get(name, self._file)
            where = f"line {first}" if there == file else f"{there}:{first}" if first else there
            self.problem(*place, f"id {_SHORT.repr(name)}: already at {where}; expected unique ids")
            return name
        self._seen[name] = line
        self._file = self._file or file
        if file is not self._file:
            self._elsewhere[name] = file
        return name

    def _category(self, place: Place, column: str, value: object) -> str:
        """The text of a column of few values, normalised and remembered; what needs a word each time is not."""
        before = len(self._problems)
        if column != "split" and is_missing(value):
            self._blank(column, value)
            return ""
        text = sys.intern(self._text(place, column, value))
        if column == "split":
            text, given = canonical_split(text) or "", text
            if not text:
                found = f"split {_SHORT.repr(given)}: unknown{closest(given.lower(), SPLITS)}"
                self.problem(*place, f"{found}; expected {', '.join(SPLITS)}")
        elif column == "speaker":
            text = "" if text.lower() == "unknown" else text
        elif column == "gender" and text.lower() not in GENDERS:
            self._genders[text] += 1
            return ""
        elif column == "gender":
            text = GENDERS[text.lower()]
        if isinstance(value, str) and len(self._problems) == before:
            self._clean[column][value] = text
        return text

    def _audio(self, place: Place, value: object) -> str | None:
        name = self._text(place, "audio", value)
        if ("\\" in name or name[:7].lower() == "file://") and not self.files.holds(name):
            name = posix_path(name)
            self._differing(name, "a Windows path or file:// address")
        if not name:
            self.problem(*place, f"audio: empty; expected a path relative to {self._root}")
            return None
        inside = self.files.inside(name)
        whole = self.files.whole(name) if inside is None or name[0] == "/" else ""
        self._escapes.see(name, whole)
        audio = name if whole else inside or name  # an absolute path is kept as it was given
        if inside is None and not self._outside_root:
            self._escapes.count += 1
            found = f"leaves {self._root}; expected a path inside it"
        elif self.files.holds(audio):
            return audio
        elif similar := self.files.similar(audio):
            self._differing(f"{audio} is {similar[0]}", similar[1])
            return similar[0]
        elif self._drop_missing:
            self._missing.append(audio)
            return None
        else:
            self._no_file += 1
            found = f"no such file under {self._root}; expected an audio file"
        self.problem(*place, f"audio {_SHORT.repr(name)}: {found}")
        return None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and "_" in value:  # float() takes Python's 1_000
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:  # an integer of JSON beyond the floats
        return math.inf
