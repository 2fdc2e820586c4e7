"""Options that several verbs share, so that each is spelt, explained and defaulted in one place."""

from __future__ import annotations

import click

runs_dir = click.option("--runs-dir", default="runs", show_default=True, metavar="DIR", help="Where run folders lie.")
data_dir = click.option(
    "--data-dir",
    metavar="DIR",
    help="Where data sets lie. [default: $DISSECT_DATA or the user's data folder]",
)
as_json = click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
quiet = click.option("--quiet", is_flag=True, help="No progress on stderr.")
device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
