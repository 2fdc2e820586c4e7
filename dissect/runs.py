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
import shutil
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from dissect.errors import DataError, DissectError, UsageError, unknown
from dissect.locks import hold
from dissect.training.config import Config, wrong_type

SCHEMA = 1
IDENTITY = ("model", "dataset", "split_hash", "protocol", "where")  # what every configuration has
FULL = "full"
HALF_WRITTEN = re.compile(r"\..+\.[a-z0-9_]{8}")  # what `write_atomically` fills
HASHED = re.compile(r"-([0-9a-f]{8})$")  # how the name of a group ends (Config.hash)
RUN = re.compile(r"s(\d+)(\.old-\d+)?")  # the folder of a seed, or one set aside


# --- writing ---------------------------------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place: readers see the old file or the new.

    Raises DissectError, with `path` as it was, where the disk refuses.
    """
    temporary = None
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
        yield


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a record. Raises DataError where it is missing or garbled."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} is missing.", "The run has not got that far, or is not a run folder.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} should hold one JSON object.")
    return value


def read_identifiers(folder: Path, n_items: int) -> list[int | str] | None:
    """What `write_identifiers` wrote, item i at i - 1; None where it wrote nothing.

    Raises DataError unless there is one, a text or a whole number, for each of `n_items` items.
    """
    path = folder / "items.json"
    if not path.exists():
        return None
    found = read_json(path).get("identifiers")
    if not isinstance(found, list) or len(found) != n_items or not all(type(each) in (int, str) for each in found):
        raise DataError(f"{path} should name each of {n_items:,} items, by a text or a whole number.")
    return found


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; a last line that is cut off (a run that is writing) is left out.

    Raises DataError with the line number where another line is garbled.
    """
    if not path.exists():
        return []
    rows = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):  # no newline behind it: still being written
                break
            raise DataError(f"{path}, line {number}, is not JSON: {error}.") from error
    return rows


def read_ranks(path: Path) -> dict[str, np.ndarray]:
    """rank, session, length, target: int32 [P] each. Raises DataError where the file is missing or garbled."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in ("rank", "session", "length", "target")}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} does not hold ranks: {error}.") from error


def test_ranks(run: Path) -> Path:
    """Where the ranks of a finished run on test are: of the epoch it chose, else of the last.

    Raises DataError where they are missing.
    """
    for which in ("best", "last"):
        if (path := run / f"ranks-test-{which}.npz").exists():
            return path
    raise DataError(
        f"{run} has no ranks of the test set (ranks-test-best.npz or ranks-test-last.npz).",
        "Train this seed again with the same command and --force; the old run is kept aside.",
    )


def group_config(group: Path) -> dict[str, Any]:
    """The resolved configuration of a group. Raises DataError where it is missing or garbled."""
    try:
        config = tomllib.loads((group / "config.toml").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{group} is no group of runs: {error}.") from error
    by_hand = "Has it been changed by hand? Put back what was there."
    if lacking := [name for name in IDENTITY if name not in config]:
        raise DataError(f"{group / 'config.toml'} is none of a group of runs: it lacks {', '.join(lacking)}.", by_hand)
    if wrong := wrong_type(config):
        raise DataError(f"{group / 'config.toml'}: {wrong}.", by_hand)
    try:
        name = Config(**config).hash
    except (TypeError, UsageError) as error:
        raise DataError(f"{group} was written by another version, or changed since: {error}.", by_hand) from error
    if (ends := HASHED.search(group.name)) and ends[1] != name:
        raise DataError(
            f"{group / 'config.toml'} has settings other than those that {group.name} is named for.", by_hand
        )
    return config


def mark_done(run: Path) -> None:
    """The last thing that a run writes."""
    write_atomically(run / "DONE", lambda file: None)


def is_done(run: Path) -> bool:
    return (run / "DONE").exists()


def run_path(group: Path, seed: int, variant: str = FULL) -> Path:
    return (group if variant == FULL else group / variant) / f"s{seed}"


def group_runs(group: Path, variant: str = FULL) -> list[Path]:
    """The seed folders of a variant, by seed, finished or not."""
    parent = group if variant == FULL else group / variant
    runs = [path for path in parent.glob("s*") if path.is_dir() and path.name[1:].isdigit()]
    return sorted(runs, key=lambda path: int(path.name[1:]))


def variants(group: Path) -> list[str]:
    """`full` and the `without-<role>` folders that hold runs."""
    reduced = sorted(path.name for path in group.glob("without-*") if path.is_dir())
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


def newest_sound_group(runs_dir: Path | str, dissected: bool = False) -> Path | None:
    """The group begun last, or the `dissected` one, whose configuration can be read; None where there is none."""
    for group in reversed(find_groups(runs_dir)):
        try:
            is_dense = group_config(group).get("where") == "none"
        except DataError:
            continue
        if not (dissected and is_dense):
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
        if (path / "config.toml").exists():
            return path
    groups = {group.name: group for group in find_groups(runs_dir)}
    begins = [group for known, group in groups.items() if known.startswith(str(name))]
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
        if any((folder / "config.toml").exists() for folder in (path, Path(runs_dir) / path)):
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
