"""What stands in `dissect` for Python: the calls behind `dissect train` and `dissect run`, and their results as
DataFrames and Figures.

Results are read from the folder of a group when they are asked for: it does not matter whether the command line or
Python trained it, nor when.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses import compare as comparing
from dissect.arguments import OF_TUNING, Model, apart, check, is_group, numbers, seed_list, travels
from dissect.data import bring
from dissect.data.sessions import Dataset, require_sound
from dissect.data.translate import number_by_name
from dissect.errors import DataError, FinishedError, UsageError, unknown
from dissect.experiment import export as exporting
from dissect.experiment import exported, opened, recorded
from dissect.experiment import train as experiment
from dissect.experiment import tune as tuning
from dissect.experiment.plan import unsaid
from dissect.experiment.recommended import recommended
from dissect.experiment.subject import find_model
from dissect.experiment.tuned import Tuning
from dissect.group import Group
from dissect.progress import is_shown, observer, telling
from dissect.runs import files, folders
from dissect.runs.config import CALIBRATED, DENSE, LITERAL, SEEDS, Config
from dissect.studied import Studied, studied
from dissect.training.device import processor_as_it_was
from dissect.training.observers import Watched, require_observer
from dissect.training.record import Observer
from dissect.usual import LISTED, REPORT, RUNS, SCALE, TRIALS


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """A data set by name; one whose log is public is fetched if it is not here.

    Parameters
    ----------
    name : str
        As `dissect data list` has it.
    data_dir : str or Path, optional
        The folder of the data sets: $DISSECT_DATA, or the user's data folder, unless given.

    Returns
    -------
    Dataset

    Raises
    ------
    UsageError
        There is no data set of that name.
    DataError
        It is damaged, or cannot be fetched.
    """
    check({"data": name, "data_dir": data_dir})
    return bring.load(name, data_dir, say=_say)


def train(
    model: Model, data: Dataset | str, *, seeds: int | Sequence[int] = (1,), quiet: bool = False, **more: Any
) -> Group:
    """Train a model as it is, like `dissect train`: each seed reports the epoch that is best on validation.

    The same call again continues a run that was stopped, and trains nothing twice.

    Parameters
    ----------
    model : str or class
        A name of `dissect models`, "path/to/file.py:ClassName", or a class that keeps the contract of models/base.py.
    data : Dataset or str
        A data set, or its name.
    seeds : int or sequence of int
        Each is trained into a run folder of its own.
    quiet : bool
        No progress and no notes on stderr.
    **more
        Settings (fields of `Config`: lr, batch_size, max_steps, ...) and options of the model (dim, steps, ...) alike;
        beside them epochs, without, preset, init_from (a dense group or run), refit, jobs, device, runs_dir, name,
        force, tuned (True, a file, or what `tune` returned: what is given beside it wins), anyway (tuned settings of
        another data set), and observe (a class derived from `Observer`). `options={"lr": 3}` is for an option that is
        called like one of these.

    Returns
    -------
    Group
        What was trained.

    Raises
    ------
    UsageError
        A name or value does not exist or fit; nothing is written.
    DivergedError
        The loss became NaN or infinite.
    Interrupted
        A signal came; a checkpoint is written.
    """
    return _trained(model, data, {**more, "seeds": seeds}, DENSE, quiet)


def run(
    model: Model,
    data: Dataset | str,
    *,
    seeds: int | Sequence[int] = SEEDS,
    literal: bool = False,
    quiet: bool = False,
    **more: Any,
) -> Group:
    """Dissect a model, like `dissect run`: train it with SparseVD, beside it without, and judge.

    Parameters
    ----------
    model, data, seeds, quiet
        Those of `train`. A verdict needs three seeds.
    literal : bool
        Begin with the published settings of SparseVD, not with the calibrated ones (docs/method.md).
    **more
        That of `train`, and the settings of SparseVD: where, kl_weight, kl_warmup, threshold, ...

    Returns
    -------
    Group
        What was trained; its folder has the verdict.

    Raises
    ------
    UsageError
        As `train`, and for a model that has no weight matrix.
    DivergedError, Interrupted
        As `train`.
    """
    check({"model": model})
    find_model(model).require_weights()
    group = _trained(model, data, {**more, "seeds": seeds}, LITERAL if literal else CALIBRATED, quiet)
    group.verdict()  # the folder has it, as the command leaves it
    return group


def tune(
    model: Model,
    data: Dataset | str,
    *,
    trials: int = TRIALS,
    timeout: float | None = None,
    sparsevd: bool = False,
    quiet: bool = False,
    **more: Any,
) -> Tuning:
    """Tune a model on the validation part of a data set, like `dissect tune`: the same call goes on where it stopped.

    Parameters
    ----------
    model, data, quiet
        Those of `train`.
    trials : int
        Settings to try in all; the first is the defaults.
    timeout : float, optional
        Hours after which no trial begins.
    sparsevd : bool
        Train with SparseVD, as `run` does; its KL weight is tuned too.
    **more
        Settings and options of the model, which are kept and not searched; beside them epochs, preset, seed (of sampler
        and trainings), device and runs_dir.

    Returns
    -------
    Tuning
        What was tried and found; `train` and `run` take it as `tuned`.

    Raises
    ------
    UsageError
        A name or value does not exist or fit, or Optuna (extra `tune`) is missing.
    """
    check({"model": model, "data": data})
    subject, usual = find_model(model), CALIBRATED if sparsevd else DENSE
    given = {**more, "trials": trials, "timeout": timeout, "sparsevd": sparsevd}
    arguments = apart(subject, given, usual, OF_TUNING)
    data = _loaded(data)
    watch = observer if is_shown(quiet) else None
    with processor_as_it_was(arguments.get("device", "auto")):
        return Tuning(tuning.tune(subject, data, observe=watch, say=None if quiet else _say, **arguments))


def open_group(name: str | Path, runs_dir: str | Path = RUNS, model: Model | None = None) -> Group:
    """A group that was trained before.

    Parameters
    ----------
    name : str or Path
        Its path, its name, the beginning of its name, or the path of one of its runs.
    runs_dir : str or Path
        Where names are looked up.
    model : class or str, optional
        The class of a model of one's own, or its file; the one that the group was trained with.

    Returns
    -------
    Group

    Raises
    ------
    UsageError
        No group, or several, fit the name.
    DataError
        Its records are damaged, or `model` is another one.
    """
    check({"group": name, "runs_dir": runs_dir})
    is_run = folders.RUN.fullmatch(Path(name).name) is not None
    path = folders.group_of(folders.resolve_run(name, runs_dir)) if is_run else folders.resolve_group(name, runs_dir)
    config = folders.group_config(path)
    if model is not None:
        check({"model": model})
        recorded.recorded_model(config["model"], config.get("model_source"), str(path), given=model)
    return Group(path, model)


def compare(
    groups: Sequence[Group | str | Path], pairs: bool = False, *, runs_dir: str | Path = RUNS, **more: Any
) -> pd.DataFrame:
    """Groups on one data set side by side, like `dissect compare`.

    Parameters
    ----------
    groups : sequence of Group, str or Path
        Groups, or their names or paths.
    pairs : bool
        Return the tests of every pair of rows, not the rows.
    runs_dir : str or Path
        Where names are looked up.
    **more
        resamples (of the bootstrap, at least 100) and seed (of its random numbers).

    Returns
    -------
    DataFrame
        Means over seeds (percent), best MRR@20 first. With `pairs` the difference of each pair in percentage points,
        its interval, and p by the bootstrap and by the t-test, before and after Holm's correction. Notes for the reader
        are in `.attrs["notes"]`.

    Raises
    ------
    UsageError
        A group is not there, or an argument does not exist or fit.
    DataError
        All records are damaged.
    """
    for argument in more.keys() - {"resamples", "seed"}:
        raise unknown("argument of dissect.compare", argument, ("pairs", "resamples", "runs_dir", "seed"))
    check({"groups": groups, "runs_dir": runs_dir, **more})
    names = [group.path if isinstance(group, Group) else group for group in groups]
    tables = comparing.compare(names, runs_dir, every_pair=pairs, **more)
    parts = [table.pairs if pairs else table.rows for table in tables]
    return parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)


def report(
    names: Group | str | Path | Sequence[Group | str | Path],
    out: str | Path = REPORT,
    *,
    claims: Sequence[Mapping[str, Any]] = (),
    runs_dir: str | Path = RUNS,
    **of_study: Any,
) -> Path:
    """Write one page of HTML about groups and studies, like `dissect report`.

    Parameters
    ----------
    names : Group, str, Path, or a sequence of them
        Groups, or names of groups and studies.
    out : str or Path
        The file to write.
    claims : sequence of dict
        Sections of your own: each has a title, and an answer, a text and a table (a DataFrame) if you like.
    runs_dir : str or Path
        Where names are looked up.
    **of_study
        Of a study, as for `study`: dataset, scale, dim, epochs, seeds, protocol, arms, tuned; and data_dir.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        A name or argument does not exist or fit, or `out` is not ours to overwrite.
    DataError
        Nothing of it can be read.
    """
    from dissect import reporting

    several: Any = [names] if is_group(names) else names
    check({"groups": several, "runs_dir": runs_dir, "out": out, "claims": claims})
    known = ("dataset", "scale", "dim", "epochs", "seeds", "protocol", "arms", "tuned", "data_dir")
    for argument in of_study.keys() - set(known):
        raise unknown("argument of dissect.report", argument, ("out", "claims", "runs_dir", *known))
    check(of_study)
    reporting.require_ours(Path(out))
    places = [each.path if isinstance(each, Group) else each for each in several]
    found = reporting.gathered(places, runs_dir=runs_dir, claims=claims, **_of_size(**of_study))
    for error in found["unreadable"]:
        folders.left_out(error)
    reporting.write(reporting.as_html(found), Path(out))
    return Path(out)


def study(
    name: str,
    data: Dataset | str,
    *,
    scale: str = SCALE,
    dim: int | None = None,
    epochs: float | None = None,
    seeds: int | Sequence[int] | None = None,
    protocol: str | None = None,
    arms: Sequence[str] = (),
    tuned: bool = False,
    device: str = "auto",
    runs_dir: str | Path = RUNS,
    quiet: bool = False,
) -> Studied:
    """A table or figure of the paper by its name, or a study of your own, on a data set.

    Nothing is trained yet: `.run()` trains what is missing; `.status()`, `.table()` and `.figure()` show what is there.

    Parameters
    ----------
    name : str
        A name of `dissect study list`, or a TOML file.
    data : Dataset or str
        A data set, or its name.
    scale : str
        quick, eighth or full: width, epochs and seeds.
    dim, epochs, seeds
        In place of those of the scale.
    protocol : str, optional
        "paper" chooses epochs on test, as the paper does.
    arms : sequence of str
        Labels, to see only these arms of the study.
    tuned : bool
        Take the settings that `study tune` or `tune` found, for the arms that have some in `runs_dir`.
    device, runs_dir, quiet
        As for `train`.

    Returns
    -------
    Studied

    Raises
    ------
    UsageError
        A name or value does not exist or fit.
    """
    check({"name": name, "data": data, "scale": scale, "dim": dim, "epochs": epochs, "runs_dir": runs_dir})
    check({**({} if seeds is None else {"seeds": seeds}), "protocol": protocol, "arms": arms, "device": device})
    data = _loaded(data)
    of_size = _of_size(dim=dim, epochs=epochs, protocol=protocol, seeds=seeds)
    how = {"device": device, "observe": observer if is_shown(quiet) else None}
    say = unsaid if quiet else _say
    return studied(name, data, runs_dir, scale, arms=arms, tuned=tuned, how=how, say=say, **of_size)


def recommend(
    group: Group | str | Path,
    sessions: Sequence[Sequence[int | str]],
    k: int = LISTED,
    unseen: bool = False,
    *,
    seed: int | None = None,
    device: str = "auto",
    data_dir: str | None = None,
    runs_dir: str | Path = RUNS,
) -> pd.DataFrame:
    """The items with the highest scores after each session, like `dissect recommend`.

    Parameters
    ----------
    group : Group, str or Path
        A group, or the name or path of a group or of a run.
    sessions : sequence of sequences
        Each has item numbers from 1 on, or identifiers as texts, in the order of the clicks.
    k : int
        How many items.
    unseen : bool
        Leave out the items of the session itself.
    seed : int, optional
        Names the run, in a group with several seeds.
    device : str
        "auto", "cpu" or "cuda".
    data_dir : str or Path, optional
        The folder of the data sets.
    runs_dir : str or Path
        Where names are looked up.

    Returns
    -------
    DataFrame
        session (from 0), rank, item, identifier (if the data set has them), score, probability (of the softmax over the
        catalogue; a baseline has none).

    Raises
    ------
    UsageError
        An item is unknown, or a session is empty.
    DataError
        The run is unfinished or damaged.
    """
    check({"group": group, "sessions": sessions, "k": k, "device": device, "data_dir": data_dir, "runs_dir": runs_dir})
    if seed is not None:
        check({"seed": seed})
    group = group if isinstance(group, Group) else Group(Path(group))
    where = group.path if seed is None else folders.run_path(group.path, seed)
    record = opened.finished_run(where, runs_dir)
    identifiers = files.read_identifiers(record.group, record.n_items)
    number = number_by_name(identifiers or (), "The group's data set")
    clicks = [numbers(session, record.n_items, number) for session in sessions]
    if not clicks:
        raise UsageError("There is nothing to recommend.", "Give a session, for example: [[12, 7, 99]]")

    def data() -> Dataset:
        return group.data or recorded.data_of(record, lambda name, data_dir: bring.load(name, data_dir), data_dir)

    with processor_as_it_was(device):
        how = {"k": k, "unseen": unseen, "model": group.model, "device": device}
        answers = list(recommended(record, clicks, data, identifiers, **how))
    named = ["identifier"] if identifiers else []
    return pd.DataFrame(
        [{"session": session, **row} for session, rows in enumerate(answers) for row in rows],
        columns=["session", "rank", "item", *named, "score", "probability"],
    )


def export(
    run: Group | str | Path,
    out: str | Path,
    *,
    item_width: bool = False,
    onnx: bool = False,
    force: bool = False,
    seed: int | None = None,
    data_dir: str | None = None,
    quiet: bool = False,
    runs_dir: str | Path = RUNS,
) -> dict[str, Any]:
    """Write a trained model to a folder, as small as it can be with the same scores, like `dissect export`.

    Parameters
    ----------
    run : Group, str or Path
        A group, or the name or path of a group or of a run.
    out : str or Path
        The folder to write; `recommend` takes it in the place of a group.
    item_width : bool
        Leave out columns of the item table, too, that no score needs.
    onnx : bool
        Write model.onnx beside the rest.
    force : bool
        Replace an export that is in `out`.
    seed : int, optional
        Which seed of a group with several.
    data_dir : str or Path, optional
        The folder of the data sets.
    quiet : bool
        No progress and no notes on stderr.
    runs_dir : str or Path
        Where names are looked up.

    Returns
    -------
    dict
        What was left out, with sizes, times and accuracy, as export.json has it (docs/export.md).

    Raises
    ------
    UsageError
        The run is not finished, or `out` is not ours to write.
    DataError
        A record is damaged.
    DissectError
        The scores would change.
    """
    check({"group": run, "out": out, "force": force, "runs_dir": runs_dir, "data_dir": data_dir})
    if seed is not None:
        check({"seed": seed})
    group = run if isinstance(run, Group) else Group(Path(run))
    record = opened.finished_run(group.path if seed is None else folders.run_path(group.path, seed), runs_dir)
    how: dict[str, Any] = {"item_width": item_width, "onnx": onnx, "force": force, "data_dir": data_dir}
    load = partial(bring.load, say=unsaid if quiet else _say)
    with processor_as_it_was("cpu"), telling(str(record.run), not is_shown(quiet)) as report:
        return exporting.export(record, Path(out), load, model=group.model, data=group.data, report=report, **how)


def load_export(folder: str | Path, model: Model | None = None) -> torch.nn.Module:
    """The model of an export (docs/export.md), on the CPU, without code from a file.

    Parameters
    ----------
    folder : str or Path
        What `export` wrote.
    model : class or str, optional
        The class of a model of one's own, or its file.

    Returns
    -------
    torch.nn.Module
        `scores(batch)` gives the scores [B, V] after the sessions of `models.Batch.of([[12, 7, 99], [3]])`, in which
        items have the numbers of the data set.

    Raises
    ------
    UsageError
        `folder` is no path.
    DataError
        The folder is no export, or is damaged.
    """
    check({"folder": folder})
    return exported.load_export(folder, model)


def _of_size(**given: Any) -> dict[str, Any]:
    """The size of a study with Python's numbers for numpy's, and no protocol for the usual one."""
    plain: dict[str, Callable[[Any], Any]] = {"dim": int, "seeds": lambda seeds: tuple(map(int, seed_list(seeds)))}
    plain["protocol"] = lambda protocol: protocol if protocol == "paper" else None
    return {name: plain[name](value) if name in plain and value is not None else value for name, value in given.items()}


def _trained(
    model: Model, data: Dataset | str, given: Mapping[str, Any], usual: Mapping[str, Any], quiet: bool
) -> Group:
    """Train with the `usual` settings of a verb, but what is given; on stderr, how far it is, unless `quiet`."""
    check({"model": model, "data": data})
    subject = find_model(model)
    arguments = apart(subject, given, usual)
    if arguments.get("jobs", 1) > 1 and subject.source and not subject.given:
        raise UsageError(
            f"jobs={arguments['jobs']} needs {subject.name} in a file: other processes do not have this class.",
            'Name the file: "path/to/file.py:ClassName".',
        )
    given_observer = arguments.pop("observe", None)
    if given_observer is not None and arguments.get("jobs", 1) > 1 and not travels(given_observer):
        raise UsageError(
            f"jobs={arguments['jobs']} needs the observer in a file: other processes do not have this one.",
            "Import its class from a file of yours, or leave jobs out.",
        )
    data = _loaded(data)
    watch = partial(observer, threshold=arguments.get("threshold", Config.threshold), quiet=not is_shown(quiet))
    with processor_as_it_was(arguments.get("device", "auto")):
        try:
            observe = partial(_observed, watch, given_observer) if given_observer else watch
            path = experiment.train(subject, data, observe=observe, say=None if quiet else _say, **arguments)
        except FinishedError as error:
            path = error.group
    return Group(path, model if subject.source else None, data)


def _loaded(data: Dataset | str) -> Dataset:
    """The data set of a name, or one that was made in Python. Raises DataError if that cannot be trained and judged."""
    if isinstance(data, str):
        return load(data)
    for name, part in (("train", data.train), ("test", data.test)):
        try:
            require_sound(part, data.n_items)
        except ValueError as error:
            raise DataError(f"The part {name} of the data set {data.name!r} is not sound: {error}.") from error
        if not part.n_prefixes:
            raise DataError(f"The part {name} of the data set {data.name!r} has no session of two clicks or more.")
    return data


def _observed(watch: Callable[[str], Observer], observe: Callable[[str], Any], title: str) -> Observer:
    """A user's observer of a run, behind the progress."""
    return Watched(watch(title), require_observer(observe(title)))


def _say(text: str) -> None:
    print(text, file=sys.stderr)
