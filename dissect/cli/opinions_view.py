"""Second opinions on the screen: a line for each matrix, a column for each criterion, and where they differ."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analyses.opinions import OWN, Opinions, opinions
from dissect.cli import options
from dissect.cli.screen import plain, show, show_json
from dissect.drawing import opinions as drawings
from dissect.experiment.opinions import opinions_of, seeds_of
from dissect.progress import telling
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.text import shortest_ends

SHARES = {"sparsevd": "VD", "excess": "exc.", "l0": "L0", "reduction": "red."}
PLACES = {"magnitude": "|w|", "taylor": "Tay.", "fisher": "Fis."}
FALLS = {"constant": "abl.", "resample": "smp.", f"constant{OWN}": "own", "retrained": "retr."}
KINDS = {"kept": SHARES, "rank": PLACES, "% lost": FALLS}  # above the first column of each kind
LEGEND: tuple[tuple[str, dict[str, str]], ...] = (  # what the columns of a kind tell, and each of them
    (
        "share kept: ",
        {
            "sparsevd": "VD SparseVD",
            "excess": "exc. beyond its shadow",
            "l0": "L0 gates",
            "reduction": "red. with evidence",
        },
    ),
    (
        "1 has the highest mean score: ",
        {"magnitude": "|w| magnitude", "taylor": "Tay. Taylor", "fisher": "Fis. Fisher"},
    ),
    ("% of MRR@20 that is lost: ", {"constant": "abl. a constant in its place", "resample": "smp. inputs of others"}),
    ("own: ", {f"constant{OWN}": "as abl., in the dissected model"}),
    ("retr.: ", {"retrained": "with the rest trained without it"}),
)


def run(name: str | None, runs_dir: str, as_json: bool, quiet: bool, out: str | None, **how: Any) -> None:
    """Compute what is missing, and print it all."""
    named = folders.resolve_runs(name, runs_dir, dissected=True) if name is not None else []
    if name is None:
        group = folders.newest_dissected(runs_dir)
    else:
        group = folders.group_of(named[0]) if named else folders.resolve_group(name, runs_dir, dissected=True)
    seeds = seeds_of(group, {folders.place_of(run)[1] for run in named})
    for number, seed in enumerate(seeds, 1):
        title = f"seed {seed}" + (f" ({number} of {len(seeds)})" if len(seeds) > 1 else "")
        with telling(title, quiet) as tell:
            opinions_of(group, seed, options.loader(partial(options.say, quiet=quiet)), tell=tell, **how)
    found = opinions(group)
    if out is not None:
        for drawing in drawings(group):
            drawing.save(Path(out))
        found.to_csv(Path(out))
    if as_json:
        show_json(found.to_record())
    else:
        show(render(found, group, Config(**folders.group_config(group))))


def render(found: Opinions, group: Path, config: Config) -> Group:
    """The table, the agreement at its foot, and the words."""
    seeds = found.matrices["seed"].nunique()
    over = "one seed" if seeds == 1 else f"means of {seeds} seeds"
    title = f"\nSecond opinions: {config.model} on {config.dataset}, {over}"
    parts: list[RenderableType] = [Text(title, "bold"), table_of(found)]
    has = found.matrices.notna().any()
    told = ((kind, [words for name, words in columns.items() if has[name]]) for kind, columns in LEGEND)
    parts += [Text(kind + ", ".join(words), style="dim") for kind, words in told if words]
    parts.append(Text(f"\n{found.accuracy_in_words()}"))
    parts += [Text(f"- {words}") for words in found.words]
    parts.append(Text(found.cost_in_words(), style="dim"))
    parts.append(Text(f"Draw it: dissect plot opinions {shlex.quote(str(group))}", style="dim"))
    return Group(*parts)


def table_of(found: Opinions) -> Table:
    """Roles with their matrices; below, the rank correlation of each column with SparseVD and with ablation."""
    by_role = found.roles.drop(columns="seed").groupby("role", sort=False).mean()
    by_matrix = found.matrices.drop(columns=["seed", "role"]).groupby("matrix", sort=False).mean()
    heads = {name: head for name, head in (SHARES | PLACES | FALLS).items() if by_matrix[name].notna().any()}
    over = {next((n for n in heads if n in kind), ""): words for words, kind in KINDS.items()}
    names = [f"{over.get(name, '')}\n{head}" for name, head in heads.items()]
    table = plain(("", *names), names)
    order = {"roles": by_role.rank(ascending=False), "matrices": by_matrix.rank(ascending=False)}
    ends = shortest_ends(list(by_matrix.index))
    role_of = found.matrices.drop_duplicates("matrix").set_index("matrix")["role"]
    for role, row in by_role.iterrows():
        cells = [_cell(name, row[name], order["roles"].loc[role, name]) for name in heads]
        table.add_row(str(role), *cells, style="bold")
        for name in role_of.index[role_of == role]:
            cells = [_cell(each, by_matrix.loc[name, each], order["matrices"].loc[name, each]) for each in heads]
            table.add_row(f"  {ends[str(name)]}", *cells)
    for against, words in (("sparsevd", "agree with VD"), ("constant", "agree with abl.")):
        if against in found.agreement:
            row = [
                f"{found.agreement.loc[n, against]:.2f}" if n in found.agreement and n != against else "" for n in heads
            ]
            table.add_row(words, *row, style="dim")
    return table


def _cell(criterion: str, value: float, place: float) -> str:
    if pd.isna(value):
        return ""
    if criterion in SHARES:
        return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else "1"
    return f"{place:g}" if criterion in PLACES else f"{round(value, 1) or 0:.1f}" if abs(value) < 10 else f"{value:.0f}"
