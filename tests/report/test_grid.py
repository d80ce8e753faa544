import pytest

from elsa.record.record import views
from elsa.report.grid import accuracy_grids, csv_cells, generation_grids, grids, latex_grid, markdown_grid
from tests.record.records import damaged, wrote

SPARSITY = {f"{percent}%": {"pattern": "unstructured", "ratio": percent / 100} for percent in (50, 80, 90, 95, 99)}
SPARSITY |= {"2:4": {"pattern": "2:4", "ratio": None}}


def record(method, pattern, value, seed=0, settings=None, windows=8, model="tiny", name="a"):
    score = {"perplexity": value, "windows": windows, "length": 16, "split": "test", "formula": "standard"}
    score |= {"autocast": "none", "data_sha256": "d"}
    return {
        "name": f"{method}-{pattern}-{seed}-{settings}", "model": model, "method": method, "pattern": pattern,
        "seed": seed, "settings": {"method": {"rate": 1} | (settings or {})},
        "config": {"model": {"name": model}, "sparsity": SPARSITY.get(pattern)},
        "perplexity": {name: score},
    }  # fmt: skip


def test_seeds_become_mean_and_spread_and_gaps_show():
    (grid,) = grids(
        [
            record("dense", "dense", 5.0), record("wanda", "50%", 10.0), record("wanda", "50%", 12.0, seed=1),
            record("alps", "50%", 9.0), record("alps", "2:4", 200.4), record("wanda", "90%", 50.0),
        ]
    )  # fmt: skip
    assert grid.columns == ["50%", "90%", "2:4"]
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
    (grid,) = grids([record("elsa", "50%", 1.0, settings=slow), record("elsa", "50%", 3.0, settings={"rate": 1.0})])
    assert len(grid.cells["elsa", "50%"].values) == 2


def test_a_row_names_the_choice_of_a_group_and_the_keys_it_has():
    penalties = {"Cosine": {"start": 0.0, "end": 0.1}, "Auto": {"contraction": 20.0}}
    settings = [{"penalty": {"type": name} | keys} for name, keys in penalties.items()]
    (grid,) = grids([record("elsa", "50%", float(i), settings=each) for i, each in enumerate(settings, 1)])
    assert set(grid.rows) == {"elsa (penalty=cosine, start=0, end=0.1)", "elsa (penalty=auto, contraction=20)"}


def test_the_papers_numbers_stand_beside_ours_with_their_provenance_and_are_never_the_best():
    ours = [
        record(method, "90%", value, model="llama_2_7b", name="c4") for method, value in (("elsa", 30), ("wanda", 90))
    ]
    (grid,) = grids(ours)
    lines = markdown_grid(grid).splitlines()
    assert "| elsa (published) | 23.14 | 28.39 | 40.10 | -- |" in lines
    assert "| best (published) | -- | -- | -- | 16.52 |" in lines
    assert "| elsa | **30.00** | -- | -- | -- |" in lines
    assert "* elsa at 90%, 23.14: published, by second-hand note" in lines


@pytest.mark.parametrize("lucky", [[7.0, 15.0, 12.0], [15.0, 7.0, 12.0], [12.0, 15.0, 7.0]])
def test_the_best_is_that_of_the_mean_over_seeds_and_not_of_the_luckiest(lucky):
    runs = [record("lucky", "50%", value, seed) for seed, value in enumerate(lucky)]
    runs += [record("steady", "50%", value, seed) for seed, value in enumerate([10.0, 11.0, 9.5])]
    (grid,) = grids([record("dense", "dense", 5.0), *runs])
    assert "| lucky | 11.33 ± 4.04 |" in markdown_grid(grid).splitlines()
    assert "| steady | **10.17 ± 0.76** |" in markdown_grid(grid).splitlines()
    assert r"steady & \textbf{10.17 $\pm$ 0.76} \\" in latex_grid(grid).splitlines()


@pytest.mark.parametrize("lucky", [[0.7, 0.4, 0.5], [0.4, 0.7, 0.5], [0.4, 0.5, 0.7]])
def test_the_best_accuracy_is_the_highest_mean_over_seeds(lucky):
    runs = [scored("dense", "dense", 0.8)] + [scored("lucky", "50%", value, i) for i, value in enumerate(lucky)]
    (grid,) = accuracy_grids(runs + [scored("steady", "50%", value, i) for i, value in enumerate([0.6, 0.55, 0.5])])
    assert [grid.best(column) for column in grid.columns] == ["steady", "steady"]
    assert grid.rows == ["lucky", "steady", "dense"]


def test_a_single_number_is_not_marked_as_the_best():
    (grid,) = grids([record("dense", "dense", 5.0), record("wanda", "50%", 10.0), record("wanda", "90%", 20.0)])
    assert "**" not in markdown_grid(grid)


def test_a_hundred_and_more_is_shown_in_whole_numbers():
    runs = [record("wanda", "50%", 99.994), record("wanda", "90%", 100.4), record("wanda", "99%", 123_400.6)]
    (grid,) = grids([*runs, record("wanda", "99%", 121_400.6, seed=1)])
    assert "| wanda | 99.99 | 100 | 122,401 ± 1,414 |" in markdown_grid(grid).splitlines()


def test_latex_escapes_and_marks_the_best():
    (grid,) = grids([record("l_admm", "50%", 10.0), record("alps", "50%", 9.0), record("alps", "50%", 10.0, seed=1)])
    lines = latex_grid(grid).splitlines()
    assert r"method & 50\% \\" in lines
    assert r"l\_admm & 10.00 \\" in lines
    assert r"alps & \textbf{9.50 $\pm$ 0.71} \\" in lines


def scored(method, pattern, accuracy, seed=0, limit=None, version=1.0):
    task = {"acc": accuracy, "acc_stderr": 0.02, "n": 50, "version": version, "num_fewshot": 0}
    scores = {"tasks": {"rte": task}, "average_acc": accuracy, "limit": limit, "dtype": "float32", "lm_eval": "0.4"}
    return record(method, pattern, 9.0, seed) | {"zero_shot": scores}


def test_accuracies_stand_by_task_beside_the_dense_model_and_the_highest_wins():
    (grid,) = accuracy_grids(
        [scored("dense", "dense", 0.7), scored("wanda", "50%", 0.6), scored("elsa", "50%", 0.62, limit=None)]
    )
    lines = markdown_grid(grid).splitlines()
    assert lines[0] == "tiny at 50%, zero-shot accuracy in % (acc)"
    assert lines[2] == "| method | rte | mean |"
    assert lines[4:] == ["| wanda | 60.00 | 60.00 |", "| elsa | **62.00** | **62.00** |", "| dense | 70.00 | 70.00 |"]
    assert '"tiny at 50%, zero-shot accuracy in % (acc)",elsa,rte,62.0,,1,elsa-50%-0-None' in csv_cells([grid])


def test_what_is_written_stands_beside_its_difference_to_the_dense_model():
    dense = damaged(wrote(method="dense", pattern="dense"), "evaluations.0.generation_against_dense")
    worse = damaged(wrote(method="magnitude"), "evaluations.0.generation.tasks.gsm8k.acc", 0.25)
    runs = [view for each in (dense, worse, wrote(), wrote(name="b", seed=1)) for view in views(each)]
    (grid,) = generation_grids(runs)
    lines = markdown_grid(grid).splitlines()
    assert lines[0] == "tiny at 50%, gsm8k (acc: exact_match,strict-match; 5-shot; up to 256 tokens)"
    assert lines[2].startswith("| method | acc in % | acc in %, against dense | answer length in tokens |")
    magnitude, *others = lines[4:]
    assert magnitude == (
        "| magnitude | 25.00 | -12.50 [-50.00, +25.00] | 120 | +20.50 [-1.00, +42.00] | 25.00 | "
        "-12.50 [-50.00, +25.00] | 12.50 | -12.50 [-50.00, +25.00] |"
    )
    assert "| dense | 50.00 | -- | 120 | -- | 25.00 | -- | 12.50 | -- |" in others
    assert any(line.startswith("| wanda | **50.00 ± 0.00** | -12.50 ± 0.00 | 120 ± 0 |") for line in others)


def test_limited_accuracies_and_other_versions_of_a_task_are_never_mixed():
    runs = [
        scored("wanda", "50%", 0.6),
        scored("wanda", "50%", 0.5, limit=10),
        scored("wanda", "50%", 0.4, version=2.0),
    ]
    assert [grid.cells["wanda", "rte"].values for grid in accuracy_grids(runs)] == [[60.0], [50.0], [40.0]]
    assert accuracy_grids(runs)[1].title.endswith("(acc; limited to the first 10 documents of each task)")
