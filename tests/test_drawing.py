"""Figures by name: what Python draws is what `dissect plot` writes, and the registry is all that there is."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from analyses.density import in_order, over_training
from dissect.cli import main, plot
from dissect.data import catalog
from dissect.drawing import FIGURES, STEMS, _named_size, density, heatmap, histogram, training
from dissect.errors import DataError, UsageError
from dissect.group import Group
from dissect.runs import folders
from dissect.runs.config import Config
from dissect.runs.files import write_toml
from figures import lines
from tests.test_shadowed import GOOD, SIZES, make_group


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A dissected group with a reduced model, four steps each, and second opinions; beside it another KL weight."""
    root = tmp_path_factory.mktemp("drawn")
    words = ["run", "--dataset", "demo", "--max-steps", "4", "--dim", "4", "--device", "cpu", "--quiet", "--json"]
    words += ["--runs-dir", str(root / "runs")]
    for more in (["--without", "propagation"], ["--kl-weight", "2"], []):
        result = CliRunner().invoke(main, [*words, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
    found = folders.find_groups(root / "runs")[0]
    result = CliRunner().invoke(main, ["opinions", str(found), "--prefixes", "30", "--quiet"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return found


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


QUICK = {"density", "training", "data"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in FIGURES])
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


def test_a_file_of_somebody_else_is_not_overwritten(typed, tmp_path):
    (tmp_path / "data.csv").write_text("mine\n")
    (tmp_path / "data.txt").write_text("of mine\n")
    code, _, err = typed("plot", "data", "demo", "--out", ".")
    assert code == 2 and "data.csv is not replaced: it is of no figure" in err and "--out" in err
    assert (tmp_path / "data.csv").read_text() == "mine\n" and not (tmp_path / "data.pdf").exists()
    for _ in range(2):  # a figure of ours is drawn again
        assert typed("plot", "data", "demo", "--out", "figures")[0] == 0


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


def test_a_caption_of_two_panels_says_what_only_one_of_them_has(group, tmp_path):
    config = replace(Config(**folders.group_config(group)), average=0.0)
    plain = tmp_path / f"srgnn-demo-{config.hash}"
    shutil.copytree(group, plain)
    write_toml(plain / "config.toml", config.to_dict())
    says = density(group, beside=plain, module="gnn")[0].caption
    assert "from 60 % of the steps on, in one panel: averaged weights" in says
    assert "thin and shaded: the shadow of each matrix" in says  # both have them


def test_two_groups_stand_side_by_side(group, tmp_path):
    other = folders.newest_group(group.parent)
    drawn = density(group, beside=other, module="gnn", x="step")
    assert [drawing.name for drawing in drawn] == [f"figure3-density-gnn-{group.name[-8:]}-{other.name[-8:]}"]
    table, alone = drawn[0].table, [density(each, module="gnn")[0].table for each in (group, other)]
    assert list(table["group"].unique()) == [str(group), str(other)]
    for each, (_, part) in zip(alone, table.groupby("group", sort=False)):
        assert part.drop(columns="group").reset_index(drop=True).equals(each)
    assert "KL weight 2, 4 steps" in drawn[0].caption and len(drawn[0].figure.axes) == 2
    figure = Group(group).figure("density", beside=Group(other), module="gnn", x="step")
    assert [axes.get_xlim() for axes in figure.axes] == [axes.get_xlim() for axes in drawn[0].figure.axes]
    typed = ["plot", "density", str(group), str(other), "--together", "--x", "step"]
    paths = CliRunner().invoke(main, [*typed, "--out", str(tmp_path)], catch_exceptions=False).stdout.split()
    assert {Path(path).stem for path in paths} == {
        f"{STEMS[name]}-{group.name[-8:]}-{other.name[-8:]}" for name in ("gnn", "readout")
    }
    assert (tmp_path / f"figure3-density-gnn-{group.name[-8:]}-{other.name[-8:]}.csv").read_text().count(
        str(other)
    ) == len(alone[1])


def test_groups_that_share_an_out_have_a_folder_each(group, tmp_path):
    other = folders.newest_group(group.parent)
    for name in ("heatmap", "opinions"):
        words = ["plot", name, str(group), str(group), "--out", str(tmp_path / "one")]
        assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    assert {path.parent for path in (tmp_path / "one").rglob("*.csv")} == {tmp_path / "one"}
    words = ["plot", "heatmap", str(group), str(other), "--out", str(tmp_path / "two")]
    paths = CliRunner().invoke(main, words, catch_exceptions=False).stdout.split()
    assert {Path(path).parent for path in paths} == {tmp_path / "two" / each.name for each in (group, other)}
    shutil.copytree(group, tmp_path / group.name)
    words = ["plot", "heatmap", str(group), str(tmp_path / group.name), "--out", str(tmp_path / "three")]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2 and "have one name" in refused.stderr and not (tmp_path / "three").exists()


def test_a_threshold_or_tau_that_the_measure_does_not_use_is_refused(group):
    for draw in (density, heatmap):
        for measure, given in (("D1", {"tau": "0.05"}), ("D2", {"threshold": 2.0}), ("D2s", {"threshold": 2.0})):
            with pytest.raises(UsageError, match=f"has no effect on measure {measure}"):
                draw(group, measure=measure, **given)
        for measure in ("D2", "D2s"):
            usual, same, other = (
                draw(group, measure=measure, **of)[0].table for of in ({}, {"tau": "0.01"}, {"tau": "0.05"})
            )
            assert usual.equals(same) and not usual.equals(other)
        refused = CliRunner().invoke(main, ["plot", draw.__name__, str(group), "--tau", "0.05"])
        assert refused.exit_code == 2 and "tau 0.05 has no effect on measure D1" in refused.stderr


def test_what_cannot_stand_side_by_side_is_refused(group, tmp_path, capsys):
    with pytest.raises(UsageError, match="given twice"):
        density(group, beside=group.parent / "." / group.name)
    other = make_group(tmp_path, threshold=4.0)
    with pytest.raises(UsageError, match=r"counts log α < 3; srgnn-x-.* counts log α < 4") as caught:
        density(group, beside=other)
    assert "--threshold" in caught.value.hint
    assert len(density(group, beside=other, threshold=3.0)) == 2
    assert density(group, beside=other, threshold=3.0, module="encoder") == []
    assert capsys.readouterr().err == ""
    for run in folders.group_runs(other):
        path = run / "density.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{line}\n" for line in lines if "gnn." not in line))
    assert [drawing.name.startswith(STEMS["readout"]) for drawing in density(group, beside=other, threshold=3.0)] == [
        True
    ]
    assert f"No figure of the GNN module: it was not dissected in {other.name}." in capsys.readouterr().err
    for words in ([str(group)], [str(group)] * 3, []):
        result = CliRunner().invoke(main, ["plot", "density", *words, "--together", "--runs-dir", str(group.parent)])
        assert result.exit_code == 2 and f"not {len(words)}" in result.stderr and "Name two" in result.stderr


def test_a_heatmap_has_every_matrix_with_its_shadow(tmp_path):
    group = make_group(tmp_path)
    (drawn,) = heatmap(group)
    order = list(drawn.table["matrix"].unique())
    assert order == [name for matrix in SIZES for name in (matrix, f"shadow.{matrix}")]
    assert (
        "mean of 3 seeds" in drawn.caption
        and "KL weight 4" in drawn.caption
        and "useless by construction" in drawn.caption
    )
    with pytest.raises(UsageError, match=r"no counts at log α = 2\.5"):
        heatmap(group, threshold=2.5)


def test_a_histogram_has_the_order_of_the_heatmap(tmp_path):
    group = make_group(tmp_path)
    (path,) = (group / "s1").glob("density.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    mixed = sorted(records, key=lambda record: (record["step"], record["matrix"][::-1]))
    path.write_text("".join(json.dumps(record) + "\n" for record in mixed))
    (map_,), (bars,) = heatmap(group), histogram(group)
    assert list(map_.table["matrix"].unique()) == list(bars.table["matrix"].unique())


def test_a_figure_says_what_is_unusual_of_a_dissection_in_words(tmp_path):
    usual = density(make_group(tmp_path), module="gnn")[0].caption
    assert "; KL weight 4;" in usual and "noise" not in usual and "prior" not in usual and "both" not in usual
    group = make_group(tmp_path / "other", noise="weight")
    assert "; KL weight 4, noise for each weight;" in density(group, module="gnn")[0].caption


def test_a_seed_that_still_trains_does_not_shift_the_figures_of_the_finished(tmp_path):
    group = make_group(tmp_path, [GOOD, GOOD, {**GOOD, "gnn.edge_in": 0.9}])
    (group / "s3" / "DONE").unlink()
    (drawn,), (two,) = density(group, module="gnn"), histogram(group)
    assert drawn.table.set_index("line")["mean"]["gnn.edge_in"] == pytest.approx(0.01)
    assert "2 seeds" in drawn.caption and "last measurement, 2 seeds" in two.caption
    for seed in (1, 2):
        (group / f"s{seed}" / "DONE").unlink()
    assert "3 seeds" in histogram(group)[0].caption  # of unfinished ones all


def test_a_histogram_says_where_it_counts(tmp_path):
    """Its bins have a width of 0.25: what is below 2.9 cannot be told from what is below 3."""
    group = make_group(tmp_path)
    at, between = (histogram(group, threshold=t)[0].caption for t in (3.0, 2.9))
    assert "below the threshold log α = 3 (dashed)" in at and "whole" not in at
    assert (
        "below the threshold log α = 3 (dashed); bins are counted whole: 3 is the upper end of that with 2.9" in between
    )


def test_moments_are_evenly_spaced_and_hold_the_last_measurement_by_then():
    steps = [*range(200), 1000]
    rows = [
        {"seed": seed, "step": step, "epoch": step / 100, "matrix": "m", "block": block, "role": "update",
         "module": "gnn", "numel": 10, "kept 3": 10 if block else seed}
        for seed in (1, 2) for step in steps for block in ("", "r")
    ]  # fmt: skip
    found = over_training(pd.DataFrame(rows), "kept 3")
    assert found["moment"].tolist() == list(range(60)) and set(found["seeds"]) == {2}
    assert found["density"].tolist() == pytest.approx([0.15] * 60)
    assert found["step"].tolist() == [min(round(1000 * k / 59), 199) for k in range(59)] + [1000]
    assert over_training(pd.DataFrame(rows).query("step < 3"), "kept 3")["step"].tolist() == [0, 1, 2]
    assert over_training(pd.DataFrame(rows).query("step == 1000"), "kept 3")["step"].tolist() == [1000]


def test_a_matrix_is_listed_by_module_then_by_role_before_its_shadow():
    of = [
        ("b", "attention", "readout"),
        ("c", "control", "control"),
        ("a1", "update", "gnn"),
        ("shadow.b", "shadow", "shadow"),
    ]
    of += [("a2", "propagation", "gnn"), ("a3", "update", "gnn")]
    assert in_order(pd.DataFrame(of, columns=["matrix", "role", "module"])) == ["b", "shadow.b", "a1", "a3", "a2", "c"]


def test_the_help_lists_every_figure_with_examples():
    shown = CliRunner().invoke(main, ["plot", "--help"]).output
    assert all(f"\n  {name} " in shown for name in FIGURES)
    for words in ("plot density GROUP1 GROUP2 --together", "plot heatmap", "plot path"):
        assert f"  dissect {words}" in shown


def test_the_name_of_a_file_is_no_folder_for_a_figure(tmp_path):
    words = ["plot", "data", "demo", "--out"]
    for name in ("op.svg", "op.PNG"):
        result = CliRunner().invoke(main, [*words, str(tmp_path / name)], catch_exceptions=False)
        assert result.exit_code == 2 and f"Name a folder: --out {tmp_path / 'op'}" in result.stderr
    assert not list(tmp_path.iterdir())
    (tmp_path / "v1.txt").mkdir()
    assert CliRunner().invoke(main, [*words, str(tmp_path / "v1.txt")], catch_exceptions=False).exit_code == 0


def test_a_group_without_runs_has_no_training_to_draw(group, tmp_path):
    empty = tmp_path / group.name
    empty.mkdir()
    (empty / "config.toml").write_bytes((group / "config.toml").read_bytes())
    with pytest.raises(DataError, match="no record of a training"):
        training(empty)


def test_counts_of_three_digits_and_a_note_above_touch_nothing():
    rows = [
        {"line": f"a long name, arm {arm}", "x": x, "seed": 1, "value": 50.0 + x + arm, "prefixes": 990 - x}
        for arm, x in itertools.product(range(5), range(1, 11))
    ]
    note = "Paper: rises with length; SR-GNN with Atten-Mixer highest"
    figure = lines.draw(lines.over_seeds(pd.DataFrame(rows)), "clicks of the session", "HR@20 (%)", "≥ 10", note)
    figure.canvas.draw()
    axes = figure.axes[0]
    texts = [*figure.texts, *axes.texts, *axes.get_xticklabels()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == 1 + 5 + 10 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(
    "size, named",
    [
        ({"dim": 64, "epochs": 30, "seeds": (1, 2, 3)}, "d64"),  # a scale
        ({"dim": 64, "epochs": 5, "seeds": [1]}, "d64-e5-s1"),
        ({"dim": 64, "epochs": 30.0, "seeds": (2, 3)}, "d64-s2-3"),
        ({"dim": 100, "epochs": 0.5, "seeds": (1,)}, "d100-e0.5-s1"),  # no scale has this width
    ],
)
def test_figures_of_another_size_have_another_name(size, named):
    """They would replace each other in one folder."""
    assert "-".join(_named_size(size)) == named
