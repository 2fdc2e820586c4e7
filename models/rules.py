"""Sequential rules (Kamehkhosh, Jannach and Ludewig 2017): recommend what has come soon after the last click.

The definition is that of session-rec (algorithms/baselines/sr.py), except that

- items that no rule names come after all others, by popularity; there they all have score 0,
- the weight `linear` is never negative; there it is, from a distance of eleven clicks to one of a hundred,
- scores are not divided by the highest one, which changes no rank and is not a number there if no rule applies,
- there is no weighting by idf and no cut to the last days.

B sessions of a batch, C clicks, V items, R rules.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from models.base import SessionModel
from models.batch import Batch
from models.limits import require, require_choice, require_whole
from models.popularity import support_share
from models.search import Choice, Int
from models.votes import DECAYS, entries, falling, lists_of, scores_of_votes


class SequentialRules(SessionModel):
    """SR: rules "j after i" from training sessions, for the last click.

    Each time j is clicked d clicks after i, in the same session and with d at most `steps`, the rule gains
    weight(d): "div" 1 / d, "quadratic" 1 / d^2, "linear" 1 - 0.1 d but at least 0, "log" 1 / log10(d + 1.7),
    "same" 1. Of the rules of an item the heaviest are kept, and of equally heavy ones those that were seen first.

    pruning         rules kept of each item; below 1 the share of them that is dropped; 0 keeps all
    last            clicks at the end of the session whose rules are added up
    last_weighting  weight of the rules of the click that is `step` clicks from the end, by the same names; that of the
                    last click is 1
    """

    learns = False
    search: ClassVar = {
        "steps": Int(2, 30),
        "weighting": Choice(DECAYS),
        "last": Int(1, 3),
        "pruning": Choice((0, 10, 20, 50, 100)),
    }
    # session-rec's settings for Diginetica (conf/save/diginetica): one split, five windows.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "single": {"steps": 15, "weighting": "div"},
        "window": {"steps": 20, "weighting": "quadratic"},
    }

    def __init__(
        self,
        n_items: int,
        steps: int = 15,
        weighting: str = "div",
        pruning: float = 20,
        last: int = 1,
        last_weighting: str = "div",
    ) -> None:
        super().__init__()
        require_whole(1, n_items=n_items, steps=steps, last=last)
        require_choice(DECAYS, weighting=weighting, last_weighting=last_weighting)
        rules = "a share below 1 or a whole number of rules"
        require(rules, lambda x: 0 <= x < torch.inf and (x < 1 or x == int(x)), pruning=pruning)
        self.n_items, self.steps, self.weighting, self.pruning = n_items, steps, weighting, pruning
        self.last, self.last_weighting = last, last_weighting

    def prepare(self, sessions: Any) -> None:
        """Find the rules in the training sessions, given as arrays `items` (numbered from 1) and `offsets`."""
        rule, weight, seen = self._found(sessions)
        # By item; then heaviest first, and of equally heavy ones what was seen first.
        order = seen.argsort(stable=True)
        order = order[weight[order].argsort(descending=True, stable=True)]
        order = order[(rule[order] // self.n_items).argsort(stable=True)]
        rule, weight = rule[order], weight[order]
        cause, effect = rule // self.n_items, rule % self.n_items
        count = torch.bincount(cause, minlength=self.n_items)
        kept = torch.arange(len(rule)) - (count.cumsum(0) - count)[cause] < self._most(count)[cause]
        self.effects = lists_of(effect[kept], cause[kept], self.n_items)
        self.strength = weight[kept].float()  # [R]
        self.fallback = support_share(sessions, self.n_items) - 1  # [V] below every rule

    def _found(self, sessions: Any) -> tuple[Tensor, Tensor, Tensor]:
        """(i * V + j, weight in float64, the click that ended it first) of each rule "j after i"."""
        offsets = torch.tensor(sessions.offsets, dtype=torch.long)
        items = torch.tensor(sessions.items, dtype=torch.long) - 1
        position = torch.arange(len(items)) - offsets[:-1].repeat_interleave(offsets.diff())
        count = position.clamp(max=self.steps)
        click = torch.repeat_interleave(count)  # once for each click up to `steps` before it
        distance = torch.arange(len(click)) - (count.cumsum(0) - count)[click] + 1
        rule, order = (items[click - distance] * self.n_items + items[click]).sort(stable=True)
        gain = falling(self.weighting, distance[order].double())
        rule, which, times = torch.unique_consecutive(rule, return_inverse=True, return_counts=True)
        weight = torch.zeros(len(rule), dtype=torch.float64).index_add_(0, which, gain)
        return rule, weight, click[order[times.cumsum(0) - times]]

    def _most(self, count: Tensor) -> Tensor:
        """How many of its `count` rules [V] each item keeps, [V]."""
        if self.pruning == 0:
            return count
        if self.pruning < 1:
            return count - (count.double() * self.pruning).long()
        return torch.full_like(count, int(self.pruning))

    def scores(self, batch: Batch) -> Tensor:
        clicks = batch.clicks
        late = clicks.from_end < self.last
        step = clicks.from_end[late] + 1
        weight = torch.where(step == 1, 1.0, falling(self.last_weighting, step.float()))
        place, which = entries(self.effects, clicks.items[late] - 1)
        cell = clicks.owner[late][which] * self.n_items + self.effects.values[place]
        return scores_of_votes(cell, weight[which] * self.strength[place], self.fallback, len(batch))
