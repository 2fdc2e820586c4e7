"""Tables as data, and as text: the same on the screen, in Markdown and in LaTeX; a report has them as HTML."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NamedTuple

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
NARROW = 24  # letters, below which words at the end of a row are not folded
BAR, LEAST_BAR = 14, 6  # letters of a full bar
EIGHTHS = " ▏▎▍▌▋▊▉"
COLOURS = {"holds": "green", "fails": "red", "undecided": "yellow", "redundant": "green", "needed": "red"}  # of answers
# A number, with its sign, its unit, and its spread or interval in a cell, perhaps starred; nothing, or a sign that
# it is not known.
NUMBER = re.compile(
    r"(([<≤+−-] ?)?(\d[\d,]*|∞|(?=\.\d))(\.\d+)?(e[+-]\d+)?( %| s| min| h|×)?"
    r"( to [−-]?[\d.]+| [±(/\[] ?[−+\d., /∞-]+[)\]]?)?|[?–-]?|not known|\d+( of)?( \d+)+)[* ]?"
)


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
        """Whether it is set to the right."""
        return all(map(NUMBER.fullmatch, self.cells))

    @property
    def width(self) -> int:
        return max(map(cell_len, [*self.name.split("\n"), *self.cells]))


@dataclass(frozen=True)
class Table:
    """Columns, the first of which names its row; notes below; a label for LaTeX.

    Of each row: a style, which is "bold", "dim" or "", and None or two shares that a screen and a page draw as a bar:
    what it keeps, and what its shadow keeps.
    """

    title: str
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    label: str = ""
    styles: Sequence[str] = ()
    bars: Sequence[tuple[float, float] | None] = ()

    def heads(self) -> list[list[str]]:
        """The names of the columns in lines from top to bottom, for as many as the tallest has."""
        split = [column.name.split("\n") for column in self.columns]
        tall = max(map(len, split))
        return [list(line) for line in zip(*([""] * (tall - len(lines)) + lines for lines in split))]

    def rows(self) -> list[list[tuple[str, bool]]]:
        """The cells of each row, and whether they are bold."""
        columns = [zip(c.cells, c.bold or [style == "bold" for style in self.row_styles()]) for c in self.columns]
        return [list(row) for row in zip(*columns)]

    def without(self, *names: str) -> Table:
        return replace(self, columns=[column for column in self.columns if column.name not in names])

    def row_styles(self) -> Sequence[str]:
        return self.styles or [""] * len(self.columns[0].cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        yield to_screen(self, options.max_width)


def by_rows(title: str, names: Sequence[str], rows: Iterable[Sequence[str]], **more: Any) -> Table:
    """A table from its rows, in which cells at the end may be missing, without columns that hold nothing."""
    cells = list(zip_longest(names, *rows, fillvalue=""))
    return Table(title, [Column(name, of) for i, (name, *of) in enumerate(cells) if not i or any(of)], **more)


def with_bars(table: Table, width: int) -> Table:
    """A table with its bars as text, in the empty cells of the last column or behind it."""
    if all(table.columns[-1].cells):
        table = replace(table, columns=[*table.columns, Column("", [""] * len(table.bars))])
    *others, last = table.columns
    room = max(last.width, LEAST_BAR, min(BAR, width - sum(column.width + 2 for column in others)))
    cells = [cell or bar(kept[0], room) if kept else cell for cell, kept in zip(last.cells, table.bars)]
    return replace(table, columns=[*others, replace(last, cells=cells)])


def bar(share: float, width: int) -> str:
    """A share as a bar, which has `width` letters if it is 1."""
    whole, rest = divmod(int(8 * width * min(share, 1)), 8)
    return "█" * whole + EIGHTHS[rest].strip()


def starred(table: Table) -> Table:
    """The table for text that cannot be bold: a star stands behind what is."""

    def cells(column: Column) -> Sequence[str]:
        if not any(column.bold):
            return column.cells
        return [cell + ("*" if is_bold else " ") for cell, is_bold in zip(column.cells, column.bold)]

    columns = [replace(column, cells=cells(column), bold=()) for column in table.columns]
    return replace(table, columns=columns, notes=[note.replace("in bold", "with a star") for note in table.notes])


class Layout(NamedTuple):
    """Where the columns of a table stand on a screen: letters, and columns by their number."""

    names: int  # letters of column 0, which names the rows
    widths: Sequence[int]  # letters of each column
    is_number: Sequence[bool]  # columns that are set to the right
    gap: int  # blanks between columns
    parts: Sequence[Sequence[int]]  # the other columns, in parts that stand below each other


def layout(table: Table, width: int) -> Layout:
    """Columns that have no room in `width` letters stand in a second part, and so on; keys stand in each part.

    A name that is too long for its column is folded, and so are columns of long words, if there is room enough.
    """
    columns = table.columns
    widths, is_number = [column.width for column in columns], [column.is_number for column in columns]
    gaps = len(columns) - 1
    gap = 1 if gaps <= width - sum(widths) < 2 * gaps else 2
    lacks = sum(widths) + gap * gaps - width
    long = [i for i in range(1, len(columns)) if widths[i] > NARROW and not is_number[i]]
    fair = (sum(widths[i] for i in long) - lacks) // max(1, len(long))
    if lacks > 0 and fair >= NARROW:
        widths = [min(each, fair) if i in long else each for i, each in enumerate(widths)]

    def taken(part: Iterable[int]) -> int:
        return sum(widths[i] + gap for i in part)

    names = min(widths[0], max(min(widths[0], width // 3), width - taken(range(1, len(columns)))))
    keys = [i for i in range(1, len(columns)) if columns[i].is_key]
    parts = [keys.copy()]
    for i in (i for i in range(1, len(columns)) if i not in keys):
        if len(parts[-1]) > len(keys) and names + taken([*parts[-1], i]) > width:
            parts.append(keys.copy())
        parts[-1].append(i)
    return Layout(names, widths, is_number, gap, parts)


def to_screen(table: Table, width: int) -> Text:
    """Title, rows and notes in lines of at most `width`, by `layout`. No name is cut."""
    table = with_bars(table, width) if table.bars else table
    at, heads, rows = layout(table, width), table.heads(), table.rows()
    lines = [Text(table.title, "bold")] if table.title else []
    for part in at.parts:
        over = [words for words in heads if words[0] or any(words[i] for i in part)]
        lines += [Text()] * (part is not at.parts[0])
        lines += [row_on_screen(at, part, [(word, False) for word in words]) for words in over]
        lines += [row_on_screen(at, part, row, style) for row, style in zip(rows, table.row_styles())]
    prose = [each for note in table.notes for each in textwrap.wrap(note, min(width, PROSE), break_on_hyphens=False)]
    return Text("\n").join([*lines, *(Text(each, "dim") for each in prose)])


def row_on_screen(at: Layout, part: Sequence[int], cells: Sequence[tuple[str, bool]], style: str = "") -> Text:
    """A row in the columns of a part. The numbers stand beside the last line of its name."""
    look = "bold" if cells[0][1] else style
    *above, last = fold(cells[0][0], at.names, "", "  ").split("\n")
    if cell_len(last) > at.names:
        above, last = [*above, last], ""
    found = [Text(each, look) for each in above]
    texts = [fold(cells[i][0], max(1, at.widths[i]), "").split("\n") for i in part]
    grid: list[tuple[str, ...]] = [*zip_longest(*texts, fillvalue="")] or [()]
    for first, words in zip_longest([last], grid, fillvalue=""):
        out = Text(first + " " * (at.names - cell_len(first)), look)
        for i, word in zip(part, words):
            fill = " " * (at.widths[i] - cell_len(word))
            before, behind = (fill, "") if at.is_number[i] else ("", fill)
            how = " ".join(["bold"] * cells[i][1] + [COLOURS.get(word, "")])
            out.append(" " * at.gap + before).append(word, how).append(behind)
        out.rstrip()
        found.append(out)
    return Text("\n").join(found)


def fold(words: str, width: int, indent: str, then: str | None = None) -> str:
    """Words in lines of at most `width`, none of them cut, indented; `then` is the indent after the first line."""
    how: dict[str, Any] = {"initial_indent": indent, "subsequent_indent": indent if then is None else then}
    return textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False, **how)


def as_text(views: Iterable[Table], form: str) -> str:
    """Tables below each other as they stand in a file of text, Markdown or LaTeX."""
    if form == "screen":
        return "\n\n".join(to_screen(starred(view), NO_LIMIT).plain for view in views)
    return "\n".join(map(to_markdown if form == "markdown" else to_latex, views))


def to_markdown(table: Table) -> str:
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


def to_latex(table: Table) -> str:
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
