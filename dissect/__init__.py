"""Find out which parts of a session-based recommender carry its predictions.

From Python (docs/python.md):

    data = dissect.load("demo")
    group = dissect.run("srgnn", data, seeds=(1, 2, 3))  # as `dissect run`
    group.verdict(), group.density(), group.figure("density")
    other = dissect.train("attenmixer", data)
    dissect.compare([group, other])
    dissect.study("table4", data).run().table()

Nothing of it is imported before it is used: torch and pandas take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dissect import errors, opinions, sparsevd
    from dissect.api import compare, export, load, load_export, open_group, recommend, report, run, study, train, tune
    from dissect.data.sessions import Dataset, Sessions
    from dissect.group import Group
    from dissect.runs.config import Config
    from dissect.training.record import Observer

__version__ = "0.1.0"
command: tuple[str, ...] = ()  # the command line, while one runs
__all__ = [
    "Config",
    "Dataset",
    "Group",
    "Observer",
    "Sessions",
    "compare",
    "errors",
    "export",
    "load",
    "load_export",
    "open_group",
    "opinions",
    "recommend",
    "report",
    "run",
    "sparsevd",
    "study",
    "train",
    "tune",
]

_MODULES = {
    "Config": "dissect.runs.config",
    "Dataset": "dissect.data.sessions",
    "Group": "dissect.group",
    "Observer": "dissect.training.record",
    "Sessions": "dissect.data.sessions",
    "compare": "dissect.api",
    "errors": "dissect.errors",
    "export": "dissect.api",
    "load": "dissect.api",
    "load_export": "dissect.api",
    "open_group": "dissect.api",
    "opinions": "dissect.opinions",
    "recommend": "dissect.api",
    "report": "dissect.api",
    "run": "dissect.api",
    "sparsevd": "dissect.sparsevd",
    "study": "dissect.api",
    "train": "dissect.api",
    "tune": "dissect.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'dissect' has no attribute {name!r}")
    module = importlib.import_module(_MODULES[name])
    return module if module.__name__ == f"dissect.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
