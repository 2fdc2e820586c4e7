"""Second opinions on the screen: a line for each matrix, a column for each criterion, and where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from analyses.opinions import OWN, Opinions, opinions
from dissect.cli import options
from dissect.cli.live import telling
from dissect.cli.text_table import plain
from dissect.cli.verdict_view import shortest_ends
from dissect.experiment.opinions import opinions_of, seeds_of
from dissect.runs import folders
from dissect.runs.config import Config

SHARES = {"sparsevd": "VD", "excess": "exc.", "l0": "L0", "reduction": "red."}
PLACES = {"magnitude": "|w|", "taylor": "Tay.", "fisher": "Fis."}
FALLS = {"constant": "abl.", "resample": "smp.", f"constant{OWN}": "own", "retrained": "retr."}
LEGEND = (  # columns -> what they are
    (("sparsevd", "l0", "reduction"), "share kept: VD SparseVD, exc. beyond its shadow, L0 gates, red. with evidence"),
    (("magnitude",), "1 has the highest mean score: |w| magnitude, Tay. Taylor, Fis. Fisher"),
    (("constant",), "% of MRR@20 that is lost: abl. a constant in its place, smp. inputs of others"),
    ((f"constant{OWN}",), "own: as abl., in the dissected model"),
    (("retrained",), "retr.: with the rest trained without it"),
)
SPLITS = {"valid": "validation", "test": "test"}


def run(name: str | None, runs_dir: str, as_json: bool, quiet: bool, out: str | None, **how: Any) -> None:
    """Compute what is missing, and print it all."""
    named = folders.resolve_runs(name, runs_dir) if name is not None else []
    group = folders.group_of(named[0]) if named else folders.newest_group(runs_dir)
    seeds = seeds_of(group, {folders.place_of(run)[1] for run in named})
    screen = options.console(quiet)
    for number, seed in enumerate(seeds, 1):
        title = f"seed {seed}" + (f" ({number} of {len(seeds)})" if len(seeds) > 1 else "")
        with telling(title, quiet) as tell:
            opinions_of(group, seed, options.loader(options.say_on(screen)), tell=tell, **how)
    found = opinions(group)
    if out is not None:
        write(found, group, Path(out))
    if as_json:
        print(json.dumps(in_json(found), indent=1))
        return
    Console().print(render(found, group, Config(**folders.group_config(group))))


def render(found: Opinions, group: Path, config: Config) -> Group:
    """The table, the agreement at its foot, and the words."""
    seeds = found.matrices["seed"].nunique()
    over = "one seed" if seeds == 1 else f"means of {seeds} seeds"
    parts: list[RenderableType] = [table_of(found, f"\nSecond opinions: {config.model} on {config.dataset}, {over}")]
    shown = [words for names, words in LEGEND if found.matrices[[*names]].notna().any(axis=None)]
    parts += [Text(words, style="dim") for words in shown]
    parts.append(Padding(Text(accuracy_in_words(found)), (1, 0, 0, 0)))
    for words in found.words:
        parts.append(Padding(Text(f"- {words}"), (0, 0, 0, 0)))
    parts.append(Text(cost_in_words(found), style="dim"))
    parts.append(Text(f"Draw it: dissect plot opinions {group}", style="dim"))
    return Group(*parts)


def table_of(found: Opinions, title: str) -> Table:
    """Roles with their matrices; below, the rank correlation of each column with SparseVD and with ablation."""
    by_role = found.roles.drop(columns="seed").groupby("role", sort=False).mean()
    by_matrix = found.matrices.drop(columns=["seed", "role"]).groupby("matrix", sort=False).mean()
    heads = {name: head for name, head in (SHARES | PLACES | FALLS).items() if by_matrix[name].notna().any()}
    table = plain(("", *heads.values()), tuple(heads.values()), title)
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
    return f"{place:g}" if criterion in PLACES else f"{value:.1f}" if abs(value) < 10 else f"{value:.0f}"


def accuracy_in_words(found: Opinions) -> str:
    names = {"dense": "dense", "dissected": "dissected", "l0": "with L0 gates", "retrain": "dense and retrained"}
    means = found.accuracy.drop(columns="seed").mean()
    said = ", ".join(f"{words} {means[name]:.2f}" for name, words in names.items() if name in means)
    return f"MRR@20 on {found.ranked:,} {SPLITS[found.split]} prefixes: {said}."


def cost_in_words(found: Opinions) -> str:
    means = found.seconds.drop(columns="seed").mean()
    pieces = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in means.drop("training").items())
    return f"Time for each seed: {pieces}; its training took {means['training']:.0f} s."


def in_json(found: Opinions) -> dict[str, Any]:
    """Everything, as numbers."""

    def rows(table: pd.DataFrame) -> Any:
        return json.loads(table.to_json(orient="records"))

    tables = {name: rows(getattr(found, name)) for name in ("matrices", "roles", "curves", "accuracy", "seconds")}
    agreement = json.loads(found.agreement.to_json(orient="index"))
    return {"split": found.split, "ranked": found.ranked, **tables, "agreement": agreement, "words": found.words}


def write(found: Opinions, group: Path, folder: Path) -> None:
    """The tables as CSV, and the figure."""
    from dissect.drawing import opinions as drawn
    from dissect.errors import DissectError
    from dissect.text import without_formulas

    for drawing in drawn(group):
        drawing.save(folder)
    try:
        for name in ("matrices", "roles", "curves"):
            table = without_formulas(getattr(found, name))
            if len(table):
                table.to_csv(folder / f"opinions-{name}.csv", index=False, float_format="%.6g")
        found.agreement.to_csv(folder / "opinions-agreement.csv", float_format="%.4f")
    except OSError as error:
        raise DissectError(
            f"Could not write to {folder}: {error.strerror or error}.", "Choose another: --out"
        ) from error
