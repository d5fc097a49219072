"""Nominal valence and arousal of acted emotions: a point of Russell's circumplex for each category.

Russell, J. A. (1980), A circumplex model of affect, Journal of Personality and Social Psychology 39, 1161-1178, puts
emotion words on a circle of pleasure and activation. The coordinates here follow that order on the 1-7 scale of
MSP-Podcast (F10). They are **nominal, not annotations**: nobody rated the clips, all clips of a category share a point.
They exercise ranking with many ties and prove nothing about fine grades.
"""

from __future__ import annotations

CENTRE = 4.0
NOMINAL_SCALE = (1.0, 7.0)
NOMINAL = {  # emotion: (valence 1 negative .. 7 positive, arousal 1 calm .. 7 active)
    "angry": (1.9, 5.8),
    "bored": (3.2, 2.0),
    "calm": (4.8, 2.2),
    "disgust": (2.1, 4.4),
    "fearful": (2.2, 5.3),
    "happy": (5.9, 5.2),
    "neutral": (4.0, 3.2),
    "sad": (2.2, 2.6),
    "surprised": (4.9, 5.4),
}
# acted intensity: distance from the centre, times this; any other is acted plainly
FACTORS = {"strong": 1.25, "high": 1.25, "low": 0.8}
NOTE = "valence and arousal are nominal, not annotations: one point of the circumplex per category"


def nominal(emotion: str, intensity: str = "") -> tuple[float, float]:
    """(valence, arousal) on 1-7 of an acted `emotion`, pushed out from or drawn in to the centre by `intensity`."""
    factor = FACTORS.get(intensity, 1.0)
    valence, arousal = (CENTRE + factor * (value - CENTRE) for value in NOMINAL[emotion])
    return round(valence, 6), round(arousal, 6)
