"""What an export saves in time where half of the rows and columns of each matrix are dead: SR-GNN on one thread.

    python -m benchmarks.export [--dim 256] [--items 43097] [--dead 0.5]

The model is not trained: it has random weights, of which whole rows and columns are pruned. Both models have their item
table and catalogue ready, and score the same sessions in turn; medians in milliseconds.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from dissect.data.sessions import Sessions
from dissect.experiment.serving_times import times
from dissect.sparsevd import densify, sparsify
from dissect.sparsevd.sparsifier import variational_layers
from dissect.training.smaller import probes, shrink
from models import SRGNN


def half_dead(dim: int, items: int, dead: float) -> SRGNN:
    """SR-GNN in which a share of the rows and of the columns of each matrix is pruned, chosen at random."""
    torch.manual_seed(0)
    model = SRGNN(items, dim=dim)
    sparsify(model)
    for _, layer in variational_layers(model):
        for _, theta, log_sigma2 in layer.variational():
            rows, columns = (torch.rand(n).argsort() < dead * n for n in theta.shape)
            is_dead = (columns | rows[:, None]) if len(theta) > 1 else columns[None]
            log_sigma2.data = torch.where(is_dead, 10.0, -20.0)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--items", type=int, default=43097)
    parser.add_argument("--dead", type=float, default=0.5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    lengths = random.geometric(0.25, 2000) + 1  # 4 clicks on average, as in Diginetica
    sessions = Sessions.from_lists([random.integers(1, given.items + 1, n).tolist() for n in lengths])
    model = half_dead(given.dim, given.items, given.dead)
    for item_width in (False, True):
        made = shrink(model, probes(sessions, given.items), item_width)
        for layer in made.served.model.modules():
            if hasattr(layer, "spread_small"):
                layer.spread_small()
        whole = SRGNN(given.items, dim=given.dim)
        whole.load_state_dict(densify(half_dead(given.dim, given.items, given.dead)).state_dict())
        found = times(whole.eval(), made.served, sessions)
        print(f"item width {'as asked' if item_width else 'whole'}: catalogue of {made.served.matrix.shape[1]} columns")
        for kind in ("session", "batch"):
            after = found[kind]["export"]
            for way in ("whole", "whole_same_way"):
                before = found[kind][way]
                parts = (
                    f"{name} {ms:.3f} -> {after[name]:.3f} ({ms / after[name]:.2f}x)" for name, ms in before.items()
                )
                print(f"  {kind}, {way}: {', '.join(parts)}")


if __name__ == "__main__":
    main()
