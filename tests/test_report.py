"""The report: one page that loads nothing, says what the verdict says, and escapes what others have named."""

import configparser
import itertools
import json
import os
import re
import shlex
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import dissect
from dissect import reporting
from dissect.cli import main
from dissect.data import catalog, planted
from dissect.drawing import Drawing, density
from dissect.errors import DataError, UsageError
from dissect.reporting import page as pages
from dissect.reporting.groups import behind
from dissect.runs import files, folders
from dissect.runs.config import LITERAL
from dissect.tables.cells import setting, share
from dissect.tables.text import NUMBER
from tests.test_shadowed import GOOD, make_group

ROOT = Path(__file__).resolve().parent.parent
VOID = {"meta", "br", "hr", "img", "input", "link", "rect", "use", "path", "wbr"}
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """A page read strictly: every element is closed in order; what it refers to is kept."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.targets, self.tags, self.words, self.attributes = [], [], [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        given = dict(attrs)
        assert len(given) == len(attrs), f"<{tag}> has an attribute twice"
        self.ids += [given["id"]] if "id" in given else []
        self.targets += [given[name] for name in ("href", "src", "action", "data", "srcset", "poster") if name in given]
        for value in given.values():
            self.targets += [f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", value or "")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(path):
    """A report read strictly. It is small, loads and runs nothing, and all its references lead somewhere."""
    html = Path(path).read_text()
    assert len(html.encode()) <= pages.LARGEST
    found = Page(html)
    assert len(found.ids) == len(set(found.ids))
    assert {target for target in found.targets if not target.startswith("#")} == set()
    assert {target[1:] for target in found.targets} <= set(found.ids)
    assert not {"script", "iframe", "object", "embed", "link", "img", "image", "form", "foreignobject", "base"} & set(
        found.tags
    )
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert "@import" not in html and "url(h" not in html and "javascript:" not in html
    assert "default-src 'none'" in html and '<html lang="en">' in html
    levels = [int(tag[1]) for tag in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    scoped = sum(tag == "th" for tag in found.tags)
    assert scoped == sum((tag, name) == ("th", "scope") for tag, name, _ in found.attributes)
    pictures = [value for tag, name, value in found.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(pictures) == sum((tag, name, value) == ("svg", "role", "img") for tag, name, value in found.attributes)
    assert all(pictures)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", html)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with runs of a few steps on a small data set: a dissection with a reduced model, and a dense one."""
    root = tmp_path_factory.mktemp("reported")
    demo = planted.generate("demo")
    tiny = dissect.Dataset("tiny", demo.n_items, demo.train.part(0, 200), demo.test.part(0, 60))
    catalog.save(tiny, root / "data")
    usual = ["--dataset", "tiny", "--max-steps", "4", "--dim", "4", "--device", "cpu", "--quiet", "--json"]
    usual += ["--runs-dir", str(root / "runs"), "--data-dir", str(root / "data")]
    for words in (
        ["run", "--seed", "1", "--seed", "2", "--without", "propagation"],
        ["run", "--seed", "1", "--seed", "2"],
        ["run", "--seed", "1", "--kl-weight", "2"],
        ["train", "attenmixer"],
    ):
        result = CliRunner().invoke(main, [*words, *usual], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
    return root


@pytest.fixture
def copied(made, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def report(root, *words, code=0):
    """`dissect report` in a folder with runs: stdout and stderr."""
    given = ["report", *words, "--runs-dir", str(root / "runs"), "--data-dir", str(root / "data")]
    result = CliRunner().invoke(main, given, prog_name="dissect")
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def seen(made):
    """A report on a dissected and a dense group, as the command writes it."""
    out = made / "deep" / "report.html"
    assert report(made, named(made, "srgnn", 4), "attenmixer", "--out", str(out)) == (f"{out}\n", "")
    return out


def test_a_report_says_what_the_verdict_says(made, seen):
    found = read(seen)
    group = made / "runs" / named(made, "srgnn", 4)
    verdict = dissect.open_group(group).verdict()
    assert " ".join(verdict["paragraph"].split()) in found.text
    for role, given in verdict["roles"].items():
        row = (
            f"{role} {share(given['density'])} {share(given['shadow'])} {share(given['low'])} to {share(given['high'])}"
        )
        assert row in found.text
    for name in ("O1", "O2"):
        assert all(" ".join(reason.split()) in found.text for reason in verdict[name]["reasons"])
    need = verdict["need"]["propagation"]
    lost, low, high = (f"{100 * need[name]:.2f}".replace("-", "−") for name in ("loss", "low", "high"))
    assert f"loss {lost} % ({low} to {high})" in found.text
    data = json.loads((group / "data.json").read_text())
    command = shlex.join(json.loads((group / "s1" / "environment.json").read_text())["command"])
    for part in (data["split_hash"], f"{data['n_items']:,}", "not measured", "cpu", command):
        assert part in found.text
    assert "The path over the KL weight" in found.text and "Every matrix" in found.text
    assert "defaults of dissect run" in found.text and "dim = 4" in found.text
    assert found.tags.count("figure") >= 4 and found.tags.count("figure") == found.tags.count("figcaption")


def named(root, model, kl_weight):
    """The group of a model with a KL weight."""
    groups = folders.find_groups(root / "runs")
    configs = {group.name: folders.group_config(group) for group in groups}
    return next(n for n, of in configs.items() if of["model"] == model and of["kl_weight"] == kl_weight)


def test_means_in_the_comparison_are_those_of_compare(made, seen):
    text = read(seen).text
    rows = dissect.compare([named(made, "srgnn", 4), "attenmixer"], runs_dir=made / "runs")
    for row in rows.to_dict("records"):
        sd = "" if np.isnan(row["mrr@20 sd"]) else f" ± {row['mrr@20 sd']:.2f}"
        assert f"{row['label']} {row['hr@20']:.2f}" in text and f"{row['mrr@20']:.2f}{sd}" in text
    assert text.count("against the others") == 1


def test_without_a_name_the_newest_dissected_group_is_taken_and_python_writes_the_same(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, told = report(made)
    html = Path("report.html").read_text()
    group = dissect.Group(folders.newest_group(made / "runs", dissected=True))  # a dense one is newer
    assert group.path != folders.newest_group(made / "runs") and f"Group: {group.path.name} (the newest that" in told
    assert "srgnn on tiny" in html
    assert dissect.report(group, "python.html") == Path("python.html")
    same = [re.sub(r"made [\d: -]*UTC|This report: .*", "", text) for text in (html, Path("python.html").read_text())]
    assert same[0] == same[1]
    with pytest.raises(UsageError, match="named 'sed'"):
        dissect.report(group, sed=1)
    with pytest.raises(UsageError, match="groups is a list"):
        dissect.report(3)


# --- names that others have given ----------------------------------------------------------------------------------


def test_names_from_files_are_escaped_in_text_and_in_figures(tmp_path):
    matrix = "gnn.<script>x</script>"  # short enough for a figure
    group = make_group(tmp_path / "runs")
    for run in folders.group_runs(group):
        path = run / "density.jsonl"
        path.write_text(path.read_text().replace("gnn.edge_in", matrix))
    steers = "a\x1b[31m\u202eb\x00"
    record = {
        "name": EVIL,
        "split_hash": f'"><img src=x onerror="alert(1)">{steers}',
        "provenance": {EVIL: {"f": steers}},
    }
    files.write_json(group / "data.json", record)
    environment = {"command": ["dissect", "run", "--model", f"{EVIL}{steers}"], "processor": EVIL, "started": EVIL}
    files.write_json(group / "s1" / "environment.json", environment)
    odd = group.with_name(f"{EVIL.replace('/', '')} & 'co'")
    shutil.move(group, odd)
    claims = [{"title": EVIL, "text": steers, "answer": EVIL, "table": pd.DataFrame({EVIL: [EVIL, "$x^$"]})}]
    found = read(dissect.report(odd, tmp_path / "r.html", claims=claims))
    html = (tmp_path / "r.html").read_text()
    assert html.count("&lt;script&gt;alert(1)") >= 8 and "<script" not in html
    assert "\\x1b[31m\\u202eb\\x00" in html
    figures = re.findall(r"<svg [^>]*role=\"img\".*?</svg>", html, re.DOTALL)
    assert figures and any("&lt;script&gt;x&lt;/script&gt;" in figure for figure in figures)
    assert odd.name in found.text


def test_a_figure_takes_odd_letters_as_they_are():
    """No mathematics between dollars, no letter that XML forbids, no warning for a letter that the font lacks."""
    figure = mpl.figure.Figure(figsize=(2, 1))
    for place, text in enumerate(("$x^$", "a\x00b\x1b\ufffe", "会话", "<b>&", "one\ntwo", "$1 and $2")):
        figure.text(0, place / 6, text)
    axes = figure.add_axes((0.1, 0.1, 0.5, 0.5))
    axes.plot([0, 1], [0, 5])  # what is clipped refers to a clip path
    drawn = Drawing("x", figure, "", pd.DataFrame())
    twice = [str(pages.svg(drawn, name, "a \x07 label")) for name in ("f1", "f2")]
    for name, text in zip(("f1", "f2"), twice):
        found = Page(text)
        assert found.ids and all(each.startswith(f"{name}-") for each in found.ids)
        assert {target[1:] for target in found.targets} == set(found.ids)
        assert "$x^$" in found.text and "会话" in found.text and "<b>&" in found.text and "$1 and $2" in found.text
        assert "a\ufffdb" in found.text and "style" not in found.tags and "metadata" not in found.tags
        assert "\\x07" in text and not re.search(r"\d\.\d{3}", " ".join(re.findall(r' d="([^"]*)"', text)))


def distance(point, corners):
    """From a point to a line of several corners."""
    found = []
    for a, b in itertools.pairwise(corners):
        length = ((b - a) ** 2).sum()
        share = np.clip(((point - a) * (b - a)).sum() / length, 0, 1) if length else 0
        found.append(np.hypot(*(point - a - share * (b - a))))
    return min(found)


def test_a_line_without_needless_corners_lies_where_it_was():
    x = np.linspace(0, 100, 300)
    y = 50 + 30 * np.sin(x / 9) + 0.02 * np.cos(40 * x)
    for close in ("", " z"):
        path = "M " + " L ".join(f"{a:.6f} {b:.6f}" for a, b in zip(x, y)) + close
        short = pages.plainer(path)
        corners = np.array(re.findall(r"-?[\d.]+", short), float).reshape(-1, 2)
        assert len(corners) < 120 and len(short) < 0.3 * len(path) and short.endswith("z") == bool(close)
        assert max(distance(point, corners) for point in zip(x, y)) < 1.5 * pages.TOLERANCE
        assert corners[0] == pytest.approx([x[0], y[0]], abs=0.01) and corners[-1] == pytest.approx(
            [x[-1], y[-1]], abs=0.2
        )
    assert pages.plainer("M 1.234567 2 \nL -3.999 4 M 5 6 L 7 8") == "M 1.23 2 L -4.00 4 M 5 6 L 7 8"
    assert pages.plainer("M 0 0 C 1.00001 1 2 2 3 3 z") == "M 0 0 C 1.00 1 2 2 3 3 z"


# --- what cannot be read, found or written -------------------------------------------------------------------------


def test_a_damaged_seed_is_named_and_the_others_count(copied, tmp_path, monkeypatch):
    group = copied / "runs" / named(copied, "srgnn", 4)
    (group / "s2" / "summary.json").write_text("{")
    (group / "s1" / "environment.json").write_text("[1]")
    _, warned = report(copied, group.name, "--out", str(tmp_path / "r.html"))
    text = read(tmp_path / "r.html").text
    box = text[text.index("Not everything could be read") :]
    for lost in (group / "s2" / "summary.json", group / "s1" / "environment.json"):
        assert str(lost) in box and warned.count(f"Left out: {lost}") == 1
    assert "1 damaged" in text and "unreadable" in text and "full, seed 1" in text and "full, seed 2" not in text
    monkeypatch.chdir(copied)  # paths are said as they were given, so each once
    warned = CliRunner().invoke(main, ["report", group.name, "--out", str(tmp_path / "r.html")]).stderr
    assert warned.count("summary.json cannot be read") == 1


def test_if_nothing_can_be_read_there_is_no_report(copied, tmp_path):
    group = copied / "runs" / named(copied, "srgnn", 4)
    other = copied / "runs" / named(copied, "srgnn", 2)
    text = (group / "config.toml").read_text()
    (group / "config.toml").write_text("model = ")
    _, warned = report(copied, group.name, "--out", str(tmp_path / "r.html"), code=3)
    assert (
        f"Nothing of {group} can be read" in warned and "config.toml" in warned and not (tmp_path / "r.html").exists()
    )
    report(copied, group.name, other.name, "--out", str(tmp_path / "r.html"))  # the other one can
    assert str(group / "config.toml") in read(tmp_path / "r.html").text
    (group / "config.toml").unlink()
    _, warned = report(copied, group.name, "--out", str(tmp_path / "n.html"), code=3)
    assert "it has no config.toml" in warned
    (group / "config.toml").write_text(text)
    for run in group.rglob("DONE"):
        run.unlink()
    _, warned = report(copied, group.name, "--out", str(tmp_path / "n.html"), code=3)
    assert "has no finished seed" in warned and "dissect resume" in warned


def test_unknown_names_are_refused_with_near_ones(made, tmp_path):
    for name, near in (
        ("tabel2", "table2"),
        ("srgn-tiny", "srgnn-tiny"),
        ("attenmixer/s9", "s1"),
        ("no.toml", "no.toml"),
    ):
        _, warned = report(made, name, "--out", str(tmp_path / "r.html"), code=2)
        assert near in warned and not (tmp_path / "r.html").exists()
    _, warned = report(made, "srgnn", "--out", str(tmp_path / "r.html"), code=2)
    assert "Several groups begin with 'srgnn'" in warned


def test_only_a_report_of_ours_is_overwritten(made, tmp_path):
    out = tmp_path / "r.html"
    out.write_text("<html>my thesis</html>")
    _, warned = report(made, "attenmixer", "--out", str(out), code=2)
    assert "it is no report of dissect" in warned and out.read_text() == "<html>my thesis</html>"
    out.unlink()
    report(made, "attenmixer", "--out", str(out))
    first = out.read_text()
    report(made, "attenmixer", "--out", str(out))
    assert pages.is_ours(out.read_bytes()) and len(out.read_text()) == pytest.approx(len(first), abs=20)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    (tmp_path / "folder.html").mkdir()
    for name, says in (("r.pdf", "does not end in .html"), ("folder.html", "is a folder")):
        _, warned = report(made, "attenmixer", "--out", str(tmp_path / name), code=2)
        assert says in warned
    if os.geteuid():  # root may write everywhere
        tmp_path.chmod(0o500)
        _, warned = report(made, "attenmixer", "--out", str(tmp_path / "x.html"), code=1)
        assert "--out" in warned


def test_a_page_that_is_too_large_goes_without_the_figures_of_groups(tmp_path, monkeypatch):
    found = reporting.gathered([make_group(tmp_path)])
    whole = pages.as_html(found)
    monkeypatch.setattr(pages, "LARGEST", len(whole.encode()) - 1)
    brief = pages.as_html(found)
    assert "<figure" in whole and "To keep the page small" not in whole
    assert "<figure" not in brief and "To keep the page small" in brief and "Every matrix" in brief
    monkeypatch.setattr(pages, "LARGEST", 1000)
    with pytest.raises(UsageError, match="MB is the most"):
        pages.as_html(found)


def test_a_brief_page_has_the_right_picture_above_each_caption(made, monkeypatch):
    """The figures of groups go, and the others get other numbers."""
    groups = [made / "runs" / named(made, "srgnn", weight) for weight in (4, 2)]
    found = reporting.gathered(groups, runs_dir=made / "runs")
    whole = pages.as_html(found)
    monkeypatch.setattr(pages, "LARGEST", len(whole.encode()) - 1)
    brief = pages.as_html(found)
    for html, has_fewer in ((whole, False), (brief, True)):
        titles = re.findall(
            r'<figure id="[^"]*">.*?aria-label="([^"]*)".*?<figcaption>(.*?)\.</figcaption>', html, re.S
        )
        assert titles and all(unescape(label) == unescape(caption) for label, caption in titles), titles
        assert (len(titles) < html.count("<details>")) and has_fewer == ("To keep the page small" in html)


def test_a_group_whose_dissection_is_not_finished_is_shown_without_a_verdict(copied, tmp_path):
    """Its dense model is: it was copied from the group with another KL weight."""
    group = copied / "runs" / named(copied, "srgnn", 4)
    for seed in (1, 2):
        (group / f"s{seed}" / "DONE").unlink()
    text = read(dissect.report(group, tmp_path / "r.html", runs_dir=copied / "runs")).text
    assert "without-sparsevd" in text and "no seed is finished" in text
    assert "not finished; MRR@20 of without-propagation" in text and "not dissected; MRR" not in text


def test_the_hint_of_a_group_without_a_finished_seed_can_be_typed(copied, tmp_path):
    group = tmp_path / "my runs" / named(copied, "srgnn", 4)
    group.mkdir(parents=True)
    shutil.copy(copied / "runs" / group.name / "config.toml", group)
    with pytest.raises(DataError, match="no finished seed that is undamaged") as error:
        dissect.report(group, tmp_path / "r.html")
    assert error.value.hint == f"Go on with it: dissect resume '{group}'"


@pytest.mark.parametrize("name", ["", "."])
def test_a_name_that_is_none_is_refused(made, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, DataError)):
        dissect.report(name, tmp_path / "r.html", runs_dir=made / "runs")


def test_what_is_left_out_is_heard_by_the_innermost_block(capsys):
    with folders.hearing() as outer:
        folders.left_out(DataError("first"))
        with folders.hearing() as inner:
            folders.left_out(DataError("second"))
        with pytest.raises(ZeroDivisionError), folders.hearing():
            1 / 0  # noqa: B018
        folders.left_out(DataError("third"))
    assert [[str(error) for error in each] for each in (outer, inner)] == [["first", "third"], ["second"]]
    assert capsys.readouterr().err == ""
    folders.left_out(DataError("fourth"))
    assert capsys.readouterr().err == "Left out: fourth\n"


# --- kinds of groups, studies and claims ---------------------------------------------------------------------------


def test_a_group_of_the_old_protocol_is_judged_by_the_old_rules(tmp_path):
    group = make_group(tmp_path / "runs", usual=LITERAL)
    text = read(dissect.report(group, tmp_path / "r.html")).text
    assert "Judged by the rules for runs without shadows" in text and "without shadows" in text
    assert "defaults of dissect run --literal" in text
    dense = make_group(tmp_path / "dense", where="none", shadows=False, select="last")
    text = read(dissect.report(dense, tmp_path / "r.html")).text
    assert "not dissected; MRR@20 17.00 %" in text and "no density record" not in text and "rules for runs" not in text
    new = make_group(tmp_path / "runs")
    assert "Judged by the rules for runs without shadows" not in read(dissect.report(new, tmp_path / "r.html")).text


def test_a_study_has_its_question_its_table_and_how_far_it_is(made, tmp_path):
    mine = tmp_path / "mine.toml"
    arms = [("pop", EVIL), ("spop", "popular & in the session"), ("sknn", "neighbours")]
    said = "".join(f"[[arm]]\nlabel = {json.dumps(label)}\nmodel = '{model}'\n" for model, label in arms)
    mine.write_text(f'question = "Is <i>it</i> better?"\n{said}')
    given = ["--dataset", "tiny", "--scale", "quick", "--seed", "1"]
    report(made, str(mine), *given, "--out", str(tmp_path / "none.html"))
    assert "0 of 3 trainings finished" in read(tmp_path / "none.html").text
    places = ["--runs-dir", str(made / "runs"), "--data-dir", str(made / "data")]
    for model in ("pop", "spop"):
        words = ["train", model, "--dataset", "tiny", "--quiet", "--json", *places]
        assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    report(made, str(mine), *given, "--out", str(tmp_path / "r.html"))
    text = read(tmp_path / "r.html").text
    for part in ("Is <i>it</i> better?", "2 of 3 trainings finished", EVIL, "popular & in the session"):
        assert part in text
    assert text.count("against the others") == 1
    ranks = next((made / "runs").glob("spop*/s1/ranks-test-*.npz"))
    kept = ranks.read_bytes()
    ranks.write_bytes(b"garbled")
    report(made, str(mine), *given, "--out", str(tmp_path / "r.html"))
    text = read(tmp_path / "r.html").text
    assert "The ranks of 1 of 2 arms of mine can be read" in text and "against the others" not in text
    ranks.write_bytes(kept)
    report(made, "pop", "--out", str(tmp_path / "pop.html"))  # what a baseline does not have is no damage
    assert "could be read" not in read(tmp_path / "pop.html").text
    _, warned = report(made, "table2", "--dataset", "elsewhere", "--out", str(tmp_path / "no.html"), code=2)
    assert "elsewhere" in warned and not (tmp_path / "no.html").exists()


def test_table_1_of_the_paper_is_a_study_too(made, tmp_path):
    report(made, "table1", "--dataset", "tiny", "--out", str(tmp_path / "r.html"))
    data = catalog.load("tiny", made / "data")
    assert f"{data.train.n_prefixes + data.test.n_prefixes:,}" in read(tmp_path / "r.html").text


def test_the_claims_of_the_paper_are_a_study_too(tmp_path):
    """Nothing of them was run: each says so, beside what the paper prints."""
    found = read(dissect.report("claims", tmp_path / "report.html", dataset="demo", runs_dir=tmp_path))
    assert "The claims of the paper, asked of demo" in found.text and found.text.count("not run") >= 20
    assert "Figure 3: Propagation of SR-GNN withers. density approaches zero" in found.text


def test_claims_of_the_caller_have_a_section(made, tmp_path):
    claims = [
        {"title": "Propagation withers", "answer": "holds", "text": "In all.", "table": pd.DataFrame({"p": [0.25]})},
        {"title": "No more"},
    ]
    found = read(dissect.report("attenmixer", tmp_path / "r.html", claims=claims, runs_dir=made / "runs"))
    assert "Claims Propagation withers ✓ holds In all. Propagation withers. p 0.25 No more" in found.text
    with pytest.raises(dissect.errors.DissectError, match="dict with a title"):
        dissect.report("attenmixer", tmp_path / "r.html", claims=["x"], runs_dir=made / "runs")
    for table in (3, "p", {"rows": []}):
        with pytest.raises(UsageError, match="table of a claim is a DataFrame"):
            dissect.report(
                "attenmixer", tmp_path / "r.html", claims=[{"title": "x", "table": table}], runs_dir=made / "runs"
            )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seeds": 1.5}, "seeds is a whole number, or a list"),
        ({"seeds": None}, "seeds is a whole number, or a list"),
        ({"claims": 3}, "claims is a list of sections"),
        ({"dataset": 3}, "dataset is the name"),
        ({"data_dir": 3}, "data_dir is the path"),
        ({"dim": "wide"}, "dim is a whole number"),
    ],
)
def test_arguments_of_another_kind_are_refused(tmp_path, given, says):
    with pytest.raises(UsageError, match=says):
        dissect.report("table1", tmp_path / "r.html", runs_dir=tmp_path, **given)


# --- numbers -------------------------------------------------------------------------------------------------------


def rows_of(table):
    return [[cell for cell, _ in row] for row in table.rows()]


def test_the_table_behind_a_figure_has_its_numbers():
    epochs = np.linspace(0, 6.6, 50)
    rows = [
        {"line": line, "step": k, "epoch": epoch, "mean": m, "low": m - 0.1, "high": m + 0.1, "seeds": 3}
        for line, start in (("a", 0.9), ("b", 0.5))
        for k, epoch in enumerate(epochs)
        for m in [start - 0.005 * k]
    ]
    found = behind(Drawing("x", None, "", pd.DataFrame(rows)))
    one, two = rows_of(found)
    assert one[:2] == ["a", "0.900"] and two[-2] == f"{0.5 - 0.005 * 49:.3f}"
    assert two[-1] == "0.155 to 0.355" and len(found.columns) == 10
    for name, first, second in list(zip((column.name for column in found.columns), one, two))[1:-1]:
        (row,) = [row for row in rows if row["line"] == "a" and f"epoch {row['epoch']:.3g}" == name]
        assert first == f"{row['mean']:.3f}" and float(second) == pytest.approx(float(first) - 0.4)
    path = [
        {
            "panel": "kept",
            "line": "x",
            "kl_weight": w,
            "mean": 1 / w,
            "low": 0,
            "high": 1,
            "seeds": 1,
            "shadow": 0.5 / w,
        }
        for w in (1, 2, 4)
    ]
    path += [{**row, "panel": "mrr@20", "line": "dissected", "mean": 15.0, "shadow": np.nan} for row in path]
    found = behind(Drawing("x", None, "", pd.DataFrame(path)))
    assert [column.name for column in found.columns] == ["line", "KL weight 1", "KL weight 2", "KL weight 4"]
    assert rows_of(found) == [
        ["kept, x", "1.000 (0.500)", "0.500 (0.250)", "0.250 (0.125)"],
        ["mrr@20, dissected", "15.00", "15.00", "15.00"],
    ]


def test_groups_side_by_side_are_not_averaged_in_the_table_behind_their_figure(tmp_path):
    one, two = make_group(tmp_path), make_group(tmp_path, {**GOOD, "gnn.edge_in": 0.4}, kl_weight=2.0)
    (drawn,) = density(one, beside=two, module="gnn")
    rows = {row[0]: row[1] for row in rows_of(behind(drawn))}
    assert rows[f"{one.name}, gnn.edge_in"] == "0.010" and rows[f"{two.name}, gnn.edge_in"] == "0.400"
    assert len(rows) == len(drawn.table)


def test_the_command_below_a_figure_draws_this_figure(made, tmp_path, monkeypatch):
    """From the same folder: with the paths of the groups, or the size and places of the study."""
    mine = tmp_path / "my lines.toml"
    mine.write_text('shows = "lines"\n[[arm]]\nlabel = "most clicks"\nmodel = "pop"\nx = 1\n')
    where = {"dataset": "tiny", "runs_dir": made / "runs", "data_dir": made / "data"}
    places = ["--runs-dir", str(made / "runs"), "--data-dir", str(made / "data")]
    words = ["study", "run", str(mine), "--dataset", "tiny", "--seed", "1", "--protocol", "paper", "--quiet", *places]
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    group = made / "runs" / named(made, "srgnn", 2)
    size = {"dim": 7, "epochs": 0.5, "seeds": (1,), "arms": ("most clicks",), "tuned": True, "protocol": "paper"}
    page = dissect.report([group, str(mine)], tmp_path / "r.html", **size, **where)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"<code>(dissect (?:plot|study) [^<]*)</code>", Path(page).read_text())
    assert {tuple(shlex.split(unescape(command))[1:3]) for command in commands} == {
        ("plot", "density"), ("plot", "path"), ("plot", "training"), ("study", "figure")
    }  # fmt: skip
    (of_study,) = [command for command in map(unescape, commands) if command.startswith("dissect study")]
    assert "--tuned" in of_study and "--arm 'most clicks'" in of_study and "--protocol paper" in of_study
    for command in map(unescape, commands):
        result = CliRunner().invoke(main, [*shlex.split(command)[1:], "--out", "drawn"])
        assert result.exit_code == 0, (command, result.output)


NUMBERS = ["", "?", "0.5", "−1.2 %", "1,234", "< 0.001", "≤ 0.006", "15.31 ± 0.15", "+0.2 [−0.1, +0.5]", "0.24 (0.06)"]


@pytest.mark.parametrize("cell", [*NUMBERS, "14 min", "0.06 / 0.16", "+∞", "1 of 3", "1 2 3"])
def test_cells_of_numbers_are_known(cell):
    assert NUMBER.fullmatch(cell)


@pytest.mark.parametrize("cell", ["full", "0.1.0", "2026-11-26 06:48", "cpu", "2.13.0+cpu", "1 run", "d1fe5af1"])
def test_cells_of_words_are_known(cell):
    assert not NUMBER.fullmatch(cell)


def test_a_setting_that_is_none_is_not_one_that_a_row_has_not():
    assert [setting(value) for value in (None, np.nan, True, 0.5, "adam")] == ["none", "", "yes", "0.5", "adam"]


def test_every_file_of_the_packages_is_packaged():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    data = {name: patterns.split() for name, patterns in setup["options.package_data"].items()}
    for room in ("dissect", "models", "analyses", "figures"):
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                package = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
                assert any(path.match(pattern) for pattern in data.get(package, ())), path


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, playwright's or the system's; without one the tests are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        for path in (None, *filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))):
            try:
                opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
            except playwright.Error:
                continue
            yield opened
            opened.close()
            return
        pytest.skip("there is no Chromium here")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "light"), (1280, "dark")])
def test_a_browser_shows_it_without_errors_and_asks_for_nothing(browser, seen, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(seen.as_uri())
    for link in page.query_selector_all("nav a"):
        link.click()
        target = page.query_selector(link.get_attribute("href"))
        assert target is not None and -2 <= target.bounding_box()["y"] < 800
    for summary in page.query_selector_all("summary"):
        summary.click()
    inside = page.evaluate("document.documentElement.scrollWidth")
    assert inside <= width, "the page is wider than the screen"
    ink, paper = page.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == "light") and abs(light[0] - light[1]) > 400
    assert page.evaluate(
        "[...document.querySelectorAll('figure svg')].every(s => s.getBoundingClientRect().width > 200)"
    )
    assert said == [] and asked == [seen.as_uri()]
    context.close()


def test_it_prints(browser, seen, tmp_path):
    page = browser.new_page()
    page.goto(seen.as_uri())
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF") and (
        tmp_path / "report.pdf"
    ).stat().st_size > 20_000
