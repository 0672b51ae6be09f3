"""Tables of a page as a reader sees them, and whether their figures are those of a source.

A figure is compared as it is shown: with its unit, its sign and its rounding. So ``29.2 %`` is
0.2918 and is not 0.293, and ``< 0.001`` is any p below.
"""

import math
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

Part = str | float | None
Cell = list[Part]
"""What stands in a cell: words that must be there, figures in their order; None is no figure."""
Row = list[Cell]

PER_UNIT = {"%": 0.01, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "ms": 1e-3, "s": 1, "min": 60,
            "h": 3600}  # fmt: skip
TIMES = ("h", "min", "s")
NUMBER = re.compile(
    r"(?<![\w.,−])(?P<below><\s)?(?P<sign>[+−])?(?P<digits>\d[\d,]*(?:\.\d+)?)"
    r"(?:e(?P<power>−?\d+))?(?:\s(?P<unit>%|[kMG]?B|ms|s|min|h)(?!\w))?(?![\w−-])"
)


@dataclass(frozen=True)
class Shown:
    """A figure in a text, in its unit; ``digits`` are its decimals."""

    text: str
    value: float
    digits: int
    below: bool
    unit: str | None

    def says(self, value: float) -> bool:
        """Whether *value*, in the base unit, rounds to it."""
        if self.below:  # of p values alone
            return self.value == 0.001 and value < self.value
        # As the page scales shares: 100 times 0.0125 is 1.25, divided by 0.01 it need not be.
        scaled = 100 * value if self.unit == "%" else value / PER_UNIT.get(self.unit or "", 1)
        return math.isclose(
            round(scaled, self.digits), self.value, abs_tol=10 ** -(self.digits + 3)
        )


def figures(text: str) -> list[Shown]:
    """The figures of *text*; ``3 min 05 s`` is one. Digits inside words are none (fp32, 0-shot)."""
    found: list[Shown] = []
    for one in NUMBER.finditer(text):
        plain, unit = one["digits"].replace(",", ""), one["unit"]
        power = int((one["power"] or "0").replace("−", "-"))
        value = float(f"{'-' if one['sign'] == '−' else ''}{plain}e{power}")
        shown = Shown(one[0], value, len(plain.partition(".")[2]) - power, bool(one["below"]), unit)
        if found and unit in TIMES and found[-1].unit in TIMES[: TIMES.index(unit)]:
            before = found.pop()
            value += before.value * PER_UNIT[before.unit or ""] / PER_UNIT[unit]
            shown = replace(shown, text=f"{before.text} {one[0]}", value=value)
        found.append(shown)
    return found


@dataclass(frozen=True)
class Table:
    """A table: its region's name, the cells of its head and of its body."""

    label: str
    source: str
    head: list[list[str]]
    body: list[list[str]]


def tables(page: str) -> list[Table]:
    """Every table of *page* that stands in a named region, in order."""
    found = []
    for one in re.finditer(
        r'role="region" aria-label="([^"]*)">\s*(<table.*?</table>)', page, re.S
    ):
        label = _Cells(one[1]).text  # an attribute is escaped as text is
        found.append(read(label, one[2]))
    assert page.count("<table") == len(found), "a table without a name"
    return found


def read(label: str, source: str) -> Table:
    cells = _Cells(source)
    return Table(label, source, cells.head, cells.body)


class _Cells(HTMLParser):
    """Texts of cells, white space collapsed, no-break spaces as spaces."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.head: list[list[str]] = []
        self.body: list[list[str]] = []
        self.text, self._rows, self._open = "", self.body, False
        self.feed(source)
        self.close()
        for row in (*self.head, *self.body):
            row[:] = [" ".join(cell.split()) for cell in row]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("thead", "tbody"):
            self._rows = self.head if tag == "thead" else self.body
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._open = True
        elif tag == "br" and self._open:
            self._rows[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self._rows[-1][-1] += data


def disagreement(text: str, cell: Cell) -> str:
    """Why *text* does not say what *cell* holds; empty where it does."""
    rest = " ".join(text.split())
    for words in (" ".join(part.split()) for part in cell if isinstance(part, str)):
        if words not in rest:
            return f"{words!r} is not in {text!r}"
        before, _, after = rest.partition(words)
        rest = f"{before} {after}"
    wanted = [part for part in cell if isinstance(part, int | float)]
    shown = figures(rest)
    if len(shown) != len(wanted):
        return f"{text!r} shows {[one.text for one in shown]}, not {wanted}"
    for one, value in zip(shown, wanted, strict=True):
        if not one.says(value):
            return f"{one.text!r} in {text!r} is not {value}"
    if None in cell and not wanted and rest.strip() not in ("", "–"):
        return f"{text!r} stands where nothing is known"
    return ""


def disagreements(table: Table, rows: list[Row]) -> list[str]:
    """Every cell of the body that does not say what *rows* hold."""
    if len(table.body) != len(rows):
        return [f"{table.label}: {len(table.body)} rows, not {len(rows)}"]
    found = []
    for shown, row in zip(table.body, rows, strict=True):
        if len(shown) != len(row):
            found.append(f"{table.label}: {shown} has not {len(row)} cells")
            continue
        whys = (disagreement(text, cell) for text, cell in zip(shown, row, strict=True))
        found += [f"{table.label}, {shown[0]}: {why}" for why in whys if why]
    return found
