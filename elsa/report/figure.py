"""Pictures: perplexity of a few runs, zeros and mask changes of one."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from elsa.files import write_atomically
from elsa.report.grid import Grid

_DENSE_LINE = {"color": "black", "linestyle": "--", "linewidth": 1}


def perplexity_figure(records: list[dict], path: Path) -> None:
    """A PNG with a panel per evaluation set: bars at one sparsity, curves over several, on a log axis."""
    sets = list(dict.fromkeys(name for record in records for name in record["perplexity"]))
    pruned = [record for record in records if record["sparsity"]["counted"] > 0.01]
    levels = {round(record["sparsity"]["counted"], 2) for record in pruned}
    figure, axes = plt.subplots(1, len(sets), figsize=(7 * len(sets), 4), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], sets, strict=True):
        scored = [record for record in records if name in record["perplexity"]]
        if len(levels) > 1:
            _curves(axis, scored, name)
        else:
            _bars(axis, scored, name)
    models = ", ".join(dict.fromkeys(record["model"] for record in records))
    figure.suptitle(f"Perplexity of {models} after pruning (lower is better)")
    _save(figure, path, dpi=150)


def _bars(axis: Axes, records: list[dict], name: str) -> None:
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


def _curves(axis: Axes, records: list[dict], name: str) -> None:
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


def grid_figure(grid: Grid, path: Path) -> None:
    """A PNG of a grid: perplexity on a log axis over the patterns, a line a method, bars for the spread over seeds."""
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for row in grid.rows:
        there = [pattern for pattern in grid.patterns if (row, pattern) in grid.cells]
        cells = [grid.cells[row, pattern] for pattern in there]
        style = "--" if not cells[0].runs else "-"
        places = [grid.patterns.index(pattern) for pattern in there]
        spreads = [cell.spread or 0 for cell in cells]
        axis.errorbar(places, [cell.mean for cell in cells], spreads, marker="o", linestyle=style, capsize=3, label=row)
    axis.set_xticks(range(len(grid.patterns)), grid.patterns)
    axis.set_xlabel("sparsity or pattern")
    _log_perplexity(axis, "perplexity")
    axis.set_title(grid.title, fontsize=9)
    axis.legend(fontsize=8)
    _save(figure, path, dpi=150)


def cost_figure(records: list[dict], name: str, path: Path) -> None:
    """A PNG of perplexity on the set `name` against the seconds of pruning, both on log axes, a colour a method."""
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    for method in dict.fromkeys(record["method"] for record in records):
        own = [record for record in records if record["method"] == method]
        seconds = [max(record["seconds"]["prune"], 0.1) for record in own]
        axis.scatter(seconds, [record["perplexity"][name]["perplexity"] for record in own], label=method)
        for record, second in zip(own, seconds, strict=True):
            place = (second, record["perplexity"][name]["perplexity"])
            axis.annotate(record["pattern"], place, textcoords="offset points", xytext=(4, 2), fontsize=6)
    axis.set_xscale("log")
    axis.set_xlabel("seconds of pruning, training included")
    _log_perplexity(axis, "perplexity")
    axis.set_title(f"what quality costs, {name}", fontsize=9)
    axis.legend(fontsize=8)
    _save(figure, path, dpi=150)


def _log_perplexity(axis: Axes, label: str) -> None:
    axis.set_yscale("log")
    axis.set_ylabel(f"{label} (log scale)")
    _plain_numbers(axis.yaxis)


def _plain_numbers(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def sparsity_figure(record: dict, path: Path) -> None:
    """A PNG of the share of zeros of every pruned weight, in the order of the blocks."""
    tensors = record["sparsity"]["tensors"]
    shares = [count["zeros"] / count["numel"] for count in tensors.values()]
    figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
    axis.bar(range(len(shares)), shares, width=1.0)
    axis.set_ylim(0, 1)
    axis.set_xlabel(f"weight, of {len(shares)} in the order of the blocks")
    axis.set_ylabel("fraction of zeros")
    axis.set_title(f"{record['method']} on {record['model']}, {record['pattern']}")
    _save(figure, path, dpi=120)


def mask_change_figure(changes: dict[int, dict[str, float]], title: str, path: Path) -> None:
    """A PNG heat map: the share of a weight's mask that changed at each z-update, weights by steps."""
    steps, names = list(changes), list(next(iter(changes.values())))
    shares = [[changes[step][name] for step in steps] for name in names]
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    picture = axis.imshow(shares, aspect="auto", extent=(steps[0], steps[-1], len(names), 0), interpolation="nearest")
    figure.colorbar(picture, label="share of the mask that changed")
    axis.set_xlabel("step")
    axis.set_ylabel("weight, in the order of the blocks")
    axis.set_title(title)
    _save(figure, path, dpi=120)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=dpi))
    plt.close(figure)
