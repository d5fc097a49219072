"""Who speaks and what is said: twelve synthetic speakers, and sentences whose words carry no emotion."""

from __future__ import annotations

from typing import NamedTuple


class Speaker(NamedTuple):
    """One voice: an accent and a variant of espeak-ng. A speaker belongs to one split."""

    name: str
    gender: str
    voice: str
    split: str


SPEAKERS = (
    Speaker("ada", "F", "en-us+f1", "train"),
    Speaker("dan", "M", "en-us+m1", "train"),
    Speaker("iris", "F", "en-us+steph", "test"),
    Speaker("kit", "M", "en+m3", "test"),
    Speaker("bea", "F", "en+f4", "train"),
    Speaker("eli", "M", "en-gb-scotland+m4", "train"),
    Speaker("june", "F", "en-gb-x-gbclan+belinda", "test"),
    Speaker("leo", "M", "en-gb-x-rp+m6", "test"),
    Speaker("cleo", "F", "en-us+Andrea", "train"),
    Speaker("finn", "M", "en-us+m7", "train"),
    Speaker("gus", "M", "en-gb-x-gbclan+m8", "train"),
    Speaker("hugh", "M", "en-029+m2", "dev"),
)

SENTENCES = (
    "The train to the city leaves at nine in the morning.",
    "There are seven books on the table by the window.",
    "The meeting was moved to the second room on the left.",
    "She put the keys into the drawer of the desk.",
    "The shop on the corner opens a little after eight.",
    "They walked along the river to the old bridge.",
    "The letter came with the post on Tuesday.",
    "He counted the chairs and wrote the number down.",
    "The road goes past the school and the library.",
    "My brother lives in the house across the street.",
    "The report has twelve pages and two tables.",
    "We will take the bus to the station tomorrow.",
    "The kettle is on the shelf next to the plates.",
    "It is the third door at the end of the hall.",
    "The map shows all the villages in the valley.",
    "I left the umbrella in the office last week.",
)
