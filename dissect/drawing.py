"""Figures by name: from groups of runs, or data sets, to pictures with their captions and numbers.

Here the tables of analyses/ meet the drawings of figures/. `dissect plot NAME` and the Python API call FIGURES[NAME].
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dissect.errors import DissectError, UsageError, unknown, why
from dissect.text import as_name, plural
from dissect.usual import FULL, RUNS, SCALES

if TYPE_CHECKING:  # imported when a figure is drawn, so that --help stays instant
    import pandas as pd
    from matplotlib.figure import Figure

    from analyses.studies import Study
    from analyses.study import Job
    from dissect.data.sessions import Dataset

MEASURES = ("D1", "D2", "D2s")
PRINT = "Print it: dissect study table, with the same study."
TAU = "0.01"  # of D2 and D2s, unless given
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {  # figure -> option -> what it may be, the usual one first
    "density": {"measure": MEASURES, "x": ("epoch", "step")},
    "heatmap": {"measure": MEASURES},
    "training": {"by": ("epoch", "time")},
    "path": {"by": ("role", "matrix")},
}
STEMS = {  # module -> the name of its density figure
    "gnn": "figure3-density-gnn",
    "encoder": "density-encoder",
    "readout": "figure4-density-readout",
    "other": "density-other",
}


class Drawing(NamedTuple):
    """A figure, its caption (the figure in words) and the numbers that it shows; `name` is that of its files."""

    name: str
    figure: Figure
    caption: str
    table: pd.DataFrame

    def save(self, folder: Path) -> list[Path]:
        """Write PDF, SVG, PNG, CSV and the caption; returns the paths.

        Raises UsageError for the name of a file in place of a folder, and where files of that name are not those of a
        figure; DissectError if the disk refuses.
        """
        from dissect.runs.replace import refusal
        from dissect.text import without_formulas
        from figures.style import SUFFIXES, save

        if folder.suffix.lower().removeprefix(".") in SUFFIXES and not folder.is_dir():
            says = f"{folder} is the name of a file; a figure is several files in a folder."
            raise UsageError(says, f"Name a folder: --out {folder.with_suffix('')}")
        files = [folder / f"{self.name}.{suffix}" for suffix in SUFFIXES]
        there = [path for path in files if os.path.lexists(path)]
        if any(path.is_symlink() or not path.is_file() for path in there) or not _has_figure(folder / self.name, there):
            raise refusal(there[0], "it is of no figure of dissect")
        try:
            return save(self.figure, folder / self.name, without_formulas(self.table), self.caption)
        except OSError as error:
            raise DissectError(f"Could not write to {folder}: {why(error)}.", "Choose a folder by --out.") from error


def _has_figure(stem: Path, there: Sequence[Path]) -> bool:
    """Whether the files that are there are those of a figure, or none: it has a PDF of Matplotlib, and a text."""
    pdf = stem.with_name(f"{stem.name}.pdf")
    whole = pdf in there and stem.with_name(f"{stem.name}.txt") in there
    return not there or (whole and b"Matplotlib" in pdf.read_bytes())


class Source(NamedTuple):
    """A group in one variant, with the column of its table that a figure shows, and that column in words."""

    group: Path
    variant: str
    config: dict[str, Any]
    table: pd.DataFrame
    column: str
    says: str

    @property
    def title(self) -> str:
        # without-gnn-attention -> without gnn, attention
        reduced = "" if self.variant == FULL else f" {self.variant.replace('-', ' ', 1).replace('-', ', ')}"
        return f"{self.config['model']}{reduced}, {self.config['dataset']}"

    @property
    def seeds(self) -> int:
        return int(self.table["seed"].nunique())

    @property
    def has_shadows(self) -> bool:
        return bool((self.table["role"] == "shadow").any())

    @property
    def covered(self) -> dict[str, Any]:
        """Module -> how much of it is dissected."""
        from analyses.coverage import coverage
        from dissect.runs import folders

        return (coverage(folders.group_runs(self.group, self.variant)) or {}).get("modules", {})


def _source(group: Path, variant: str, threshold: float | None, measure: str, tau: str | None) -> Source:
    from analyses.density import density_table, recorded
    from dissect.runs import folders
    from dissect.sparsevd.density import key

    name, idle = ("tau", tau) if measure == "D1" else ("threshold", threshold)
    if idle is not None:
        raise UsageError(f"{name} {idle} has no effect on measure {measure}.", "Leave it out, or give another measure.")
    config = folders.group_config(group)
    t, tau = config["threshold"] if threshold is None else threshold, tau or TAU
    column, says = {
        "D1": (f"kept {key(t)}", f"log α < {t:g}"),
        "D2": (f"abs {tau}", f"|θ| > {tau}"),
        "D2s": (f"signed {tau}", f"θ > {tau}"),
    }[measure]
    return Source(group, variant, config, recorded(density_table(group, variant), column, group.name), column, says)


def density(
    group: Path,
    *,
    threshold: float | None = None,
    x: str = "epoch",
    measure: str = "D1",
    tau: str | None = None,
    variant: str = FULL,
    module: str | None = None,
    beside: Path | None = None,
) -> list[Drawing]:
    """Draw density against training: Figure 3 (GNN module) and Figure 4 (readout).

    One drawing for each module that has densities, or for `module` alone. A weight counts by `measure`: D1, if
    log alpha is below the threshold (the group's unless given); D2, |theta| > tau (TAU unless given); D2s, theta > tau.
    `beside` is a second group, drawn in a panel to the right. Raises UsageError for a threshold or tau that the measure
    does not use.
    """
    import pandas as pd

    from figures import density as figure

    if module is not None and module not in STEMS:
        raise unknown("module", module, STEMS)
    groups = [group] if beside is None else [group, beside]
    sources = [_source(each, variant, threshold, measure, tau) for each in groups]
    panels = _side_by_side(sources) if beside is not None else None
    caption = _caption(sources)
    drawings = []
    for name in STEMS if module is None else (module,):
        if (partly := _partly(sources, name)) is None:
            continue
        found = [figure.lines(figure.by_seed(each.table, name, each.column)) for each in sources]
        if panels is not None:
            found = [each.assign(group=str(of.group))[["group", *each]] for each, of in zip(found, sources)]
        shown = pd.concat(found, ignore_index=True)
        width = figure.CAPTION * len(sources)
        under = "\n".join([*caption, *(part for text in partly for part in textwrap.wrap(text, width))])
        drawn = figure.draw(shown, name, under, x, f"density ({sources[0].says})", panels)
        words = figure.describe(shown, name, "; ".join([*caption, *partly]), panels)
        drawings.append(Drawing(_stem(name, variant, sources), drawn, words, shown))
    return drawings


def _caption(sources: Sequence[Source]) -> list[str]:
    """The lines under a figure of densities; two panels have titles of their own."""
    lines = [f"share with {sources[0].says}; {_over_seeds('mean and range of', {each.seeds for each in sources})}"]
    if len(sources) == 1:
        config = sources[0].config
        lines = [f"{sources[0].title}; KL weight {config['kl_weight']:g}{_unusual(config)}", *lines]
    if some := [source for source in sources if source.has_shadows]:
        lines.append(f"thin and shaded{_in_one(some, sources)}: the shadow of each matrix, useless by construction")
    if some := [source for source in sources if source.config["average"]]:
        shares = " or ".join(f"{share:g}" for share in sorted({100 * (1 - each.config["average"]) for each in some}))
        lines.append(f"from {shares} % of the steps on{_in_one(some, sources)}: averaged weights")
    return lines


def _stem(module: str, variant: str, sources: Sequence[Source]) -> str:
    """The name of the files of a figure; side by side it has the hash of each group."""
    of_groups = [source.group.name.rsplit("-", 1)[-1] for source in sources] if len(sources) > 1 else []
    return "-".join([STEMS[module], *[variant] * (variant != FULL), *of_groups])


def _in_one(some: Sequence[Source], sources: Sequence[Source]) -> str:
    """Words for what only one of two panels has."""
    return "" if len(some) == len(sources) else ", in one panel"


def _unusual(config: dict[str, Any]) -> str:
    """How a dissection differs from the usual one, as in docs/method.md."""
    from dissect.runs.config import Config

    words = {"where": "SparseVD on {} only", "prior": "{} prior", "noise": "noise for each {}"}
    changed = {name: config[name] for name in words if config[name] != getattr(Config, name)}
    return "".join(f", {words[name].format(value)}" for name, value in changed.items())


def _side_by_side(sources: list[Source]) -> dict[str, str]:
    """Group -> the title of its panel. Raises UsageError for groups that one figure cannot show by the same rules."""
    from dissect.runs.folders import HASHED

    names = [source.group.name for source in sources]
    if len({source.group.resolve() for source in sources}) < len(sources):
        raise UsageError(f"{names[0]} is given twice: a figure side by side needs two groups.")
    if len({source.says for source in sources}) > 1:
        counts = "; ".join(f"{name} counts {source.says}" for name, source in zip(names, sources))
        raise UsageError(f"One axis cannot show two measures: {counts}.", "Give --threshold 3, or another for both.")
    hashes = {name: found[1] if (found := HASHED.search(name)) else name for name in names}  # or as it is
    return {
        str(source.group): f"KL weight {source.config['kl_weight']:g}, {source.config['max_steps']:,} steps\n"
        f"{source.title}, {plural(source.seeds, 'seed')} ({hashes[name]})"
        for name, source in zip(names, sources)
    }


def _partly(sources: list[Source], module: str) -> list[str] | None:
    """What a figure must say where a module is dissected in part; None, with a note on stderr, if nothing is."""
    from dissect.sparsevd import in_words
    from figures.density import TITLES

    covered = {source.group: found for source in sources if (found := source.covered.get(module))}
    lacking = [source for source in sources if not (source.table["module"] == module).any()]
    if lacking and (len(lacking) < len(sources) or covered):
        why = in_words(covered[lacking[0].group]) if lacking[0].group in covered else "it was not dissected"
        of = f" in {lacking[0].group.name}" if len(sources) > 1 else ""
        print(f"No figure of the {TITLES[module]}: {why}{of}.", file=sys.stderr)
    if lacking:
        return None
    return list(dict.fromkeys(in_words(found) for found in covered.values() if found["share"] < 1))


def heatmap(
    group: Path,
    *,
    threshold: float | None = None,
    measure: str = "D1",
    tau: str | None = None,
    variant: str = FULL,
) -> list[Drawing]:
    """Draw the density of all matrices against training at a glance, each with its shadow.

    The options are those of a density.
    """
    from analyses.density import over_training
    from figures import heatmap as figure

    source = _source(group, variant, threshold, measure, tau)
    table = over_training(source.table, source.column)
    caption = (
        f"{source.title}: share with {source.says}, {_over_seeds('mean of', {source.seeds})}; "
        f"KL weight {source.config['kl_weight']:g}"
    )
    if source.has_shadows:
        caption += "\nshadow: useless by construction, at the place of the matrix above it"
    stem = "density-heatmap" + ("" if variant == FULL else f"-{variant}")
    drawn = figure.draw(table, caption, f"density ({source.says})")
    return [Drawing(stem, drawn, figure.describe(table, caption.replace("\n", "; ")), table)]


def histogram(group: Path, *, threshold: float | None = None) -> list[Drawing]:
    """Draw histograms of log alpha at the end of training, with the threshold; those of shadows upside down."""
    from analyses.density import density_table, in_order, log_alpha_shares
    from dissect.runs import folders
    from dissect.sparsevd.density import BINS_PER_UNIT
    from figures import histogram as figure

    config, records = folders.group_config(group), density_table(group)
    t, table = config["threshold"] if threshold is None else threshold, log_alpha_shares(records)
    if not -20 <= t <= 20:
        raise UsageError(f"--threshold is of log alpha, whose histogram goes from -20 to 20, not {t:g}.")
    table = table.set_index("matrix").loc[in_order(records)].reset_index()
    edge = math.ceil(t * BINS_PER_UNIT) / BINS_PER_UNIT  # bins are counted whole
    seeds = records["seed"].nunique()
    caption = (
        f"{config['model']} on {config['dataset']}, last measurement, {plural(seeds, 'seed')}; "
        f"kept (blue) below the threshold log α = {edge:g} (dashed)"
    )
    if edge != t:
        caption += f"\nbins are counted whole: {edge:g} is the upper end of that with {t:g}"
    if table["matrix"].str.startswith("shadow.").any():
        caption += "\nupside down: the shadow of the matrix, useless by construction"
    words = figure.describe(table, edge, caption.replace("\n", "; "))
    return [Drawing("log-alpha", figure.draw(table, edge, caption), words, table)]


def path(group: Path, *, by: str = "role", threshold: float | None = None) -> list[Drawing]:
    """Draw the path over the KL weight: what is kept, what chance keeps, and MRR@20.

    A line for each role, or `by` "matrix". The points are the groups that differ in nothing but the KL weight
    (`dissect run ... --kl-weight 2`) and lie in the same folder.
    """
    from analyses.path import path_table
    from dissect.runs import folders
    from figures import path as figure

    config, table = folders.group_config(group), path_table(group, threshold)
    says = f"log α < {config['threshold'] if threshold is None else threshold:g}"
    shown = figure.lines(table, by)
    numbers = set(table.groupby("kl_weight")["seed"].nunique())
    lines = [f"{config['model']}, {config['dataset']}; {_over_seeds('mean and range of', numbers)}"]
    if table["shadow"].notna().any():
        lines.append("thin dots: the shadows, useless by construction")
    if (table["kl_weight"] == 0).any():
        lines.append("KL weight 0 stands left of the logarithmic axis")
    stem = "path" if by == "role" else f"path-by-{by}"
    caption = "\n".join(lines)
    drawn = figure.draw(shown, caption, f"kept share ({says})")
    return [Drawing(stem, drawn, figure.describe(shown, "; ".join([*lines, says])), shown)]


def opinions(group: Path) -> list[Drawing]:
    """Draw second opinions: the matrices in the order of each criterion, and what pruning by it costs."""
    import pandas as pd

    from analyses.opinions import SPLITS, WORDS, compared
    from analyses.opinions import opinions as read
    from dissect.runs import folders
    from figures import opinions as figure

    config, found = folders.group_config(group), read(group)
    means = found.matrices.groupby("matrix", sort=False)[compared(found.matrices)].mean()
    order = means.rank(ascending=False, method="min")  # equal ones share the better place
    by = found.curves.groupby(["criterion", "share"], sort=False)["mrr@20"]
    curves = by.agg(mean="mean", low="min", high="max").reset_index()
    seeds = _over_seeds("means of", {int(found.matrices["seed"].nunique())})
    caption = f"{config['model']} on {config['dataset']}, {seeds}; 1 is the matrix that matters most"
    if len(curves):
        on = plural(found.ranked, f"{SPLITS[found.split]} prefix")
        caption += f"\nMRR@20 on {on}, range over seeds; SparseVD and L0 prune their own models"
    words = figure.describe(order, curves, WORDS, caption.replace("\n", "; "))
    table = order.reset_index().melt("matrix", var_name="criterion", value_name="rank")
    table = pd.concat([table, curves], ignore_index=True)
    return [Drawing("opinions", figure.draw(order, found.agreement, curves, WORDS, caption), words, table)]


def training(
    *groups: Path, by: str = "epoch", variants: Sequence[str] = (), runs_dir: Path | str = RUNS
) -> list[Drawing]:
    """Draw loss, HR@20 and MRR@20 by epoch or by time, for several groups in one figure.

    Of a group without a finished seed the unfinished ones are drawn. A line for each of the `variants` (all unless
    given) of each group. A hint names groups as `runs_dir` has them.
    """
    import pandas as pd

    from analyses.entries import Entry, labels, of_variant, same_test_set
    from analyses.training import evaluated_on, over_seeds, training_table
    from dissect.runs import folders
    from dissect.runs.folders import each_sound
    from figures import training as figure
    from figures.style import COLOURS

    entries = [
        Entry(group, variant, of_variant(config, variant), tuple(folders.group_runs(group, variant)))
        for group, config in each_sound(dict.fromkeys(groups), lambda group: (group, folders.group_config(group)))
        for variant in variants or folders.variants(group) or (folders.FULL,)
    ]
    same_test_set(entries, runs_dir, "dissect plot training")
    if len(entries) > len(COLOURS):
        raise UsageError(
            f"{len(entries)} lines are more than can be told apart.",
            f"Name groups with at most {len(COLOURS)} variants in all, or give --variant full.",
        )
    read = each_sound(entries, lambda row: (row, training_table(row.group, row.variant)))
    names, tables = labels([row for row, _ in read]), [table for _, table in read]
    split = evaluated_on(tables)
    shown = pd.concat([over_seeds(table).assign(line=name) for name, table in zip(names, tables)], ignore_index=True)
    seeds = _over_seeds("mean and range over", {int(table["seed"].nunique()) for table in tables})
    caption = (
        f"{names[0] + ', ' if len(names) == 1 else ''}{read[0][0].config['dataset']}: {seeds}\n"
        f"HR and MRR on {figure.SPLITS[split]}; loss is the cross-entropy, without KL"
    )
    stem, x = {"epoch": ("training", "epoch"), "time": ("training-by-time", "minutes")}[by]
    words = figure.describe(shown, split, caption.replace("\n", "; "))
    return [Drawing(stem, figure.draw(shown, split, caption, x), words, shown)]


def of_study(study: Study, dataset: str, size: dict[str, Any], todo: Sequence[Job]) -> list[Drawing]:
    """Draw the figures that answer a study, from its finished trainings `todo` on a data set, at a size.

    Raises UsageError if the study is a table, or none of its seeds is finished.
    """
    from analyses import study as studying
    from figures import lines as figure

    if study.shows == "density":
        return _densities_of_study(study, dataset, todo)
    if study.shows not in ("lines", "lengths"):
        raise UsageError(f"{study.name} is no figure.", PRINT)
    is_line = study.shows == "lines"
    axis, last = (study.axis, "") if is_line else ("clicks of the session", f"≥ {studying.LONGEST}")
    expected = study.expects.get(studying.log_of(dataset))
    note = f"Paper: {expected}" if expected else ""
    is_tuned = any(job.plan.tuned for job in todo)
    of = f"{study.name}{', tuned' * is_tuned} on {dataset}"
    drawings = []
    for metric in ("hr@20",) if is_line else ("hr@20", "mrr@20"):
        read = studying.lines(todo, (metric,)) if is_line else studying.lengths(todo, metric)
        shown, name = figure.over_seeds(read), metric.upper()
        last = last if is_line or shown["x"].max() >= studying.LONGEST else ""  # there may be no session so long
        parts = [study.name, dataset, *_named_size(size), size.get("protocol"), "tuned" if is_tuned else None]
        parts += [_named_arms(study.chosen)] if study.chosen else []
        stem = "-".join(filter(None, parts))
        stem += "" if is_line else f"-{metric.split('@')[0]}"
        words = figure.describe(shown, f"{of}: {name}", axis, last)
        words += f" {note}." if note else ""
        drawings.append(Drawing(stem, figure.draw(shown, axis, f"{name} (%)", last, note), words, shown))
    return drawings


def _named_arms(labels: Sequence[str]) -> str:
    """A part of a figure's file name for some arms of a study: their labels, or if these are long a hash of them."""
    named = as_name("-".join(labels))
    return named if len(named) <= 60 else hashlib.sha256(named.encode()).hexdigest()[:8]


def _named_size(size: dict[str, Any]) -> list[str]:
    """Parts of a figure's file name: ["d64"] if the study has the epochs and seeds of the scale with this width, else
    those that differ too: ["d64", "e5", "s1-2"].
    """
    usual = next((scale for scale in SCALES.values() if scale["dim"] == size["dim"]), {})
    epochs, seeds = size["epochs"], tuple(size["seeds"])
    named = [f"d{size['dim']}"]
    named += [f"e{epochs:g}"] if epochs != usual.get("epochs") else []
    return named + (["s" + "-".join(map(str, seeds))] if seeds != usual.get("seeds") else [])


def _densities_of_study(study: Study, dataset: str, todo: Sequence[Job]) -> list[Drawing]:
    """Figure 3 or 4 for each model of a study; two groups of a model stand side by side."""
    from analyses.study import NONE_FINISHED

    groups: dict[str, list[Path]] = {}  # by model
    for group, model in dict.fromkeys((job.plan.group, job.arm.model) for job in todo if job.is_done):
        groups.setdefault(model, []).append(group)
    if not groups:
        raise UsageError(*NONE_FINISHED)
    return [
        each._replace(name="-".join([each.name, *[model] * (len(groups) > 1), dataset]))
        for model, own in groups.items()
        for each in density(own[0], module=study.module or None, beside=own[1] if len(own) > 1 else None)
    ]


def data(*sets: Dataset) -> list[Drawing]:
    """Draw data sets side by side: session lengths and item popularity."""
    from dissect.data.stats import curves
    from figures import data as figure

    table = curves(list(sets))
    return [Drawing("data", figure.draw(table), figure.describe(table), table)]


def _over_seeds(what: str, numbers: set[int]) -> str:
    """What a line shows, for groups with these numbers of seeds."""
    if numbers == {1}:
        return "1 seed"
    return f"{what} {'up to ' * (len(numbers) > 1)}{max(numbers)} seeds"


# Name -> what draws it. The first line of each docstring is the help of `dissect plot NAME`.
FIGURES: dict[str, Callable[..., list[Drawing]]] = {
    "density": density,
    "heatmap": heatmap,
    "histogram": histogram,
    "path": path,
    "opinions": opinions,
    "training": training,
    "data": data,
}
