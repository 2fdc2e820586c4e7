"""An export on the screen: what was left out, and what that saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from dissect.cli.text_table import plain
from dissect.experiment.export import sameness


def show_export(found: Mapping[str, Any], out: str) -> None:
    """Print what an export left out, layer by layer, and its size, time and accuracy beside the whole model's."""
    screen = Console(highlight=False, markup=False)
    screen.print(f"{found['config']['model']} of {found['run']['path']}, step {found['run']['step']:,}")
    screen.print(f"exported to {out}")
    if found["layers"]:
        table = plain(("matrix", "rows × columns", "left"), ())
        for name, layer in found["layers"].items():
            size = "{} × {}" if layer["kind"] == "Linear" else "{} units, {} inputs"
            whole, left = (size.format(*layer[which]) for which in ("whole", "left"))
            left = "not used" if layer["unused"] else left if layer["left"][0] else "a constant"
            table.add_row(name, whole, left)
        screen.print(table)
    for text in remarks(found):
        screen.print(text)
    show_savings(found, screen)


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader should know beside the tables."""
    layers, width, dim = found["layers"], found["item_width"], found["dim"]
    says = []
    if not any(layer["left"] != layer["whole"] for layer in layers.values()):
        says.append(
            "No row or column is dead: the export is as large as the model, and as slow. Weights that are pruned here "
            "and there save nothing; a larger --kl-weight prunes more of them."
        )
    if found["part"]:
        says.append(f"Left out: {found['part']}. Scores are the same without it.")
    if found["left_whole"]:
        says.append(f"Layers of a kind that stays whole: {', '.join(found['left_whole'])}.")
    if width["asked"] and width["table"] == width["catalogue"] == dim:
        says.append(f"Item width: all {dim} columns of the item table are needed, so none was left out.")
    elif width["asked"]:
        says.append(
            f"Item width: of {dim} columns the item table keeps {width['table']}, the catalogue {width['catalogue']}."
        )
    return says


def show_savings(found: Mapping[str, Any], screen: Console) -> None:
    """Print size, time and accuracy of both models."""
    numbers, size, times, accuracy = (found[name] for name in ("parameters", "bytes", "times", "accuracy"))
    items = found["n_items"] * found["dim"]
    table = plain(("", "whole", "export", "ratio"), ("whole", "export", "ratio"))

    def row(name: str, before: float, after: float, how: str) -> None:
        ratio = f"{before / after:.2f}×" if after else "-"
        table.add_row(name, format(before, how), format(after, how), ratio)

    row("parameters", numbers["whole"], numbers["left"], ",d")
    row("  beside the item table", numbers["whole"] - items, numbers["left_beside_items"], ",d")
    row("file, kB", size["whole"] / 1e3, size["left"] / 1e3, ",.0f")
    batch = f"{times['batch']['sessions']} sessions"
    for title, kind in (("one session", "session"), (batch, "batch")):
        whole, small = times[kind]["whole"], times[kind]["export"]
        row(f"{title}, ms", whole["total"], small["total"], ".3f")
        row("  to its vector" if kind == "session" else "  to their vectors", whole["encode"], small["encode"], ".3f")
        row("  to the 20 highest of all items", whole["rank"], small["rank"], ".3f")
    for metric in ("hr@20", "mrr@20"):
        before, after = (accuracy[which][metric] for which in ("whole", "export"))
        table.add_row(f"{metric.upper()} on test, %", f"{before:.2f}", f"{after:.2f}", "")
    screen.print(table)
    differ = accuracy["ranks_that_differ"]
    screen.print(
        f"Scores {sameness(found['difference'])}. Of {accuracy['prefixes']:,} test ranks "
        + (f"{differ:,} differ, where two items score nearly the same." if differ else "none differs.")
    )
    one = times["session"]
    screen.print(f"Times are medians of {one['rounds']} rounds, both models in turn, on one thread.")
    if (way := one["whole"]["rank"] / one["whole_same_way"]["rank"]) > 1.1:
        less = one["whole_same_way"]["total"] / one["export"]["total"]
        screen.print(
            f"An export multiplies a single vector in another way, which takes 1/{way:.2f} of the time. Beside a whole "
            f"model that did so, too, it would be {less:.2f}× as fast for one session."
        )
