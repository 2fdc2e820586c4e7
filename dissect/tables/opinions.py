"""Second opinions: a line for each matrix, a column for each criterion, and where they differ."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from rich.console import RenderableType
from rich.text import Text

from analyses.opinions import OWN, Opinions
from dissect.runs.config import Config
from dissect.runs.folders import group_config
from dissect.tables.cells import over
from dissect.tables.text import Table, by_rows
from dissect.text import shortest_ends

# What stands above the first column of a kind, what its columns tell, and each of them: its head and its words.
KINDS = {
    "kept": (
        "share kept",
        {
            "sparsevd": "VD SparseVD",
            "excess": "exc. beyond its shadow",
            "l0": "L0 gates",
            "reduction": "red. with evidence",
        },
    ),
    "rank": (
        "1 has the highest mean score",
        {"magnitude": "|w| magnitude", "taylor": "Tay. Taylor", "fisher": "Fis. Fisher"},
    ),
    "% lost": (
        "% of MRR@20 that is lost",
        {
            "constant": "abl. a constant in its place",
            "resample": "smp. inputs of others",
            f"constant{OWN}": "own as abl., in the dissected model",
            "retrained": "retr. with the rest trained without it",
        },
    ),
}


def on_screen(found: Opinions, group: Path) -> Iterator[RenderableType]:
    """The table, the agreement at its foot, and the words."""
    yield ""
    yield table_of(found, Config(**group_config(group)))
    yield f"\n{found.accuracy_in_words()}"
    yield from (f"- {words}" for words in found.words)
    yield Text(f"{found.cost_in_words()}\nDraw it: dissect plot opinions {shlex.quote(str(group))}", "dim")


def table_of(found: Opinions, config: Config) -> Table:
    """Roles with their matrices; below, the rank correlation of each column with SparseVD and with ablation."""
    by_role = found.roles.drop(columns="seed").groupby("role", sort=False).mean()
    by_matrix = found.matrices.drop(columns=["seed", "role"]).groupby("matrix", sort=False).mean()
    kinds = [
        (above, tells, {name: words for name, words in of.items() if by_matrix[name].notna().any()})
        for above, (tells, of) in KINDS.items()
    ]
    heads = [name for _, _, kind in kinds for name in kind]
    names = [
        f"{above * (not i)}\n{words.split()[0]}" for above, _, kind in kinds for i, words in enumerate(kind.values())
    ]
    ends = shortest_ends(list(by_matrix.index))
    role_of = found.matrices.drop_duplicates("matrix").set_index("matrix")["role"]

    def cells(means: pd.DataFrame, name: str) -> list[str]:
        places = means.rank(ascending=False).loc[name]
        return [_cell(each, means.loc[name, each], places[each]) for each in heads]

    rows, styles = list[list[str]](), list[str]()
    for role in map(str, by_role.index):
        own = map(str, role_of.index[role_of == role])
        rows += [[role, *cells(by_role, role)], *([f"  {ends[name]}", *cells(by_matrix, name)] for name in own)]
        styles += ["bold", *[""] * (len(rows) - len(styles) - 1)]
    for against, words in (("sparsevd", "agree with VD"), ("constant", "agree with abl.")):
        if against in found.agreement:
            with_it = found.agreement[against].drop(index=against).dropna()  # none of a criterion that tells nothing
            of = {name: f"{value:.2f}" for name, value in with_it.items()}
            rows.append([words, *(of.get(name, "") for name in heads)])
            styles.append("dim")
    notes = [f"{tells}: {', '.join(kind.values())}" for _, tells, kind in kinds if kind]
    title = f"Second opinions: {config.model} on {config.dataset}, {over(found.matrices['seed'].nunique())}"
    return by_rows(title, ("", *names), rows, notes=notes, styles=styles)


def _cell(criterion: str, value: float, place: float) -> str:
    if pd.isna(value):
        return ""
    if criterion in KINDS["kept"][1]:
        return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else "1"
    if criterion in KINDS["rank"][1]:
        return f"{place:g}"
    return f"{round(value, 1) or 0:.1f}" if abs(value) < 10 else f"{value:.0f}"
