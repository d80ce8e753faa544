import pytest

from elsa.report.grid import grids, latex_grid, markdown_grid


def record(method, pattern, value, seed=0, settings=None, windows=8, model="tiny", name="a"):
    score = {"perplexity": value, "windows": windows, "length": 16, "split": "test", "formula": "standard"}
    score |= {"autocast": "none", "data_sha256": "d"}
    return {
        "name": f"{method}-{pattern}-{seed}-{settings}", "model": model, "method": method, "pattern": pattern,
        "seed": seed, "settings": {"method": {"rate": 1} | (settings or {})}, "config": {"model": {"name": model}},
        "perplexity": {name: score},
    }  # fmt: skip


def test_seeds_become_mean_and_spread_and_gaps_show():
    (grid,) = grids(
        [
            record("dense", "dense", 5.0), record("wanda", "50%", 10.0), record("wanda", "50%", 12.0, seed=1),
            record("alps", "50%", 9.0), record("alps", "2:4", 200.4), record("wanda", "90%", 50.0),
        ]
    )  # fmt: skip
    assert grid.patterns == ["50%", "90%", "2:4"]
    assert (grid.cells["wanda", "50%"].mean, grid.cells["wanda", "50%"].spread) == (11.0, pytest.approx(2**0.5))
    lines = markdown_grid(grid).splitlines()
    assert lines[0] == "tiny, perplexity on a (8 test windows of 16 tokens; without pruning 5.00)"
    assert "| wanda | 11.00 ± 1.41 | 50.00 | -- |" in lines
    assert "| alps | **9.00** | -- | 200 |" in lines


def test_other_windows_or_models_are_never_mixed():
    found = grids([record("wanda", "50%", 1.0), record("wanda", "50%", 2.0, windows=4)])
    assert [grid.cells["wanda", "50%"].values for grid in found] == [[1.0], [2.0]]
    assert len(grids([record("wanda", "50%", 1.0), record("wanda", "50%", 1.0, model="other")])) == 2


def test_settings_are_averaged_only_with_their_like():
    slow, fast = {"rate": 1}, {"rate": 2}
    (grid,) = grids([record("elsa", "50%", 1.0, settings=slow), record("elsa", "50%", 3.0, settings=fast)])
    assert set(grid.rows) == {"elsa (rate=1)", "elsa (rate=2)"}
    (grid,) = grids([record("elsa", "50%", 1.0, settings=slow), record("elsa", "90%", 3.0, settings=fast)])
    assert grid.rows == ["elsa"]


def test_the_papers_numbers_stand_beside_ours_with_their_provenance_and_are_never_the_best():
    ours = [
        record(method, "90%", value, model="llama_2_7b", name="c4") for method, value in (("elsa", 30), ("wanda", 90))
    ]
    (grid,) = grids(ours)
    lines = markdown_grid(grid).splitlines()
    assert "| elsa (published) | 23.14 | 28.39 | 40.10 |" in lines
    assert "| elsa | **30.00** | -- | -- |" in lines
    assert "* elsa at 90%, 23.14: the paper, by second-hand note" in lines


def test_latex_escapes_and_marks_the_best():
    (grid,) = grids([record("l_admm", "50%", 10.0), record("alps", "50%", 9.0), record("alps", "50%", 10.0, seed=1)])
    lines = latex_grid(grid).splitlines()
    assert r"method & 50\% \\" in lines
    assert r"l\_admm & 10.00 \\" in lines
    assert r"alps & \textbf{9.50 $\pm$ 0.71} \\" in lines
