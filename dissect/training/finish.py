"""The end of a run: ranks, quick accuracy checks and the summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dissect.data.sessions import Dataset, Sessions, prefix_index, split_validation
from dissect.errors import DataError
from dissect.runs.files import anew, read_jsonl
from dissect.runs.folders import BEST, FULL, checkpoint, write_ranks
from dissect.runs.records import Eval, Train
from dissect.sparsevd import declared_for, own_parameters, sparsified, swapped, unmasked
from dissect.sparsevd.sparsifier import matrices_of, variational_layers
from dissect.training.checkpoint import load_checkpoint
from dissect.training.evaluated import Evaluated
from dissect.training.evaluation import Report, evaluate, metrics
from dissect.training.lists import Lists
from dissect.training.record import density_rows
from dissect.training.setup import Training
from models.base import with_current_names
from models.batch import Prefixes

# A role or module that a trained model can be evaluated without, and the name of the check in the summary.
SWITCHES = {"propagation": "propagation_zero", "gnn": "gnn_bypassed", "attention": "attention_uniform"}


def finish(
    training: Training,
    data: Dataset,
    run: Path,
    splits: dict[str, Prefixes],
    steps_per_epoch: int,
    report: Callable[[str], Report],
    evaluated: Evaluated,
) -> dict[str, Any]:
    """Write the ranks of a run whose last step is done, and return its summary.

    `report(what)` returns the callback of an evaluation, which may raise to stop it. What `evaluated` has of the
    reported weights is not evaluated again.
    """
    config, state, model = training.config, training.state, training.model
    which, step = _take_reported(training, run)
    values: dict[str, dict[str, float]] = {}
    worst: dict[str, dict[str, float]] = {}
    lists = Lists()
    for split, prefixes in splits.items():
        (rank, rank_worst), found = evaluated.ranks(split, prefixes, report(f"{split}, for the summary"))
        lists = found if split == "test" else lists
        values[split], worst[split] = metrics(rank), metrics(rank_worst)
        sessions = data.test if split == "test" else split_validation(data.train, config.held_out)[1]
        write_ranks_of(run / f"ranks-{split}-{which}.npz", rank, sessions)
    history = [] if config.test_at_end else _accuracy_on_test(run)
    rule, masked = config.select if config.max_steps else "no epochs", values["test"]
    if config.protocol == "paper" and config.select != "last":
        # As the released code reports: every metric at its own best epoch on test.
        rule = "each metric's maximum on test"
        values["test"] = {metric: max(row[metric] for row in history) for metric in values["test"]}
    # Beside maxima, of which each has its own epoch, under another name: that of the best MRR@20, as a tuning reads it.
    against = "test_worst_ties_at_best" if rule == "each metric's maximum on test" else "test_worst_ties"
    # How much choosing the epoch on test would have added: unknown if some were not ranked.
    is_whole = bool(history) and len(history) >= math.ceil(state.step / steps_per_epoch)
    bias = {m: max(row[m] for row in history) - values["test"][m] for m in ("hr@20", "mrr@20")} if is_whole else None
    return {
        **_settings(training, data),
        "steps": state.step,
        "epochs": state.step / steps_per_epoch,
        "seconds": state.seconds,
        "n_parameters": count(model.parameters()) - count(own_parameters(model)),
        "selected": {"rule": rule, "step": step, "epoch": step / steps_per_epoch},
        "test": values["test"],
        against: worst["test"],
        "valid": values.get("valid"),
        "lists": lists.about(data.train),
        **({"selection_bias": bias} if bias else {}),
        "checks": quick_checks(training, splits["test"], masked, report, evaluated),
        "density": [{"step": state.step, **row} for row in density_rows(training)],
        "left_out": training.left_out,
        "removable": list(model.removable),
    }


def _take_reported(training: Training, run: Path) -> tuple[str, int]:
    """(which, step): load the weights that the run reports, of its "best" step if it chooses one, else of its last."""
    if not training.config.chooses:
        return "last", training.state.step
    best = load_checkpoint(checkpoint(run, BEST))["model"]
    training.model.load_state_dict(with_current_names(type(training.model), best))
    return "best", training.state.best_step


def _accuracy_on_test(run: Path) -> list[dict[str, Any]]:
    """The accuracy on test, each time it was measured. Raises DataError if the file has lost it."""
    lines = read_jsonl(run / "metrics.jsonl", Train | Eval)
    if history := [row for row in lines if row["kind"] == "eval" and row["split"] == "test"]:
        return history
    raise DataError(f"{run / 'metrics.jsonl'} has lost the accuracy on test.", anew(run))


def _settings(training: Training, data: Dataset) -> dict[str, Any]:
    """What the run was asked for: the first fields of its summary."""
    config = training.config
    settings = ("where", "noise", "prior", "threshold", "unit", "kl_weight", "batch_size", "protocol", "order")
    return {
        # First, so that an option that is called as a field below does not replace it.
        **{name: value if _in_json(value) else str(value) for name, value in config.model_options.items()},
        "model": config.model,
        "dataset": data.name,
        "split_hash": data.split_hash,
        "seed": training.seed,
        "variant": training.variant,
        **{name: getattr(config, name) for name in settings},
    }


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many weights these are."""
    return sum(parameter.numel() for parameter in parameters)


def _in_json(value: Any) -> bool:
    """False for infinity, which JSON lacks (the exponent of preset paper-LP)."""
    return not isinstance(value, float) or math.isfinite(value)


def write_ranks_of(path: Path, rank: np.ndarray, sessions: Sessions) -> None:
    """Write the ranks [P] of all prefixes of `sessions` with the session, length and target of each."""
    session, length = prefix_index(sessions)
    target = sessions.items[sessions.offsets[session] + length]
    write_ranks(path, rank=rank, session=session, length=length, target=target)


def quick_checks(
    training: Training,
    test: Prefixes,
    masked: dict[str, float],
    report: Callable[[str], Report],
    evaluated: Evaluated,
) -> dict[str, dict[str, float]]:
    """HR@20 and MRR@20 on test with other weights, or with parts of the trained model switched off.

    `masked` are the metrics of the model as it is: with SparseVD, those of its masked weights.
    """
    model = training.model

    def accuracy(name: str) -> dict[str, float]:
        says = report(f"test, {name.replace('_', ' ')}")
        values = evaluated.once(name, lambda: metrics(evaluate(model, test, report=says)))
        return {metric: values[metric] for metric in ("hr@20", "mrr@20")}

    checks = {}
    if sparsified(model):
        checks["masked"] = {metric: masked[metric] for metric in ("hr@20", "mrr@20")}
        with unmasked(model):
            checks["mean"] = accuracy("mean")
    if training.variant != FULL:  # a reduced model and the matched dense one have no verdict of their own
        return checks
    layers = {name for name, _ in model.named_modules()}
    here = [matrix for name, matrix in model.matrices.items() if name in layers]
    for part, check in SWITCHES.items():
        if part in model.removable and any(matrix.is_of(part) for matrix in here):
            model.switched_off = part
            try:
                checks[check] = accuracy(check)
            finally:
                model.switched_off = None
    for role, its_layers in layers_by_role(model).items() if training.config.shadows else ():
        with swapped(its_layers):
            checks[f"swapped_{role}"] = accuracy(f"swapped_{role}")
    return checks


def layers_by_role(model: Any) -> dict[str, list[nn.Module]]:
    """The layers with SparseVD by the role of their matrices; a layer whose matrices have several roles has each."""
    found: dict[str, dict[str, nn.Module]] = {}
    for name, layer in variational_layers(model):
        for own, _, _ in matrices_of(name, layer):
            matrix = declared_for(own, model.matrices)
            found.setdefault(matrix.role if matrix else "other", {})[name] = layer
    return {role: list(layers.values()) for role, layers in found.items()}
