import pytest

from elsa.report.grid import grids, markdown_grid


def record(method, pattern, value, seed=0, settings=None, windows=8, model="tiny"):
    score = {"perplexity": value, "windows": windows, "length": 16, "split": "test", "formula": "standard"}
    score |= {"autocast": "none", "data_sha256": "d"}
    return {
        "name": f"{method}-{pattern}-{seed}-{settings}", "model": model, "method": method, "pattern": pattern,
        "seed": seed, "settings": {"method": {"rate": 1} | (settings or {})}, "config": {"model": {"name": model}},
        "perplexity": {"a": score},
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
