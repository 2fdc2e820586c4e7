"""Options that several verbs share, so that each is spelt, explained and defaulted in one place.

An option that is a setting derives from its field of `Config`. What `dissect run` and `dissect train` have in common
stands here too: from the words of a command to a call of the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dissect.errors import UsageError
from dissect.runs.config import SETTINGS, Setting

if TYPE_CHECKING:
    from rich.console import Console

    from dissect.data.sessions import Dataset
    from dissect.experiment.subject import Subject
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
device = option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, group="training"
)
preset = option("--preset", group="model", help="Arguments of the model by name, e.g. official for attenmixer.")
extra = option(
    "--option",
    "extra",
    multiple=True,
    metavar="KEY=VALUE",
    group="model",
    help="Another argument of the model, e.g. readout=attenmixer: `dissect models NAME` lists them. For a model of"
    " that list, --readout attenmixer says the same.",
)
# What a training has, with SparseVD or without, beside its settings.
training = several(
    option(
        "--dim",
        type=click.IntRange(1),
        group="model",
        help="Width D of the model. [default: the preset's or the model file's, else 256; 32 on built-in data]",
    ),
    preset,
    extra,
    option(
        "--without",
        multiple=True,
        callback=each_once,
        metavar="ROLE",
        group="model",
        help="Leave a role out of the model: propagation, gnn, attention.",
    ),
    option("--init-from", metavar="RUN", group="model", help="Start from the weights of a trained dense run."),
    option(
        "--epochs", type=float, group="training", help="Length of the training; or --max-steps. [default of train: 10]"
    ),
    option(
        "--seed",
        "seeds",
        type=click.IntRange(0, 10**9),
        multiple=True,
        callback=each_once,
        default=(1,),
        show_default=True,
        group="training",
        help="Repeat for several seeds.",
    ),
    option(
        "--jobs",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        group="training",
        help="Train so many seeds at the same time.",
    ),
    device,
    option("--name", help="Name of the group's folder, before the hash. [default: <model>-<dataset>]"),
    option("--force", is_flag=True, help="Train again what is finished; the old run is kept aside."),
    option(
        "--config",
        metavar="FILE",
        help="Take settings, the model and the data set from a group's config.toml; options given here win.",
    ),
    runs_dir,
    data_dir,
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


def say(text: str) -> None:
    """A note on stderr, on one line and as it is."""
    console().print(text, highlight=False, markup=False, soft_wrap=True)


def observer(title: str, threshold: float, quiet: bool) -> Observer:
    """What shows how a run goes on. (A function of the module, which travels to other processes.)"""
    from dissect.cli import live
    from dissect.training import workers

    return live.make_observer(console(), title, threshold, quiet or not workers.is_first())


def load(name: str, data_dir: str | None, say: Callable[[str], None] = say) -> Dataset:
    """The data set of that name, fetched where it is not here and can be; `say` is told what is done."""
    from dissect.cli.data import progress_bar
    from dissect.data import bring

    return bring.load(name, data_dir, say=say, progress=progress_bar)


def start(context: click.Context, usual: Mapping[str, Any], **given: Any) -> tuple[Path, Dataset]:
    """Train what a command asks for; returns (group, data set).

    Options given win over --config FILE, which wins over `usual`, the settings of the verb.
    """
    from functools import partial

    from dissect.experiment.opened import require_split
    from dissect.experiment.subject import option_values
    from dissect.experiment.train import train
    from dissect.training import workers

    workers.join()
    typed = {name: v for name, v in given.items() if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    file = _from_file(given["config"], usual, typed)
    subject = _subject(context, given, typed, file)
    if usual.get("where") != "none":
        subject.require_weights()
    dataset = given["dataset"] if "dataset" in typed else file.get("dataset", given["dataset"])
    data = load(dataset or _newest_dataset(given["runs_dir"]), given["data_dir"])
    if file.get("dataset") == data.name and "split_hash" in file:
        require_split(data, file["split_hash"], given["config"])
    names = {each.name for each in SETTINGS}
    chosen = {**usual, **{name: v for name, v in file.items() if name in {*names, "select"}}}
    if given["epochs"] is not None:
        chosen.pop("max_steps", None)
    chosen |= {name: value for name, value in typed.items() if name in names}
    dim = {"dim": given["dim"]} if given["dim"] is not None else {}
    own = file.get("model_options", {}) if subject.name == file.get("model") else {}
    passed = ("preset", "without", "seeds", "epochs", "jobs", "device", "runs_dir", "force", "init_from")
    threshold = chosen.get("threshold", next(each.default for each in SETTINGS if each.name == "threshold"))
    group = train(
        subject,
        data,
        options={**own, **dim, **option_values(given["extra"])},
        name=given["name"] or _name_of(given["config"], same=bool(own) and file.get("dataset") == data.name),
        refit=given.get("refit", False),
        observe=partial(observer, threshold=threshold, quiet=given["quiet"]),
        say=say,
        **{name: given[name] for name in passed},
        **chosen,
    )
    return group, data


def _from_file(path: str | None, usual: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """What --config FILE holds. Raises UsageError where it is of the other verb, or of weights that are not named."""
    from dissect.experiment.opened import read_settings

    if path is None:
        return {}
    file = read_settings(Path(path))
    if "select" in file and file["select"] != usual.get("select", "last"):
        verb = "run" if file["select"] == "last" else "train"
        raise UsageError(f"{path} is of dissect {verb}.", f"Give it to that: dissect {verb} --config {path}")
    if "init_from" in file and "init_from" not in typed:
        raise UsageError(f"{path} starts from weights {file['init_from']}.", "Name their run: --init-from RUN")
    return file


def _subject(
    context: click.Context, given: Mapping[str, Any], typed: Mapping[str, Any], file: dict[str, Any]
) -> Subject:
    """The model that is meant: the one named, or that of --config FILE, whose file must be the one recorded."""
    from dissect.experiment.opened import recorded_model
    from dissect.experiment.subject import find_model

    if "model" in typed or "model" not in file:
        if given["model"] is None:
            raise click.MissingParameter(ctx=context, param=context.command.params[0])
        return find_model(given["model"])
    return recorded_model(file["model"], file.get("model_source"), given["config"])


def _name_of(config: str | None, same: bool) -> str | None:
    """The name of the group that --config FILE is of, where model and data set are the `same`: so a seed joins it."""
    from dissect.runs.folders import HASHED

    group = Path(config or "").resolve().parent.name
    return HASHED.sub("", group) if config and same and HASHED.search(group) else None


def _newest_dataset(runs_dir: str) -> str:
    """The data set of the newest group, which is said."""
    from dissect.runs import folders

    newest = folders.newest_sound_group(runs_dir)
    dataset = str(folders.group_config(newest)["dataset"]) if newest else "demo"
    say(f"Data set: {dataset} ({'as in the newest group' if newest else 'built in'}).")
    return dataset
