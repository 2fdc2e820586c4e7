"""The settings that decide the outcome of a run: no seed, no device, no path.

Each setting is declared once, as a field of `Config`. Its metadata hold what the command line, the checks and the
documentation need; `settings()` lists those that a user sets.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

from dissect.errors import UsageError
from dissect.text import STEERS

EPOCHS = 10  # default length of a training that chooses an epoch
PRODUCTS = ("float32", "tf32", "bf16", "auto")  # the kernels behind each are in training/products.py
DEVICES = ("auto", "cpu", "cuda")  # where a run trains, which changes no setting (training/device.py)
LOSSES = ("cross-entropy", "bpr-max", "top1-max")  # training/losses.py
LIMITS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}


class Setting(NamedTuple):
    """How a user sees a field of `Config`."""

    name: str
    kind: str  # "int", "float", "bool" or "str"
    default: Any
    group: str  # "model", "data", "training" or "SparseVD": where --help lists it
    help: str
    flag: str = ""  # as the command line spells it, if not --name
    choices: tuple[str, ...] = ()
    limits: Mapping[str, float] = MappingProxyType({})  # by the words of LIMITS
    shown: bool = True  # --help tells the default
    rare: bool = False  # --help lists it after the others of its group

    def allows(self, value: Any) -> bool:
        """Whether a value lies within the limits, or is one of the choices."""
        within = all(LIMITS[word](value, limit) for word, limit in self.limits.items())
        return within and (not self.choices or value in self.choices)

    @property
    def allowed(self) -> str:
        """The same in words: "one of a, b", or "at least 0 and below 1"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        named = (f"{word} {limit:,}" if math.isfinite(limit) else "finite" for word, limit in self.limits.items())
        return " and ".join(named)


def setting(default: Any, group: str, help: str, decides: bool = True, **more: Any) -> Any:
    """A field of `Config` that a user sets; `more` are further fields of `Setting`.

    One that `decides` nothing about the outcome makes no other group, and no difference between two configurations.
    """
    return field(default=default, compare=decides, metadata={"group": group, "help": help, **more})


@dataclass(frozen=True)
class Config:
    """The resolved configuration of a group; its hash names the folder.

    The defaults are those of `dissect run --literal`: density needs a constant learning rate until the KL weight has
    long been 1, and no epoch is chosen. CALIBRATED has those of `dissect run`, DENSE those of `dissect train`.
    """

    model: str
    dataset: str
    split_hash: str
    model_options: dict[str, Any] = field(default_factory=dict)  # numbers for the constructor, e.g. dim
    model_source: str | None = None  # SHA-256 of the file of a model that is not ours
    times_hash: str | None = None  # of the times of the training sessions, if the model reads them
    where: str = setting("both", "SparseVD", "Which matrices: both, none, a module (gnn, encoder, readout) or a role.")
    noise: str = setting(
        "lrt",
        "SparseVD",
        "lrt: a draw for each output; weight: one for each weight and step.",
        choices=("lrt", "weight"),
        rare=True,
    )
    prior: str = setting(
        "log-uniform", "SparseVD", "Prior over the weights.", choices=("log-uniform", "normal", "ard"), rare=True
    )
    threshold: float = setting(
        3.0, "SparseVD", "Keep a weight if its log alpha is below this.", limits={"at least": -20, "at most": 20}
    )
    log_sigma2: float | None = setting(
        None, "SparseVD", "Initial log sigma^2. [default: log Var(theta) - 4 in each matrix]", rare=True
    )
    unit: str = setting(
        "weight",
        "SparseVD",
        "What is pruned as one: each weight, or whole rows or columns of the matrices.",
        choices=("weight", "row", "column"),
        rare=True,
    )
    kl_weight: float = setting(
        1.0,
        "SparseVD",
        "Weight beta of the KL after the warm-up; the loss adds beta / N x KL. `run` takes several, for a path.",
        limits={"at least": 0, "below": math.inf},
    )
    kl_warmup: float = setting(
        0.3, "SparseVD", "Share of the steps over which beta rises from 0.", limits={"at least": 0, "at most": 1}
    )
    shadows: bool = setting(False, "SparseVD", "Put a useless matrix beside each one, to compare with.")
    shadow_items: int = setting(
        0,
        "SparseVD",
        "For shadows and controls, score only this many items, drawn at each step, and the targets. 0, or a"
        " catalogue of less than twice as many: all items.",
        limits={"at least": 0, "at most": 10**9},
        rare=True,
    )
    average: float = setting(
        0.0,
        "training",
        "Share of the steps, the last ones, whose parameters are averaged for all that is measured.",
        limits={"at least": 0, "below": 1},
    )
    own_rate: float = setting(
        1.0,
        "SparseVD",
        "The rate of log sigma^2, as a multiple of --lr.",
        limits={"above": 0, "below": 1000},
        rare=True,
    )
    max_steps: int = setting(
        60_000,
        "training",
        "Steps of training. [default: by --epochs]",
        limits={"at least": 0, "at most": 10**9},
        shown=False,
    )
    batch_size: int = setting(100, "training", "Examples in a step.", limits={"at least": 1, "at most": 10**6})
    longest: int = setting(
        0,
        "data",
        "Keep the last N clicks of longer prefixes, in training and in every ranking; 0 keeps all.",
        limits={"at least": 0, "at most": 10**6},
    )
    negatives: int = setting(
        0,
        "training",
        "Use a sampled softmax over N drawn items, for very large catalogues. It is biased: the loss is too small. 0"
        " uses the whole catalogue.",
        limits={"at least": 0},
        rare=True,
    )
    loss: str = setting(
        "cross-entropy",
        "training",
        "The loss. bpr-max, top1-max: GRU4Rec's, which rank the target above the other targets of the"
        " batch and --negatives drawn items.",
        choices=LOSSES,
        rare=True,
    )
    sample_alpha: float = setting(
        0.0,
        "training",
        "Draw --negatives in proportion to (clicks on the item)^A; 0 draws all items alike.",
        limits={"at least": 0, "at most": 4},
        rare=True,
    )
    bpreg: float = setting(
        1.0,
        "training",
        "Weight of the squared scores of the negatives in bpr-max.",
        limits={"at least": 0, "below": math.inf},
        rare=True,
    )
    elu: float = setting(
        0.0,
        "training",
        "Pass the scores of bpr-max and top1-max through an ELU that falls no lower than minus this; 0 does not.",
        limits={"at least": 0, "below": math.inf},
        rare=True,
    )
    products: str = setting(
        "float32",
        "training",
        "Precision of the products with the catalogue in training; sums and ranks stay in float32. bf16: faster on CPUs"
        " that support it; tf32: CUDA only; auto: the fastest on this machine.",
        choices=PRODUCTS,
        rare=True,
    )
    lr: float = setting(1e-3, "training", "Learning rate of the optimiser.", limits={"above": 0, "below": 10})
    optimiser: str = setting(
        "adam",
        "training",
        "adamw decays the weights apart from the gradient; amsgrad is Adam with the largest second moment so far;"
        " adagrad, GRU4Rec's, divides by the root of all squared gradients so far.",
        choices=("adam", "adamw", "amsgrad", "adagrad"),
        rare=True,
    )
    schedule: str = setting(
        "linear-end",
        "training",
        "linear-end: constant to 80 % of the steps, then linear to 0; steps: times 0.1 every 3 epochs; constant; host:"
        " for what SparseVD covers constant, for all else constant to 40 %, then linear to 0.",
        choices=("linear-end", "steps", "constant", "host"),
    )
    l2: float = setting(
        1e-5,
        "training",
        "L2 decay of the parameters that SparseVD does not regularise.",
        limits={"at least": 0, "below": math.inf},
    )
    decay_everything: bool = setting(
        False,
        "SparseVD",
        "Apply weight decay to theta and log sigma^2 too, as the authors' optimiser would. This distorts density.",
        rare=True,
    )
    order: str = setting("shuffled", "data", "Order of the training examples.", choices=("shuffled", "chronological"))
    protocol: str = setting(
        "clean",
        "training",
        "clean: the epoch is chosen on validation; paper: trained on all, each metric at its best epoch on test.",
        choices=("clean", "paper"),
    )
    validation: float = setting(
        0.1,
        "data",
        "Share of the training sessions, the last in time, held out for validation.",
        limits={"at least": 0, "below": 1},
    )
    test_at_end: bool = setting(
        False,
        "data",
        "Rank the test part only at the end, not after every epoch as well: faster where that part is large.",
        decides=False,
        rare=True,
    )
    select: str = "last"  # or "mrr@20": the epoch with the best one on validation
    patience: int = setting(
        0, "training", "Stop after this many epochs without a better MRR@20; 0 never stops.", limits={"at least": 0}
    )
    refit: bool = False  # on all training sessions, for the epochs that a run with validation chose for this seed
    init_from: str | None = None  # fingerprint of the weights that the run starts from
    # Whether shadows and controls have a pass of their own. Before, they ran within the model, and changed it.
    apart: bool = True

    def __post_init__(self) -> None:
        # The hash tells which file a record means: a name alone must execute nothing (experiment/own_models.py).
        if self.model_source is None and is_file_name(self.model):
            raise UsageError(
                f"model {self.model} is a file, and model_source does not say which: its SHA-256 is missing."
            )
        for name, value in {**self.to_dict(), **self.model_options}.items():
            if re.search(f"[{STEERS}]", f"{name}{value}"):  # lists and the like are written with escapes
                raise UsageError(f"{name!r} must have no control characters, not {value!r}.")
        for each in SETTINGS:
            value = getattr(self, each.name)
            if value is not None and not each.allows(value):
                raise UsageError(f"{each.name} must be {each.allowed}, not {value}.")
        if self.protocol == "paper" and self.test_at_end:
            raise UsageError("protocol=paper chooses the epoch on test, and test_at_end=True ranks it at the end only.")
        self._require_losses_to_fit()

    def _require_losses_to_fit(self) -> None:
        """Raises UsageError for settings of a loss that contradict each other or would do nothing."""
        is_pairwise = self.loss != "cross-entropy"
        if (self.negatives or is_pairwise) and self.products != "float32":
            asked = f"loss={self.loss}" if is_pairwise else f"negatives={self.negatives}"
            raise UsageError(f"{asked} needs products=float32: other products work with the whole catalogue only.")
        if is_pairwise and not self.negatives and self.batch_size == 1:
            raise UsageError(
                f"loss={self.loss} ranks the target above the other targets of the batch and above negatives: with "
                "batch_size=1 and negatives=0 there are none."
            )
        if self.sample_alpha and not self.negatives:
            raise UsageError(f"sample_alpha={self.sample_alpha:g} is about drawn items, and negatives=0 draws none.")
        if self.elu and not is_pairwise:
            raise UsageError(f"elu={self.elu:g} is for loss=bpr-max and loss=top1-max, not for {self.loss}.")
        if self.bpreg != 1 and self.loss != "bpr-max":
            raise UsageError(f"bpreg={self.bpreg:g} is for loss=bpr-max, not for {self.loss}.")

    def to_dict(self) -> dict[str, Any]:
        """All fields by name; those of the model are in `model_options`."""
        return asdict(self)

    @property
    def hash(self) -> str:
        """8 hex digits over the settings that differ from their defaults: a new setting renames no old group."""
        usual = {f.name: f.default for f in fields(self) if f.name != "model_options"}
        usual["apart"] = not self.is_sparse  # it says nothing of a dense model, and old groups have False
        decides = {f.name for f in fields(self) if f.compare}
        special = {name: value for name, value in self.to_dict().items() if usual.get(name, {}) != value}
        special = {name: value for name, value in special.items() if name in decides}
        text = json.dumps(special, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def matched(self) -> Config:
        """The same training without SparseVD, its epoch chosen on validation: what a dissection is measured against."""
        usual = {
            name: getattr(Config, name)
            for name in ("where", "noise", "prior", "threshold", "log_sigma2", "unit", "shadows", "shadow_items")
        }
        usual |= {name: getattr(Config, name) for name in ("kl_weight", "kl_warmup", "own_rate", "decay_everything")}
        return replace(self, **{**usual, "where": "none", "select": "mrr@20", "apart": True})

    def kept(self, clicks: int) -> int:
        """How many clicks of a prefix of this length are used."""
        return min(clicks, self.longest) if self.longest else clicks

    @property
    def held_out(self) -> float:
        """The share of the training sessions that is held out: 0 under protocol `paper` and without training steps."""
        return self.validation if self.protocol == "clean" and self.max_steps else 0.0

    @property
    def is_sparse(self) -> bool:
        """Whether it trains with SparseVD."""
        return self.where != "none"

    @property
    def has_verdict(self) -> bool:
        """Whether it gets a verdict: if `dissect run` trains it to its last step."""
        makes_steps = self.is_sparse or self.max_steps > 1  # a baseline makes none; earlier versions wrote 1
        return self.select == "last" and not self.refit and makes_steps

    @property
    def chooses(self) -> bool:
        """Whether a run reports the epoch that was best on validation, not its last step."""
        return self.select != "last"


SETTINGS = tuple(
    Setting(
        f.name,
        str(f.type).removesuffix(" | None"),
        f.default,
        **{"flag": f"--{f.name.replace('_', '-')}", **f.metadata},
    )
    for f in fields(Config)
    if f.metadata
)
OF_SPARSEVD = tuple(each.name for each in SETTINGS if each.group == "SparseVD" and each.name != "where")
# Settings of the verbs that are not the defaults of `Config`. `dissect run` has CALIBRATED: the KL weight is a test at
# about 3 % for each weight, averaged parameters take the noise of the gradient out, shadows show what useless weights
# keep (docs/method.md has the reason for each). `dissect run --literal` has LITERAL, SparseVD as it was
# published. `dissect train` has DENSE: no SparseVD, and the best of at most EPOCHS epochs.
CALIBRATED: Mapping[str, Any] = MappingProxyType(
    {
        "kl_weight": 4.0,
        "kl_warmup": 0.4,
        "batch_size": 400,
        "lr": 3e-3,
        "own_rate": 3.0,
        "schedule": "host",
        "average": 0.4,
        "shadows": True,
        "shadow_items": 1024,
    }
)
HOST_FALLS_FROM = 0.4  # of the steps: where the rate of schedule "host" begins to fall
LITERAL: Mapping[str, Any] = MappingProxyType({name: getattr(Config, name) for name in CALIBRATED})
SEEDS = (1, 2, 3)  # of `dissect run` unless given: as many as a verdict needs
CALIBRATED_EPOCHS = 6.6  # default length of `dissect run`: that of the trials which the settings come from
DENSE: Mapping[str, Any] = MappingProxyType({"where": "none", "schedule": "steps", "select": "mrr@20", "patience": 3})


def kl_weight_at(config: Config, step: int) -> float:
    """beta before step `step` (from 0): linear from 0 over the warm-up, then `kl_weight`; 0 without SparseVD."""
    if not config.is_sparse:
        return 0.0
    return config.kl_weight * risen(step, config.kl_warmup * config.max_steps)


def lr_at(config: Config, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step `step` (from 0) under the schedule."""
    if config.schedule == "steps":
        return config.lr * 0.1 ** (step // steps_per_epoch // 3)
    if config.schedule in ("constant", "host"):
        return config.lr
    return config.lr * left(step, config.max_steps, decay_step(config))


def host_lr_at(config: Config, step: int, steps_per_epoch: int) -> float:
    """The rate of what SparseVD does not cover: the item table, biases and norms."""
    if config.schedule != "host":
        return lr_at(config, step, steps_per_epoch)
    return config.lr * left(step, config.max_steps, HOST_FALLS_FROM * config.max_steps)


def risen(step: float, warmup: float) -> float:
    """Share of a linear rise from 0 that is over before step `step` (from 0); it ends at `warmup`."""
    return min(1.0, step / warmup) if warmup else 1.0


def left(step: float, steps: int, begin: float) -> float:
    """Share of a linear fall to 0 at `steps` that is left before step `step` (from 0); it begins at `begin`."""
    return min(1.0, (steps - step) / (steps - begin))


def decay_step(config: Config) -> int:
    """The step at which the linear decay of the learning rate begins: density is recorded here too."""
    return min(int(config.max_steps * 0.8), config.max_steps - 1)


def flat(config: Config) -> dict[str, Any]:
    """The settings of a group, those of the model's constructor first."""
    return {**config.model_options, **{name: of for name, of in config.to_dict().items() if name != "model_options"}}


def settings_apart(of_each: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which several differ, among those that have them."""
    names = dict.fromkeys(chain.from_iterable(of_each))
    return [name for name in names if len({repr(of[name]) for of in of_each if name in of}) > 1]


def telling(of_each: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """The first settings in which several differ, `most` of them; others if those tell more of them apart."""

    def apart(names: Sequence[str]) -> int:
        return len({tuple(repr(of.get(name)) for name in names) for of in of_each})

    names = [name for name in settings_apart(of_each) if not name.endswith(("_hash", "_source", "apart"))]
    found: list[str] = []
    for _ in range(min(most, len(names))):
        found.append(max((name for name in names if name not in found), key=lambda name: apart([*found, name])))
    first = names[:most]
    return first if apart(first) >= apart(found) else [name for name in names if name in found]


def in_words(name: str, value: Any) -> str:
    """A setting and its value, such as "batch size 100" or "no shadows"."""
    if isinstance(value, bool):
        return f"{'' if value else 'no '}{name.replace('_', ' ')}"
    words = "unset" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.replace('_', ' ')} {words}"


def with_sparsevd(where: str) -> str:
    """The setting `where` in words, such as "with SparseVD in gnn"."""
    if where == "none":
        return "without SparseVD"
    return "with SparseVD" + ("" if where == "both" else f" in {where}")


def told_apart(configs: Sequence[Config], most: int = 3) -> list[str]:
    """What tells each of several configurations from the others, in words: at most so many settings."""

    def words(name: str, value: Any) -> str:
        if name == "where":
            return with_sparsevd(value)
        return in_words(name, value).replace("kl ", "KL ")

    of_each = [
        {n: of for n, of in flat(config).items() if config.is_sparse or n not in OF_SPARSEVD} for config in configs
    ]
    names = telling(of_each, most)
    return [", ".join(words(name, of[name]) for name in names if name in of) for of in of_each]


def is_file_name(name: str) -> bool:
    """Whether the name of a model means a file."""
    return ".py:" in name or name.endswith(".py")
