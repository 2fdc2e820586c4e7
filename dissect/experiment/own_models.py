"""A user's own model: a class in a Python file, and which files may be executed.

Loading the class executes its whole file. A user who names the file in a command wants that. A run folder must not
cause it: it may come from somebody else. So the SHA-256 of every file that this user has named is kept in a folder of
the user, outside all run folders. A file that only a record names is executed only if its SHA-256 is among them.

The folder of the file is not on Python's path, and no cached bytecode is read, so that the SHA-256 identifies the code
that is executed.
"""

from __future__ import annotations

import abc
import ast
import hashlib
import importlib.util
import inspect
import os
import shlex
import sys
import textwrap
import traceback
import typing
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import platformdirs
import torch

import models
from dissect.errors import DataError, UsageError, unknown, why

# Classes that need not be identified: these, and those in the files of these packages.
PLAIN = (object, abc.ABC, typing.Generic, typing.Protocol)
INSTALLED = tuple(Path(package.__file__ or "").resolve().parent for package in (torch, models))
HOW = "--model takes path/to/file.py:ClassName."


@dataclass(frozen=True)
class ModelFile:
    """A file and the name of a class in it, not executed so far."""

    path: Path
    class_name: str
    content: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


_executed: dict[tuple[Path, str], ModuleType] = {}
_seen: dict[type, str] = {}  # the SHA-256 of the file of an imported class when it was first asked for


def read(name: str) -> ModelFile:
    """The file of `path/to/file.py:ClassName`. Raises UsageError if there is none, or no class is named."""
    path, _, class_name = name.rpartition(":") if ".py:" in name else (name, "", "")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        says = f"There is no file {path}." if missing else f"{path} cannot be read: {why(error)}."
        raise UsageError(says, HOW) from None
    if not class_name:
        classes = list[str]()
        with suppress(SyntaxError, ValueError):
            classes = [node.name for node in ast.parse(content).body if isinstance(node, ast.ClassDef)]
        given = " or ".join(f"--model {shlex.quote(f'{path}:{name}')}" for name in classes)
        raise UsageError(f"{path} does not say which class is meant.", f"{given}?" if given else HOW)
    return ModelFile(Path(path), class_name, content)


def file_of(cls: type) -> ModelFile | None:
    """The file of a class that Python has imported, which counts as named.

    None for a class in a notebook or in the script that runs: that file changes for other reasons than the class.
    Raises UsageError if the file was changed after it was imported, as far as that can be seen.
    """
    if cls.__module__ == "__main__" or not _is_in_its_module(cls):
        return None
    try:
        path = Path(inspect.getsourcefile(cls) or "")
        file = ModelFile(path, cls.__name__, path.read_bytes())
    except (OSError, TypeError):
        return None
    if _seen.setdefault(cls, file.sha256) != file.sha256 or not _has_methods_of(file, cls):
        raise UsageError(
            f"{path} was changed after Python had imported {cls.__name__} from it.",
            "Import it again: start Python anew, or importlib.reload(module).",
        )
    _note_named(file)
    return file


def _has_methods_of(file: ModelFile, cls: type) -> bool:
    """Whether the methods of a class are those of the file as it is now; yes, where an import hook rewrites them."""
    if type(getattr(sys.modules[cls.__module__], "__loader__", None)) is not SourceFileLoader:
        return True
    try:
        within = [compile(file.content, str(file.path), "exec", dont_inherit=True)]
    except (SyntaxError, ValueError):
        return False
    for code in within:
        within += [each for each in code.co_consts if isinstance(each, CodeType)]
    own = [each.__code__ for each in vars(cls).values() if inspect.isfunction(each)]
    return all(code in within for code in own if code.co_filename == str(file.path))


def sha256_of(cls: type) -> str:
    """The SHA-256 of the text of a class without a file and of its own bases, up to ours. It identifies the class.

    Raises UsageError if the text cannot be read.
    """
    own = [base for base in cls.__mro__ if base not in PLAIN and not _is_installed(base)]
    return hashlib.sha256("".join(map(_text_of, own)).encode()).hexdigest()


def _is_installed(cls: type) -> bool:
    """Whether a class stands in a file of torch or of our models. The name of its module proves nothing."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    inside = file is not None and any(Path(file).resolve().is_relative_to(folder) for folder in INSTALLED)
    return inside and _is_in_its_module(cls)


def _is_in_its_module(cls: type) -> bool:
    """Whether the module that a class names has this class, and no other, under its name."""
    return getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls


def _text_of(cls: type) -> str:
    """The text of a class in a file, or in a cell of a notebook: there inspect knows only methods, which lead to it."""
    with suppress(OSError, TypeError):
        return textwrap.dedent(inspect.getsource(cls)).rstrip() + "\n"
    for method in filter(inspect.isfunction, vars(cls).values()):
        with suppress(OSError, TypeError, SyntaxError):
            lines, at = inspect.findsource(method)
            for node in ast.walk(ast.parse("".join(lines))):
                if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                    begin = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
                    if begin <= at < (node.end_lineno or 0):
                        return textwrap.dedent("".join(lines[begin : node.end_lineno])).rstrip() + "\n"
    raise UsageError(
        f"The source text of the class {cls.__name__} cannot be read; it identifies the model of a run.",
        "Write the class into a file, or into a cell of a notebook.",
    )


def _named() -> Path:
    """The folder with an empty file for each model file that was named, called by its SHA-256."""
    return Path(os.environ.get("DISSECT_STATE") or platformdirs.user_state_dir("dissect")) / "model-files"


def was_named(file: ModelFile) -> bool:
    """Whether a command of this user has named a file with this content."""
    return (_named() / file.sha256).is_file()


def require_named(name: str, where: str) -> None:
    """Raises DataError for the model file of that name, found at `where`, if no command of this user has named it."""
    if not was_named(read(name)):
        raise DataError(
            f"{where} uses the model in {name}. It would be executed, and you have never named it in a command.",
            f"Read it first. If you trust it, name it: dissect models {shlex.quote(name)}",
        )


def _note_named(file: ModelFile) -> None:
    with suppress(OSError):  # a folder that cannot be written to: the file has to be named again each time
        _named().mkdir(mode=0o700, parents=True, exist_ok=True)
        (_named() / file.sha256).touch(mode=0o600)


def load(file: ModelFile) -> Any:
    """The class. Executes the file, once a process, and records that this user has named it.

    Raises UsageError if it cannot be executed or has no such class.
    """
    _note_named(file)
    key = file.path.resolve(), file.sha256
    if key not in _executed:
        _executed[key] = _execute(file)
    found = vars(_executed[key])
    if not inspect.isclass(found.get(file.class_name)):
        own = [n for n, v in found.items() if inspect.isclass(v) and v.__module__ == _executed[key].__name__]
        raise unknown(f"class in {file.path}", file.class_name, own)
    return found[file.class_name]


def _execute(file: ModelFile) -> ModuleType:
    # A name of its own, so that no other module is shadowed and sys.path stays as it is.
    place = os.path.abspath(file.path)
    spec = importlib.util.spec_from_file_location(f"dissect_user_model_{file.sha256[:12]}", place)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module of a class
    try:
        exec(compile(file.content, place, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise _in_words(file, error) from error
    return module


def _in_words(file: ModelFile, error: BaseException) -> UsageError:
    """The error that kept a file from being executed, with its place."""
    place = os.path.abspath(file.path)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
    where = f"{file.path}, line {lines[-1]}," if lines else str(file.path)
    if isinstance(error, SystemExit):
        hint = "Put code that should not run on import under: if __name__ == '__main__':"
        return UsageError(f"{where} calls sys.exit.", hint)
    if isinstance(error, ModuleNotFoundError) and error.name:
        top, folder = error.name.partition(".")[0], file.path.parent
        if (folder / f"{top}.py").exists() or (folder / top).is_dir():
            return UsageError(
                f"{where} imports {top}, which lies beside it: the folder of a model file is not on Python's path.",
                f"Write both into one file, or name the folder: PYTHONPATH={shlex.quote(str(folder.resolve()))}",
            )
        return UsageError(
            f"{where} imports {top}, and there is no such module.", "Install it in the environment of dissect."
        )
    return UsageError(f"{where} cannot be imported: {type(error).__name__}: {error}")
