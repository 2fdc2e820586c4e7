"""Tables as text: the same on the screen, in Markdown and in LaTeX."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

LATEX = {letter: "\\" + letter for letter in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {letter: f"${letter}$" for letter in "<>|"} | {"−": "$-$"}
LATEX |= {
    "≤": r"$\le$",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "α": r"$\alpha$",
    "θ": r"$\theta$",
    "†": r"$\dagger$",
    "–": r"\textendash{}",
}
LONG_NAME = 24  # letters, beyond which LaTeX breaks the name of a row
NO_LIMIT = 10_000  # the width of a file, or of a pipe
PROSE = 100  # notes are read as text: no line is longer


@dataclass(frozen=True)
class Column:
    """A column: its name, which may have line breaks, its cells, and which of them are bold.

    On a screen that is too narrow for all, a `is_key` one stands in each part of the table, as the first does.
    """

    name: str
    cells: Sequence[str]
    bold: Sequence[bool] = ()
    is_key: bool = False

    @property
    def is_number(self) -> bool:
        """Whether it is set to the right: no cell begins with a letter."""
        return not any(cell[:1].isalpha() for cell in self.cells)


@dataclass(frozen=True)
class TextTable:
    """Columns, the first of which names its row; notes below; a label for LaTeX."""

    title: str
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    label: str = ""

    def heads(self) -> list[list[str]]:
        """The names of the columns in lines from top to bottom, for as many as the tallest has."""
        split = [column.name.split("\n") for column in self.columns]
        tall = max(map(len, split))
        return [list(line) for line in zip(*([""] * (tall - len(lines)) + lines for lines in split))]

    def rows(self) -> list[list[tuple[str, bool]]]:
        """The cells of each row, and whether they are bold."""
        columns = [zip(c.cells, c.bold or [False] * len(c.cells)) for c in self.columns]
        return [list(row) for row in zip(*columns)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        yield to_screen(self, options.max_width)


def to_screen(table: TextTable, width: int) -> Text:
    """Title, rows and notes in lines of at most `width`; columns that have no room stand in a second part, and so on.

    No name is cut: one that is too long for its column is folded, and its numbers stand in the last line.
    """
    columns, heads, rows = table.columns, table.heads(), table.rows()
    widths = [max(map(cell_len, [*column.name.split("\n"), *column.cells])) for column in columns]
    keys = [i for i in range(1, len(columns)) if columns[i].is_key]
    others = [i for i in range(1, len(columns)) if i not in keys]
    room = max(min(widths[0], width // 3), width - sum(widths[i] + 2 for i in [*keys, *others]))
    room = min(widths[0], room)
    parts = [keys.copy()]
    for i in others:
        if len(parts[-1]) > len(keys) and room + sum(widths[k] + 2 for k in [*parts[-1], i]) > width:
            parts.append(keys.copy())
        parts[-1].append(i)

    def line(cells: Sequence[tuple[str, bool]], part: Sequence[int]) -> Text:
        lines = fold(cells[0][0], room, "", "  ").split("\n") if cells[0][0] else [""]
        lines += [""] * (cell_len(lines[-1]) > room)
        out = Text("\n".join(lines) + " " * (room - cell_len(lines[-1])), "bold" if cells[0][1] else "")
        for i in part:
            words, is_bold = cells[i]
            gap = " " * (widths[i] - cell_len(words))
            before, behind = (gap, "") if columns[i].is_number else ("", gap)
            out.append("  " + before).append(words, "bold" if is_bold else "").append(behind)
        out.rstrip()
        return out

    lines = [Text(table.title, "bold")]
    for part in parts:
        over = [words for words in heads if words[0] or any(words[i] for i in part)]
        lines += [Text()] * (part is not parts[0])
        lines += [*(line([(w, False) for w in words], part) for words in over), *(line(row, part) for row in rows)]
    prose = [each for note in table.notes for each in textwrap.wrap(note, min(width, PROSE), break_on_hyphens=False)]
    return Text("\n").join([*lines, *(Text(each, "dim") for each in prose)])


def fold(words: str, width: int, indent: str, then: str | None = None) -> str:
    """Words in lines of at most `width`, none of them cut, indented; `then` is the indent after the first line."""
    how: dict[str, Any] = {"initial_indent": indent, "subsequent_indent": indent if then is None else then}
    return textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False, **how)


def as_text(views: Iterable[TextTable], form: str) -> str:
    """Tables below each other as they stand in a file of text, Markdown or LaTeX."""
    if form == "screen":
        return "\n\n".join(to_screen(view, NO_LIMIT).plain for view in views)
    return "\n".join(map(to_markdown if form == "markdown" else to_latex, views))


def to_markdown(table: TextTable) -> str:
    """A pipe table under a heading in bold, the notes as paragraphs."""

    def text(words: str) -> str:
        return re.sub(r"([\\|*_`<\[\]])", r"\\\1", words.replace("\n", " "))

    def line(cells: Iterable[tuple[str, bool]]) -> str:
        return f"| {' | '.join(f'**{text(words)}**' if words and bold else text(words) for words, bold in cells)} |"

    names, *rows = [line((column.name, False) for column in table.columns), *map(line, table.rows())]
    rule = line((side, False) for side in ("---", *("---:" if c.is_number else "---" for c in table.columns[1:])))
    return (
        "\n".join([f"**{text(table.title)}**\n", names, rule, *rows, *(f"\n{text(note)}" for note in table.notes)])
        + "\n"
    )


def to_latex(table: TextTable) -> str:
    r"""A table environment for the package booktabs (\usepackage{booktabs}), the title as its caption.

    Line breaks in the names of columns are rows of the head; long names of rows are set as paragraphs.
    """
    is_long = max(map(len, table.columns[0].cells), default=0) > LONG_NAME
    layout = r"p{0.25\linewidth}" if is_long else "l"
    layout += "".join("r" if column.is_number else "l" for column in table.columns[1:])

    def line(cells: Sequence[tuple[str, bool]]) -> str:
        words = [rf"\textbf{{{latex(text)}}}" if bold and text else latex(text) for text, bold in cells]
        return "    " + (r"\raggedright " if len(cells[0][0]) > LONG_NAME else "") + " & ".join(words) + r" \\"

    lines = [
        r"\begin{table}  % \usepackage{booktabs}",
        r"  \centering",
        r"  \small\setlength{\tabcolsep}{4pt}",
        rf"  \caption{{{latex(table.title)}}}",
        *([rf"  \label{{{re.sub('[^A-Za-z0-9:.-]+', '-', table.label)}}}"] if table.label else []),
        rf"  \begin{{tabular}}{{{layout}}}",
        r"    \toprule",
        *(line([(word, False) for word in words]) for words in table.heads()),
        r"    \midrule",
        *map(line, table.rows()),
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
