"""What a picture shows before it is drawn: by matplotlib for papers, by Bokeh for the page, from the same points."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from elsa.record.record import Record
from elsa.report.grid import Cell, Grid, in_words
from elsa.report.speed import Speed
from elsa.report.style import Style, Styles, method_style

Curves = dict[str, list[tuple[str, str, str, list[dict[str, float]]]]]  # by pattern: row, method, run, its metrics
_LARGEST = 1e30  # what lies beyond leaves the rest of an axis in one point
_LOWEST = 4  # a bar that reaches 0 ends at this part of its value on a log axis
_NM = "N:M"
_GAP = 0.6  # between patterns of different kinds, where neighbours are 1 apart
_SPREAD = 0.7  # of rows beside each other at one pattern
_UNITS = ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e4, " k"))


@dataclass(frozen=True)
class Point:
    """`low`, `high`: ends of its bar. `facts`: what the mouse is told. `runs`: the names of those behind it."""

    x: float
    y: float
    low: float
    high: float
    facts: tuple[tuple[str, str], ...] = ()
    runs: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one look. `joined`: by a line. `steps`: by a staircase. `marked`: a marker at each. `row`: its name."""

    row: str
    style: Style
    points: tuple[Point, ...]
    joined: bool = False
    steps: bool = False
    marked: bool = True


@dataclass(frozen=True)
class Axis:
    """`ticks`: names of places, where it has no numbers. `log`: its scale. `zero`: whether it begins there."""

    label: str
    log: bool = False
    ticks: Mapping[float, str] = field(default_factory=dict)
    zero: bool = False


@dataclass(frozen=True)
class Panel:
    """`across`, `up`: lines through the whole panel, (name, place), at a y and at an x."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    title: str = ""
    across: tuple[tuple[str, float], ...] = ()
    up: tuple[tuple[str, float], ...] = ()

    @property
    def rows_named(self) -> bool:
        """Whether its y axis names the rows, so that no legend has to."""
        return bool(self.y.ticks)


@dataclass(frozen=True)
class Picture:
    """`name`: of its files. `panels`: rows of them, from above."""

    name: str
    title: str
    panels: tuple[tuple[Panel, ...], ...]

    @property
    def series(self) -> list[Series]:
        """The first of every row, in their order."""
        every = (series for row in self.panels for panel in row for series in panel.series)
        return list({series.row: series for series in reversed(list(every))}.values())[::-1]


def human(number: float) -> str:
    """As an axis shows it: 0.5, 5,000, 50 k, 2.4 M, 1.6 B."""
    if not math.isfinite(number) or abs(number) >= 1e15:
        return f"{number:.3g}"
    for size, unit in _UNITS:
        if abs(number) >= size * (1 - 1e-9):
            factor = 1e3 if unit == " k" else size
            return f"{number / factor:.4g}{unit}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def has_place(number: float) -> bool:
    """Whether it has one on a log axis."""
    return 1 / _LARGEST < number < _LARGEST


def drawable(records: list[Record], name: str) -> list[Record]:
    """Those whose perplexity on the set has a place on a log axis."""
    return [record for record in records if has_place(record["perplexity"][name]["perplexity"])]


def grid_picture(grid: Grid, styles: Styles, name: str) -> Picture:
    """Perplexity on a log axis: over the patterns, lines joining those of one kind; one pattern alone, row by row."""
    alone = len(grid.columns) == 1
    panel = _rows_of_one(grid, styles) if alone else _over_patterns(grid, styles)
    return Picture(name, grid.title, ((panel,),))


def _rows_of_one(grid: Grid, styles: Styles) -> Panel:
    (column,) = grid.columns
    shown = [row for row in grid.rows if _is_drawn(grid, row, column)]
    series = []
    for place, row in enumerate(shown):
        cell = grid.cells[row, column]
        point = _point(grid, row, column, cell.mean, place, sideways=True)
        series.append(Series(row, styles[row], (point,)))
    return Panel(
        Axis(f"{grid.measure} at {column} (log scale)", log=True),
        Axis("", ticks=dict(enumerate(shown))), tuple(series), up=_dense_lines(grid),
    )  # fmt: skip


def _over_patterns(grid: Grid, styles: Styles) -> Panel:
    kinds = [grid.kinds.get(column, "") for column in grid.columns]
    places, at = [0.0], 0.0
    for before, after in pairwise(kinds):
        at += 1 if before == after else 1 + _GAP
        places.append(at)
    place_of = dict(zip(grid.columns, places, strict=True))
    beside = [
        row for row in grid.rows if any((row, c) in grid.cells and grid.kinds.get(c) == _NM for c in grid.columns)
    ]
    series = []
    for row in grid.rows:
        for kind in dict.fromkeys(kinds):
            columns = [c for c in grid.columns if grid.kinds.get(c, "") == kind and _is_drawn(grid, row, c)]
            shift = _shift(beside.index(row), len(beside)) if kind == _NM and columns else 0.0
            points = [_point(grid, row, c, place_of[c] + shift, grid.cells[row, c].mean) for c in columns]
            if points:
                series.append(Series(row, styles[row], tuple(points), joined=kind != _NM))
    return Panel(
        Axis("sparsity or pattern", ticks={place: column for column, place in place_of.items()}),
        Axis(f"{grid.measure} (log scale)", log=True), tuple(series), across=_dense_lines(grid),
    )  # fmt: skip


def _shift(number: int, of: int) -> float:
    """Where the number-th of several stands beside a place."""
    return _SPREAD * ((number + 0.5) / of - 0.5)


def _is_drawn(grid: Grid, row: str, column: str) -> bool:
    return (row, column) in grid.cells and has_place(grid.cells[row, column].mean)


def _dense_lines(grid: Grid) -> tuple[tuple[str, float], ...]:
    """One for each model without zeros: its mean, for seeds hardly change it."""
    return tuple((f"{method} {cell}", cell.mean) for method, cell in grid.dense.items() if has_place(cell.mean))


def _point(grid: Grid, row: str, column: str, x: float, y: float, sideways: bool = False) -> Point:
    cell = grid.cells[row, column]
    value = x if sideways else y
    low, high = max(value - cell.bar, value / _LOWEST), value + cell.bar
    facts = [("row", row), ("at", column), (grid.measure, str(cell)), *_of_seeds(cell)]
    return Point(x, y, low, high, tuple(facts), tuple(cell.runs), label=in_words(value, 2 if value < 100 else 0))


def _of_seeds(cell: Cell) -> list[tuple[str, str]]:
    if not cell.seeds:
        return [("source", "published")]
    found = sorted(zip(map(str, cell.seeds), cell.values, cell.runs, strict=True))
    values = ", ".join(f"{in_words(value, 2)} (seed {seed})" for seed, value, _ in found)
    return [("values", values), ("run", ", ".join(run for *_, run in found))]


def accuracy_picture(grid: Grid, styles: Styles, name: str) -> Picture:
    """Accuracies by task, the rows beside each other, with the spread over seeds or the standard error."""
    series = []
    for number, row in enumerate(grid.rows):
        columns = [column for column in grid.columns if (row, column) in grid.cells]
        points = tuple(
            _point(grid, row, c, grid.columns.index(c) + _shift(number, len(grid.rows)), grid.cells[row, c].mean)
            for c in columns
        )
        series.append(Series(row, styles[row], points))
    axis = Axis("", ticks={float(place): column for place, column in enumerate(grid.columns)})
    return Picture(name, grid.title, ((Panel(axis, Axis("accuracy, %"), tuple(series)),),))


def cost_picture(records: list[Record], set_name: str, name: str) -> Picture:
    """Perplexity on a set against the seconds of pruning, both on log axes."""
    records = drawable(records, set_name)
    pruned = [record for record in records if record["pattern"] != "dense"]
    points = [(max(record["seconds"]["prune"], 0.1), record) for record in pruned]
    dense = {record["model"]: record["perplexity"][set_name]["perplexity"] for record in records if _is_dense(record)}
    several = len({record["model"] for record in records}) > 1
    across = tuple(
        (f"dense {model if several else ''} {in_words(value, 2)}".replace("  ", " "), value)
        for model, value in dense.items()
    )
    label = "seconds of pruning, training included (log scale)"
    panel = _scatter(points, set_name, label, across)
    return Picture(name, f"What quality costs, {set_name}", ((panel,),))


def _is_dense(record: Record) -> bool:
    return bool(record["method"] == "dense")


def pareto_picture(records: list[Record], set_name: str, name: str) -> Picture:
    """Perplexity on a set against the prunable weights that are not zero, with the front of the best.

    All records must have been scored on the same tokens; then models of several sizes may stand in one picture.
    """
    nonzeros = ((each["sparsity"]["numel"] - each["sparsity"]["zeros"], each) for each in drawable(records, set_name))
    points = [(float(place), record) for place, record in nonzeros if place > 0]
    panel = _scatter(points, set_name, "prunable weights that are not zero (log scale)", front=True)
    return Picture(name, f"Quality by size, {set_name}", ((panel,),))


def _scatter(
    points: list[tuple[float, Record]], set_name: str, label: str, across: tuple[tuple[str, float], ...] = (),
    front: bool = False,
) -> Panel:  # fmt: skip
    """Perplexity over any number of each record, on log axes. `front`: join those that no other beats in both."""
    several = len({record["model"] for _, record in points}) > 1
    series = []
    for method in dict.fromkeys(record["method"] for _, record in points):
        own = tuple(
            _run_point(record, place, set_name, several) for place, record in points if record["method"] == method
        )
        series.append(Series(method, method_style(method), own))
    best = pareto([(point.x, point.y) for each in series for point in each.points]) if front else []
    if best:
        style = Style("#808080", "circle", "dashed")
        line = tuple(Point(x, y, y, y) for x, y in best)
        series.append(Series("front", style, line, joined=True, steps=True, marked=False))
    return Panel(Axis(label, log=True), Axis("perplexity (log scale)", log=True), tuple(series), across=across)


def _run_point(record: Record, x: float, set_name: str, several: bool) -> Point:
    value = record["perplexity"][set_name]["perplexity"]
    shown = f"{record['model']} {record['pattern']}" if several else record["pattern"]
    facts = (
        ("row", record["method"]), ("at", shown), ("perplexity", in_words(value, 2)), ("x", human(x)),
        ("seed", str(record.get("seed"))), ("run", str(record.get("name", ""))),
    )  # fmt: skip
    return Point(x, value, value, value, facts, (record.get("name", ""),), label=shown)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both coordinates, lower being better in each, by the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def deployment_picture(found: list[Speed], name: str) -> Picture:
    """Perplexity against tokens a second, and against bytes in memory: dense and sparse, at one load.

    Runs without a perplexity that has a place on a log axis are left out.
    """
    models = ", ".join(dict.fromkeys(each.record["model"] for each in found))
    title = f"{models}: quality by speed and size, batch {found[0].batch.batch}, threads {found[0].threads}"
    kinds: list[tuple[str, Callable[[Speed, str], float]]] = [
        ("tokens a second", lambda each, side: getattr(each, side).tokens_per_second),
        ("MB in memory", lambda each, side: getattr(each, side).megabytes),
    ]
    styles = {"dense": method_style("dense"), "sparse": Style("#d55e00", "circle")}
    panels = []
    for label, of in kinds:
        series = []
        for side, style in styles.items():
            points = tuple(
                _speed_point(each, side, of(each, side), label) for each in found
                if each.perplexity is not None and has_place(each.perplexity)
            )  # fmt: skip
            series.append(Series(side, style, points))
        panels.append(Panel(Axis(label, zero=True), Axis("perplexity (log scale)", log=True), tuple(series)))
    return Picture(name, title, (tuple(panels),))


def _speed_point(each: Speed, side: str, x: float, label: str) -> Point:
    assert each.perplexity is not None
    shown, record = in_words(each.perplexity, 2), each.record
    facts = (
        ("row", f"{record['method']}, {side}"), ("at", record["pattern"]), ("perplexity", shown), (label, f"{x:,.1f}"),
        ("run", record["name"]),
    )  # fmt: skip
    return Point(x, each.perplexity, each.perplexity, each.perplexity, facts, (record["name"],), record["pattern"])


def convergence_picture(curves: Curves, styles: Styles, name: str, title: str) -> Picture:
    """Training by step, two panels a pattern.

    Above the loss that is minimised; below cross-entropy on the probe's batch, f(x) solid and f(z) dashed.
    """
    above, below = [], []
    for pattern, runs in curves.items():
        loss = [_curve(row, run, lines, "loss", styles) for row, _, run, lines in runs]
        probe = [_curve(row, run, lines, "probe_loss", styles, marked=True) for row, _, run, lines in runs]
        probe += [_curve(row, run, lines, "probe_loss_sparse", styles, True, "dashed") for row, _, run, lines in runs]
        above.append(Panel(Axis("step"), Axis("training loss", log=True), _with_points(loss), pattern))
        label = "cross-entropy on the probe, x solid, z dashed"
        below.append(Panel(Axis("step"), Axis(label, log=True), _with_points(probe), pattern))
    rows = (tuple(above), tuple(below)) if any(panel.series for panel in below) else (tuple(above),)
    return Picture(name, title, rows)


def _with_points(series: Iterable[Series]) -> tuple[Series, ...]:
    return tuple(each for each in series if each.points)


def _curve(
    row: str, run: str, lines: list[dict[str, float]], key: str, styles: Styles, marked: bool = False,
    dash: str = "solid", log: bool = True,
) -> Series:  # fmt: skip
    style = styles[row]
    points = []
    for line in lines:
        value = line.get(key, math.nan)
        if "step" in line and (has_place(value) if log else abs(value) < _LARGEST):
            facts = (("row", row), ("step", f"{line['step']:,.0f}"), (key, f"{value:.5g}"), ("run", run))
            points.append(Point(line["step"], value, value, value, facts, (run,)))
    look = Style(style.color, style.marker, dash, style.filled)
    return Series(row, look, tuple(points), joined=True, marked=marked)


def metric_pictures(row: str, run: str, lines: list[dict[str, float]]) -> list[Picture]:
    """Of one run: a picture of each number that it has logged at more than one step; f(x) and f(z) in one."""
    styles = Styles([])
    keys = [
        key for key in dict.fromkeys(key for line in lines for key in line) if key not in ("step", "probe_loss_sparse")
    ]
    found = []
    for number, key in enumerate(keys):
        values = [line[key] for line in lines if key in line and "step" in line]
        log = all(map(has_place, values)) and len(values) > 1 and max(values) > 20 * min(values)
        series = [_curve(row, run, lines, key, styles, log=log)]
        if key == "probe_loss":
            series.append(_curve(row, run, lines, "probe_loss_sparse", styles, True, "dashed", log=log))
        label = "probe_loss, z dashed" if key == "probe_loss" else key
        if len(series[0].points) > 1:
            panel = Panel(Axis("step"), Axis(label + (" (log scale)" if log else ""), log=log), _with_points(series))
            found.append(Picture(f"metric_{number}", label, ((panel,),)))
    return found


def layers_picture(record: Record) -> Picture | None:
    """The share of zeros of every pruned weight, in the order of the blocks; None where all have the same."""
    shares = {name: count["zeros"] / count["numel"] for name, count in record["sparsity"]["tensors"].items()}
    if len(shares) < 2 or max(shares.values()) - min(shares.values()) < 0.005:
        return None
    points = tuple(
        Point(float(at), share, share, share, (("weight", name), ("zeros", f"{share:.2%}")))
        for at, (name, share) in enumerate(shares.items())
    )
    series = Series(record["method"], method_style(record["method"]), points, joined=True)
    panel = Panel(Axis(f"weight, of {len(points)} in the order of the blocks"), Axis("fraction of zeros"), (series,))
    return Picture("layers", "Zeros of each weight", ((panel,),))


def report_styles(grids: Sequence[Grid], labels: Iterable[tuple[str, str]]) -> Styles:
    """Of all rows of the grids, and of others by (row, method)."""
    rows = [
        (row, grid.methods.get(row, row), not any(cell.runs for (its, _), cell in grid.cells.items() if its == row))
        for grid in grids for row in grid.rows
    ]  # fmt: skip
    return Styles([*rows, *((row, method, False) for row, method in labels)])
