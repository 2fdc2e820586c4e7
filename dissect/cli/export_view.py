"""An export on the screen: what was left out, and what that saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dissect.cli import screen
from dissect.experiment.export import remarks, sameness
from dissect.text import plural


def show_export(found: Mapping[str, Any], out: str) -> None:
    """Print what an export left out, layer by layer, and its size, time and accuracy beside the whole model's."""
    screen.show(f"{found['config']['model']} of {found['run']['path']}, step {found['run']['step']:,}")
    screen.show(f"exported to {out}")
    if found["layers"]:
        table = screen.plain(("matrix", "rows × columns", "left"), ())
        for name, layer in found["layers"].items():
            size = "{} × {}" if layer["kind"] == "Linear" else "{} units, {} inputs"
            whole, left = (size.format(*layer[which]) for which in ("whole", "left"))
            left = "not used" if layer["unused"] else left if layer["left"][0] else "a constant"
            table.add_row(name, whole, left)
        screen.show(table)
    for text in remarks(found):
        screen.show(text)
    show_savings(found)


def show_savings(found: Mapping[str, Any]) -> None:
    """Print size, time and accuracy of both models."""
    numbers, size, times, accuracy = (found[name] for name in ("parameters", "bytes", "times", "accuracy"))
    items = found["n_items"] * found["dim"]
    table = screen.plain(("", "whole", "export", "ratio"), ("whole", "export", "ratio"))

    def row(name: str, before: float, after: float, how: str) -> None:
        ratio = f"{before / after:.2f}×" if after else "-"
        table.add_row(name, format(before, how), format(after, how), ratio)

    row("parameters", numbers["whole"], numbers["left"], ",d")
    row("  beside the item table", numbers["whole"] - items, numbers["left_beside_items"], ",d")
    row("file, kB", size["whole"] / 1e3, size["left"] / 1e3, ",.0f")
    batch = plural(times["batch"]["sessions"], "session")
    for title, kind in (("one session", "session"), (batch, "batch")):
        whole, small = times[kind]["whole"], times[kind]["export"]
        row(f"{title}, ms", whole["total"], small["total"], ".3f")
        row("  to its vector" if kind == "session" else "  to their vectors", whole["encode"], small["encode"], ".3f")
        row("  to the 20 highest of all items", whole["rank"], small["rank"], ".3f")
    for metric in ("hr@20", "mrr@20"):
        before, after = (accuracy[which][metric] for which in ("whole", "export"))
        table.add_row(f"{metric.upper()} on test, %", f"{before:.2f}", f"{after:.2f}", "")
    screen.show(table)
    differ = accuracy["ranks_that_differ"]
    screen.show(
        f"Scores {sameness(found['difference'])}. Of {accuracy['prefixes']:,} test ranks "
        + (f"{differ:,} differ, where two items score nearly the same." if differ else "none differs.")
    )
    one = times["session"]
    screen.show(f"Times are medians of {one['rounds']} rounds, both models in turn, on one thread.")
    if (way := one["whole"]["rank"] / one["whole_same_way"]["rank"]) > 1.1:
        less = one["whole_same_way"]["total"] / one["export"]["total"]
        screen.show(
            f"An export multiplies a single vector in another way, which takes 1/{way:.2f} of the time. Beside a whole "
            f"model that did so, too, it would be {less:.2f}× as fast for one session."
        )
