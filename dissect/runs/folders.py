"""The run folder: the one contract between training and everything after it.

runs/<name>-<hash>/        a group: one configuration
  config.toml data.json items.json tuned.json verdict.json figures/
  s<seed>/                 a run: one seed of it, full model
  without-<role>/s<seed>/  the model without a role, same configuration and seeds
    environment.json coverage.json metrics.jsonl density.jsonl checkpoints/ ranks-*.npz summary.json DONE
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dissect.errors import DataError, UsageError, unknown, why
from dissect.runs import records
from dissect.runs.config import Config, told_apart
from dissect.runs.files import anew, read_json, read_jsonl, write_atomically
from dissect.text import STEERS, shown_lines
from dissect.usual import FULL as FULL

Given = TypeVar("Given")
Read = TypeVar("Read")
CONFIG, TUNED_BY = "config.toml", "tuned.json"  # of a group
CHECKPOINTS, BEST, LAST = "checkpoints", "best.pt", "last.pt"  # of a run
WITHOUT = "without-"  # how the name of a variant begins that lacks parts
MATCHED = f"{WITHOUT}sparsevd"  # the variant that Config.matched describes
HASHED = re.compile(r"-([0-9a-f]{8})$")  # how the name of a group ends (Config.hash)
RETIRED = {"compiled": True, "noise": "lrt_shared"}  # settings of earlier versions that are refused
RUN = re.compile(r"s(\d+)(\.old-\d+)?")  # the folder of a seed, or one set aside
MANY, PACKED = 1 << 26, 100  # ranks above so many bytes are at most so many times as large as their file
_hearing: list[tuple[list[DataError], bool]] = []  # who wants to know what is left out, and whether others hear it


def write_ranks(path: Path, **arrays: Any) -> None:
    """Write per-prefix ranks: rank, session, length and target, int32 [P] each."""
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def read_summary(run: Path) -> dict[str, Any]:
    """The summary of a finished run. Raises DataError, with the commands that write it again."""
    path, seed = run / "summary.json", place_of(run)[1]
    summary = read_json(path, records.Summary, write_again(run))
    if summary["seed"] != seed:
        raise DataError(f"{path} belongs to seed {summary['seed']}, but its folder to seed {seed}.", write_again(run))
    return summary


def read_records(run: Path, name: str, kind: Any) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl or density.jsonl. Raises DataError if those of a finished run lack their end, too."""
    rows = read_jsonl(run / name, kind)
    if not rows and is_done(run) and (run / name).exists() and (run / name).stat().st_size:
        raise DataError(f"{run / name} holds no whole line: the rest is lost.", anew(run))
    if rows and is_done(run):
        last, steps = rows[-1]["step"], read_summary(run).get("steps", rows[-1]["step"])
        if last != steps:
            raise DataError(f"{run / name} ends at step {last}, and the run has {steps}: the rest is lost.", anew(run))
    return rows


def write_again(run: Path) -> str:
    """How to write the summary and the ranks of a finished run again from its checkpoint."""
    return f"Write it again: rm {shlex.quote(str(run / 'DONE'))}; dissect resume {shlex.quote(str(run))}"


def read_ranks(path: Path) -> dict[str, np.ndarray]:
    """rank, session, length, target: whole numbers [P] each. Raises DataError if it is missing or damaged."""
    again = write_again(path.parent)
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > max(MANY, PACKED * path.stat().st_size):
                says = f"it would unpack to {size:,} bytes, far more than ranks do"
                raise DataError(f"{path} does not hold ranks: {says}.", again)
            found = {name: np.asarray(file[name]) for name in ("rank", "session", "length", "target")}
    except DataError:
        raise
    except Exception as error:  # zip and npy have many ways to fail on garbled bytes, and advise to unpickle them
        raise DataError(f"{path} does not hold ranks.", again) from error
    for name, array in found.items():
        if array.dtype.kind not in "iu" or array.ndim != 1 or not len(array) or len(array) != len(found["rank"]):
            shape = f"{array.dtype} {list(array.shape)}"
            raise DataError(f"{path} is damaged: {name} is {shape}, not whole numbers, one for each prefix.", again)
        if array.min() < (name == "rank") or array.max() > np.iinfo(np.int32).max:
            raise DataError(f"{path} is damaged: {name} goes from {array.min()} to {array.max()}.", again)
    return found


def test_ranks(run: Path) -> Path:
    """The test ranks of a finished run: of the chosen epoch, else the last. Raises DataError if they are missing."""
    for which in ("best", "last"):
        if (path := run / f"ranks-test-{which}.npz").exists():
            return path
    raise DataError(
        f"{run} has no ranks of the test set (ranks-test-best.npz or ranks-test-last.npz).", write_again(run)
    )


def group_config(group: Path) -> dict[str, Any]:
    """The configuration of a group without None, with defaults for settings that earlier versions did not have.

    Raises DataError if it is missing or damaged.
    """
    path, by_hand = group / CONFIG, "Put back what was there, or move the folder away."
    if re.search(f"[{STEERS}]", group.name):
        raise DataError(f"{group} is no group of runs: its name has control characters.", "Rename it.")
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if not path.exists():
            raise DataError(f"{group} is not a group of runs: it has no config.toml.") from error
        raise DataError(f"{path} cannot be read: {why(error)}.", by_hand) from error
    for name, value in RETIRED.items():
        if settings.get(name) == value:
            says = f"{path} has {name} = {value}, which this version no longer offers."
            raise DataError(says, "An earlier version of dissect reads it.")
    settings.pop("compiled", None)
    if settings.get("where") != "none":
        settings.setdefault("apart", False)
    later = settings.keys() - {f.name for f in fields(Config)}
    if later:
        raise DataError(f"{path} is of another version: it has {', '.join(sorted(map(repr, later)))}.", by_hand)
    try:
        records.check(settings, Config, str(path), by_hand)
        config = Config(**settings)  # a whole number for a float stays one, as when the folder was named
        name = config.hash
    except (TypeError, UsageError) as error:
        raise DataError(f"{path} was written by another version or changed later: {error}.", by_hand) from error
    if (ends := HASHED.search(group.name)) and ends[1] != name:
        raise DataError(f"The settings in {path} do not match the hash in the name {group.name}.", by_hand)
    return {name: value for name, value in config.to_dict().items() if value is not None}


def tuned_by(group: Path) -> dict[str, Any] | None:
    """The tuning whose settings a group was trained with (records.TunedBy); None if its runs took none.

    Raises DataError if the record is damaged.
    """
    path = group / TUNED_BY
    return read_json(path, records.TunedBy, "Move it away.") if path.exists() else None


def mark_done(run: Path) -> None:
    """The last thing that a run writes."""
    write_atomically(run / "DONE", lambda file: None)


def is_done(run: Path) -> bool:
    return os.path.exists(run / "DONE")  # False, too, for a folder that may not be read


def run_path(group: Path, seed: int, variant: str = FULL) -> Path:
    return (group if variant == FULL else group / variant) / f"s{seed}"


def checkpoint(run: Path, name: str = LAST) -> Path:
    return run / CHECKPOINTS / name


def reported(run: Path, select: str) -> Path:
    """The checkpoint with the weights that a finished run reports: of the epoch that it chose, or of its end."""
    return checkpoint(run, LAST if select == "last" else BEST)


def opinions_file(group: Path, seed: int) -> Path:
    """What second opinions say of a seed (experiment/opinions.py)."""
    return group / "opinions" / f"s{seed}.json"


def group_runs(group: Path, variant: str = FULL) -> list[Path]:
    """The seed folders of a variant, by seed, finished or not."""
    parent = group if variant == FULL else group / variant
    runs = [path for path in parent.glob("s*") if re.fullmatch(r"s\d+", path.name) and path.is_dir()]
    return sorted(runs, key=lambda path: int(path.name[1:]))


def variants(group: Path) -> list[str]:
    """`full` and the `without-<role>` folders that hold runs."""
    reduced = sorted(path.name for path in group.glob(f"{WITHOUT}*") if path.is_dir() and path.name.isprintable())
    return [v for v in (FULL, *reduced) if group_runs(group, v)]


def require_own_names(groups: Iterable[Path]) -> None:
    """Raises UsageError if two groups have one name: in a folder of both, one would overwrite the other."""
    places: dict[str, Path] = {}
    for group in groups:
        other = places.setdefault(group.name, group)
        if other.resolve() != group.resolve():
            says = f"{other} and {group} have one name, and their files would have one place."
            raise UsageError(says, "Give them one after the other, each with an --out of its own.")


def place_of(run: Path) -> tuple[str, int]:
    """(variant, seed) of a run folder, by its place in the group. Raises DataError if it is not one."""
    match = RUN.fullmatch(run.name)
    if match is None:
        raise DataError(f"{run} is no run: a run is a folder like <group>/s1.")
    reduced = run.parent.name.startswith(WITHOUT) and not (run.parent / CONFIG).exists()
    return (run.parent.name if reduced else FULL), int(match[1])


def group_of(run: Path) -> Path:
    """The group that a run folder lies in."""
    return run.parent if place_of(run)[0] == FULL else run.parent.parent


def find_groups(runs_dir: Path | str) -> list[Path]:
    """The groups of a runs folder, oldest first (by when the configuration was written)."""
    found = []
    for path in Path(runs_dir).glob(f"*/{CONFIG}"):
        with suppress(FileNotFoundError):  # it was moved or deleted meanwhile
            found.append((path.stat().st_mtime_ns, path.parent.name, path.parent))
    return [group for *_, group in sorted(found)]


def configs(runs_dir: Path | str) -> Iterator[tuple[Path, Config]]:
    """The groups of a runs folder with their configurations, for those that look around: damaged ones say nothing."""
    for group in find_groups(runs_dir):
        try:
            config = Config(**group_config(group))
        except DataError:
            continue
        yield group, config


def left_out(error: DataError) -> None:
    """Warn on stderr about something damaged that is skipped, or tell the innermost `hearing`."""
    for heard, is_aloud in reversed(_hearing):
        heard.append(error)
        if not is_aloud:
            return
    print(shown_lines(f"Left out: {error.message} {error.hint}".rstrip()), file=sys.stderr)


@contextmanager
def hearing(is_aloud: bool = False) -> Iterator[list[DataError]]:
    """In this block what is left out as damaged goes to the list that it gives; to stderr too, if it `is_aloud`."""
    _hearing.append(([], is_aloud))
    try:
        yield _hearing[-1][0]
    finally:
        _hearing.pop()


def each_sound(given: Iterable[Given], read: Callable[[Given], Read], required: bool = True) -> list[Read]:
    """`read` of each. Damaged ones are skipped with a warning.

    Raises DataError if all are damaged, unless `required` is False.
    """
    found, damaged = [], list[DataError]()
    for each in given:
        try:
            found.append(read(each))
        except DataError as error:
            damaged.append(error)
    if damaged and required and not found:
        raise damaged[0]
    for lost in damaged:
        left_out(lost)
    return found


def newest_sound_group(runs_dir: Path | str, dissected: bool = False, trained: bool = False) -> Path | None:
    """The group begun last whose configuration can be read; None if there is none. It must be `dissected`, or `trained`
    (a baseline is not), where that is asked for.
    """
    for group in reversed(find_groups(runs_dir)):
        for config in each_sound([group], group_config, required=False):
            if not (dissected and config["where"] == "none") and not (trained and not config["max_steps"]):
                return group
    return None


def newest_dissected(runs_dir: Path | str) -> Path:
    """The dissected group begun last, or else the group begun last; stderr tells which. Raises as `newest_group`."""
    with hearing():
        found = newest_sound_group(runs_dir, dissected=True)
    group = found or newest_group(runs_dir)
    print(f"Group: {group.name} (the newest{' that is dissected' if found else ''}).", file=sys.stderr)
    return group


def newest_group(runs_dir: Path | str, dissected: bool = False, trained: bool = False) -> Path:
    """`newest_sound_group`; raises UsageError if there is none, DataError if that may be for a damaged one."""
    with hearing(is_aloud=True) as lost:
        group = newest_sound_group(runs_dir, dissected, trained)
    if group is None and lost:
        raise lost[0]
    if group is None:
        kind = "dissected models" if dissected else "trained models" if trained else "runs"
        kind = kind if find_groups(runs_dir) else "runs"
        raise UsageError(f"There are no {kind} in {runs_dir}.", "Make one: dissect run")
    return group


def resolve_group(name: Path | str, runs_dir: Path | str, dissected: bool = False) -> Path:
    """A group by its path, its name, or the unique beginning of its name. Of several that begin so, the `dissected`
    ones alone count, if there are any.

    Raises UsageError with near names, DataError if it has lost its configuration.
    """
    for path in (Path(name), Path(runs_dir) / name):
        if os.path.exists(path / CONFIG):
            return path
        if os.path.isdir(path) and group_runs(path):
            group_config(path)  # says what is missing
    groups = {group.name: group for group in find_groups(runs_dir)}
    begins = [group for known, group in groups.items() if known.startswith(str(name))]
    sound = dict[Path, Config]()
    if len(begins) > 1:  # a damaged one is not meant
        sound = dict(each_sound(begins, lambda group: (group, Config(**group_config(group))), required=False))
        begins = [*sound] or begins
    named = [group for group in begins if HASHED.sub("", group.name) == str(name)]  # srgnn-demo, not srgnn-demo-bag
    begins = named or begins
    if dissected:
        begins = [group for group in begins if group in sound and sound[group].is_sparse] or begins
    if len(begins) == 1:
        return begins[0]
    if begins:
        words = told_apart([sound[group] for group in begins]) if sound else []
        lines = [f"{group.name}{f' ({more})' if more else ''}" for group, more in zip_longest(begins, words)]
        raise UsageError(f"Several groups begin with {str(name)!r}.", one_of(lines))
    if os.path.isdir(name):
        hint = "See the groups of a folder: dissect list"
        raise UsageError(f"{name} is not a group of runs: it has no {CONFIG}.", hint)
    raise unknown("group", str(name), groups)


def one_of(names: Iterable[Path | str]) -> str:
    """The hint for a name that stands for several, one a line."""
    return "Name one of them:" + "".join(f"\n  {name}" for name in names)


def resolve_both(name: Path | str, runs_dir: Path | str, dissected: bool = False) -> tuple[Path, list[Path]]:
    """The group that a name stands for, or that of a run, and the runs that are meant, as in `resolve_runs`."""
    runs = resolve_runs(name, runs_dir, dissected)
    return group_of(runs[0]) if runs else resolve_group(name, runs_dir, dissected), runs


def resolve_runs(name: Path | str, runs_dir: Path | str, dissected: bool = False) -> list[Path]:
    """The runs that a name stands for: one run (<group>/s1, <group>/without-<role>/s1), or all of a group.

    The group is named as in `resolve_group`. Raises UsageError if there is none, with what there is.
    """
    path, inner = Path(name), list[str]()
    if path.name in ("", ".."):  # the current folder
        path = path.resolve()
    while RUN.fullmatch(path.name) or path.name.startswith(WITHOUT):
        if any(os.path.exists(folder / CONFIG) for folder in (path, Path(runs_dir) / path)):
            break
        inner.insert(0, path.name)
        path = path.parent if path.parent.name else path.parent.resolve()
    group = resolve_group(path, runs_dir, dissected)
    here = [run for variant in variants(group) for run in group_runs(group, variant)]
    found = [run for run in here if list(run.relative_to(group).parts[: len(inner)]) == inner]
    if not found and inner and RUN.fullmatch(inner[-1]) and group.joinpath(*inner).is_dir():
        found = [group.joinpath(*inner)]  # one that was set aside
    if not found and inner:
        raise unknown(f"run in {group}", "/".join(inner), (str(run.relative_to(group)) for run in here))
    return found


def resolve_run(name: Path | str, runs_dir: Path | str, dissected: bool = False) -> Path:
    """One run by its name; for a group, its only run of the full model. Raises UsageError if there are several."""
    found = resolve_runs(name, runs_dir, dissected)
    full = [run for run in found if place_of(run)[0] == FULL]
    if len(found) == 1 or len(full) == 1:
        return (full or found)[0]
    if not found:
        raise UsageError(f"{name} has no run yet.", "Make one: dissect run")
    raise UsageError(f"{name} holds several runs.", one_of(full or found))
