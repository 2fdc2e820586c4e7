"""Models as tables: which there are, their matrices, their accuracy, and what they recommend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from dissect.sparsevd import in_words
from dissect.tables.cells import as_option, metric_in_words
from dissect.tables.text import Table, by_rows
from dissect.text import plural, shown
from models import MODELS

MORE = "More on one: dissect models NAME, or path/to/file.py:ClassName for your own"
TIES = {  # --ties in words
    "best": "ties in the target's favour",
    "worst": "ties against the target",
    "mean": "ties half-way",
}


def models() -> Table:
    """The registered models, and what each can do without."""
    says = {name: (cls.__doc__ or "").strip().splitlines()[0] for name, cls in MODELS.items()}
    parts = [", ".join(cls.removable) or ("-" if cls.learns else "a baseline") for cls in MODELS.values()]
    rows = [(name, words, part) for (name, words), part in zip(says.items(), parts)]
    return by_rows("", ("model", "description", "can do without"), rows, notes=[MORE])


def on_screen(model: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What `experiment.subject.describe` tells: the matrices, what SparseVD leaves out, options and presets."""
    if model["parameters"]:
        yield matrices(model)
        for row in model["matrices"]:
            if row["blocks"]:
                yield f"Blocks of {row['matrix']}: {', '.join(row['blocks'])}."
        partly = [f"{role}: {in_words(share)}." for role, share in model["roles"].items() if share["share"] < 1]
        nameless = [row for row in model["matrices"] if row["role"] is None and row["reason"]]
        for words in [*partly, *(f"{row['matrix']}, no role: {row['reason']}." for row in nameless)]:
            yield Text(words, "yellow")
        rest = model["parameters"] - sum(row["parameters"] for row in model["matrices"])
        yield f"The rest, {rest:,}: item table, biases and norms, which stay as they are."
    else:
        yield f"{model['model']} is a baseline: it has no weights. Rank with it: dissect train {model['model']}"
    options = {name: value for name, value in model["options"].items() if name != "dim"}  # --dim, said above
    yield f"Options (--option), with their defaults: {with_values(options) or 'none'}"
    for preset, values in model["presets"].items():
        yield f"--preset {preset}: {with_values(values)}"


def with_values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={as_option(value)}" for name, value in values.items())


def matrices(model: Mapping[str, Any]) -> Table:
    """The matrices of a model with their roles."""
    rows = []
    for row in model["matrices"]:
        shape = "×".join(map(str, row["shape"])) if row["shape"] else f"{len(row['shapes'])} matrices"
        dissected = "yes" if not row["reason"] else "in part" if row["dissected"] else "no"
        about = (f"{row['parameters']:,}", row["role"] or "other", row["module"] or "-", dissected)
        rows.append((row["matrix"], shape, *about))
    width = f"D = {model['dim']}, " if model["dim"] is not None else ""
    title = f"{model['model']}, {width}V = {model['items']:,}: {model['parameters']:,} parameters"
    return by_rows(title, ("matrix", "shape", "weights", "role", "module", "dissected"), rows)


def accuracy(found: Mapping[str, Any]) -> Table:
    """The accuracy, and that over known targets if the model does not know every target."""
    title = "{run}, step {step:,}; {dataset}, {split}, percent, {ties}".format(**{**found, "ties": TIES[found["ties"]]})
    sets, notes = {plural(found["n"], "prefix"): found}, []
    if found.get("unknown_targets") or found.get("without_known_click"):  # else both columns would be the same
        sets["known targets"] = found["known_targets"]
        notes = [
            f"Counted as misses: {plural(found['unknown_targets'], 'prefix')} whose target the model does not know, "
            f"and {found['without_known_click']:,} without a click that it knows."
        ]
    rows = [
        [metric_in_words(name), *("-" if of[name] is None else f"{of[name]:.2f}" for of in sets.values())]
        for name in found
        if "@" in name
    ]
    return by_rows(title, ("", *sets), rows, notes=notes)


def recommended(
    run: str, clicks: Sequence[int], identifiers: Sequence[int | str] | None, rows: Sequence[Mapping[str, Any]]
) -> Table:
    """The items recommended after one session."""
    called = [f"{item} ({shown(identifiers[item - 1])})" if identifiers else str(item) for item in clicks]
    cells = []
    for row in rows:
        *names, score, p = row.values()
        cells.append([*map(shown, names), f"{score:.4f}", "-" if p is None else f"{p:.4f}"])
    return by_rows(f"{run} after {', '.join(called)}", [*rows[0]], cells)
