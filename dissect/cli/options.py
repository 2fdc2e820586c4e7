"""What verbs share: options, each declared once, and the way from a command to a call of the library and its output.

An option that is a setting derives from its field of `Config`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dissect.errors import FinishedError, UsageError
from dissect.runs.config import DEVICES, SETTINGS, Config, Setting
from dissect.text import plural
from dissect.usual import DATASET, RUNS, SCALE, SCALES

if TYPE_CHECKING:
    from dissect.data.sessions import Dataset

Decorator = Callable[[Any], Any]
PLACES = "Folders and output"
GROUPS = {"model": "Model", "data": "Data", "training": "Training", "SparseVD": "SparseVD", PLACES: PLACES}


class Integer(click.IntRange):
    """A whole number in a range; click's own name for it, "integer range", reads badly in help and errors."""

    name = "integer"


class Option(click.Option):
    """An option with the group in which --help lists it; a `rare` one comes after the others."""

    def __init__(self, *words: Any, group: str = PLACES, rare: bool = False, **more: Any) -> None:
        super().__init__(*words, **more)
        self.group, self.rare = group, rare


class Command(click.Command):
    """A verb. It refuses an option that is given twice (click would take the last), and reads an argument of a
    registered model, `--steps 2`, as `--option steps=2`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {word for option in self.get_params(ctx) for word in option.opts}
        args = list(_with_option(args, known) if "--option" in known else args)
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        for option in order:
            is_single = isinstance(option, click.Option) and not (option.multiple or option.count or option.is_flag)
            if is_single and (times := order.count(option)) > 1:
                name = max(option.opts, key=len)
                raise UsageError(f"{name} is given {times} times, but takes one value.", f"Give {name} once.")
        return super().parse_args(ctx, args)


class Training(Command):
    """A verb that trains: --help lists its options by groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        for group, title in GROUPS.items():
            own = [option for option in options if getattr(option, "group", PLACES) == group]
            own.sort(key=lambda option: getattr(option, "rare", False))
            if rows := [row for option in own if (row := option.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(rows)


WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def examples(*commands: str) -> str:
    """The end of a verb's help: commands, each without `dissect`, continued where they are longer than a line."""
    # An option and its value stay together.
    glued = [re.sub(r"( --?[\w-]+) (?!-)", "\\1\0", f"dissect {words}") for words in commands]
    lines = [" \\\n      ".join(textwrap.wrap(words, 72, **WHOLE_WORDS)).replace("\0", " ") for words in glued]
    return "\b\n" + "\n".join([f"Example{'s' * (len(commands) > 1)}:", *(f"  {line}" for line in lines)])


def verb(*commands: str, cls: type[click.Command] = Command) -> Decorator:
    """A verb, whose help ends with examples."""
    return click.command(cls=cls, epilog=examples(*commands))


def subverb(group: click.Group, of: str, name: str, short_help: str | None, *words: str, **more: Any) -> Decorator:
    """A verb of the group `of`, such as `study run`; `words` are those of its examples, behind its name."""
    epilog = examples(*(f"{of} {name} {each}".rstrip() for each in words))
    return group.command(name, cls=Command, short_help=short_help, epilog=epilog, **more)


def _with_option(args: Sequence[str], known: set[str]) -> Iterator[str]:
    """The words of a command, with `--option steps=2` for `--steps 2` and `--steps=2`.

    An option of a model without a value is true.
    """
    words = [*args]
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--" or not word.startswith("--") or f"--{name}" in known or not _is_option(name.replace("-", "_")):
            yield word
        else:
            if not equals:
                value = words.pop(0) if words and not words[0].startswith("--") else "true"
            yield from ("--option", f"{name.replace('-', '_')}={value}")


def _is_option(name: str) -> bool:
    from dissect.experiment.subject import is_option  # loads the models

    return is_option(name)


option = partial(click.option, cls=Option)


def several(*decorators: Decorator) -> Decorator:
    """One decorator for several options, in the order of --help."""
    return lambda function: reduce(lambda made, decorator: decorator(made), reversed(decorators), function)


def each_once(context: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a repeatable option without repetitions, which stderr tells."""
    for value in dict.fromkeys(value for value in values if values.count(value) > 1):
        click.echo(f"{parameter.opts[0]} {value} is given more than once, and counts once.", err=True)
    return tuple(dict.fromkeys(values))


def tuned_file(context: click.Context, parameter: click.Parameter, value: str | None) -> str | bool:
    """What --tuned says: a file, True without one, or False."""
    if value and not value.endswith(".toml"):
        raise UsageError(f"--tuned takes a tuned.toml, not {value}.", "Without a FILE, it comes last in the command.")
    return False if value is None else value or True


def settings(usual: Mapping[str, Any], but: Sequence[str] = (), many: Sequence[str] = ()) -> Decorator:
    """An option for each setting, with the defaults of a verb.

    `but` names settings or groups that it lacks, `many` settings that it takes several times.
    """
    own = [each for each in SETTINGS if not {each.name, each.group} & set(but)]
    return several(*(_setting(each, usual.get(each.name, each.default), each.name in many) for each in own))


def _setting(each: Setting, default: Any, is_many: bool) -> Decorator:
    how: dict[str, Any] = {"is_flag": True}
    if each.kind != "bool":
        low, high = map(each.limits.get, ("at least", "at most"))
        kinds: dict[str, Any] = {"int": Integer(low, high), "float": float}  # type: ignore[arg-type]
        kind = click.Choice(each.choices) if each.choices else kinds.get(each.kind, str)
        shown = each.shown and default is not None
        how = {"type": kind, "default": default if shown else None, "show_default": shown}
    elif default:  # on, unless it is switched off
        return option(f"{each.flag}/--no-{each.flag[2:]}", each.name, default=True, group=each.group, help=each.help)
    if is_many:
        how |= {"default": (default,), **ONCE}
    return option(each.flag, each.name, group=each.group, rare=each.rare, help=each.help, **how)


PLACE = "Folder of the data sets. [default: $DISSECT_DATA or the user's data folder]"
WIDTH = (
    "Width D of the model. [default: the preset's or the model file's; else 64 with SparseVD, 256 without it and with"
    " --literal; 32 on built-in data]"
)
OPTION = (
    "Another argument of the model; `dissect models NAME` lists them. For a model from `dissect models`, `--steps 2` is"
    " short for `--option steps=2`."
)
MOVED = (
    "The model file of this run, if it has moved; it is executed. [default: the file it was trained with, if you have"
    " named it in a command before]"
)
SEEDS = "Random seed. Give the option several times to train several seeds."
JOBS = "Number of seeds to train at the same time."
FROM = "Take settings, model and data set from a file such as a group's config.toml; other options given here win."
TUNED = (
    "Use the settings that `dissect tune` found: those in the runs folder, or those of FILE. Options given here win."
)
ONCE: dict[str, Any] = {"multiple": True, "callback": each_once}
SHOWN: dict[str, Any] = {"show_default": True}

of_model, of_training = partial(option, group="model"), partial(option, group="training")
data_dir = option("--data-dir", metavar="DIR", help=PLACE)
runs_dir = option("--runs-dir", default=RUNS, metavar="DIR", help="Folder of the runs.", **SHOWN)
as_json = option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
quiet = option("--quiet", is_flag=True, help="No progress on stderr.")
SEED = Integer(0, 10**9)
DEVICE = click.Choice(DEVICES)
device = of_training("--device", type=DEVICE, default=DEVICES[0], **SHOWN)
preset = of_model("--preset", help="A named set of model options, e.g. official for attenmixer.")
extra = of_model("--option", "extra", multiple=True, metavar="KEY=VALUE", help=OPTION)
all_metrics = option("--all-metrics", is_flag=True, help="HR and MRR at 5 and 10 too, NDCG, coverage, popularity.")
own_model = option("--model", metavar="FILE:CLASS", help=MOVED)
places = several(runs_dir, data_dir, as_json, quiet)
arguments = several(of_model("--dim", type=Integer(1), help=WIDTH), preset, extra)


def training(seeds: tuple[int, ...], epochs: float) -> Decorator:
    """The options of a training beside its settings, with these defaults of a verb."""
    length = f"Length of the training; or --max-steps. [default: {epochs:g}]"
    return several(
        arguments,
        of_model(
            "--without",
            metavar="PART",
            help="Leave a part out, e.g. propagation; `dissect models` lists the parts of each.",
            **ONCE,
        ),
        of_model("--init-from", metavar="RUN", help="Start from the weights of a trained dense run."),
        of_training("--tuned", is_flag=False, flag_value="", metavar="[FILE]", callback=tuned_file, help=TUNED),
        of_training("--anyway", is_flag=True, help="Take --tuned settings from another data set too."),
        of_training("--epochs", type=float, help=length),
        of_training("--seed", "seeds", type=SEED, default=seeds, help=SEEDS, **SHOWN, **ONCE),
        of_training("--jobs", type=Integer(1), default=1, help=JOBS, **SHOWN),
        device,
        option("--config", metavar="FILE", help=FROM),
        option("--name", help="Name of the group's folder, before the hash. [default: <model>-<dataset>]"),
        runs_dir,
        data_dir,
        option("--force", is_flag=True, help="Train finished runs again; the old runs are kept aside."),
        as_json,
        quiet,
    )


SIZES = {name: f"width {size['dim']}, {plural(len(size['seeds']), 'seed')}" for name, size in SCALES.items()}
SIZE = f"quick: to try it out; eighth: {SIZES['eighth']}; full: {SIZES['full']}, as in the paper."


ARMS_TUNED = (
    "Use the settings that `study tune` or `dissect tune` found, for the arms that have some; an arm's own win."
)
OF_SPARSE = "Arms with SparseVD keep the length of `dissect run`."
PAPER = "paper: train on everything, and take each metric at its best epoch on test, as the paper does."


def of_study(of: str = "", tuned: bool = True) -> Decorator:
    """Which trainings of a study are meant; `of` comes before the help of each.

    With `tuned`, --tuned and --protocol are among them; tuning sets both itself.
    """
    shown, place = partial(click.option, show_default=True), ", in place of those of --scale."

    def says(text: str) -> str:
        return of + text[0].lower() + text[1:] if of else text

    return several(
        shown("--dataset", default=DATASET, help=says("A name from `dissect data list`.")),
        shown("--scale", type=click.Choice([*SCALES]), default=SCALE, help=says(SIZE)),
        click.option("--dim", type=Integer(1), help=says("Width, in place of that of --scale.")),
        click.option("--epochs", type=float, help=says(f"Epochs of a training{place} {OF_SPARSE}")),
        click.option("--seed", "seeds", type=SEED, help=says(f"Seeds{place}"), **ONCE),
        *[click.option("--protocol", type=click.Choice(["paper"]), help=says(PAPER))] * tuned,
        click.option("--arm", "arms", multiple=True, metavar="LABEL", help=says("Only these arms of `study show`.")),
        *[click.option("--tuned", is_flag=True, help=says(ARMS_TUNED))] * tuned,
        runs_dir,
        data_dir,
    )


def of_run(device: Decorator = device) -> Decorator:
    """What verbs that open a run share: its name, and the places of what it needs."""
    return several(click.argument("run"), own_model, device, places)


def say(text: str, quiet: bool = False) -> None:
    """Print a note on stderr, unless `quiet`. (A function of the module: it travels to other processes.)"""
    from dissect.progress import console, say_on

    say_on(console(quiet))(text)


def loader(say: Callable[[str], None] = say) -> Callable[[str, str | None], Dataset]:
    """A function that gives the data set of a name, fetched if it is not here and can be; `say` tells what it does."""
    from dissect.cli.data import progress_bar
    from dissect.data import bring

    return partial(bring.load, say=say, progress=progress_bar)


def start(context: click.Context, usual: Mapping[str, Any], as_json: bool, **given: Any) -> None:
    """Train what a command asks for, and print the verdict or the table of results.

    Options given win over --config FILE, which wins over `usual`, the settings of the verb.
    """
    from dissect.experiment.plan import planned
    from dissect.experiment.request import requested
    from dissect.experiment.train import train
    from dissect.progress import observer
    from dissect.training import workers

    workers.join()
    quiet = given.pop("quiet")
    subject, data, about = requested(given, typed(context) & given.keys(), usual, loader(), say)
    watch = partial(observer, threshold=about.get("threshold", Config.threshold), quiet=quiet)
    weights = about.pop("kl_weight", None)
    groups: list[Path] = []
    if isinstance(weights, tuple):  # all refused before the first is trained, if one is
        plain = {name: value for name, value in about.items() if name not in ("jobs", "device", "force")}
        for weight in weights:
            planned(subject, data, **plain, kl_weight=weight)
    for weight in weights if isinstance(weights, tuple) else (weights,):
        own = {} if weight is None else {"kl_weight": weight}
        try:
            groups.append(train(subject, data, observe=watch, say=say, **about, **own))
        except FinishedError as error:  # of a path, some steps may be finished
            if not isinstance(weights, tuple) or len(weights) == 1:
                raise
            groups.append(error.group)
    show(groups, as_json)


def typed(context: click.Context) -> set[str]:
    """The names of the options that the user gave, not those that have their defaults."""
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def show(groups: Sequence[Path], as_json: bool) -> None:
    """Print the verdict on a group, or the table of all results on its split if it has none.

    Of several groups, a path over the KL weight, it prints what each keeps, a line for each.
    """
    from analyses.compare import results_table
    from dissect.cli import screen
    from dissect.group import Group
    from dissect.runs.folders import group_config
    from dissect.tables import verdict as judged
    from dissect.tables.results import render_results
    from dissect.training import workers

    if not workers.is_first():
        return
    if len(groups) == 1 and not Group(groups[0]).config.has_verdict:
        config = group_config(groups[0])
        table = results_table(groups[0].parent, config["split_hash"], config["protocol"])
        if as_json:
            print(table.to_json(orient="records", indent=1))
        else:
            screen.show_tables(render_results(table, config["dataset"], config["protocol"], newest=groups[0].name))
        return
    verdicts = [Group(group).verdict() for group in groups]
    if as_json:
        screen.show_json(verdicts if len(groups) > 1 else verdicts[0])
    elif len(groups) > 1 and all(verdict["density"] for verdict in verdicts):
        runs_dir = str(groups[0].parent)
        screen.show("", judged.path(verdicts, "" if runs_dir == RUNS else runs_dir), sep="\n")
    else:  # of models without a role, say, there is no density to compare
        screen.show(*map(judged.on_screen, verdicts, groups), sep="\n")
