"""Runs on one split, side by side: means over seeds, tests of pairs, and what a reader must know."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analyses.bootstrap import Report
from analyses.entries import (
    JUDGED,
    Entry,
    by_split,
    differing,
    each_once,
    entries_of_dataset,
    entries_of_group,
    entries_of_names,
    labels,
    same_test_set,
    sound_configs,
)
from analyses.significance import (
    FEW_SESSIONS,
    Gains,
    can_count,
    enough_resamples,
    n_tests,
    pairs_table,
    read_gains,
)
from dissect.errors import DataError, UsageError
from dissect.runs import files, folders
from dissect.runs.records import ALSO, LISTED, METRICS, Data
from dissect.text import trials_of
from dissect.usual import RUNS

TIES = "best"  # how every training ranks: one more than the number of strictly better scores
# How the reported epoch was chosen (analyses.entries.Entry.selection): in a cell, and in words.
EPOCHS = {
    "validation": ("best valid", "chosen by MRR@20 on validation"),
    "refit": ("refit", "trained again on all sessions, for the number of epochs chosen on validation"),
    "test": ("best test", "chosen on test"),
    "final": ("last", "the final step; no epoch is chosen (as in dissect run)"),
}
PAPER = (
    "Protocol paper: every metric is taken at its best epoch on the test set. Such numbers are too "
    "high: they include the selection bias, which cannot be separated."
)


class Comparison(NamedTuple):
    """A table of comparable rows (`means`), and their pairs (`pairs_table`, with labels for places).

    Both have the facts of the table in `.attrs`: dataset, split_hash, protocol, ties, test_prefixes, test_sessions,
    holm_tests (the number of tests in the correction), resamples, notes (what the numbers cannot show, in words). The
    pairs, named by `a`, `b` (labels) and `a run`, `b run`, are empty if there is one row.
    """

    rows: pd.DataFrame
    pairs: pd.DataFrame

    @property
    def title(self) -> str:
        facts = self.rows.attrs
        on = f"{facts['dataset']} (split {facts['split_hash'][:8]}), protocol {facts['protocol']}"
        return f"{on}: {facts['test_prefixes']:,} test prefixes of {facts['test_sessions']:,} sessions"

    def title_of_pairs(self, every_pair: bool) -> str:
        said, ties = "every pair", ", ties against it" if has_ties(self.rows).any() else ""
        if not every_pair:
            said = f"{marked(self.rows)[0]} (the best MRR@20{ties}) against the others"
        return f"{self.rows.attrs['dataset']}, protocol {self.rows.attrs['protocol']}: {said}"


def compare(
    names: str | Path | Iterable[str | Path] = (),
    runs_dir: Path | str = RUNS,
    dataset: str | None = None,
    resamples: int | None = None,
    seed: int = 0,
    every_pair: bool = False,
    report: Callable[[str], Report] | None = None,
) -> list[Comparison]:
    """The runs named (analyses.entries), or all on a data set, side by side: a table for each split and protocol.

    Pairs are those with the best row, unless `every_pair`. `report(what)` returns a callback for progress. Damaged and
    unfinished runs are skipped with a warning on stderr. Raises UsageError or DataError if names are wrong, the runs
    were tested on different data, or fewer than two rows are left.
    """
    if names and dataset:
        raise UsageError("RUN and --dataset exclude each other.", "dissect compare --dataset takes all groups on it.")
    with folders.hearing(is_aloud=True) as lost:
        if names:
            entries = entries_of_names(map(str, [names] if isinstance(names, (str, Path)) else names), runs_dir)
            same_test_set(entries, runs_dir)
        else:
            entries = entries_of_dataset(dataset, runs_dir)
        read = [read_gains(rows, report and report("reading ranks")) for rows in by_split(entries)]
    read = [table for table in read if table[0]]
    require_two([rows for rows, _, _ in read], bool(lost))
    return [compared(*table, resamples, seed, every_pair, report and report("drawing resamples")) for table in read]


def require_two(tables: list[list[Entry]], lost: bool) -> None:
    """Raises DataError or UsageError, with the way out, if there are fewer than two rows; `lost`: some were damaged."""
    if not tables:
        raise DataError("Nothing is left to compare.", "The problem of each run is printed above.")
    if len(tables) == len(tables[0]) == 1:
        row = tables[0][0]
        on = shlex.quote(row.config["dataset"])
        other = "srgnn" if row.config["model"] == "attenmixer" else "attenmixer"
        raise (DataError if lost else UsageError)(
            f"Only {row.name} is there: it takes two to compare.",
            f"Train another on the same data: dissect train {other} --dataset {on}",
        )


def compared(
    entries: list[Entry],
    gains: list[Gains],
    count: np.ndarray,
    resamples: int | None = None,
    seed: int = 0,
    every_pair: bool = False,
    report: Report | None = None,
    names: Sequence[str] = (),
) -> Comparison:
    """The means of rows of one split and protocol, and their pairs, from what `read_gains` gives.

    `names` are the labels of the entries, if theirs (analyses.entries.labels) are not to be taken.
    """
    names = names or labels(entries)
    rows = means(entries, names)
    for name in ALSO:
        by_seed = [gains[place].also[name] for place in rows["entry"]]
        rows[name] = [100 * float(values.mean()) for values in by_seed]
        rows[f"{name} sd"] = [100 * float(values.std(ddof=1)) if len(values) > 1 else np.nan for values in by_seed]
    tests = n_tests(len(rows))
    resamples = resamples or enough_resamples(tests)
    pairs, best_first = pd.DataFrame(), [gains[place] for place in rows.pop("entry")]
    if tests:
        pairs = pairs_table(best_first, count, resamples, seed, every_pair, report)
    for side in "ab" if tests else "":
        pairs[f"{side} run"] = pairs[side].map(run_names(rows))
        pairs[side] = pairs[side].map(rows["label"])
    split, protocol = entries[0].split
    rows.attrs = pairs.attrs = {
        "dataset": str(entries[0].config["dataset"]),
        "split_hash": split,
        "protocol": protocol,
        "ties": TIES,
        "test_prefixes": int(count.sum()),
        "test_sessions": len(count),
        "holm_tests": tests,
        "resamples": resamples,
        "notes": (*notes(rows, tests, resamples), *about_sessions(len(count), tests), *about_tuning(entries, names)),
    }
    return Comparison(rows, pairs)


def means(entries: list[Entry], names: Sequence[str] = ()) -> pd.DataFrame:
    """One row per entry, best MRR@20 first: means and standard deviations over seeds, in percent.

    Columns: label, group, model, variant, where, protocol, ties, selection (Entry.selection), seeds (number),
    seed_list, unfinished, damaged (numbers of seeds left out), parameters, items (of the catalogue), seconds_per_epoch
    (median over seeds; NaN without epochs), machines (where it was trained, one a line; "" without epochs), the
    metrics, `<metric> sd` (ddof 1; NaN for one seed), `worst <metric>` with ties against the target (NaN if not
    measured), coverage@20 and popularity@20 (NaN for runs of earlier versions), and for HR@20 and MRR@20 `bias
    <metric>`: how much choosing the epoch on test would add (NaN if it was chosen on test); then the settings of
    `differing`. `entry` is the row's place in `entries`.

    If MRR@20 is known with ties against the target, rows are ordered by that value: equal scores win nothing.
    """
    rows = [
        {
            "label": label,
            "group": row.group.name,
            "model": row.config["model"],
            "variant": row.variant,
            "where": row.config["where"],
            "protocol": row.config["protocol"],
            "ties": TIES,
            "selection": row.selection,
            "seeds": len(row.summaries),
            "seed_list": " ".join(str(summary["seed"]) for summary in row.summaries),
            "unfinished": row.unfinished,
            "damaged": row.damaged,
            "parameters": row.summaries[0]["n_parameters"],
            "items": catalogue_size(row.group),
            **over_seeds(row),
            "machines": "\n".join(sorted(row.machines)),
            "entry": place,
        }
        for place, (row, label) in enumerate(zip(entries, names or labels(entries)))
    ]
    table = pd.DataFrame(rows).assign(**{n: pd.Series(v, dtype=object) for n, v in differing(entries).items()})
    # A stable order: ties by name, so that the same runs give the same table.
    order = table.assign(fair=fair(table, "mrr@20")).sort_values(["fair", "label"], ascending=[False, True]).index
    return table.loc[order].reset_index(drop=True)


def over_seeds(row: Entry) -> dict[str, float]:
    """The measured columns of `means`; NaN if a seed has not measured something."""

    def mean(part: str, metric: str) -> float:
        return float(np.mean([summary.get(part, {}).get(metric, np.nan) for summary in row.summaries]))

    test = pd.DataFrame([summary["test"] for summary in row.summaries])
    epochs = [summary["seconds"] / summary["epochs"] for summary in row.summaries if summary["epochs"]]
    is_within = row.config["protocol"] == "paper" and row.is_trained
    return {
        "seconds_per_epoch": float(np.median(epochs)) if epochs else np.nan,  # one seed that had to wait does not count
        **{metric: mean("test", metric) for metric in METRICS},
        **{f"{metric} sd": float(test[metric].std(ddof=1)) for metric in METRICS},
        **{f"worst {metric}": mean("test_worst_ties", metric) for metric in METRICS},
        **{name: mean("lists", name) for name in LISTED},
        **{f"bias {metric}": np.nan if is_within else mean("selection_bias", metric) for metric in JUDGED},
    }


def catalogue_size(group: Path) -> float:
    """How many items are ranked, as data.json says; NaN if it cannot be read."""
    try:
        return int(files.read_json(group / "data.json", Data)["n_items"])
    except DataError:
        return np.nan


def results_table(runs_dir: Path, split_hash: str, protocol: str) -> pd.DataFrame:
    """`means` of the finished groups of a split and protocol; empty if there are none."""
    on, wanted = sound_configs(runs_dir), (split_hash, protocol)
    groups = [group for group, config in on.items() if (config["split_hash"], config["protocol"]) == wanted]
    finished = each_once(row for group in groups for row in entries_of_group(group))
    return means(finished).drop(columns="entry") if finished else pd.DataFrame()


# --- what a reader must know of the means ------------------------------------------------------------------


def run_names(rows: pd.DataFrame) -> pd.Series:
    """<group>, or <group>/<variant>, as `dissect compare` takes it."""
    return rows["group"].where(rows["variant"] == folders.FULL, rows["group"] + "/" + rows["variant"])


def fair(rows: pd.DataFrame, metric: str) -> pd.Series:
    """A metric of `means`, with ties against the target if that is known."""
    return np.fmin(rows[metric], rows[f"worst {metric}"])


def is_best(rows: pd.DataFrame, metric: str) -> pd.Series:
    """The best rows. Rows that print the same value are equally good; values count ties against the target if known.

    No row is best if there is nothing to compare: a single row, or a metric that `is_certain`.
    """
    shown = fair(rows, metric).map("{:.2f}".format)
    return (shown == f"{fair(rows, metric).max():.2f}") & (len(rows) > 1 and not is_certain(rows, metric))


def is_certain(rows: pd.DataFrame, metric: str) -> bool:
    """Whether a hit rate is 100 % whatever the model does, because the list is as long as the catalogue."""
    kind, cutoff = metric.split("@")
    return kind == "hr" and bool((rows["items"] <= int(cutoff)).any())


def has_ties(rows: pd.DataFrame) -> pd.Series:
    """Which rows print another HR@20 or MRR@20 if ties count against the target."""
    apart = [rows[m].map("{:.2f}".format) != rows[f"worst {m}"].map("{:.2f}".format) for m in JUDGED]
    return (apart[0] | apart[1]) & rows["worst mrr@20"].notna()


def settings_apart(rows: pd.DataFrame) -> dict[str, str]:
    """The columns of settings that rows differ in, by their names in words; options are in the labels."""
    found = {name.removeprefix("setting "): name for name in rows.columns if name.startswith("setting ")}
    return {words.replace("_", " "): name for words, name in found.items()}


def has_bias(rows: pd.DataFrame) -> pd.Series:
    """Which rows have a selection bias: it is recorded, or is in the numbers, because test chose the epoch."""
    return (rows["selection"] != "") & (rows["bias hr@20"].notna() | (rows["protocol"] == "paper"))


def marked(rows: pd.DataFrame) -> pd.Series:
    """The labels, with a dagger if ties flatter a row in differences and tests (notes_of_pairs)."""
    return rows["label"].where(~has_ties(rows), rows["label"] + " †")


def selections(rows: pd.DataFrame) -> list[str]:
    """How the epochs of the rows were chosen, as keys of EPOCHS."""
    return [how for how in EPOCHS if how in set(rows["selection"])]


def cautions(rows: pd.DataFrame) -> list[str]:
    """Warnings about numbers that are not comparable, certain or too good."""
    said = []
    if names := settings_apart(rows):
        said.append(
            f"Rows differ in settings: {', '.join(names)}. Differences between these rows need not come from the model."
        )
    if len({machine for of_row in rows["machines"] for machine in of_row.splitlines()}) > 1:
        said.append("Seconds an epoch are of more than one machine, device or number of threads: do not compare them.")
    for metric in METRICS:
        if is_certain(rows, metric):
            n_items = int(rows["items"].max())
            said.append(f"{metric.upper()} is 100 % by construction: the catalogue has {n_items} items.")
    return [*said, PAPER] if (rows["protocol"] == "paper").any() else said


def notes(rows: pd.DataFrame, tests: int, resamples: int) -> tuple[str, ...]:
    """What the numbers of a comparison cannot show, in words."""
    said = cautions(rows)
    if PAPER in said:
        said[-1] += " The pairs compare the epoch with the best MRR@20."
    trained = rows[rows["selection"] != ""]
    single = trained["label"][trained["seeds"] == 1]
    if len(single) and tests:
        which = "each" if len(single) == len(trained) > 1 else f"({', '.join(single)})"
        said.append(
            f"One seed {which}: intervals and p say what other test sessions would change, not what "
            "another seed would. Train three or more: --seed 1 --seed 2 --seed 3."
        )
    for what in ("unfinished", "damaged"):
        if left := [f"{n} of {label}" for label, n in zip(rows["label"], rows[what]) if n]:
            said.append(f"Left out, {what}: {', '.join(left)}.")
    if not can_count(resamples, tests):
        said.append(
            f"{resamples:,} resamples are too few to resolve p for {tests:,} tests. If no resample contradicts the "
            "sign, p is taken from a normal distribution with their mean and standard deviation."
        )
    if not tests:
        said.append("Nothing else has this split and protocol: nothing to compare it with.")
    return tuple(said)


def about_sessions(number: int, tests: int) -> list[str]:
    """A warning if there are too few test sessions for the bootstrap."""
    if number >= FEW_SESSIONS or not tests:
        return []
    few = "A single test session says" if number == 1 else f"Only {number} test sessions say"
    return [f"{few} little about others: intervals are too narrow, and p too small. Take {FEW_SESSIONS} or more."]


def about_tuning(entries: list[Entry], names: Sequence[str]) -> list[str]:
    """Which rows have tuned settings, and from how many trials; nothing if none has."""
    said = [
        f"{label} ({trials_of(of['trials'], of.get('asked', 0))})"
        for row, label in zip(entries, names)
        for of in folders.each_sound([row.group], folders.tuned_by, required=False)
        if of
    ]
    return [f"Tuned on validation: {', '.join(said)}."] if said else []


def explanations(rows: pd.DataFrame, of_training: bool = False) -> list[str]:
    """How to read the means: the numbers, the bold ones, the choice of the epoch, and ties.

    `of_training`: the rows trained just now are bold, and the bias has no column.
    """
    seeds, chosen = sorted(set(rows["seeds"])), selections(rows)
    over = "seeds" if len(seeds) > 1 else f"{seeds[0]} seeds"
    said = "Percent, one seed each" if seeds == [1] else f"Percent, mean ± standard deviation over {over}"
    said += "; in bold what was trained now." if of_training else "; best in bold."
    if not of_training and has_bias(rows).any():
        said += " Bias: how much choosing the epoch on the test set would add to HR@20 and MRR@20."
    epochs = "; ".join(f"{EPOCHS[how][0]}, {EPOCHS[how][1]}" for how in chosen)
    return [said, *([f"Epoch reported: {epochs}."] if len(chosen) > 1 else []), ties_note(rows)]


def about_lists(rows: pd.DataFrame) -> list[str]:
    """What coverage and popularity are, and how runs get them that lack them."""
    said = (
        "Coverage@20: share of the catalogue that is in any list of 20 items on test. Popularity@20: mean training "
        "clicks on the items of the lists, in percent of those on the most clicked item (session-rec)."
    )
    if rows[LISTED[0]].isna().any():
        said += " A dash: an earlier version trained it; dissect evaluate RUN --keep adds both."
    return [said]


def ties_note(rows: pd.DataFrame) -> str:
    """How ties count, whether they matter, and for which rows that is unknown."""
    said = (
        f"Ties count in the target's favour ({TIES}): a rank is one more than the number of items with a strictly "
        "higher score. That flatters models with many equal scores, such as neighbours and popularity"
    )
    measured = rows["worst hr@20"].notna()
    if not measured.any():
        return f"{said}; dissect evaluate RUN --ties worst shows by how much."
    others = "" if measured.all() else "; of the others, dissect evaluate RUN --ties worst tells"
    if not has_ties(rows).any():
        return f"{said}. Counting ties against the target changes no number here{others}."
    return (
        f"{said}. Rows whose numbers change when ties count against the target show both; order and best row follow "
        f"the lower{others}."
    )


def notes_of_pairs(table: Comparison) -> list[str]:
    """How to read the pairs."""
    facts = table.rows.attrs
    said = (
        f"Difference in percentage points, and in percent of the second. Bootstrap over seeds, then sessions "
        f"({facts['resamples']:,} resamples): the test that counts. Paired t-test over prefixes: as the paper tests. "
        f"Both p by Holm over {facts['holm_tests']:,} tests: all pairs, both metrics. d_z: mean of the per-prefix "
        "differences in units of their standard deviation."
    )
    tied = (
        "† Its scores tie with the target's. Differences and tests count ties in the target's favour, which flatters "
        "this row: see its values with ties against it."
    )
    return [said, tied] if has_ties(table.rows).any() else [said]
