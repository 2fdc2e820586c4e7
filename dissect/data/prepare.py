"""From a raw log to a data set, by a recipe, with everything that happened on record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dissect.data.log import read_log
from dissect.data.preprocess import apply, to_sessions
from dissect.data.recipes import Recipe
from dissect.data.sessions import Dataset
from dissect.errors import DataError


def prepare(name: str, path: Path, recipe: Recipe) -> Dataset:
    """The data set that the recipe makes of the log at `path`.

    The provenance has the file with its SHA-256, every rule with its settings and the clicks that it left, what each
    dropped, and, where the recipe knows what to expect, each count that is another, with both numbers (`differences`).
    Raises DataError where the log is not what it should be, or nothing is left of it.
    """
    source = read_log(path, recipe.log)
    items, table = source.labels["item"], [source.table]
    source.table, source.labels = source.table[:0], {}
    try:
        # Popped, so that the rules can let go of what they replace.
        train, test, rules, numbered = apply(table.pop(), recipe.rules, recipe.split, recipe.after)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.hint) from error
    dataset = Dataset(
        name,
        len(numbered),
        to_sessions(train),
        to_sessions(test),
        {
            "format": "log",
            "source": source.record,
            **rules,
            "expected": dict(recipe.expected),
        },
        items[numbered].tolist(),
    )
    dataset.provenance["differences"] = differences(dataset, recipe.expected)
    return dataset


def differences(dataset: Dataset, expected: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """The counts that are not as expected: count -> {expected, found}."""
    train, test = dataset.train, dataset.test
    found = {
        "clicks": train.n_clicks + test.n_clicks,
        "items": dataset.n_items,
        "prefixes": train.n_prefixes + test.n_prefixes,
        "train_prefixes": train.n_prefixes,
        "test_prefixes": test.n_prefixes,
    }
    return {
        count: {"expected": number, "found": found[count]}
        for count, number in expected.items()
        if found[count] != number
    }
