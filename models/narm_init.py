"""The initial weights of NARM: the house's, or those of a source."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.base import init_uniform

INITS = ("uniform", "authors", "port", "recbole")


def initialise(model: Any, init: str) -> None:
    """Fill the weights of a NARM as one of INITS; what a source leaves alone begins as PyTorch's layers do."""
    if init == "uniform":
        init_uniform(model, model.items.shape[1])
    for name, p in model.named_parameters():
        is_gru = name.startswith("gru")
        if init == "recbole" and not is_gru:
            nn.init.xavier_normal_(p)
        elif init == "port" and name == "items":
            nn.init.normal_(p)
        elif init == "port" and name == "readout.transform.weight":
            nn.init.uniform_(p, -(len(p) ** -0.5), len(p) ** -0.5)  # the port's layer maps D to 2h
        elif init == "authors" and "bias" in name:
            nn.init.zeros_(p)
        elif init == "authors" and "weight_hh" in name:
            for gate in p.detach().chunk(3):
                nn.init.orthogonal_(gate)
        elif init == "authors":  # N(0, 2 / rows), where a matrix of the GRU has a row for each input
            nn.init.normal_(p, std=(2 / p.shape[1 if is_gru else 0]) ** 0.5)
