"""What a table says in two lines: who won where, by how much, and on how many seeds."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from elsa.report.grid import Cell, Grid, in_words

_MEAN = "mean"


@dataclass(frozen=True)
class Lead:
    """The best row of a column before the second. `pairs`: their differences, best − second, by the seeds of both."""

    column: str
    first: str
    second: str
    cells: tuple[Cell, Cell]
    pairs: list[float]

    @property
    def share(self) -> float:
        """The difference of the means, of the second's."""
        return abs(self.cells[0].mean - self.cells[1].mean) / abs(self.cells[1].mean)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean of the pairs, by Student's t; None for fewer than two."""
        if len(self.pairs) < 2:
            return None
        reach = float(stdtrit(len(self.pairs) - 1, 0.975)) * stdev(self.pairs) / math.sqrt(len(self.pairs))
        return fmean(self.pairs) - reach, fmean(self.pairs) + reach

    @property
    def is_open(self) -> bool:
        """Whether the second may as well be the better one, as far as the pairs tell."""
        return self.interval is not None and self.interval[0] <= 0 <= self.interval[1]


def leads(grid: Grid) -> list[Lead]:
    """One for each column with at least two rows to compare."""
    found: list[Lead] = []
    for column in [_MEAN] if _MEAN in grid.columns else grid.columns:
        first, second, *_ = [*grid.order(column), None, None]
        if first is not None and second is not None:
            one, other = grid.cells[first, column], grid.cells[second, column]
            if math.isfinite(one.mean) and math.isfinite(other.mean):
                found.append(Lead(column, first, second, (one, other), _pairs(one, other)))
    return found


def _pairs(one: Cell, other: Cell) -> list[float]:
    """By seed; none where a seed stands for several values."""
    if any(len(set(cell.seeds)) < len(cell.values) for cell in (one, other)):
        return []
    theirs = dict(zip(other.seeds, other.values, strict=True))
    return [value - theirs[seed] for seed, value in zip(one.seeds, one.values, strict=True) if seed in theirs]


def headline(grid: Grid) -> list[str]:
    """Two sentences, or none where nothing is compared."""
    found = leads(grid)
    if not found:
        return _alone(grid)
    won: dict[str, list[str]] = {}
    for lead in found:
        won.setdefault(lead.first, []).append(lead.column)
    named = found[0].column in grid.kinds
    parts = [f"{row} at {_listed(columns, len(found))}" if named else row for row, columns in won.items()]
    first = (
        f"{grid.place}: the {'lowest' if grid.lowest_wins else 'highest'} {grid.measure} is that of {_joined(parts)}."
    )
    wide, narrow = (choose(found, key=lambda lead: lead.share) for choose in (max, min))
    if len(found) == 1:
        return [first, f"{_words(grid, wide, False)}."]
    clear = [lead for lead in found if lead.interval is not None and not lead.is_open]
    paired = any(lead.interval is not None for lead in found)
    rest = f" The intervals of {len(clear)} of {len(found)} leads exclude 0." if paired else ""
    return [first, f"Widest lead {_words(grid, wide, True)}; narrowest {_words(grid, narrow, True)}.{rest}"]


def _alone(grid: Grid) -> list[str]:
    """Of a single row with runs, its numbers; none where several stand apart from each other."""
    rows = [
        row for row in grid.rows if row != "dense" and any(grid.cells[at].runs for at in grid.cells if at[0] == row)
    ]
    columns = [_MEAN] if _MEAN in grid.columns else [grid.ranked] if grid.ranked else grid.columns
    there = [column for column in columns if rows and (rows[0], column) in grid.cells]
    if len(rows) != 1 or not there:
        return []
    texts = [f"{grid.text(rows[0], c)} at {c}" if c in grid.kinds else grid.text(rows[0], c) for c in there]
    seeds = {len(grid.cells[rows[0], column].values) for column in there}
    return [
        f"{grid.place}: {rows[0]} alone, {grid.measure} {', '.join(texts)}.",
        f"On {_range(seeds)}; nothing to compare.",
    ]


def _range(seeds: set[int]) -> str:
    return _count(min(seeds)) if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)} seeds"


def _listed(columns: list[str], of: int) -> str:
    if len(columns) < of or of == 1:
        return ", ".join(columns)
    return "both patterns" if of == 2 else f"all {of} patterns"


def _joined(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]


def _words(grid: Grid, lead: Lead, says_where: bool) -> str:
    one, other = lead.cells
    where = f"at {lead.column}: " if says_where else ""
    shown = f"{where}{in_words(one.mean, _digits(one))} against {in_words(other.mean, _digits(other))} of {lead.second}"
    side = "lower" if grid.lowest_wins else "higher"
    return f"{shown}, {100 * lead.share:.1f} % {side}, {_seeds(lead)}"


def _seeds(lead: Lead) -> str:
    one, other = (len(cell.values) for cell in lead.cells)
    if lead.interval is not None:
        digits = _digits(lead.cells[1])
        mean, low, high = (f"{each:+,.{digits}f}" for each in (fmean(lead.pairs), *lead.interval))
        tie = ", too little to tell them apart" if lead.is_open else ""
        return f"{len(lead.pairs)} seeds in pairs: {mean}, 95 % [{low}, {high}]{tie}"
    if one == other == 1:
        return "one seed, so no spread is known" if lead.pairs else "one seed each, not the same"
    return f"{_count(one)} against {_count(other)}, not in pairs"


def _count(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _digits(cell: Cell) -> int:
    return 2 if cell.mean < 100 else 0
