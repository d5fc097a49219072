"""The words of the dimensional style: for each axis, ladders of 14 phrases, one per half point from 0.5 to 7.0.

The train and the test phrasing share no phrase and no sentence frame, so that a prompt of the ordinality test (F13) is
never a sentence that the heads were trained on. A level keeps its family of words from ladder to ladder (despair,
misery, sadness ... joy, bliss; asleep, drowsy, sluggish ... agitated, frenzied), so that a sentence encoder finds the
order of one ladder after seeing the others: `tests/data/captions/test_encoder.py` holds the check.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pipeline.core.errors import UsageError

Ladder = tuple[str, ...]  # (14,) one phrase per level


class Frame(NamedTuple):
    """A sentence around one valence phrase `{v}` and one arousal phrase `{a}`, and the ladders that fit in it."""

    sentence: str
    valence: Ladder
    arousal: Ladder


def _ladder(phrases: str) -> Ladder:
    return tuple(phrase.strip() for phrase in phrases.split(";"))


# ---- train: valence
_FEELS = _ladder(
    "utterly despairing; extremely miserable; very sad; clearly unhappy; rather displeased; somewhat dissatisfied;"
    "slightly discontented; emotionally neutral; slightly content; somewhat satisfied; rather pleased;"
    "clearly happy; very joyful; utterly blissful"
)
_TONE = _ladder(
    "hopelessly despairing; extremely negative and miserable; very negative and sorrowful; negative and unhappy;"
    "rather negative and displeased; somewhat negative and dissatisfied; slightly negative and discontented;"
    "neither positive nor negative; slightly positive and content; somewhat positive and satisfied;"
    "rather positive and pleased; positive and happy; very positive and joyful; gloriously blissful"
)
_FEELING = _ladder(
    "total despair; extreme misery; great sadness; plain unhappiness; moderate displeasure; some dissatisfaction;"
    "a trace of discontent; no positive or negative feeling; a trace of contentment; some satisfaction;"
    "moderate pleasure; plain happiness; great joy; total bliss"
)
_MOOD = _ladder(
    "a mood of hopeless despair; a miserable, terrible mood; a very sad, bad mood; an unhappy, bad mood;"
    "a displeased, rather bad mood; a dissatisfied, somewhat bad mood; a discontented, slightly bad mood;"
    "a neutral mood; a contented, slightly good mood; a satisfied, somewhat good mood; a pleased, rather good mood;"
    "a happy, good mood; a joyful, very good mood; a mood of perfect bliss"
)
# ---- train: arousal
_SEEMS = _ladder(
    "all but asleep; extremely drowsy; very sluggish; clearly tired; rather subdued; somewhat calm; slightly relaxed;"
    "neither calm nor excited; slightly alert; somewhat lively; rather energetic; clearly excited; very agitated;"
    "utterly frenzied"
)
_MANNER = _ladder(
    "lifeless and half asleep; drowsy and barely awake; sluggish and lethargic; tired and weary; subdued and quiet;"
    "calm and peaceful; relaxed and easy; medium in intensity; alert and attentive; lively and animated;"
    "energetic and vigorous; excited and intense; agitated and extremely intense; frenzied and explosive"
)
_ENERGY = _ladder(
    "the lifelessness of sleep; extreme drowsiness; great sluggishness; plain tiredness; a subdued lack of energy;"
    "noticeable calm; slight relaxation; a medium level of energy; slight alertness; noticeable liveliness;"
    "a good deal of energy; plain excitement; great agitation; explosive frenzy"
)
_AROUSAL = _ladder(
    "as though asleep; in an extremely drowsy way; in a very sluggish, low-energy way; in a tired, low-energy way;"
    "in a rather subdued way; in a calm way; in a slightly relaxed way; with medium energy; in a slightly alert way;"
    "in a lively way; in a rather energetic way; in an excited, high-energy way;"
    "in a very agitated, high-energy way; as though in a frenzy"
)
TRAIN = (
    Frame("The person is speaking while feeling {v} and seeming {a}.", _FEELS, _SEEMS),
    Frame("The person is speaking in a tone that is {v} and a manner that is {a}.", _TONE, _MANNER),
    Frame("The person is speaking with {a} and {v}.", _FEELING, _ENERGY),
    Frame("The person is speaking {a} and in {v}.", _MOOD, _AROUSAL),
    Frame("The person is speaking with {a}, and the tone of voice is {v}.", _TONE, _ENERGY),
    Frame("The person is speaking with {v} in a voice that is {a}.", _FEELING, _MANNER),
    Frame("The person is speaking {a}, and comes across as {v}.", _FEELS, _AROUSAL),
    Frame("The person is speaking in {v} and sounds {a}.", _MOOD, _SEEMS),
)
# ---- test: valence
_STATE = _ladder(
    "completely hopeless and despairing; terribly miserable; really sad; definitely unhappy; fairly displeased;"
    "a bit dissatisfied; a touch discontented; neither glad nor unhappy; a touch contented; a bit satisfied;"
    "fairly pleased; definitely happy; really happy and joyful; completely happy and blissful"
)
_QUALITY = _ladder(
    "hopeless and despairing; wretched and miserable; sad and very low; low and unhappy; rather low and displeased;"
    "a bit low and dissatisfied; slightly low and discontented; neutral, with no pleasure or displeasure;"
    "slightly warm and contented; a bit warm and satisfied; rather warm and pleased; warm and happy;"
    "very warm and joyful; radiant with bliss"
)
_EMOTION = _ladder(
    "absolute despair and hopelessness; intense misery; deep sadness; definite unhappiness;"
    "a fair amount of displeasure; a little dissatisfaction; a hint of discontent; no particular emotion;"
    "a hint of contentment; a little satisfaction; a fair amount of pleasure; definite happiness; intense joy;"
    "absolute bliss"
)
# ---- test: arousal
_LOOKS = _ladder(
    "practically half asleep; terribly drowsy; really sluggish; definitely tired; fairly subdued; a bit calm;"
    "a touch relaxed; not calm and not excited either; a touch alert; a bit lively; fairly energetic;"
    "definitely excited; really agitated; completely frenzied"
)
_VIGOUR = _ladder(
    "a sleeper's lifelessness; intense drowsiness; heavy sluggishness; definite tiredness; quietly subdued energy;"
    "a little calmness; a hint of relaxation; an average amount of energy; a hint of alertness; a little liveliness;"
    "a fair amount of energy; definite excitement; strong agitation; absolute frenzy"
)
_DELIVERY = _ladder(
    "lifeless, as if half asleep; exceedingly drowsy; sluggish and without energy; tired and low in energy;"
    "subdued and rather soft; gentle and calm; easy-going and relaxed; average in energy and intensity;"
    "alert and collected; lively and spirited; energetic and forceful; excited and high in energy;"
    "agitated and very high in energy; frenzied and wildly excited"
)
TEST = (
    Frame("The person is speaking; to the ear they are {a} and {v}.", _STATE, _LOOKS),
    Frame("The person is speaking with a delivery that is {a} and with feelings that are {v}.", _QUALITY, _DELIVERY),
    Frame("The person is speaking with an air of {v} and with {a} in the delivery.", _EMOTION, _VIGOUR),
    Frame("The person is speaking as anyone would who is {v}, and there is {a} in the voice.", _STATE, _VIGOUR),
    Frame("The person is speaking out of {v}, and the speech is {a}.", _EMOTION, _DELIVERY),
    Frame("The person is speaking as if {a}, and the voice sounds {v}.", _QUALITY, _LOOKS),
    Frame("The person is speaking as one who is {v}; the speech is {a}.", _STATE, _DELIVERY),
    Frame("The person is speaking to convey {v} and appears {a}.", _EMOTION, _LOOKS),
)

Phrasing = Literal["train", "test"]
LEVELS = tuple(0.5 * step for step in range(1, 15))  # 0.5, 1.0 ... 7.0
VARIANTS = 8
_FRAMES: dict[Phrasing, tuple[Frame, ...]] = {"train": TRAIN, "test": TEST}


def describe_point(valence: float, arousal: float, *, phrasing: Phrasing, variant: int) -> str:
    """One sentence, without numbers, for a way of speaking at (valence, arousal) on the 1-7 scale (F11).

    Labels are rounded to the nearest half point, halves up; 0.5 is accepted because F13 starts there. `variant`
    (0-7) picks the paraphrase. Raises UsageError for a label outside 0.5-7 or a variant that does not exist.
    """
    if not 0 <= variant < VARIANTS:
        raise UsageError(f"variant {variant}", "no such paraphrase", f"0 to {VARIANTS - 1}", "Ask for fewer variants.")
    frame = _FRAMES[phrasing][variant]
    v, a = level(valence, "valence"), level(arousal, "arousal")
    return frame.sentence.format(v=frame.valence[v], a=frame.arousal[a])


def level(label: float, name: str) -> int:
    """Index into `LEVELS` of the half point nearest to `label`. Raises UsageError outside 0.5-7, naming the axis."""
    if not (math.isfinite(label) and LEVELS[0] <= label <= LEVELS[-1]):
        raise UsageError(
            name, repr(label), f"a number from {LEVELS[0]} to {LEVELS[-1]}", "Map the labels to the 1-7 scale."
        )
    return math.floor(2 * label + 0.5) - 1
