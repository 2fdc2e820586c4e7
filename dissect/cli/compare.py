"""dissect compare: trained models side by side, and whether their differences are more than luck."""

from __future__ import annotations

from typing import Any

import click

from dissect.cli import options


@click.command(
    epilog="""\b
Examples:
  dissect compare --dataset diginetica
  dissect compare srgnn-diginetica attenmixer-diginetica --pairs
  dissect compare srgnn-demo-58ce72c0 attenmixer-demo-1d4bd1f6/s2
  dissect compare --dataset diginetica --format latex --out table.tex"""
)
@click.argument("names", nargs=-1, metavar="[RUN ...]")
@click.option("--dataset", help="All finished groups on it. [default: the data set of the newest group]")
@click.option("--all-metrics", is_flag=True, help="HR and MRR at 5 and 10 too, not only at 20.")
@click.option("--pairs", is_flag=True, help="Every pair of rows, not only those with the best one, in every format.")
@click.option(
    "--resamples",
    type=click.IntRange(min=100),
    help="Of the bootstrap. [default: 2000, or up to 10000 where Holm's correction needs more]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap's draws.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["screen", "markdown", "csv", "latex", "json"]),
    help="What to write, and how; json as --json.",
)
@click.option("--out", metavar="FILE", help="Write to a file: .md, .csv, .tex or .json says how, unless --format does.")
@options.runs_dir
@options.as_json
def command(**given: Any) -> None:
    """Set trained models side by side: HR, MRR, cost, and tests of significance.

    RUN is a group, a variant of it (GROUP/without-ROLE) or a seed (GROUP/s1), by path or name; the beginning of a
    name will do. Only runs with the same split and protocol share a table.

    Below the means stand the pairs: the best MRR@20 against every other row. The test that counts is a bootstrap over
    seeds, then sessions; the paired t-test over examples stands beside it as in the paper. Both are corrected by Holm
    over all pairs and both metrics, even when only some are shown. CSV holds the means, with --pairs every pair; with
    --out it is two files, FILE and one for the pairs.
    """
    from dissect.cli.comparing import compare

    compare(**given)
