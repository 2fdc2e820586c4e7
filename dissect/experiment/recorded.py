"""What a record names: the class of the model, and the data set."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from dissect.data import catalog
from dissect.data.sessions import Dataset
from dissect.errors import DataError
from dissect.experiment import own_models
from dissect.experiment.subject import Subject, find_model, subject_of
from dissect.runs.config import is_file_name
from dissect.training.rebuild import Recorded

Load = Callable[[str, str | None], Dataset]  # the data set of a name, from a data folder or the usual one


def model_of(record: Recorded, given: str | type | None = None) -> Subject:
    """The class that a run was made with: a registered one, or that of a user's file (`recorded_model`)."""
    config = record.config
    return recorded_model(config.model, config.model_source, str(record.run), record.command, given)


def recorded_model(
    name: str, source: str | None, where: str, command: Sequence[str] = (), given: str | type | None = None
) -> Subject:
    """The class that the record at `where` names: a registered one, or that of a user's file with this SHA-256.

    The file is `given`, or else the one in the command on record; or the class itself is given. Raises DataError if it
    is gone or has changed, or if only the record names it and this user never did (own_models.py). A file without its
    SHA-256 on record is never executed.
    """
    if source is None and is_file_name(name):
        raise DataError(
            f"{where} names the model {name} without the SHA-256 of its file (model_source).",
            f"Read the file first. If you trust it, name it: --model {shlex.quote(name)}",
        )
    if source is None:
        known = find_model(name)
        if given is not None and (other := find_model(given)).cls is not known.cls:
            raise DataError(f"{where} was made with {name}, not with {other.name}.", "Leave the model out.")
        return known
    if isinstance(given, type) or not is_file_name(name):
        return _given_to_python(name, source, where, given)
    named = [word.removeprefix("--model=") for word in command]
    path = given or next((word for word in named if Path(word).name == name), name)
    hint = "Name it: --model path/to/file.py:ClassName"
    if not Path(path.rsplit(":", 1)[0]).is_file():
        raise DataError(f"The run's model was {path}, and that file is not here.", hint)
    file = own_models.read(path)
    if file.sha256 != source:
        raise DataError(
            f"{path} is not the file that the run was made with: its SHA-256 begins with {file.sha256[:12]}, "
            f"that of the run's with {source[:12]}.",
            hint,
        )
    if given is None and not own_models.was_named(file):
        raise DataError(
            f"{where} uses the model in {path}. Opening the run executes that file, and you have never named it in a "
            "command.",
            f"Read it first. If you trust it, name it: --model {shlex.quote(path)}",
        )
    return subject_of(file, path)


def _given_to_python(name: str, source: str, where: str, given: str | type | None) -> Subject:
    """The same for a model that Python was given as a class: the text of the class is known, not its place."""
    if given is None:
        raise DataError(
            f"{where} was made with the class {name}, which was given to Python. No record holds its text.",
            f"In Python: dissect.open_group({where!r}, model={name}); else --model path/to/file.py:{name}",
        )
    cls = given if isinstance(given, type) else subject_of(own_models.read(given), given).cls
    if source != find_model(cls).source and source != own_models.sha256_of(cls):
        raise DataError(
            f"{cls.__name__} is not the class that {where} was made with: its text differs, or that of a class from "
            "which it derives.",
            "Give the class as it was then, or train again.",
        )
    return Subject(name, cls, source)


def data_of(record: Recorded, load: Load, data_dir: str | None = None) -> Dataset:
    """The data set of a run. Raises DataError, with both hashes, if the data set of that name has another split."""
    data = load(record.config.dataset, data_dir or _recorded_folder(record))
    require_split(data, record.config.split_hash, str(record.run))
    return data


def _recorded_folder(record: Recorded) -> str | None:
    """The data folder of the command on record; None, for the usual one, if that has this split or this has no data.

    The run may be somebody else's: nothing is fetched into a folder that only the record names.
    """
    folder, name = record.option("--data-dir"), record.config.dataset
    if folder is None or name not in catalog.names(folder):
        return None
    with suppress(DataError):  # it is not there, or damaged
        if catalog.read_record(catalog.data_root() / name)["split_hash"] == record.config.split_hash:
            return None
    return folder


def require_split(data: Dataset, split_hash: str, run: str) -> None:
    """Raises DataError, with both hashes, if a data set has another split than a run."""
    if data.split_hash != split_hash:
        raise DataError(
            f"The data set '{data.name}' is not the one of the run: its split is {data.split_hash}, "
            f"that of {run} is {split_hash}.",
            "Bring back the run's own split (data.json of the group says where it came from), or give --data-dir.",
        )
