"""Figures by name: what Python draws is what `dissect plot` writes, and the registry is all that there is."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from dissect.cli import main, plot
from dissect.data import catalog
from dissect.drawing import FIGURES, STEMS, density, training
from dissect.errors import DataError, UsageError
from dissect.runs import folders


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A dissected group with a reduced model, four steps each."""
    root = tmp_path_factory.mktemp("drawn")
    words = ["run", "--dataset", "demo", "--max-steps", "4", "--dim", "4", "--device", "cpu", "--quiet", "--json"]
    words += ["--runs-dir", str(root / "runs")]
    for more in ([], ["--without", "propagation"]):
        result = CliRunner().invoke(main, [*words, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
    return folders.newest_group(root / "runs")


def written(name, source, folder):
    """What `dissect plot NAME` writes: file name -> content."""
    words = ["plot", name, str(source), "--out", str(folder)]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return {path.name: path.read_bytes() for path in map(Path, result.stdout.split())}


def test_a_figure_is_a_command_and_its_docstring_the_help():
    assert list(plot.command.commands) == list(FIGURES)
    for name, draw in FIGURES.items():
        assert plot.command.commands[name].help == draw.__doc__.split("\n")[0]
        assert f"dissect plot {name}" in plot.command.commands[name].epilog


@pytest.mark.parametrize("name", list(FIGURES))
def test_python_draws_what_the_command_writes(group, tmp_path, name):
    source = catalog.load("demo", None) if name == "data" else group
    drawings = FIGURES[name](source)
    assert drawings and all(isinstance(drawing.figure, Figure) for drawing in drawings)
    paths = [path for drawing in drawings for path in drawing.save(tmp_path / "drawn")]
    assert {path.name: path.read_bytes() for path in paths} == written(
        name, "demo" if name == "data" else group, tmp_path / "typed"
    )
    for drawing in drawings:
        assert drawing.caption.endswith(".") and len(drawing.table) and not drawing.name.endswith(".pdf")


def test_a_density_figure_of_one_module(group):
    both = density(group)
    assert [drawing.name for drawing in both] == [STEMS["gnn"], STEMS["readout"]]
    (readout,) = density(group, module="readout")
    assert readout.table.equals(both[1].table) and "Readout module" in readout.caption
    (reduced,) = density(group, module="readout", variant="without-propagation")
    assert reduced.name == "figure4-density-readout-without-propagation"
    assert "srgnn without propagation, demo" in reduced.caption
    assert density(group, module="encoder") == []
    with pytest.raises(UsageError, match="no module named 'reedout'") as caught:
        density(group, module="reedout")
    assert "readout" in caught.value.hint


def test_a_group_without_runs_has_no_training_to_draw(group, tmp_path):
    empty = tmp_path / group.name
    empty.mkdir()
    (empty / "config.toml").write_bytes((group / "config.toml").read_bytes())
    with pytest.raises(DataError, match="no record of a training"):
        training(empty)
