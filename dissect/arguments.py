"""The arguments of the calls in api.py: whether each is of its kind, and which of them are settings or options."""

from __future__ import annotations

import inspect
import operator
import pickle
import reprlib
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from dissect.data.sessions import Dataset
from dissect.errors import UsageError, unknown
from dissect.experiment.plan import planned
from dissect.experiment.subject import Subject, defaults
from dissect.experiment.train import train
from dissect.experiment.tuned import Tuning
from dissect.group import Group
from dissect.runs.config import DENSE, DEVICES, SETTINGS
from dissect.usual import ASKED_RESAMPLES, SCALES

Model = str | type[Any]  # a name, "path/to/file.py:ClassName", or a class
# What is no setting and no option of a model.
BESIDE = {name for each in (train, planned) for name in inspect.signature(each).parameters}
BESIDE -= {"model", "data", "say", "about", "settings", "usual", "matched"}
OF_TUNING = {"trials", "timeout", "sparsevd", "options", "preset", "epochs", "seed", "device", "runs_dir"}


def _is_whole(value: Any, least: int, most: float = float("inf")) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and least <= int(value) <= most


def _are(values: Any, is_one: Callable[[Any], bool], least: int = 1) -> bool:
    """Whether it is a list of such, with `least` of them or more."""
    is_list = hasattr(values, "__len__") and not isinstance(values, str)
    return is_list and len(values) >= least and all(map(is_one, values))


def seed_list(seeds: Any) -> Any:
    """One seed as a list of it, and a list as it is."""
    return [seeds] if _is_whole(seeds, 0) else seeds


def _is_shard(value: Any) -> bool:
    return _are(value, lambda number: _is_whole(number, 1)) and len(value) == 2 and value[0] <= value[1]


def _is_place(value: Any) -> bool:
    return isinstance(value, (str, Path))


def is_group(value: Any) -> bool:
    return isinstance(value, Group) or _is_place(value)


# Argument -> (whether a value is of its kind, that kind in words). Settings and options have their checks elsewhere.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda x: isinstance(x, (str, type)), 'a name, "path/to/file.py:ClassName" or a class'),
    "data": (lambda x: isinstance(x, (str, Dataset)), "a Dataset, or the name of one"),
    "seeds": (
        lambda x: _are(seed_list(x), lambda seed: _is_whole(seed, 0, 10**9)),
        "a whole number, or a list of them, such as (1, 2, 3)",
    ),
    "epochs": (lambda x: isinstance(x, Real) and not isinstance(x, bool), "a number above 0"),
    "arms": (lambda x: _are(x, lambda label: isinstance(label, str), least=0), "a list of labels"),
    "without": (lambda x: _are(x, lambda role: isinstance(role, str), least=0), "a list of roles"),
    "options": (
        lambda x: isinstance(x, Mapping) and all(isinstance(name, str) for name in x),
        'a dict of options of the model, such as {"steps": 2}',
    ),
    "jobs": (lambda x: _is_whole(x, 1), "a whole number, at least 1"),
    "observe": (callable, "a class derived from dissect.Observer, or a function that makes an observer from a title"),
    "device": (lambda x: isinstance(x, str) and x in DEVICES, f"one of {', '.join(DEVICES)}"),
    "runs_dir": (_is_place, "the path of a folder"),
    "data_dir": (lambda x: x is None or _is_place(x), "the path of a folder"),
    "dataset": (lambda x: isinstance(x, str), "the name of a data set"),
    "folder": (_is_place, "the path of an export"),
    "out": (_is_place, "a path to write to"),
    "name": (lambda x: isinstance(x, str), "a text"),
    "validation": (lambda x: isinstance(x, Real) and not isinstance(x, bool), "a share, at least 0 and below 1"),
    "preset": (lambda x: isinstance(x, Hashable), "the name of a preset"),
    "init_from": (is_group, "a group, or the name or path of a group or run"),
    "group": (is_group, "a group, or the name or path of one"),
    "groups": (lambda x: _are(x, is_group), "a list of groups, such as [group, other]"),
    "sessions": (lambda x: _are(x, lambda _: True, least=0), "a list of sessions, such as [[12, 7]]"),
    "k": (lambda x: _is_whole(x, 1), "a whole number, at least 1"),
    "seed": (lambda x: _is_whole(x, 0, 10**9), "a whole number from 0 to 1,000,000,000"),
    "tuned": (lambda x: isinstance(x, (str, Path, bool, Tuning)), "True, what dissect.tune returned, or a file"),
    **dict.fromkeys(("anyway", "force", "refit", "sparsevd"), (lambda x: isinstance(x, bool), "True or False")),
    "trials": (lambda x: _is_whole(x, 1), "a whole number, at least 1"),
    "timeout": (lambda x: isinstance(x, Real) and not isinstance(x, bool), "a number of hours above 0"),
    "dim": (lambda x: _is_whole(x, 1), "a whole number, at least 1"),
    "scale": (lambda x: isinstance(x, str) and x in SCALES, f"one of {', '.join(SCALES)}"),
    "protocol": (lambda x: x in ("clean", "paper"), "'clean' or 'paper'"),
    "resamples": (
        lambda x: _is_whole(x, *ASKED_RESAMPLES),
        "a whole number from {:,} to {:,}".format(*ASKED_RESAMPLES),
    ),
    "claims": (lambda x: _are(x, lambda _: True, least=0), 'a list of sections, such as [{"title": "..."}]'),
    "shard": (_is_shard, "(i, n) with i from 1 to n, such as (2, 4)"),
}
# None says the same as leaving it out.
NONE_IS_USUAL = {
    "dim",
    "protocol",
    "epochs",
    "name",
    "init_from",
    "observe",
    "options",
    "resamples",
    "tuned",
    "timeout",
}


def check(given: Mapping[str, Any]) -> None:
    """Raises UsageError for an argument that is not of its kind."""
    for name, value in given.items():
        if name not in KINDS or (value is None and name in NONE_IS_USUAL):
            continue
        is_kind, kind = KINDS[name]
        if not is_kind(value):
            raise UsageError(f"{name} is {kind}; it cannot be {reprlib.repr(value)}.")


def apart(
    subject: Subject, given: Mapping[str, Any], usual: Mapping[str, Any], beside: Set[str] = BESIDE
) -> dict[str, Any]:
    """The arguments of experiment.train, with the options of the model by themselves; UsageError for an unknown one.

    `beside` are those that are neither settings nor options.
    """
    is_dense = usual is DENSE
    other = {s.name for s in SETTINGS if (s.group == "SparseVD" if is_dense else s.name in ("protocol", "patience"))}
    options, known = defaults(subject), beside | {s.name for s in SETTINGS} - other
    own = dict[str, Any]()
    found: dict[str, Any] = {"usual": usual, "options": {}}
    for name, value in ((name, _plain(value)) for name, value in given.items()):
        if name in known:
            found[name] = value.path if isinstance(value, (Group, Tuning)) else value  # init_from=group
        elif name in options:
            own[name] = value
        elif name in other:
            verbs = ("train", "run") if is_dense else ("run", "train")
            raise UsageError(f"dissect.{verbs[0]} has no setting {name}.", f"dissect.{verbs[1]} has it.")
        else:
            raise unknown(f"setting, or option of {subject.name},", name, known | options.keys())
    if isinstance(role := found.get("without"), str):
        raise UsageError(f"without takes a list, not {role!r}.", f"For example: without=[{role!r}]")
    check(found)
    if "seeds" in found:
        found["seeds"] = [int(seed) for seed in seed_list(found["seeds"])]  # numpy's too
    dim = {"dim": own["dim"]} if "dim" in own else {}  # the first, as a command has it
    given_options = {name: _plain(value) for name, value in (found["options"] or {}).items()}
    return {**found, "options": {**dim, **own, **given_options}}


def _plain(value: Any) -> Any:
    """A number of numpy, as one of a sweep is, as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def numbers(session: Sequence[int | str], n_items: int, number: Mapping[str, int]) -> list[int]:
    """The item numbers of a session. Raises UsageError for an empty one, or an item that there is not."""
    if isinstance(session, str) or not hasattr(session, "__len__") or not len(session):
        raise UsageError(f"A session is a list of items, not {session!r}.", "For example: [[12, 7, 99], [3]]")

    def number_of(item: Any) -> int:
        if isinstance(item, str) and number:
            if item not in number:
                raise unknown("item", item, number)
            return number[item]
        try:  # whole numbers of numpy and torch too
            found = 0 if isinstance(item, (bool, np.bool_)) else operator.index(item)
        except TypeError:
            found = 0
        if not 1 <= found <= n_items:
            raise UsageError(f"There is no item {item!r}.", f"The items are numbered from 1 to {n_items}.")
        return found

    return [number_of(item) for item in session]


def travels(function: Callable[..., Any]) -> bool:
    """Whether another process can import a function or class: not if it is local, or stands in a notebook."""
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return getattr(function, "__module__", "") != "__main__" or hasattr(sys.modules["__main__"], "__file__")
