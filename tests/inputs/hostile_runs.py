"""What a stranger, or a careless editor, may have made of a run's JSON and YAML."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Edit = Callable[[Any], Any]  # changes a run.json, or returns another; text is written as it is


def nested(depth: int) -> Any:
    tree: Any = 1
    for _ in range(depth):
        tree = {"a": tree}
    return tree


ABOUT: dict[str, Edit] = {
    "nothing": lambda about: "",
    "no JSON": lambda about: json.dumps(about)[:-9],
    "a list": lambda about: [about],
    "a number": lambda about: 7,
    "100,000 brackets": lambda about: "[" * 100_000,
    "a number of 10,000 digits": lambda about: json.dumps(about).replace('"threads": 1', '"threads": ' + "1" * 10_000),
    "not UTF-8": lambda about: "\udc80",
    **{
        f"no {key}": lambda about, key=key: about.pop(key) and None
        for key in ("stores", "fingerprint", "data", "seeds")
    },
    **{f"{key} a list": lambda about, key=key: about.update({key: [1]}) for key in ("stores", "fingerprint", "data")},
    "a memory of its own": lambda about: about.update(memory="../../x"),
    "a fingerprint nested deep": lambda about: about.update(fingerprint={"audio": nested(900)}),
    "seeds a list": lambda about: about.update(seeds=[0, 1]),
    "a seed that is a path": lambda about: about["seeds"].update({"../../x": about["seeds"]["0"]}),
    "a seed in other digits": lambda about: about["seeds"].update({"٠": about["seeds"]["0"]}),
    "a seed with a zero before": lambda about: about["seeds"].update({"00": about["seeds"]["0"]}),
    "a seed with a line's end": lambda about: about["seeds"].update({"0\n": about["seeds"]["0"]}),
    "a seed of no result": lambda about: about["seeds"].update({"0": None}),
    "a huge seed": lambda about: about["seeds"].update({"9" * 4000: about["seeds"]["0"]}),
    "an epoch of words": lambda about: about["seeds"]["0"].update(epoch="2"),
    "a huge epoch": lambda about: about["seeds"]["0"].update(epoch=10**4000),
    "a loss that is none": lambda about: about["seeds"]["0"].update(dev_loss=float("nan")),
    "a huge loss": lambda about: about["seeds"]["0"].update(dev_loss=10**400),
    "a best seed that is not there": lambda about: about.update(best_seed=7),
    "no best seed": lambda about: about.pop("best_seed") and None,
    "a best seed that is a path": lambda about: about.update(best_seed="../../x"),
}

CONFIG = {
    "a python tag": "a: !!python/object/apply:os.system ['touch mark']\n",
    "another tag": "!!python/name:os.system\n",
    "an unknown key": "epochz: 3\n",
    "a wrong type": "epochs: [3]\nwidth: wide\n",
    "no YAML": "a: [\n",
    "a list": "- a\n",
    "nothing": "",
    "not UTF-8": "\udc80",
}

EVALUATED: dict[str, Edit] = {
    "no JSON": lambda found: json.dumps(found)[:-9],
    "a list": lambda found: [found],
    "100,000 brackets": lambda found: "[" * 100_000,
    "no alignment": lambda found: found.pop("alignment") and None,
    "a figure of words": lambda found: found["ordinality"]["aoc"].update(mean="0.5"),
    "another figure": lambda found: found["ordinality"]["aoc"].update(mean=0.5),
    "another value": lambda found: found["seeds"]["0"]["alignment"]["mmd"]["values"].append(0.5),
    "values of words": lambda found: found["seeds"]["0"]["alignment"]["mmd"].update(values=["a"]),
    "no seeds": lambda found: found.update(seeds={}),
    "a convention that is none": lambda found: found["alignment"]["mmd"].update(convention=[]),
    "a method that is none": lambda found: found.update(method=[3]),
    "a split that is none": lambda found: found.update(split={}),
}
