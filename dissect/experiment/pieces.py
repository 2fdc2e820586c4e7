"""What each criterion says of the matrices of one seed: a function for each piece of opinions.py.

A piece is `of_…(subject, tell, **how)`; it returns what the record keeps of it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dissect import opinions as criteria
from dissect.data.archive import sha256
from dissect.errors import DataError
from dissect.experiment.plan import Report as Tell
from dissect.opinions import l0, sessions
from dissect.opinions.tuning import recovered
from dissect.runs import folders
from dissect.sparsevd import kept, scores, sparsified, unmasked
from dissect.sparsevd.density import key
from dissect.training.checkpoint import latest_checkpoint, save_checkpoint
from dissect.training.loop import ExampleOrder
from dissect.training.losses import Shares
from dissect.training.rebuild import Recorded
from models.base import session_vectors
from models.batch import Prefixes

SHARES = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)  # of the weights, in a curve
BATCHES, EXAMPLES = 30, 500  # for Taylor, and for Fisher
Values = dict[str, dict[str, float | None]]  # name of a matrix or a role -> criterion -> its value


@dataclass
class Subject:
    """One seed: its models, their matrices, and what they are judged on."""

    dense: Any
    dissected: Any | None
    fresh: Callable[[], Any]  # the model as it began
    record: Recorded  # of the dissected run, or else of the dense one
    prefixes: Prefixes  # to train on
    ranking: sessions.Ranking
    split: str
    roles: dict[str, list[str]] = field(default_factory=dict)  # role -> its matrices
    scores: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # of `dense_scores`, once they are there
    shares: Shares | None = None  # of the items among the negatives

    @property
    def names(self) -> list[str]:
        return [name for names in self.roles.values() for name in names]


def weights_of(group: Path, seed: int) -> dict[str, str]:
    """The SHA-256 of the checkpoints that are judged, by the path in the group: what an opinion is of."""
    runs = [folders.run_path(group, seed, variant) for variant in (folders.FULL, folders.MATCHED)]
    paths = [folders.checkpoint(run, name) for run in runs for name in (folders.BEST, folders.LAST)]
    return {path.relative_to(group).as_posix(): sha256(path) for path in paths if path.exists()}


def of_scores(subject: Subject, tell: Tell) -> dict[str, Any]:
    """The criteria that need no training: of each matrix the share that is kept, or the mean score of its weights."""
    values: Values = {name: {} for name in subject.names}
    if subject.dissected is not None:
        threshold = subject.record.config.threshold
        run, last = subject.record.run, key(threshold)
        rows = folders.read_summary(run).get("density")
        if rows is None or not all(last in row["kept"] for row in rows):
            says = f"{run / 'summary.json'} lacks the densities at log alpha < {last}."
            raise DataError(says, folders.write_again(run))
        shadows = {
            row["matrix"]: row["kept"][last] / row["numel"]
            for row in rows
            if row["matrix"].startswith("shadow.") and not row["block"]
        }
        for name, score in scores(subject.dissected).items():
            density = float(kept(-score, threshold).float().mean())
            shadow = shadows.get(f"shadow.{name}")
            values[name] = {"sparsevd": density, "excess": None if shadow is None else density - shadow}
    found_scores = dense_scores(subject, tell)
    for criterion, by_matrix in found_scores.items():
        for name, score in by_matrix.items():
            share = (score > 0).float().mean() if criterion == "reduction" else score.mean()
            values[name][criterion] = float(share)
    weights = criteria.matrices(subject.dense, subject.names)
    return {"values": values, "size": {name: weight.numel() for name, weight in weights.items()}}


def dense_scores(subject: Subject, tell: Tell) -> dict[str, dict[str, Tensor]]:
    """magnitude, taylor, fisher and reduction of each weight of the dense model, and random numbers beside them."""
    if subject.scores:
        return subject.scores
    config, prefixes, model = subject.record.config, subject.prefixes, subject.dense
    weights, started = criteria.matrices(model, subject.names), criteria.matrices(subject.fresh(), subject.names)
    spread = {name: float(weight.detach().std()) or weight.shape[-1] ** -0.5 for name, weight in started.items()}
    order = ExampleOrder(prefixes, config, subject.record.seed, model.every_position)
    batches = min(BATCHES, order.steps)
    drawn = list(sessions.examples(prefixes, EXAMPLES))
    counter = _Counter("criteria", batches + len(drawn), tell)
    loss, of_one = (sessions.loss_of(config, last=last, shares=subject.shares) for last in (False, True))
    taylor = criteria.taylor(model, loss, (prefixes.batch(order.batch(i)) for i in range(batches)), weights, counter)
    fisher = criteria.fisher(model, of_one, drawn, weights, counter)
    generator = torch.Generator().manual_seed(subject.record.seed)
    subject.scores = {
        "magnitude": criteria.magnitude(weights, spread),
        "taylor": taylor,
        "fisher": fisher,
        "reduction": criteria.reduction(weights, fisher, len(prefixes), spread),
        "random": {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()},
    }
    return subject.scores


def of_ablation(subject: Subject, tell: Tell) -> dict[str, Any]:
    """By how many percent MRR@20 falls with a matrix, or all of a role, out of action."""
    parts = _parts(subject)
    models = {"dense": subject.dense, "dissected": subject.dissected}
    known = {which: model for which, model in models.items() if model is not None}
    counter = _Counter("ablation", len(known) * len(criteria.KINDS) * len(parts), tell)
    values: Values = {part: {} for part in parts}
    whole = {}
    for which, model in known.items():
        whole[which] = subject.ranking(model)
        for part, kind, fall in _falls(subject, model, parts, whole[which]):
            values[part][kind if which == "dense" else f"{kind} (dissected)"] = fall
            counter()
    return {"values": values, "mrr@20": whole}


def _parts(subject: Subject) -> dict[str, list[str]]:
    """What is ablated: each matrix, and each role, whose name is in brackets."""
    roles = {f"[{role}]": names for role, names in subject.roles.items()}
    return {**{name: [name] for name in subject.names}, **roles}


def _falls(
    subject: Subject, model: Any, parts: dict[str, list[str]], whole: float
) -> Iterator[tuple[str, str, float | None]]:
    """(part, kind, fall in percent; None where the kind cannot be)."""

    def run(batch: Any) -> None:
        session_vectors(model, model.item_states(), batch)

    means = criteria.mean_inputs(model, run, subject.ranking.batches(), subject.names)
    known: dict[tuple[str, ...], float | None] = {}  # a role may have one matrix
    for part, names in parts.items():
        for kind in criteria.KINDS:
            reached = names if kind == "zero" else _reached(names, means)
            asked = (kind, *reached)
            if reached and asked not in known:
                with criteria.ablated(model, reached, kind, means):
                    known[asked] = _percent(whole, subject.ranking(model))
            yield part, kind, known.get(asked)


def _reached(names: list[str], known: Mapping[str, Any]) -> list[str]:
    """The matrices of a part whose layers can be given other inputs; none unless they speak for all of it.

    The states inside an nn.GRU are no input: its matrix of inputs speaks for both.
    """
    reached = [name for name in names if name in known]
    spoken_for = {name.replace("weight_ih", "weight_hh") for name in reached}
    return reached if {*names} - {*reached} <= spoken_for else []


def _percent(whole: float, left: float) -> float | None:
    return 100 * (1 - left / whole) if whole else None


def of_retraining(subject: Subject, tell: Tell, steps: int) -> dict[str, Any]:
    """The fall of MRR@20 when everything but a part is trained for some steps with the part at zero.

    Measured against the whole model after the same steps. Each distinct part is trained once.
    """
    config, prefixes = subject.record.config, subject.prefixes
    order = ExampleOrder(prefixes, config, subject.record.seed, subject.dense.every_position)
    batches = [prefixes.batch(order.batch(step)) for step in range(steps)]
    distinct = {tuple(names): part for part, names in reversed(_parts(subject).items())}
    counter = _Counter("retraining", steps * (len(distinct) + 1), tell)

    def after(names: Sequence[str]) -> float:
        model, loss = copy.deepcopy(subject.dense), sessions.loss_of(config, shares=subject.shares)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(subject.record.seed)  # every part sees the same dropout
            recovered(model, names, loss, batches, lr=config.lr / 3, report=counter)
        return subject.ranking(model)

    whole = after(())
    falls = {names: _percent(whole, after(names)) for names in distinct}
    return {
        "values": {part: {"retrained": falls[tuple(names)]} for part, names in _parts(subject).items()},
        "mrr@20": whole,
    }


def of_l0(subject: Subject, tell: Tell, weight: float) -> dict[str, Any]:
    """The share of open gates of each matrix after a training of the same length, and that model's accuracy."""
    began = time.monotonic()
    model, before = gated(subject, tell, weight)
    values = {name: {"l0": float((score > 0).float().mean())} for name, score in l0.scores(model).items()}
    with parametrize.cached():
        mrr = subject.ranking(model)
    return {"values": values, "mrr@20": mrr, "seconds": before + time.monotonic() - began}


def gated(subject: Subject, tell: Tell, nats: float) -> tuple[Any, float]:
    """(the model with L0 gates at this price of an open one, seconds that its training took before now).

    It is the one on record, or is trained now and kept; a training that was stopped goes on from its last checkpoint.
    """
    record = subject.record
    of = weights_of(record.group, record.seed)
    asked = {"nats": nats, "steps": record.steps, "seed": record.seed, "weights": of, "names": subject.names}
    path = folders.opinions_file(record.group, record.seed).with_suffix(".l0.pt")
    part = path.with_suffix(".part.pt")
    if saved := _kept(path, asked):
        model = subject.fresh()
        l0.gate(model, subject.names)
        model.load_state_dict(saved["model"])
        return model.eval(), saved.get("seconds", 0.0)
    begun = _kept(part, asked)
    before, began = begun.get("seconds", 0.0), time.monotonic()

    def keep(state: dict[str, Any]) -> None:
        save_checkpoint(part, {**asked, **state, "seconds": before + time.monotonic() - began})

    how: dict[str, Any] = {"seed": record.seed, "steps": record.steps, "weight": nats}
    how |= {"names": subject.names, "shares": subject.shares, "begun": begun, "keep": keep}
    with torch.random.fork_rng(devices=[]):
        counter = _Counter("L0 training", record.steps, tell, begun.get("step", 0))
        model = sessions.l0_trained(subject.fresh(), record.config, subject.prefixes, **how, report=counter)
    save_checkpoint(path, {**asked, "model": model.state_dict(), "seconds": before + time.monotonic() - began})
    for each in path.parent.glob(f"{part.stem}*.pt"):
        each.unlink()
    return model, before


def _kept(path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint there, if it is of what is asked; else, or if it is damaged, nothing."""
    with suppress(DataError):
        saved, _ = latest_checkpoint(path)
        if saved and {name: saved.get(name) for name in asked} == asked:
            return saved
    return {}


def of_curves(subject: Subject, tell: Tell, l0_weight: float | None) -> dict[str, Any]:
    """MRR@20 against the share of all weights that is kept, by each criterion on its own model."""
    Plan = tuple[Any, dict[str, nn.Parameter], dict[str, Tensor]]
    weights = criteria.matrices(subject.dense, subject.names)
    plan: dict[str, Plan] = {
        name: (subject.dense, weights, score) for name, score in dense_scores(subject, tell).items()
    }
    if subject.dissected is not None:
        plan["sparsevd"] = (subject.dissected, sparsified(subject.dissected), scores(subject.dissected))
    if l0_weight is not None:
        model, _ = gated(subject, tell, l0_weight)
        plan["l0"] = (model, l0.sparsified(model), l0.scores(model))
    counter = _Counter("curves", len(plan) * len(SHARES), tell)
    rows = []
    for criterion, (model, weights, score) in plan.items():
        for share in SHARES:
            with unmasked(model), criteria.pruned(weights, score, share), parametrize.cached():
                rows.append({"criterion": criterion, "share": share, "mrr@20": subject.ranking(model)})
            counter()
    return {"rows": rows}


PIECES: dict[str, Callable[..., dict[str, Any]]] = {
    "scores": of_scores,
    "ablation": of_ablation,
    "retrain": of_retraining,
    "l0": of_l0,
    "curves": of_curves,
}


class _Counter:
    """Tells of each of `total` things that it is done."""

    def __init__(self, what: str, total: int, tell: Tell, done: int = 0) -> None:
        self.what, self.total, self.tell, self.done = what, total, tell, done
        tell(what, done, total)

    def __call__(self) -> None:
        self.done += 1
        self.tell(self.what, self.done, self.total)
