"""The command line: one file a verb, loaded when it is called, so that --help is instant."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

import dissect
from dissect.errors import DissectError, unknown
from dissect.text import shown_lines

# Verb -> (the module whose `command` it is, what it does in a line).
COMMANDS = {
    "run": ("dissect.cli.run", "Dissect a model: train it with SparseVD and print a verdict."),
    "verdict": ("dissect.cli.verdict", "Print the verdict on dissected runs again."),
    "train": ("dissect.cli.train", "Train a model without SparseVD and compare it with other runs."),
    "tune": ("dissect.cli.tune", "Find good settings for a model on validation."),
    "opinions": ("dissect.cli.opinions", "Set SparseVD beside other criteria, and say where they differ."),
    "list": ("dissect.cli.listed", "List what was trained: the groups of a runs folder, newest first."),
    "compare": ("dissect.cli.compare", "Set trained models side by side, with tests of significance."),
    "study": ("dissect.cli.study", "Train and show a whole table or figure of the paper."),
    "resume": ("dissect.cli.resume", "Continue an interrupted run from its folder."),
    "evaluate": ("dissect.cli.evaluate", "Compute HR and MRR of a trained model on any split."),
    "recommend": ("dissect.cli.recommend", "List the items that a trained model recommends after a session."),
    "report": ("dissect.cli.report", "Write one page of HTML about groups and studies, to hand around."),
    "export": ("dissect.cli.export", "Write a trained model without its pruned rows and columns."),
    "plot": ("dissect.cli.plot", "Draw density (the paper's Figures 3 and 4), paths, histograms."),
    "tensorboard": ("dissect.cli.tensorboard", "Write the records of runs for TensorBoard."),
    "models": ("dissect.cli.models", "List the models, or one model's matrices and their roles."),
    "data": ("dissect.cli.data", "Import, prepare, list and count data sets."),
}

INTERRUPTED = 130
WORDS = "dissect.words"  # of the command, in click's context

# Options that say where things are, and verbs that do not take them.
PLACES = {"--runs-dir": ("data", "models"), "--data-dir": ("models", "verdict", "list", "compare", "tensorboard")}


def same_places(hint: str, words: Sequence[str]) -> str:
    """What to say if the command that a hint names lacks the folders given in the `words` of this one."""
    verbs = [verb for verb in re.findall(r"\bdissect (\w+)", hint) if verb in COMMANDS]
    named = [path for word in hint.split() for path in (word, *map(str, Path(word).parents))]
    lacks = []
    for word, after in pairwise((*words, "")):
        name, equals, value = word.partition("=")
        value = shlex.quote(value if equals else after)
        if name in PLACES and value not in named and {*verbs} - {*PLACES[name]}:
            lacks.append(f"{name} {value}")
    return f"Add {' '.join(lacks)} to it, as here." if lacks else ""


def as_typed(message: str, words: Sequence[str]) -> str:
    """A message with the options of the command in place of the settings that they are: --lr for lr."""
    for option in (word.partition("=")[0] for word in words if re.match("--[a-z]", word)):
        name = re.escape(option[2:].replace("-", "_"))
        message = re.sub(rf"^{name}(?= (must be|is) )|(?<!-)(?<!--option )\b{name}(?==)", option, message)
    return message


class LazyGroup(click.Group):
    """Loads a verb when it is called, and turns a DissectError into its message and exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, summary) for verb, (_, summary) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        dissect.command = ("dissect", *ctx.meta[WORDS])
        try:
            return super().invoke(ctx)
        except DissectError as error:
            # Both can quote names and files, which may contain control characters.
            says = shown_lines(as_typed(error.message, ctx.meta[WORDS]))
            click.echo(f"{'' if error.exit_code == INTERRUPTED else 'Error: '}{says}", err=True)
            for line in filter(None, (error.hint, same_places(error.hint, ctx.meta[WORDS]))):
                click.echo(shown_lines(line), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        finally:
            dissect.command = ()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  dissect run
  dissect data import diginetica-srgnn --format srgnn train.txt test.txt
  dissect run --model srgnn --dataset diginetica
  dissect plot density

\b
Exit codes: 0 done, 1 error, 2 usage, 3 data missing or not as expected,
4 diverged, 130 interrupted (a run has written a checkpoint; the same
command continues it).""",
)
@click.version_option(dissect.__version__, prog_name="dissect")
def main() -> None:
    """Find out which parts of a session-based recommender carry its predictions."""
