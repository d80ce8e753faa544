"""What the page's pictures hold, as Bokeh's JSON: the browser that draws them is not at hand here."""

import json

import pytest

from elsa.report.chart import _named, chart, heat
from elsa.report.picture import Axis, Panel, Point, Series
from elsa.report.style import Style

STYLE = Style("#123456", "square", "dashed")


def panel(points, x=None, **more):
    return Panel(
        x or Axis("x", log=True), Axis("perplexity", log=True), (Series("elsa", STYLE, tuple(points), **more),)
    )


def models(item, name):
    """The attributes of all models of a class, wherever they stand."""
    if isinstance(item, dict) and "doc" in item:
        return models(json.loads(json.dumps(item["doc"])), name)
    if isinstance(item, dict):
        own = [item["attributes"]] if item.get("name") == name and "attributes" in item else []
        return own + [found for value in item.values() for found in models(value, name)]
    return [found for value in item for found in models(value, name)] if isinstance(item, list) else []


def point(x, y, label="", run="a"):
    facts = (("row", "elsa"), ("at", label), ("seed", "3"), ("run", run))
    return Point(x, y, y * 0.9, y * 1.1, facts, (run,), label)


def test_the_mouse_is_told_value_seed_and_run_and_a_click_leads_to_the_page():
    made = chart(panel([point(1, 9.0, "50%"), point(2, 8.0, "90%", "b")], joined=True), {"b": "runs/b.html"})
    (hover,) = models(made, "HoverTool")
    told = [line.split("</i> ") for line in hover["tooltips"].split("<i>")[1:]]
    assert [(name, value.split("<")[0]) for name, value in told] == [
        ("row", "elsa"), ("at", "@fact1"), ("seed", "3"), ("run", "@fact3"),
    ]  # fmt: skip
    columns = dict(models(made, "ColumnDataSource")[0]["data"]["entries"])
    assert columns["page"] == ["", "runs/b.html"]
    assert columns["fact3"] == ["a", "b"]
    assert "data.page" in models(made, "CustomJS")[0]["code"]
    glyph, *_ = models(made, "Scatter")
    assert glyph["marker"]["value"] == "square"
    assert models(made, "Line")[0]["line_dash"] == [6]
    assert len(models(made, "Whisker")) == 1


def test_what_is_switched_off_in_a_legend_is_named_by_its_row():
    made = chart(panel([point(1, 9.0), point(2, 8.0)], joined=True), {})
    assert [each["tags"] for each in models(made, "GlyphRenderer")] == [["elsa"], ["elsa"]]
    assert models(made, "Whisker")[0]["tags"] == ["elsa"]


def test_long_curves_are_thinned():
    points = [Point(step, 2.0, 2.0, 2.0, (("step", str(step)),)) for step in range(1, 4097)]
    assert len(json.dumps(chart(panel(points, joined=True, marked=False), {}))) < 40_000


def test_names_beside_points_keep_clear_of_each_other_at_the_narrowest_width():
    crowded = panel([point(1 + at / 100, 9.0 + at / 100, f"{at}%") for at in range(50)])
    lone = panel([point(1, 9.0, "50%"), point(100, 90.0, "90%")])
    few = _named(crowded, *ranges(1, 1.6, 9, 9.6))
    assert 0 < len(few) < 25
    both = _named(lone, *ranges(0.9, 110, 8, 100))
    assert [(named.label, side) for named, side in both] == [("50%", "left"), ("90%", "right")], "inside the frame"


def ranges(left, right, low, high):
    class Shown:
        def __init__(self, start, end):
            self.start, self.end = start, end

    return Shown(left, right), Shown(low, high)


@pytest.mark.parametrize("spread", [1.05, 3.0, 15.0, 1e6])
def test_a_log_axis_has_ticks_whatever_it_spans(spread):
    made = chart(panel([Point(1.0, 9.0, 9.0, 9.0), Point(2.0, 9.0 * spread, 9.0 * spread, 9.0 * spread)]), {})
    (axis,) = (axis for axis in models(made, "LogAxis") if axis["axis_label"] == "perplexity")
    ticker = axis["ticker"]
    shown = [tick for tick in ticker["attributes"].get("ticks", []) if 9.0 <= tick <= 9.0 * spread]
    assert ticker["name"] == "BasicTicker" or len(shown) >= 2
    assert axis["major_label_policy"]["name"] == "NoOverlap"


def test_the_heat_map_has_a_row_a_weight_and_a_column_a_step():
    made = heat({8: {"a": 0.5, "b": 0.1}, 16: {"a": 0.25, "b": 0.0}, 24: {"a": 0.0, "b": 0.0}})
    (image,) = dict(models(made, "ColumnDataSource")[0]["data"]["entries"])["image"]
    assert image["shape"] == [2, 3]
    assert models(made, "CustomJSHover")[0]["args"]["entries"] == [["names", ["a", "b"]]]
