import re

import pytest

from elsa.record.record import views
from elsa.report.chart import as_script, library, packed
from elsa.report.grid import Cell, Grid, accuracy_grids, generation_grids, grids
from elsa.report.headline import headline, leads
from elsa.report.page import LIBRARY, Progress, cell, page
from elsa.report.picture import cost_picture, grid_picture, report_styles
from elsa.report.run_page import run_page
from elsa.report.style import Styles, method_style, swatch
from tests.record.records import answered, damaged, record, wrote

KINDS = {"50%": "", "90%": "", "2:4": "N:M"}


def seeded(values, first=0):
    """A cell with a seed each."""
    runs = [f"run-{at}" for at in range(len(values))]
    return Cell(list(values), runs, seeds=list(range(first, first + len(values))))


def compared(**rows):
    """A grid of these rows over the first patterns."""
    columns = list(KINDS)[: max(map(len, rows.values()))]
    cells = {(row, column): each for row, own in rows.items() for column, each in zip(columns, own, strict=False)}
    return Grid("title", list(rows), columns, cells, kinds=KINDS, place="tiny, held_out")


def test_the_head_says_who_won_where_by_how_much_and_on_how_many_seeds():
    elsa = [seeded([9.0, 10.0, 11.0]), seeded([20.0, 21.0, 22.0])]
    alps = [seeded([9.1, 9.9, 11.3]), seeded([30.0, 31.5, 31.5])]
    assert headline(compared(wanda=[seeded([99.0])], elsa=elsa, alps=alps)) == [
        "tiny, held_out: the lowest perplexity is that of elsa at both patterns.",
        "Widest lead at 90%: 21.00 against 31.00 of alps, 32.3 % lower, 3 seeds in pairs: -10.00, 95 % [-11.24, "
        "-8.76]; narrowest at 50%: 10.00 against 10.10 of alps, 1.0 % lower, 3 seeds in pairs: -0.10, 95 % [-0.60, "
        "+0.40], too little to tell them apart. The intervals of 1 of 2 leads exclude 0.",
    ]


def test_each_winner_is_named_with_its_patterns():
    first, _ = headline(compared(elsa=[seeded([9.0]), seeded([20.0]), seeded([5.0])], alps=[seeded([8.0])] * 3))
    assert first == "tiny, held_out: the lowest perplexity is that of alps at 50%, 90% and elsa at 2:4."


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (seeded([9.0]), seeded([10.0]), "10.0 % lower, one seed, so no spread is known."),
        (seeded([9.0]), seeded([10.0], first=1), "10.0 % lower, one seed each, not the same."),
        (seeded([9.0, 9.0]), seeded([10.0]), "10.0 % lower, 2 seeds against one seed, not in pairs."),
        (
            seeded([9.0, 9.0]),
            Cell([9.0, 11.0], ["a", "b"], seeds=[0, 0]),
            "10.0 % lower, 2 seeds against 2 seeds, not in pairs.",
        ),
        (seeded([9.0, 9.0]), seeded([10.0, 10.0], first=1), "10.0 % lower, 2 seeds against 2 seeds, not in pairs."),
    ],
)
def test_seeds_that_are_no_pairs_are_not_taken_for_them(one, other, said):
    _, second = headline(compared(elsa=[one], alps=[other]))
    assert second == f"9.00 against 10.00 of alps, {said}"


def test_what_a_paper_says_what_is_dense_and_what_is_alone_has_won_nothing():
    alone = ["tiny, held_out: elsa alone, perplexity 9.00 at 50%.", "On one seed; nothing to compare."]
    assert headline(compared(elsa=[seeded([9.0])])) == alone
    assert headline(compared(elsa=[seeded([9.0])], published=[Cell([1.0])], dense=[seeded([2.0])])) == alone
    apart = compared(elsa=[seeded([9.0])], alps=[])
    apart.cells["alps", "2:4"] = seeded([1.0])
    assert headline(apart) == []


def test_accuracies_are_won_by_the_highest_mean_of_the_tasks():
    low = damaged(answered(method="alps", name="b"), "evaluations.0.zero_shot.average_acc", 0.4)
    (grid,) = accuracy_grids([view for each in (answered(method="elsa", name="a"), low) for view in views(each)])
    assert headline(grid) == [
        "tiny at 50%, mean of 1 task: the highest zero-shot accuracy is that of elsa.",
        "50.00 against 40.00 of alps, 25.0 % higher, one seed, so no spread is known.",
    ]


def test_pairs_are_of_the_same_seed_whatever_the_order():
    shuffled = Cell([11.0, 9.0], ["b", "a"], seeds=[1, 0])
    (lead,) = leads(compared(elsa=[seeded([8.0, 10.0])], alps=[shuffled]))
    assert lead.pairs == [-1.0, -1.0]
    (lead,) = leads(compared(elsa=[seeded([8.0, 10.0, 9.0])], alps=[shuffled]))
    assert lead.pairs == [-1.0, -1.0], "of the seeds that both have"


def reported(records, **more):
    """A page of whole records."""
    found = [view for each in records for view in views(each)]
    every = grids(found) + accuracy_grids(found) + generation_grids(found)
    styles = report_styles(every, [])
    pictures = [grid_picture(grid, styles, f"perplexity_{at}") for at, grid in enumerate(grids(found))]
    return page(every, [*pictures, cost_picture(found, "held_out", "cost")], found, [], styles=styles, **more)


def test_a_page_shows_the_best_the_runs_behind_each_number_and_what_failed():
    cells = {("elsa", "50%"): Cell([9.0, 10.0], ["run-1", "run-2"]), ("wanda", "50%"): Cell([11.0], ["run-3"])}
    grid = Grid("tiny & <small>", ["wanda", "elsa"], ["50%", "2:4"], cells, ["a note"])
    text = page([grid], [], [], ["lost: killed by <SIGKILL>"], styles=Styles([]))
    assert "<h2>tiny &amp; &lt;small&gt;</h2>" in text
    best = '<td class="best" data-key="9.5" title="run-1 run-2">9.50 ± 0.71</td>'
    assert f"<td>{swatch(method_style('elsa'))}elsa</td>{best}<td>--</td>" in text
    assert '<td data-key="11.0" title="run-3">11.00</td>' in text
    assert "a note" in text
    assert "<li>lost: killed by &lt;SIGKILL&gt;</li>" in text


def test_every_run_has_its_pattern_its_seed_and_links():
    runs = [record("elsa", seed=3, name="a"), record("wanda", "dense", 11.0, name="b")]
    text = reported(runs, folders={"a": "../../runs/a"}, pages={"a": "runs/a.html", "b": "runs/b.html"})
    row = next(line for line in text.splitlines() if 'href="runs/a.html"' in line)
    assert '<td class="word">50%</td><td data-key="3.0">3</td><td data-key="50.0">50.0000%</td>' in row
    assert '<td data-key="20.0">20.00</td>' in row
    assert '<a href="../../runs/a">folder</a>' in row
    assert "runs/a.html" in as_script_of(text), "a click on its point leads there"


def as_script_of(text):
    return re.search('<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL)[1]


@pytest.mark.parametrize(
    ("text", "key"),
    [("1,234.50", "1234.5"), ("50.0000% (4.0000% of all)", "50.0"), ("3.00 GiB", "3.0"), ("+1.2e+300", "1.2e+300"),
     ("--", None), ("inf", None)],
)  # fmt: skip
def test_numbers_sort_as_numbers(text, key):
    assert re.findall('data-key="(.*?)"', cell(text)) == ([] if key is None else [key])
    assert "data-key" not in cell("4:8", "pattern")


def test_a_page_holds_all_that_it_needs_and_is_no_megabyte():
    text = reported(
        [record("elsa", name="a"), record("wanda", perplexity=30.0, name="b"), record("dense", "dense", 9.0)]
    )
    assert not re.findall(r"""<link|@import|url\(|src=|href=["']?(?:http|/|file)|import\(""", text)
    assert not re.findall(r"https?://", text)
    assert packed(library()) in text
    assert len(text) < 700_000
    assert "</script" not in as_script({"a": "</script>"})


def test_a_page_is_in_dark_and_light_and_fits_a_phone():
    text = reported([record("elsa", name="a")])
    assert "@media (prefers-color-scheme: dark)" in text
    assert '<meta name="viewport" content="width=device-width' in text


def test_a_row_looks_alike_in_tables_legends_and_pictures():
    text = reported([record("elsa", name="a"), record("elsa", "90%", 30.0, name="b"), record("wanda", name="c")])
    assert text.count(swatch(method_style("elsa"))) == 1 + 2 + 2  # tables, legends, runs
    assert as_script_of(text).count(method_style("elsa").color) > 4


def test_a_live_page_says_how_far_it_is_and_comes_again():
    progress = Progress(30, {"done": 3, "running": 1, "waiting": 6}, [["elsa 90%", "running", "128", "2.5"]])
    text = page([], [], [], [], styles=Styles([]), progress=progress)
    assert '<meta http-equiv="refresh" content="30">' in text
    assert "The sweep goes on: 3 done, 1 running, 6 waiting." in text
    assert '<progress max="10" value="3">' in text
    assert '<td data-key="128.0">128</td>' in text
    assert "refresh" not in page([], [], [], [], styles=Styles([])).split("<style>")[0]


def test_tables_of_answers_name_the_sparsity():
    text = reported([wrote(name="a"), wrote(method="alps", name="b"), answered(name="c")])
    assert "<h2>tiny at 50%, zero-shot accuracy in % (acc)</h2>" in text
    assert "<h2>tiny at 50%, gsm8k (acc" in text


def test_a_runs_page_has_its_curves_its_zeros_their_moves_and_its_words(tmp_path):
    lines = [{"step": 8.0, "loss": 3.0, "penalty": 0.1}, {"step": 16.0, "loss": 2.0, "penalty": 0.2}]
    uneven = {"a": {"zeros": 10, "numel": 50}, "b": {"zeros": 40, "numel": 50}}
    whole = wrote(method="elsa", sparsity={"counted": 0.5, "zeros": 50, "numel": 100, "tensors": uneven})
    said = [("Once", {"dense": "upon", "pruned": "a time"})]
    text = run_page(
        whole, tmp_path / "runs", tmp_path / "run", lines, {8: {"a": 0.5, "b": 0.1}, 16: {"a": 0.0, "b": 0.2}}, said
    )
    for part in ("loss", "penalty", "Zeros of each weight", "Share of each weight&#x27;s mask", "<pre>a time</pre>",
                 "Generation at 50%", '<a href="../run">', f'src="../{LIBRARY}"', "rate"):  # fmt: skip
        assert part in text or part.replace("&#x27;", "'") in text, part
    bare = run_page(record("elsa"), tmp_path / "runs", None, [], {})
    assert 'class="chart"' not in bare
