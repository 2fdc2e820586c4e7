"""A table of words that can be shown on the screen, in Markdown and in LaTeX, the same in each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rich.markup import escape
from rich.table import Table

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "≤": r"$\le$",
    "±": r"$\pm$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "α": r"$\alpha$",
    "θ": r"$\theta$",
}


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False


@dataclass(frozen=True)
class TextTable:
    """Columns as (name, whether numbers stand in it), rows as long as there are columns, notes below.

    A name may have line breaks, for the screen.
    """

    title: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)


def to_screen(table: TextTable) -> Table:
    """For rich; title and notes are left to the caller, since rich would fold them to the table's width."""
    shown = Table(box=None, padding=(0, 1))
    for name, is_number in table.columns:
        shown.add_column(escape(name), justify="right" if is_number else "left", no_wrap=is_number)
    for row in table.rows:
        shown.add_row(*(f"[bold]{escape(cell.text)}[/bold]" if cell.bold else escape(cell.text) for cell in row))
    return shown


def to_markdown(table: TextTable) -> str:
    """A pipe table under a heading in bold, the notes as paragraphs."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def text(words: str) -> str:
        return re.sub(r"([\\|*_`<\[\]])", r"\\\1", words.replace("\n", " "))

    lines = [
        f"**{text(table.title)}**",
        "",
        line([text(name) for name, _ in table.columns]),
        line(["---:" if is_number else "---" for _, is_number in table.columns]),
        *(line([f"**{text(c.text)}**" if c.bold and c.text else text(c.text) for c in row]) for row in table.rows),
    ]
    return "\n".join([*lines, *(f"\n{text(note)}" for note in table.notes)]) + "\n"


def to_latex(table: TextTable) -> str:
    r"""A table environment for the package booktabs (\usepackage{booktabs}), the title as its caption."""
    layout = "".join("r" if is_number else "l" for _, is_number in table.columns)

    def line(cells: list[str]) -> str:
        return "    " + " & ".join(cells) + r" \\"

    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex(table.title)}}}",
        rf"  \begin{{tabular}}{{{layout}}}",
        r"    \toprule",
        line([latex(name) for name, _ in table.columns]),
        r"    \midrule",
        *(
            line([rf"\textbf{{{latex(c.text)}}}" if c.bold and c.text else latex(c.text) for c in row])
            for row in table.rows
        ),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par\smallskip{{\footnotesize {latex(note)}\par}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex(words: str) -> str:
    """Words with every character escaped that means something else to LaTeX, and options (--seed) kept as typed."""
    escaped = "".join(LATEX.get(letter, letter) for letter in words.replace("\n", " ")).replace("--", "-{}-")
    # At the beginning of a row these would be read as belonging to the line break before it.
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped
