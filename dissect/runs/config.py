"""What decides the outcome of a run, and nothing else: no seed, no device, no path."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dissect.errors import UsageError
from dissect.text import STEERS

NOISES = ("lrt", "weight")
OPTIMISERS = ("adam", "adamw", "amsgrad")
SCHEDULES = ("linear-end", "steps", "constant")
PROTOCOLS = ("clean", "paper")
ORDERS = ("shuffled", "chronological")
PRODUCTS = ("float32", "tf32", "bf16", "auto")  # the kernels behind each are in training/products.py


@dataclass(frozen=True)
class Config:
    """The resolved configuration of a group; its hash names the folder.

    The defaults are those of `dissect run` (design: density needs a constant learning rate until the KL
    weight has been 1 for long; no choice of epoch). `dissect train` passes its own.
    """

    model: str
    dataset: str
    split_hash: str
    model_options: dict[str, Any] = field(default_factory=dict)  # numbers for the constructor, e.g. dim
    model_source: str | None = None  # SHA-256 of the file of a model that is not ours
    where: str = "both"  # what SparseVD replaces: a module, a role, "both" is all, "none" trains dense
    noise: str = "lrt"
    prior: str = "log-uniform"
    threshold: float = 3.0  # log alpha below which a weight is kept
    log_sigma2: float | None = None  # None: log Var(theta) - 4 in each matrix
    kl_weight: float = 1.0  # beta at the end; the KL enters the loss as beta / N
    kl_warmup: float = 0.3  # share of the steps over which beta rises from 0
    max_steps: int = 60_000
    batch_size: int = 100
    longest: int = 0  # clicks of a prefix that count, its last, in training and in ranking; 0: all
    negatives: int = 0  # items drawn at each step for a sampled softmax; 0: the whole catalogue
    products: str = "float32"  # how products with the catalogue multiply in training, of PRODUCTS
    lr: float = 1e-3
    optimiser: str = "adam"  # adamw decays apart from the gradient; amsgrad is Adam with the largest second moment
    schedule: str = "linear-end"  # constant to 80 % of the steps, then linear to 0; x 0.1 every 3 epochs; constant
    l2: float = 1e-5  # decay of what SparseVD does not regularise
    decay_everything: bool = False  # also theta and log sigma^2, as the authors' optimiser would: a trap, on show
    order: str = "shuffled"
    protocol: str = "clean"
    validation: float = 0.1  # last share of the training sessions in time
    select: str = "last"  # "last", or the epoch with the best validation "mrr@20"
    patience: int = 0  # epochs without a better validation MRR@20 before stopping; 0 never stops
    refit: bool = False  # on all training sessions, for the epochs that a run with validation chose for this seed
    init_from: str | None = None  # fingerprint of the weights that the run starts from

    def __post_init__(self) -> None:
        def check(right: bool, message: str) -> None:
            if not right:
                raise UsageError(message)

        # Which file a record means is its hash: a name alone must execute nothing (own_models.py).
        check(
            self.model_source is not None or not is_file_name(self.model),
            f"model {self.model} is a file, and model_source does not say which: its SHA-256 is missing.",
        )
        for name, value in {**self.to_dict(), **self.model_options}.items():
            right = not re.search(f"[{STEERS}]", f"{name}{value}")  # lists and the like are written with escapes
            check(right, f"{name!r} must have no control characters, not {value!r}.")
        check(0 < self.lr < 10, f"lr must lie between 0 and 10, not {self.lr}.")
        check(self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}.")
        check(self.longest >= 0, f"longest must not be negative, not {self.longest}.")
        check(self.negatives >= 0, f"negatives must not be negative, not {self.negatives}.")
        check(
            not self.negatives or self.products == "float32",
            f"products are those with the whole catalogue: negatives={self.negatives} takes products=float32 only.",
        )
        check(self.patience >= 0, f"patience must not be negative, not {self.patience}.")
        check(self.max_steps >= 0, f"max_steps must not be negative, not {self.max_steps}.")
        check(0 <= self.kl_weight < math.inf, f"kl_weight must be a number from 0 on, not {self.kl_weight}.")
        check(-20 <= self.threshold <= 20, f"threshold (of log alpha) must lie from -20 to 20, not {self.threshold:g}.")
        check(0 <= self.kl_warmup <= 1, f"kl_warmup is a share of the steps, 0 to 1, not {self.kl_warmup}.")
        check(
            0 <= self.validation < 1,
            f"validation is a share of the sessions, 0 to below 1, not {self.validation}.",
        )
        check(0 <= self.l2 < math.inf, f"l2 must be a number from 0 on, not {self.l2}.")
        check(
            self.noise != "lrt_shared",
            "noise must be lrt or weight: lrt_shared (one draw for all rows of a session) is no longer offered.",
        )
        for name, valid in (
            ("noise", NOISES),
            ("optimiser", OPTIMISERS),
            ("schedule", SCHEDULES),
            ("protocol", PROTOCOLS),
            ("order", ORDERS),
            ("products", PRODUCTS),
        ):
            check(
                getattr(self, name) in valid,
                f"{name} must be one of {', '.join(valid)}, not {getattr(self, name)}.",
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def hash(self) -> str:
        """8 hex digits over the settings that differ from their defaults, so that a new setting keeps old names."""
        usual = {f.name: f.default for f in fields(self) if f.name != "model_options"}
        special = {name: value for name, value in self.to_dict().items() if usual.get(name, {}) != value}
        text = json.dumps(special, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def kept(self, clicks: int) -> int:
        """Of so many clicks of a prefix, how many count."""
        return min(clicks, self.longest) if self.longest else clicks

    @property
    def held_out(self) -> float:
        """The share of the training sessions that is held out: none under protocol `paper`, which chooses on test, and
        none where there is nothing to choose, for a model without training steps."""
        return self.validation if self.protocol == "clean" and self.max_steps else 0.0

    @property
    def is_sparse(self) -> bool:
        return self.where != "none"


def kl_weight_at(config: Config, step: int) -> float:
    """beta before step `step` (from 0): linear from 0 over the warm-up, then `kl_weight`; 0 without SparseVD."""
    if not config.is_sparse:
        return 0.0
    warmup = config.kl_warmup * config.max_steps
    return config.kl_weight * (min(1.0, step / warmup) if warmup else 1.0)


def lr_at(config: Config, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step `step` (from 0) under the schedule."""
    if config.schedule == "steps":
        return config.lr * 0.1 ** (step // steps_per_epoch // 3)
    if config.schedule == "constant":
        return config.lr
    decay_from = decay_step(config)
    return config.lr * min(1.0, (config.max_steps - step) / (config.max_steps - decay_from))


def decay_step(config: Config) -> int:
    """The step at which the linear decay of the learning rate begins: density is recorded here too."""
    return min(int(config.max_steps * 0.8), config.max_steps - 1)


def is_file_name(name: str) -> bool:
    """Whether the name of a model means a file."""
    return ".py:" in name or name.endswith(".py")
