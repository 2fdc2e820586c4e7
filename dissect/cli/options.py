"""Options that several verbs share, so that each is spelt, explained and defaulted in one place.

An option that is a setting derives from its field of `Config`. What `dissect run` and `dissect train` have in common
stands here too: from the words of a command to a call of the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dissect.runs.config import SETTINGS, Config, Setting

if TYPE_CHECKING:
    from rich.console import Console

    from dissect.data.sessions import Dataset
    from dissect.training.record import Observer

Decorator = Callable[[Any], Any]
PLACES = "Where things lie, and output"
GROUPS = {"model": "Model", "data": "Data", "training": "Training", "SparseVD": "SparseVD", PLACES: PLACES}
KINDS = {"int": int, "float": float, "str": str}


class Option(click.Option):
    """An option with the group in which --help lists it; a `rare` one stands behind the others."""

    def __init__(self, *words: Any, group: str = PLACES, rare: bool = False, **more: Any) -> None:
        super().__init__(*words, **more)
        self.group, self.rare = group, rare


class Command(click.Command):
    """Lists options by groups, and takes an argument of a registered model, `--steps 2`, as `--option steps=2`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [option for option in self.get_params(ctx) if isinstance(option, click.Option)]
        for group, title in GROUPS.items():
            own = [option for option in options if getattr(option, "group", PLACES) == group]
            own.sort(key=lambda option: getattr(option, "rare", False))
            if rows := [row for option in own if (row := option.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def make_parser(self, ctx: click.Context) -> Any:
        parser = super().make_parser(ctx)
        known = {word for option in self.get_params(ctx) for word in option.opts}
        parse = parser.parse_args
        parser.parse_args = lambda args: parse(list(_with_option(args, known)))  # type: ignore[method-assign]
        return parser


def _with_option(args: Sequence[str], known: set[str]) -> Iterator[str]:
    """The words of a command, where `--steps 2` and `--steps=2` have become `--option steps=2`."""
    words = iter(args)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--" or not word.startswith("--") or f"--{name}" in known or not _is_argument(name):
            yield word
        else:
            yield from ("--option", f"{name.replace('-', '_')}={value if equals else next(words, '')}")


def _is_argument(name: str) -> bool:
    """Whether a registered model has an argument of that name."""
    from dissect.experiment.subject import defaults, find_model
    from models import MODELS

    return any(name.replace("-", "_") in defaults(find_model(model)) for model in MODELS)


def option(*words: str, **more: Any) -> Decorator:
    return click.option(*words, cls=Option, **more)


def several(*decorators: Decorator) -> Decorator:
    """One decorator for several options, in the order in which --help lists them."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def each_once(context: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of a repeatable option without repetitions; says so on stderr."""
    for value in dict.fromkeys(value for value in values if values.count(value) > 1):
        click.echo(f"{parameter.opts[0]} {value} is given more than once, and counts once.", err=True)
    return tuple(dict.fromkeys(values))


def settings(usual: Mapping[str, Any], but: Sequence[str] = ()) -> Decorator:
    """An option for each setting, with the defaults of a verb; `but` names settings or groups that it has not."""
    own = [each for each in SETTINGS if not {each.name, each.group} & set(but)]
    return several(*(_setting(each, usual.get(each.name, each.default)) for each in own))


def _setting(each: Setting, default: Any) -> Decorator:
    more: dict[str, Any] = {"group": each.group, "rare": each.rare, "help": each.help}
    if each.kind == "bool":
        return option(each.flag, each.name, is_flag=True, **more)
    kind: Any = KINDS[each.kind]
    if each.choices:
        kind = click.Choice(each.choices)
    elif each.kind == "int":
        kind = click.IntRange(*map(each.limits.get, ("at least", "at most")))  # type: ignore[arg-type]
    shown = each.shown and default is not None
    return option(each.flag, each.name, type=kind, default=default if shown else None, show_default=shown, **more)


of_model, of_training = partial(option, group="model"), partial(option, group="training")
runs_dir = option("--runs-dir", default="runs", show_default=True, metavar="DIR", help="Where run folders lie.")
data_dir = option(
    "--data-dir", metavar="DIR", help="Where data sets lie. [default: $DISSECT_DATA or the user's data folder]"
)
as_json = option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
quiet = option("--quiet", is_flag=True, help="No progress on stderr.")
own_model = option(
    "--model",
    metavar="FILE:CLASS",
    help="Where the run's own model lies now; the file is executed. [default: the file it was trained with, if you"
    " have named it in a command before]",
)
DEVICES = click.Choice(["auto", "cpu", "cuda"])
device = of_training("--device", type=DEVICES, default="auto", show_default=True)
preset = of_model("--preset", help="Arguments of the model by name, e.g. official for attenmixer.")
extra = of_model(
    "--option",
    "extra",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another argument of the model: `dissect models NAME` lists them. `--steps 2` means the same as `--option"
    " steps=2` for a model that is listed by `dissect models`.",
)
WIDTH = "Width D of the model. [default: the preset's or the model file's, else 256; 32 on built-in data]"
FROM = "Take settings, model and data set from a file such as a group's config.toml; other options given here win."
ONCE: dict[str, Any] = {"multiple": True, "callback": each_once}
# What a training has, with SparseVD or without, beside its settings.
training = several(
    of_model("--dim", type=click.IntRange(1), help=WIDTH),
    preset,
    extra,
    of_model("--without", metavar="ROLE", help="Leave a role out: propagation, gnn, attention.", **ONCE),
    of_model("--init-from", metavar="RUN", help="Start from the weights of a trained dense run."),
    of_training("--epochs", type=float, help="Length of the training; or --max-steps. [default of train: 10]"),
    of_training(
        "--seed",
        "seeds",
        type=click.IntRange(0, 10**9),
        default=(1,),
        show_default=True,
        help="Repeat for several seeds.",
        **ONCE,
    ),
    of_training("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Train so many seeds at once."),
    device,
    option("--config", metavar="FILE", help=FROM),
    option("--name", help="Name of the group's folder, before the hash. [default: <model>-<dataset>]"),
    runs_dir,
    data_dir,
    option("--force", is_flag=True, help="Train again what is finished; the old run is kept aside."),
    as_json,
    quiet,
)


def console(quiet: bool = False) -> Console:
    """What notes and progress go to; a process that trains one of several seeds writes plain lines."""
    import multiprocessing

    from rich.console import Console

    from dissect.training import workers

    plain = False if multiprocessing.parent_process() else None
    return Console(stderr=True, quiet=quiet or not workers.is_first(), force_terminal=plain)


def say_on(screen: Console) -> Callable[[str], None]:
    """What puts a note on the screen, on one line and as it is."""
    return partial(screen.print, highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """A note on stderr. (A function of the module, which travels to other processes.)"""
    say_on(console())(text)


def observer(title: str, threshold: float, quiet: bool) -> Observer:
    """What shows how a run goes on."""
    from dissect.cli import live
    from dissect.training import workers

    return live.make_observer(console(), title, threshold, quiet or not workers.is_first())


def loader(say: Callable[[str], None] = say) -> Callable[[str, str | None], Dataset]:
    """What gives the data set of a name, fetched where it is not here and can be; `say` is told what is done."""
    from functools import partial

    from dissect.cli.data import progress_bar
    from dissect.data import bring

    return partial(bring.load, say=say, progress=progress_bar)


def start(context: click.Context, usual: Mapping[str, Any], **given: Any) -> tuple[Path, Dataset]:
    """Train what a command asks for; returns (group, data set).

    Options given win over --config FILE, which wins over `usual`, the settings of the verb.
    """
    from dissect.experiment.opened import group_name, model_named, newest_dataset, read_settings, require_split
    from dissect.experiment.subject import option_values
    from dissect.experiment.train import train
    from dissect.training import workers

    workers.join()
    typed = {name: v for name, v in given.items() if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    path = given.pop("config")
    file = read_settings(path, usual, "init_from" in typed) if path else {}
    asked = {name: typed.get(name, file.get(name, given[name])) for name in ("model", "dataset")}
    if asked["model"] is None:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    subject = model_named(given["model"] if "model" in typed or "model" not in file else None, file, path)
    if usual.get("where") != "none":
        subject.require_weights()
    data = loader()(asked["dataset"] or newest_dataset(given["runs_dir"], say), given.pop("data_dir"))
    name = given.pop("name")
    is_same = file.get("model") == subject.name and file.get("dataset") == data.name
    if file.get("dataset") == data.name and "split_hash" in file:
        require_split(data, file["split_hash"], path)
    names = {each.name for each in SETTINGS}
    settings = {name: value for name, value in file.items() if name in {*names, "select"}}
    if given["epochs"] is not None:
        settings.pop("max_steps", None)
    settings |= {name: value for name, value in typed.items() if name in names}
    options = dict(file.get("model_options", {})) if file.get("model") == subject.name else {}
    options |= {"dim": given["dim"]} if given["dim"] is not None else {}
    watch = partial(observer, threshold=settings.get("threshold", Config.threshold), quiet=given.pop("quiet"))
    group = train(
        subject,
        data,
        options=options | option_values(given.pop("extra")),
        name=group_name(path) if name is None and is_same else name,
        observe=watch,
        say=say,
        usual=usual,
        **{name: value for name, value in given.items() if name not in {*names, "model", "dataset", "dim"}},
        **settings,
    )
    return group, data
