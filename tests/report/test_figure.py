"""Pictures are looked at by people; here, that they are drawn from what they claim to show."""

import pytest

from elsa.report import figure, picture
from elsa.report.grid import Cell, Grid
from elsa.report.picture import human
from elsa.report.style import MARKERS, Style, Styles, method_style

STYLES = Styles([])


def record(method, zeros, perplexity, model="tiny", numel=100, seed=0):
    return {
        "name": f"{method}-{zeros}", "model": model, "method": method, "pattern": f"{zeros}%" if zeros else "dense",
        "seconds": {"prune": 7.0}, "seed": seed,
        "sparsity": {"numel": numel, "zeros": zeros}, "perplexity": {"a": {"perplexity": perplexity}},
    }  # fmt: skip


def grid(cells, kinds, **more):
    rows = list(dict.fromkeys(row for row, _ in cells))
    return Grid("title", rows, list(kinds), cells, kinds=kinds, methods={row: row for row in rows}, **more)


def cell(*values):
    return Cell(list(values), [f"run-{at}" for at in range(len(values))], seeds=list(range(len(values))))


def test_the_front_is_what_no_other_beats_in_both():
    assert picture.pareto([(3, 5.0), (1, 9.0), (2, 9.5), (2, 6.0), (4, 5.0), (5, 4.0)]) == [
        (1, 9.0), (2, 6.0), (3, 5.0), (5, 4.0),
    ]  # fmt: skip


def test_non_zeros_and_the_front_are_drawn():
    records = [record("wanda", 50, 20.0), record("elsa", 50, 10.0), record("elsa", 90, 30.0), record("dense", 0, 9.0)]
    made = picture.pareto_picture(records, "a", "pareto")
    (axis,) = figure.figure_of(made).axes
    front = next(line for line in axis.lines if line.get_drawstyle() == "steps-post")
    assert tuple(map(list, front.get_data())) == ([10, 50, 100], [30.0, 10.0, 9.0])
    assert {text.get_text() for text in axis.texts} == {"50%", "90%", "dense"}
    facts = dict(made.series[0].points[0].facts)
    assert (facts["seed"], facts["run"], facts["perplexity"]) == ("0", "wanda-50", "20.00")


def test_models_of_several_sizes_are_named():
    records = [record("elsa", 50, 20.0), record("elsa", 50, 10.0, model="big", numel=1000)]
    (axis,) = figure.figure_of(picture.pareto_picture(records, "a", "pareto")).axes
    assert {text.get_text() for text in axis.texts} == {"tiny 50%", "big 50%"}


def test_a_line_joins_sparsities_of_one_kind_and_never_reaches_a_pattern_of_groups():
    cells = {("elsa", pattern): cell(9.0) for pattern in ("50%", "90%", "90% global", "95% global", "2:4", "4:8")}
    kinds = {"50%": "", "90%": "", "90% global": "global", "95% global": "global", "2:4": "N:M", "4:8": "N:M"}
    made = picture.grid_picture(grid(cells, kinds), STYLES, "a")
    ((panel,),) = made.panels
    place = {name: at for at, name in panel.x.ticks.items()}
    joined = [[point.x for point in series.points] for series in panel.series if series.joined]
    assert joined == [[place["50%"], place["90%"]], [place["90% global"], place["95% global"]]]
    assert [len(series.points) for series in panel.series if not series.joined] == [2]
    (axis,) = figure.figure_of(made).axes
    between = (place["95% global"], place["2:4"])
    lines = [line for line in axis.lines if line.get_linestyle() != "None" and line.get_marker() == "o"]
    assert len(lines) == 2
    assert not any(min(line.get_xdata()) <= between[0] and max(line.get_xdata()) >= between[1] for line in lines)


def test_the_dense_model_is_a_line_to_compare_with():
    dense = {"dense": cell(5.0), "dense+finetuned": cell(4.0, 4.4)}
    cells = {("elsa", pattern): cell(9.0) for pattern in ("50%", "90%")}
    over = picture.grid_picture(grid(cells, {"50%": "", "90%": ""}, dense=dense), STYLES, "a").panels[0][0]
    assert over.across == (("dense 5.00", 5.0), ("dense+finetuned 4.20 ± 0.28", pytest.approx(4.2)))
    alone = picture.grid_picture(grid({("elsa", "50%"): cell(9.0)}, {"50%": ""}, dense=dense), STYLES, "a").panels[0][0]
    assert [place for _, place in alone.up] == [5.0, pytest.approx(4.2)]
    cost = picture.cost_picture([record("elsa", 50, 9.0), record("dense", 0, 5.0)], "a", "cost").panels[0][0]
    assert cost.across == (("dense 5.00", 5.0),)


def test_accuracies_have_a_point_for_each_row_and_task_with_its_error():
    cells = {
        ("dense", "rte"): Cell([60.0], ["a"], [2.5]), ("elsa", "rte"): Cell([50.0, 54.0], ["b", "c"], [2.5, 2.5]),
        ("dense", "mean"): Cell([60.0], ["a"]),
    }  # fmt: skip
    made = picture.accuracy_picture(
        Grid("title", ["elsa", "dense"], ["rte", "mean"], cells, lowest_wins=False), STYLES, "a"
    )
    found = {(series.row, round(point.x)): point for series in made.series for point in series.points}
    assert {place: point.y for place, point in found.items()} == {
        ("elsa", 0): 52.0,
        ("dense", 0): 60.0,
        ("dense", 1): 60.0,
    }
    assert (found["dense", 0].low, found["dense", 0].high) == (57.5, 62.5)
    assert found["elsa", 0].high - 52.0 == pytest.approx(8**0.5)
    assert len({point.x for point in found.values()}) == 3, "beside each other"


def test_training_is_drawn_with_both_losses_of_the_probe():
    lines = [{"step": 8, "loss": 3.0}, {"step": 16, "loss": 2.0, "probe_loss": 2.5, "probe_loss_sparse": 4.0}]
    curves = {"50%": [("elsa", "elsa", "a", lines)]}
    curves["90%"] = [("elsa", "elsa", "a", lines), ("finetuned", "finetuned", "b", lines[:1])]
    made = picture.convergence_picture(curves, STYLES, "a", "training")
    axes = figure.figure_of(made).axes
    assert len(axes) == 4
    assert list(axes[0].lines[0].get_ydata()) == [3.0, 2.0]
    assert [(list(line.get_ydata()), line.get_linestyle()) for line in axes[2].lines] == [([2.5], "-"), ([4.0], "--")]


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0.05, "0.05"), (20, "20"), (5000, "5,000"), (1e4, "10 k"), (2e5, "200 k"), (2.4e6, "2.4 M"), (1.6e9, "1.6 B")],
)
def test_axes_have_human_units(number, shown):
    assert human(number) == shown


@pytest.mark.parametrize("low", [1.1e5, 3.0, 6e3])
@pytest.mark.parametrize("high", [2.0, 30.0, 1e4])
@pytest.mark.parametrize("several", [False, True])
def test_no_two_names_lie_on_each_other(low, high, several):
    columns = [f"{percent}% global" for percent in (50, 60, 70, 80, 90, 95, 97, 98, 99)] if several else ["50%"]
    cells = {
        (row, column): cell(low * (1 + high * at / 9), low * (1.01 + high * at / 9))
        for at, row in enumerate(["elsa", "wanda", "a method with a long name (rate=1, more=2, and still more=3)"])
        for column in columns
    }  # fmt: skip
    made = figure.figure_of(picture.grid_picture(grid(cells, dict.fromkeys(columns, "")), STYLES, "a"))
    made.draw_without_rendering()
    for axis in made.axes:
        for texts in (figure.tick_labels(axis.xaxis), figure.tick_labels(axis.yaxis), axis.texts):
            boxes = [text.get_window_extent() for text in texts]
            aslant = any(text.get_rotation() for text in texts)
            assert aslant or not any(one.overlaps(two) for at, one in enumerate(boxes) for two in boxes[:at])
        assert len(figure.tick_labels(axis.xaxis)) >= 2 or not several


def test_labels_of_points_keep_clear_of_each_other():
    records = [record("elsa", zeros, 9.0 + zeros / 1000) for zeros in range(40, 60)]
    made = figure.figure_of(picture.cost_picture(records, "a", "cost"))
    boxes = [text.get_window_extent() for text in made.axes[0].texts]
    assert boxes
    assert not any(one.overlaps(two) for at, one in enumerate(boxes) for two in boxes[:at])


def test_a_method_looks_the_same_in_every_report_and_its_kin_are_told_apart():
    settings = [(f"elsa (rate={rate})", "elsa", False) for rate in range(20)]
    rows = [
        ("elsa", "elsa", False),
        ("elsa (published)", "elsa", True),
        ("mine", "mine", False),
        ("wanda", "wanda", False),
    ]
    one, other = Styles([*rows, *settings]), Styles([("wanda", "wanda", False), ("elsa", "elsa", False)])
    for row in ("elsa", "wanda", "mine"):
        assert one[row] == other[row] == method_style(row)
    looks = [one[row] for row, *_ in [*rows, *settings]]
    assert len(set(looks)) == len(looks) == 24
    assert Styles(reversed([*rows, *settings]))["elsa (rate=7)"] == one["elsa (rate=7)"]


def test_what_follows_a_method_keeps_its_colour_and_marker():
    alps, both, more = map(method_style, ("alps", "alps+finetuned", "alps+swaps+finetuned"))
    assert {(style.color, style.marker) for style in (alps, both, more)} == {(alps.color, alps.marker)}
    assert len({(style.dash, style.filled) for style in (alps, both, more)}) == 3
    known = [method_style(name) for name in ("elsa", "elsa_plus", "best", "alps", "sparsegpt", "wanda", "magnitude")]
    assert len({style.color for style in known}) == len({style.marker for style in known}) == 7


def test_rows_look_in_the_figure_as_their_style_says():
    style = Style("#123456", "triangle", "dashed", filled=False)
    series = picture.Series("row", style, (picture.Point(1, 2, 2, 2), picture.Point(2, 3, 3, 3)), joined=True)
    panel = picture.Panel(picture.Axis("x"), picture.Axis("y"), (series,))
    (axis,) = figure.figure_of(picture.Picture("a", "title", ((panel,),))).axes
    (line,) = axis.lines
    assert (line.get_color(), line.get_marker(), line.get_linestyle()) == (
        "#123456",
        MARKERS["triangle"].matplotlib,
        "--",
    )
    assert line.get_markerfacecolor() == "white"


def test_the_same_picture_is_written_as_png_and_svg(tmp_path):
    figure.draw(picture.cost_picture([record("elsa", 50, 9.0)], "a", "cost"), tmp_path / "cost.png")
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    svg = (tmp_path / "cost.svg").read_text()
    assert "seconds of pruning" in svg
    figure.draw(picture.cost_picture([record("elsa", 50, 9.0)], "a", "cost"), tmp_path / "again.png")
    assert (tmp_path / "again.svg").read_text() == svg
