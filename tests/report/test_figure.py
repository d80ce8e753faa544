"""Pictures are looked at by people; here, that they are drawn from what they claim to show."""

import pytest
from matplotlib.container import BarContainer

from elsa.report import figure
from elsa.report.grid import Cell, Grid


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw to a file; returns the figure."""
    made, save = [], figure._save

    def keep(drawn, path, dpi):
        made.append(drawn)
        save(drawn, path, dpi)

    monkeypatch.setattr(figure, "_save", keep)

    def draw(function, *arguments):
        path = tmp_path / "picture.png"
        function(*arguments, path)
        assert path.stat().st_size > 10_000
        return made[-1]

    return draw


def record(method, zeros, perplexity, model="tiny", numel=100):
    return {
        "model": model, "method": method, "pattern": f"{zeros}%", "seconds": {"prune": 7.0},
        "sparsity": {"numel": numel, "zeros": zeros}, "perplexity": {"a": {"perplexity": perplexity}},
    }  # fmt: skip


def test_the_front_is_what_no_other_beats_in_both():
    assert figure.pareto([(3, 5.0), (1, 9.0), (2, 9.5), (2, 6.0), (4, 5.0), (5, 4.0)]) == [
        (1, 9.0), (2, 6.0), (3, 5.0), (5, 4.0),
    ]  # fmt: skip


def test_non_zeros_and_the_front_are_drawn(drawn):
    records = [record("wanda", 50, 20.0), record("elsa", 50, 10.0), record("elsa", 90, 30.0), record("dense", 0, 9.0)]
    (axis,) = drawn(figure.pareto_figure, records, "a").axes
    assert [tuple(map(list, line.get_data())) for line in axis.lines] == [([10, 50, 100], [30.0, 10.0, 9.0])]
    assert {text.get_text() for text in axis.texts} == {"50%", "90%", "0%"}


def test_models_of_several_sizes_are_named(drawn):
    records = [record("elsa", 50, 20.0), record("elsa", 50, 10.0, model="big", numel=1000)]
    (axis,) = drawn(figure.pareto_figure, records, "a").axes
    assert {text.get_text() for text in axis.texts} == {"tiny 50%", "big 50%"}


def test_accuracies_have_a_bar_for_each_row_and_task_with_its_error(drawn):
    cells = {
        ("dense", "rte"): Cell([60.0], ["a"], [2.5]), ("elsa", "rte"): Cell([50.0, 54.0], ["b", "c"], [2.5, 2.5]),
        ("dense", "mean"): Cell([60.0], ["a"]),
    }  # fmt: skip
    grid = Grid("title", ["elsa", "dense"], ["rte", "mean"], cells, lowest_wins=False)
    (axis,) = drawn(figure.accuracy_figure, grid).axes
    groups = [group for group in axis.containers if isinstance(group, BarContainer)]
    heights = [[bar.get_height() for bar in group] for group in groups]
    assert sorted(heights) == [[52.0], [60.0, 60.0]]
    assert cells["dense", "rte"].bar == 2.5
    assert cells["elsa", "rte"].bar == pytest.approx(8**0.5)


def test_training_is_drawn_with_both_losses_of_the_probe(drawn):
    lines = [{"step": 8, "loss": 3.0}, {"step": 16, "loss": 2.0, "probe_loss": 2.5, "probe_loss_sparse": 4.0}]
    curves = {"50%": [("elsa", lines)], "90%": [("elsa", lines), ("finetuned", lines[:1])]}
    axes = drawn(figure.convergence_figure, curves, "training").axes
    assert len(axes) == 4
    loss = next(line for line in axes[0].lines if len(line.get_xdata()))
    assert list(loss.get_ydata()) == [3.0, 2.0]
    assert [list(line.get_ydata()) for line in axes[2].lines] == [[2.5], [4.0]]
