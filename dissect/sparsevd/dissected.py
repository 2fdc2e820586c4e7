"""Dissect any model: train it with SparseVD, with shadows, and say which of its parts are alive.

    found = dissect(model, loss, batches, held_out=..., score=...)
    found.density(), found.verdict({"branch": ["branch.*"]})

docs/sparsevd.md has examples.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from dissect.errors import DataError, UsageError, unknown
from dissect.sparsevd import rules
from dissect.sparsevd.batches import Batches, Feed, rows_of
from dissect.sparsevd.groups import Count, Patterns, blocks_of, count, is_all_that_reads, layers_of, masks_of, zeroed
from dissect.sparsevd.kl import PRIORS, null_share
from dissect.sparsevd.layers import NOISES, one_sample
from dissect.sparsevd.protocol import SEEDS, Loss, Protocol, Trained, train
from dissect.sparsevd.rules import ALIVE, UNDECIDED, WITHERED
from dissect.sparsevd.sparsify import SparsifyReport
from dissect.sparsevd.swapped import FEWEST_TO_SWAP, swapped
from dissect.text import percent, plural

Score = Callable[[nn.Module, Any], Any]
Answer = dict[str, Any]
MOST = 10**9  # a seed, as for `dissect run`


def dissect(
    model: nn.Module | Callable[[], nn.Module],
    loss: Loss,
    batches: Batches,
    *,
    held_out: Batches | None = None,
    score: Score | None = None,
    n_examples: int | None = None,
    seeds: int | Sequence[int] = SEEDS,
    quiet: bool = False,
    **settings: Any,
) -> Dissected:
    """Train a model with SparseVD by the calibrated protocol, once a seed, and measure what its matrices keep.

    model       an nn.Module, which stays as it is: copies are trained, and all begin with its weights. Or a function
                that builds one: then each seed begins anew
    loss        loss(model, batch) -> the mean over the examples of a batch, a scalar
    batches     those of an epoch: a list, a DataLoader, or a function that returns an iterator
    held_out    batches of unseen data, and score(model, batch) -> a number, the higher the better (accuracy, say).
                With them a dense model is trained beside each one, and a part is alive only if unseen data need it
    n_examples  the training examples N, by which the KL is divided; counted if not given
    seeds       one training each; an answer needs three
    quiet       no progress on stderr
    settings    steps, kl_weight, lr, where, noise, threshold, shadows, prior: fields of `Protocol`

    Raises UsageError for a model without a matrix, a loss that is no scalar, batches that can be read only once and
    settings that do not exist, DataError if there are no batches, DivergedError for a loss that is NaN or infinite.
    """
    protocol = _protocol(settings)
    if (held_out is None) != (score is None):
        raise UsageError(
            "`held_out` and `score` go together: unseen batches, and how good a model is on one.",
            "Give both, or neither.",
        )
    each: Any = [seeds] if type(seeds) is int else seeds
    is_list = isinstance(each, Sequence) and all(isinstance(seed, int) and 0 <= seed <= MOST for seed in each)
    if not is_list or not each or len(set(each)) < len(each):
        raise UsageError(f"`seeds` is {seeds!r}: it needs different whole numbers from 0 to {MOST:,}, one a training.")
    feed = Feed(batches, "batches")
    unseen = None if held_out is None else Feed(held_out, "held_out")
    if unseen is not None and (rows := rows_of(next(iter(unseen.once())))) is not None and rows < FEWEST_TO_SWAP:
        raise UsageError(
            f"A verdict swaps inputs between rows, and the first batch of `held_out` has {plural(rows, 'row')}.",
            f"Give batches of {FEWEST_TO_SWAP} rows or more (hundreds are quicker).",
        )
    n = feed.n_examples() if n_examples is None else n_examples
    if not _is_number(n) or not n > 0:
        raise UsageError(f"n_examples is the number of training examples, not {n!r}.")
    runs, matched = [], {}
    progress = _Progress(len(each) * (1 if unseen is None else 2) * protocol.steps, None if quiet else sys.stderr)
    with progress:
        for seed in each:
            runs.append(train(model, loss, feed, n, protocol, seed, report=progress.of(f"seed {seed}")))
            if unseen is not None and score is not None:
                says = progress.of(f"seed {seed}, dense")
                dense = train(model, loss, feed, n, protocol, seed, is_sparse=False, report=says).model
                matched[seed] = scored(dense, unseen, score)
    return Dissected(runs, protocol, n, unseen, score, matched)


class Dissected:
    """What came of it. `models` and `shadows` are by seed; a model is in evaluation, its pruned weights masked.

    `left_out` has the weights that were not dissected, with the reason. `matched` has the scores of the dense models.
    `dissect` makes it, from `runs` by seed, their `protocol`, `n_examples`, and `held_out` batches with their `score`.
    """

    def __init__(
        self,
        runs: Sequence[Trained],
        protocol: Protocol,
        n_examples: int,
        held_out: Feed | None,
        score: Score | None,
        matched: Mapping[int, float],
    ) -> None:
        self.runs = {run.seed: run for run in runs}
        self.protocol, self.n_examples, self.matched = protocol, n_examples, dict(matched)
        self.models = {run.seed: run.model for run in runs}
        self.shadows = {run.seed: run.shadows for run in runs}
        report = runs[0].report
        self.left_out: dict[str, str] = {} if report is None else report.left_out
        self._held_out, self._score = held_out, score
        self._scores: dict[tuple[Any, ...], float] = {}

    def __repr__(self) -> str:
        steps, weight = f"{self.protocol.steps:,} steps", f"KL weight {self.protocol.kl_weight:g}"
        count = len(self.report.swapped)
        return f"<Dissected: {count} matrices, {_seeds(len(self.runs))} of {steps}, {weight}>"

    @property
    def model(self) -> nn.Module:
        """The model of the first seed."""
        return next(iter(self.models.values()))

    @property
    def report(self) -> SparsifyReport:
        """What `sparsify` exchanged."""
        found = next(iter(self.runs.values())).report
        assert found is not None
        return found

    def density(self, groups: Patterns | None = None, threshold: float | None = None, blocks: bool = False) -> Any:
        """What is kept, as a pandas DataFrame: a row a seed and matrix, and with `blocks` for each block of it.

        seed, matrix, block   "" for the whole; gates, q, k and v, heads, e.g. "q.head0"
        group                 those of `groups` (see `verdict`) that have a weight of it
        kept, size, density   as in `sparsevd.density`
        shadow                the density of its shadow: what a useless matrix keeps there

        `threshold` of log alpha, in place of that of the training.
        """
        t, rows = self.protocol.threshold if threshold is None else threshold, []
        for seed, run in self.runs.items():
            members = {} if groups is None else masks_of(run.model, groups)
            wholes, named = masks_of(run.model, None), blocks_of(run.model)
            for name, masks in wholes.items():
                parts = {"": masks[name]}
                for block, part in named[name].items() if blocks else ():
                    parts[block] = torch.zeros_like(masks[name])
                    parts[block][part] = True
                for block, mask in parts.items():
                    c = count(run.model, run.shadows, {name: mask}, t)
                    of = [group for group, there in members.items() if name in there and (there[name] & mask).any()]
                    rows.append((seed, name, block, ", ".join(of), c.kept, c.size, c.density, c.shadow))
        return frame(rows, ["seed", "matrix", "block", "group", "kept", "size", "density", "shadow"])

    def history(self) -> Any:
        """Densities and the loss (without the KL) during training, as a DataFrame: a row a seed, step and matrix."""
        rows = [
            (run.seed, row["step"], row["matrix"], row["kept"] / row["size"], _share(row), row["loss"])
            for run in self.runs.values()
            for row in run.records
        ]
        return frame(rows, ["seed", "step", "matrix", "density", "shadow", "loss"])

    def scores(self) -> Any:
        """The score on the held-out batches, as a DataFrame: a row a seed, of the masked model and of the dense one.

        Raises UsageError without held-out batches.
        """
        if self._held_out is None:
            raise UsageError("There is no score without held-out batches.", "Give dissect(..., held_out=, score=).")
        rows = [(seed, self._scored(seed, (), {}), self.matched[seed]) for seed in self.runs]
        return frame(rows, ["seed", "masked", "dense"])

    def verdict(self, groups: Patterns | None = None) -> dict[str, Answer]:
        """For each group of matrices (each matrix unless given): alive, withered or undecided, and why.

        groups   {"attention": ["encoder.*.self_attn*"], "gate": ["rnn.*/z"]}: names of matrices, or of blocks of one,
                 with * and ?

        A group is judged by its excess, what it keeps beyond its shadows, by the limits of dissect/sparsevd/rules.py.
        `answer` is undecided where there is a doubt, and `figures_say` the answer before any doubt; `reasons` are in
        words. Beside them density, shadow, excess (means over seeds), `by_seed` (the excess), `low` and `high` (its
        95 % interval), and the share of the score that is lost without the group. That is `swapped`, with the inputs of
        others, if the group has all weights that read them; if not (a state, a gate, a head), `zeroed`, with its
        weights at 0. The other one is None.

        Raises UsageError for a pattern that names nothing, and if there are no shadows.
        """
        if not self.protocol.shadows:
            raise UsageError(
                "Without shadows there is nothing to compare a density with.", "Dissect with shadows=True."
            )
        members = {seed: masks_of(run.model, groups) for seed, run in self.runs.items()}
        names = list(next(iter(members.values())))
        return {name: self._judged(name, {seed: of[name] for seed, of in members.items()}) for name in names}

    def _judged(self, name: str, masks: dict[int, Any]) -> Answer:
        t = self.protocol.threshold
        counts = self._counts(masks, t)
        excess = {seed: _excess(c) for seed, c in counts.items()}
        answer = _answer(list(excess.values()))
        falls, is_swap = self._falls(masks), self._is_swap(masks)
        doubts = rules.too_few(len(self.runs))
        if not self.protocol.kl_weight:
            doubts.append("the KL weight is 0, so that nothing was pruned: density says nothing")
        elif answer == ALIVE:
            doubts += self._doubts_of_alive(name, counts, falls, is_swap)
        elif answer == WITHERED:
            doubts += self._doubts_of_withered(name, counts, falls, is_swap)
        other = _answer([_excess(c) for c in self._counts(masks, rules.OTHER_THRESHOLD).values()])
        if other != answer:
            doubts.append(f"the answer depends on the threshold: '{other}' at t = {rules.OTHER_THRESHOLD:g}")
        span = rules.interval(list(excess.values()))
        says = f"{name} keeps {', '.join(f'{value:.3f}' for value in excess.values())} more than its shadows"
        if span:
            says += f" (mean {span[0]:.3f} to {span[1]:.3f}; limit {rules.EMPTY})"
        n = len(counts)
        return {
            "answer": UNDECIDED if doubts else answer,
            "figures_say": answer,
            "reasons": [says, *doubts],
            "density": sum(c.density for c in counts.values()) / n,
            "shadow": sum(c.shadow or 0.0 for c in counts.values()) / n,
            "excess": sum(excess.values()) / n,
            "low": span[0] if span else None,
            "high": span[1] if span else None,
            "by_seed": excess,
            "swapped": sum(falls) / n if falls and is_swap else None,
            "zeroed": sum(falls) / n if falls and not is_swap else None,
        }

    def _doubts_of_alive(self, name: str, counts: dict[int, Count], falls: list[float], is_swap: bool) -> Iterator[str]:
        """Chance would keep as much, or only the training set needs it."""
        null = (
            null_share(self.protocol.kl_weight, self.protocol.threshold) if self.protocol.prior == "log-uniform" else 0
        )
        worst = max(min(1.0, max(c.shadow or 0.0, null) / c.density) if c.density else 1.0 for c in counts.values())
        if worst > rules.FALSE_LIMIT:
            digits = int(round(worst, 2) <= rules.FALSE_LIMIT)  # 10.2 %, not "10 % (> 10 %)"
            limit = percent(rules.FALSE_LIMIT, 0)
            yield f"chance would keep {percent(worst, digits)} of what {name} keeps (> {limit})"
        if not falls:
            yield f"no held-out batches were given: whether unseen data need {name} is not known"
        elif (least := (rules.interval(falls) or falls)[0]) <= rules.FALL:
            says = f"{_change(falls, is_swap)}, at least {percent(-least, 1, '+')}"
            yield f"unseen data may not need {name}: the score changes by {says} ({percent(-rules.FALL, 0)} is asked)"

    def _doubts_of_withered(
        self, name: str, counts: dict[int, Count], falls: list[float], is_swap: bool
    ) -> Iterator[str]:
        """Few weights may be enough; or the training may not have pruned, or kept nothing that it needed."""
        if falls and (rules.interval(falls) or falls)[0] > rules.FALL:
            yield f"unseen data need {name}, though it keeps so little: the score changes by {_change(falls, is_swap)}"
        if (most := max(c.density for c in counts.values())) > rules.PRUNED:
            kept = f"{name} still keeps {most:.3f} (> {rules.PRUNED})"
            yield f"{kept}, as its shadows do: too little was pruned; train longer"
        if not self.matched:
            yield "no held-out batches were given: whether the model is as good as a dense one is not known"
        else:
            own = sum(self._scored(seed, (), {}) for seed in self.runs) / len(self.runs)
            dense = sum(self.matched.values()) / len(self.matched)
            if own < dense - (1 - rules.AS_GOOD) * abs(dense):
                below = f"below {100 * rules.AS_GOOD:.0f} % of the {dense:.4g} of the matched dense model"
                yield f"the score is {own:.4g}, {below}"
        every = {seed: masks_of(run.model, None) for seed, run in self.runs.items()}
        matrices = next(iter(every.values()))
        means = []
        for matrix in matrices:
            found = self._counts({seed: masks[matrix] for seed, masks in every.items()}, self.protocol.threshold)
            means.append(sum(map(_excess, found.values())) / len(found))
        if max(means) < rules.CLEAR:
            yield (
                f"no matrix keeps more than {rules.CLEAR} beyond its shadow: nothing shows that the run keeps what it "
                "needs"
            )

    def _counts(self, masks: dict[int, Any], threshold: float) -> dict[int, Count]:
        return {seed: count(run.model, run.shadows, masks[seed], threshold) for seed, run in self.runs.items()}

    def _falls(self, masks: dict[int, Any]) -> list[float]:
        """By seed, the share of the score on held-out batches that is lost without a group.

        Its layers get the inputs of others, or where that would put out more than the group, its weights are 0.
        """
        if self._held_out is None:
            return []
        falls = []
        for seed, run in self.runs.items():
            layers, read = layers_of(run.model, masks[seed])
            whole = self._scored(seed, (), {})
            other = self._scored(seed, tuple(layers), read) if self._is_swap(masks) else self._zeroed(seed, masks[seed])
            falls.append((whole - other) / abs(whole) if whole else 0.0)
        return falls

    def _is_swap(self, masks: dict[int, Any]) -> bool:
        return all(is_all_that_reads(run.model, masks[seed]) for seed, run in self.runs.items())

    def _zeroed(self, seed: int, masks: Any) -> float:
        """The score of a seed's model with the weights of a group at 0."""
        assert self._held_out is not None and self._score is not None
        with zeroed(self.models[seed], masks):
            return scored(self.models[seed], self._held_out, self._score)

    def _scored(self, seed: int, layers: tuple[str, ...], read: dict[nn.Module, list[str]]) -> float:
        """The score of a seed's model with the inputs of some layers swapped, computed once."""
        model = self.models[seed]
        key = (seed, layers, tuple((id(layer), tuple(parts)) for layer, parts in read.items()))
        if key not in self._scores:
            assert self._held_out is not None and self._score is not None
            with swapped([model.get_submodule(name) for name in layers], read):
                self._scores[key] = scored(model, self._held_out, self._score)
        return self._scores[key]


def _change(falls: list[float], is_swap: bool) -> str:
    """The mean change of the score without a group, and how it was left out."""
    return f"{percent(-sum(falls) / len(falls), 1, '+')} with {'swapped inputs' if is_swap else 'its weights at 0'}"


@torch.no_grad()
def scored(model: nn.Module, held_out: Feed, score: Score) -> float:
    """The mean score of a model over the batches, weighted by their examples.

    Raises DataError if there is no batch, UsageError for a score that is no finite number.
    """
    total, examples = 0.0, 0
    with one_sample(model):
        for batch in held_out.once():
            n = rows_of(batch) or 1
            given = score(model, batch)
            try:
                value = float(given)
            except (TypeError, ValueError, RuntimeError) as error:
                shape = f" of shape {[*given.shape]}" if isinstance(given, Tensor) else ""
                raise UsageError(f"The score has to be one number, and is a {type(given).__name__}{shape}.") from error
            if not math.isfinite(value):
                raise DataError(f"The score is {value}.", "Check the held-out batches for NaN.")
            total, examples = total + value * n, examples + n
    return total / examples


def frame(rows: list[tuple[Any, ...]], columns: list[str]) -> Any:
    """A pandas DataFrame."""
    import pandas

    return pandas.DataFrame(rows, columns=columns)


def _protocol(settings: dict[str, Any]) -> Protocol:
    """The settings, checked. Raises UsageError."""
    for name in settings:
        if name not in Protocol._fields:
            raise unknown("setting", name, Protocol._fields)
    protocol = Protocol(**settings)
    for name in ("kl_weight", "lr", "threshold"):
        if not _is_number(value := getattr(protocol, name)):
            raise UsageError(f"{name} is a number, not {value!r}.")
    if not isinstance(protocol.steps, int) or isinstance(protocol.steps, bool) or protocol.steps < 1:
        raise UsageError(f"steps is a whole number of updates, at least 1, not {protocol.steps}.")
    if not (0 <= protocol.kl_weight < math.inf and 0 < protocol.lr < math.inf):
        raise UsageError(f"kl_weight is at least 0 and lr above 0, not {protocol.kl_weight} and {protocol.lr}.")
    if protocol.noise not in NOISES:
        raise unknown("noise", protocol.noise, NOISES)
    if protocol.prior not in PRIORS:
        raise unknown("prior", protocol.prior, PRIORS)
    return protocol


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _excess(c: Count) -> float:
    return c.density - (c.shadow or 0.0)


def _answer(values: list[float]) -> str:
    """By the interval over seeds; of one seed, by its value."""
    low, high = rules.interval(values) or (values[0], values[0])
    return rules.by_excess(low, high)


def _share(row: dict[str, Any]) -> float | None:
    return None if row["shadow kept"] is None else row["shadow kept"] / row["size"]


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n != 1)}"


class _Progress:
    """A line on a terminal, with the time left, from the third second on."""

    def __init__(self, steps: int, stream: TextIO | None) -> None:
        self.steps, self.done = steps, 0
        self.stream = stream if stream is not None and stream.isatty() else None
        self.began = self.told = time.monotonic()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        if self.stream is not None and self.told > self.began:
            print("\r\x1b[K", end="", file=self.stream, flush=True)

    def of(self, what: str) -> Callable[[int, float], None]:
        """What a training reports to."""

        def tell(step: int, loss: float) -> None:
            self.done += 1
            now = time.monotonic()
            if self.stream is None or now - self.began < 2 or now - self.told < 0.5:
                return
            self.told = now
            left = (now - self.began) / self.done * (self.steps - self.done)
            says = f"{what}: step {step:,}, loss {loss:.4g}; {left:.0f} s left"
            print(f"\r\x1b[K{says}", end="", file=self.stream, flush=True)

        return tell
