"""One table of words on screens of every width, in Markdown and in LaTeX."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissect.cli import screen
from dissect.errors import UsageError
from dissect.tables.cells import p_value, signed
from dissect.tables.results import name_and_settings
from dissect.tables.text import (
    NO_LIMIT,
    PROSE,
    Column,
    Table,
    as_text,
    by_rows,
    latex,
    to_latex,
    to_markdown,
    to_screen,
)

NASTY = r"my_model.py:A&B 100% #1 {x} ~^\\ $5 a|b *c* [d] <e> --seed"


def table_of(names):
    numbers = range(10, 10 + len(names))
    columns = (
        Column("model", names),
        Column("HR@20", [f"{n}.25" for n in numbers]),
        Column("bias of\nMRR", [f"0.{n}" for n in numbers]),
        Column("s", ["7"] * len(names)),
    )
    return Table("title", columns, ("a note of some words",))


def shown(table, width):
    return to_screen(table, width).plain.splitlines()


# --- the screen --------------------------------------------------------------------------------------------


def test_a_name_that_is_too_long_stands_above_its_numbers():
    table = table_of(["short", "a name of many words", "hyphens-are-kept-together-in-names"])
    assert shown(table, 31) == [
        "title",
        "                     bias of",
        "model         HR@20      MRR  s",
        "short         10.25     0.10  7",
        "a name of",
        "  many words  11.25     0.11  7",
        "hyphens-are-kept-together-in-names",
        "              12.25     0.12  7",
        "a note of some words",
    ]


@given(st.lists(st.text("ab -", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=4), st.integers(30, 100))
def test_every_word_is_there_at_every_width(names, width):
    lines = shown(table_of(names), width)
    flat = " ".join(" ".join(lines).split())
    for name in names:
        assert " ".join(name.split()) in flat
    assert "…" not in flat and all(f"{n}.25" in flat for n in range(10, 10 + len(names)))
    longest_word = max(len(word) for name in names for word in name.split())
    assert max(map(len, lines)) <= max(width, longest_word + 2) and all(line == line.rstrip() for line in lines)


def test_numbers_stand_below_each_other():
    for width in (24, 31, 60, NO_LIMIT):
        lines = shown(table_of(["short", "a name of many words", "b"]), width)
        assert len({re.search(r"1\d\.25", line).start() for line in lines if re.search(r"1\d\.25", line)}) == 1


def test_words_stand_to_the_left_and_numbers_to_the_right():
    table = Table("t", [Column("n", ["7"]), *(Column("name", [cell]) for cell in ("last", "?", "−1", "<0.1", ""))])
    assert shown(table, 80)[2] == "7  last     ?    −1  <0.1"
    assert to_markdown(table).splitlines()[3] == "| --- | --- | ---: | ---: | ---: | ---: |"
    assert r"{llrrrr}" in to_latex(table)


def test_columns_without_room_stand_in_further_parts_with_all_rows():
    columns = table_of(["m", "n"]).columns
    table = Table("title", [*columns[:2], Column("metric", ["HR", "MRR"], is_key=True), *columns[2:]], ["note"])
    assert shown(table, 24)[1:] == [
        "model  metric  HR@20",
        "m      HR      10.25",
        "n      MRR     11.25",
        "",
        "               bias of",
        "model  metric      MRR",
        "m      HR         0.10",
        "n      MRR        0.11",
        "",
        "model  metric  s",
        "m      HR      7",
        "n      MRR     7",
        "note",
    ]


def test_where_nothing_can_be_bold_a_star_stands_behind_it():
    best = Column("HR@20", ["9.25", "10.5"], (False, True))
    lines = as_text([Table("", [Column("model", ["a", "b"]), best], ["Percent; best in bold."])], "screen").splitlines()
    assert [line.rstrip() for line in lines] == [
        "model  HR@20",
        "a       9.25",
        "b      10.5*",
        "Percent; best with a star.",
    ]


def test_notes_are_read_as_text():
    table = Table("t", table_of([]).columns, ("word " * 100,))
    assert max(map(len, shown(table, NO_LIMIT))) <= PROSE
    assert max(map(len, shown(table, 40))) <= 40


# --- Markdown and LaTeX ------------------------------------------------------------------------------------


def unescaped(text):
    """LaTeX without its escaped characters."""
    return re.sub(r"\\[&%$#_{}]", "", text)


def test_every_letter_is_escaped():
    escaped = latex(NASTY)
    plain = re.sub(r"\\text[a-z]+\{\}|\$[^$]*\$|-\{\}-", "", unescaped(escaped))
    assert not set(plain) & set("&%$#_{}~^\\<>|") and "--" not in plain
    assert latex("[d]") == "{}[d]" and latex("*c") == "{}*c"
    table = Table("t|_", (Column("na\nme", [NASTY], [True]), Column("b", [""], [True])), ("n_",))
    markdown = to_markdown(table).splitlines()
    assert markdown[2] == "| na me | b |"
    assert len(re.findall(r"(?<!\\)\|", markdown[4])) == 3 and "\\*c\\*" in markdown[4]
    assert r"\textbf{}" not in to_latex(table) and "****" not in markdown[4]


def test_an_effect_size_is_mathematics_and_a_name_like_it_is_not():
    assert latex("Cohen's d_z: mean") == "Cohen's $d_z$: mean"
    assert latex("mod_z d_zebra") == r"mod\_z d\_zebra"


def test_the_head_of_a_latex_table_has_the_lines_of_the_screen():
    text = to_latex(table_of(["m"]))
    head = re.search(r"\\toprule\n(.*)\\midrule", text, re.DOTALL)[1]
    assert [line.strip() for line in head.splitlines() if line.strip()] == [
        r"&  & bias of &  \\",
        r"model & HR@20 & MRR & s \\",
    ]


@pytest.mark.parametrize("name", ["short", "a name that would not fit into a column of the page"])
def test_long_names_are_paragraphs(name):
    text = to_latex(table_of([name, "short"]))
    layout = re.search(r"\\begin\{tabular\}\{(.*)\}", text)[1]
    assert layout == (r"p{0.25\linewidth}rrr" if name != "short" else "lrrr")
    assert text.count(r"\raggedright") == (name != "short")


def test_a_label_can_be_referred_to():
    table = Table("t", table_of([]).columns, label="tab:my_own %{data}#1-clean")
    lines = to_latex(table).splitlines()
    assert lines[lines.index(r"  \caption{t}") + 1] == r"  \label{tab:my-own-data-1-clean}"
    assert r"\label" not in to_latex(Table("t", table_of([]).columns))


def test_numbers_as_they_are_read():
    assert [signed(v) for v in (1.234, -0.5, -0.001, np.inf)] == ["+1.23", "−0.50", "0.00", "+∞"]
    assert [p_value(p) for p in (0.0004, 0.02, 1.0)] == ["<0.001", "0.020", "1.000"]
    assert p_value(0.02, at_most=True) == "≤0.020"


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("srgnn", "srgnn-x-1a"),
        ("srgnn without propagation [1a]", "srgnn-x-1a (without propagation)"),
        ("srgnn with SparseVD in gnn (kl weight 2)", "srgnn-x-1a (with SparseVD in gnn (kl weight 2))"),
        ("srgnn (dataset x, dim 4)", "srgnn-x-1a (dataset x, dim 4)"),
    ],
)
def test_a_run_is_named_with_what_its_label_says_beyond_it(label, shown):
    assert name_and_settings("srgnn-x-1a", label, "srgnn") == shown


def test_a_table_is_written_whole_and_a_file_that_nobody_named_stays(tmp_path, capsys):
    csv, pairs = tmp_path / "t.csv", tmp_path / "t-pairs.csv"
    pairs.write_text("mine\n")

    def write(text):
        begins = "dataset,split_hash,protocol,ties"
        texts = {"": f"{begins},label\n{text}\n", "-pairs": f"{begins},other\n{text}\n"}
        screen.write([], "csv", str(csv), str, lambda: texts)

    with pytest.raises(UsageError, match=r"t-pairs\.csv is not replaced") as error:
        write("1")
    assert "--out" in error.value.hint and pairs.read_text() == "mine\n" and not csv.exists()
    pairs.unlink()
    for text in ("1", "2"):  # ours is written again
        write(text)
        assert csv.read_text().endswith(f"{text}\n") and pairs.read_text().endswith(f"{text}\n")
    screen.put("x", "/dev/null")
    assert not Path("/dev/null").is_file() and {path.name for path in tmp_path.iterdir()} == {csv.name, pairs.name}
    (tmp_path / "link.md").symlink_to(csv)
    screen.put("dataset,split_hash,protocol,ties", tmp_path / "link.md")
    assert csv.read_text() == "dataset,split_hash,protocol,ties\n" and (tmp_path / "link.md").is_symlink()


def test_a_long_table_takes_time_by_its_length_alone(monkeypatch):
    """Every row once asked every cell of a column whether all of them are numbers."""
    asked = []
    told = Column.is_number
    monkeypatch.setattr(Column, "is_number", property(lambda column: asked.append(1) or told.fget(column)))
    shown(by_rows("", ("item", "score"), [(f"item {n}", "0.5") for n in range(200)]), 80)
    assert len(asked) < 20
