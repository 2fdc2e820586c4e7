"""An export as tables and words: what was left out, and what that saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dissect.experiment.export import remarks, sameness
from dissect.tables.text import Table, by_rows
from dissect.text import plural


def on_screen(found: Mapping[str, Any], out: str) -> Iterator[Table | str]:
    """What an export left out, layer by layer, and its size, time and accuracy beside the whole model's."""
    yield f"{found['config']['model']} of {found['run']['path']}, step {found['run']['step']:,}\nexported to {out}"
    if found["layers"]:
        yield layers(found["layers"])
    yield from remarks(found)
    yield savings(found)
    differ, one = found["accuracy"]["ranks_that_differ"], found["times"]["session"]
    says = f"{differ:,} differ, where two items score nearly the same." if differ else "none differs."
    yield f"Scores {sameness(found['difference'])}. Of {found['accuracy']['prefixes']:,} test ranks {says}"
    yield f"Times are medians of {one['rounds']} rounds, both models in turn, on one thread."
    if (way := one["whole"]["rank"] / one["whole_same_way"]["rank"]) > 1.1:
        less = one["whole_same_way"]["total"] / one["export"]["total"]
        yield (
            f"An export multiplies a single vector in another way, which takes 1/{way:.2f} of the time. Beside a whole "
            f"model that did so, too, it would be {less:.2f}× as fast for one session."
        )


def layers(found: Mapping[str, Any]) -> Table:
    """The sizes of each layer, before and after."""
    rows = []
    for name, layer in found.items():
        size = "{} × {}" if layer["kind"] == "Linear" else "{} units, {} inputs"
        whole, left = (size.format(*layer[which]) for which in ("whole", "left"))
        rows.append((name, whole, "not used" if layer["unused"] else left if layer["left"][0] else "a constant"))
    return by_rows("", ("matrix", "rows × columns", "left"), rows)


def savings(found: Mapping[str, Any]) -> Table:
    """Size, time and accuracy of both models."""
    numbers, size, times, accuracy = (found[name] for name in ("parameters", "bytes", "times", "accuracy"))
    items = found["n_items"] * found["dim"]
    measured = [
        ("parameters", numbers["whole"], numbers["left"], ",d"),
        ("  beside the item table", numbers["whole"] - items, numbers["left_beside_items"], ",d"),
        ("file, kB", size["whole"] / 1e3, size["left"] / 1e3, ",.0f"),
    ]
    batch = plural(times["batch"]["sessions"], "session")
    for title, kind, to in (("one session", "session", "its vector"), (batch, "batch", "their vectors")):
        names = {"total": f"{title}, ms", "encode": f"  to {to}", "rank": "  to the 20 highest of all items"}
        measured += [(name, times[kind]["whole"][of], times[kind]["export"][of], ".3f") for of, name in names.items()]
    rows = [
        [name, format(before, how), format(after, how), f"{before / after:.2f}×" if after else "-"]
        for name, before, after, how in measured
    ]
    for metric in ("hr@20", "mrr@20"):
        rows.append(
            [f"{metric.upper()} on test, %", *(f"{accuracy[which][metric]:.2f}" for which in ("whole", "export"))]
        )
    return by_rows("", ("", "whole", "export", "ratio"), rows)
