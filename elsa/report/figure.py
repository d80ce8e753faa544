"""Pictures: scores over sparsity, non-zeros, cost, tasks and steps; zeros and mask changes of one run."""

import math
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from elsa.files import write_atomically
from elsa.record.record import Record
from elsa.report.grid import Grid
from elsa.report.speed import Speed

_DENSE_LINE: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
_WITH_LEGEND = (10, 5)  # inches
_LARGEST = 1e30  # what lies beyond leaves the rest of an axis in one point
_as_it_is = rc_context({"text.parse_math": False})  # a $ in a name begins no formula


def _figure(width: float, height: float) -> Figure:
    """An empty picture in inches. Made without pyplot, which would choose a backend for the whole process."""
    return Figure(figsize=(width, height), layout="constrained")


def _one_panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    return figure, figure.subplots()


@_as_it_is
def perplexity_figure(records: list[Record], path: Path) -> None:
    """A PNG with a panel per evaluation set: bars at one sparsity, curves over several, on a log axis."""
    sets = list(dict.fromkeys(name for record in records for name in record["perplexity"]))
    pruned = [record for record in records if record["sparsity"]["counted"] > 0.01]
    levels = {round(record["sparsity"]["counted"], 2) for record in pruned}
    figure = _figure(7 * len(sets), 4)
    axes = figure.subplots(1, len(sets), squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        scored = drawable([record for record in records if name in record["perplexity"]], name)
        if not scored:
            axis.set_title(f"{name}: no finite perplexity", fontsize=9)
        elif len(levels) > 1:
            _curves(axis, scored, name)
        else:
            _bars(axis, scored, name)
    models = ", ".join(dict.fromkeys(record["model"] for record in records))
    figure.suptitle(f"Perplexity of {models} after pruning (lower is better)")
    _save(figure, path, dpi=150)


def drawable(records: list[Record], name: str) -> list[Record]:
    """Those whose perplexity on the set has a place on a log axis."""
    return [record for record in records if _has_place(record["perplexity"][name]["perplexity"])]


def _has_place(number: float) -> bool:
    return 1 / _LARGEST < number < _LARGEST


def _bars(axis: Axes, records: list[Record], name: str) -> None:
    ordered = sorted(records, key=lambda record: -record["perplexity"][name]["perplexity"])
    labels = [f"{record['method']}  {record['sparsity']['counted']:.0%}" for record in ordered]
    values = [record["perplexity"][name]["perplexity"] for record in ordered]
    colors = ["tab:gray" if record["sparsity"]["counted"] < 0.01 else "tab:blue" for record in ordered]
    bars = axis.barh(labels, values, color=colors)
    axis.bar_label(bars, [f"{value:,.1f}" for value in values], padding=3)
    axis.set_xscale("log")
    axis.set_xlim(min(values) * 0.7, max(values) * (max(values) / min(values)) ** 0.2 * 1.2)  # room for labels
    axis.set_xlabel(f"perplexity, {name} (log scale)")
    _plain_numbers(axis.xaxis)


def _curves(axis: Axes, records: list[Record], name: str) -> None:
    for method in dict.fromkeys(record["method"] for record in records):
        points = sorted(
            (record["sparsity"]["counted"], record["perplexity"][name]["perplexity"])
            for record in records
            if record["method"] == method
        )
        if points[-1][0] < 0.01:
            axis.axhline(points[0][1], label=method, **_DENSE_LINE)
        else:
            axis.plot(*zip(*points, strict=True), marker="o", label=method)
    axis.set_xlabel("fraction of zeros")
    _log_perplexity(axis, f"perplexity, {name}")
    axis.legend()


@_as_it_is
def grid_figure(grid: Grid, path: Path) -> None:
    """A PNG of a grid: perplexity on a log axis over the patterns, a line a method, bars for the spread over seeds."""
    figure, axis = _one_panel(*_WITH_LEGEND)
    for row in grid.rows:
        there = [pattern for pattern in grid.columns if (row, pattern) in grid.cells]
        there = [pattern for pattern in there if _has_place(grid.cells[row, pattern].mean)]
        if not there:
            continue
        cells = [grid.cells[row, pattern] for pattern in there]
        style = "--" if not cells[0].runs else "-"
        places = [grid.columns.index(pattern) for pattern in there]
        bars = [cell.bar for cell in cells]
        axis.errorbar(places, [cell.mean for cell in cells], bars, marker="o", linestyle=style, capsize=3, label=row)
    axis.set_xticks(range(len(grid.columns)), grid.columns)
    axis.set_xlabel("sparsity or pattern")
    _log_perplexity(axis, "perplexity")
    axis.set_title(grid.title, fontsize=9)
    _legend(figure)
    _save(figure, path, dpi=150)


@_as_it_is
def accuracy_figure(grid: Grid, path: Path) -> None:
    """A PNG of a grid of accuracies: a group of bars for each task, error bars for the spread or the standard error."""
    figure, axis = _one_panel(*_WITH_LEGEND)
    width = 0.8 / len(grid.rows)
    for number, row in enumerate(grid.rows):
        there = [column for column in grid.columns if (row, column) in grid.cells]
        cells = [grid.cells[row, column] for column in there]
        places = [grid.columns.index(column) - 0.4 + (number + 0.5) * width for column in there]
        errors = [cell.bar for cell in cells]
        axis.bar(places, [cell.mean for cell in cells], width, yerr=errors, error_kw={"linewidth": 0.8}, label=row)
    axis.set_xticks(range(len(grid.columns)), grid.columns, rotation=20, ha="right")
    axis.set_ylabel("accuracy, %")
    axis.set_title(grid.title, fontsize=9)
    _legend(figure)
    _save(figure, path, dpi=150)


@_as_it_is
def cost_figure(records: list[Record], name: str, path: Path) -> None:
    """A PNG of perplexity on the set `name` against the seconds of pruning, both on log axes, a colour a method."""
    pruned = [record for record in drawable(records, name) if record["pattern"] != "dense"]
    points = [(max(record["seconds"]["prune"], 0.1), record) for record in pruned]
    title, label = f"what quality costs, {name}", "seconds of pruning, training included"
    _scatter(points, name, title, label, path)


@_as_it_is
def pareto_figure(records: list[Record], name: str, path: Path) -> None:
    """A PNG of perplexity on the set `name` against the prunable weights that are not zero, with the front of the best.

    All records must have been scored on the same tokens; then models of several sizes may stand in one picture.
    """
    nonzeros = ((each["sparsity"]["numel"] - each["sparsity"]["zeros"], each) for each in drawable(records, name))
    points = [(place, record) for place, record in nonzeros if place > 0]
    title, label = f"quality by size, {name}", "prunable weights that are not zero"
    _scatter(points, name, title, label, path, front=True)


def _scatter(
    points: list[tuple[float, Record]], name: str, title: str, label: str, path: Path, front: bool = False
) -> None:
    """Perplexity over any number of each record, on log axes. `front`: join those that no other beats in both."""
    figure, axis = _one_panel(*_WITH_LEGEND)
    several = len({record["model"] for _, record in points}) > 1
    scored = [(place, record["perplexity"][name]["perplexity"], record) for place, record in points]
    for method in dict.fromkeys(record["method"] for _, record in points):
        own = [point for point in scored if point[2]["method"] == method]
        axis.scatter([place for place, _, _ in own], [value for _, value, _ in own], label=method)
        for place, value, record in own:
            text = f"{record['model']} {record['pattern']}" if several else record["pattern"]
            axis.annotate(text, (place, value), textcoords="offset points", xytext=(4, 2), fontsize=6)
    if front and scored:
        best = pareto([(place, value) for place, value, _ in scored])
        axis.step(*zip(*best, strict=True), where="post", label="front", **_DENSE_LINE)
    axis.set_xscale("log")
    axis.set_xlabel(f"{label} (log scale)")
    _plain_numbers(axis.xaxis)
    _log_perplexity(axis, "perplexity")
    axis.set_title(title, fontsize=9)
    _legend(figure)
    _save(figure, path, dpi=150)


@_as_it_is
def deployment_figure(found: list[Speed], path: Path) -> None:
    """A PNG of perplexity against tokens a second, and against bytes in memory: dense and sparse, at one load.

    Runs without a perplexity that has a place on a log axis are left out.
    """
    figure = _figure(12, 4.5)
    shown = [each for each in found if each.perplexity is not None and _has_place(each.perplexity)]
    for axis, label, key in zip(
        figure.subplots(1, 2), ("tokens a second", "MB in memory"), ("tokens_per_second", "megabytes"), strict=True
    ):
        for name in ("dense", "sparse"):
            points = [(getattr(getattr(each, name), key), each.perplexity, each.record["pattern"]) for each in shown]
            axis.scatter([place for place, _, _ in points], [quality for _, quality, _ in points], label=name)
            for place, quality, pattern in points:
                axis.annotate(pattern, (place, quality), textcoords="offset points", xytext=(4, 2), fontsize=6)
        axis.set_xlabel(label)
        axis.margins(x=0.1)
        axis.set_xlim(left=0)
        _log_perplexity(axis, "perplexity")
        axis.legend(fontsize=8)
    models = ", ".join(dict.fromkeys(each.record["model"] for each in found))
    figure.suptitle(f"{models}: quality by speed and size, batch {found[0].batch.batch}, threads {found[0].threads}")
    _save(figure, path, dpi=150)


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both coordinates, lower being better in each, by the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


@_as_it_is
def convergence_figure(curves: dict[str, list[tuple[str, list[dict[str, float]]]]], title: str, path: Path) -> None:
    """A PNG of training by step, two panels a pattern. `curves[pattern]`: label and lines of metrics of each run.

    Above the loss that is minimised; below cross-entropy on the probe's batch, f(x) solid and f(z) dashed.
    """
    figure = _figure(4 * len(curves) + 3, 7)
    axes = figure.subplots(2, len(curves), squeeze=False, sharex="col")
    labels = list(dict.fromkeys(label for runs in curves.values() for label, _ in runs))
    for (above, below), (pattern, runs) in zip(axes.T, curves.items(), strict=True):
        for label, lines in runs:
            color = f"C{labels.index(label) % 10}"
            for axis, key, style in (
                (above, "loss", "-"), (below, "probe_loss", "o-"), (below, "probe_loss_sparse", "o--"),
            ):  # fmt: skip
                there = (line for line in lines if "step" in line and _has_place(line.get(key, math.nan)))
                points = [(line["step"], line[key]) for line in there]
                if points:
                    axis.plot(*zip(*points, strict=True), style, color=color, markersize=3, linewidth=1)
        above.set_title(pattern, fontsize=9)
        below.set_xlabel("step")
    axes[0, 0].set_ylabel("training loss")
    axes[1, 0].set_ylabel("cross-entropy on the probe\nx solid, z dashed")
    for axis in axes.flat:
        axis.set_yscale("log")
        _plain_numbers(axis.yaxis)
    for number, label in enumerate(labels):
        axes[0, 0].plot([], [], color=f"C{number % 10}", label=label)
    figure.suptitle(title, fontsize=9, x=0.02, ha="left")  # the legend is at the right
    _legend(figure)
    _save(figure, path, dpi=150)


def _legend(figure: Figure) -> None:
    """Beside the panels, where it covers nothing."""
    if any(axis.get_legend_handles_labels()[1] for axis in figure.axes):
        figure.legend(loc="outside right upper", fontsize=8)


def _log_perplexity(axis: Axes, label: str) -> None:
    axis.set_yscale("log")
    axis.set_ylabel(f"{label} (log scale)")
    _plain_numbers(axis.yaxis)


def _plain_numbers(axis: Axis) -> None:
    """Ticks of a log axis that has its data: some in every decade, or evenly spaced ones where there are hardly two."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 20 * low else MaxNLocator(nbins=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


@_as_it_is
def sparsity_figure(record: Record, path: Path) -> None:
    """A PNG of the share of zeros of every pruned weight, in the order of the blocks."""
    tensors = record["sparsity"]["tensors"]
    shares = [count["zeros"] / count["numel"] for count in tensors.values()]
    figure, axis = _one_panel(8, 3)
    axis.bar(range(len(shares)), shares, width=1.0)
    axis.set_ylim(0, 1)
    axis.set_xlabel(f"weight, of {len(shares)} in the order of the blocks")
    axis.set_ylabel("fraction of zeros")
    axis.set_title(f"{record['method']} on {record['model']}, {record['pattern']}")
    _save(figure, path, dpi=120)


@_as_it_is
def mask_change_figure(changes: dict[int, dict[str, float]], title: str, path: Path) -> None:
    """A PNG heat map: the share of a weight's mask that changed at each z-update, weights by steps."""
    steps, names = list(changes), list(next(iter(changes.values())))
    shares = [[changes[step][name] for step in steps] for name in names]
    figure, axis = _one_panel(8, 4)
    picture = axis.imshow(shares, aspect="auto", extent=(steps[0], steps[-1], len(names), 0), interpolation="nearest")
    figure.colorbar(picture, label="share of the mask that changed")
    axis.set_xlabel("step")
    axis.set_ylabel("weight, in the order of the blocks")
    axis.set_title(title)
    _save(figure, path, dpi=120)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=dpi))
