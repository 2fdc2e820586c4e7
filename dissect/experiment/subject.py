"""The model of a request: a registered class or a user's own, its options, and whether it keeps the contract."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dissect.data.sessions import Dataset, Sessions, split_validation
from dissect.errors import DataError, DissectError, ModelError, UsageError, unknown
from dissect.experiment import own_models
from dissect.runs.config import Config, is_file_name
from dissect.sparsevd import coverage, shares, sparsify
from dissect.training import workers
from dissect.training.observers import is_of_observer
from dissect.training.setup import require_rows
from models import MODELS, base, check

_BY_NAME = inspect.Parameter.VAR_KEYWORD
CONTRACT = f"The contract is in models/base.py ({base.__file__})"
PROBE_ITEMS = 5
LARGE = 10_000  # of an option: it may be the size of a table
SMALL = 2**25  # numbers: a model with tables of so many fits into any memory
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}


@dataclass(frozen=True)
class Subject:
    """A model class under the name by which it is recorded, with what identifies its source."""

    name: str
    cls: Any
    source: str | None = None  # SHA-256 of the file of a user's own model
    given: str = ""  # what the user called it, if that is not the name

    @property
    def learns(self) -> bool:
        """Whether it is trained; a baseline is only fitted."""
        return bool(self.cls.learns)

    def require_weights(self) -> None:
        """Raises UsageError for a baseline."""
        if not self.learns:
            raise UsageError(
                f"{self.name} is a baseline: it has no weight matrices, and nothing to dissect.",
                f"Rank with it: dissect train {self.name}",
            )

    def __reduce__(self) -> Any:
        """In another process the class of a user's file has to be found again, by executing that file there."""
        return _again, (self.given or self.name, self.source)


def _again(given: str, source: str | None) -> Subject:
    """The subject that another process found. Raises UsageError if its file has changed since."""
    subject = find_model(given)
    if subject.source != source:
        raise UsageError(
            f"{given} was changed after the training began.", "Train the changed model: give the same command again."
        )
    return subject


def find_model(model: str | type | Subject) -> Subject:
    """A registered model, a baseline, or a user's own: its class, or `path/to/file.py:ClassName`, which is executed.

    A class is known by the file that it was imported from, as on the command line, or else by its text. Raises
    UsageError with the nearest names, or with the fault of the file or class.
    """
    if isinstance(model, Subject):
        return model
    if isinstance(model, str) and is_file_name(model):
        return subject_of(own_models.read(model), model)
    if isinstance(model, str):
        if model not in MODELS and ":" in model:
            raise UsageError(f"{model!r} is not a model.", "One of your own is a class in a Python file: FILE.py:CLASS")
        if model not in MODELS:
            raise unknown("model", model, MODELS)
        return Subject(model, MODELS[model])
    if name := next((name for name, cls in MODELS.items() if cls is model), None):
        return Subject(name, model)
    require_contract(model)
    if file := own_models.file_of(model):
        return Subject(f"{file.path.name}:{file.class_name}", model, file.sha256, f"{file.path}:{file.class_name}")
    if model.__name__ in MODELS:
        raise UsageError(f"dissect has a model called {model.__name__}.", "Give your class another name.")
    return Subject(model.__name__, model, own_models.sha256_of(model))


def subject_of(file: own_models.ModelFile, given: str) -> Subject:
    """A user's own model: the class in its file, which is executed. Raises UsageError with the fault of the file."""
    cls = own_models.load(file)
    require_contract(cls)
    return Subject(f"{file.path.name}:{file.class_name}", cls, file.sha256, given)


def require_contract(cls: Any) -> None:
    """Raises UsageError if a class does not derive from SessionModel, with what else it lacks."""
    if not issubclass(cls, base.SessionModel):
        needed = ("item_states", "encode", "candidates", "unit_candidates", "matrices", "removable")
        lacking = [name for name in needed if not hasattr(cls, name)]
        what = f"lacks {', '.join(lacking)}" if lacking else "is not a SessionModel"
        raise UsageError(f"{cls.__name__} {what}.", f"{CONTRACT}: derive from SessionModel.")


def changes(subject: Subject, preset: str) -> bool:
    """Whether a preset sets more than the defaults and a width: then it is part of the group's name."""
    parameters, presets = inspect.signature(subject.cls).parameters, subject.cls.presets
    usual = {name: parameter.default for name, parameter in parameters.items()}
    return any(name != "dim" and usual.get(name) != value for name, value in presets[preset].items())


def defaults(subject: Subject) -> dict[str, Any]:
    """The options of a model with their defaults, including those that it hands on; "required" if it has none."""
    usual = {
        p.name: "required" if p.default is inspect.Parameter.empty else p.default
        for p in inspect.signature(subject.cls).parameters.values()
        if p.kind is not _BY_NAME and p.name not in ("n_items", "without")
    }
    more = subject.cls.more_options  # in a user's file perhaps the names only
    return usual | {name: more[name] if isinstance(more, Mapping) else "unknown" for name in more if name not in usual}


def is_option(name: str) -> bool:
    """Whether a registered model has an option of that name."""
    return any(name in defaults(find_model(model)) for model in MODELS)


def option_values(texts: Sequence[str], dim: int | None = None) -> dict[str, Any]:
    """Options from a width and texts such as "steps=2", "bias=true", "dropout=none".

    Raises UsageError for another text, and for an option that is given twice.
    """
    values: dict[str, Any] = {} if dim is None else {"dim": dim}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"An option of a model is KEY=VALUE, not {text!r}.", "For example: --option steps=2")
        if name in values:
            raise UsageError(f"The option {name} is given twice: {values[name]}, and then {value}.", "Give it once.")
        values[name] = _value(value)
    return values


def model_options(
    subject: Subject,
    given: Mapping[str, Any],
    preset: str | None = None,
    dim: int | None = None,
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """Arguments for the constructor: those of a preset, then `given`.

    `dim` is the width if nothing else says one and the model takes one. Raises UsageError for an argument that the
    model does not take, a preset or a role to leave out that it does not have, and for a model that breaks the
    contract when it is tried out.
    """
    for role in without:
        if role not in subject.cls.removable:
            raise UsageError(
                f"{subject.name} cannot be built without {role!r}.",
                f"It can without: {', '.join(subject.cls.removable) or 'nothing'}.",
            )
    parameters, takes = inspect.signature(subject.cls).parameters, defaults(subject)
    anything = any(p.kind is _BY_NAME for p in parameters.values()) and not subject.cls.more_options
    for name in given:
        if name not in takes and not anything:
            near = difflib.get_close_matches(name, takes, n=1)
            more = f" {CONTRACT}." if subject.source else ""
            what = f"It takes: {', '.join(takes)}." if takes else f"It takes no options.{more}"
            raise UsageError(f"{subject.name} takes no {name}.", f"Did you mean {near[0]}=...?" if near else what)
    if preset is not None and not subject.cls.presets:
        raise UsageError(f"{subject.name} has no presets.", "Give its arguments by --option KEY=VALUE.")
    if preset is not None and preset not in subject.cls.presets:
        raise unknown(f"preset of {subject.name}", preset, subject.cls.presets)
    options = dict({} if preset is None else subject.cls.presets[preset]) | dict(given)
    if dim is not None and "dim" in takes:
        own = parameters["dim"].default if subject.source and "dim" in parameters else None  # a user's class knows best
        options.setdefault("dim", own if isinstance(own, int) else dim)
    usual = {name: p.default for name, p in parameters.items() if p.kind is not _BY_NAME}
    # TOML has no word for none: as the default it need not be written, elsewhere it would be lost.
    lost = [name for name, value in options.items() if value is None and usual.get(name) is not None]
    if lost:
        raise UsageError(f"{subject.name} takes no {lost[0]}=none.", "Leave it out for the default.")
    # Options that equal the defaults are not written down, so that they make no other group; only the width is. In the
    # order of the constructor, so that the file of a group is the same in whatever order they were given.
    order = [name for name in dict.fromkeys([*takes, *options]) if options.get(name) is not None]
    options = _of_their_kinds(subject, {name: options[name] for name in order})  # first: true equals 1
    options = {name: value for name, value in options.items() if name == "dim" or usual.get(name) != value}
    require_memory(subject, options, PROBE_ITEMS)
    _check_names(subject, try_out(subject, options)[0])
    said = [f"--preset {preset}"] if preset else []
    _check_without(subject, options, without, said + [f"--option {n}={v}" for n, v in given.items() if n != "dim"])
    return options


def _check_without(subject: Subject, options: Mapping[str, Any], without: Sequence[str], said: list[str]) -> None:
    """Raises UsageError if leaving a role out changes nothing; `said` are the options that the user gave."""
    for role in without:
        others = [other for other in without if other != role]
        (some, before), (less, after) = (try_out(subject, options, roles) for roles in (others, without))
        shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (some, less)]
        is_same = shapes[0] == shapes[1]
        if is_same and not torch.equal(before, after):  # the two may have drawn other weights
            less.load_state_dict(some.state_dict())
            after = check.check(less, PROBE_ITEMS)
        if is_same and torch.equal(before, after):
            given = " ".join([*said, *(f"--without {other}" for other in others)])
            raise UsageError(
                f"--without {role} changes nothing: {subject.name} has none{given and ' with '}{given}.",
                f"Leave --without {role} out.",
            )


def require_memory(subject: Subject, options: Mapping[str, Any], items: int) -> None:
    """Raises UsageError if a registered model of so many items is larger than the memory of this machine.

    In training each number has four places: itself, its gradient, and two moments of the optimiser.
    """
    dim = options.get("dim", 0)
    counts = {name: value for name, value in options.items() if isinstance(value, int) and value > dim}
    largest = max(counts, key=lambda name: counts[name], default="")
    if subject.source is not None or (dim * (items + dim) < SMALL and counts.get(largest, 0) < LARGE):
        return
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # has shapes, and no memory
            needed = sum(4 * parameter.nbytes for parameter in subject.cls(n_items=items, **options).parameters())
    except (ValueError, TypeError):  # `try_out` says why
        return
    except RuntimeError:  # its number of bytes is too large for PyTorch
        needed = 16 * max(dim, counts.get(largest, 0)) ** 2
    if needed > (there := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        of = f"{subject.name} of width {dim:,}" + (f" with {items:,} items" if items > PROBE_ITEMS else "")
        says = (
            f"{of} needs at least {needed / 2**30:,.0f} GiB of memory, and this machine has {there / 2**30:,.0f} GiB."
        )
        is_width = counts.get(largest, 0) < LARGE
        raise UsageError(says, "Give a smaller width: --dim" if is_width else f"Give a smaller {largest}.")


def try_out(subject: Subject, options: Mapping[str, Any], without: Sequence[str] = ()) -> tuple[Any, Tensor]:
    """(model, vectors): built with a catalogue of five items and run once, before anything is written.

    Raises UsageError if it cannot be built or breaks the contract: what was expected and what came.
    """
    extra = {"without": tuple(without)} if without else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = subject.cls(n_items=PROBE_ITEMS, **options, **extra)
        except (Exception, SystemExit) as error:
            kind = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
            hint = f"See it: dissect models {subject.name}" if subject.source is None else f"{CONTRACT}."
            raise UsageError(f"{subject.name} cannot be built with these options: {kind}{error}.", hint) from error
        try:
            model.prepare(Sessions.from_lists([[1, 2, 3], [2, 4, 5, 1]]))
            return model, _checked(subject, model, options, without)
        except (Exception, SystemExit) as error:
            message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            line = _line_of(error.__cause__ or error, subject)
            raise UsageError(
                f"{subject.name} breaks the contract of models: {message}{line}.",
                f"{CONTRACT}." if subject.source else f"See what it takes: dissect models {subject.name}",
            ) from error


_vectors_of: dict[Any, Tensor] = {}  # of built-in models that passed the check, by class and arguments


def _checked(subject: Subject, model: Any, options: Mapping[str, Any], without: Sequence[str]) -> Tensor:
    """The vectors of `check`. A built-in model is checked once with the same arguments: a command asks four times."""
    if subject.source is not None:  # a user's class may be another one the next time
        return check.check(model, PROBE_ITEMS)
    about = subject.cls, repr(sorted(options.items())), tuple(without)
    if about not in _vectors_of:
        _vectors_of[about] = check.check(model, PROBE_ITEMS)
    return _vectors_of[about]


def try_on(subject: Subject, data: Dataset, config: Config, without: Sequence[str] = ()) -> None:
    """Try a model on the longest session and on the smallest batch that a training has, before anything is written.

    Raises DataError if the session is too long for it, UsageError if it is too large, cannot be trained on one example
    or batches are too small for shadows.
    """
    require_rows(config)
    require_memory(subject, config.model_options, data.n_items)
    model, _ = try_out(subject, config.model_options, without)
    longest = config.kept(int(max(data.train.lengths.max(), data.test.lengths.max())) - 1)
    require_length(model, subject.name, longest, f"session of {data.name}")
    trained = split_validation(data.train, config.held_out)[0]
    examples = len(trained) if model.every_position else trained.n_prefixes
    B = config.batch_size
    last = examples % B if examples // B < config.max_steps else 0  # of an epoch, if it comes to that
    is_one = 1 in [max(1, size // workers.count()) for size in (B, last) if size]
    if is_one and (says := check.refusal(model, 1, training=True)):
        better = next((size for size in range(B + 1, 2 * B + 3) if examples % size > 1), None)
        raise UsageError(
            f"{subject.name} cannot be trained on one example alone, and the last batch has one "
            f"({examples:,} examples in batches of {B:,}): {says}.",
            f"Choose another size: --batch-size {better}" if better else "",
        )


def require_length(model: Any, name: str, longest: int, which: str) -> None:
    """Raises DataError if a model, on the CPU, cannot encode the longest session, `which`."""
    if says := check.refusal(model, longest):
        most = check.longest_taken(model, longest)
        raise DataError(
            f"{name} takes at most {most:,} clicks, but the longest {which} has {longest:,}: {says}.",
            f"Train it on the last clicks of a session only: --longest {most}. Or give the model more places, by an "
            "--option of its own.",
        )


@contextmanager
def faults_named(subject: Subject, run: Path) -> Iterator[None]:
    """Context manager: an error that a user's own model raises in training is a ModelError with file and line."""
    try:
        yield
    except DissectError:
        raise
    except Exception as error:
        if not is_of_observer(error) and (line := _line_of(error, subject)):
            raise ModelError(
                f"{subject.name} raised {type(error).__name__} in training: {error}{line}.",
                f"The records and checkpoints so far are kept in {run}.",
            ) from error
        raise


def _line_of(error: BaseException, subject: Subject) -> str:
    """The place of an error in the user's file: " (own.py, line 12)"; empty if it arose elsewhere."""
    methods = filter(inspect.isfunction, vars(subject.cls).values()) if subject.source else ()
    files = {inspect.unwrap(method).__code__.co_filename for method in methods}  # not that of a decorator
    found = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" ({Path(found[-1].filename).name}, line {found[-1].lineno})" if found else ""


def _of_their_kinds(subject: Subject, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with 16.0 for 16 where the constructor declares a float, so that both are the same group.

    Raises UsageError for a value of another type than the constructor declares, if that is a plain one.
    """
    found = dict(options)
    try:
        hints = typing.get_type_hints(subject.cls.__init__)
    except (NameError, TypeError):  # a user's own, which may name what it likes
        return found
    for name, value in options.items():
        hint = hints.get(name)
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = set(typing.get_args(hint)) if is_union else {hint}
        if kinds <= PLAIN.keys() and type(value) not in kinds | ({int} if float in kinds else set()):
            wanted = " or ".join(PLAIN[kind] for kind in PLAIN if kind in kinds)
            raise UsageError(f"{name} of {subject.name} is {wanted}, not {value!r}.")
        if isinstance(value, float) and math.isnan(value):
            raise UsageError(f"{name} of {subject.name} must be a number, not {value}.")
        if type(value) is int and float in kinds and int not in kinds:
            found[name] = float(value)
    return found


def _check_names(subject: Subject, model: Any) -> None:
    """Raises UsageError if `matrices` names layers that the model lacks, unless an option or a role explains it."""
    absent, unnamed = check.not_there(model), check.without_role(model)
    removable = [n for n in absent if any(model.matrices[n].is_of(part) for part in model.removable)]
    wrong = absent if unnamed else [name for name in absent if name not in removable]
    if wrong:
        near = difflib.get_close_matches(wrong[0], unnamed, n=1)
        raise UsageError(
            f"{subject.name} declares matrices that it does not have: {', '.join(wrong)}."
            + (f" These have no role: {', '.join(unnamed)}." if unnamed else ""),
            (f"Did you mean {near[0]} instead of {wrong[0]}? " if near else "")
            + "`matrices` names layers as named_modules() does.",
        )


def _value(text: str) -> Any:
    """A number, true, false, none, or the text itself."""
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return plain[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def describe(subject: Subject, options: Mapping[str, Any], items: int) -> dict[str, Any]:
    """What a model is made of: its matrices with shapes and roles, what SparseVD can dissect, options and presets.

    Its layers are exchanged as a run would, with a few clicks to try.
    """
    tried, _ = try_out(subject, options)
    try:
        model, rows = subject.cls(n_items=items, **options), list[dict[str, Any]]()
    except (MemoryError, RuntimeError, ValueError) as error:  # PyTorch's word for too little memory
        says = f"{subject.name} cannot be built with {items:,} items: {str(error).splitlines()[0]}"
        raise UsageError(says, "Give fewer: --items") from error
    total = sum(parameter.numel() for parameter in model.parameters())
    if subject.learns:
        report = sparsify(tried, refuse=False, probe=lambda: check.check(tried, len(tried.item_states())))
        if report.layers:
            sparsify(model, report.layers)
        rows = coverage(model, model.matrices, report.left_out, items)
    order = {name: place for place, name in enumerate(model.matrices)}
    rows.sort(key=lambda row: order.get(row["matrix"], len(order)))
    blocks = {name: [*matrix.rows, *matrix.cols] for name, matrix in model.matrices.items()}
    matrices = []
    for row in rows:
        name, shapes = row["matrix"], row["shapes"]
        role, module = (row["role"], row["module"]) if row["declared"] else (None, None)
        about = {"matrix": name, "shape": shapes[0] if len(shapes) == 1 else None, "shapes": shapes}
        about |= {"parameters": row["numel"], "role": role, "module": module, "blocks": blocks.get(name, [])}
        matrices.append({**about, "dissected": row["covered"], "reason": row["reason"]})
    return {
        "model": subject.name,
        "dim": options.get("dim"),
        "items": items,
        "parameters": total,
        "matrices": matrices,
        "roles": shares([row for row in rows if row["declared"]], "role"),
        "options": _plain(defaults(subject)),
        "presets": _plain(subject.cls.presets),
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it; infinity, a class and the like as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    known = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if known else str(value)
