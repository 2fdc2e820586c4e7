"""From the item numbers of one data set to those of another, by what their sources call the items.

Two data sets of one shop number the same items differently, in the order of their first appearance. A model of one
knows nothing about the item numbers of the other, so items are matched by identifier only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dissect.data.exchange import AS_IN_FILES, BY_RECORD, OF_EXPORT
from dissect.data.parts import are_targets
from dissect.data.sessions import Dataset, Sessions
from dissect.errors import DataError
from dissect.runs import files

# Formats whose numbers a script gave out, anew each time: they do not name the items.
NUMBERED_BY_SCRIPT = ("srgnn", "lessr")


@dataclass(frozen=True)
class Numbering:
    """The items of a data set: how many there are, what its source calls them, and where they come from."""

    name: str
    n_items: int
    split_hash: str
    provenance: Mapping[str, Any]
    identifiers: Sequence[int | str] | None

    @property
    def source(self) -> object:
        """The origin of the numbers: equal for data sets that share them, None if not recorded."""
        recipe, train = self.provenance.get("recipe"), self.provenance.get("train")
        if self.provenance.get("source") == "generated" and isinstance(recipe, Mapping):
            return "generated", recipe.get("n_items"), recipe.get("items_per_intent")
        if isinstance(train, Mapping) and train.get("sha256"):
            return self.provenance.get("format"), train["sha256"], self.provenance.get("items")
        return None

    @property
    def names(self) -> list[str] | None:
        """The identifier of item i at i - 1, "" if it has none; None if the numbers are a script's or ours."""
        items = self.provenance.get("items")
        by_script = self.provenance.get("format") in NUMBERED_BY_SCRIPT and items != BY_RECORD
        if by_script or items == OF_EXPORT or (self.identifiers is None and items != AS_IN_FILES):
            return None
        return self.texts

    @property
    def texts(self) -> list[str]:
        """The identifiers, or the numbers if the source has no others."""
        return [str(each) for each in self.identifiers or range(1, self.n_items + 1)]


def numbering_of(data: Dataset) -> Numbering:
    return Numbering(data.name, data.n_items, data.split_hash, data.provenance, data.identifiers)


def numbering_of_group(group: Path) -> Numbering:
    """That of the data set which the runs of a group were trained on. Raises DataError if the record is garbled."""
    record = files.read_json(group / "data.json")
    try:
        name, n_items, split_hash = record["name"], int(record["n_items"]), record["split_hash"]
        provenance = dict(record["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{group / 'data.json'} is no record of a data set: {error!r}.") from error
    return Numbering(name, n_items, split_hash, provenance, files.read_identifiers(group, n_items))


def number_by_name(identifiers: Iterable[int | str], whose: str) -> dict[str, int]:
    """The number of each item that has an identifier, by its text. Raises DataError if two items have the same."""
    number: dict[str, int] = {}
    for item, identifier in enumerate(identifiers, 1):
        if identifier != "" and number.setdefault(str(identifier), item) != item:
            raise DataError(
                f"{whose}: items {number[str(identifier)]} and {item} are both called {str(identifier)!r}.",
                "Bring the data set again with --force, and train on it again.",
            )
    return number


def translation(data: Numbering, known: Numbering) -> np.ndarray:
    """The number int32 [V + 1] that each item of `data` has in `known`; 0 if it has none there, and for padding.

    Raises DataError if items cannot be matched, or no item is in both.
    """
    if data.split_hash == known.split_hash:
        return np.arange(data.n_items + 1, dtype=np.int32)
    names, others = data.names, known.names
    if data.source is not None and data.source == known.source:
        names, others = data.texts, known.texts
    pair = f"'{data.name}' and the run's '{known.name}'"
    nameless = [f"'{data.name}'"] * (names is None) + [f"the run's '{known.name}'"] * (others is None)
    if names is None or others is None:
        raise DataError(
            f"{pair} are different splits, and nothing tells which item of the one is which of the other: "
            f"{' and '.join(nameless)} {'has' if len(nameless) == 1 else 'have'} numbers only, which mean nothing "
            "outside their own files.",
            "Bring both from files that name their items (dissect data prepare; import from gru4rec, recbole or "
            "parquet; import of an export whose dissect.json, beside the files, names them), and train again.",
        )
    number = number_by_name(others, f"the run's '{known.name}'")
    to_known = np.array([0, *(number.get(name, 0) if name else 0 for name in names)], np.int32)
    if not to_known.any():
        raise DataError(f"{pair} have no item in common.", _old(data, known) or "Are they of the same shop?")
    return to_known


def _old(*sides: Numbering) -> str:
    """A hint, if an earlier version read the identifiers of one side as numbers and the other side has text."""
    numbers = [side for side in sides if any(isinstance(each, int) for each in side.identifiers or ())]
    old = [side.name for side in numbers if side.provenance.get("items") != AS_IN_FILES]
    if len(old) != 1:
        return ""
    says = f"An earlier version, which made '{old[0]}', read identifiers as numbers (0012 as 12)"
    return f"{says}: prepare the log again with --force, and train again."


def is_identity(numbers: np.ndarray, n_known: int) -> bool:
    """Whether a translation to a catalogue of `n_known` items changes nothing."""
    return np.array_equal(numbers, np.arange(n_known + 1))


def in_words(data: Numbering, known: Numbering, numbers: np.ndarray) -> str:
    """How many items the two data sets have in common, and how many only one of them has."""
    shared = len(np.unique(numbers[numbers > 0]))
    only, others = (sum(text != "" for text in side.texts) - shared for side in (data, known))
    return (
        f"Items of '{data.name}' and of the run's '{known.name}' are matched by identifier: {shared:,} are in both, "
        f"{only:,} in '{data.name}' only, {others:,} in the run's only."
    )


def translated(sessions: Sessions, numbers: np.ndarray) -> tuple[Sessions, np.ndarray, np.ndarray]:
    """(sessions in the numbers of the model, ranked bool [P], known bool [P]) over the P prefixes of `sessions`.

    A prefix keeps its clicks on items that the model knows. `known` marks the prefixes whose target it knows,
    `ranked` those where it knows a click too: these are the prefixes of the sessions returned, in the same order.
    """
    items = numbers[sessions.items]
    is_known = items > 0
    seen = np.concatenate([[0], np.cumsum(is_known)])
    lengths = np.diff(seen[sessions.offsets])
    is_target = are_targets(sessions)
    clicks_before = seen[:-1] - np.repeat(seen[sessions.offsets[:-1]], sessions.lengths)
    known = is_known[is_target]
    kept = Sessions(items[is_known], np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64))
    return kept, known & (clicks_before[is_target] > 0), known
