"""The second opinions on one seed of a group: what each criterion says of each matrix of its trained models.

    matched     the dense model: magnitude, Taylor, Fisher, reduction, and what it loses without a matrix
    dissected   SparseVD's own density, and what that model loses without a matrix
    gated       a third training, with L0 gates

Each piece is written to the group's folder opinions/ when it is done, and is not computed again, as long as the
checkpoints of the models are the same.
"""

from __future__ import annotations

import hashlib
import math
import shlex
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from dissect import opinions as criteria
from dissect.data.sessions import split_validation
from dissect.errors import BusyError, DataError, UsageError
from dissect.experiment.opened import trained_model
from dissect.experiment.pieces import PIECES, Subject, weights_of
from dissect.experiment.plan import Report as Tell
from dissect.experiment.plan import silent
from dissect.experiment.recorded import Load, data_of, model_of
from dissect.opinions import sessions
from dissect.runs import files, folders, records
from dissect.runs.config import Config
from dissect.sparsevd import declared_for
from dissect.training.evaluation import prefixes_of
from dissect.training.losses import shares_of
from dissect.training.rebuild import Recorded, read_run, require_finished
from dissect.usual import L0_WEIGHT, RANKED
from models.base import prepares


def opinions_of(
    group: Path,
    seed: int,
    load: Load,
    *,
    n: int = RANKED,
    chosen: Tensor | None = None,
    retrain: int = 0,
    with_l0: bool = False,
    l0_weight: float = L0_WEIGHT,
    curves: bool = False,
    model: str | type | None = None,
    data_dir: str | None = None,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Every opinion on a seed that is asked for, and those on the same prefixes that were asked for before.

    They are also written to its file, in place of those on other prefixes.

    n            prefixes of the validation sessions (of test, without validation) on which accuracy is measured; 0: all
    chosen       numbers of test prefixes, in their place
    retrain      steps of training without a part, after which it is judged; 0: not
    with_l0      train the model with L0 gates too, at `l0_weight` nats for an open gate
    curves       accuracy against kept share, for each criterion

    Raises UsageError for a number that makes no sense, and for L0 of a run that began with the weights of another one,
    DataError if the seed has no finished dense model of its kind, BusyError if another process is at it.
    """
    _require_numbers(n, retrain, l0_weight)
    path = folders.opinions_file(group, seed)
    wanted: list[tuple[str, dict[str, Any]]] = [("scores", {}), ("ablation", {})]
    wanted += [("retrain", {"steps": retrain})] * bool(retrain)
    wanted += [("l0", {"weight": l0_weight})] * with_l0
    own, _ = runs_of(group, seed)
    if with_l0 and own.config.init_from:
        raise UsageError(
            f"{group.name} began with the weights of another run (--init-from), which it does not keep: L0 would begin "
            "elsewhere.",
            "Leave --l0 out.",
        )

    def look() -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
        """What is on record, and what is missing."""
        on: dict[str, Any] = {"n": n}
        if chosen is not None:
            on = {"n": len(chosen), "chosen": hashlib.sha256(chosen.cpu().numpy().tobytes()).hexdigest()}
        found = _read(path, {**on, "weights": weights_of(group, seed)})
        gates = l0_weight if with_l0 else found["pieces"].get("l0", {}).get("how", {}).get("weight")  # None: no curve
        asked = [*wanted, ("curves", {"l0_weight": gates})] if curves else wanted
        return found, [(name, how) for name, how in asked if found["pieces"].get(name, {}).get("how") != how]

    found, missing = look()
    if missing:
        with _opened(path.with_suffix(".lock")) as lock:
            files.hold(lock, BusyError(f"Another process is at work on {path}.", "Wait for it."))
            found, missing = look()
            if missing:
                _ask(subject_of(group, seed, load, n, chosen, model, data_dir), missing, found, path, tell)
    return found


def _opened(path: Path) -> TextIO:
    """A file to write, in a folder that is made. Raises DissectError if the disk refuses."""
    try:
        path.parent.mkdir(exist_ok=True)
        return open(path, "w")
    except OSError as error:
        raise files.refused(path, error) from error


def _require_numbers(n: int, retrain: int, l0_weight: float) -> None:
    for name, value, what in (("n", n, "of prefixes"), ("retrain", retrain, "of steps")):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"{name} is a number {what}, 0 or more; it cannot be {value!r}.")
    is_number = isinstance(l0_weight, (int, float)) and not isinstance(l0_weight, bool)
    if not is_number or not 0 < l0_weight < math.inf:
        raise UsageError(f"l0_weight is a number above 0; it cannot be {l0_weight!r}.")


def _ask(
    subject: Subject, missing: list[tuple[str, dict[str, Any]]], found: dict[str, Any], path: Path, tell: Tell
) -> None:
    """Add the missing pieces to what was found, and write it after each."""
    found |= {"split": subject.split, "ranked": len(subject.ranking), "roles": subject.roles}
    found["training_seconds"] = folders.read_summary(subject.record.run)["seconds"]
    for name, how in missing:
        began = time.monotonic()
        piece = PIECES[name](subject, tell, **how)
        found["pieces"][name] = {"how": how, "seconds": time.monotonic() - began, **piece}
        of_curves = found["pieces"].get("curves", {}).get("how", {}).get("l0_weight")
        if name == "l0" and of_curves not in (None, how["weight"]):
            del found["pieces"]["curves"]  # one of them is of gates at another price
        files.write_json(path, found)


def _read(path: Path, judged: dict[str, Any]) -> dict[str, Any]:
    """What is on record, if it was of the same weights and judged on the same prefixes."""
    if path.exists():
        again = f"Remove it and ask again: rm {shlex.quote(str(path))}"
        found = files.read_json(path, records.SecondOpinions, again)
        if found.get("judged") == judged:
            return found
    return {"judged": judged, "pieces": {}}


def runs_of(group: Path, seed: int) -> tuple[Recorded, Recorded]:
    """(the run, that of the dense model); the same if it is dense. Raises DataError unless both are finished."""
    own = read_run(folders.run_path(group, seed))
    require_finished(own)
    record = read_run(folders.run_path(group, seed, folders.MATCHED)) if own.config.is_sparse else own
    if not folders.is_done(record.run):
        raise DataError(
            f"{group.name} has no matched dense model of seed {seed}, which all criteria but SparseVD judge.",
            _way_on(group, own.config),
        )
    return own, record


def _way_on(group: Path, config: Config) -> str:
    """How the dense model that is missing gets trained: beside a dissection only if it has shadows (Plan.beside)."""
    if config.is_sparse and not config.shadows:
        return "The same command without --literal or --no-shadows trains it beside the dissection, in another group."
    if not folders.group_runs(group):
        return "Leave out --without: the same `dissect run` then trains it beside the whole model."
    return f"dissect run trains it beside the dissection; go on: dissect resume {shlex.quote(str(group))}"


def subject_of(
    group: Path, seed: int, load: Load, n: int, chosen: Tensor | None, model: str | type | None, data_dir: str | None
) -> Subject:
    """The models of a seed, read back, with the prefixes that judge them."""
    own, record = runs_of(group, seed)
    is_sparse = own.config.is_sparse
    data = data_of(own, load, data_dir)
    train, valid = split_validation(data.train, own.config.held_out)
    unseen, split = (data.test, "test") if chosen is not None or not valid.n_prefixes else (valid, "valid")
    longest = max(int(data.test.lengths.max()), int(data.train.lengths.max())) - 1
    dense, _, device = trained_model(record, lambda: data, longest, model, "cpu")
    dissected = trained_model(own, lambda: data, longest, model, "cpu")[0] if is_sparse else None
    names = list(criteria.matrices(dense if dissected is None else dissected))
    roles: dict[str, list[str]] = {}
    for name in names:
        declared = declared_for(name, dense.matrices)
        roles.setdefault(declared.role if declared else "other", []).append(name)

    def fresh() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = model_of(record, model).cls(n_items=record.n_items, **record.config.model_options)
        if prepares(made):
            made.prepare(train)
        return made

    ranking = sessions.Ranking(prefixes_of(unseen, device, own.config.longest), n, chosen)
    prefixes, shares = prefixes_of(train, device, own.config.longest), None
    if own.config.sample_alpha:
        shares = shares_of(prefixes.items, len(dense.item_states()), own.config.sample_alpha)
    return Subject(dense, dissected, fresh, own, prefixes, ranking, split, roles, shares=shares)


def seeds_of(group: Path, wanted: Collection[int] = ()) -> list[int]:
    """The finished seeds of a group that have a dense model, or those of them that are `wanted`.

    Raises UsageError if there is none.
    """
    config = Config(**folders.group_config(group))
    dense = folders.MATCHED if config.is_sparse else folders.FULL
    seeds = [folders.place_of(run)[1] for run in folders.group_runs(group) if folders.is_done(run)]
    found = [seed for seed in seeds if folders.is_done(folders.run_path(group, seed, dense))]
    if not (found := [seed for seed in found if not wanted or seed in wanted]):
        raise UsageError(f"{group.name} has no finished seed with a dense model to judge.", _way_on(group, config))
    return found
