"""Names and numbers of records may be anything: nothing becomes HTML, markup or a formula, and no picture fails."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from elsa.record.record import parsed, views
from elsa.report import figure, picture
from elsa.report.chart import chart
from elsa.report.grid import accuracy_grids, csv_cells, grids, latex_grid, markdown_grid
from elsa.report.page import Progress, page
from elsa.report.run_page import run_page
from elsa.report.style import Styles
from elsa.report.table import columns, markdown_table, print_tables
from elsa.run.report import _Found, _write
from tests.record.records import answered, record

EVIL = "<script>alert(1)</script>\"'&"


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, {key for key, _ in attributes}))

    def handle_data(self, data):
        self.text.append(data)


def everywhere(value, text):
    """Every string in it, keys of names too, replaced by `text`; what no name can be keeps its kind."""
    if isinstance(value, dict):
        return {key: everywhere(each, text) for key, each in value.items()}
    return text if isinstance(value, str) else value


def evil(method, seed, **scores):
    """A view whose every string is HTML, set and task names and the keys of settings too."""
    (view,) = views(answered(method=method, seed=seed, **scores))
    view = everywhere(view, EVIL)
    view["perplexity"] = {EVIL: view["perplexity"]["held_out"]}
    tasks, items = view["zero_shot"]["tasks"], view["zero_shot"]["items"]
    view["zero_shot"] |= {"tasks": {EVIL: tasks["rte"]}, "items": {EVIL: items["rte"]}}
    view["settings"] = {EVIL: EVIL + str(seed)}
    view["config"]["sparsity"] = {"pattern": "unstructured", "ratio": 0.5}
    return view | {"name": f"{EVIL}{seed}"}


ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "b", "span", "a", "ul", "li", "dl", "dt",
    "dd", "div", "table", "thead", "tbody", "tr", "th", "td", "button", "figure", "figcaption", "svg", "path", "script",
    "progress", "pre",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "name", "content", "class", "scope", "type", "id", "title", "href", "data-key", "data-row",
    "aria-pressed", "aria-hidden", "viewbox", "width", "height", "d", "stroke", "stroke-width", "stroke-dasharray",
    "fill", "http-equiv", "max", "value", "src",
}  # fmt: skip


def test_no_string_of_a_record_becomes_an_element_or_an_attribute_of_the_page(tmp_path):
    records = [evil("a", 0), evil("b", 1)]
    every = grids(records) + accuracy_grids(records)
    assert any(EVIL in row for grid in every for row in grid.rows)
    every[0].notes.append(EVIL)
    styles = picture.report_styles(every, [])
    pictures = [picture.grid_picture(every[0], styles, "perplexity_0"), picture.pareto_picture(records, EVIL, EVIL)]
    pictures.append(picture.convergence_picture({EVIL: [(EVIL, EVIL, EVIL, LINES)]}, styles, EVIL, EVIL))
    progress = Progress(30, {"done": 1, "running": 1}, [[EVIL] * 4])
    text = page(every, pictures, records, [EVIL], styles=styles, folders={EVIL + "0": EVIL}, progress=progress)
    elements = Elements(text)
    assert {tag for tag, _ in elements.found} <= ELEMENTS
    assert set().union(*(keys for _, keys in elements.found)) <= ATTRIBUTES - {"src"}
    assert sum(tag == "script" for tag, _ in elements.found) == 3
    assert "".join(elements.text).count("<script>") > 10, "they are there, as text"


def test_no_string_of_a_record_becomes_an_element_or_an_attribute_of_a_runs_page(tmp_path):
    whole = answered(method=EVIL, model=EVIL, name=EVIL, settings={EVIL: EVIL}, facts={"verdict": EVIL})
    whole["evaluations"][0]["zero_shot"]["tasks"] = {EVIL: whole["evaluations"][0]["zero_shot"]["tasks"]["rte"]}
    lines = [line | {EVIL: line["loss"]} for line in LINES]
    said = [(EVIL, {EVIL: EVIL})]
    text = run_page(whole, tmp_path, tmp_path / EVIL.replace("/", ""), lines, {1: {EVIL: 0.5}, 2: {EVIL: 0.1}}, said)
    elements = Elements(text)
    assert {tag for tag, _ in elements.found} <= ELEMENTS
    assert set().union(*(keys for _, keys in elements.found)) <= ATTRIBUTES
    assert sum(tag == "script" for tag, _ in elements.found) == 3
    assert "".join(elements.text).count("<script>") > 10


def test_what_the_mouse_is_told_is_no_html_and_names_no_column():
    """Bokeh escapes what stands in columns; what all points share stands in its template."""
    facts = (("row", EVIL + "@x $y @fact0{safe}"),)
    points = tuple(picture.Point(at, 1.0, 1.0, 1.0, facts) for at in range(2))
    series = picture.Series(EVIL, Styles([])["a"], points)
    made = chart(picture.Panel(picture.Axis(r"$$x$$ \(y\)"), picture.Axis("y"), (series,)), {})
    (hover,) = (tool for tool in made["doc"]["roots"][0]["attributes"]["toolbar"]["attributes"]["tools"]
                if tool["name"] == "HoverTool")  # fmt: skip
    template = hover["attributes"]["tooltips"]
    assert {tag for tag, _ in Elements(template).found} == {"div", "i"}
    assert not set(template.split("overflow-wrap", 1)[1]) & set("@$'")
    assert "$$" not in json.dumps(made)
    assert r"\\(" not in json.dumps(made)


def test_no_string_of_a_record_begins_html_in_markdown_or_a_cell():
    records = [evil("a", 0), evil("b", 1)]
    records[0]["settings"] = {"a|b": "c\nd"}
    for text in [*map(markdown_grid, grids(records) + accuracy_grids(records)), markdown_table(records)]:
        assert "<" not in text
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert len({line.replace(r"\|", "").count("|") for line in table}) == 1


def test_no_character_of_a_name_is_a_command_in_latex():
    records = [record(name="a", settings={"k": r"\input{x} $y$ ~^"}), record(name="b", settings={"k": "2"})]
    records = [view for each in records for view in views(each)]
    (grid,) = grids(records)
    escaped = r"wanda (k=\textbackslash{}input\{x\} \$y\$ \textasciitilde{}\textasciicircum{}) & "
    assert any(line.startswith(escaped) for line in latex_grid(grid).splitlines())


def test_brackets_in_names_are_no_markup(capsys):
    print_tables(views(record(method="[bold]wanda[/x]", model="data=[/tmp/a.txt]")))
    out = capsys.readouterr().out
    assert "[bold]wanda[/x]" in out
    assert "data=[/tmp/a.txt]" in out


LINES = [{"step": 8.0, "loss": 3.0}, {"step": 16.0, "loss": 2.0, "probe_loss": 2.5, "probe_loss_sparse": 4.0}]
ODD = [math.inf, math.nan, 1e300, 1e-300, 20.0]


@pytest.mark.parametrize(
    ("values", "several"),
    [([math.inf] * 2, False), ([math.nan] * 2, True), ([1e300] * 2, False), ([1e-300] * 2, True), (ODD, True),
     ([1.7e308] * 2, False)],
)  # fmt: skip
def test_numbers_that_no_axis_has_are_words_in_the_tables_and_stay_out_of_the_pictures(tmp_path, values, several):
    ratios = [0.5, 0.9] if several else [0.5]
    whole = [
        record("wanda", f"{ratio:.0%}", value, name=f"{ratio}-{seed}", seed=seed,
               config={"model": {}, "sparsity": {"pattern": "unstructured", "ratio": ratio}})
        for ratio in ratios for seed, value in enumerate(values)
    ]  # fmt: skip
    whole = [parsed(json.dumps(each), "here") for each in [*whole, record("dense", "dense", values[0])]]
    _write(tmp_path, "a", _Found([(each, None) for each in whole]))
    folder = tmp_path / "reports" / "a"
    figure.perplexity_figure([view for each in whole for view in views(each)], tmp_path / "sweep.png")
    assert (folder / "perplexity_0.png").stat().st_size > 5_000
    assert (tmp_path / "sweep.png").stat().st_size > 5_000
    assert all(len(line) < 2_000 for line in (folder / "tables.md").read_text().splitlines())
    assert bool(list(folder.glob("cost_*"))) == (20.0 in values), "no picture without a point"
    assert not {"NaN", "Infinity"} & set((folder / "records.jsonl").read_text().replace(",", " ").split())
    again = [parsed(line, "bundle") for line in (folder / "records.jsonl").read_text().splitlines()]
    assert len(again) == len(whole)


@pytest.mark.parametrize(("value", "shown"), [(math.inf, "inf"), (math.nan, "nan"), (1e300, "1e+300"), (1e9, "1e9")])
def test_a_number_that_is_none_or_huge_is_a_short_word(value, shown):
    shown = "1,000,000,000" if shown == "1e9" else shown
    records = [
        view for each in (record("wanda", perplexity=value), record("dense", "dense", value)) for view in views(each)
    ]
    (grid,) = grids(records)
    assert grid.text("wanda", "50%") == shown
    assert f"without pruning {shown}" in grid.title
    assert columns(records)[1][0][2].startswith(shown)
    assert csv_cells([grid])


def test_what_is_no_number_is_neither_the_best_nor_above_the_rest():
    records = [record(method, perplexity=value) for method, value in (("a", math.nan), ("b", 9.0), ("c", 7.0))]
    (grid,) = grids([view for each in records for view in views(each)])
    assert grid.rows == ["a", "b", "c"]
    assert grid.best("50%") == "c"


def test_one_seed_without_a_number_takes_the_spread_and_not_the_report():
    records = [record(name=f"{seed}", seed=seed, perplexity=value) for seed, value in enumerate([9.0, math.inf])]
    (grid,) = grids([view for each in records for view in views(each)])
    assert grid.text("wanda", "50%") == "inf"


def test_a_dollar_in_a_name_begins_no_formula(tmp_path):
    odd = [record(rf"$\frac{{{name}", model="$_{$", name=name, settings={name: 1}) for name in "ab"]
    views_of = [view for each in odd for view in views(each)]
    (grid,) = grids(views_of)
    figure.draw(picture.grid_picture(grid, Styles([]), "a"), tmp_path / "a.png")
    figure.draw(picture.pareto_picture(views_of, "held_out", "b"), tmp_path / "b.png")
    figure.perplexity_figure(views_of, tmp_path / "c.png")
    figure.sparsity_figure(odd[0], tmp_path / "d.png")
    curves = {"$^$": [("$_$", "$_$", "a", [{"step": 1.0, "loss": 2.0}])]}
    figure.draw(picture.convergence_picture(curves, Styles([]), "e", "$^$"), tmp_path / "e.png")


def test_a_curve_keeps_out_what_has_no_logarithm():
    lines = [{"step": step, "loss": loss} for step, loss in enumerate([math.nan, math.inf, 0.0, -1.0, 3.0])]
    lines.append({"loss": 5.0})
    made = picture.convergence_picture({"50%": [("elsa", "elsa", "a", lines)]}, Styles([]), "a", "title")
    assert [point.y for point in made.series[0].points] == [3.0]


def test_all_weights_zero_have_no_place_on_a_log_axis(tmp_path):
    gone = record(sparsity={"counted": 1.0, "zeros": 100, "numel": 100, "tensors": {}})
    figure.draw(picture.pareto_picture(views(gone), "held_out", "a"), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_a_name_leads_no_picture_out_of_the_report(tmp_path, capsys):
    away = record("elsa", model="../../away")
    score = away["evaluations"][0]["perplexity"]
    score["../x"] = score.pop("held_out")
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    folder = tmp_path / "reports" / "a"
    _write(tmp_path, "a", _Found([(away, run)]))
    names = {path.name for path in folder.iterdir() if path.suffix == ".png"}
    assert names == {"perplexity_0.png", "cost_0_.._x.png", "convergence_0_.._.._away.png"}
    assert [path.name for path in (folder / "runs").iterdir()] == ["tiny-elsa-50_-731797689c72.html"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "reports"}
    assert [path.name for path in Path(tmp_path / "reports").iterdir()] == ["a"]


@pytest.mark.parametrize(
    "content", ['{"step": 1, "loss": "x"}\n', '{"step": 1, "loss": null}\n', '{"step": 1, "loss": [1]}\n']
)
def test_a_broken_curve_is_named_and_left_out(tmp_path, capsys, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    _write(tmp_path, "a", _Found([(record("elsa"), tmp_path)]))
    assert f"elsa: skipped the curve of {tmp_path}" in capsys.readouterr().err
