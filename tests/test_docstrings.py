"""The public names say what they take and what they raise, and `make docs` makes pages of it."""

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dissect
from dissect import sparsevd
from dissect.runs.config import SETTINGS
from models import base

ROOT = Path(__file__).resolve().parent.parent
# A Config has a help text for each setting; a layer has the arguments of its base class, and those of torch's.
ELSEWHERE = {dissect.Config: {each.name for each in SETTINGS} | set(dissect.Config.__dataclass_fields__)}


def members(name, thing):
    """(name, what it is) of a public function or class, and of its public methods and properties."""
    yield name, thing
    for inner, value in vars(thing).items() if inspect.isclass(thing) else ():
        function = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
        if not inner.startswith("_") and inspect.isfunction(function) and inner != "forward":  # torch's
            yield f"{name}.{inner}", function


def public():
    of_base = [name for name, thing in vars(base).items() if getattr(thing, "__module__", "") == "models.base"]
    for module, names in ((dissect, dissect.__all__), (sparsevd, sparsevd.__all__), (base, of_base)):
        for name in names:
            thing = getattr(module, name)
            if callable(thing) and not name.startswith("_"):
                yield from members(f"{module.__name__}.{name}", thing)


def parameters(thing):
    if (
        isinstance(thing, type)
        and issubclass(thing, sparsevd.VariationalLayer)
        and thing is not sparsevd.VariationalLayer
    ):
        return []
    try:
        found = inspect.signature(thing).parameters
    except ValueError:
        return []
    return [name for name in found if name not in {"self", "cls", *ELSEWHERE.get(thing, ())}]


def raised(function):
    """Names of the errors that a function's own lines raise; `unknown(...)` makes a UsageError."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    names = [ast.unparse(call.func if isinstance(call, ast.Call) else call) for call in calls]
    return {"UsageError" if name == "unknown" else name for name in names if name[:1].isupper() or name == "unknown"}


def lacking(doc, thing):
    """What a docstring does not mention."""
    missed = [name for name in parameters(thing) if not re.search(rf"\b{name}\b", doc)]
    missed += [name for name in (raised(thing) if inspect.isfunction(thing) else ()) if name not in doc]
    return [*missed, *(["a docstring"] if not doc else [])]


@pytest.mark.parametrize(("name", "thing"), [pytest.param(*each, id=each[0]) for each in public()])
def test_a_public_name_says_what_it_takes_and_raises(name, thing):
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
    assert lacking(doc or "", thing) == []


def test_what_is_missing_is_seen():
    def example(first, second=2):
        """Takes first."""
        if first:
            raise ValueError("no")

    assert lacking(inspect.getdoc(example), example) == ["second", "ValueError"]
    assert len(list(public())) > 80


@pytest.mark.slow
def test_the_pages_are_made_and_name_everything(tmp_path):
    """As `make docs` does, in a process of its own: pdoc sets names in the modules."""
    pytest.importorskip("pdoc")
    command = [sys.executable, ROOT / "docs" / "build_api.py", tmp_path / "api"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.strip() == str(tmp_path / "api" / "index.html")
    for module, page in ((dissect, "dissect.html"), (sparsevd, "dissect/sparsevd.html")):
        text = (tmp_path / "api" / page).read_text()
        assert [name for name in module.__all__ if f'id="{name}"' not in text and f"{name}.html" not in text] == []
        assert str(ROOT) not in text
    text = (tmp_path / "api" / "dissect.html").read_text()
    parts = text[text.index('id="recommend"') :]
    assert re.search(r"<h6[^>]*>Parameters</h6>.*<strong>unseen</strong>.*<h6[^>]*>Raises</h6>", parts, re.DOTALL)
    assert 'id="SessionModel.encode"' in (tmp_path / "api" / "models" / "base.html").read_text()
