"""The start of a run: the instrumented model, its controls, its optimiser, and weights from elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dissect.data.sessions import Sessions
from dissect.errors import DataError, UsageError
from dissect.runs.config import Config, host_lr_at, lr_at
from dissect.runs.folders import FULL
from dissect.sparsevd import SparsifyReport, coverage, declared_for, sparsify
from dissect.sparsevd.averages import Averages
from dissect.sparsevd.probe import as_before, watch
from dissect.sparsevd.shadows import FEWEST
from dissect.sparsevd.sparsifier import parameter_groups, variational_layers
from dissect.training import products, workers
from dissect.training.controls import Controls, seeded_controls
from dissect.training.losses import Shares, shares_of
from dissect.training.scoring import catalogue_loss, score_buffer
from models.base import with_current_names
from models.batch import Prefixes

ITEMS_TIMED = 1 << 14  # in the loss that kernels are timed by: more than caches hold, few enough for milliseconds


@dataclass
class State:
    """The counters and sums of a training in progress, saved in each checkpoint."""

    step: int = 0
    seconds: float = 0.0  # spent in `prepare` and in training steps, over all processes that worked on the run
    sum_ce: float = 0.0  # since the last loss line
    sum_kl: float = 0.0
    n_sum: int = 0
    best_value: float = -1.0  # validation MRR@20 of the chosen epoch
    best_step: int = 0
    metrics_size: int = 0  # bytes of metrics.jsonl and density.jsonl before the records due at `step`
    density_size: int = 0


@dataclass
class Training:
    """One seed of a configuration in training."""

    config: Config
    seed: int
    variant: str
    model: Any  # the contract is in models/base.py
    controls: Controls | None  # of a full model with SparseVD
    optimiser: torch.optim.Optimizer
    left_out: dict[str, str]  # layers that SparseVD did not replace, with the reason
    coverage: list[dict[str, Any]]  # dissect.sparsevd.coverage; empty if the model is dense
    averages: Averages
    shares: Shares | None = None  # of the items among the negatives; None: they are drawn alike
    has_dissected_table: bool = False  # whether the item table is computed by SparseVD layers
    estimates: bool = False  # whether the pass of shadows and controls scores a part of the catalogue (nearby.py)
    kernel: str = "float32"  # of products.KERNELS, for products with the catalogue
    state: State = field(default_factory=State)


def assemble(
    build: Callable[[], nn.Module],
    config: Config,
    prefixes: Prefixes,
    seed: int,
    variant: str,
    weights: dict[str, Tensor] | None = None,
    train: Sessions | None = None,
) -> Training:
    """Build the model from its seed, put SparseVD in it, and make controls and optimiser on the prefixes' device.

    The model prepares itself with the sessions `train` before its layers are looked for.

    Raises DataError if the configuration names no matrix of the model, UsageError for batches too small for shadows.
    """
    device = prefixes.device
    torch.manual_seed(seed)
    model: Any = build()
    model.to(device)
    began = time.perf_counter()
    if train is not None:
        model.prepare(train)
        model.to(device)  # what it has made
    state = State(seconds=time.perf_counter() - began)
    if weights is not None:
        load_dense(model, weights)
    left_out, covered, controls = {}, [], None
    if config.is_sparse:
        require_rows(config)
        left_out = instrument(model, config, prefixes, is_full=variant == FULL)
        n_items, dim = model.candidates(model.item_states())[0].shape
        covered = coverage(model, model.matrices, left_out, n_items)
        if variant == FULL:  # a reduced model has no verdict of its own
            shadowed = model if config.shadows else None
            controls = seeded_controls(seed, dim, shadowed, **sparsity(config)).to(device)
    of_table, estimates = False, False
    if config.is_sparse:
        layers: dict[str, nn.Module] = dict(variational_layers(model))
        of_table = bool(watch(model, layers, model.item_states)[0])
        is_fixed = not watch(model, layers, lambda: model.candidates(model.item_states()))[
            0
        ]  # shadows change vectors only
        is_usual = not config.negatives and config.loss == "cross-entropy"
        estimates = controls is not None and 0 < 2 * config.shadow_items < n_items and is_usual and is_fixed
    optimiser = make_optimiser(model, controls, config)
    averages, shares = Averages(model=model, controls=controls), None
    if config.sample_alpha:
        shares = shares_of(prefixes.items, len(model.item_states()), config.sample_alpha)
    return Training(
        config=config,
        seed=seed,
        variant=variant,
        model=model,
        controls=controls,
        optimiser=optimiser,
        left_out=left_out,
        coverage=covered,
        averages=averages,
        shares=shares,
        has_dissected_table=of_table,
        estimates=estimates,
        state=state,
    )


def require_rows(config: Config) -> None:
    """Raises UsageError for batches too small for shadows."""
    if config.shadows and config.batch_size < FEWEST:
        raise UsageError(
            f"Shadows read the inputs of other rows of the batch and need {FEWEST} of them: batches of "
            f"{config.batch_size} are too small.",
            f"Give --batch-size {FEWEST} or more, or --no-shadows.",
        )


def instrument(model: Any, config: Config, prefixes: Prefixes, is_full: bool = True) -> dict[str, str]:
    """Put SparseVD layers in place of the chosen matrices; returns what was left out, and why.

    Raises DataError if the choice names no matrix of the full model; a model without a role may have none left.
    """
    batch = prefixes.batch(torch.arange(min(len(prefixes), 64)))

    def probe() -> None:
        S = model.item_states()
        model.encode(S, batch)
        model.candidates(S)

    return exchange(model, config, probe, required=is_full).left_out


def exchange(
    model: Any, config: Config, probe: Callable[[], object] | None = None, required: bool = True
) -> SparsifyReport:
    """`sparsify` as configured. Raises DataError, with the reasons, if that replaces nothing, where `required`."""
    choice = selects(config.where, model.matrices)
    report = sparsify(model, choice, probe=probe, refuse=False, **sparsity(config))
    if required and not report.swapped:
        reasons = [f"{name}: {reason}" for name, reason in report.left_out.items() if reason != "not chosen"]
        raise DataError(
            f"SparseVD can replace no layer that '{config.where}' names{': ' * bool(reasons)}{'; '.join(reasons)}.",
            f"See its matrices: dissect models {config.model}",
        )
    return report


def selects(where: str, matrices: Any) -> Callable[[str, nn.Module], bool] | None:
    """The choice that `where` makes among a model's layers: a module or a role; None for "both", which is all.

    With None, layers that cannot be replaced are left out with the reason instead of being refused.
    """
    if where == "both":
        return None

    def chosen(name: str, module: nn.Module) -> bool:
        declared = [declared_for(f"{name}.{own}", matrices) for own, _ in module.named_parameters(recurse=False)]
        return any(matrix.is_of(where) for matrix in declared if matrix is not None)

    return chosen


def sparsity(config: Config) -> dict[str, Any]:
    """The settings of `sparsify` in a configuration."""
    return {name: getattr(config, name) for name in ("noise", "threshold", "log_sigma2", "unit")}


def make_optimiser(model: nn.Module, controls: Controls | None, config: Config) -> torch.optim.Optimizer:
    """The configured optimiser, in the groups of `parameter_groups`: L2 is on the model's own parameters."""
    return optimiser_of(parameter_groups(*([model] if controls is None else [model, controls])), config)


def optimiser_of(groups: list[dict[str, Any]], config: Config) -> torch.optim.Optimizer:
    """The configured optimiser for `groups` with the kinds of `parameter_groups`."""
    decay = {"host": config.l2}
    rest = config.l2 if config.decay_everything else 0.0
    groups = [{**group, "weight_decay": decay.get(group["kind"], rest)} for group in groups]
    # A model without gradients has no parameters, and an optimiser wants some.
    some = [group for group in groups if group["params"]] or [{"params": [torch.zeros(0)], "kind": "host"}]
    is_fused = not any(parameter.is_complex() for group in some for parameter in group["params"])
    if config.optimiser == "adagrad":  # the sums start where GRU4Rec's authors add it under the root
        return torch.optim.Adagrad(some, lr=config.lr, initial_accumulator_value=1e-6, fused=is_fused)
    kind = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
    return kind(some, lr=config.lr, amsgrad=config.optimiser == "amsgrad", fused=is_fused)


def set_lr(optimiser: torch.optim.Optimizer, config: Config, step: int, steps_per_epoch: int) -> None:
    """The rate of each group before `step` (from 0)."""
    lr = lr_at(config, step, steps_per_epoch)
    rates = {"host": host_lr_at(config, step, steps_per_epoch), "own": config.own_rate * lr}
    for group in optimiser.param_groups:
        group["lr"] = rates.get(str(group.get("kind")), lr)


def load_dense(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights of a dense model of the same shape. NaN entries keep the model's own value, and so do integers:
    they count batches, or say which sessions a model has prepared itself with.

    Raises DataError if they do not fit.
    """
    mine, weights = model.state_dict(), with_current_names(type(model), weights)
    missing = [name for name in mine if name not in weights]
    wrong = [name for name in mine if name in weights and weights[name].shape != mine[name].shape]
    if missing or wrong:
        raise DataError(
            f"The weights to start from do not fit: missing: {missing or 'none'}; of another shape: {wrong or 'none'}.",
            "--init-from takes a run of the same model and width.",
        )
    for name, own in mine.items():
        if own.is_floating_point():
            given = weights[name].to(own.device)
            mine[name] = torch.where(given.isnan(), own, given)
    model.load_state_dict(mine)


def choose_kernel(training: Training, n_items: int, device: torch.device | str) -> dict[str, float]:
    """Set the quickest kernel that config.products allows here; returns the milliseconds of those that were tried.

    If there is a choice, the loss over the catalogue is timed on random numbers, without touching torch's own
    generators. For "bf16", which some processors only emulate, float32 is timed too, but not taken. All processes of a
    training take the choice of the first. Raises UsageError if the device has no such kernel.
    """
    config, device = training.config, torch.device(device)
    kernels, tried = products.at_hand(config.products, device), {}
    compared = ["float32", *kernels] if config.products == "bf16" else kernels
    if len(compared) > 1:
        with as_before(training.model), torch.no_grad():
            dim = training.model.candidates(training.model.item_states())[0].shape[1]
        V, B, generator = min(n_items, ITEMS_TIMED), config.batch_size, torch.Generator(device).manual_seed(0)
        table, vectors = (
            torch.randn(n, dim, generator=generator, device=device).requires_grad_() for n in (V, B)
        )  # [V, D], [B, D]
        targets = torch.arange(B, device=device) % V
        buffer = score_buffer(B, V, device)

        def run(kernel: str) -> None:
            catalogue_loss(vectors, table, None, targets, buffer, kernel=kernel)

        tried = products.quickest(compared, run, device)
        kernels = [kernel for kernel in tried if kernel in kernels]
    names = list(products.KERNELS)
    training.kernel = names[int(workers.gather(torch.tensor(names.index(kernels[0])))[0])]
    return tried
