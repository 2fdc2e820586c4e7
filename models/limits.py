"""What constructors ask of their arguments: a refusal names the argument, what would be right, and what was given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import inf
from numbers import Integral, Real
from typing import Any

MOST = 2**53  # of a count: up to here every whole number is a float too
MOST_LAYERS = 100  # layers, blocks and steps of propagation: long before, a model can neither be trained nor waited for
MOST_SCALE = 1000.0  # of scores that are cosines: with it a softmax sees nothing but the best item


def require(wanted: str, is_right: Callable[[Any], bool], **given: Any) -> None:
    """Raises ValueError for the first of the `given` that is no number, or not as `wanted`."""
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not is_right(value):
            raise ValueError(f"{name} is {wanted}, not {value!r}")


def require_whole(least: int, most: int = MOST, **given: Any) -> None:
    """Raises ValueError unless all are whole numbers from `least` to `most`."""
    require("a whole number", lambda x: isinstance(x, Integral), **given)
    require(f"at least {least}", lambda x: x >= least, **given)
    require(f"at most {most:,}", lambda x: x <= most, **given)


def require_rates(**given: Any) -> None:
    """Raises ValueError unless all are probabilities with which something may be lost: some of it has to stay."""
    require("from 0 to below 1", lambda x: 0 <= x < 1, **given)


def require_positive(**given: Any) -> None:
    """Raises ValueError unless all are above 0 and finite, as what is multiplied or divided by has to be."""
    require("above 0 and finite", lambda x: 0 < x < inf, **given)


def require_scale(**given: Any) -> None:
    """Raises ValueError unless all are above 0 and at most MOST_SCALE."""
    require(f"above 0 and at most {MOST_SCALE:,.0f}", lambda x: 0 < x <= MOST_SCALE, **given)


def require_choice(choices: Collection[str], **given: Any) -> None:
    """Raises ValueError unless all are among the `choices`."""
    for name, value in given.items():
        if value not in choices:
            raise ValueError(f"{name} is one of {', '.join(choices)}, not {value!r}")


def require_heads(heads: int, dim: int) -> None:
    """Raises ValueError unless heads have equal parts of the width."""
    if dim % heads:
        fit = ", ".join(str(h) for h in range(1, dim + 1) if dim % h == 0)
        raise ValueError(f"heads={heads} does not divide dim={dim}: take one of {fit}")


def require_readout(readout: str, own: str, switches: Mapping[str, Any]) -> None:
    """Raises ValueError unless `readout` is a model's `own` or Atten-Mixer's, which alone takes `switches`."""
    require_choice((own, "attenmixer"), readout=readout)
    if switches and readout == own:
        given = ", ".join(f"{name}={value}" for name, value in switches.items())
        raise ValueError(f"{given}: only with readout='attenmixer'")
