"""The run folder: the one contract between training and everything after it.

    runs/<name>-<hash>/        a group: one configuration
      config.toml data.json items.json verdict.json figures/
      s<seed>/                 a run: one seed of it, full model
      without-<role>/s<seed>/  the model without a role, same configuration and seeds
        environment.json coverage.json metrics.jsonl density.jsonl checkpoints/ ranks-*.npz summary.json DONE

Every record carries `schema`. JSON and arrays appear whole or not at all; JSON lines are appended one line at
a time and can be read while the run goes on.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from dissect import records
from dissect.errors import DataError, DissectError, UsageError, unknown
from dissect.locks import hold
from dissect.text import STEERS, shown_lines
from dissect.training.config import Config

SCHEMA = 1
FULL = "full"
HALF_WRITTEN = re.compile(r"\..+\.[a-z0-9_]{8}")  # what `write_atomically` fills
HASHED = re.compile(r"-([0-9a-f]{8})$")  # how the name of a group ends (Config.hash)
RUN = re.compile(r"s(\d+)(\.old-\d+)?")  # the folder of a seed, or one set aside
AGAIN = "Train this seed again with the same command and --force; the old run is kept aside."
_held: set[Path] = set()  # run folders in which this process trains


# --- writing ---------------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place: readers see the old file or the new.

    Raises DissectError, with `path` as it was, where the disk refuses.
    """
    temporary = None
    for run in _held.intersection(path.parents):
        if not run.is_dir():  # nor is half of it made again
            raise DissectError(f"{run} was deleted while it was trained.", "The same command trains it anew.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with open(temporary, "xb") as file:  # as the umask says: mkstemp keeps files from everybody else
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise refused(path, error) from error
        raise


def refused(path: Path, error: OSError) -> DissectError:
    """What to tell a user whose disk does not take a file."""
    hint = "Choose a folder that you can write to, e.g. by --runs-dir."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "Make room on the disk and give the same command again: the run goes on from its last checkpoint."
    return DissectError(f"Could not write {path}: {error.strerror or error}.", hint)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record, with its schema number first; what is no number (NaN, infinite) is null."""
    text = json.dumps(_finite({"schema": SCHEMA, **value}), indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _finite(value: Any) -> Any:
    """A record with null for each number that JSON has not."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_toml(path: Path, values: Mapping[str, Any]) -> None:
    """Write flat settings (strings, numbers, booleans, and tables one deep); None is left out."""

    def line(name: str, value: Any) -> str:
        is_odd = isinstance(value, float) and not math.isfinite(value)  # inf and nan, which JSON writes otherwise
        return f"{name} = {value if is_odd else json.dumps(value, ensure_ascii=False)}"

    tables = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    lines = [line(k, v) for k, v in values.items() if v is not None and k not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(line(k, v) for k, v in table.items() if v is not None)]
    write_atomically(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))


def write_ranks(path: Path, **arrays: Any) -> None:
    """Write per-prefix ranks: rank, session, length and target, int32 [P] each."""
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))


def write_identifiers(folder: Path, identifiers: Sequence[int | str] | None) -> None:
    """Write what the source of a data set calls its items, where that is not their numbers, into items.json."""
    if identifiers is not None:
        write_json(folder / "items.json", {"identifiers": list(identifiers)})


class Lines:
    """A file of JSON lines that can be cut back to where it was, so that a resumed run has no line twice."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "ab")  # noqa: SIM115  # open as long as the run
        except OSError as error:
            raise refused(path, error) from error
        if self.file.tell() < size:
            raise DataError(
                f"{path} is shorter than its checkpoint says ({self.file.tell()} < {size} bytes).",
                "Start over with --force; the old run is kept aside.",
            )
        self.file.truncate(size)
        self.file.seek(0, os.SEEK_END)

    def append(self, *rows: Mapping[str, Any]) -> None:
        """Write rows, as `write_json` does, and hand them to the system at once. Raises DissectError on a full disk."""
        try:
            for row in rows:
                self.file.write(json.dumps(_finite({"schema": SCHEMA, **row}), allow_nan=False).encode() + b"\n")
            self.file.flush()
        except OSError as error:
            raise refused(self.path, error) from error

    def size(self) -> int:
        """Bytes of the file, all of them on the disk: a checkpoint may rely on them after a loss of power."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error
        return self.file.tell()

    def close(self) -> None:
        with suppress(OSError):  # of what the disk has refused before: `append` has said so
            self.file.close()


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder for this process; a second process is refused (exit code 2).

    What a killed process left half-written (see `write_atomically`) is cleared away.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = open(run / ".lock", "w")  # noqa: SIM115  # closed below
    except OSError as error:
        raise refused(run, error) from error
    with lock as file:
        hold(file, UsageError(f"Another process is training in {run}.", "Wait for it, or choose --seed or --name."))
        for left in (*run.glob(".*"), *run.glob("checkpoints/.*")):
            if HALF_WRITTEN.fullmatch(left.name):
                left.unlink(missing_ok=True)
        _held.add(run)
        try:
            yield
        finally:
            _held.discard(run)


def set_aside(run: Path) -> Path:
    """Rename a run folder to the first free `<run>.old-<n>` and return that path; nothing is ever deleted.

    Raises UsageError where a process is training in it.
    """
    n = 1
    with locked(run):
        while (aside := run.with_name(f"{run.name}.old-{n}")).exists():
            n += 1
        shutil.move(run, aside)
    return aside


# --- reading ---------------------------------------------------------------------------------------------


def read_json(path: Path, kind: Any = dict[str, Any], hint: str = "") -> dict[str, Any]:
    """Read a record of a `kind` (of dissect.records). Raises DataError, with the hint, if it is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        hint = hint or "The run has not got that far, or is not a run folder."
        raise DataError(f"{path} is missing.", hint) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}.", hint) from error
    records.check(value, kind, str(path), hint)
    return dict(value)


def read_summary(run: Path) -> dict[str, Any]:
    """The summary of a finished run. Raises DataError, with the commands that write it again."""
    path, seed = run / "summary.json", place_of(run)[1]
    summary = read_json(path, records.Summary, write_again(run))
    if summary["seed"] != seed:
        raise DataError(f"{path} is of seed {summary['seed']}, and the folder of seed {seed}.", write_again(run))
    return summary


def write_again(run: Path) -> str:
    """How to write the summary and the ranks of a finished run again from its checkpoint."""
    return f"Write it again: rm {shlex.quote(str(run / 'DONE'))}; dissect resume {shlex.quote(str(run))}"


def read_identifiers(folder: Path, n_items: int) -> list[int | str] | None:
    """What `write_identifiers` wrote, item i at i - 1; None where it wrote nothing.

    Raises DataError unless there is one, a text or a whole number, for each of `n_items` items.
    """
    path = folder / "items.json"
    if not path.exists():
        return None
    found: list[int | str] = read_json(path, records.Identifiers)["identifiers"]
    if len(found) != n_items:
        raise DataError(f"{path} names {len(found):,} items, and should name each of {n_items:,}.")
    return found


def read_jsonl(path: Path, kind: Any = None) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; a last line that is cut off (a run that is writing) is left out.

    Raises DataError with the line number where another line is garbled, or is not of the `kind` (of dissect.records)
    that is expected, which has steps that only rise.
    """
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        place = f"{path}, line {number},"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # no newline behind it: still being written
                break
            raise DataError(f"{place} is not JSON: {error}.", AGAIN) from error
        records.check(row, kind or dict[str, Any], place, AGAIN)
        if kind and rows and row["step"] < rows[-1]["step"]:
            raise DataError(f"{place} is of step {row['step']}, after one of {rows[-1]['step']}.", AGAIN)
        rows.append(row)
    return rows


def read_ranks(path: Path) -> dict[str, np.ndarray]:
    """rank, session, length, target: whole numbers [P] each. Raises DataError where it is missing or damaged."""
    again = write_again(path.parent)
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in ("rank", "session", "length", "target")}
    except Exception as error:  # zip and npy have many ways to fail on garbled bytes
        raise DataError(f"{path} does not hold ranks: {error}.", again) from error
    for name, array in found.items():
        if array.dtype.kind not in "iu" or array.ndim != 1 or not len(array) or len(array) != len(found["rank"]):
            shape = f"{array.dtype} {list(array.shape)}"
            raise DataError(f"{path} is damaged: {name} is {shape}, not whole numbers, one for each prefix.", again)
        if array.min() < (name == "rank") or array.max() > np.iinfo(np.int32).max:
            raise DataError(f"{path} is damaged: {name} goes from {array.min()} to {array.max()}.", again)
    return found


def test_ranks(run: Path) -> Path:
    """Where the ranks of a finished run on test are: of the epoch it chose, else of the last.

    Raises DataError where they are missing.
    """
    for which in ("best", "last"):
        if (path := run / f"ranks-test-{which}.npz").exists():
            return path
    raise DataError(
        f"{run} has no ranks of the test set (ranks-test-best.npz or ranks-test-last.npz).", write_again(run)
    )


def group_config(group: Path) -> dict[str, Any]:
    """The configuration of a group, with the defaults for what an earlier version did not write; none of it is None.

    Raises DataError where it is missing or damaged.
    """
    path, by_hand = group / "config.toml", "Put back what was there, or move the folder away."
    if re.search(f"[{STEERS}]", group.name):
        raise DataError(f"{group} is no group of runs: its name has control characters.", "Rename it.")
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if not path.exists():
            raise DataError(f"{group} is no group of runs: it has no config.toml.") from error
        raise DataError(f"{path} cannot be read: {error}.", by_hand) from error
    later = settings.keys() - {f.name for f in fields(Config)}
    if later:
        raise DataError(f"{path} is of another version: it has {', '.join(sorted(map(repr, later)))}.", by_hand)
    try:
        records.check(settings, Config, str(path), by_hand)
        config = Config(**settings)  # with whole numbers where they stand for others, as when the folder was named
        name = config.hash
    except (TypeError, UsageError) as error:
        raise DataError(f"{path} is of another version, or changed since: {error}.", by_hand) from error
    if (ends := HASHED.search(group.name)) and ends[1] != name:
        raise DataError(f"{path} has settings other than those that {group.name} is named for.", by_hand)
    return {name: value for name, value in config.to_dict().items() if value is not None}


def mark_done(run: Path) -> None:
    """The last thing that a run writes."""
    write_atomically(run / "DONE", lambda file: None)


def is_done(run: Path) -> bool:
    return os.path.exists(run / "DONE")  # False, too, for a folder that may not be read


def run_path(group: Path, seed: int, variant: str = FULL) -> Path:
    return (group if variant == FULL else group / variant) / f"s{seed}"


def group_runs(group: Path, variant: str = FULL) -> list[Path]:
    """The seed folders of a variant, by seed, finished or not."""
    parent = group if variant == FULL else group / variant
    runs = [path for path in parent.glob("s*") if re.fullmatch(r"s\d+", path.name) and path.is_dir()]
    return sorted(runs, key=lambda path: int(path.name[1:]))


def variants(group: Path) -> list[str]:
    """`full` and the `without-<role>` folders that hold runs."""
    reduced = sorted(path.name for path in group.glob("without-*") if path.is_dir() and path.name.isprintable())
    return [v for v in (FULL, *reduced) if group_runs(group, v)]


def place_of(run: Path) -> tuple[str, int]:
    """(variant, seed) of a run folder, by its place in the group. Raises DataError where it is none."""
    match = RUN.fullmatch(run.name)
    if match is None:
        raise DataError(f"{run} is no run: a run is a folder like <group>/s1.")
    reduced = run.parent.name.startswith("without-") and not (run.parent / "config.toml").exists()
    return (run.parent.name if reduced else FULL), int(match[1])


def group_of(run: Path) -> Path:
    """The group that a run folder lies in."""
    return run.parent if place_of(run)[0] == FULL else run.parent.parent


def find_groups(runs_dir: Path | str) -> list[Path]:
    """The groups of a runs folder, oldest first (by when the configuration was written)."""
    found = [path.parent for path in Path(runs_dir).glob("*/config.toml")]
    return sorted(found, key=lambda group: ((group / "config.toml").stat().st_mtime_ns, group.name))


def left_out(error: DataError) -> None:
    """Say on stderr what is damaged and therefore left out."""
    print(shown_lines(f"Left out: {error.message} {error.hint}".rstrip()), file=sys.stderr)


def leave_out(damaged: list[DataError], is_all: bool) -> None:
    """Say what is damaged and left out; raises the first where that `is_all` there is."""
    if damaged and is_all:
        raise damaged[0]
    for error in damaged:
        left_out(error)


def _sound_config(group: Path) -> dict[str, Any] | None:
    """The configuration of a group; None where it is damaged, which is said."""
    try:
        return group_config(group)
    except DataError as error:
        left_out(error)
        return None


def newest_sound_group(runs_dir: Path | str, dissected: bool = False) -> Path | None:
    """The group begun last, or the `dissected` one, whose configuration can be read; None where there is none."""
    for group in reversed(find_groups(runs_dir)):
        config = _sound_config(group)
        if config and not (dissected and config["where"] == "none"):
            return group
    return None


def newest_group(runs_dir: Path | str, dissected: bool = False) -> Path:
    """The same. Raises UsageError where there is none."""
    group = newest_sound_group(runs_dir, dissected)
    if group is None:
        kind = "dissected models" if dissected and find_groups(runs_dir) else "runs"
        raise UsageError(f"There are no {kind} in {runs_dir}.", "Make one: dissect run")
    return group


def resolve_group(name: Path | str, runs_dir: Path | str) -> Path:
    """A group by its path, its name, or the unique beginning of its name. Raises UsageError with near names."""
    for path in (Path(name), Path(runs_dir) / name):
        if os.path.exists(path / "config.toml"):
            return path
    groups = {group.name: group for group in find_groups(runs_dir)}
    begins = [group for known, group in groups.items() if known.startswith(str(name))]
    if len(begins) > 1:  # what is damaged is not meant
        begins = [group for group in begins if _sound_config(group)] or begins
    if len(begins) == 1:
        return begins[0]
    if begins:
        raise UsageError(f"{str(name)!r} is the beginning of several groups.", ", ".join(g.name for g in begins))
    raise unknown("group", str(name), groups)


def resolve_runs(name: Path | str, runs_dir: Path | str) -> list[Path]:
    """The runs that a name stands for: one run (<group>/s1, <group>/without-<role>/s1), or all of a group.

    The group is named as in `resolve_group`. Raises UsageError where there is none, with what there is.
    """
    path, inner = Path(name), list[str]()
    if path.name in ("", ".."):  # the folder one stands in
        path = path.resolve()
    while RUN.fullmatch(path.name) or path.name.startswith("without-"):
        if any(os.path.exists(folder / "config.toml") for folder in (path, Path(runs_dir) / path)):
            break
        inner.insert(0, path.name)
        path = path.parent if path.parent.name else path.parent.resolve()
    group = resolve_group(path, runs_dir)
    here = [run for variant in variants(group) for run in group_runs(group, variant)]
    found = [run for run in here if list(run.relative_to(group).parts[: len(inner)]) == inner]
    if not found and inner and RUN.fullmatch(inner[-1]) and group.joinpath(*inner).is_dir():
        found = [group.joinpath(*inner)]  # one that was set aside
    if not found and inner:
        raise unknown(f"run in {group}", "/".join(inner), (str(run.relative_to(group)) for run in here))
    return found


def resolve_run(name: Path | str, runs_dir: Path | str) -> Path:
    """One run by its name; for a group, its only run of the full model. Raises UsageError where there are several."""
    found = resolve_runs(name, runs_dir)
    full = [run for run in found if place_of(run)[0] == FULL]
    if len(found) == 1 or len(full) == 1:
        return (full or found)[0]
    if not found:
        raise UsageError(f"{name} has no run yet.", "Make one: dissect run")
    raise UsageError(f"{name} holds several runs.", f"Name one of them: {', '.join(map(str, found))}")
