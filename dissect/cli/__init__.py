"""The command line: one file a verb, loaded when it is called, so that --help is instant."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

import dissect
from dissect.errors import DissectError, unknown

# Verb -> what it does, in a line. The module dissect.cli.<verb> holds its `command`.
VERBS = {
    "run": "Dissect a model: train it with SparseVD, track density, say the verdict.",
    "plot": "Draw density (the paper's Figures 3 and 4), histograms and training.",
    "models": "List the models, or one model's matrices and their roles.",
    "data": "Bring data sets in, list them, count them.",
}


class Verbs(click.Group):
    """Loads a verb's module when it is needed, and turns errors into a message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"dissect.cli.{name}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in VERBS:
            raise unknown("command", args[0], VERBS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except DissectError as error:
            click.echo(f"Error: {error.message}", err=True)
            if error.hint:
                click.echo(error.hint, err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            sys.exit(130)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Example:
  dissect data import diginetica-srgnn --format srgnn all_train_seq.txt test.txt
  dissect run --model srgnn --dataset diginetica
  dissect plot density

\b
Exit codes: 0 done, 1 error, 2 usage, 3 data missing or not as expected,
4 diverged, 130 interrupted with a checkpoint written.""",
)
@click.version_option(dissect.__version__, prog_name="dissect")
def main() -> None:
    """Find out which parts of a session-based recommender carry its predictions."""
