"""dissect compare: trained models side by side, and whether their differences are more than luck."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from dissect.cli import options
from dissect.usual import ASKED_RESAMPLES, MOST_RESAMPLES, RESAMPLES

DATASET = "Compare all finished groups on this data set. [default: the data set of the newest group]"
MANY = (
    f"Number of bootstrap resamples. [default: {RESAMPLES}, or up to {MOST_RESAMPLES} if Holm's correction needs more]"
)
FORMATS = click.Choice(["screen", "markdown", "csv", "latex", "json"])
OUT = "Write to a file. Its ending (.md, .csv, .tex, .json) sets the format, unless --format does."


@options.verb(
    "compare --dataset diginetica",
    "compare srgnn-diginetica attenmixer-diginetica --pairs",
    "compare srgnn-demo-c3707d9a attenmixer-demo-f5ca466e/s2",
    "compare --dataset diginetica --format latex --out table.tex",
)
@click.argument("names", nargs=-1, metavar="[RUN ...]")
@click.option("--dataset", help=DATASET)
@options.all_metrics
@click.option("--pairs", is_flag=True, help="Every pair of rows, not only those with the best one, in every format.")
@click.option("--resamples", type=options.Integer(*ASKED_RESAMPLES), help=MANY)
@click.option("--seed", type=options.SEED, default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--format", "form", type=FORMATS, help="Output format; json is the same as --json.")
@click.option("--out", metavar="FILE", help=OUT)
@options.runs_dir
@options.as_json
def command(form: str | None, out: str | None, all_metrics: bool, pairs: bool, as_json: bool, **asked: Any) -> None:
    """Set trained models side by side: HR, MRR, cost, and tests of significance.

    RUN is a group, a variant of it (GROUP/without-ROLE) or a seed (GROUP/s1), by path or name; the beginning of a name
    is enough. Only runs with the same split and protocol share a table.

    Below the means come the pairs: the row with the best MRR@20 against every other row. Rely on the bootstrap over
    seeds, then sessions. The paired t-test over prefixes is shown because the paper uses it. Both are corrected by Holm
    over all pairs and both metrics, even if only some are shown.

    CSV holds the means, or with --pairs every pair. With --out it is two files: FILE, and one for the pairs.
    """
    from analyses import compare
    from analyses.entries import JUDGED
    from dissect.cli import screen
    from dissect.progress import telling
    from dissect.runs.records import EVERY
    from dissect.tables import results

    form = screen.chosen_form(form, out, as_json)
    with telling() as tell:
        found = compare.compare(**asked, every_pair=pairs, report=lambda what: partial(tell, what))
    metrics = EVERY if all_metrics else JUDGED

    def to_csv() -> dict[str, str]:
        means, tests = (results.to_csv(parts) for parts in zip(*found))
        return {"": means, "-pairs": tests} if out or pairs else {"": means}

    views = [view for table in found for view in results.views_of(table, metrics, pairs)]
    screen.write(views, form, out, partial(results.to_json, found), to_csv, results.notes_of(found))
