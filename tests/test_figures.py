"""Figures show the numbers that they are given, are the same to the byte, and their labels do not collide."""

import itertools

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from figures import density, histogram
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
    axes = density.draw(values(), "gnn", "caption").axes[0]
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
        paths = save(density.draw(values(), "gnn", "caption"), tmp_path / name / "figure", shown, "words")
        assert [p.suffix for p in paths] == [".pdf", ".svg", ".png", ".csv", ".txt"]
        content.append([p.read_bytes() for p in paths])
    assert content[0] == content[1]
    assert pd.read_csv(tmp_path / "a" / "figure.csv")["mean"].tolist() == pytest.approx(shown["mean"].tolist())


def test_the_description_says_where_the_lines_end():
    words = density.describe(density.lines(values()), "gnn", "caption")
    assert "edge_in 0.625 (range over 2 seeds 0.500 to 0.750)" in words


def test_histograms_state_the_kept_share_and_what_lies_beyond():
    shares = pd.DataFrame(
        {"matrix": "m", "log_alpha": [-20.25, 0.0, 2.75, 3.0, 20.0], "share": [0.0, 0.5, 0.25, 0.05, 0.2]}
    )
    figure = histogram.draw(shares, 3.0, "caption")
    panel = figure.axes[0]
    assert panel.get_title(loc="left") == "m\n0.750 kept, 20.0% above 20"
    figure.canvas.draw()
    assert {"0%", "20%", "40%"} <= {label.get_text() for label in panel.get_yticklabels()}
    bars = {bar.get_x(): bar for bar in panel.patches if bar.get_height()}
    assert {x: bar.get_height() for x, bar in bars.items()} == {0.0: 0.5, 2.75: 0.25, 3.0: 0.05}  # the ends are no bins
    assert {to_hex(bars[x].get_facecolor()).upper() for x in (0.0, 2.75)} == {COLOURS[0]}
    assert to_hex(bars[3.0].get_facecolor()).upper() == histogram.BEYOND and bars[3.0].get_width() == 0.25
    assert panel.get_xlim()[1] > 20 and "share" in figure.get_supylabel()


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
    figure = density.draw(long, "gnn", "caption")
    figure.canvas.draw()
    right = max(text.get_window_extent().x1 for text in figure.axes[0].texts)
    assert right <= figure.bbox.x1


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
