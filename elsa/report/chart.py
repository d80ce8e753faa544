"""The same pictures for the page, drawn by Bokeh: they answer to the mouse and fit any width. Light: no server."""

import base64
import gzip
import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import (
    BasicTicker,
    ColorBar,
    CustomJS,
    CustomJSHover,
    CustomJSTickFormatter,
    FixedTicker,
    HoverTool,
    Label,
    LinearColorMapper,
    NoOverlap,
    Range1d,
    Span,
    TapTool,
    Whisker,
)
from bokeh.models.annotations import TeeHead
from bokeh.models.sources import ColumnDataSource
from bokeh.plotting import figure
from bokeh.resources import Resources

from elsa.report.picture import Axis, Panel, Point, Series
from elsa.report.style import MARKERS

_HEIGHT, _ROW = 340, 38  # pixels of a panel, of a row in it
_ASLANT = 30  # characters of the names on an axis, above which they are turned
_LONGEST = 180  # characters of a fact that the mouse is told
_MOST = 300  # points of a series; of more, every second or third is shown
_STEPS = 200  # of a heat map
_MATH = ("$$", r"\[", r"\(")  # with which Bokeh begins a formula
_HUMAN = """
const size = Math.abs(tick)
for (const [least, factor, unit] of [[1e12, 1e12, " T"], [1e9, 1e9, " B"], [1e6, 1e6, " M"], [1e4, 1e3, " k"]])
  if (size >= least * (1 - 1e-9)) return Number((tick / factor).toPrecision(4)) + unit
return size >= 1000 ? tick.toLocaleString("en-US") : String(Number(tick.toPrecision(4)))
"""  # as `elsa.report.picture.human`


_SIZES = {"diamond": 13, "star": 12, "triangle": 10, "down": 10}  # pixels; of all others 9
_FRAME = (300, 240)  # pixels of the narrowest picture, in which names beside points keep clear of each other
_LETTER, _LINE = 5.5, 12  # pixels of a name's letter and line
_DECADES = range(-8, 16)
_OPEN = "const page = cb_data.source.data.page?.[cb_data.source.selected.indices[0]]; if (page) location.href = page"


def library() -> str:
    """Bokeh's code for the browser."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def packed(text: str) -> str:
    """Of UTF-8 text, gzipped, in base64."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def chart(panel: Panel, pages: Mapping[str, str]) -> dict[str, Any]:
    """A panel as Bokeh's JSON. `pages`: {run: address of its page}, where a click on a point leads."""
    plot = figure(
        height=_height(panel), sizing_mode="stretch_width", x_axis_type=_kind(panel.x), y_axis_type=_kind(panel.y),
        tools="pan,box_zoom,reset", toolbar_location="above", background_fill_alpha=0, border_fill_alpha=0,
        output_backend="canvas", min_border_right=12,
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.toolbar_inner = True
    plot.toolbar.active_drag = None  # a finger that scrolls the page moves no picture
    for axis, asked in ((plot.xaxis[0], panel.x), (plot.yaxis[0], panel.y)):
        _scale(axis, asked, is_x=axis is plot.xaxis[0])
    for series in panel.series:
        _series(plot, panel, series, pages)
    plot.add_tools(TapTool(callback=CustomJS(code=_OPEN), visible=False))
    for number, (_, place) in enumerate([*panel.across, *panel.up]):
        dimension = "width" if number < len(panel.across) else "height"
        dash = ("dashed", "dotted", "dashdot")[number % 3]
        plot.add_layout(Span(location=place, dimension=dimension, line_color="#808080", line_dash=dash))
    _ranges(plot, panel)
    return dict(json_item(plot))


def _height(panel: Panel) -> int:
    return 90 + _ROW * len(panel.y.ticks) if panel.rows_named else _HEIGHT


def _kind(axis: Axis) -> str:
    return "log" if axis.log else "linear"


def _plain(text: str) -> str:
    """Text in which Bokeh finds no formula."""
    for mark in _MATH:
        text = text.replace(mark, f"{mark[0]}\u200b{mark[1]}")
    return text


def _scale(axis: Any, asked: Axis, is_x: bool) -> None:
    axis.axis_label = _plain(asked.label) or None
    axis.axis_label_text_font_style = "normal"
    axis.minor_tick_line_color = None
    if asked.ticks:
        axis.ticker = FixedTicker(ticks=list(asked.ticks))
        axis.major_label_overrides = {place: _plain(name) for place, name in asked.ticks.items()}
        if is_x and sum(map(len, asked.ticks.values())) > _ASLANT:
            axis.major_label_orientation = 0.6
        return
    axis.ticker = BasicTicker(desired_num_ticks=6)
    axis.formatter = CustomJSTickFormatter(code=_HUMAN)
    axis.major_label_policy = NoOverlap(min_distance=8)


def _series(plot: figure, panel: Panel, series: Series, pages: Mapping[str, str]) -> None:
    style, has_bars = series.style, any(point.low < point.high for point in series.points)
    points = series.points[:: -(-len(series.points) // _MOST)]
    columns: dict[str, list[Any]] = {"x": [point.x for point in points], "y": [point.y for point in points]}
    if has_bars:
        columns |= {"low": [point.low for point in points], "high": [point.high for point in points]}
    led = [next((pages[run] for run in point.runs if run in pages), "") for point in points]
    columns |= {"page": led} if any(led) else {}
    told = []
    for at, name in enumerate(dict.fromkeys(name for point in points for name, _ in point.facts)):
        facts = [dict(point.facts).get(name, "")[:_LONGEST] for point in points]
        alike = len(set(facts)) == 1
        columns |= {} if alike else {f"fact{at}": facts}
        told.append(f"<div><i>{_literal(name)}</i> {_literal(facts[0]) if alike else f'@fact{at}'}</div>")
    source, tags = ColumnDataSource(columns), [series.row]
    if series.joined:
        draw = plot.step if series.steps else plot.line
        more = {"mode": "after"} if series.steps else {}
        _same(draw("x", "y", source=source, color=style.color, line_width=2, line_dash=style.dash, **more), tags)
    if has_bars:
        head = {side: TeeHead(size=6, line_color=style.color) for side in ("lower_head", "upper_head")}
        base, dimension = ("y", "width") if panel.rows_named else ("x", "height")
        bars = Whisker(
            base=base, lower="low", upper="high", source=source, line_color=style.color, dimension=dimension, tags=tags,
            **head,
        )  # fmt: skip
        plot.add_layout(bars)
    size = _SIZES.get(style.marker, 9) if series.marked else 5
    shown = plot.scatter(
        "x", "y", source=source, marker=MARKERS[style.marker].bokeh, size=size,
        line_color=style.color, fill_color=style.color, fill_alpha=1 if style.filled else 0, line_width=1.5,
        line_alpha=1 if series.marked else 0,
    )  # fmt: skip
    if not series.marked:
        shown.glyph.fill_alpha = 0
    _same(shown, tags)
    if told:
        tip = f'<div style="max-width: 17rem; overflow-wrap: anywhere">{"".join(told)}</div>'
        plot.add_tools(HoverTool(renderers=[shown], tooltips=tip, visible=False))


def _same(drawn: Any, tags: list[str]) -> None:
    """Whether something is chosen or not, it looks the same."""
    drawn.tags, drawn.selection_glyph, drawn.nonselection_glyph = tags, drawn.glyph, drawn.glyph


def _literal(text: str) -> str:
    """Text as HTML in which Bokeh finds no column's name."""
    return escape(text).replace("@", "&#64;").replace("$", "&#36;")


def _ranges(plot: figure, panel: Panel) -> None:
    points = [point for series in panel.series for point in series.points]
    places = [place for point in points for place in (point.low, point.high)]
    lines = [place for _, place in (*panel.across, *panel.up)]
    if panel.rows_named:
        _row_by_row(plot, panel, places + lines)
        return
    plot.x_range = _range([point.x for point in points], panel.x)
    plot.y_range = _range(places + lines, panel.y)
    _tick(plot, panel)
    tags = {id(point): [series.row] for series in panel.series for point in series.points}
    for point, side in _named(panel, plot.x_range, plot.y_range):
        offset = 7 if side == "left" else -7
        name = _plain(point.label)
        look = {"text_font_size": "10px", "text_align": side, "tags": tags[id(point)]}
        plot.add_layout(Label(x=point.x, y=point.y, x_offset=offset, y_offset=3, text=name, **look))


def _row_by_row(plot: figure, panel: Panel, places: list[float]) -> None:
    """The name of a row above its point, its value behind it."""
    plot.x_range = _range(places, panel.x, room=0.12)
    plot.x_range.end *= (plot.x_range.end / plot.x_range.start) ** 0.08  # for the values
    plot.y_range = Range1d(-0.7, len(panel.y.ticks) - 0.1)
    plot.yaxis[0].visible = False
    for series in panel.series:
        look = {"text_font_size": "11px", "tags": [series.row]}
        for point in series.points:
            plot.add_layout(Label(x=6, y=point.y + 0.22, x_units="screen", text=_plain(series.row), **look))
            plot.add_layout(Label(x=point.high, y=point.y, x_offset=8, y_offset=-7, text=point.label, **look))
    _tick(plot, panel)


def _named(panel: Panel, across: Range1d, up: Range1d) -> list[tuple[Point, str]]:
    """The points with room for their name at the narrowest width, and which side of the name is at the point.

    No name is on another, on a point, or twice nearby.
    """
    if panel.x.ticks:
        return []
    points = [point for series in panel.series for point in series.points if point.label]
    places = [(_FRAME[0] * _share(p.x, across, panel.x.log), _FRAME[1] * _share(p.y, up, panel.y.log)) for p in points]
    named, boxes = list[tuple[Point, str]](), list[tuple[float, float, float, str]]()
    for point, (x, y) in zip(points, places, strict=True):
        long = _LETTER * len(point.label)
        for side, left in (("left", x + 6), ("right", x - 6 - long)):
            right = left + long
            hit = left < 0 or right > _FRAME[0]
            hit |= any(left - 5 < px < right + 5 and y - 4 < py < y + _LINE + 8 for px, py in places)
            for one, other, line, label in boxes:
                hit |= left < other and one < right and abs(y - line) < _LINE
                hit |= label == point.label and abs(left - one) < long
            if not hit:
                named.append((point, side))
                boxes.append((left, right, y, point.label))
                break
    return named


def _share(value: float, shown: Range1d, log: bool) -> float:
    """Where it lies in the range, from 0 to 1."""
    low, high, at = (math.log(each) if log else each for each in (shown.start, shown.end, value))
    return float((at - low) / (high - low))


def _tick(plot: figure, panel: Panel) -> None:
    """Ticks of log axes, everywhere, for those who move the picture; more of them in less than a decade."""
    sides = (
        (plot.xaxis[0], plot.xgrid[0], plot.x_range, panel.x),
        (plot.yaxis[0], plot.ygrid[0], plot.y_range, panel.y),
    )
    for axis, grid, shown, asked in sides:
        if asked.log:
            if shown.end < 4 * shown.start:
                axis.ticker = grid.ticker = BasicTicker(desired_num_ticks=5)
                continue
            parts = (1, 2, 5) if shown.end > 20 * shown.start else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
            axis.ticker = grid.ticker = FixedTicker(ticks=[part * 10.0**power for power in _DECADES for part in parts])


def _range(values: list[float], axis: Axis, room: float = 0.06) -> Range1d:
    """With room at the ends."""
    low, high = min(values, default=1.0), max(values, default=2.0)
    if axis.log:
        share = max(high / low, 1.05) ** room
        return Range1d(low / share, high * share)
    reach = 0.5 if axis.ticks else ((high - low) or abs(high) or 1.0) * room
    return Range1d(0 if axis.zero else low - reach, high + reach)


def heat(changes: dict[int, dict[str, float]]) -> dict[str, Any]:
    """The share of a weight's mask that changed at each z-update, weights by steps, as Bokeh's JSON."""
    steps = list(changes)[:: -(-len(changes) // _STEPS)]
    names = list(changes[steps[0]])
    plot = figure(
        height=_HEIGHT, sizing_mode="stretch_width", tools="pan,box_zoom,reset", background_fill_alpha=0,
        border_fill_alpha=0, x_range=Range1d(steps[0], steps[-1]), y_range=Range1d(len(names), 0),
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    for axis, label in ((plot.xaxis[0], "step"), (plot.yaxis[0], "weight, in the order of the blocks")):
        _scale(axis, Axis(label), is_x=True)
    mapper = LinearColorMapper(
        "Viridis256", low=0, high=max(share for each in changes.values() for share in each.values())
    )
    shares = np.array([[changes[step][name] for step in steps] for name in names], dtype=np.float32)
    place = {"x": steps[0], "y": 0, "dw": steps[-1] - steps[0], "dh": len(names)}
    plot.image(image=[shares], color_mapper=mapper, **place)
    scale = ColorBar(color_mapper=mapper, background_fill_alpha=0, width=8, major_label_text_color="#808890")
    plot.add_layout(scale, "right")
    name_of = CustomJSHover(args={"names": names}, code="return names[Math.floor(special_vars.y)] ?? ''")
    told = [("step", "$x{0}"), ("weight", "$y{custom}"), ("changed", "@image{0.0%}")]
    plot.add_tools(HoverTool(tooltips=told, formatters={"$y": name_of}, visible=False))
    return dict(json_item(plot))


def as_script(content: object) -> str:
    """JSON that ends no script element."""
    return json.dumps(content).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
