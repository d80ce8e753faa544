"""Perplexity by method and pattern, averaged over seeds: what a paper's table shows.

Cells are compared only where they were scored alike: records with other windows, lengths, formulas or data go to grids
of their own, and a method with several settings at one pattern gets a row for each.
"""

import csv
import io
import math
from dataclasses import dataclass, field
from statistics import fmean, stdev

from elsa.files import flattened
from elsa.report.published import published

_PROTOCOL = ("windows", "length", "split", "formula", "autocast", "data_sha256")


@dataclass
class Cell:
    """Perplexities of one method, setting and pattern, a seed each, and the runs that they come from."""

    values: list[float] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        digits = 2 if self.mean < 100 else 0
        spread = "" if self.spread is None else f" ± {self.spread:,.{digits}f}"
        return f"{self.mean:,.{digits}f}{spread}"


@dataclass
class Grid:
    """`cells[row, pattern]`; rows from high perplexity to low, patterns from few zeros to many, then N:M.

    The paper's rows are named "… (published)", have no run and are never the best; `notes` say where they were read.
    """

    title: str
    rows: list[str]
    patterns: list[str]
    cells: dict[tuple[str, str], Cell]
    notes: list[str] = field(default_factory=list)

    def text(self, row: str, pattern: str) -> str:
        """The cell as a table shows it; `--` where there is no run."""
        return str(self.cells[row, pattern]) if (row, pattern) in self.cells else "--"

    def best(self, pattern: str) -> str | None:
        """The row with the lowest mean of the pruned ones, None if the column holds a single number."""
        found = [row for row in self.rows if (row, pattern) in self.cells and self.cells[row, pattern].runs]
        return min(found, key=lambda row: self.cells[row, pattern].mean) if len(found) > 1 else None


def grids(records: list[dict]) -> list[Grid]:
    """One grid per model, evaluation set and protocol."""
    parts: dict[tuple, list[dict]] = {}
    for record in records:
        for name, score in record["perplexity"].items():
            protocol = tuple(score[key] for key in _PROTOCOL)
            parts.setdefault((record["model"], _key(record["config"]["model"]), name, protocol), []).append(record)
    return [_grid(model, name, protocol, found) for (model, _, name, protocol), found in parts.items()]


def _grid(model: str, name: str, protocol: tuple, records: list[dict]) -> Grid:
    windows, length, split = protocol[:3]
    dense = sorted({f"{r['perplexity'][name]['perplexity']:,.2f}" for r in records if r["pattern"] == "dense"})
    title = f"{model}, perplexity on {name} ({windows} {split} windows of {length} tokens"
    title += f"; without pruning {' or '.join(dense)})" if dense else ")"
    pruned = [record for record in records if record["pattern"] != "dense"]
    labels = _labels(pruned)
    cells: dict[tuple[str, str], Cell] = {}
    for record in pruned:
        cell = cells.setdefault((labels[record["name"]], record["pattern"]), Cell())
        cell.values.append(record["perplexity"][name]["perplexity"])
        cell.runs.append(record["name"])
    theirs = published(model, name)
    for number in theirs:
        cells[f"{number.method} (published)", number.pattern] = Cell([number.perplexity])
    notes = [f"{n.method} at {n.pattern}, {n.perplexity:g}: the paper, by {n.provenance}" for n in theirs]
    patterns = sorted(
        {pattern for _, pattern in cells}, key=lambda p: (":" in p, float(p.strip("%").replace(":", ".")))
    )

    def height(row: str) -> float:
        return fmean(math.log(cell.mean) for (its_row, _), cell in cells.items() if its_row == row)

    return Grid(title, sorted({row for row, _ in cells}, key=height, reverse=True), patterns, cells, notes)


def _labels(records: list[dict]) -> dict[str, str]:
    """{run: row}: the method, with the keys that differ where it stands in one cell with several settings."""
    labels = {}
    for method in dict.fromkeys(record["method"] for record in records):
        own = [record for record in records if record["method"] == method]
        flat = {record["name"]: flattened(record["settings"]) for record in own}
        cells: dict[str, set[str]] = {}
        for record in own:
            cells.setdefault(record["pattern"], set()).add(_key(record["settings"]))
        several = any(len(settings) > 1 for settings in cells.values())
        differing = [k for k in next(iter(flat.values())) if len({str(each.get(k)) for each in flat.values()}) > 1]
        for name, settings in flat.items():
            shown = ", ".join(f"{key.split('.')[-1]}={settings.get(key)}" for key in differing)
            labels[name] = f"{method} ({shown})" if several and shown else method
    return labels


def _key(settings: dict) -> str:
    return str(sorted(flattened(settings).items()))


def markdown_grid(grid: Grid) -> str:
    """A Markdown table under its title, the best of each column in bold, `--` where there is no run."""
    lines = [grid.title, "", "| method | " + " | ".join(grid.patterns) + " |"]
    lines.append("| --- |" + " ---: |" * len(grid.patterns))
    for row in grid.rows:
        shown = [(grid.text(row, pattern), grid.best(pattern) == row) for pattern in grid.patterns]
        texts = [f"**{text}**" if best else text for text, best in shown]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    lines += ["", *(f"* {note}" for note in grid.notes)] if grid.notes else []
    return "\n".join(lines) + "\n"


def latex_grid(grid: Grid) -> str:
    """The same as a LaTeX table in the manner of booktabs, its title as a comment."""
    lines = [f"% {grid.title}", r"\begin{tabular}{l" + "r" * len(grid.patterns) + "}", r"\toprule"]
    lines += [" & ".join(["method", *map(_escaped, grid.patterns)]) + r" \\", r"\midrule"]
    for row in grid.rows:
        shown = [(_escaped(grid.text(row, pattern)), grid.best(pattern) == row) for pattern in grid.patterns]
        texts = [rf"\textbf{{{text}}}" if best else text for text, best in shown]
        lines.append(" & ".join([_escaped(row), *texts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    for character in "%_&#":
        text = text.replace(character, rf"\{character}")
    return text.replace("±", r"$\pm$")


def csv_cells(all_grids: list[Grid]) -> str:
    """Every cell of every grid as a line: mean, spread, number of seeds, and the runs it comes from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "method", "pattern", "mean", "spread", "seeds", "runs"])
    for grid in all_grids:
        for (row, pattern), cell in grid.cells.items():
            spread = "" if cell.spread is None else cell.spread
            writer.writerow([grid.title, row, pattern, cell.mean, spread, len(cell.values), " ".join(cell.runs)])
    return text.getvalue()
