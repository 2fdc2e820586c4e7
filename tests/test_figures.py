"""Figures show the numbers that they are given, are the same to the byte, and their labels do not collide."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analyses.density import over_training
from figures import density, heatmap, histogram, path
from figures.style import COLOURS, DASHES, label_ends, save, short_names, spread


def table(module="gnn"):
    rows = []
    for seed, step in itertools.product((1, 2), (0, 50, 100)):
        for matrix, block, role in (
            ("edge_in", "", "propagation"),
            ("gate_ih", "", "update"),
            ("gate_ih", "r", "update"),
            ("control.rolled", "", "control"),
        ):
            kept = 100 - step // 2 * seed // 2
            rows.append(
                {
                    "seed": seed,
                    "step": step,
                    "epoch": step / 50,
                    "matrix": matrix,
                    "block": block,
                    "role": role,
                    "module": "control" if role == "control" else module,
                    "numel": 100,
                    "kept 3": kept,
                }
            )
    return pd.DataFrame(rows)


def values(matrices=None):
    return density.by_seed(table() if matrices is None else matrices, "gnn", "kept 3")


def test_lines_are_means_and_ranges_over_seeds():
    shown = density.lines(values())
    assert set(shown["line"]) == {"edge_in", "gate_ih r", "control.rolled"}
    last = shown[(shown["line"] == "edge_in") & (shown["step"] == 100)].iloc[0]
    assert (last["low"], last["mean"], last["high"], last["seeds"]) == (0.5, 0.625, 0.75, 2)


def test_the_drawing_has_the_numbers_and_labels_of_the_table():
    shown = density.lines(values())
    axes = density.draw(density.lines(values()), "gnn", "caption").axes[0]
    drawn = [line.get_ydata().tolist() for line in axes.lines]
    for line in shown["line"].unique():
        assert shown[shown["line"] == line]["mean"].tolist() in drawn
    bands = [{tuple(point) for point in band.get_paths()[0].vertices} for band in axes.collections]
    for _, part in shown.groupby("line"):
        edges = {(row.epoch, edge) for row in part.itertuples() for edge in (row.low, row.high)}
        assert edges in bands
    assert {"edge_in", "gate_ih r", "control.rolled"} <= {text.get_text() for text in axes.texts}
    assert axes.get_ylim() == (0, 1.02)


def test_files_are_the_same_to_the_byte(tmp_path):
    shown = density.lines(values())
    content = []
    for name in ("a", "b"):
        paths = save(
            density.draw(density.lines(values()), "gnn", "caption"), tmp_path / name / "figure", shown, "words"
        )
        assert [p.suffix for p in paths] == [".pdf", ".svg", ".png", ".csv", ".txt"]
        content.append([p.read_bytes() for p in paths])
    assert content[0] == content[1]
    assert pd.read_csv(tmp_path / "a" / "figure.csv")["mean"].tolist() == pytest.approx(shown["mean"].tolist())


def test_a_figure_needs_no_locale_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr("io.text_encoding", lambda encoding, _=2: encoding or "ascii")
    shown = density.lines(values())
    drawn = density.draw(shown, "gnn", "caption")
    save(drawn, tmp_path / "figure", shown, "log α < 3")
    assert (tmp_path / "figure.txt").read_bytes() == "log α < 3\n".encode()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *_, **__: Path("/no/such").read_bytes())
    with pytest.raises(OSError):
        save(drawn, tmp_path / "figure", shown, "other words")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("matrices", "says_so"), [(8, False), (9, True)])
def test_a_figure_whose_colours_repeat_says_where_each_matrix_is_alone(matrices, says_so):
    of = table()
    copies = [of[of["matrix"] == "edge_in"].assign(matrix=f"edge_{number}") for number in range(matrices)]
    drawn = density.draw(density.lines(values(pd.concat(copies))), "gnn", "caption")
    assert any(density.MANY in text.get_text() for text in drawn.texts) == says_so


def test_the_description_says_where_the_lines_end():
    words = density.describe(density.lines(values()), "gnn", "caption")
    lines = words.splitlines()
    assert lines[1].startswith("At the start the lines lie between ") and "edge_in 0.625 (0.500 to 0.750);" in lines
    same = density.describe(density.lines(values(table().query("seed == 1"))), "gnn", "caption")
    assert "edge_in 0.750;" in same.splitlines()  # without a range of one


def shadowed():
    """The table with a shadow of each matrix, which keeps a third of what the matrix keeps."""
    own = table()
    shadows = own[own["role"] != "control"].assign(role="shadow", module="shadow")
    return pd.concat(
        [own, shadows.assign(matrix="shadow." + shadows["matrix"], **{"kept 3": shadows["kept 3"] / 3})],
        ignore_index=True,
    )


def at_end(shown, line):
    return shown[(shown["line"] == line) & (shown["step"] == 100)]["mean"].item()


def test_a_shadow_is_thin_in_the_colour_and_dashes_of_its_matrix_and_shaded_down_to_zero():
    shown = density.lines(values(shadowed().query("role != 'control'")))
    axes = density.draw(shown, "gnn", "caption").axes[0]
    drawn = {tuple(line.get_ydata()): line for line in axes.lines}
    for matrix in ("edge_in", "gate_ih r"):
        own, shadow = (drawn[tuple(shown[shown["line"] == line]["mean"])] for line in (matrix, f"shadow.{matrix}"))
        assert shadow.get_color() == own.get_color() and shadow.get_linewidth() < own.get_linewidth() / 2
        assert shadow._unscaled_dash_pattern == own._unscaled_dash_pattern
        part = shown[shown["line"] == f"shadow.{matrix}"]
        shaded = {(row.epoch, y) for row in part.itertuples() for y in (0.0, row.mean)}
        assert shaded in [{tuple(point) for point in band.get_paths()[0].vertices} for band in axes.collections]
    assert "shadow" not in " ".join(text.get_text() for text in axes.texts)


def test_two_groups_side_by_side_share_the_axis_and_the_looks_of_lines():
    left, right = density.lines(values()), density.lines(values(shadowed()))
    right["mean"] /= 2
    both = pd.concat([left.assign(group="a"), right.assign(group="b")])
    titles = {"a": "KL weight 1, 100 steps\nsrgnn", "b": "KL weight 4, 50 steps\nsrgnn"}
    figure = density.draw(both, "gnn", "caption", panels=titles)
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim()
    assert first.get_position().y0 == second.get_position().y0
    figure.canvas.draw()
    assert not any(label.get_visible() for label in second.get_yticklabels())
    for axes, shown, title in ((first, left, "KL weight 1, 100 steps"), (second, right, "KL weight 4, 50 steps")):
        words = {text.get_text() for text in axes.texts}
        assert {title, "srgnn", "edge_in", "gate_ih r", "control.rolled"} <= words
        assert {tuple(shown[shown["line"] == line]["mean"]) for line in shown["line"].unique()} <= {
            tuple(line.get_ydata()) for line in axes.lines
        }
        assert max(text.get_window_extent().x1 for text in axes.texts) <= figure.bbox.x1
    gap = second.get_tightbbox().x0 - max(text.get_window_extent().x1 for text in first.texts)
    assert gap >= 0
    looks = [
        [
            (line.get_color(), line._dash_pattern)
            for line in axes.lines
            if len(line.get_ydata()) == 3 and line.get_linewidth() > 1
        ]
        for axes in (first, second)
    ]
    assert looks[0] == looks[1] and len(looks[0]) == 2
    words = density.describe(both, "gnn", "caption", titles)
    assert "KL weight 4, 50 steps, srgnn: At the start" in words and f"edge_in {at_end(right, 'edge_in'):.3f}" in words


def test_histograms_state_the_kept_share_and_what_lies_beyond():
    shares = pd.DataFrame(
        {"matrix": "m", "log_alpha": [-20.25, 0.0, 2.75, 3.0, 20.0], "share": [0.0, 0.5, 0.25, 0.05, 0.2]}
    )
    figure = histogram.draw(shares, 3.0, "caption")
    panel = figure.axes[0]
    assert panel.get_title(loc="left") == "m\n0.750 kept, 20.0 % above 20"
    figure.canvas.draw()
    assert {"0 %", "20 %", "40 %"} <= {label.get_text() for label in panel.get_yticklabels()}
    (kept, blue), (rest, grey) = bars(panel)
    assert kept == {0.0: 0.5, 2.75: 0.25} and rest == {3.0: 0.05}  # what lies beyond the ends is no bin
    assert (blue, grey) == (COLOURS[0], histogram.BEYOND)
    assert panel.get_xlim()[1] > 20 and "share" in figure.get_supylabel()
    assert panel.get_ylim()[0] == 0


def bars(panel):
    """(left edge of a bin -> height, colour) of each set of bars."""
    return [
        (
            {edge: height for edge, height in zip(bar.get_data().edges, bar.get_data().values) if height},
            to_hex(bar.get_facecolor()).upper(),
        )
        for bar in panel.patches
    ]


def test_the_histogram_of_a_shadow_is_that_of_its_matrix_upside_down():
    own = pd.DataFrame({"matrix": "m", "log_alpha": [0.0, 4.0], "share": [0.75, 0.25]})
    shadow = pd.DataFrame({"matrix": "shadow.m", "log_alpha": [1.0, 5.0, 20.0], "share": [0.1, 0.5, 0.4]})
    control = own.assign(matrix="control.rolled")
    figure = histogram.draw(pd.concat([own, shadow, control]), 3.0, "caption")
    mirrored, alone = (panel for panel in figure.axes if panel.get_visible())
    assert bars(mirrored) == [
        ({0.0: 0.75}, COLOURS[0]),
        ({4.0: 0.25}, histogram.BEYOND),
        ({1.0: -0.1}, COLOURS[0]),
        ({5.0: -0.5}, histogram.BEYOND),
    ]
    assert mirrored.get_title(loc="left") == "m\n0.750 kept"
    assert [text.get_text() for text in mirrored.texts] == ["shadow: 0.100 kept,\n40.0 % above 20"]
    assert mirrored.get_ylim()[0] < -0.75 and alone.get_ylim()[0] == 0 and not alone.texts
    figure.canvas.draw()
    assert [label.get_text() for label in mirrored.get_yticklabels()] == ["50 %", "0 %", "50 %"]
    lowest = mirrored.transData.transform((0, -0.75))[1]
    assert mirrored.texts[0].get_window_extent().y1 <= lowest  # the words stand below the bars


def seen_over_training():
    return over_training(shadowed(), "kept 3")


def test_a_heatmap_shows_each_matrix_then_its_shadow():
    shown = seen_over_training()
    figure = heatmap.draw(shown, "caption")
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "edge_in",
        "shadow",
        "gate_ih",
        "shadow",
        "control.rolled",
    ]
    kinds = {(label.get_fontstyle(), label.get_color()) for label in axes.get_yticklabels()[1:4:2]}
    assert kinds == {("italic", heatmap.GREY)} and axes.get_yticklabels()[0].get_fontstyle() == "normal"
    cells = axes.collections[0].get_array()
    drawn = np.asarray(cells).reshape(5, -1)
    expected = shown.pivot(index="matrix", columns="moment", values="density")
    assert drawn[1].tolist() == expected.loc["shadow.edge_in"].tolist()
    assert drawn[0].tolist() == expected.loc["edge_in"].tolist() == [1.0, 0.815, 0.625]
    assert axes.collections[0].get_clim() == (0, 1) and bar.get_ylabel() == "density"
    assert {"propagation", "update", "control"} == {text.get_text() for text in axes.texts}
    assert "shadow.gate_ih" in heatmap.describe(shown, "caption")


def test_the_map_of_the_heatmap_only_darkens():
    colours = sns.color_palette(heatmap.COLOURS, 50)
    grey = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in colours]
    assert all(above > below for above, below in itertools.pairwise(grey))


def of_path():
    rows = []
    for weight, seed, (role, matrix) in itertools.product(
        (0.0, 1.0, 4.0),
        (1, 2),
        (("attention", "a"), ("attention", "b"), ("attention", ""), ("update", "c"), ("update", "")),
    ):
        kept = 1 / (1 + weight) / (seed + len(matrix))
        of = {"kl_weight": weight, "matrix": matrix, "role": role, "seed": seed, "density": kept, "shadow": kept / 4}
        rows.append({**of, "mrr@20": 10 + weight + seed, "dense": 12.0 + seed})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("by", "names"), [("role", ["attention", "update"]), ("matrix", ["a", "b", "c"])])
def test_the_path_shows_the_numbers_of_its_table(by, names):
    shown = path.lines(of_path(), by)
    kept = shown[shown["panel"] == "kept"]
    assert list(kept["line"].unique()) == names
    at_four = kept[(kept["line"] == names[0]) & (kept["kl_weight"] == 4)].iloc[0]
    values = [0.2, 0.1] if by == "role" else [0.1, 0.2 / 3]
    assert (at_four["mean"], at_four["low"], at_four["high"]) == pytest.approx(
        (np.mean(values), min(values), max(values))
    )
    assert at_four["shadow"] == pytest.approx(np.mean(values) / 4) and at_four["seeds"] == 2
    dense = shown[shown["line"] == path.DENSE]
    assert set(dense["mean"]) == {13.5} and set(dense["low"]) == {13.0} and set(dense["seeds"]) == {2}
    figure = path.draw(shown, "caption")
    upper, lower = figure.axes
    places = path.places([0.0, 1.0, 4.0])
    assert places == {0.0: 0.5, 1.0: 1.0, 4.0: 4.0}
    for axes, panel in ((upper, "kept"), (lower, "mrr@20")):
        assert axes.get_xscale() == "log" and axes.get_xticks().tolist() == [0.5, 1, 4]
        drawn = {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines}
        for _, part in shown[shown["panel"] == panel].groupby("line"):
            x = tuple(places[weight] for weight in part["kl_weight"])
            assert (x, tuple(part["mean"])) in drawn
            assert panel != "kept" or (x, tuple(part["shadow"])) in drawn
    assert [label.get_text() for label in lower.get_xticklabels()] == ["0", "1", "4"]
    assert set(names) == {text.get_text() for text in upper.texts}
    markers = {line.get_marker() for line in upper.lines} - {"None", ""}
    assert len(markers) == len(names)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    words = path.describe(shown, "caption")
    assert f"{names[0]} keeps" in words and "matched dense model: 13.50" in words


def test_labels_of_a_path_stay_beside_their_own_panel():
    many = [of_path().query("matrix == 'a'").assign(matrix=f"m{k}") for k in range(20)]
    table = pd.concat(many).assign(density=lambda t: np.where(t["kl_weight"] > 0, 0.01, 1.0), dense=15.5)
    figure = path.draw(path.lines(table, "matrix"), "caption")  # 20 lines end low, the accuracies high
    figure.canvas.draw()
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    assert len(boxes) == 22
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1 and max(box.y1 for box in boxes) <= figure.bbox.y1
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines if line.get_linewidth() > 1}
    assert len(looks) == 20


def test_a_path_without_shadows_and_matched_models_has_neither():
    shown = path.lines(of_path().assign(shadow=np.nan, dense=np.nan), "role")
    assert path.DENSE not in set(shown["line"]) and shown["shadow"].isna().all()
    upper, lower = path.draw(shown, "caption").axes
    assert len([line for line in upper.lines if line.get_marker() not in ("None", "")]) == 2
    assert [text.get_text() for text in lower.texts] == [path.DISSECTED]
    assert "shadow" not in path.describe(shown, "caption")


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_leaders_do_not_cross_and_every_label_has_one(ends):
    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    label_ends(axes, [(end, str(i), "k") for i, end in enumerate(ends)], gap=0.06, margin=-0.1)
    place = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert len(place) == len(ends)
    leaders = [line.get_ydata() for line in axes.lines if line.get_xdata()[0] != line.get_xdata()[1]]
    brackets = [line.get_ydata() for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[1]]
    for low, high in brackets:
        bundle = [end for i, end in enumerate(ends) if low < place[str(i)] < high]
        assert len(bundle) > 1 and max(bundle) - min(bundle) < 0.01
    for (a, at), (b, bt) in itertools.combinations(leaders, 2):
        assert (a - b) * (at - bt) > 0
    for i, end in enumerate(ends):
        led = [to for start, to in leaders if abs(start - end) < 0.01 and place[str(i)] == pytest.approx(to)]
        held = [low for low, high in brackets if low < place[str(i)] < high]
        assert len(led) == 1 or len(held) == 1
    for i, j in itertools.combinations(range(len(ends)), 2):
        assert ends[i] == ends[j] or (ends[i] < ends[j]) == (place[str(i)] < place[str(j)])


def test_names_lose_what_they_have_in_common():
    assert short_names(["readout.a.0", "readout.b", "control.rolled"]) == {
        "readout.a.0": "a.0",
        "readout.b": "b",
        "control.rolled": "control.rolled",
    }
    assert short_names(["a.x", "b.x"]) == {"a.x": "a.x", "b.x": "b.x"}
    assert short_names(["x" * 30])["x" * 30] == "…" + "x" * 23


def test_a_long_name_stays_in_the_figure():
    long = values(table().replace("edge_in", "encoder_of_the_last_clicks"))
    figure = density.draw(density.lines(long), "gnn", "caption")
    figure.canvas.draw()
    right = max(text.get_window_extent().x1 for text in figure.axes[0].texts)
    assert right <= figure.bbox.x1


@pytest.mark.parametrize("panels", [None, {"a": "KL weight 1, 100 steps\nsrgnn", "b": "KL weight 4, 100 steps\nsrgnn"}])
def test_the_labels_of_many_lines_do_not_collide(panels):
    edge = table().query("matrix == 'edge_in'")
    many = pd.concat([edge.assign(matrix=f"gnn.layer{k}") for k in range(24)])
    one = density.lines(values(many))
    shown = pd.concat([one.assign(group=group) for group in "ab"]) if panels else one
    figure = density.draw(shown, "gnn", "caption\ncaption", panels=panels)
    figure.canvas.draw()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) == (2 + 2 * 26 if panels else 26)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1 and min(box.y0 for box in boxes) >= 0


def test_the_labels_of_lines_that_end_at_zero_stay_near_it():
    edge = table().query("matrix == 'edge_in'").assign(**{"kept 3": lambda t: t["kept 3"] * (t["step"] < 100)})
    many = pd.concat([edge.assign(matrix=f"gnn.layer{k}") for k in range(8)])
    figure = density.draw(density.lines(values(many)), "gnn", "caption")
    figure.canvas.draw()
    heights = [text.get_position()[1] for text in figure.axes[0].texts]
    assert len(heights) == 8 and min(heights) < -0.1 and max(heights) < 0.4
    assert min(text.get_window_extent().y0 for text in figure.axes[0].texts) >= 0


def test_every_figure_of_a_group_has_a_title():
    shares = pd.DataFrame({"matrix": "m", "log_alpha": [0.0], "share": [1.0]})
    shown = path.lines(of_path(), "role")
    for figure in (heatmap.draw(seen_over_training(), "c"), histogram.draw(shares, 3, "c"), path.draw(shown, "c")):
        (caption,) = (text for text in figure.texts if text.get_text() == "c")
        (title,) = (text for text in figure.texts if text.get_fontweight() == "bold")
        figure.draw_without_rendering()
        assert figure.axes[0].get_tightbbox().y1 < caption.get_window_extent().y0 < title.get_window_extent().y0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_labels_keep_their_order_and_distance(positions):
    gap = 0.08
    placed = spread(positions, gap, 0.0, 1.0)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    for a, b in itertools.pairwise(order):
        assert placed[b] - placed[a] >= gap - 1e-9
    assert min(placed) >= -1e-9 and max(placed) <= 1 + 1e-9


def test_labels_that_have_room_stay_where_they_are():
    assert spread([], 0.1, 0, 1) == []
    assert spread([0.1, 0.5, 0.9], 0.1, 0, 1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.9, 0.5, 0.1], 0.5, 0, 0.8) == pytest.approx([1.0, 0.5, 0.0])  # no room: from below
    assert spread([0.0, 0.0, 0.9], 0.1, 0, 1) == pytest.approx([0.0, 0.1, 0.9])


def test_every_colour_has_a_line_style():
    assert len(COLOURS) == len(DASHES) == len(set(DASHES)) == len(set(COLOURS))
