"""Scores in double of other people's code, kept as numbers: their random weights, given to ours, give the same scores.

tests/parity/NAME.json holds sessions (one click, repeats, loops, more clicks than a model reads) and cases: whose code
at which commit, our options, the weights under our names, and the scores [B, V]. RecBole-GNN's update gate keeps where
ours renews, so the rows of that gate have the opposite sign.
"""

import json
from pathlib import Path

import pytest
import torch

from models import MODELS, Batch

FILES = {
    name: json.loads((Path(__file__).parent / "parity" / f"{name}.json").read_text())
    for name in ("sgnnhn", "niser", "srgnn")
}
CASES = [(name, place) for name, kept in FILES.items() for place in range(len(kept["cases"]))]


@pytest.mark.parametrize(("name", "place"), CASES, ids=str)
def test_the_same_weights_give_the_scores_of_the_other_code(name, place):
    sessions, case = FILES[name]["sessions"], FILES[name]["cases"][place]
    scores = torch.tensor(case["scores"], dtype=torch.float64)
    model = MODELS[name](scores.shape[1], dim=4, **case["options"]).double().eval()
    model.load_state_dict({layer: torch.tensor(w, dtype=torch.float64) for layer, w in case["weights"].items()})
    torch.testing.assert_close(model.scores(Batch.of(sessions)), scores, rtol=1e-9, atol=0)
