"""Pages of the Python interface, made from the docstrings by pdoc: python docs/build_api.py FOLDER"""

import inspect
import sys
from pathlib import Path

import pdoc

import dissect

MODULES = ("dissect", "models.base")  # with the modules that dissect names


def build(folder: Path) -> None:
    """Write index.html and a page for each module."""
    for name in dissect.__all__:  # pdoc reads what a module has, and dissect imports lazily
        setattr(dissect, name, getattr(dissect, name))
    dissect.__all__.sort(key=lambda name: not inspect.isfunction(getattr(dissect, name)))  # load, run, ... come first
    pdoc.render.configure(docformat="numpy", show_source=False, footer_text=f"dissect {dissect.__version__}")
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    print(Path(sys.argv[1]) / "index.html")
