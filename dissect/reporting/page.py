"""The page of a report: the template filled, figures as SVG in it, and the file written.

The page loads nothing and runs nothing: no scripts, no links to styles, fonts or pictures, and a policy that says so.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dissect.drawing import Drawing
from dissect.errors import UsageError
from dissect.runs.replace import require_file, write_texts
from dissect.text import STEERS, shown_lines
from figures.style import SETTINGS

LARGEST = 2_000_000  # bytes of a page
REPORT = "report of dissect"
MARK = '<meta name="generator" content="dissect '  # stands near the beginning of every report
SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
POINTS = 2.0  # of the screen for a point of a figure, at most: its letters are then as large as the text
TOLERANCE = 0.15  # points
LONG = re.compile(r"-?\d+\.\d{3,}")  # a coordinate with more digits than a screen can show
STEERING = re.compile(rf"[{STEERS}\ufffe\uffff]")  # and two that XML forbids


def as_html(report: Mapping[str, Any]) -> str:
    """The HTML of a report (of `gathered`), at most LARGEST bytes.

    If it is larger, it goes without the figures of single groups, and says so. Raises UsageError if it is too large
    even then.
    """
    drawn: dict[int, Markup] = {}
    html = render(report, drawn, is_brief=False)
    if len(html.encode()) > LARGEST:
        html = render(report, drawn, is_brief=True)
    if (size := len(html.encode())) > LARGEST:
        raise UsageError(
            f"The report would have {size / 1e6:.1f} MB, and {LARGEST / 1e6:g} MB is the most.", "Name fewer groups."
        )
    return html


def render(report: Mapping[str, Any], drawn: dict[int, Markup], is_brief: bool) -> str:
    """The template filled. Every text is escaped, and shown without characters that could steer.

    `drawn` keeps the figures, so that a second filling, where they have other numbers, need not draw them again.
    """

    def picture(drawing: Drawing, name: str, label: str) -> Markup:
        if id(drawing) not in drawn:
            drawn[id(drawing)] = svg(drawing, name, label)
        return drawn[id(drawing)]

    def finalize(value: Any) -> Any:
        return shown_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    numbers = iter(range(1, 10**6))
    environment = Environment(
        loader=PackageLoader("dissect.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"number": lambda: next(numbers), "svg": picture}
    return environment.get_template("report.html.j2").render(**report, is_brief=is_brief)


def svg(drawing: Drawing, name: str, label: str) -> Markup:
    """A figure as an <svg> element for a page; its identifiers begin with `name`."""
    buffer = io.StringIO()
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser has its own fonts
        for text in drawing.figure.findobj(mpl.text.Text):
            text.set_parse_math(False)  # a $ in a name is a $
            text.set_text(STEERING.sub(lambda found: "\n" if found[0] == "\n" else "\ufffd", text.get_text()))
        drawing.figure.savefig(buffer, format="svg")
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in [
            each for each in parent if each.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style") or "}" not in each.tag
        ]:
            parent.remove(child)
    _own_names(root, name)
    for element in root.iter():
        if "d" in element.attrib:
            element.set("d", plainer(element.attrib["d"]))
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"], root.attrib["version"]
    root.attrib |= {"role": "img", "aria-label": shown_lines(label), "style": f"width:{POINTS * width:.0f}px"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # serialised from a tree: escaped


def plainer(path: str) -> str:
    """The `d` of an SVG path without digits and corners that nobody can see: a corner may move by TOLERANCE points."""
    numbers = np.array(re.findall(r"-?[\d.]+", path), dtype=float).reshape(-1, 2)
    commands = "".join(re.findall("[A-Za-z]", path))
    if not re.fullmatch("ML{20,}z?", commands):  # several lines, curves and markers stay as they are
        return LONG.sub(lambda found: f"{float(found[0]):.2f}", " ".join(path.split()))
    line = mpl.path.Path(numbers)
    line.should_simplify, line.simplify_threshold = True, TOLERANCE
    kept = line.cleaned(simplify=True)
    corners = np.asarray(kept.vertices)[np.asarray(kept.codes) != mpl.path.Path.STOP]
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in corners) + "z" * commands.endswith("z")


def _own_names(root: ElementTree.Element, name: str) -> None:
    """Identifiers that belong to this figure alone; those to which nothing refers are dropped."""
    used = set[str]()
    for element in root.iter():
        if (target := element.attrib.pop(XLINK, None)) is not None:
            element.set("href", target)
        used |= {element.get("href", "#")[1:], *re.findall(r"url\(#([^)]+)\)", " ".join(element.attrib.values()))}
    for element in root.iter():
        for attribute, value in list(element.attrib.items()):
            if attribute == "id" and value not in used:
                del element.attrib["id"]
            elif attribute == "id":
                element.set("id", f"{name}-{value}")
            elif attribute == "href":
                element.set("href", f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(attribute, value.replace("url(#", f"url(#{name}-"))


def require_ours(path: Path) -> None:
    """Raises UsageError for a path where no report may be written: another's file, or a folder."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"A report is a page of HTML, and {path} does not end in .html.", "For a PDF, print it from a browser."
        )
    require_file(path, REPORT, is_ours)


def write(html: str, path: Path) -> None:
    """Write the page; readers see the old file or the new one. Raises DissectError if the disk refuses."""
    write_texts({path: html}, REPORT, is_ours)


def is_ours(head: bytes) -> bool:
    """Whether a file begins as a report that `page` made."""
    return MARK.encode() in head
