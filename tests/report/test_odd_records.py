"""Names and numbers of records may be anything: nothing becomes HTML, markup or a formula, and no picture fails."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from elsa.record.record import parsed, views
from elsa.report import figure
from elsa.report.grid import accuracy_grids, csv_cells, grids, latex_grid, markdown_grid
from elsa.report.page import page
from elsa.report.table import columns, markdown_table, print_tables
from elsa.run.report import _write
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


def test_no_string_of_a_record_becomes_an_element_or_an_attribute_of_the_page(tmp_path):
    records = [evil("a", 0), evil("b", 1)]
    every = grids(records) + accuracy_grids(records)
    assert any(EVIL in row for grid in every for row in grid.rows)
    every[0].notes.append(EVIL)
    picture = tmp_path / f"{EVIL.replace('/', '')}.png"
    picture.write_bytes(b"png")
    elements = Elements(page(every, [picture], records, [EVIL]))
    assert {tag for tag, _ in elements.found} <= {
        "html", "meta", "title", "style", "h1", "h2", "table", "tr", "th", "td", "span", "b", "p", "img", "ul", "li",
    }  # fmt: skip
    assert set().union(*(keys for _, keys in elements.found)) == {"lang", "charset", "title", "alt", "src"}
    assert "".join(elements.text).count("<script>") > 10, "they are there, as text"


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


ODD = [math.inf, math.nan, 1e300, 1e-300, 20.0]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("values", [*([each, each] for each in ODD[:4]), ODD, [1.7e308, 1.7e308]])
def test_numbers_that_no_axis_has_are_words_in_the_tables_and_stay_out_of_the_pictures(tmp_path, values, several):
    ratios = [0.5, 0.9] if several else [0.5]
    whole = [
        record("wanda", f"{ratio:.0%}", value, name=f"{ratio}-{seed}", seed=seed,
               config={"model": {}, "sparsity": {"pattern": "unstructured", "ratio": ratio}})
        for ratio in ratios for seed, value in enumerate(values)
    ]  # fmt: skip
    whole = [parsed(json.dumps(each), "here") for each in [*whole, record("dense", "dense", values[0])]]
    _write(tmp_path, [(each, None) for each in whole], [])
    figure.perplexity_figure([view for each in whole for view in views(each)], tmp_path / "sweep.png")
    assert (tmp_path / "perplexity_0.png").stat().st_size > 5_000
    assert (tmp_path / "sweep.png").stat().st_size > 5_000
    assert all(len(line) < 2_000 for line in (tmp_path / "tables.md").read_text().splitlines())
    assert bool(list(tmp_path.glob("cost_*"))) == (20.0 in values), "no picture without a point"
    assert not {"NaN", "Infinity"} & set((tmp_path / "records.jsonl").read_text().replace(",", " ").split())
    again = [parsed(line, "bundle") for line in (tmp_path / "records.jsonl").read_text().splitlines()]
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
    figure.grid_figure(grid, tmp_path / "a.png")
    figure.pareto_figure(views_of, "held_out", tmp_path / "b.png")
    figure.perplexity_figure(views_of, tmp_path / "c.png")
    figure.sparsity_figure(odd[0], tmp_path / "d.png")
    figure.convergence_figure({"$^$": [("$_$", [{"step": 1.0, "loss": 2.0}])]}, "$^$", tmp_path / "e.png")


def test_a_curve_keeps_out_what_has_no_logarithm(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figure, "_save", lambda made, path, dpi: drawn.append(made))
    lines = [{"step": step, "loss": loss} for step, loss in enumerate([math.nan, math.inf, 0.0, -1.0, 3.0])]
    lines.append({"loss": 5.0})
    figure.convergence_figure({"50%": [("elsa", lines)]}, "title", tmp_path / "a.png")
    assert list(drawn[0].axes[0].lines[0].get_ydata()) == [3.0]


def test_all_weights_zero_have_no_place_on_a_log_axis(tmp_path):
    gone = record(sparsity={"counted": 1.0, "zeros": 100, "numel": 100, "tensors": {}})
    figure.pareto_figure(views(gone), "held_out", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_a_name_leads_no_picture_out_of_the_report(tmp_path, capsys):
    away = record("elsa", model="../../away")
    score = away["evaluations"][0]["perplexity"]
    score["../x"] = score.pop("held_out")
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    folder = tmp_path / "reports" / "a"
    _write(folder, [(away, run)], [])
    names = {path.name for path in folder.iterdir() if path.suffix == ".png"}
    assert names == {"perplexity_0.png", "cost_0_.._x.png", "convergence_0_.._.._away.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "reports"}
    assert [path.name for path in Path(tmp_path / "reports").iterdir()] == ["a"]


@pytest.mark.parametrize("content", ["[1]\n", "{\n", '{"step": "x"}\n', '{"step": null}\n', "\x00\n"])
def test_a_broken_curve_is_named_and_left_out(tmp_path, capsys, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    _write(tmp_path / "report", [(record("elsa"), tmp_path)], [])
    assert f"elsa: skipped the curve of {tmp_path}" in capsys.readouterr().err
