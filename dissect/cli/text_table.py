"""A table of words that can be shown on the screen, in Markdown and in LaTeX, the same in each."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

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
    "†": r"$\dagger$",
}


LONG_NAME = 24  # letters, beyond which LaTeX breaks the name of a row
NO_LIMIT = 10_000  # the width of a file, or of a pipe
PROSE = 100  # notes are read as text: no line is longer


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False


@dataclass(frozen=True)
class Column:
    """A column of numbers, or of words; a name may have line breaks, for the screen.

    A `spare` one is left out where the screen is too narrow for all: the last of them first.
    """

    name: str
    is_number: bool = True
    spare: bool = False


@dataclass(frozen=True)
class TextTable:
    """Columns, of which the first names its row; rows as long as there are columns; notes below; a LaTeX label."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=())
    label: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows)

    def heads(self) -> list[list[str]]:
        """The names of the columns in lines, each as many as the tallest has, empty ones on top."""
        split = [column.name.split("\n") for column in self.columns]
        tall = max(map(len, split))
        return [[""] * (tall - len(lines)) + lines for lines in split]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        yield to_screen(self, options.max_width)


def to_screen(table: TextTable, width: int) -> Text:
    """Title, rows and notes in lines of at most `width`, where the numbers of a row have room in it.

    No name is cut: one that is too long for its column stands on lines of its own, above its numbers.
    """
    heads = table.heads()
    widths = [max(map(cell_len, [*head, *(row[place].text for row in table.rows)])) for place, head in enumerate(heads)]
    shown, dropped = list(range(1, len(widths))), []
    while sum(widths[i] + 2 for i in shown) > width and any(table.columns[i].spare for i in shown):
        dropped.append(max(i for i in shown if table.columns[i].spare))
        shown.remove(dropped[-1])
    room = max(0, min(widths[0], width - sum(widths[i] + 2 for i in shown)))

    def line(cells: Sequence[Cell]) -> Text:
        name, lines = cells[0], [cells[0].text]
        if cell_len(name.text) > room:
            lines = textwrap.wrap(
                name.text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
            lines.append("")
        out = Text("\n".join(lines) + " " * (room - cell_len(lines[-1])), "bold" if name.bold else "")
        for i in shown:
            gap = " " * (widths[i] - cell_len(cells[i].text))
            before, behind = (gap, "") if table.columns[i].is_number else ("", gap)
            out.append("  " + before).append(cells[i].text, "bold" if cells[i].bold else "").append(behind)
        out.rstrip()
        return out

    over = [words for words in zip(*heads) if words[0] or any(words[i] for i in shown)]
    lines = [Text(table.title, "bold"), *(line([Cell(word) for word in words]) for words in over)]
    lines += [line(row) for row in table.rows]
    notes = list(table.notes)
    if dropped:
        names = ", ".join(" ".join(heads[i]).strip() for i in sorted(dropped))
        notes.append(f"No room for: {names}. A wider screen has it, and so have --json and a file.")
    lines += [
        Text(part, "dim") for note in notes for part in textwrap.wrap(note, min(width, PROSE), break_on_hyphens=False)
    ]
    return Text("\n").join(lines)


def to_markdown(table: TextTable) -> str:
    """A pipe table under a heading in bold, the notes as paragraphs."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def text(words: str) -> str:
        return re.sub(r"([\\|*_`<\[\]])", r"\\\1", words.replace("\n", " "))

    lines = [
        f"**{text(table.title)}**",
        "",
        line([text(column.name) for column in table.columns]),
        line(["---:" if column.is_number else "---" for column in table.columns]),
        *(line([f"**{text(c.text)}**" if c.bold and c.text else text(c.text) for c in row]) for row in table.rows),
    ]
    return "\n".join([*lines, *(f"\n{text(note)}" for note in table.notes)]) + "\n"


def to_latex(table: TextTable) -> str:
    r"""A table environment for the package booktabs (\usepackage{booktabs}), the title as its caption.

    Line breaks in the names of columns are rows of the head; long names of rows are set as paragraphs.
    """
    names = [row[0].text for row in table.rows]
    is_long = max(map(len, names), default=0) > LONG_NAME
    layout = "".join("r" if column.is_number else "l" for column in table.columns)
    if is_long:
        layout = r"p{0.25\linewidth}" + layout[1:]

    def line(cells: Sequence[Cell]) -> str:
        words = [rf"\textbf{{{latex(c.text)}}}" if c.bold and c.text else latex(c.text) for c in cells]
        return "    " + (r"\raggedright " if len(cells[0].text) > LONG_NAME else "") + " & ".join(words) + r" \\"

    lines = [
        r"\begin{table}  % \usepackage{booktabs}",
        r"  \centering",
        r"  \small\setlength{\tabcolsep}{4pt}",
        rf"  \caption{{{latex(table.title)}}}",
        *([rf"  \label{{{re.sub('[^A-Za-z0-9:.-]+', '-', table.label)}}}"] if table.label else []),
        rf"  \begin{{tabular}}{{{layout}}}",
        r"    \toprule",
        *(line([Cell(word) for word in words]) for words in zip(*table.heads())),
        r"    \midrule",
        *(line(row) for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par\smallskip{{\footnotesize {latex(note)}\par}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex(words: str) -> str:
    """Words with every character escaped that means something else to LaTeX, and options (--seed) kept as typed."""
    escaped = "".join(LATEX.get(letter, letter) for letter in words.replace("\n", " ")).replace("--", "-{}-")
    escaped = re.sub(r"\bd\\_z\b", "$d_z$", escaped)  # Cohen's: the one symbol with an index
    # At the beginning of a row these would be read as belonging to the line break before it.
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped
