"""The house rules: who may import whom, what every verb says of itself, what README and versions claim."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dissect
from analyses import need, shadowed, unshadowed
from dissect import errors, usual
from dissect.cli import COMMANDS, INTERRUPTED, main
from dissect.data import planted
from dissect.runs.config import CALIBRATED
from models import MODELS

ROOT = Path(__file__).resolve().parent.parent
# Every page by its path from the root; CHANGELOG.md is history, and its commands need not parse any more.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
}
LATER = {"docs/python.md", "docs/sparsevd.md"} - PAGES.keys()  # pages that others link to before they are there
HEAVY = ("torch", "numpy", "pandas", "scipy", "matplotlib", "seaborn")

# --- import arrows -----------------------------------------------------------------------------------------

OTHERS = ("models", "analyses", "figures")
# The rooms of dissect/ from the ground up: each may import those before it, and no folder lies on a circle.
MEET = (
    "drawing",
    "progress",
    "group",
    "arguments",
    "studied",
    "tables",
    "reporting",
    "api",
)  # where models, tables and figures meet
FLOORS = ("runs", "sparsevd", "data", "training", "opinions", "experiment", *MEET, "cli")
# Room -> what it may import beside the standard library and itself; None: any distribution that is not ours.
ARROWS: dict[str, tuple[str, ...] | None] = {
    "models": ("torch",),
    "analyses": ("dissect", "models", "msgspec", "numpy", "pandas", "scipy"),
    "figures": ("numpy", "pandas", "scipy", "matplotlib", "seaborn"),
    "dissect": None,
    "dissect/sparsevd": ("dissect.errors", "dissect.text", "torch"),
    # The settings of a dissection stand in one place.
    "dissect/sparsevd/protocol.py": (
        "dissect.errors",
        "dissect.text",
        "dissect.sparsevd",
        "dissect.runs.config",
        "torch",
    ),
}
# What a single function may import beside that, when it is called: path -> (function, distribution).
WHEN_CALLED = {
    "dissect/sparsevd/density.py": ("density", "pandas"),
    "dissect/sparsevd/dissected.py": ("frame", "pandas"),
    "dissect/sparsevd/rules.py": ("interval", "scipy.stats"),
    "models/dropout.py": ("dropout", "numpy"),
}


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def imported(source: str, package: str, excused: tuple[str, str] = ("", "")) -> set[str]:
    """Names that a module of `package` imports, inside functions too; `from a import b` gives a and a.b.

    `excused`: a function, and the name that it may import.
    """
    names: set[str] = set()
    tree = ast.parse(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == excused[0]]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if id(node) not in inside or alias.name != excused[1]}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return names


def barred(path: str) -> tuple[str, ...]:
    """What the file at `path` (from the root) may not import of ours: what stands above its floor."""
    parts = Path(path).parts
    if parts[0] == "analyses":
        return tuple(f"dissect.{room}" for room in (*MEET, "cli"))
    if parts[0] != "dissect" or parts[1] in ("cli", "__main__.py", "__init__.py"):
        return ()
    room = parts[1].removesuffix(".py")
    above = FLOORS[FLOORS.index(room) + 1 :] if room in FLOORS else FLOORS
    if room in MEET:
        return (*(f"dissect.{room}" for room in above), "click")
    ours = ("analyses", "figures") if parts[1] in ("training", "opinions", "experiment") else OTHERS
    return (*(f"dissect.{room}" for room in above), *ours, "click")


def forbidden_imports(path: str, source: str) -> set[str]:
    """The names that the file at `path` (from the root) may not import."""
    room = max((room for room in ARROWS if path == room or path.startswith(room + "/")), key=len)
    allowed, own = ARROWS[room], room.replace("/", ".")
    wrong = set()
    for name in imported(source, str(Path(path).parent).replace("/", "."), WHEN_CALLED.get(path, ("", ""))):
        if name.split(".")[0] in sys.stdlib_module_names:
            continue
        # `from a import b` counts as a.b where only that is allowed.
        parent_of_allowed = allowed is not None and any(a.startswith(name + ".") for a in allowed)
        fits = allowed is None or within(name, (own, *allowed)) or parent_of_allowed
        if within(name, barred(path)) or not fits:
            wrong.add(name)
    return wrong


def sources() -> list[Path]:
    return sorted(path for room in ("dissect", *OTHERS) for path in (ROOT / room).rglob("*.py"))


def test_imports_follow_the_arrows():
    found = {
        str(path.relative_to(ROOT)): forbidden_imports(path.relative_to(ROOT).as_posix(), path.read_text())
        for path in sources()
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_no_folder_lies_on_a_circle():
    """Also by way of others: a folder that imports one from which it can be reached."""
    reaches: dict[str, set[str]] = {}
    for path in sources():
        folder = str(path.parent.relative_to(ROOT)).replace("/", ".")
        for name in imported(path.read_text(), folder):
            target = next((f for f in (name, name.rpartition(".")[0]) if (ROOT / f.replace(".", "/")).is_dir()), "")
            if target and target != folder and target.split(".")[0] in ("dissect", *OTHERS) and target != "dissect":
                reaches.setdefault(folder, set()).add(target)
    for _ in reaches:  # the closure
        for targets in reaches.values():
            targets |= {far for near in list(targets) for far in reaches.get(near, ())}
    reaches.pop("dissect", None)  # its __init__ is the public face, its __main__ the command
    assert {folder for folder, targets in reaches.items() if folder in targets} == set()


@pytest.mark.parametrize(
    ("path", "line", "wrong"),
    [
        ("models/srgnn.py", "import pandas", {"pandas"}),
        ("models/srgnn.py", "from dissect import sparsevd", {"dissect", "dissect.sparsevd"}),
        ("models/srgnn.py", "from .base import lookup\nimport torch.nn.functional as F\nimport math", set()),
        ("analyses/verdict.py", "from dissect import cli, runs", {"dissect.cli"}),
        ("analyses/verdict.py", "import dissect.cli.screen", {"dissect.cli.screen"}),
        ("figures/density.py", "def draw():\n    import torch", {"torch"}),
        ("dissect/runs/files.py", "import models.base", {"models.base"}),
        ("dissect/runs/config.py", "from dissect.data import sessions", {"dissect.data", "dissect.data.sessions"}),
        ("dissect/training/loop.py", "from ..cli import main", {"dissect.cli", "dissect.cli.main"}),
        ("dissect/sparsevd/kl.py", "from dissect import runs", {"dissect.runs"}),
        ("dissect/sparsevd/kl.py", "from dissect import errors", set()),
        ("dissect/experiment/train.py", "import dissect.drawing", {"dissect.drawing"}),
        ("dissect/drawing.py", "import analyses.density, figures.density\nimport dissect.cli", {"dissect.cli"}),
        ("dissect/sparsevd/density.py", "def density():\n    import pandas", set()),
        ("dissect/sparsevd/density.py", "def density():\n    import numpy", {"numpy"}),
        ("dissect/sparsevd/density.py", "def measure():\n    import pandas", {"pandas"}),
        ("dissect/sparsevd/density.py", "import pandas", {"pandas"}),
        ("dissect/sparsevd/kl.py", "def density():\n    import pandas", {"pandas"}),
        ("dissect/group.py", "from dissect import api, drawing", {"dissect.api"}),
        ("analyses/verdict.py", "from dissect.group import Group", {"dissect.group", "dissect.group.Group"}),
        ("dissect/cli/run.py", "import figures.style, torch", set()),
    ],
)
def test_a_forbidden_arrow_is_seen(path, line, wrong):
    assert forbidden_imports(path, line) == wrong


# --- the command line --------------------------------------------------------------------------------------


def every_command() -> list[tuple[str, click.Command]]:
    """(words behind `dissect`, command), groups before what is in them."""
    found: list[tuple[str, click.Command]] = []
    context = click.Context(main)
    for verb in COMMANDS:
        command = main.get_command(context, verb)
        assert command is not None
        found.append((verb, command))
        if isinstance(command, click.Group):
            found += [(f"{verb} {name}", sub) for name, sub in command.commands.items()]
    return found


def read_command(line: str) -> None:
    """Parse a line as the shell and click would, without running it. Raises what click raises."""
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = main
    context = click.Context(main, info_name="dissect")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, sub, words = command.resolve_command(context, words)
        assert sub is not None and name is not None
        command, context = sub, click.Context(sub, info_name=name, parent=context)
    if not set(words) & {"-h", "--help", "--version"}:
        command.make_context(command.name, list(words), parent=context.parent)


def command_lines(text: str) -> list[str]:
    """The lines of a text that are calls of dissect, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [m[1] for m in re.finditer(r"^[ ]*(?:\$ )?(dissect [a-z-].*)$", joined, re.MULTILINE)]


def test_the_verbs_are_the_modules_that_have_a_command():
    modules = set()
    for path in (ROOT / "dissect" / "cli").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name == "command":
                modules.add(f"dissect.cli.{path.stem}")
    assert {module for module, _ in COMMANDS.values()} == modules, "Mend COMMANDS in dissect/cli/__init__.py."


@pytest.mark.parametrize(("words", "command"), every_command(), ids=lambda value: str(value))
def test_every_command_explains_itself(words, command):
    assert command.help and command.help.strip().endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not isinstance(parameter.type, click.Choice):
            assert parameter.help or parameter.show_default, f"{words} {parameter.opts[0]} has no help"
    if isinstance(command, click.Group):
        return
    examples = command_lines(command.epilog or command.help)
    assert any(line.startswith(f"dissect {words}") for line in examples), f"no example of {words}"
    for line in examples:
        read_command(line)
    assert f"| `dissect {words}` |" in PAGES["docs/reference.md"], f"docs/reference.md does not name {words}"


def test_help_loads_nothing_heavy():
    """In a process of its own, verb after verb: start-up is quick because nothing heavy is loaded."""
    words = [["-h"], *([verb, "-h"] for verb in COMMANDS)]
    code = (
        "import json, sys\nfrom dissect.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    main(words, standalone_mode=False)\n"
        f"    print('heavy:', *words, sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    command = [sys.executable, "-c", code, json.dumps(words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert sum(line.startswith("Usage: ") for line in lines) == len(words)
    loaded = [line for line in lines if line.startswith("heavy:")]
    assert loaded == [f"heavy: {' '.join(each)} []" for each in words]


# --- README and docs/ ---------------------------------------------------------------------------------------


def test_the_readme_is_short_and_leads_to_every_page():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 150
    pages = {page for page in PAGES if page.startswith("docs/")}
    assert {page for page in pages if f"]({page})" not in readme} == set()


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_begins_with_its_title_and_a_sentence(page):
    """The sentence says what a reader can do after the page."""
    title, empty, sentence = PAGES[page].splitlines()[:3]
    assert title.startswith("# ") and not empty
    assert re.match("[A-Z]", sentence), f"{page} begins with {sentence!r}"


@pytest.mark.parametrize("page", sorted(PAGES.keys() - {"CHANGELOG.md"}))
def test_commands_on_a_page_can_be_typed(page):
    for line in sorted(set(command_lines(PAGES[page]))):
        try:
            read_command(line.replace(" OPTION", ""))  # in docs/results, one of the options of the table below it
        except (click.ClickException, errors.UsageError) as error:
            pytest.fail(f"{page}: {line}\n{error}")


def verbs_of(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    context = click.Context(command)
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        yield from verbs_of(command.get_command(context, name), (*words, name))


@pytest.mark.parametrize("words", [*verbs_of(main)], ids=" ".join)
def test_help_fits_80_columns(words):
    help_text = CliRunner().invoke(main, [*words, "--help"], prog_name="dissect", env={"COLUMNS": "80"}).output
    assert [line for line in help_text.splitlines() if len(line) > 80] == []
    assert [line for line in command_lines(help_text) if read_command(line)] == []  # each can be typed


def test_the_help_on_the_reference_page_is_current():
    help_text = CliRunner().invoke(main, ["--help"], prog_name="dissect").output  # 80 columns wide
    page = PAGES["docs/reference.md"]
    assert f"$ dissect --help\n{help_text.rstrip()}\n```" in page, f"docs/reference.md should show:\n{help_text}"


def test_the_pages_name_models_presets_data_sets_and_exit_codes():
    presets = [name for model in MODELS.values() for name in model.presets]
    named = {"docs/models.md": [*MODELS, *presets], "docs/data.md": [*planted.BUILT_IN]}
    for page, names in named.items():
        assert [name for name in names if f"`{name}`" not in PAGES[page]] == [], page
    codes = {0, INTERRUPTED, errors.DissectError.exit_code}
    codes |= {error.exit_code for error in errors.DissectError.__subclasses__()}
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGES["docs/reference.md"], re.MULTILINE)}
    assert table == codes


# Page -> sentence with a NUMBER -> that number in the code.
NUMBERS: dict[str, dict[str, float]] = {
    "docs/comparing.md": {
        "to be able to reject, up to NUMBER\\.": usual.MOST_RESAMPLES,
        "A larger table uses NUMBER resamples": usual.RESAMPLES,
    },
    "docs/data.md": {"items with fewer than NUMBER clicks are dropped": usual.LEAST_CLICKS},
    "docs/method.md": {
        r"\(`--kl-weight`, default NUMBER\)": CALIBRATED["kl_weight"],
        "from 0 over the first NUMBER % of the steps": 100 * CALIBRATED["kl_warmup"],
        r"\| `--average` \| NUMBER \|": CALIBRATED["average"],
        r"\| `--batch-size` \| NUMBER \|": CALIBRATED["batch_size"],
    },
    "docs/opinions.md": {
        r"MRR@20 on NUMBER prefixes of the validation": usual.RANKED,
        r"opinions\(n=NUMBER, ": usual.RANKED,
        "An open gate costs NUMBER nats": usual.L0_WEIGHT,
    },
    "docs/studies.md": {
        r"`quick` \(the default: NUMBER,": usual.SCALES["quick"]["dim"],
        r"`eighth` \(NUMBER,": usual.SCALES["eighth"]["dim"],
        r"`full` \(NUMBER,": usual.SCALES["full"]["dim"],
        r"`full` \(256, NUMBER,": usual.SCALES["full"]["epochs"],
    },
    "README.md": {"With the default KL weight of NUMBER,": CALIBRATED["kl_weight"]},
    "docs/verdict.md": {
        "excess lies below NUMBER \\|": shadowed.EMPTY,
        "at least NUMBER times that of propagation": shadowed.TIMES_DENSER,
        "would keep more than NUMBER % of what": 100 * shadowed.FALSE_LIMIT,
        "`control.kl_only`, keeps more than NUMBER of": shadowed.PRUNED,
        "less than NUMBER % of the MRR@20 of the matched": 100 * shadowed.AS_GOOD,
        "no matrix keeps more than NUMBER beyond its shadow": shadowed.CLEAR,
        "density of propagation ≤ NUMBER in every seed": unshadowed.WITHERED_AT,
        r"\| > NUMBER in every seed": unshadowed.ALIVE_FROM,
        "at least NUMBER times as dense": unshadowed.TIMES_DENSER,
        "whole interval lies below NUMBER %": 100 * need.NEED_LIMIT,
        "a control keeps more than NUMBER of its weights": unshadowed.CONTROL_LIMIT,
        "the masked weights lose more than NUMBER %": 100 * (1 - unshadowed.MASKED_MRR),
    },
}


@pytest.mark.parametrize("page", NUMBERS)
def test_a_page_has_the_numbers_of_the_code(page):
    text, said = " ".join(PAGES[page].split()), NUMBERS[page]
    found = {sentence: re.findall(sentence.replace("NUMBER", r"(\d[\d,]*(?:\.\d+)?)"), text)[0] for sentence in said}
    assert {name: float(number.replace(",", "")) for name, number in found.items()} == pytest.approx(said)


def test_links_lead_somewhere():
    """Every link in Markdown: to a file that is there, and to a heading that it has."""
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)]*)\)", text):
            if "://" in target:
                continue
            path = (ROOT / page).parent.joinpath(target).resolve() if target else ROOT / page
            name = path.relative_to(ROOT).as_posix()
            assert path.exists() or name in LATER, f"{page} points to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", PAGES[name], re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{page} points to {target}#{anchor}"


def test_the_model_on_the_models_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mean_and_last.py").write_text(python_block("docs/models.md"))
    words = ["run", "--model", "mean_and_last.py:MeanAndLast", "--max-steps", "4", "--dim", "8"]
    words += ["--device", "cpu", "--json", "--quiet"]
    for more in ([], ["--without", "encoder"]):
        result = CliRunner().invoke(main, [*words, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert said["model"] == "mean_and_last.py:MeanAndLast"
    assert set(said["need"]) == {"encoder"}
    assert {"mean", "last"} <= {row["matrix"] for row in said["density"]["matrices"]}


def python_block(page: str) -> str:
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL)[0]


def test_the_code_on_the_method_page_prints_the_table_beside_it(capsys):
    exec(python_block("docs/method.md"), {})
    assert capsys.readouterr().out in PAGES["docs/method.md"]


@pytest.mark.slow
def test_the_commands_of_the_guide_run_one_after_another(tmp_path, monkeypatch):
    """Those on built-in data, with a seed and few steps, in one folder: what a reader types from page to page."""
    monkeypatch.chdir(tmp_path)
    lines = [line for page in ("getting-started", "verdict", "comparing") for line in guide(f"docs/{page}.md")]
    assert len(lines) >= 15
    for line in lines:
        words = shlex.split(line.replace("--seed 2 --seed 3", ""), comments=True)[1:]
        if words[0] in ("run", "train") and getattr(MODELS.get(words[1]), "learns", True):
            words += ["--max-steps", "4", "--dim", "8", "--device", "cpu", "--quiet"]
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.stderr}"


def guide(page: str) -> list[str]:
    """The commands of a page that need nothing but built-in data, and what commands before them have made."""
    return [line for line in command_lines(PAGES[page]) if "demo" in line]


# --- versions and sizes --------------------------------------------------------------------------------------


def test_constraints_pin_what_setup_asks_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    for text in filter(None, wanted.splitlines()):
        requirement = Requirement(text)
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} but constraints.txt has {pin}"


def test_every_import_is_declared():
    """What the packages import is in setup.cfg, among what is installed always or as an extra."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    declared = {canonicalize_name(Requirement(line).name) for text in lines for line in filter(None, text.splitlines())}
    known = {*sys.stdlib_module_names, "dissect", "models", "analyses", "figures"}
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).split(".")[0])
    assert {name for name in found - known if canonicalize_name(name) not in declared} == set()


def test_the_changelog_knows_this_version():
    headings = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert dissect.__version__ in headings or headings == ["Unreleased"]


def test_files_stay_of_a_size_to_read():
    for path in [*sources(), *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        lines = len(path.read_text().splitlines())
        assert lines <= (800 if path.parent.name == "tests" else 600), (
            f"{path.relative_to(ROOT)} has {lines} lines: is it one room with one job?"
        )
    for folder in ("dissect", *OTHERS, "tests", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert path.stat().st_size <= 600_000, f"{path.relative_to(ROOT)} is too large to keep"
