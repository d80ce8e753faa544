"""Pictures as PNG and SVG for papers, drawn by matplotlib; zeros and mask changes of one run."""

import math
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ruler
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from elsa.files import write_atomically
from elsa.record.record import Record
from elsa.report.grid import grids
from elsa.report.picture import Axis, Panel, Picture, Point, Series, grid_picture, human, report_styles
from elsa.report.style import DASHES, MARKERS, Style, method_style

_DENSE_DASHES = ("--", ":", "-.")
_WIDTH, _HEIGHT = 6.5, 4.0  # inches of a panel
_ROW = 0.3  # inches of a row's name
_LONG = 48  # characters of a line of a row's name
_PLACES = ((4, 3), (4, -9), (-4, 3), (-4, -9), (0, 7), (0, -13))  # of a label beside its point, in points
_TENTHS = [1, 2, 5, 10]
_ATTEMPTS = 4  # to make room for the names of ticks
_SIZES = {"star": 9, "hexagon": 7, "triangle": 7, "down": 7}  # points; of all others 6
_APART = 4  # pixels between the names of ticks, at least
_NEAR = 60  # pixels across, within which one name stands for all points of that name
_as_it_is = rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "elsa"})  # no $ is a formula


def _figure(width: float, height: float) -> Figure:
    """An empty picture in inches. Made without pyplot, which would choose a backend for the whole process."""
    return Figure(figsize=(width, height), layout="constrained")


@_as_it_is
def draw(picture: Picture, path: Path) -> None:
    """A PNG at `path`, and the same as SVG beside it."""
    figure = figure_of(picture)
    _save(figure, path, dpi=150)
    _save(figure, path.with_suffix(".svg"), dpi=150)


@_as_it_is
def figure_of(picture: Picture) -> Figure:
    """The picture with its legend, and with no two ticks or labels on each other."""
    columns = max(map(len, picture.panels))
    handles = _handles(picture)
    heights = [max(map(_height, row)) for row in picture.panels]
    longest = max([0, *(len(str(handle.get_label())) for handle in handles)])
    beside = max(1, min(4, int(columns * 90 // (longest + 8)), len(handles)))
    width = _WIDTH * columns
    figure = _figure(width, sum(heights) + 0.22 * math.ceil(len(handles) / beside) + 0.4)
    axes = figure.subplots(len(picture.panels), columns, squeeze=False, height_ratios=heights)
    panels = [panel for row in picture.panels for panel in row]
    drawn = list(zip(axes.flat, panels, strict=True))
    for axis, panel in drawn:
        _panel(axis, panel)
    figure.suptitle(textwrap.fill(picture.title, round(13 * width)), fontsize=10)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=beside, fontsize=8, frameon=False)
    rulers = [pair for axis, panel in drawn for pair in ((axis.xaxis, panel.x), (axis.yaxis, panel.y))]
    for attempt in range(_ATTEMPTS):
        figure.draw_without_rendering()
        crowded = [(ruler, asked) for ruler, asked in rulers if _collide(ruler)]
        if not crowded:
            break
        for ruler, asked in crowded:
            _fewer_ticks(ruler, asked, attempt)
    figure.set_layout_engine("none")  # as it is now: to find it again takes as long as to draw
    for axis, panel in drawn:
        _label(axis, panel)
    return figure


def _height(panel: Panel) -> float:
    if not panel.rows_named:
        return _HEIGHT
    return 0.9 + _ROW * sum(_folded(name).count("\n") + 1 for name in panel.y.ticks.values())


def _folded(name: str) -> str:
    return textwrap.fill(name, _LONG)


def _look(style: Style) -> dict[str, Any]:
    return {
        "color": style.color, "marker": MARKERS[style.marker].matplotlib, "linestyle": DASHES[style.dash],
        "markerfacecolor": style.color if style.filled else "white", "markersize": _SIZES.get(style.marker, 6),
        "linewidth": 1.5,
    }  # fmt: skip


def _handles(picture: Picture) -> list[Line2D]:
    """What the legend shows: the rows that no axis names, and the lines through the panels."""
    named = all(panel.rows_named for row in picture.panels for panel in row)
    shown = [] if named else picture.series
    handles = [Line2D([], [], label=each.row, **_of_row(each)) for each in shown]
    lines = dict.fromkeys(line for row in picture.panels for panel in row for line in _numbered(panel))
    return handles + [Line2D([], [], label=label, **_dense_look(number)) for number, label in lines]


def _of_row(series: Series) -> dict[str, Any]:
    look = _look(series.style)
    return look | ({} if series.marked else {"marker": None}) | ({} if series.joined else {"linestyle": "none"})


def _numbered(panel: Panel) -> list[tuple[int, str]]:
    return [(number, label) for number, (label, _) in enumerate([*panel.across, *panel.up])]


def _dense_look(number: int) -> dict[str, Any]:
    return {"color": "#606060", "linestyle": _DENSE_DASHES[number % len(_DENSE_DASHES)], "linewidth": 1.1}


def _panel(axis: Axes, panel: Panel) -> None:
    for series in panel.series:
        x, y = [point.x for point in series.points], [point.y for point in series.points]
        axis.plot(x, y, drawstyle="steps-post" if series.steps else "default", **_of_row(series))
        for point in series.points:
            if point.low < point.high:
                _bar(axis, point, series.style.color, sideways=panel.rows_named)
    for number, (_, place) in enumerate(panel.across):
        axis.axhline(place, zorder=0, **_dense_look(number))
    for number, (_, place) in enumerate(panel.up):
        axis.axvline(place, zorder=0, **_dense_look(number))
    axis.set_title(textwrap.fill(panel.title, 60 if panel.rows_named else 85), fontsize=9)
    axis.grid(color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    for ruler, asked in ((axis.xaxis, panel.x), (axis.yaxis, panel.y)):
        ruler.set_label_text(asked.label)
        _scale(axis, ruler, asked)
    if panel.rows_named:
        low, high = axis.get_xlim()
        axis.set_xlim(low, high * (high / low) ** 0.12)  # room for the numbers
        axis.set_ylim(-0.6, len(panel.y.ticks) - 0.4)


def _bar(axis: Axes, point: Point, color: str, sideways: bool) -> None:
    ends, same = [point.low, point.high], [point.y if sideways else point.x] * 2
    x, y = (ends, same) if sideways else (same, ends)
    axis.plot(x, y, color=color, linewidth=1, marker="|" if sideways else "_", zorder=1)


def _scale(axis: Axes, ruler: Ruler, asked: Axis) -> None:
    is_x = ruler is axis.xaxis
    if asked.ticks:
        ruler.set_ticks(list(asked.ticks), [name if is_x else _folded(name) for name in asked.ticks.values()])
        return
    if asked.log:
        (axis.set_xscale if is_x else axis.set_yscale)("log")
        low, high = ruler.get_view_interval()
        ruler.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 20 * low else MaxNLocator(nbins=7, steps=_TENTHS))
        ruler.set_minor_formatter(NullFormatter())
    if asked.zero:
        (axis.set_xlim if is_x else axis.set_ylim)(0)
    ruler.set_major_formatter(FuncFormatter(lambda value, _: human(value)))


def _fewer_ticks(ruler: Ruler, asked: Axis, attempt: int) -> None:
    """Fewer ticks, or names aslant, where they lie on each other."""
    if asked.ticks:
        ruler.set_tick_params(labelrotation=30)
        for text in ruler.get_ticklabels():
            text.set_horizontalalignment("right")
        return
    low, high = ruler.get_view_interval()
    fewer = (LogLocator(subs=(1, 3)), LogLocator(), LogLocator(numticks=5), LogLocator(numticks=3))
    ruler.set_major_locator(
        fewer[attempt] if asked.log and high > 20 * low else MaxNLocator(nbins=6 - attempt, steps=_TENTHS)
    )


def _collide(ruler: Ruler) -> bool:
    boxes = [text.get_window_extent().padded(_APART / 2) for text in tick_labels(ruler)]
    return any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])


def tick_labels(ruler: Ruler) -> list[Any]:
    """Those that are seen."""
    low, high = sorted(ruler.get_view_interval())
    places = zip(ruler.get_ticklabels(), ruler.get_ticklocs(), strict=False)
    return [text for text, place in places if low <= place <= high and text.get_visible() and text.get_text()]


def _label(axis: Axes, panel: Panel) -> None:
    """Names beside points: a name once a row, where there is room for it."""
    if panel.x.ticks or not any(point.label for series in panel.series for point in series.points):
        return
    frame = axis.get_window_extent()
    taken = [_around(axis, point.x, point.y) for series in panel.series for point in series.points]
    named: list[tuple[str, float]] = []
    for point in (point for series in panel.series for point in series.points if point.label):
        where = (point.high, point.y) if panel.rows_named else (point.x, point.y)
        across = axis.transData.transform(where)[0]
        if not panel.rows_named and any(point.label == name and abs(across - at) < _NEAR for name, at in named):
            continue
        box = _placed(axis, point.label, where, frame, taken, ((8, -3),) if panel.rows_named else _PLACES)
        if box is not None:
            taken.append(box)
            named.append((point.label, across))


def _placed(
    axis: Axes, label: str, at: tuple[float, float], frame: Bbox, taken: list[Bbox], places: tuple[tuple[int, int], ...]
) -> Bbox | None:
    for across, up in places:
        side = "left" if across > 0 else "center" if across == 0 else "right"
        text: Annotation = axis.annotate(
            label, at, xytext=(across, up), textcoords="offset points", fontsize=7, horizontalalignment=side
        )
        box = text.get_window_extent()
        if frame.containsx(box.x0) and frame.containsx(box.x1) and not any(map(box.overlaps, taken)):
            return box
        text.remove()
    return None


def _around(axis: Axes, x: float, y: float) -> Bbox:
    across, up = axis.transData.transform((x, y))
    return Bbox.from_bounds(across - 4, up - 4, 8, 8)


def perplexity_figure(records: list[Record], path: Path) -> None:
    """A PNG with a panel for each evaluation set and protocol: over the patterns, or row by row at a single one."""
    found = [grid for grid in grids(records) if grid.rows]
    styles = report_styles(found, [])
    pictures = [grid_picture(grid, styles, path.stem) for grid in found]
    panels = tuple((replace(row[0], title=picture.title),) for picture in pictures for row in picture.panels)
    models = ", ".join(dict.fromkeys(record["model"] for record in records))
    title = f"Perplexity of {models} after pruning (lower is better)"
    empty = ((Panel(Axis(""), Axis("perplexity"), (), "no pruned model"),),)
    draw(Picture(path.stem, title, panels or empty), path)


@_as_it_is
def sparsity_figure(record: Record, path: Path) -> None:
    """A PNG of the share of zeros of every pruned weight, in the order of the blocks."""
    tensors = record["sparsity"]["tensors"]
    shares = [count["zeros"] / count["numel"] for count in tensors.values()]
    figure = _figure(8, 3)
    axis = figure.subplots()
    axis.bar(range(len(shares)), shares, width=1.0, color=method_style(record["method"]).color)
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
    figure = _figure(8, 4)
    axis = figure.subplots()
    picture = axis.imshow(shares, aspect="auto", extent=(steps[0], steps[-1], len(names), 0), interpolation="nearest")
    figure.colorbar(picture, label="share of the mask that changed")
    axis.set_xlabel("step")
    axis.set_ylabel("weight, in the order of the blocks")
    axis.set_title(title)
    _save(figure, path, dpi=120)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    def write(temporary: Path) -> None:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, dpi=dpi, metadata=metadata)

    write_atomically(path, write)
